/* SPDX-License-Identifier: GPL-2.0-or-later
 * Reset and clock control (RM0090 7), power control (5.4), flash interface (3.9): the clock tree, how long its sources
 * take to start, and the rules that silicon does not check but suffers from. Start-up times: DS8626, worst case of the
 * PLL, typical of the others. A broken rule is a "violation": recorded with time, PC and reason, fatal with
 * --strict-clock. */
#include <stdarg.h>
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
  CSR = 29,
  REGISTERS = 40
};
enum { SOURCE_HSI, SOURCE_HSE, SOURCE_PLL };
enum { HSI_NS = 2200, HSE_NS = 2000000, HSI_HZ = 16000000 };
enum { PWR_VOS = 1u << 14, MAX_VIOLATIONS = 64, MAX_CLOCK_CHANGES = 256, ACR_BITS = 0x1f07 };

violation violations[MAX_VIOLATIONS];
size_t violation_count;
clock_change clock_history[MAX_CLOCK_CHANGES];
size_t clock_change_count;

static uint32_t rcc[REGISTERS], pwr_cr, acr;
static const unsigned on_bit[3] = {0, 16, 24}; /* in CR; the ready bit is the next one */
static uint64_t ready_ns[3];                   /* when a source that is on becomes ready */
static unsigned source;                        /* SWS */
static uint32_t hclk = HSI_HZ;
static uint64_t base_ns, base_cycle;
static const char *const source_names[3] = {"HSI", "HSE", "PLL"};

void violation_record(const char *kind, const char *format, ...) {
  char reason[sizeof violations[0].reason];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(reason, sizeof reason, format, arguments);
  va_end(arguments);
  for (size_t k = 0; k < violation_count; k++) {
    violation *v = &violations[k];
    if (v->pc == trace_pc() && strcmp(v->kind, kind) == 0 && strcmp(v->reason, reason) == 0) {
      v->count++;
      return;
    }
  }
  if (violation_count < MAX_VIOLATIONS) {
    violation *v = &violations[violation_count++];
    *v = (violation){.cycle = machine.cycles, .nanoseconds = rcc_nanoseconds(), .pc = trace_pc(), .count = 1};
    snprintf(v->kind, sizeof v->kind, "%s", kind);
    snprintf(v->reason, sizeof v->reason, "%s", reason);
    message("violation at %.3f ms, pc 0x%08x: %s", (double)v->nanoseconds / 1e6, trace_pc(), reason);
  }
  if (machine.options.strict_clock) end_run(EXIT_CODE_CLOCK, "clock violation (pc 0x%08x): %s", trace_pc(), reason);
}

uint64_t rcc_nanoseconds(void) { return base_ns + (uint64_t)((double)(machine.cycles - base_cycle) * 1e9 / hclk); }
uint32_t rcc_hclk(void) { return hclk; }

static uint32_t pll_input_hz(void) {
  uint32_t m = rcc[PLLCFGR] & 63;
  return m ? ((rcc[PLLCFGR] >> 22 & 1) ? machine.options.hse_hz : HSI_HZ) / m : 0;
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

static bool is_dead(unsigned which) {
  bool hse = machine.options.hse_dead, pll_on_hse = rcc[PLLCFGR] >> 22 & 1;
  return (which == SOURCE_HSE && hse) || (which == SOURCE_PLL && (machine.options.pll_dead || (hse && pll_on_hse)));
}

static bool is_on(unsigned which) { return rcc[CR] >> on_bit[which] & 1; }
static bool is_ready(unsigned which) { return is_on(which) && !is_dead(which) && rcc_nanoseconds() >= ready_ns[which]; }

static void check_clocks(void) {
  uint32_t need = hclk ? (hclk - 1) / 30000000 : 0, ws = acr & 7; /* one wait state per started 30 MHz, 2.7 to 3.6 V */
  if (ws < need)
    violation_record("wait-states", "HCLK %u Hz needs %u flash wait states, FLASH_ACR has %u", hclk, need, ws);
  if (hclk > 144000000 && !(pwr_cr & PWR_VOS))
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
    base_ns = rcc_nanoseconds();
    base_cycle = machine.cycles;
    hclk = now;
    note_change();
  }
  check_clocks();
}

/* Complete a switch that waits for its source. */
static void try_switch(void) {
  unsigned wanted = rcc[CFGR] & 3;
  if (wanted == source || wanted > SOURCE_PLL || !is_ready(wanted)) return;
  source = wanted;
  update_hclk();
}

uint64_t rcc_deadline(void) {
  unsigned wanted = rcc[CFGR] & 3;
  if (wanted == source || wanted > SOURCE_PLL || !is_on(wanted) || is_dead(wanted)) return NEVER;
  uint64_t now = rcc_nanoseconds();
  if (ready_ns[wanted] <= now) return machine.cycles;
  return machine.cycles + (uint64_t)((double)(ready_ns[wanted] - now) * hclk / 1e9) + 1;
}

void rcc_service(void) { try_switch(); }

void rcc_reset(void) {
  memset(rcc, 0, sizeof rcc);
  rcc[CR] = 0x81;
  rcc[PLLCFGR] = 0x24003010;
  rcc[AHB1ENR] = 0x00100000;
  rcc[CSR] = 0x0e000000;
  pwr_cr = PWR_VOS;
  flash_model_configure(acr = 0);
  note_change();
}

bool rcc_enabled(unsigned register_index, unsigned bit) { return rcc[register_index] >> bit & 1; }

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
    bool used = source == k || (source == SOURCE_PLL && k == ((rcc[PLLCFGR] >> 22 & 1) ? SOURCE_HSE : SOURCE_HSI));
    bool was = is_on(k), now = value >> on_bit[k] & 1;
    if (was && !now && used) {
      violation_record("clock-source", "%s switched off while it drives the system clock (ignored)", source_names[k]);
      value |= 1u << on_bit[k];
      now = true;
    }
    if (!was && now) {
      if (k == SOURCE_PLL) {
        check_pll();
        unsigned input = (rcc[PLLCFGR] >> 22 & 1) ? SOURCE_HSE : SOURCE_HSI;
        if (!is_ready(input))
          violation_record("pll", "PLL switched on before its input %s is ready", source_names[input]);
      }
      ready_ns[k] = rcc_nanoseconds() + start_up_ns(k);
    }
  }
  rcc[CR] = value;
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
    case APB1RSTR:
      if (value & 0x11) tim_reset();
      if (value >> 17 & 1) usart_reset();
      rcc[index] = value;
      break;
    case APB2RSTR:
      if (value >> 4 & 1) usart_reset();
      rcc[index] = value;
      break;
    default:
      if (index < REGISTERS) rcc[index] = value;
  }
}

uint32_t pwr_read(uint32_t address) { return (address & 0x3ff) == 0 ? pwr_cr : PWR_VOS; /* PWR_CSR.VOSRDY */ }

void pwr_write(uint32_t address, uint32_t value) {
  if ((address & 0x3ff) != 0) return;
  pwr_cr = value & 0x0000c3ffu;
  check_clocks();
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
  if ((acr & 7) != before) note_change();
  check_clocks();
}
