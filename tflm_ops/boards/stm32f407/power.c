/* SPDX-License-Identifier: Apache-2.0 */
#include "power.h"

#include "clock.h"
#include "registers.h"
#include "wait.h"

/* ---- time ---- */

static struct {
  uint64_t us;
  uint32_t count; /* TIM5 when it was `us` and `rest` ticks */
  uint32_t rest, mhz;
} now;

/* Left by the NMI, which may have interrupted the functions below. */
static volatile struct {
  bool pending;
  uint32_t count, mhz; /* counts at this rate since it showed this */
} lost;

/* Inlined, as catch_up() is: the time is read a dozen times from one wake-up to the next. */
static inline __attribute__((always_inline)) void advance_to(uint32_t count) {
  const uint32_t ticks = count - now.count, mhz = now.mhz;
  if (ticks >= 0x80000000u && lost.pending) return; /* noticed by the NMI before what is accounted for already */
  uint32_t us = ticks / mhz, rest = now.rest + (ticks - us * mhz);
  if (rest >= mhz) {
    rest -= mhz;
    us++;
  }
  now.us += us;
  now.rest = rest;
  now.count = count;
}

static void change_rate(uint32_t mhz) {
  now.rest = now.rest * mhz / now.mhz;
  now.mhz = mhz;
}

static __attribute__((noinline)) void catch_up_loss(void) {
  if (!lost.pending) return;
  advance_to(lost.count);
  lost.pending = false;
  change_rate(lost.mhz);
}

static inline __attribute__((always_inline)) void catch_up(void) {
  uint32_t count = TIM5_CNT;
  while (lost.pending) { /* a count of after the loss, taken for one of before, would lose what the NMI took: 10 us */
    catch_up_loss();
    count = TIM5_CNT;
  }
  advance_to(count);
}

void board_time_start(void) {
  RCC_APB1ENR |= RCC_APB1ENR_TIM5EN;
  (void)RCC_APB1ENR;
  TIM5_CR1 = 0;
  TIM5_DIER = 0;
  TIM5_PSC = 0;
  TIM5_ARR = 0xffffffffu;
  TIM5_EGR = 1;
  now.us = 0;
  now.count = now.rest = 0;
  now.mhz = board_clock_timer_mhz();
  TIM5_CR1 = TIM_CR1_CEN;
}

uint64_t board_time_us(void) {
  const uint32_t state = rqdkm_port_irq_save();
  catch_up();
  const uint64_t us = now.us;
  rqdkm_port_irq_restore(state);
  return us;
}

uint32_t board_time_count(void) { return TIM5_CNT; }

void board_time_rate_changed(uint32_t until, uint32_t since) {
  if (now.mhz == 0) return; /* time has not been started */
  const uint32_t state = rqdkm_port_irq_save();
  catch_up_loss();
  if ((int32_t)(until - now.count) > 0) {
    advance_to(until);
    now.count = since;
  }
  change_rate(board_clock_timer_mhz());
  rqdkm_port_irq_restore(state);
}

void board_time_rate_lost(void) {
  lost.count = TIM5_CNT;
  lost.mhz = board_clock_timer_mhz();
  lost.pending = now.mhz != 0;
}

/* ---- interrupts ---- */

enum { kIrqCount = 82, kIrqRtcWakeUp = 3, kIrqTim5 = 50 };

static void irq_enable(uint32_t irq) { NVIC_ISER(irq / 32) = 1u << irq % 32; }

static void irq_disable(uint32_t irq) {
  NVIC_ICER(irq / 32) = 1u << irq % 32;
  __asm volatile("dsb\n isb" ::: "memory");
  NVIC_ICPR(irq / 32) = 1u << irq % 32;
}

bool board_irq_priority(uint32_t irq, uint32_t urgency) {
  if (irq >= kIrqCount || urgency > 15) return false;
  NVIC_IPR(irq) = (uint8_t)(urgency << 4); /* four bits are implemented (RM0090 12.1.1) */
  return true;
}

void board_irq_hold(uint32_t urgency) {
  __asm volatile("msr basepri, %0\n isb" ::"r"((urgency & 15u) << 4) : "memory");
}

static void wait_for_interrupt(void) { __asm volatile("dsb\n wfi\n isb" ::: "memory"); }

/* ---- sleep ---- */

enum { kLongestSleepUs = 20000000 }; /* well below half a turn of TIM5 */

/* One sleep with interrupts masked: a request that comes between looking at the time and WFI is not lost. Returns true
   when the time was what ended it. */
static bool sleep_once(uint64_t us) {
  const uint32_t ticks = (us > kLongestSleepUs ? kLongestSleepUs : (uint32_t)us) * now.mhz - now.rest;
  const uint32_t until = now.count + ticks;
  TIM5_CCR1 = until;
  TIM5_SR = ~TIM_SR_CC1IF;
  TIM5_DIER = TIM_DIER_CC1IE;
  irq_enable(kIrqTim5);
  if ((int32_t)(until - TIM5_CNT) > 0) wait_for_interrupt();
  const bool timed_out = (int32_t)(until - TIM5_CNT) <= 0;
  TIM5_DIER = 0;
  TIM5_SR = ~TIM_SR_CC1IF;
  irq_disable(kIrqTim5);
  return timed_out;
}

/* Where the caller has masked interrupts, one that is waiting ends it at once and stays waiting: whatever comes in a
   sequence of sleeps and changes of clock ends all of it. */
void board_sleep(uint64_t until_us) {
  const uint32_t state = rqdkm_port_irq_save();
  for (;;) {
    catch_up();
    if (now.us >= until_us || !sleep_once(until_us - now.us)) break;
  }
  rqdkm_port_irq_restore(state);
}

/* ---- real-time clock ---- */

enum {
  kRtcPolls = 20000, /* ten ticks of the slowest oscillator, at any clock */
  kMeasuredTicks = 64,
  kSecondTicks = 32768,
  kLseTimeoutUs = 5000000,
};

static uint32_t tick_us_q16; /* microseconds per tick x 65536; 0: no clock */
static uint32_t part_q16;    /* of a microsecond, left over from the last stop */

static void rtc_lock(bool locked) {
  if (locked) {
    RTC_WPR = 0xff;
  } else {
    RTC_WPR = 0xca;
    RTC_WPR = 0x53;
  }
}

static uint32_t two_digits(uint32_t bcd) { return (bcd >> 4) * 10 + (bcd & 15u); }

/* Ticks since midnight, below 2^32. The sub-second register counts down. Registers are read without shadows, so that
   one may change while it is read: two equal readings are right (RM0090 26.3.6). */
static uint32_t rtc_ticks(void) {
  uint32_t time = RTC_TR, sub = RTC_SSR;
  for (uint32_t tries = 0; tries < 4 && (time != RTC_TR || sub != RTC_SSR); tries++) {
    time = RTC_TR;
    sub = RTC_SSR;
  }
  const uint32_t minutes = two_digits(time >> 16 & 0x3fu) * 60 + two_digits(time >> 8 & 0x7fu);
  return (minutes * 60 + two_digits(time & 0x7fu)) * kSecondTicks + (kSecondTicks - 1 - sub);
}

static uint32_t ticks_between(uint32_t from, uint32_t to) {
  return to >= from ? to - from : to + 86400u * kSecondTicks - from; /* midnight */
}

/* Returns at the beginning of a tick; false when the clock stands still. */
static bool next_tick(void) {
  const uint32_t before = RTC_SSR;
  for (uint32_t polls = kRtcPolls; polls; polls--)
    if (RTC_SSR != before) return true;
  return false;
}

static bool measure_tick(void) {
  const uint32_t state = rqdkm_port_irq_save();
  bool ok = next_tick();
  const uint32_t start = TIM5_CNT, first = rtc_ticks();
  for (uint32_t k = 0; ok && k < kMeasuredTicks; k++) ok = next_tick();
  const uint32_t timer_ticks = TIM5_CNT - start, ticks = ticks_between(first, rtc_ticks());
  rqdkm_port_irq_restore(state);
  if (ok) tick_us_q16 = (uint32_t)(((uint64_t)timer_ticks << 16) / (now.mhz * ticks));
  return ok;
}

static bool low_speed_clock(bool crystal) {
  if (!crystal) {
    RCC_CSR |= RCC_CSR_LSION;
    return wait_for(&RCC_CSR, RCC_CSR_LSIRDY, RCC_CSR_LSIRDY, kPolls);
  }
  RCC_BDCR |= RCC_BDCR_LSEON;
  for (const uint64_t start = board_time_us(); board_time_us() - start < kLseTimeoutUs;) {
    if (RCC_BDCR & RCC_BDCR_LSERDY) return true;
    board_sleep(board_time_us() + 1000);
  }
  return false;
}

bool board_rtc_start(bool crystal) {
  const uint32_t source = crystal ? RCC_BDCR_RTCSEL_LSE : RCC_BDCR_RTCSEL_LSI;
  tick_us_q16 = 0;
  RCC_APB1ENR |= RCC_APB1ENR_PWREN;
  (void)RCC_APB1ENR;
  PWR_CR |= PWR_CR_DBP;
  const uint32_t chosen = RCC_BDCR & RCC_BDCR_RTCSEL;
  if (chosen != 0 && chosen != source) {
    RCC_BDCR |= RCC_BDCR_BDRST;
    RCC_BDCR &= ~RCC_BDCR_BDRST;
  }
  if (!low_speed_clock(crystal)) return false;
  RCC_BDCR = (RCC_BDCR & ~RCC_BDCR_RTCSEL) | source | RCC_BDCR_RTCEN;
  rtc_lock(false);
  RTC_ISR = RTC_ISR_INIT | RTC_ISR_KEEP;
  const bool entered = wait_for(&RTC_ISR, RTC_ISR_INITF, RTC_ISR_INITF, kRtcPolls);
  RTC_PRER = kSecondTicks - 1; /* sub-seconds count every tick; twice, synchronous part first (RM0090 26.3.5) */
  RTC_PRER = kSecondTicks - 1;
  RTC_TR = 0;
  RTC_CR = RTC_CR_BYPSHAD;
  RTC_ISR = RTC_ISR_KEEP;
  rtc_lock(true);
  EXTI_IMR &= ~EXTI_RTC_WAKE_UP;
  EXTI_RTSR |= EXTI_RTC_WAKE_UP;
  return entered && measure_tick();
}

/* ---- stop ---- */

enum {
  kWakeUpMarginTicks = 4, /* the timer starts up to two ticks late, and a tick begins before and after the stop */
  kShortestTicks = 8,
  kLongestCount = 65536,
  kLockUs = 440,      /* DS8626: 300 us at most for the fastest VCO; the rest is the way there and back */
  kLockSpareUs = 5,   /* it may take longer than lately */
  kCrystalUs = 2500,  /* 2 ms typical */
  kLeaveSleepUs = 45, /* at 16 MHz, at most */
};
static const uint16_t kWakeUpUs[] = {[BOARD_STOP_MAIN] = 20, [BOARD_STOP_LOW_POWER] = 40, [BOARD_STOP_DEEP] = 120};

/* Arms the wake-up timer for at most `ticks`; false when the hardware does not take it. */
static bool wake_up_after(uint32_t ticks) {
  const uint32_t slow = ticks / 2 > kLongestCount; /* then every 16 ticks instead of every 2 */
  uint32_t count = slow ? ticks / 16 : ticks / 2;
  if (count > kLongestCount) count = kLongestCount;
  rtc_lock(false);
  RTC_CR = RTC_CR_BYPSHAD;
  const bool free = wait_for(&RTC_ISR, RTC_ISR_WUTWF, RTC_ISR_WUTWF, kRtcPolls);
  if (free) {
    RTC_WUTR = count - 1;
    RTC_CR = RTC_CR_BYPSHAD | (slow ? RTC_CR_WUCKSEL_16 : RTC_CR_WUCKSEL_2);
    RTC_ISR = RTC_ISR_KEEP & ~RTC_ISR_WUTF;
    RTC_CR |= RTC_CR_WUTIE | RTC_CR_WUTE;
  }
  rtc_lock(true);
  return free;
}

static void wake_up_off(void) {
  rtc_lock(false);
  RTC_CR = RTC_CR_BYPSHAD;
  RTC_ISR = RTC_ISR_KEEP & ~RTC_ISR_WUTF;
  rtc_lock(true);
  EXTI_IMR &= ~EXTI_RTC_WAKE_UP;
  EXTI_PR = EXTI_RTC_WAKE_UP;
  irq_disable(kIrqRtcWakeUp);
}

static void enter_stop(board_stop_kind kind) {
  const uint32_t bits = kind == BOARD_STOP_MAIN        ? 0
                        : kind == BOARD_STOP_LOW_POWER ? PWR_CR_LPDS
                                                       : PWR_CR_LPDS | PWR_CR_FPDS;
  PWR_CR = (PWR_CR & ~(PWR_CR_LPDS | PWR_CR_FPDS | PWR_CR_PDDS)) | bits;
  SCB_SCR |= SCB_SCR_SLEEPDEEP;
  wait_for_interrupt();
  SCB_SCR &= ~SCB_SCR_SLEEPDEEP;
}

typedef enum { STOP_IMPOSSIBLE, STOP_INTERRUPTED, STOP_TIMED_OUT } stop_end;

/* One stop of at most `ticks`, with interrupts masked. Both ends are timed at the beginning of a tick, where the two
   clocks can be compared to the microsecond; that costs a tick of waiting at most. */
static stop_end stop_once(uint32_t ticks, board_stop_kind kind) {
  EXTI_PR = EXTI_RTC_WAKE_UP;
  EXTI_IMR |= EXTI_RTC_WAKE_UP;
  irq_enable(kIrqRtcWakeUp);
  stop_end end = STOP_IMPOSSIBLE;
  const bool armed = wake_up_after(ticks);
  board_clock_leave(); /* where stop mode ends, too: a tick is awaited there for an eighth of the current */
  if (armed && next_tick()) {
    catch_up();
    const uint32_t before = rtc_ticks();
    enter_stop(kind);
    (void)next_tick();
    now.count = TIM5_CNT; /* what it has counted since `before` is part of the ticks */
    const uint64_t us_q16 = (uint64_t)ticks_between(before, rtc_ticks()) * tick_us_q16 + part_q16;
    now.us += us_q16 >> 16;
    part_q16 = (uint32_t)us_q16 & 0xffffu;
    change_rate(board_clock_timer_mhz());
    end = RTC_ISR & RTC_ISR_WUTF ? STOP_TIMED_OUT : STOP_INTERRUPTED;
  }
  wake_up_off();
  return end;
}

/* How long the way back to a point takes, out of sleep at 16 MHz and through the lock: at first what it may take at
   most, then what it took. Chips lock sooner than their datasheet grants them, and what is left of a wait is spent at a
   clock that draws six times as much asleep. */
static uint16_t lock_took_us[RQDKM_CLOCK_POINTS], leaving_took_us = kLeaveSleepUs;

/* Up at once, slowly down. */
static uint16_t follow(uint32_t known, uint32_t took) {
  return (uint16_t)(took > known ? took : known - (known - took + 7u) / 8u);
}

static uint32_t lock_us(rqdkm_clock_point point) {
  if (point == RQDKM_CLOCK_16) return 0;
  if (board_clock_wants_crystal()) return kLockUs + kCrystalUs;
  return lock_took_us[point] ? lock_took_us[point] + kLockSpareUs : kLockUs;
}

static rqdkm_aras_status lock_again(rqdkm_clock_point point) {
  const uint64_t before = board_time_us();
  const rqdkm_aras_status status = board_clock_set(point);
  const uint32_t took = (uint32_t)(board_time_us() - before), known = lock_took_us[point];
  if (status != RQDKM_ARAS_OK || took > 2 * kLockUs || board_clock_wants_crystal()) return status;
  lock_took_us[point] = follow(known, took);
  return status;
}

/* Sleeps at 16 MHz for as long as there is time before the lock. */
static void sleep_before_lock(uint64_t until_us, uint32_t relock_us) {
  const uint64_t lock_at = until_us - relock_us - leaving_took_us;
  catch_up();
  if (lock_at >= until_us || now.us >= lock_at) return;
  board_sleep(lock_at);
  catch_up();
  if (now.us >= lock_at && now.us < lock_at + kLeaveSleepUs)
    leaving_took_us = follow(leaving_took_us, (uint32_t)(now.us - lock_at));
}

rqdkm_aras_status board_doze(uint64_t until_us) {
  const rqdkm_clock_point point = board_clock_point();
  rqdkm_aras_status status = RQDKM_ARAS_OK;
  /* the crystal goes on meanwhile */
  const uint32_t relock_us = board_clock_wants_crystal() ? kLockUs : lock_us(point);
  const uint32_t state = rqdkm_port_irq_save();
  if (point != RQDKM_CLOCK_16 && until_us > board_time_us() + 2 * (relock_us > kLockUs ? relock_us : kLockUs)) {
    (void)board_clock_set(RQDKM_CLOCK_16);
    sleep_before_lock(until_us, relock_us);
    status = lock_again(point);
  }
  board_sleep(until_us);
  rqdkm_port_irq_restore(state);
  return status;
}

rqdkm_aras_status board_stop(uint64_t until_us, board_stop_kind kind) {
  const rqdkm_clock_point point = board_clock_point();
  if (tick_us_q16 == 0 || kind > BOARD_STOP_DEEP) {
    board_sleep(until_us);
    return kind > BOARD_STOP_DEEP ? RQDKM_ARAS_REFUSED : RQDKM_ARAS_NO_TIMER;
  }
  const uint32_t relock_us = lock_us(point), back_us = kWakeUpUs[kind] + relock_us;
  rqdkm_aras_status status = RQDKM_ARAS_OK;
  stop_end end = STOP_TIMED_OUT;
  board_io_flush();
  const uint32_t state = rqdkm_port_irq_save();
  while (end == STOP_TIMED_OUT) {
    catch_up();
    const uint64_t left = until_us > now.us + back_us ? until_us - now.us - back_us : 0;
    const uint64_t ticks = left > 1u << 30 ? 16u * kLongestCount : (left << 16) / tick_us_q16;
    if (ticks < kShortestTicks + kWakeUpMarginTicks) break;
    end = stop_once((uint32_t)ticks - kWakeUpMarginTicks, kind);
  }
  if (board_clock_point() != point) {
    /* what is left of the margins costs a sixth here of what it does at the clock of before */
    if (end == STOP_TIMED_OUT) sleep_before_lock(until_us, relock_us);
    status = lock_again(point);
  }
  if (end != STOP_INTERRUPTED) board_sleep(until_us);
  rqdkm_port_irq_restore(state);
  return status == RQDKM_ARAS_OK && end == STOP_IMPOSSIBLE ? RQDKM_ARAS_NO_TIMER : status;
}
