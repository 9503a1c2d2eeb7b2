/* SPDX-License-Identifier: Apache-2.0 */
/* rqdkm/aras_port.h for the STM32F407. */
#include "rqdkm/aras_port.h"

#include "clock.h"
#include "power.h"
#include "registers.h"

/* Deep power-down of the flash saves 0.03 mA and wakes 93 us later, which costs about as much as 93 us of running at
   16 MHz (5 mA): it pays from 15 ms on. */
enum { kDeepFromUs = 20000 };

static uint32_t cycles(void *context) { return (void)context, DWT_CYCCNT; }
static uint64_t now_us(void *context) { return (void)context, board_time_us(); }
static uint32_t clock_now(void *context) { return (void)context, (uint32_t)board_clock_point(); }
static rqdkm_aras_status set_clock(void *context, uint32_t point) { return (void)context, board_clock_set(point); }

static rqdkm_aras_status sleep_until(void *context, uint64_t until_us) {
  (void)context;
  board_sleep(until_us);
  return RQDKM_ARAS_OK;
}

static rqdkm_aras_status doze_until(void *context, uint64_t until_us) { return (void)context, board_doze(until_us); }

static rqdkm_aras_status stop_until(void *context, uint64_t until_us) {
  (void)context;
  const bool deep = until_us > board_time_us() + kDeepFromUs;
  return board_stop(until_us, deep ? BOARD_STOP_DEEP : BOARD_STOP_LOW_POWER);
}

static rqdkm_aras_status set_priority(void *context, uint32_t level) {
  static const uint8_t kHeldFrom[RQDKM_ARAS_LEVELS] = {0, 12, 8, 4};
  (void)context;
  if (level >= RQDKM_ARAS_LEVELS) return RQDKM_ARAS_REFUSED;
  board_irq_hold(kHeldFrom[level]);
  return RQDKM_ARAS_OK;
}

const rqdkm_aras_port *board_aras_port(void) {
  static const rqdkm_aras_port port = {
      .cycles = cycles,
      .now_us = now_us,
      .clock = clock_now,
      .set_clock = set_clock,
      .sleep = sleep_until,
      .doze = doze_until,
      .stop = stop_until,
      .set_priority = set_priority,
  };
  board_time_start();
  (void)board_rtc_start(false); /* without it stop() sleeps and says so */
  return &port;
}
