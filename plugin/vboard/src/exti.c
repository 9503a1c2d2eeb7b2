/* SPDX-License-Identifier: GPL-2.0-or-later
 * External interrupt controller (RM0090 12.2) and the part of SYSCFG (9.2) that selects its pins. Its lines are what
 * wakes the chip from stop mode: edges of pins (gpio.c) and the wake-up timer (rtc.c). */
#include "vboard.h"

enum { LINES = 23, LINE_MASK = (1 << LINES) - 1 };
enum { IMR = 0x00, EMR = 0x04, RTSR = 0x08, FTSR = 0x0c, SWIER = 0x10, PR = 0x14 };

static uint32_t imr, emr, rtsr, ftsr, swier, pr, exticr[4], memrmp;
static bool event; /* an edge on a line of EMR since the last WFE */

/* Interrupts by line; several lines may share one. */
static const uint8_t irq_of[LINES] = {
    6, 7, 8, 9, 10, 23, 23, 23, 23, 23, 40, 40, 40, 40, 40, 40, 1, 41, 42, 62, 76, 2, IRQ_RTC_WAKE_UP};

static void update_lines(void) {
  for (int line = 0; line < LINES; line++) {
    bool level = false;
    for (int k = 0; k < LINES; k++) level |= irq_of[k] == irq_of[line] && (pr & imr) >> k & 1;
    nvic_set_line(irq_of[line], level);
  }
}

static void trigger(uint32_t lines) {
  pr |= lines;
  if (lines & emr) event = true;
  update_lines();
}

void exti_edge(unsigned line, bool rising) {
  if ((rising ? rtsr : ftsr) >> line & 1) trigger(1u << line);
}

void exti_pin_edge(unsigned port, unsigned pin, bool rising) {
  if ((exticr[pin / 4] >> 4 * (pin % 4) & 15) == port) exti_edge(pin, rising);
}

bool exti_pending(void) { return pr != 0; }

bool exti_event_take(void) {
  bool was = event;
  event = false;
  return was;
}

uint32_t exti_read(uint32_t address) {
  switch (address & 0x3ff) {
    case IMR:
      return imr;
    case EMR:
      return emr;
    case RTSR:
      return rtsr;
    case FTSR:
      return ftsr;
    case SWIER:
      return swier;
    case PR:
      return pr;
    default:
      return 0;
  }
}

void exti_write(uint32_t address, uint32_t value) {
  value &= LINE_MASK;
  switch (address & 0x3ff) {
    case IMR:
      imr = value;
      update_lines();
      break;
    case EMR:
      emr = value;
      break;
    case RTSR:
      rtsr = value;
      break;
    case FTSR:
      ftsr = value;
      break;
    case SWIER: {
      uint32_t rising = value & ~swier & (imr | emr);
      swier |= value;
      trigger(rising);
      break;
    }
    case PR: /* write one to clear */
      pr &= ~value;
      swier &= ~value;
      update_lines();
      break;
    default:
      break;
  }
}

uint32_t syscfg_read(uint32_t address) {
  uint32_t offset = address & 0x3ff;
  if (offset == 0) return memrmp;
  return offset >= 8 && offset < 24 ? exticr[(offset - 8) / 4] : 0;
}

void syscfg_write(uint32_t address, uint32_t value) {
  uint32_t offset = address & 0x3ff;
  if (offset == 0) memrmp = value & 3; /* kept, not obeyed: flash stays at address 0 */
  if (offset >= 8 && offset < 24) exticr[(offset - 8) / 4] = value & 0xffff;
}
