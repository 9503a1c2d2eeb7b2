/* SPDX-License-Identifier: GPL-2.0-or-later
 * GPIO ports A to I (RM0090 8): registers, and pins that a file of edges drives (--pins). A pin that nobody drives
 * reads back its output latch. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vboard.h"

enum { MODER = 0, IDR = 4, ODR = 5, BSRR = 6, REGISTERS = 10, PORTS = 9, MODE_OUTPUT = 1 };

static uint32_t ports[PORTS][REGISTERS];
static uint16_t driven[PORTS], level[PORTS];

typedef struct {
  uint64_t nanoseconds;
  uint8_t port, pin, high;
} edge;
static edge *edges;
static size_t edge_count, next_edge;

static uint32_t input(uint32_t port) {
  uint32_t value = ports[port][ODR] & 0xffff;
  for (unsigned pin = 0; driven[port] >> pin; pin++) {
    bool output = (ports[port][MODER] >> 2 * pin & 3) == MODE_OUTPUT;
    if ((driven[port] >> pin & 1) && !output) value = (value & ~(1u << pin)) | (level[port] & 1u << pin);
  }
  return value;
}

static void set_output(uint32_t port, uint32_t value) {
  uint32_t changed = (ports[port][ODR] ^ value) & 0xffff;
  ports[port][ODR] = value & 0xffff;
  for (unsigned pin = 0; changed >> pin; pin++) {
    if (!(changed >> pin & 1)) continue;
    char name[8];
    snprintf(name, sizeof name, "P%c%u", (char)('A' + port), pin);
    timeline_record("pin", name, value >> pin & 1);
  }
}

uint32_t gpio_read(uint32_t address) {
  uint32_t port = (address - 0x40020000u) >> 10, index = (address & 0x3ff) / 4;
  if (index >= REGISTERS || index == BSRR) return 0;
  return index == IDR ? input(port) : ports[port][index];
}

void gpio_write(uint32_t address, uint32_t value) {
  uint32_t port = (address - 0x40020000u) >> 10, index = (address & 0x3ff) / 4;
  if (index == BSRR) {
    set_output(port, (ports[port][ODR] & ~(value >> 16)) | (value & 0xffff)); /* set wins over reset */
  } else if (index == ODR) {
    set_output(port, value);
  } else if (index < REGISTERS && index != IDR) {
    ports[port][index] = value;
  }
}

/* ---- --pins FILE: lines of "milliseconds pin level", in order of time; # starts a comment ---- */

static void bad_pins(unsigned line, const char *why) {
  message("%s:%u: %s", machine.options.pins_path, line, why);
  exit(EXIT_CODE_USAGE);
}

static void parse_line(const char *text, unsigned number) {
  double ms = 0;
  char port = 0, rest = 0;
  unsigned pin = 0, high = 0;
  int fields = sscanf(text, " %lf P%c%u %u %c", &ms, &port, &pin, &high, &rest);
  if (fields != 4 || port < 'A' || port > 'I' || pin > 15 || high > 1 || !(ms >= 0) || ms > 1e9)
    bad_pins(number, "expected \"milliseconds pin level\", as in \"12.5 PA0 1\"");
  uint64_t at = (uint64_t)(ms * 1e6 + 0.5);
  if (edge_count && at < edges[edge_count - 1].nanoseconds) bad_pins(number, "lines must be in order of time");
  edge *grown = realloc(edges, (edge_count + 1) * sizeof *edges);
  if (!grown) bad_pins(number, "out of memory");
  edges = grown;
  edges[edge_count++] = (edge){at, (uint8_t)(port - 'A'), (uint8_t)pin, (uint8_t)high};
}

void pins_open(void) {
  if (!machine.options.pins_path) return;
  FILE *file = fopen(machine.options.pins_path, "r");
  if (!file) {
    message("cannot read %s: %s", machine.options.pins_path, strerror(errno));
    exit(EXIT_CODE_USAGE);
  }
  char text[200];
  for (unsigned number = 1; fgets(text, sizeof text, file); number++) {
    text[strcspn(text, "#\r\n")] = 0;
    if (text[strspn(text, " \t")]) parse_line(text, number);
  }
  fclose(file);
}

uint64_t pins_deadline_ns(void) { return next_edge < edge_count ? edges[next_edge].nanoseconds : NEVER; }

void pins_service(void) {
  while (next_edge < edge_count && edges[next_edge].nanoseconds <= rcc_nanoseconds()) {
    const edge *e = &edges[next_edge++];
    bool before = input(e->port) >> e->pin & 1;
    driven[e->port] |= (uint16_t)(1u << e->pin);
    level[e->port] = (uint16_t)((level[e->port] & ~(1u << e->pin)) | (unsigned)e->high << e->pin);
    bool after = input(e->port) >> e->pin & 1;
    if (before != after) exti_pin_edge(e->port, e->pin, after);
  }
}
