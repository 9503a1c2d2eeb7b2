/* SPDX-License-Identifier: GPL-2.0-or-later
 * SysTick (ARMv7-M ARM B3.3), DWT cycle counter (C1.8), debug registers that firmware looks at. */
#include "vboard.h"

enum { CTRL_ENABLE = 1, CTRL_TICKINT = 2, CTRL_CLKSOURCE = 4, CTRL_COUNTFLAG = 1u << 16, COUNTER_BITS = 0xffffff };
enum { DEMCR_TRCENA = 1u << 24, DBG_SLEEP = 1 };

static struct {
  uint32_t ctrl, load, held; /* held: counter value while disabled */
  uint64_t zero_at;          /* cycle at which the enabled counter reaches 0 next */
} systick;

static uint64_t tick_cycles(void) { return (systick.ctrl & CTRL_CLKSOURCE) ? 1 : 8; }

void systick_service(void) {
  if (!(systick.ctrl & CTRL_ENABLE) || machine.cycles < systick.zero_at) return;
  uint64_t period = (systick.load + 1ull) * tick_cycles();
  systick.ctrl |= CTRL_COUNTFLAG;
  if (systick.ctrl & CTRL_TICKINT) nvic_pend(EXC_SYSTICK);
  if (systick.load == 0) {
    systick.zero_at = NEVER; /* a reload value of 0 stops the counter after this pass */
  } else {
    systick.zero_at += ((machine.cycles - systick.zero_at) / period + 1) * period;
  }
}

uint64_t systick_deadline(void) {
  return (systick.ctrl & CTRL_ENABLE) && (systick.ctrl & CTRL_TICKINT) ? systick.zero_at : NEVER;
}

static uint32_t systick_value(void) {
  if (!(systick.ctrl & CTRL_ENABLE)) return systick.held;
  if (systick.zero_at == NEVER) return 0;
  uint64_t ticks = (systick.zero_at - machine.cycles + tick_cycles() - 1) / tick_cycles();
  return ticks > systick.load ? 0 : (uint32_t)ticks;
}

static void start_from(uint32_t value) { /* from 0 the next tick loads LOAD */
  uint64_t ticks = value ? value : systick.load + 1ull;
  systick.zero_at = value || systick.load ? machine.cycles + ticks * tick_cycles() : NEVER;
}

uint32_t systick_read(uint32_t address) {
  systick_service();
  switch (address & 0xf) {
    case 0x0: {
      uint32_t value = systick.ctrl;
      systick.ctrl &= ~(uint32_t)CTRL_COUNTFLAG; /* cleared by reading */
      return value;
    }
    case 0x4:
      return systick.load;
    case 0x8:
      return systick_value();
    default:
      return 18750; /* CALIB: 1 ms at HCLK/8 of 150 MHz (RM0090 12.1.2) */
  }
}

void systick_write(uint32_t address, uint32_t value) {
  systick_service();
  uint32_t now = systick_value();
  switch (address & 0xf) {
    case 0x0:
      systick.ctrl = (systick.ctrl & CTRL_COUNTFLAG) | (value & 7);
      systick.held = now;
      if (systick.ctrl & CTRL_ENABLE) start_from(now);
      break;
    case 0x4:
      systick.load = value & COUNTER_BITS;
      break;
    case 0x8:
      systick.held = 0;
      systick.ctrl &= ~(uint32_t)CTRL_COUNTFLAG;
      if (systick.ctrl & CTRL_ENABLE) start_from(0);
      break;
    default:
      break;
  }
}

static uint32_t dwt_ctrl, demcr, dbgmcu_cr;
static uint64_t cyccnt_origin; /* cycle count at which CYCCNT was 0, on the counter's own time line */
static uint32_t cyccnt_held;

/* CYCCNT stands still while the core sleeps, unless DBGMCU_CR keeps the clocks running. */
static uint64_t core_cycles(void) { return machine.cycles - ((dbgmcu_cr & DBG_SLEEP) ? 0 : machine.sleep_cycles); }

static bool cyccnt_runs(void) { return (dwt_ctrl & 1) && (demcr & DEMCR_TRCENA); }
static uint32_t cyccnt(void) { return cyccnt_runs() ? (uint32_t)(core_cycles() - cyccnt_origin) : cyccnt_held; }

static void cyccnt_set(uint32_t value) {
  cyccnt_held = value;
  cyccnt_origin = core_cycles() - value;
}

uint32_t dwt_read(uint32_t address) {
  switch (address & 0xfff) {
    case 0x0:
      return 0x40000000u | dwt_ctrl; /* four comparators, none modelled */
    case 0x4:
      return cyccnt();
    default:
      return 0;
  }
}

void dwt_write(uint32_t address, uint32_t value) {
  uint32_t count = cyccnt();
  if ((address & 0xfff) == 0x0) {
    dwt_ctrl = value & 1;
    cyccnt_set(count);
  } else if ((address & 0xfff) == 0x4) {
    cyccnt_set(value);
  }
}

uint32_t debug_read(uint32_t address) {
  switch (address) {
    case 0xe000edf0:
      return 1; /* DHCSR.C_DEBUGEN: semihosting has a host */
    case 0xe000edfc:
      return demcr;
    case 0xe0042000:
      return 0x10076413; /* DBGMCU_IDCODE: STM32F405/407 */
    case 0xe0042004:
      return dbgmcu_cr;
    default:
      return 0;
  }
}

void debug_write(uint32_t address, uint32_t value) {
  uint32_t count = cyccnt();
  if (address == 0xe000edfc) {
    demcr = value & 0x010f07f1u;
  } else if (address == 0xe0042004) {
    dbgmcu_cr = value;
  } else {
    return;
  }
  cyccnt_set(count);
}
