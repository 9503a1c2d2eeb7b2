/* SPDX-License-Identifier: GPL-2.0-or-later
 * --events: what happened when, one line each, for plots of load, clock and deadlines: clock and mode changes,
 * exceptions, output pins, and words that the firmware writes to the ITM's stimulus ports. */
#include <errno.h>
#include <string.h>

#include "vboard.h"

static FILE *file;

void timeline_open(void) {
  if (!machine.options.events_path) return;
  file = fopen(machine.options.events_path, "w");
  if (!file) {
    message("cannot write %s: %s", machine.options.events_path, strerror(errno));
    return;
  }
  fputs("time_us,cycle,event,subject,value\n", file);
}

void timeline_record(const char *event, const char *subject, uint32_t value) {
  if (!file) return;
  fprintf(file, "%.3f,%llu,%s,%s,%u\n", (double)rcc_nanoseconds() / 1e3, (unsigned long long)machine.cycles, event,
          subject, value);
}

void timeline_number(const char *event, unsigned subject, uint32_t value) {
  if (!file) return;
  char text[12];
  snprintf(text, sizeof text, "%u", subject);
  timeline_record(event, text, value);
}

void timeline_close(void) {
  if (file && fclose(file) != 0) message("cannot write %s: %s", machine.options.events_path, strerror(errno));
  file = NULL;
}

/* ITM (ARMv7-M ARM C1.7): a stimulus port takes words while the port and the unit are enabled. */
enum { STIMULUS_PORTS = 32, TER = 0xe00, TPR = 0xe40, TCR = 0xe80, TCR_ITMENA = 1 };
static uint32_t ter, tpr, tcr;

static bool port_on(unsigned port) { return (tcr & TCR_ITMENA) && ter >> port & 1; }

uint32_t itm_read(uint32_t address) {
  uint32_t offset = address & 0xfff;
  if (offset < 4 * STIMULUS_PORTS) return port_on(offset / 4); /* room in the FIFO */
  return offset == TER ? ter : offset == TPR ? tpr : offset == TCR ? tcr : 0;
}

void itm_write(uint32_t address, uint32_t value) {
  uint32_t offset = address & 0xfff;
  if (offset < 4 * STIMULUS_PORTS) {
    if (port_on(offset / 4)) timeline_number("marker", offset / 4, value);
  } else if (offset == TER) {
    ter = value;
  } else if (offset == TPR) {
    tpr = value & 0xf;
  } else if (offset == TCR) {
    tcr = value & 0x7f0f0f;
  }
}
