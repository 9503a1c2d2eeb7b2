/* SPDX-License-Identifier: Apache-2.0 */
#include "clock.h"
#include "power.h"
#include "registers.h"
#include "wait.h"

#ifndef RQDKM_HSE_HZ
#define RQDKM_HSE_HZ 8000000
#endif

enum { kHsiMhz = 16, kPllInputMhz = 2 };

/* The PLL runs at 2 MHz x n and is divided by 2: its VCO is as slow as the frequency allows (from 100 MHz on), which
   costs least and locks soonest. Wait states: one per started 30 MHz (DS8626, 2.7 to 3.6 V). Scale 1 above 144 MHz. */
typedef struct {
  uint8_t n; /* PLL frequency in MHz = 2 x n / 2; 0: internal oscillator, PLL off */
  uint8_t q; /* 48 MHz for USB and RNG, or less */
  uint8_t wait_states;
  bool scale1;
  uint16_t prescalers; /* AHB, APB1 (up to 42 MHz), APB2 (up to 84 MHz), as in RCC_CFGR */
} point;

static const point kPoints[RQDKM_CLOCK_POINTS] = {
    [RQDKM_CLOCK_168] = {168, 7, 5, true, RCC_CFGR_PPRE1_DIV4 | RCC_CFGR_PPRE2_DIV2},
    [RQDKM_CLOCK_144] = {144, 6, 4, false, RCC_CFGR_PPRE1_DIV4 | RCC_CFGR_PPRE2_DIV2},
    [RQDKM_CLOCK_120] = {120, 5, 3, false, RCC_CFGR_PPRE1_DIV4 | RCC_CFGR_PPRE2_DIV2},
    [RQDKM_CLOCK_84] = {84, 4, 2, false, RCC_CFGR_PPRE1_DIV2},
    [RQDKM_CLOCK_42] = {84, 4, 1, false, RCC_CFGR_HPRE_DIV2},
    [RQDKM_CLOCK_16] = {0, 0, 0, false, 0},
    [RQDKM_CLOCK_84_DIVIDED] = {168, 7, 2, true, RCC_CFGR_HPRE_DIV2 | RCC_CFGR_PPRE1_DIV2},
    [RQDKM_CLOCK_42_DIVIDED] = {168, 7, 1, true, RCC_CFGR_HPRE_DIV4},
};

static bool avoid_crystal, crystal_failed, watched, looked;
static volatile bool crystal_lost; /* set by the NMI; listeners have not been told yet */
static board_clock_faults faults;
static board_clock_listener *listeners;

static bool runs_on_pll(void) { return (RCC_CFGR & RCC_CFGR_SWS) == RCC_CFGR_SWS_PLL; }
static uint32_t pll_n(void) { return (RCC_PLLCFGR >> 6) & 511u; }
static uint32_t core_mhz_before_ahb(void) { return runs_on_pll() ? pll_n() : kHsiMhz; } /* 2 MHz x n / 2 */

/* log2 of a divider of RCC_CFGR; the field's upper values are 2, 4, 8, ... (AHB has no 32, and nobody here goes there)
 */
static uint32_t shift_of(uint32_t field, uint32_t half) { return field < half ? 0 : field - half + 1; }

/* log2 of core clock before AHB : timers; these run at twice a divided bus clock (RM0090 7.2). */
static uint32_t timer_shift(uint32_t cfgr) {
  const uint32_t apb1 = shift_of((cfgr >> 10) & 7u, 4);
  return shift_of((cfgr >> 4) & 15u, 8) + (apb1 ? apb1 - 1 : 0);
}

uint32_t board_clock_timer_mhz(void) { return core_mhz_before_ahb() >> timer_shift(RCC_CFGR); }

static board_clock describe(void) {
  const uint32_t cfgr = RCC_CFGR, hclk = core_mhz_before_ahb() * 1000000u >> shift_of((cfgr >> 4) & 15u, 8);
  rqdkm_clock_source source = RQDKM_CLOCK_INTERNAL;
  if (runs_on_pll()) source = board_clock_on_crystal() ? RQDKM_CLOCK_CRYSTAL_PLL : RQDKM_CLOCK_INTERNAL_PLL;
  return (board_clock){hclk, hclk >> shift_of((cfgr >> 13) & 7u, 4), source};
}

bool board_clock_on_crystal(void) { return runs_on_pll() && (RCC_PLLCFGR & RCC_PLLCFGR_SRC_HSE); }

static void tell(void) {
  const board_clock clock = describe();
  board_port_clock_changed(&clock);
  for (board_clock_listener *l = listeners; l; l = l->next) l->changed(l->context, &clock, board_clock_timer_mhz());
}

rqdkm_clock_point board_clock_point(void) {
  if (crystal_lost) {
    crystal_lost = false;
    tell();
  }
  const uint32_t cfgr = RCC_CFGR, n = pll_n();
  if ((cfgr & RCC_CFGR_SWS) != RCC_CFGR_SWS_PLL) return RQDKM_CLOCK_16;
  for (uint32_t k = 0; k < RQDKM_CLOCK_POINTS; k++)
    if (kPoints[k].n == n && kPoints[k].prescalers == (cfgr & RCC_CFGR_PRESCALERS)) return (rqdkm_clock_point)k;
  return RQDKM_CLOCK_16; /* a clock that this driver did not set: the next request sets it anew */
}

/* `safe` are prescalers that suit the source of before and the new one: in force while the core changes over. */
static bool change_over(uint32_t source, uint32_t safe, uint32_t prescalers) {
  const uint32_t state = rqdkm_port_irq_save(); /* nothing between the change and the look at the timer */
  const uint32_t before = RCC_CFGR, others = before & ~(RCC_CFGR_PRESCALERS | RCC_CFGR_SW);
  RCC_CFGR = others | safe | (before & RCC_CFGR_SW);
  const uint32_t count = board_time_count();
  RCC_CFGR = others | safe | source;
  rqdkm_port_irq_restore(state);
  const bool switched = wait_for(&RCC_CFGR, RCC_CFGR_SWS, source << 2, kPolls);
  RCC_CFGR = others | prescalers | source;
  /* meanwhile the timer counted more slowly by the prescalers that have gone now */
  const uint32_t slow = board_time_count(), gone = timer_shift(safe) - timer_shift(prescalers);
  const uint32_t since = slow - ((slow - count) << gone);
  board_time_rate_changed(count, since);
  return switched;
}

static bool is_internal(void) {
  return (RCC_CFGR & (RCC_CFGR_SW | RCC_CFGR_SWS | RCC_CFGR_PRESCALERS)) == 0 &&
         (RCC_CR & (RCC_CR_PLLON | RCC_CR_HSION)) == RCC_CR_HSION && (FLASH_ACR & FLASH_ACR_LATENCY) == 0;
}

static void go_internal(void) {
  if (is_internal()) return;
  RCC_CR |= RCC_CR_HSION;
  (void)wait_for(&RCC_CR, RCC_CR_HSIRDY, RCC_CR_HSIRDY, kPolls);
  (void)change_over(0, RCC_CFGR & RCC_CFGR_PRESCALERS, 0);
  flash_wait_states(0);
  RCC_CR &= ~RCC_CR_PLLON;
  (void)wait_for(&RCC_CR, RCC_CR_PLLRDY, 0, kPolls);
}

void board_clock_leave(void) { go_internal(); }

bool board_clock_wants_crystal(void) { return !avoid_crystal && !crystal_failed; }

static bool crystal_ready(void) {
  if (!board_clock_wants_crystal()) {
    RCC_CR &= ~(RCC_CR_HSEON | RCC_CR_CSSON);
    return false;
  }
  RCC_CR |= RCC_CR_HSEON;
  if (!wait_for(&RCC_CR, RCC_CR_HSERDY, RCC_CR_HSERDY, kCrystalPolls)) return false;
  if (watched) RCC_CR |= RCC_CR_CSSON;
  return true;
}

/* From the internal oscillator to the PLL. False: nothing has changed for the core. */
static bool lock(const point *to, bool crystal) {
  const uint32_t divider = crystal ? RQDKM_HSE_HZ / 1000000u / kPllInputMhz : kHsiMhz / kPllInputMhz;
  PWR_CR = to->scale1 ? PWR_CR | PWR_CR_VOS_SCALE1 : PWR_CR & ~PWR_CR_VOS_SCALE1; /* the PLL is off */
  RCC_PLLCFGR = divider | (uint32_t)to->n << 6 | (crystal ? RCC_PLLCFGR_SRC_HSE : 0u) | (uint32_t)to->q << 24;
  RCC_CR |= RCC_CR_PLLON;
  return wait_for(&RCC_CR, RCC_CR_PLLRDY, RCC_CR_PLLRDY, kPolls) &&
         wait_for(&PWR_CSR, PWR_CSR_VOSRDY, PWR_CSR_VOSRDY, kPolls);
}

/* From the internal oscillator to a point on the PLL. */
static bool go_pll(const point *to) {
  const bool crystal = crystal_ready();
  if (!crystal && board_clock_wants_crystal()) {
    RCC_CR &= ~RCC_CR_HSEON;
    crystal_failed = true;
    faults.crystal++;
    return false;
  }
  if (lock(to, crystal)) {
    flash_wait_states(to->wait_states);
    if (change_over(RCC_CFGR_SW_PLL, to->prescalers, to->prescalers)) return true;
  }
  if (!crystal_lost) faults.pll++;
  return false;
}

/* Between two points on one PLL frequency. */
static bool divide(const point *to) {
  const uint32_t wait_states = FLASH_ACR & FLASH_ACR_LATENCY;
  if (to->wait_states > wait_states) flash_wait_states(to->wait_states);
  const bool switched = change_over(RCC_CFGR_SW_PLL, to->prescalers, to->prescalers);
  if (to->wait_states < wait_states) flash_wait_states(to->wait_states);
  if (!switched && !crystal_lost) faults.pll++;
  return switched;
}

/* board_clock_init() went to the internal oscillator because the crystal did not start. */
static void look_at_start(void) {
  if (looked) return;
  looked = true;
  if (avoid_crystal || !runs_on_pll() || board_clock_on_crystal()) return;
  crystal_failed = true;
  faults.crystal++;
}

rqdkm_aras_status board_clock_set(uint32_t which) {
  look_at_start();
  if (which >= RQDKM_CLOCK_POINTS) {
    faults.refused++;
    return RQDKM_ARAS_REFUSED;
  }
  const point *to = &kPoints[which];
  const bool keeps_source = board_clock_on_crystal() || !board_clock_wants_crystal();
  if (board_clock_point() == which && (to->n == 0 ? (RCC_CR & RCC_CR_PLLON) == 0 : keeps_source)) return RQDKM_ARAS_OK;
  board_io_flush();
  bool reached = true;
  if (to->n && runs_on_pll() && pll_n() == to->n && keeps_source) {
    reached = divide(to);
  } else {
    go_internal();
    if (to->n) {
      reached = go_pll(to);
    } else {
      PWR_CR &= ~PWR_CR_VOS_SCALE1;
    }
  }
  if (!reached) {
    go_internal();
    PWR_CR &= ~PWR_CR_VOS_SCALE1;
  }
  crystal_lost = false;
  tell();
  return reached ? RQDKM_ARAS_OK : RQDKM_ARAS_FALLBACK;
}

void board_clock_prefer_crystal(bool crystal) {
  look_at_start();
  avoid_crystal = !crystal;
}

board_clock_faults board_clock_fault_counts(void) {
  look_at_start();
  return faults;
}

void board_clock_listen(board_clock_listener *listener) {
  listener->next = listeners;
  listeners = listener;
}

void board_clock_watch_crystal(void) {
  watched = true;
  if (RCC_CR & RCC_CR_HSERDY) RCC_CR |= RCC_CR_CSSON;
}

/* The hardware has switched to the internal oscillator and has stopped crystal and PLL; wait states and voltage are
   higher than needed. Listeners are told by the next call of the driver, which is not in an interrupt. */
void board_clock_nmi(void) {
  if ((RCC_CIR & RCC_CIR_CSSF) == 0) return;
  RCC_CIR |= RCC_CIR_CSSC;
  RCC_CFGR &= ~(RCC_CFGR_PRESCALERS | RCC_CFGR_SW);
  board_time_rate_lost();
  const board_clock clock = describe();
  board_port_clock_changed(&clock);
  crystal_failed = crystal_lost = true;
  faults.crystal++;
}
