/* SPDX-License-Identifier: GPL-2.0-or-later
 * NVIC: pending, enabled, active and priority of every exception (ARMv7-M ARM B1.5.4 and B3.4).
 * The STM32F407 implements 4 priority bits (RM0090 12.1.1): 16 levels in bits 7:4. */
#include <string.h>

#include "vboard.h"

enum { PRIORITY_MASK = 0xf0, THREAD_PRIORITY = 256 };

static bool pending[EXCEPTION_COUNT], enabled[EXCEPTION_COUNT], active[EXCEPTION_COUNT], line[EXCEPTION_COUNT];
static uint8_t priority[EXCEPTION_COUNT];
static int pending_count;

static void set_pending(int exception, bool value) {
  if (pending[exception] != value) pending_count += value ? 1 : -1;
  pending[exception] = value;
}

void nvic_pend(int exception) {
  set_pending(exception, true);
  events_recheck();
}

void nvic_set_line(int irq, bool level) {
  int exception = 16 + irq;
  if (level && !line[exception] && !active[exception]) nvic_pend(exception);
  line[exception] = level;
}

int nvic_priority(int exception) {
  if (exception == EXC_RESET) return -3;
  if (exception == EXC_NMI) return -2;
  if (exception == EXC_HARD) return -1;
  return priority[exception];
}

/* The part of a priority that decides pre-emption (AIRCR.PRIGROUP). */
static int group(int value) {
  if (value < 0) return value;
  unsigned split = scb.aircr >> 8 & 7; /* bits split:0 are the sub-priority */
  return value & ~((2 << split) - 1) & 0xff;
}

int nvic_execution_priority(void) {
  int lowest = THREAD_PRIORITY;
  for (int e = EXC_NMI; e < EXCEPTION_COUNT; e++) {
    if (active[e] && group(nvic_priority(e)) < lowest) lowest = group(nvic_priority(e));
  }
  int basepri = (int)(cpu_reg(UC_ARM_REG_BASEPRI) & PRIORITY_MASK);
  if (basepri && group(basepri) < lowest) lowest = group(basepri);
  if ((cpu_reg(UC_ARM_REG_PRIMASK) & 1) && lowest > 0) lowest = 0;
  if ((cpu_reg(UC_ARM_REG_FAULTMASK) & 1) && lowest > -1) lowest = -1;
  return lowest;
}

/* The pending, enabled exception of highest priority (lowest number on a tie), or 0. */
static int best_pending(void) {
  int best = 0;
  if (pending_count == 0) return 0;
  for (int e = EXC_NMI; e < EXCEPTION_COUNT; e++) {
    if (!pending[e] || (e >= 16 && !enabled[e])) continue;
    if (!best || nvic_priority(e) < nvic_priority(best)) best = e;
  }
  return best;
}

int nvic_take(void) {
  int best = best_pending();
  return best && group(nvic_priority(best)) < nvic_execution_priority() ? best : 0;
}

bool nvic_wakeup(void) {
  int best = best_pending();
  if (!best) return false;
  uint32_t primask = cpu_reg(UC_ARM_REG_PRIMASK);
  if (primask & 1) cpu_set_reg(UC_ARM_REG_PRIMASK, 0); /* PRIMASK does not keep WFI asleep (B1.5.18) */
  bool wakes = group(nvic_priority(best)) < nvic_execution_priority();
  if (primask & 1) cpu_set_reg(UC_ARM_REG_PRIMASK, primask);
  return wakes;
}

void nvic_enter(int exception) {
  set_pending(exception, false);
  active[exception] = true;
}

void nvic_leave(int exception) {
  active[exception] = false;
  if (line[exception]) nvic_pend(exception); /* the request is still there */
}

bool nvic_is_active(int exception) { return exception > 0 && exception < EXCEPTION_COUNT && active[exception]; }

int nvic_active_count(void) {
  int count = 0;
  for (int e = EXC_NMI; e < EXCEPTION_COUNT; e++) count += active[e];
  return count;
}

bool nvic_handler_enabled(int exception) { return scb.shcsr >> (16 + exception - EXC_MEM) & 1; }

static uint32_t gather(const bool *flags, uint32_t index) {
  uint32_t word = 0;
  for (uint32_t k = 0; k < 32 && index * 32 + k < IRQ_COUNT; k++) word |= (uint32_t)flags[16 + index * 32 + k] << k;
  return word;
}

uint32_t nvic_read(uint32_t address) {
  uint32_t offset = address & 0xfff, index = offset >> 2 & 31;
  if (offset == 0x004) return (IRQ_COUNT - 1) / 32; /* ICTR */
  if (offset >= 0x400 && offset < 0x400 + (IRQ_COUNT + 3) / 4 * 4) {
    uint32_t word = 0;
    for (uint32_t k = 0; k < 4 && offset - 0x400 + k < IRQ_COUNT; k++)
      word |= (uint32_t)priority[16 + offset - 0x400 + k] << 8 * k;
    return word;
  }
  switch (offset >> 7) {
    case 2: /* ISER */
    case 3: /* ICER */
      return gather(enabled, index);
    case 4: /* ISPR */
    case 5: /* ICPR */
      return gather(pending, index);
    case 6: /* IABR */
      return gather(active, index);
    default:
      return 0;
  }
}

void nvic_write(uint32_t address, uint32_t value) {
  uint32_t offset = address & 0xfff, index = offset >> 2 & 31;
  if (offset >= 0x400 && offset < 0x400 + IRQ_COUNT) {
    for (uint32_t k = 0; k < 4 && offset - 0x400 + k < IRQ_COUNT; k++) {
      priority[16 + offset - 0x400 + k] = (uint8_t)(value >> 8 * k & PRIORITY_MASK);
    }
    return;
  }
  for (uint32_t k = 0; k < 32 && index * 32 + k < IRQ_COUNT; k++) {
    if (!(value >> k & 1)) continue;
    int exception = (int)(16 + index * 32 + k);
    switch (offset >> 7) {
      case 2:
        enabled[exception] = true;
        break;
      case 3:
        enabled[exception] = false;
        break;
      case 4:
        set_pending(exception, true);
        break;
      case 5:
        set_pending(exception, line[exception]);
        break;
      default:
        break;
    }
  }
}

/* SHPR1 to SHPR3 live in the system control block but belong to the priorities here. */
uint32_t nvic_system_priority_read(uint32_t first) {
  uint32_t word = 0;
  for (uint32_t k = 0; k < 4; k++) word |= (uint32_t)priority[first + k] << 8 * k;
  return word;
}

void nvic_system_priority_write(uint32_t first, uint32_t value) {
  for (uint32_t k = 0; k < 4; k++) priority[first + k] = (uint8_t)(value >> 8 * k & PRIORITY_MASK);
}

void nvic_unpend(int exception) { set_pending(exception, false); }
bool nvic_is_pending(int exception) { return pending[exception]; }
int nvic_best_pending(void) { return best_pending(); }
