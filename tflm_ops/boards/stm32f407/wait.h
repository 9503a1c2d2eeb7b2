/* SPDX-License-Identifier: Apache-2.0 */
/* Bounded waits for hardware, counted in polls of about 8 cycles: at 16 MHz, where the long ones happen, 10000 are 5
 * ms. */
#ifndef RQDKM_BOARD_WAIT_H
#define RQDKM_BOARD_WAIT_H

#include <stdbool.h>
#include <stdint.h>

#include "registers.h"

enum {
  kCrystalPolls = 200000, /* a crystal takes 2 ms typically; 100 ms are granted */
  kPolls = 10000,         /* the PLL locks in 0.3 ms at most, the rest takes microseconds; 5 ms are granted */
};

static inline bool wait_for(volatile uint32_t *reg, uint32_t mask, uint32_t value, uint32_t polls) {
  while ((*reg & mask) != value)
    if (polls-- == 0) return false;
  return true;
}

static inline void flash_wait_states(uint32_t wait_states) {
  FLASH_ACR = (FLASH_ACR & ~FLASH_ACR_LATENCY) | wait_states;
  (void)wait_for(&FLASH_ACR, FLASH_ACR_LATENCY, wait_states, kPolls);
}

#endif
