/* SPDX-License-Identifier: GPL-2.0-or-later
 * GPIO ports A to I (RM0090 8): registers only; pins are connected to nothing, inputs read back the output latch. */
#include "vboard.h"

enum { MODER = 0, IDR = 4, ODR = 5, BSRR = 6, REGISTERS = 10, PORTS = 9 };

static uint32_t ports[PORTS][REGISTERS];

uint32_t gpio_read(uint32_t address) {
  uint32_t port = (address - 0x40020000u) >> 10, index = (address & 0x3ff) / 4;
  if (index >= REGISTERS || index == BSRR) return 0;
  return ports[port][index == IDR ? ODR : index];
}

void gpio_write(uint32_t address, uint32_t value) {
  uint32_t port = (address - 0x40020000u) >> 10, index = (address & 0x3ff) / 4;
  if (index == BSRR) {
    ports[port][ODR] = (ports[port][ODR] & ~(value >> 16)) | (value & 0xffff); /* set wins over reset */
  } else if (index < REGISTERS && index != IDR) {
    ports[port][index] = value;
  }
}
