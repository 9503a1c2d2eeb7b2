/* SPDX-License-Identifier: Apache-2.0 */
/* What arrives, who handles it, and who governs. */
#ifndef ARAS_DEMO_H
#define ARAS_DEMO_H

#include <stdbool.h>
#include <stdint.h>

#include "rqdkm/aras.h"

enum { kMostFrames = 400, kMostRest = 4000, kClasses = 2 };

/* ---- the rest: work of two classes, each the interrupt of a timer of its own */

typedef struct {
  uint32_t time_us, cycles;
  uint16_t limit_ms;
} rest_arrival;

typedef struct {
  uint32_t served, late, worst_us;
} rest_figures;

/* Class 0 may be held up (TIM2), class 1 not (TIM6): levels 0 and 3 of ARAS. False: no room. */
bool rest_add(uint32_t class, const rest_arrival *arrival);
void rest_clear(void);
/* Timers start; times count from `start`. */
void rest_start(uint64_t start, rqdkm_aras *aras);
void rest_stop(void);
/* Before and after waiting: timers stand still in stop mode. */
void rest_waits(void);
void rest_again(void);
/* When the next one is due. */
uint64_t rest_next(void);
rest_figures rest_result(void);

/* ---- governors */

enum { kAras, kAlways, kOnDemand, kRaceToSleep, kRaceToStop, kGovernors };

typedef struct {
  uint32_t begin_cycles, end_cycles, idle_cycles, tick_cycles; /* the most that a call took */
  uint32_t fast_tick_cycles;                                   /* the most of a tick that decided nothing */
  uint64_t tick_total;                                         /* of all ticks */
  uint64_t control_cycles, all_cycles;                         /* of all calls; of everything since the start */
  uint32_t ticks;
} governor_figures;

void governor_start(uint32_t which, const rqdkm_aras_table *table, const rqdkm_aras_port *port);
void governor_begin(uint64_t deadline_us);
void governor_end(void);
void governor_idle(uint64_t until_us, bool surprised, bool can_stop);
void governor_finish(void);
rqdkm_aras *governor_aras(void);
governor_figures governor_result(void);
/* A handler has woken the core up: the timer that looks at the time goes on. */
void governor_awake(void);

#endif
