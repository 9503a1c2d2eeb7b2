/* SPDX-License-Identifier: GPL-2.0-or-later
 * TIM2 and TIM5 (32 bit), TIM3 and TIM4 (16 bit), TIM6 and TIM7 (16 bit, basic): up-counter, prescaler and auto-reload
 * with their preload, one-pulse mode, update event, compare flags, and their interrupts (RM0090 18 and 20). Capture,
 * compare outputs, down-counting and slave modes are not modelled. */
#include "vboard.h"

enum { CR1_CEN = 1, CR1_UDIS = 2, CR1_URS = 4, CR1_OPM = 8, CR1_ARPE = 0x80, UIF = 1, UIE = 1, UG = 1 };
enum { TIMERS = 6, CHANNELS = 4 };

typedef struct {
  int irq, channels;
  uint32_t top; /* largest counter value */
  uint32_t cr1, cr2, smcr, dier, sr, psc, arr, ccr[CHANNELS], ccmr[2], ccer;
  uint32_t active_psc, active_arr; /* shadow registers, loaded at an update event */
  uint32_t count;                  /* counter at `anchor` */
  uint64_t anchor;                 /* cycle; the prescaler starts from 0 there */
} timer;

#define TIMER(number, compare_channels, largest) \
  {.irq = (number), .channels = (compare_channels), .top = (largest), .arr = (largest), .active_arr = (largest)}
static timer timers[TIMERS] = {TIMER(28, 4, UINT32_MAX), TIMER(29, 4, 0xffff), TIMER(30, 4, 0xffff),
                               TIMER(50, 4, UINT32_MAX), TIMER(54, 0, 0xffff), TIMER(55, 0, 0xffff)}; /* TIM2 to TIM7 */

static uint64_t tick_cycles(const timer *t) { return (uint64_t)rcc_timer_divider() * (t->active_psc + 1ull); }
static bool runs(const timer *t) { return (t->cr1 & CR1_CEN) && t->active_arr != 0; }
static uint32_t interrupts(const timer *t) { return t->channels ? t->dier & 0x1f : t->dier & UIE; }
static void update_line(const timer *t) { nvic_set_line(t->irq, t->sr & interrupts(t)); }

static uint64_t ticks_to_overflow(const timer *t) {
  return t->count <= t->active_arr ? (uint64_t)t->active_arr - t->count + 1 : (uint64_t)t->top - t->count + 1;
}

static uint64_t overflow_at(const timer *t) { return t->anchor + ticks_to_overflow(t) * tick_cycles(t); }

/* Ticks until the counter becomes CCR of a channel; NEVER when it does not. */
static uint64_t ticks_to_match(const timer *t, int channel) {
  uint64_t to = t->ccr[channel];
  if (to > t->active_arr) return NEVER;
  return to > t->count ? to - t->count : ticks_to_overflow(t) + to;
}

static void load_shadows(timer *t) {
  t->active_psc = t->psc;
  t->active_arr = t->arr;
}

/* Let `ticks` pass, at most to the overflow. */
static void count_up(timer *t, uint64_t ticks) {
  for (int k = 0; k < t->channels; k++) {
    if (ticks_to_match(t, k) <= ticks) t->sr |= 2u << k;
  }
  t->anchor += ticks * tick_cycles(t);
  t->count += (uint32_t)ticks;
}

static void settle(timer *t) { /* bring count and anchor up to the present */
  while (runs(t) && machine.cycles >= overflow_at(t)) {
    count_up(t, ticks_to_overflow(t));
    t->count = 0;
    if (!(t->cr1 & CR1_UDIS)) {
      load_shadows(t);
      t->sr |= UIF;
      if (t->cr1 & CR1_OPM) t->cr1 &= ~(uint32_t)CR1_CEN;
    }
  }
  if (runs(t)) count_up(t, (machine.cycles - t->anchor) / tick_cycles(t));
  update_line(t);
}

static void generate_update(timer *t) {
  t->count = 0;
  t->anchor = machine.cycles;
  if (t->cr1 & CR1_UDIS) return;
  load_shadows(t);
  if (!(t->cr1 & CR1_URS)) t->sr |= UIF;
}

static timer *addressed(uint32_t address) { return &timers[(address - 0x40000000u) >> 10]; }

uint32_t tim_read(uint32_t address) {
  timer *t = addressed(address);
  uint32_t offset = address & 0x3ff;
  settle(t);
  switch (offset) {
    case 0x00:
      return t->cr1;
    case 0x04:
      return t->cr2;
    case 0x08:
      return t->smcr;
    case 0x0c:
      return t->dier;
    case 0x10:
      return t->sr;
    case 0x18:
    case 0x1c:
      return t->ccmr[(offset - 0x18) / 4];
    case 0x20:
      return t->ccer;
    case 0x24:
      return t->count;
    case 0x28:
      return t->psc;
    case 0x2c:
      return t->arr;
    case 0x34:
    case 0x38:
    case 0x3c:
    case 0x40:
      return t->ccr[(offset - 0x34) / 4];
    default:
      return 0;
  }
}

void tim_write(uint32_t address, uint32_t value) {
  timer *t = addressed(address);
  uint32_t offset = address & 0x3ff;
  settle(t);
  switch (offset) {
    case 0x00:
      if ((value & CR1_CEN) && !(t->cr1 & CR1_CEN)) t->anchor = machine.cycles;
      t->cr1 = value & 0x3ff;
      break;
    case 0x04:
      t->cr2 = value;
      break;
    case 0x08:
      t->smcr = value;
      break;
    case 0x0c:
      t->dier = value;
      break;
    case 0x10:
      t->sr &= value; /* write zero to clear */
      break;
    case 0x14:
      if (value & UG) generate_update(t);
      if (t->channels) t->sr |= value & 0x1e;
      break;
    case 0x18:
    case 0x1c:
      t->ccmr[(offset - 0x18) / 4] = value & 0xffff; /* kept, not obeyed: compare registers have no preload */
      break;
    case 0x20:
      t->ccer = value & 0xffff;
      break;
    case 0x24:
      t->count = value & t->top;
      t->anchor = machine.cycles;
      break;
    case 0x28:
      t->psc = value & 0xffff;
      break;
    case 0x2c:
      t->arr = value & t->top;
      if (!(t->cr1 & CR1_ARPE)) t->active_arr = t->arr;
      break;
    case 0x34:
    case 0x38:
    case 0x3c:
    case 0x40:
      if (t->channels) t->ccr[(offset - 0x34) / 4] = value & t->top;
      break;
    default:
      break;
  }
  update_line(t);
}

/* When the first flag that is not yet set and whose interrupt is on will be set. */
static uint64_t deadline(const timer *t) {
  uint32_t wanted = interrupts(t) & ~t->sr;
  if (!wanted || !runs(t)) return NEVER;
  uint64_t ticks = wanted & UIE ? ticks_to_overflow(t) : NEVER;
  for (int k = 0; k < t->channels; k++) {
    uint64_t match = wanted >> (k + 1) & 1 ? ticks_to_match(t, k) : NEVER;
    if (match < ticks) ticks = match;
  }
  return ticks == NEVER ? NEVER : t->anchor + ticks * tick_cycles(t);
}

uint64_t tim_deadline(void) {
  uint64_t at = NEVER;
  for (int k = 0; k < TIMERS; k++) {
    uint64_t one = deadline(&timers[k]);
    if (one < at) at = one;
  }
  return at;
}

void tim_service(void) {
  for (int k = 0; k < TIMERS; k++) {
    if (machine.cycles >= deadline(&timers[k])) settle(&timers[k]);
  }
}

void tim_clock_changes(void) {
  for (int k = 0; k < TIMERS; k++) settle(&timers[k]);
}

void tim_clock_changed(void) {
  for (int k = 0; k < TIMERS; k++) timers[k].anchor = machine.cycles;
}

void tim_reset(uint32_t which) {
  for (int k = 0; k < TIMERS; k++) {
    timer *t = &timers[k];
    if (!(which >> k & 1)) continue;
    *t = (timer){.irq = t->irq, .channels = t->channels, .top = t->top, .arr = t->top, .active_arr = t->top};
    update_line(t);
  }
}
