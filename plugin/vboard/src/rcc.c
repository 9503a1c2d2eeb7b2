/* SPDX-License-Identifier: GPL-2.0-or-later
 * Reset and clock control (RM0090 7) and flash interface (3.9): the clock tree, how long its sources take to start,
 * what stop mode does to them, and the rules of clocks. Start-up times: DS8626, worst case of the PLL, typical of the
 * others.
 */
#include <string.h>

#include "vboard.h"

enum {
  CR,
  PLLCFGR,
  CFGR,
  CIR,
  AHB1RSTR,
  APB1RSTR = 8,
  APB2RSTR,
  AHB1ENR = 12,
  APB1ENR = 16,
  APB2ENR,
  AHB1LPENR = 20,
  APB1LPENR = 24,
  APB2LPENR,
  BDCR = 28,
  CSR,
  REGISTERS = 40
};
enum { SOURCE_HSI, SOURCE_HSE, SOURCE_PLL };
enum { HSI_NS = 2200, HSE_NS = 2000000, HSI_HZ = 16000000 };
enum { MAX_CLOCK_CHANGES = 256, ACR_BITS = 0x1f07, ACR_ART = 0x700 };
enum { CR_CSSON = 1u << 19, CIR_CSSF = 1u << 7, CIR_CSSC = 1u << 23 };

clock_change clock_history[MAX_CLOCK_CHANGES];
size_t clock_change_count;

static uint32_t rcc[REGISTERS], acr;
static const unsigned on_bit[3] = {0, 16, 24}; /* in CR; the ready bit is the next one */
static uint64_t ready_ns[3];                   /* when a source that is on becomes ready */
static unsigned source;                        /* SWS */
static uint32_t hclk = HSI_HZ;
static uint64_t base_ns, base_cycle;
static unsigned pll_starts;
static const char *const source_names[3] = {"HSI", "HSE", "PLL"};

uint64_t rcc_nanoseconds(void) { return base_ns + (uint64_t)((double)(machine.cycles - base_cycle) * 1e9 / hclk); }
uint32_t rcc_hclk(void) { return hclk; }

uint64_t rcc_cycle_at(uint64_t nanoseconds) {
  uint64_t now = rcc_nanoseconds();
  if (nanoseconds == NEVER) return NEVER;
  if (nanoseconds <= now) return machine.cycles;
  return machine.cycles + (uint64_t)((double)(nanoseconds - now) * hclk / 1e9) + 1;
}

static void rebase(uint64_t nanoseconds) {
  base_ns = nanoseconds;
  base_cycle = machine.cycles;
}

void rcc_pass_stopped(uint64_t nanoseconds) { rebase(rcc_nanoseconds() + nanoseconds); }

static uint32_t pll_input_hz(void) {
  uint32_t m = rcc[PLLCFGR] & 63;
  return m ? (rcc[PLLCFGR] >> 22 & 1 ? machine.options.hse_hz : HSI_HZ) / m : 0;
}

static uint64_t vco_hz(void) { return (uint64_t)pll_input_hz() * (rcc[PLLCFGR] >> 6 & 511); }
static uint32_t pll_hz(void) { return (uint32_t)(vco_hz() / (2 * ((rcc[PLLCFGR] >> 16 & 3) + 1))); }

static uint32_t source_hz(unsigned which) {
  return which == SOURCE_PLL ? pll_hz() : which == SOURCE_HSE ? machine.options.hse_hz : HSI_HZ;
}

static unsigned ahb_shift(void) {
  static const uint8_t shift[16] = {0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4, 6, 7, 8, 9};
  return shift[rcc[CFGR] >> 4 & 15];
}

static unsigned apb_shift(unsigned field) { /* field: 10 for APB1, 13 for APB2 */
  unsigned value = rcc[CFGR] >> field & 7;
  return value < 4 ? 0 : value - 3;
}

uint32_t rcc_timer_divider(void) { /* timers run at twice a divided APB clock (RM0090 7.2) */
  unsigned shift = apb_shift(10);
  return 1u << (shift ? shift - 1 : 0);
}

static uint64_t start_up_ns(unsigned which) {
  if (which == SOURCE_HSI) return HSI_NS;
  if (which == SOURCE_HSE) return HSE_NS;
  double mhz = (double)vco_hz() / 1e6; /* 200 us at 100 MHz to 300 us at 432 MHz */
  double us = 200 + (mhz - 100) * 100 / 332;
  return (uint64_t)(1000 * (us < 200 ? 200 : us > 300 ? 300 : us));
}

static bool pll_uses_hse(void) { return rcc[PLLCFGR] >> 22 & 1; }
static bool is_on(unsigned which) { return rcc[CR] >> on_bit[which] & 1; }

static bool is_dead(unsigned which) {
  bool hse = machine.options.hse_dead || rcc_nanoseconds() >= machine.options.hse_stops_ns;
  if (which == SOURCE_HSE) return hse;
  return which == SOURCE_PLL && (machine.options.pll_dead || ready_ns[which] == NEVER || (hse && pll_uses_hse()));
}

static bool is_ready(unsigned which) { return is_on(which) && !is_dead(which) && rcc_nanoseconds() >= ready_ns[which]; }

void rcc_check(void) {
  uint32_t need = hclk ? (hclk - 1) / 30000000 : 0, ws = acr & 7; /* one wait state per started 30 MHz, 2.7 to 3.6 V */
  if (ws < need)
    violation_record("wait-states", "HCLK %u Hz needs %u flash wait states, FLASH_ACR has %u", hclk, need, ws);
  if (hclk > 144000000 && !power_scale1())
    violation_record("voltage-scale", "HCLK %u Hz needs regulator scale 1 (PWR_CR.VOS)", hclk);
  if (hclk > 168000000) violation_record("over-frequency", "HCLK %u Hz is above 168 MHz", hclk);
  uint32_t apb1 = hclk >> apb_shift(10), apb2 = hclk >> apb_shift(13);
  if (apb1 > 42000000) violation_record("over-frequency", "APB1 at %u Hz is above 42 MHz", apb1);
  if (apb2 > 84000000) violation_record("over-frequency", "APB2 at %u Hz is above 84 MHz", apb2);
}

static void note_change(void) {
  if (clock_change_count == MAX_CLOCK_CHANGES) return;
  clock_history[clock_change_count++] =
      (clock_change){machine.cycles, rcc_nanoseconds(), hclk, acr & 7, source_names[source]};
}

static void update_hclk(void) {
  uint32_t now = source_hz(source) >> ahb_shift();
  if (now && now != hclk) {
    rebase(rcc_nanoseconds());
    hclk = now;
    note_change();
    timeline_record("clock", source_names[source], hclk);
    events_recheck(); /* deadlines in seconds are other cycles now */
  }
  residency_update();
  rcc_check();
}

/* Complete a switch that waits for its source. */
static void try_switch(void) {
  unsigned wanted = rcc[CFGR] & 3;
  if (wanted == source || wanted > SOURCE_PLL || !is_ready(wanted)) return;
  source = wanted;
  update_hclk();
}

/* The crystal has stopped. The clock security system switches to the internal oscillator and raises the NMI (RM0090
 * 7.2.7); without it a core that runs from the crystal stands still. */
static void lose_crystal(void) {
  bool core_uses_it = source == SOURCE_HSE || (source == SOURCE_PLL && pll_uses_hse());
  if (!(rcc[CR] & CR_CSSON)) {
    if (core_uses_it)
      end_run(EXIT_CODE_LIMIT, "the crystal stopped, it drives the core, and clock security is off (pc 0x%08x)",
              trace_pc());
    return;
  }
  rcc[CR] &= ~(1u << on_bit[SOURCE_HSE]);
  if (core_uses_it) {
    if (source == SOURCE_PLL) rcc[CR] &= ~(1u << on_bit[SOURCE_PLL]);
    rcc[CFGR] &= ~3u;
    source = SOURCE_HSI;
  }
  rcc[CIR] |= CIR_CSSF;
  nvic_set_line(EXC_NMI - 16, true);
  update_hclk();
}

/* The detector works from when the crystal was ready. */
static bool crystal_ran(void) { return is_on(SOURCE_HSE) && ready_ns[SOURCE_HSE] <= machine.options.hse_stops_ns; }

/* Deep sleep stops every fast clock and comes back on the internal oscillator (RM0090 5.3.5); prescalers, wait states
 * and the regulator's scale stay as they were. */
void rcc_stop(void) {
  rcc[CR] = (rcc[CR] | 1u) & ~(1u << on_bit[SOURCE_HSE] | 1u << on_bit[SOURCE_PLL] | 1u << 26);
  rcc[CFGR] &= ~3u;
  source = SOURCE_HSI;
  ready_ns[SOURCE_HSI] = 0; /* ready when the core is: part of the wake-up time */
  update_hclk();
}

uint64_t rcc_deadline(void) {
  uint64_t stops = machine.options.hse_stops_ns, at = NEVER;
  if (is_on(SOURCE_HSE) && stops != NEVER && rcc_nanoseconds() < stops) at = rcc_cycle_at(stops);
  unsigned wanted = rcc[CFGR] & 3;
  if (wanted == source || wanted > SOURCE_PLL || !is_on(wanted) || is_dead(wanted)) return at;
  uint64_t ready = rcc_cycle_at(ready_ns[wanted]);
  return ready < at ? ready : at;
}

void rcc_service(void) {
  if (rcc_nanoseconds() >= machine.options.hse_stops_ns && crystal_ran()) lose_crystal();
  try_switch();
}

void rcc_reset(void) {
  memset(rcc, 0, sizeof rcc);
  rcc[CR] = 0x81;
  rcc[PLLCFGR] = 0x24003010;
  rcc[AHB1ENR] = 0x00100000;
  rcc[AHB1LPENR] = 0x7e6791ff; /* all on in sleep */
  rcc[APB1LPENR] = 0x36fec9ff;
  rcc[APB2LPENR] = 0x00075f33;
  rcc[CSR] = 0x0e000000;
  power_reset();
  flash_model_configure(acr = 0);
  note_change();
  timeline_record("clock", source_names[source], hclk);
}

bool rcc_enabled(unsigned register_index, unsigned bit) { return rcc[register_index] >> bit & 1; }
bool rcc_pll_on(void) { return is_on(SOURCE_PLL); }
uint32_t rcc_apb_hz(unsigned bus) { return hclk >> apb_shift(bus == 1 ? 10 : 13); }

clock_state rcc_state(bool asleep) {
  uint32_t gate = asleep ? 0 : UINT32_MAX;
  return (clock_state){.hclk_hz = hclk,
                       .source = source_names[source],
                       .vco_hz = is_on(SOURCE_PLL) ? (uint32_t)vco_hz() : 0,
                       .hse_on = is_on(SOURCE_HSE),
                       .wait_states = acr & 7,
                       .art = (acr & ACR_ART) == ACR_ART,
                       .ahb1 = rcc[AHB1ENR] & (rcc[AHB1LPENR] | gate),
                       .apb1 = rcc[APB1ENR] & (rcc[APB1LPENR] | gate),
                       .apb2 = rcc[APB2ENR] & (rcc[APB2LPENR] | gate)};
}

uint32_t rcc_read(uint32_t address) {
  uint32_t index = (address & 0x3ff) / 4;
  try_switch();
  if (index >= REGISTERS) return 0;
  uint32_t value = rcc[index];
  if (index == CR) {
    for (unsigned k = 0; k < 3; k++) value |= (uint32_t)is_ready(k) << (on_bit[k] + 1);
    if (value >> 26 & 1) value |= 1u << 27; /* PLLI2S: no start-up time */
  } else if (index == CFGR) {
    value = (value & ~0xcu) | source << 2;
  } else if (index == BDCR || index == CSR) {
    return rtc_clock_read(index == BDCR, value);
  }
  return value;
}

static void check_pll(void) {
  uint32_t input = pll_input_hz(), m = rcc[PLLCFGR] & 63, n = rcc[PLLCFGR] >> 6 & 511;
  if (m < 2 || n < 50 || n > 432) violation_record("pll", "PLLM %u or PLLN %u is out of range (2..63, 50..432)", m, n);
  if (input < 950000 || input > 2100000)
    violation_record("pll", "PLL input of %u Hz is outside 0.95 to 2.1 MHz", input);
  if (vco_hz() < 100000000 || vco_hz() > 432000000)
    violation_record("pll", "PLL VCO at %llu Hz is outside 100 to 432 MHz", (unsigned long long)vco_hz());
}

static void write_cr(uint32_t value) {
  value &= 0x050d00f9u; /* ready bits and HSICAL are read only */
  for (unsigned k = 0; k < 3; k++) {
    bool used = source == k || (source == SOURCE_PLL && k == (pll_uses_hse() ? SOURCE_HSE : SOURCE_HSI));
    bool was = is_on(k), now = value >> on_bit[k] & 1;
    if (was && !now && used) {
      violation_record("clock-source", "%s switched off while it drives the system clock (ignored)", source_names[k]);
      value |= 1u << on_bit[k];
      now = true;
    }
    if (!was && now) {
      if (k == SOURCE_PLL) {
        check_pll();
        unsigned input = pll_uses_hse() ? SOURCE_HSE : SOURCE_HSI;
        if (!is_ready(input))
          violation_record("pll", "PLL switched on before its input %s is ready", source_names[input]);
      }
      bool miss = k == SOURCE_PLL && ++pll_starts == machine.options.pll_miss;
      ready_ns[k] = miss ? NEVER : rcc_nanoseconds() + start_up_ns(k);
    }
  }
  rcc[CR] = value;
  residency_update();
}

static void write_cir(uint32_t value) {
  rcc[CIR] = (rcc[CIR] & CIR_CSSF) | (value & 0x3f00u);
  if (value & CIR_CSSC) {
    rcc[CIR] &= ~(uint32_t)CIR_CSSF;
    nvic_set_line(EXC_NMI - 16, false);
  }
}

static void write_cfgr(uint32_t value) {
  tim_clock_changes();
  rcc[CFGR] = value & ~0xcu;
  unsigned wanted = value & 3;
  if (wanted == 3) {
    violation_record("clock-source", "RCC_CFGR.SW = 3 is not allowed");
  } else if (wanted != source && !is_on(wanted)) {
    violation_record("clock-source", "system clock switched to %s, which is off", source_names[wanted]);
  }
  update_hclk();
  try_switch();
  tim_clock_changed();
}

void rcc_write(uint32_t address, uint32_t value) {
  uint32_t index = (address & 0x3ff) / 4;
  try_switch();
  switch (index) {
    case CR:
      write_cr(value);
      break;
    case PLLCFGR:
      if (is_on(SOURCE_PLL)) {
        violation_record("pll", "RCC_PLLCFGR written while the PLL is on (ignored)");
      } else {
        rcc[PLLCFGR] = value & 0x0f437fffu;
      }
      break;
    case CFGR:
      write_cfgr(value);
      break;
    case CIR:
      write_cir(value);
      break;
    case BDCR:
    case CSR:
      rcc[index] = rtc_clock_write(index == BDCR, rcc[index], value);
      break;
    case APB1RSTR:
      tim_reset(value & 0x3f);
      if (value >> 17 & 1) usart_reset();
      rcc[index] = value;
      break;
    case APB2RSTR:
      if (value >> 4 & 1) usart_reset();
      rcc[index] = value;
      break;
    default:
      if (index >= REGISTERS) break;
      rcc[index] = value;
      residency_update();
  }
}

uint32_t flash_interface_read(uint32_t address) {
  switch (address & 0x3ff) {
    case 0x00:
      return acr;
    case 0x10:
      return 0x80000000u; /* CR: locked; programming is not modelled */
    case 0x14:
      return 0x0fffaaedu; /* OPTCR reset value */
    default:
      return 0;
  }
}

void flash_interface_write(uint32_t address, uint32_t value) {
  if ((address & 0x3ff) != 0) return;
  uint32_t before = acr & 7;
  acr = value & ACR_BITS;
  flash_model_configure(acr);
  acr &= 0x0707u;
  residency_update();
  if ((acr & 7) != before) note_change();
  rcc_check();
}
