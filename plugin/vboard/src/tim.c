/* SPDX-License-Identifier: GPL-2.0-or-later
 * TIM2 (32 bit) and TIM6 (16 bit): up-counter, prescaler and auto-reload with their preload, one-pulse mode, update
 * event and interrupt (RM0090 18 and 20). Capture/compare, down-counting and slave modes are not modelled. */
#include "vboard.h"

enum { CR1_CEN = 1, CR1_UDIS = 2, CR1_URS = 4, CR1_OPM = 8, CR1_ARPE = 0x80, UIF = 1, UIE = 1, UG = 1 };

typedef struct {
  int irq;
  uint32_t top; /* largest counter value */
  uint32_t cr1, cr2, smcr, dier, sr, psc, arr;
  uint32_t active_psc, active_arr; /* shadow registers, loaded at an update event */
  uint32_t count;                  /* counter at `anchor` */
  uint64_t anchor;                 /* cycle; the prescaler starts from 0 there */
} timer;

static timer tim2 = {.irq = IRQ_TIM2, .top = UINT32_MAX, .arr = UINT32_MAX, .active_arr = UINT32_MAX};
static timer tim6 = {.irq = IRQ_TIM6, .top = 0xffff, .arr = 0xffff, .active_arr = 0xffff};

static uint64_t tick_cycles(const timer *t) { return (uint64_t)rcc_timer_divider() * (t->active_psc + 1ull); }
static bool runs(const timer *t) { return (t->cr1 & CR1_CEN) && t->active_arr != 0; }
static void update_line(const timer *t) { nvic_set_line(t->irq, (t->sr & UIF) && (t->dier & UIE)); }

static uint64_t overflow_at(const timer *t) {
  uint64_t ticks = t->count <= t->active_arr ? (uint64_t)t->active_arr - t->count + 1 : (uint64_t)t->top - t->count + 1;
  return t->anchor + ticks * tick_cycles(t);
}

static void load_shadows(timer *t) {
  t->active_psc = t->psc;
  t->active_arr = t->arr;
}

static void settle(timer *t) { /* bring count and anchor up to the present */
  while (runs(t) && machine.cycles >= overflow_at(t)) {
    t->anchor = overflow_at(t);
    t->count = 0;
    if (!(t->cr1 & CR1_UDIS)) {
      load_shadows(t);
      t->sr |= UIF;
      if (t->cr1 & CR1_OPM) t->cr1 &= ~(uint32_t)CR1_CEN;
    }
  }
  if (runs(t)) {
    uint64_t ticks = (machine.cycles - t->anchor) / tick_cycles(t);
    t->count += (uint32_t)ticks;
    t->anchor += ticks * tick_cycles(t);
  }
  update_line(t);
}

static void generate_update(timer *t) {
  t->count = 0;
  t->anchor = machine.cycles;
  if (t->cr1 & CR1_UDIS) return;
  load_shadows(t);
  if (!(t->cr1 & CR1_URS)) t->sr |= UIF;
}

static uint32_t read_register(timer *t, uint32_t offset) {
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
    case 0x24:
      return t->count;
    case 0x28:
      return t->psc;
    case 0x2c:
      return t->arr;
    default:
      return 0;
  }
}

static void write_register(timer *t, uint32_t offset, uint32_t value) {
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
    default:
      break;
  }
  update_line(t);
}

uint32_t tim2_read(uint32_t address) { return read_register(&tim2, address & 0x3ff); }
void tim2_write(uint32_t address, uint32_t value) { write_register(&tim2, address & 0x3ff, value); }
uint32_t tim6_read(uint32_t address) { return read_register(&tim6, address & 0x3ff); }
void tim6_write(uint32_t address, uint32_t value) { write_register(&tim6, address & 0x3ff, value); }

static uint64_t deadline(const timer *t) {
  return runs(t) && (t->dier & UIE) && !(t->sr & UIF) ? overflow_at(t) : NEVER;
}

uint64_t tim_deadline(void) {
  uint64_t a = deadline(&tim2), b = deadline(&tim6);
  return a < b ? a : b;
}

void tim_service(void) {
  if (machine.cycles >= deadline(&tim2)) settle(&tim2);
  if (machine.cycles >= deadline(&tim6)) settle(&tim6);
}

void tim_clock_changes(void) {
  settle(&tim2);
  settle(&tim6);
}

void tim_clock_changed(void) { tim2.anchor = tim6.anchor = machine.cycles; }

static void reset(timer *t) {
  *t = (timer){.irq = t->irq, .top = t->top, .arr = t->top, .active_arr = t->top};
  update_line(t);
}

void tim_reset(void) {
  reset(&tim2);
  reset(&tim6);
}
