/* SPDX-License-Identifier: Apache-2.0 */
#include "clock.h"
#include "demo.h"
#include "power.h"
#include "registers.h"

#define TIM2 0x40000000u
#define TIM6 0x40001000u
#define CR1(timer) REG32((timer) + 0x00u)
#define DIER(timer) REG32((timer) + 0x0Cu)
#define SR(timer) REG32((timer) + 0x10u)
#define EGR(timer) REG32((timer) + 0x14u)
#define CNT(timer) REG32((timer) + 0x24u)
#define PSC(timer) REG32((timer) + 0x28u)
#define ARR(timer) REG32((timer) + 0x2Cu)
#define NVIC_ISPR(n) REG32(0xE000E200u + 4u * (n))

enum {
  kOnePulse = 1 << 3,
  kUpdateByOverflowOnly = 1 << 2,
  kEnable = 1,
  kLongestUs = 60000, /* TIM6 has 16 bits */
  kTim2Irq = 28,
  kTim6Irq = 54,
};

static const uint32_t kTimer[kClasses] = {TIM2, TIM6}, kIrq[kClasses] = {kTim2Irq, kTim6Irq};
static const uint32_t kUrgency[kClasses] = {13, 2}, kLevel[kClasses] = {0, RQDKM_ARAS_LEVELS - 1};

static rest_arrival arrivals[kClasses][kMostRest / kClasses];
static uint32_t count[kClasses], next[kClasses];
static rest_figures figures;
static uint64_t start_us;
static rqdkm_aras *aras;
static bool running;
static volatile bool stale; /* timers may have stood still since they were armed */

bool rest_add(uint32_t class, const rest_arrival *arrival) {
  if (class >= kClasses || count[class] == kMostRest / kClasses) return false;
  arrivals[class][count[class]++] = *arrival;
  return true;
}

void rest_clear(void) { count[0] = count[1] = 0; }

static uint64_t due(uint32_t class) {
  return next[class] < count[class] ? start_us + arrivals[class][next[class]].time_us : UINT64_MAX;
}

uint64_t rest_next(void) { return due(0) < due(1) ? due(0) : due(1); }

/* One pulse at the time of the next arrival; at once when it is due already. */
static void arm(uint32_t class, uint64_t now) {
  const uint32_t timer = kTimer[class];
  const uint64_t when = due(class);
  CR1(timer) = kUpdateByOverflowOnly | kOnePulse;
  SR(timer) = 0;
  if (!running || when == UINT64_MAX) return;
  if (when <= now) {
    NVIC_ISPR(kIrq[class] / 32) = 1u << kIrq[class] % 32;
    return;
  }
  const uint64_t left = when - now;
  ARR(timer) = left < kLongestUs ? (uint32_t)left : kLongestUs;
  EGR(timer) = 1; /* loads the reload value, clears the counter */
  SR(timer) = 0;
  CR1(timer) = kUpdateByOverflowOnly | kOnePulse | kEnable;
}

/* Timers count microseconds whatever their clock is. */
static void follow(void *context, const board_clock *clock, uint32_t timer_mhz) {
  (void)context, (void)clock;
  for (uint32_t class = 0; class < kClasses; class++) {
    const uint32_t counted = CNT(kTimer[class]);
    PSC(kTimer[class]) = timer_mhz - 1;
    EGR(kTimer[class]) = 1;
    CNT(kTimer[class]) = counted;
  }
}

void rest_start(uint64_t start, rqdkm_aras *a) {
  static board_clock_listener listener = {follow, 0, 0};
  static bool linked;
  RCC_APB1ENR |= (1u << 0) | (1u << 4);
  (void)RCC_APB1ENR;
  if (!linked) board_clock_listen(&listener);
  linked = true;
  start_us = start;
  aras = a;
  figures = (rest_figures){0};
  running = true;
  for (uint32_t class = 0; class < kClasses; class++) {
    next[class] = 0;
    CR1(kTimer[class]) = kUpdateByOverflowOnly | kOnePulse;
    (void)board_irq_priority(kIrq[class], kUrgency[class]);
    DIER(kTimer[class]) = 1;
    NVIC_ISER(kIrq[class] / 32) = 1u << kIrq[class] % 32;
  }
  follow(0, 0, board_clock_timer_mhz());
  rest_again();
}

void rest_stop(void) {
  running = false;
  rest_again();
}

void rest_waits(void) { stale = true; }

void rest_again(void) {
  stale = false;
  const uint32_t state = rqdkm_port_irq_save(); /* neither handler before both are armed */
  const uint64_t now = board_time_us();
  for (uint32_t class = 0; class < kClasses; class++) arm(class, now);
  rqdkm_port_irq_restore(state);
}

rest_figures rest_result(void) { return figures; }

/* Three cycles a turn. */
static __attribute__((noinline)) void work(uint32_t cycles) {
  uint32_t turns = cycles / 3u + 1u;
  __asm volatile("1: subs %0, #1\n bne 1b" : "+r"(turns)::"cc");
}

/* One arrival per interrupt: between two of them a raised priority takes effect. */
static void serve(uint32_t class) {
  SR(kTimer[class]) = 0;
  (void)SR(kTimer[class]); /* the request must be gone before the handler returns */
  governor_awake();
  uint64_t now = board_time_us();
  if (stale) { /* before the context that stopped can do it */
    stale = false;
    arm(1 - class, now);
  }
  if (running && due(class) <= now) {
    const rest_arrival *arrival = &arrivals[class][next[class]++];
    rqdkm_aras_rest_begin(aras);
    work(arrival->cycles);
    rqdkm_aras_rest_end(aras, kLevel[class]);
    now = board_time_us();
    const uint32_t took = (uint32_t)(now - start_us) - arrival->time_us;
    figures.served++;
    figures.late += took > arrival->limit_ms * 1000u;
    figures.worst_us = took > figures.worst_us ? took : figures.worst_us;
  }
  arm(class, now);
}

void TIM2_IRQHandler(void);
void TIM2_IRQHandler(void) { serve(0); }

void TIM6_DAC_IRQHandler(void);
void TIM6_DAC_IRQHandler(void) { serve(1); }
