/* SPDX-License-Identifier: Apache-2.0 */
/* ARAS, and what it is compared with. A timer of 1 ms (SysTick) looks at the time while the core is awake. */
#include "clock.h"
#include "demo.h"
#include "power.h"
#include "registers.h"

#define SYST_CSR REG32(0xE000E010u)
#define SYST_RVR REG32(0xE000E014u)
#define SYST_CVR REG32(0xE000E018u)
#define SCB_SHPR3 REG32(0xE000ED20u)

enum { kSysTickOn = 7, kSysTickUrgency = 3, kTickHz = 1000, kSampleUs = 10000 };
enum { kEntry = 12, kExit = 10 }; /* cycles of an interrupt: Cortex-M4 TRM, "Exception handling" */

static uint32_t which;
static rqdkm_aras aras;
static rqdkm_aras_port port; /* the board's, with set_clock, sleep, doze and stop timed */
static const rqdkm_aras_port *board;
static governor_figures figures;
static uint32_t elsewhere; /* cycles spent in the port's waits */
static bool in_frame;
static uint64_t sample_us, asleep_us, sample_asleep_us;
static uint32_t cycles_seen;
static uint64_t cycles_start;

/* ---- the tick */

static void follow(void *context, const board_clock *clock, uint32_t timer_mhz) {
  (void)context, (void)timer_mhz;
  SYST_RVR = clock->hclk_hz / kTickHz - 1;
  SYST_CVR = 0;
}

void governor_awake(void) { SYST_CSR = kSysTickOn; }
static void rests(void) { SYST_CSR = 0; }

/* ---- what a call costs, without the board's waits and without the rest's handlers */

typedef struct {
  uint32_t cycles, elsewhere, rest;
} stamp;

static uint32_t rest_cycles(void) {
  uint32_t sum = 0;
  for (uint32_t l = 0; l < RQDKM_ARAS_LEVELS; l++) sum += aras.rest_cycles[l];
  return sum;
}

/* Of one moment. Before a call the counter is read last, behind it first: what measuring takes is not the call's. */
static inline stamp stamp_before(void) {
  __asm volatile("cpsid i" ::: "memory");
  stamp now = {0, elsewhere, rest_cycles()};
  now.cycles = DWT_CYCCNT;
  __asm volatile("cpsie i" ::: "memory");
  return now;
}

static inline stamp stamp_behind(void) {
  __asm volatile("cpsid i" ::: "memory");
  const uint32_t cycles = DWT_CYCCNT;
  const stamp now = {cycles, elsewhere, rest_cycles()};
  __asm volatile("cpsie i" ::: "memory");
  return now;
}

static uint32_t spent(stamp since) {
  const stamp now = stamp_behind();
  return now.cycles - since.cycles - (now.rest - since.rest);
}

static uint32_t cost(stamp since, stamp now, uint32_t *most) {
  const uint32_t all = now.cycles - since.cycles;
  const uint32_t others = now.elsewhere - since.elsewhere + (now.rest - since.rest);
  /* a handler that this call interrupted, and that was interrupted itself, may have been counted up to here */
  const uint32_t found = all > others ? all - others : 0;
  *most = found > *most ? found : *most;
  figures.control_cycles += found;
  return found;
}

static rqdkm_aras_status timed_set_clock(void *context, uint32_t point) {
  const stamp since = stamp_before();
  const rqdkm_aras_status status = board->set_clock(context, point);
  elsewhere += spent(since);
  return status;
}

static rqdkm_aras_status away(rqdkm_aras_status (*wait)(void *, uint64_t), void *context, uint64_t until) {
  const stamp since = stamp_before();
  const uint64_t before = board_time_us();
  const rqdkm_aras_status status = wait(context, until);
  asleep_us += board_time_us() - before;
  elsewhere += spent(since);
  return status;
}
static rqdkm_aras_status timed_sleep(void *c, uint64_t until) { return away(board->sleep, c, until); }
static rqdkm_aras_status timed_doze(void *c, uint64_t until) { return away(board->doze, c, until); }
static rqdkm_aras_status timed_stop(void *c, uint64_t until) { return away(board->stop, c, until); }

/* ---- on demand: as Linux's governor, see docs/aras.md */

static void sample(void) {
  const uint64_t now = board_time_us();
  if (now - sample_us < kSampleUs) return;
  const float all = (float)(uint32_t)(now - sample_us), slept = (float)(uint32_t)(asleep_us - sample_asleep_us);
  const float load = slept < all ? 1.0f - slept / all : 0.0f;
  const rqdkm_aras_table *t = aras.table;
  const float lowest = (float)t->point[t->safe].hz, fastest = (float)t->point[0].hz;
  const float wanted = load > 0.8f ? fastest : lowest + load * (fastest - lowest);
  uint32_t point = 0;
  for (uint32_t p = 1; p < t->points; p++)
    if ((float)t->point[p].hz >= wanted) point = p; /* points descend */
  /* as ARAS does: handlers that come in the middle of a change run at 16 MHz, and where they take more than that, for
     ever */
  (void)port.set_priority(port.context, RQDKM_ARAS_LEVELS - 1);
  (void)port.set_clock(port.context, point);
  (void)port.set_priority(port.context, 0);
  sample_us = now;
  sample_asleep_us = asleep_us;
}

/* ---- calls */

void governor_start(uint32_t governor, const rqdkm_aras_table *table, const rqdkm_aras_port *of_board) {
  static board_clock_listener listener = {follow, 0, 0};
  static bool linked;
  board = of_board;
  port = *of_board;
  port.set_clock = timed_set_clock;
  port.sleep = timed_sleep;
  port.doze = timed_doze;
  port.stop = timed_stop;
  figures = (governor_figures){0};
  elsewhere = 0;
  which = governor;
  in_frame = false;
  asleep_us = sample_asleep_us = 0;
  (void)port.set_clock(port.context, 0);
  (void)rqdkm_aras_init(&aras, table, &port);
  if (!linked) board_clock_listen(&listener);
  linked = true;
  SCB_SHPR3 = (SCB_SHPR3 & 0x00ffffffu) | (uint32_t)kSysTickUrgency << 28;
  SYST_RVR = rqdkm_port_clock_hz() / kTickHz - 1;
  sample_us = board_time_us();
  cycles_seen = DWT_CYCCNT;
  cycles_start = 0;
}

rqdkm_aras *governor_aras(void) { return &aras; }

void governor_begin(uint64_t deadline_us) {
  governor_awake();
  in_frame = true;
  if (which == kAras) {
    const stamp since = stamp_before();
    rqdkm_aras_begin(&aras, deadline_us, 0);
    cost(since, stamp_behind(), &figures.begin_cycles);
  }
}

void governor_end(void) {
  in_frame = false;
  if (which == kAras) {
    const stamp since = stamp_before();
    (void)rqdkm_aras_end(&aras);
    cost(since, stamp_behind(), &figures.end_cycles);
  } else if (which == kOnDemand) {
    sample();
  }
}

void governor_idle(uint64_t until_us, bool surprised, bool can_stop) {
  rests();
  cycles_start += DWT_CYCCNT - cycles_seen; /* the counter wraps after 25 s */
  cycles_seen = DWT_CYCCNT;
  const uint64_t sampled = sample_us + kSampleUs;
  const uint32_t flags = (can_stop ? RQDKM_ARAS_CAN_STOP : 0u) | (surprised ? RQDKM_ARAS_SURPRISED : 0u);
  const stamp since = stamp_before();
  switch (which) {
    case kAras:
      (void)rqdkm_aras_idle(&aras, until_us, flags);
      cost(since, stamp_behind(), &figures.idle_cycles);
      break;
    case kOnDemand:
      (void)port.sleep(port.context, sampled < until_us ? sampled : until_us);
      sample();
      break;
    case kRaceToSleep:
      (void)port.doze(port.context, until_us);
      break;
    case kRaceToStop:
      (void)(can_stop ? port.stop : port.doze)(port.context, until_us);
      break;
    default:
      (void)port.sleep(port.context, until_us);
  }
  rests();
}

void governor_finish(void) {
  rests();
  (void)port.set_clock(port.context, 0);
  figures.all_cycles = cycles_start + (DWT_CYCCNT - cycles_seen);
}

governor_figures governor_result(void) { return figures; }

void SysTick_Handler(void);
void SysTick_Handler(void) {
  figures.ticks++;
  if (which == kAras) {
    const uint32_t decided = aras.decisions;
    uint32_t most = 0;
    const stamp since = stamp_before();
    rqdkm_aras_tick(&aras);
    const uint32_t found = cost(since, stamp_behind(), &most);
    uint32_t *const kind = decided == aras.decisions ? &figures.fast_tick_cycles : &figures.tick_cycles;
    *kind = found > *kind ? found : *kind;
    figures.tick_total += found + kEntry + kExit;
    figures.control_cycles += kEntry + kExit;
  } else if (which == kOnDemand && in_frame) {
    sample();
  }
}
