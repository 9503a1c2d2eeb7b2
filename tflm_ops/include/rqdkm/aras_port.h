/* SPDX-License-Identifier: Apache-2.0 */
/* What ARAS needs of a board: clocks, sleep, priority and two counters. The port knows how, ARAS knows when.

   Rules for implementations: no function waits without a bound, none allocates memory. Calls never overlap, the
   library sees to that. cycles(), now_us(), clock(), set_clock() and set_priority() also come from the tick's
   interrupt, the others from thread mode only. */
#ifndef RQDKM_ARAS_PORT_H
#define RQDKM_ARAS_PORT_H

#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Clock points, by index. The first six are tuned: PLL and regulator voltage are as low as the clock allows, and a
   change between two of them may have to lock the PLL again (up to 0.3 ms at 16 MHz). The last two divide the PLL of
   168 MHz: left and entered within microseconds, but the voltage stays high and the PLL runs on. */
typedef enum {
  RQDKM_CLOCK_168 = 0,
  RQDKM_CLOCK_144 = 1,
  RQDKM_CLOCK_120 = 2,
  RQDKM_CLOCK_84 = 3,
  RQDKM_CLOCK_42 = 4,
  RQDKM_CLOCK_16 = 5,         /* internal oscillator, PLL off: where everything falls back to */
  RQDKM_CLOCK_84_DIVIDED = 6, /* 168 MHz / 2 */
  RQDKM_CLOCK_42_DIVIDED = 7, /* 168 MHz / 4 */
  RQDKM_CLOCK_POINTS = 8
} rqdkm_clock_point;

typedef enum {
  RQDKM_ARAS_OK = 0,
  RQDKM_ARAS_REFUSED = 1,  /* argument outside its range; nothing was done */
  RQDKM_ARAS_FALLBACK = 2, /* an oscillator, the PLL or the regulator was not ready in time: the core runs at
                              RQDKM_CLOCK_16, or where clock() says */
  RQDKM_ARAS_NO_TIMER = 3, /* stop() without a clock that wakes up again: slept instead */
} rqdkm_aras_status;

/* Urgency of the inference, 0 (everybody may interrupt it) to RQDKM_ARAS_LEVELS - 1 (nobody who is allowed to wait). */
#define RQDKM_ARAS_LEVELS 4

typedef struct {
  void *context; /* handed to every function */

  /* Core cycles, wraps at 2^32; stands still in sleep and in stop. */
  uint32_t (*cycles)(void *context);

  /* Microseconds since the port was set up. Never goes back; goes on over clock changes, sleep and stop. */
  uint64_t (*now_us)(void *context);

  /* The point the core runs at: may change by itself to RQDKM_CLOCK_16 when the crystal fails. */
  uint32_t (*clock)(void *context);

  /* Returns when the new clock drives the core. */
  rqdkm_aras_status (*set_clock)(void *context, uint32_t point);

  /* Core asleep, everything else runs. Returns at until_us or at an earlier interrupt, after its handler. */
  rqdkm_aras_status (*sleep)(void *context, uint64_t until_us);

  /* As sleep(), on the internal oscillator with the PLL off for as much of the time as that pays. Clocks are as before
     when it returns and before any handler runs, and it returns by until_us. */
  rqdkm_aras_status (*doze)(void *context, uint64_t until_us);

  /* As doze(), in stop mode for as much of the time as stopping pays in; only external and clock events wake up
     earlier, timers and serial lines stand still. Clocks are as before when it returns, and it does so by until_us. */
  rqdkm_aras_status (*stop)(void *context, uint64_t until_us);

  rqdkm_aras_status (*set_priority)(void *context, uint32_t level);
} rqdkm_aras_port;

#ifdef __cplusplus
}
#endif
#endif
