/* SPDX-License-Identifier: GPL-2.0-or-later
 * System control block and FPU control registers (ARMv7-M ARM B3.2). */
#include "vboard.h"

scb_registers scb;

enum { AIRCR_KEY = 0x05fa, AIRCR_SYSRESETREQ = 4, ICSR_NMIPENDSET = 1u << 31 };

void scb_reset(void) { scb = (scb_registers){.vtor = FLASH_BASE, .ccr = CCR_STKALIGN, .fpccr = 0xc0000000u}; }

static uint32_t read_icsr(void) {
  uint32_t exception = cpu_reg(UC_ARM_REG_XPSR) & 0x1ff, value = exception;
  if (nvic_active_count() <= 1) value |= 1u << 11; /* RETTOBASE */
  int best = nvic_best_pending();
  value |= (uint32_t)best << 12;
  if (best >= 16) value |= 1u << 22;
  if (nvic_is_pending(EXC_SYSTICK)) value |= 1u << 26;
  if (nvic_is_pending(EXC_PENDSV)) value |= 1u << 28;
  if (nvic_is_pending(EXC_NMI)) value |= ICSR_NMIPENDSET;
  return value;
}

static void write_icsr(uint32_t value) {
  if (value & ICSR_NMIPENDSET) nvic_pend(EXC_NMI);
  if (value >> 28 & 1) nvic_pend(EXC_PENDSV);
  if (value >> 27 & 1) nvic_unpend(EXC_PENDSV);
  if (value >> 26 & 1) nvic_pend(EXC_SYSTICK);
  if (value >> 25 & 1) nvic_unpend(EXC_SYSTICK);
}

static uint32_t read_shcsr(void) {
  uint32_t value = scb.shcsr & 0x70000u;
  value |= (uint32_t)nvic_is_active(EXC_MEM) | (uint32_t)nvic_is_active(EXC_BUS) << 1 |
           (uint32_t)nvic_is_active(EXC_USAGE) << 3;
  value |= (uint32_t)nvic_is_active(EXC_SVC) << 7 | (uint32_t)nvic_is_active(EXC_PENDSV) << 10;
  return value | (uint32_t)nvic_is_active(EXC_SYSTICK) << 11;
}

uint32_t scb_read(uint32_t address) {
  uint32_t offset = address & 0xfff;
  if (offset >= 0xd90 && offset <= 0xdb8) return mpu_read(offset);
  switch (offset) {
    case 0xd00:
      return 0x410fc241; /* CPUID: Cortex-M4 r0p1 */
    case 0xd04:
      return read_icsr();
    case 0xd08:
      return scb.vtor;
    case 0xd0c:
      return 0xfa050000u | (scb.aircr & 0x700);
    case 0xd10:
      return scb.scr;
    case 0xd14:
      return scb.ccr;
    case 0xd18:
      return nvic_system_priority_read(4);
    case 0xd1c:
      return nvic_system_priority_read(8);
    case 0xd20:
      return nvic_system_priority_read(12);
    case 0xd24:
      return read_shcsr();
    case 0xd28:
      return scb.cfsr;
    case 0xd2c:
      return scb.hfsr;
    case 0xd30:
      return scb.dfsr;
    case 0xd34:
      return scb.mmfar;
    case 0xd38:
      return scb.bfar;
    case 0xd3c:
      return scb.afsr;
    case 0xd88:
      return scb.cpacr;
    case 0xf34:
      return scb.fpccr;
    case 0xf38:
      return scb.fpcar;
    case 0xf3c:
      return scb.fpdscr;
    case 0xf40:
      return 0x10110021; /* MVFR0, MVFR1: single precision */
    case 0xf44:
      return 0x11000011;
    default:
      return 0;
  }
}

void scb_write(uint32_t address, uint32_t value) {
  uint32_t offset = address & 0xfff;
  if (offset >= 0xd90 && offset <= 0xdb8) mpu_write(offset, value);
  switch (offset) {
    case 0xd04:
      write_icsr(value);
      break;
    case 0xd08:
      scb.vtor = value & 0x3fffff80u;
      break;
    case 0xd0c:
      if (value >> 16 != AIRCR_KEY) break;
      scb.aircr = value & 0x700;
      if (value & AIRCR_SYSRESETREQ)
        end_run(EXIT_CODE_LIMIT, "the firmware asked for a system reset (pc 0x%08x)", trace_pc());
      break;
    case 0xd10:
      scb.scr = value & 0x16;
      break;
    case 0xd14:
      scb.ccr = value & 0x31b;
      break;
    case 0xd18:
      nvic_system_priority_write(4, value);
      break;
    case 0xd1c:
      nvic_system_priority_write(8, value);
      break;
    case 0xd20:
      nvic_system_priority_write(12, value);
      break;
    case 0xd24:
      scb.shcsr = value & 0x70000u;
      break;
    case 0xd28:
      scb.cfsr &= ~value; /* write one to clear */
      break;
    case 0xd2c:
      scb.hfsr &= ~value;
      break;
    case 0xd30:
      scb.dfsr &= ~value;
      break;
    case 0xd88:
      scb.cpacr = value & 0x00f00000u;
      break;
    case 0xf00: /* STIR */
      if ((value & 0x1ff) < IRQ_COUNT) nvic_pend((int)(16 + (value & 0x1ff)));
      break;
    case 0xf34:
      scb.fpccr = value;
      break;
    case 0xf3c:
      scb.fpdscr = value & 0x07c00000u;
      break;
    default:
      break;
  }
}
