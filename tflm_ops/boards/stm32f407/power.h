/* SPDX-License-Identifier: Apache-2.0 */
/* Time that goes on over clock changes and stop mode, sleep and stop until a time, and interrupt priorities.

   Time is TIM5, counting its bus clock in run and sleep, and the real-time clock in stop mode, whose tick (31 us) is
   measured against TIM5 once and compared with it at both ends of a stop. Neither needs an interrupt handler: the
   wake-up requests are taken back while interrupts are masked. */
#ifndef RQDKM_BOARD_POWER_H
#define RQDKM_BOARD_POWER_H

#include "board.h"
#include "rqdkm/aras_port.h"

/* Starts TIM5. Call after board_clock_init(). */
void board_time_start(void);

/* Microseconds since board_time_start(). Callable from interrupts; at least once in 51 s, or time is lost. */
uint64_t board_time_us(void);

/* For clock_points.c: TIM5 counted at the rate of before until it showed `until`, and counts at the rate of now as if
   it had shown `since` then; and a change that the NMI notices. */
uint32_t board_time_count(void);
void board_time_rate_changed(uint32_t until, uint32_t since);
void board_time_rate_lost(void);

/* Starts the real-time clock and measures its tick (2 ms): from the internal low-speed oscillator (17 to 47 kHz, so
   measure again when the temperature has changed), or from the 32 kHz crystal (2 s to start; the STM32F4DISCOVERY has
   none). A backup domain that runs from the other clock is reset. False: that clock does not start. */
bool board_rtc_start(bool crystal);

/* Sleeps until that time or until an interrupt has been handled. */
void board_sleep(uint64_t until_us);

/* The same on the internal oscillator, PLL off. Comes back to the clock of before, by that time or before the handler
   of what ended it runs; when there is no time for that, sleeps at the clock of before. RQDKM_ARAS_FALLBACK: awake, but
   at 16 MHz. */
rqdkm_aras_status board_doze(uint64_t until_us);

typedef enum {
  BOARD_STOP_MAIN,      /* main regulator: 0.45 mA, wakes in 13 us */
  BOARD_STOP_LOW_POWER, /* low-power regulator: 0.31 mA, 17 us */
  BOARD_STOP_DEEP,      /* and flash in deep power-down: 0.28 mA, 110 us */
} board_stop_kind;

/* Stops, comes back to the clock of before, and sleeps what is left until that time; when there is no time to come
   back, sleeps all of it. Ended early by an EXTI interrupt (stopped) or any interrupt (asleep); its handler runs when
   the clock is back, in 0.4 ms, or 2.4 ms on the crystal. RQDKM_ARAS_NO_TIMER: the real-time clock does not run, it
   slept. RQDKM_ARAS_FALLBACK: awake, but at 16 MHz. */
rqdkm_aras_status board_stop(uint64_t until_us, board_stop_kind kind);

/* Urgency of an interrupt (0 to 81): 0, most urgent, to 15. False: no such interrupt or urgency. */
bool board_irq_priority(uint32_t irq, uint32_t urgency);
/* Holds back interrupts of this urgency and less (1 to 15), or none (0). */
void board_irq_hold(uint32_t urgency);

/* All of it behind rqdkm/aras_port.h: starts time and, where it can, the real-time clock. */
const rqdkm_aras_port *board_aras_port(void);

#endif
