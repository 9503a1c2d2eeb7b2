/* SPDX-License-Identifier: GPL-2.0-or-later
 * The run loop, and what Unicorn leaves to its user on M-profile: exception entry and return, faults, lockup
 * (ARMv7-M ARM B1.5). Latencies: 12 cycles entry and 6 tail-chaining (Cortex-M3/M4 TRM, "Exception handling"), 10
 * return. */
#include <string.h>

#include "vboard.h"

enum { ENTRY_CYCLES = 12, TAIL_CHAIN_CYCLES = 6, RETURN_CYCLES = 10 };
enum { CONTROL_NPRIV = 1, CONTROL_SPSEL = 2, CONTROL_FPCA = 4 };
enum { XPSR_T = 1u << 24, XPSR_ALIGN = 1u << 9, XPSR_EXCEPTION = 0x1ff, XPSR_IT = 0x0600fc00 };
enum { BASIC_WORDS = 8, EXTENDED_WORDS = 26 };
enum {
  UNICORN_SVC = 2,
  UNICORN_PREFETCH_ABORT,
  UNICORN_DATA_ABORT,
  UNICORN_BKPT = 7,
  UNICORN_EXCEPTION_EXIT = 8,
  UNICORN_SEMIHOST = 16,
  UNICORN_NOCP = 17
};
#define NO_ADDRESS_END 0xfffffffeu /* `until` of uc_emu_start: never an instruction address */

static uint32_t resume_pc; /* with the Thumb bit in bit 0 */

uint32_t cpu_reg(int uc_register) {
  uint32_t value = 0;
  uc_reg_read(machine.uc, uc_register, &value);
  return value;
}

void cpu_set_reg(int uc_register, uint32_t value) { uc_reg_write(machine.uc, uc_register, &value); }

/* Unicorn caches the mode in flags that only some register writes refresh; this one changes nothing else. */
static void refresh_mode(void) { cpu_set_reg(UC_ARM_REG_APSR_NZCV, cpu_reg(UC_ARM_REG_XPSR) & 0xf0000000u); }

void cpu_request_stop(stop_kind kind) {
  if (machine.stop != STOP_END) machine.stop = kind;
  uc_emu_stop(machine.uc);
}

void cpu_raise_fault(uint32_t cfsr, uint32_t address) {
  machine.fault = (fault_info){.cfsr = cfsr, .address = address};
  cpu_request_stop(STOP_FAULT);
}

/* ---- exception entry ---- */

static void store_fpu(uint32_t frame, bool *ok) {
  for (int k = 0; k < 8; k++) {
    uint64_t pair = 0;
    uc_reg_read(machine.uc, UC_ARM_REG_D0 + k, &pair);
    *ok &= memory_write32(frame + 32 + 8 * (uint32_t)k, (uint32_t)pair);
    *ok &= memory_write32(frame + 36 + 8 * (uint32_t)k, (uint32_t)(pair >> 32));
  }
  *ok &= memory_write32(frame + 96, cpu_reg(UC_ARM_REG_FPSCR));
}

/* Push the frame, switch to handler mode. Returns the value for LR; *ok is false when the stack is not writable memory.
 */
static uint32_t push_frame(uint32_t return_pc, bool *ok) {
  static const int saved[6] = {UC_ARM_REG_R0, UC_ARM_REG_R1,  UC_ARM_REG_R2,
                               UC_ARM_REG_R3, UC_ARM_REG_R12, UC_ARM_REG_LR};
  uint32_t xpsr = cpu_reg(UC_ARM_REG_XPSR), control = cpu_reg(UC_ARM_REG_CONTROL), sp = cpu_reg(UC_ARM_REG_SP);
  bool fpu = control & CONTROL_FPCA, handler = xpsr & XPSR_EXCEPTION, process = !handler && (control & CONTROL_SPSEL);
  bool force_align = fpu || (scb.ccr & CCR_STKALIGN), padded = force_align && (sp & 4);
  uint32_t frame = sp - 4 * (fpu ? EXTENDED_WORDS : BASIC_WORDS);
  frame &= force_align ? ~7u : ~3u;
  for (uint32_t k = 0; k < 6; k++) *ok &= memory_write32(frame + 4 * k, cpu_reg(saved[k]));
  *ok &= memory_write32(frame + 24, return_pc & ~1u);
  *ok &= memory_write32(frame + 28, (xpsr & ~(uint32_t)XPSR_ALIGN) | (padded ? XPSR_ALIGN : 0));
  if (fpu) store_fpu(frame, ok);
  trace_fpu_frame(fpu);
  cpu_set_reg(UC_ARM_REG_SP, frame);
  return 0xffffffe1u | (fpu ? 0 : 0x10) | (handler ? 0 : 8) | (process ? 4 : 0);
}

static void lockup(const char *why) {
  end_run(EXIT_CODE_LOCKUP, "lockup: %s (pc 0x%08x, CFSR 0x%08x, HFSR 0x%08x, BFAR 0x%08x)", why, trace_pc(), scb.cfsr,
          scb.hfsr, scb.bfar);
}

static void start_handler(int exception, uint32_t exc_return) {
  uint32_t vector = 0;
  nvic_enter(exception);
  uint32_t control = cpu_reg(UC_ARM_REG_CONTROL);
  cpu_set_reg(UC_ARM_REG_XPSR,
              (cpu_reg(UC_ARM_REG_XPSR) & ~(uint32_t)(XPSR_EXCEPTION | XPSR_IT)) | XPSR_T | (uint32_t)exception);
  cpu_set_reg(UC_ARM_REG_CONTROL, control & ~(uint32_t)CONTROL_FPCA);
  cpu_set_reg(UC_ARM_REG_LR, exc_return);
  refresh_mode();
  trace_break_pipeline();
  if (!memory_read32(scb.vtor + 4 * (uint32_t)exception, &vector)) {
    scb.hfsr |= HFSR_VECTTBL;
    lockup("the vector table is not readable");
    return;
  }
  resume_pc = vector;
  timeline_number("enter", (unsigned)exception, 0);
  profile_exception_enter(exception, vector & ~1u);
}

static void enter_exception(int exception, uint32_t return_pc) {
  bool ok = true;
  machine.cycles += ENTRY_CYCLES;
  uint32_t exc_return = push_frame(return_pc, &ok);
  if (!ok) { /* derived exception: the handler of a stacking error runs instead (B1.5.11) */
    scb.cfsr |= CFSR_STKERR;
    if (nvic_execution_priority() <= -1) {
      lockup("stacking failed inside a fault handler");
      return;
    }
    if (exception != EXC_HARD && exception != EXC_NMI) {
      scb.hfsr |= HFSR_FORCED;
      nvic_pend(exception);
      exception = EXC_HARD;
    }
  }
  start_handler(exception, exc_return);
}

/* ---- faults ---- */

static void take_fault(void) {
  fault_info fault = machine.fault;
  uint32_t return_pc = fault.use_pc ? fault.pc : cpu_reg(UC_ARM_REG_PC);
  scb.cfsr |= fault.cfsr;
  scb.hfsr |= fault.hfsr;
  if (fault.cfsr & CFSR_BFARVALID) scb.bfar = fault.address;
  if (fault.cfsr & CFSR_MMARVALID) scb.mmfar = fault.address;
  int exception = EXC_HARD;
  if (fault.cfsr & 0xffff0000u) {
    exception = EXC_USAGE;
  } else if (fault.cfsr & 0xff00u) {
    exception = EXC_BUS;
  } else if (fault.cfsr) {
    exception = EXC_MEM;
  }
  int priority = nvic_execution_priority();
  if (exception != EXC_HARD && !(nvic_handler_enabled(exception) && nvic_priority(exception) < priority)) {
    exception = EXC_HARD;
    scb.hfsr |= HFSR_FORCED;
  }
  if (exception == EXC_HARD && priority <= -1) {
    lockup("fault inside a fault handler or with FAULTMASK set");
    return;
  }
  enter_exception(exception, return_pc);
}

uint32_t cpu_fetch_fault(uint32_t pc) { /* peripherals, devices and system space are execute-never by default (B3.1) */
  bool execute_never = (pc >= 0x40000000u && pc < 0x60000000u) || pc >= 0xa0000000u;
  return execute_never ? CFSR_IACCVIOL : CFSR_IBUSERR;
}

/* An access that Unicorn refused, as the architecture reports it. */
static void fault_from_error(uc_err error, uint32_t pc) {
  switch (error) {
    case UC_ERR_FETCH_UNMAPPED:
    case UC_ERR_FETCH_PROT:
      machine.fault = (fault_info){.cfsr = cpu_fetch_fault(pc)};
      break;
    case UC_ERR_INSN_INVALID: /* also how Unicorn reports a branch to ARM state */
      machine.fault = (fault_info){.cfsr = (cpu_reg(UC_ARM_REG_XPSR) & XPSR_T) ? CFSR_UNDEFINSTR : CFSR_INVSTATE};
      break;
    default:
      break;
  }
}

static bool on_bad_access(uc_engine *uc, uc_mem_type type, uint64_t address, int size, int64_t value, void *user) {
  (void)uc, (void)type, (void)size, (void)value, (void)user;
  machine.fault = (fault_info){.cfsr = CFSR_PRECISERR | CFSR_BFARVALID, .address = (uint32_t)address};
  return false;
}

/* ---- exception return ---- */

static void load_fpu(uint32_t frame, bool *ok) {
  for (int k = 0; k < 8; k++) {
    uint32_t low = 0, high = 0;
    *ok &= memory_read32(frame + 32 + 8 * (uint32_t)k, &low) && memory_read32(frame + 36 + 8 * (uint32_t)k, &high);
    uint64_t pair = low | (uint64_t)high << 32;
    uc_reg_write(machine.uc, UC_ARM_REG_D0 + k, &pair);
  }
  uint32_t fpscr = 0;
  *ok &= memory_read32(frame + 96, &fpscr);
  cpu_set_reg(UC_ARM_REG_FPSCR, fpscr);
}

static void pop_frame(uint32_t exc_return) {
  static const int saved[6] = {UC_ARM_REG_R0, UC_ARM_REG_R1,  UC_ARM_REG_R2,
                               UC_ARM_REG_R3, UC_ARM_REG_R12, UC_ARM_REG_LR};
  bool process = exc_return & 4, fpu = !(exc_return & 0x10), ok = true;
  int stack_register = process ? UC_ARM_REG_PSP : UC_ARM_REG_MSP;
  uint32_t frame = cpu_reg(stack_register), words[BASIC_WORDS] = {0};
  for (uint32_t k = 0; k < BASIC_WORDS; k++) ok &= memory_read32(frame + 4 * k, &words[k]);
  if (fpu) load_fpu(frame, &ok);
  if (!ok) {
    machine.fault = (fault_info){.cfsr = CFSR_UNSTKERR, .pc = exc_return, .use_pc = true};
    take_fault();
    return;
  }
  uint32_t size = 4 * (fpu ? EXTENDED_WORDS : BASIC_WORDS), xpsr = words[7];
  uint32_t control = cpu_reg(UC_ARM_REG_CONTROL);
  cpu_set_reg(stack_register, frame + size + ((xpsr & XPSR_ALIGN) ? 4 : 0));
  for (uint32_t k = 0; k < 6; k++) cpu_set_reg(saved[k], words[k]);
  /* Stay privileged until the stack is selected, since unprivileged code may not select it. */
  cpu_set_reg(UC_ARM_REG_CONTROL, control & ~(uint32_t)CONTROL_NPRIV);
  cpu_set_reg(UC_ARM_REG_XPSR_NZCVQG, (xpsr & ~(uint32_t)XPSR_ALIGN));
  refresh_mode();
  control = (control & CONTROL_NPRIV) | (process ? CONTROL_SPSEL : 0) | (fpu ? CONTROL_FPCA : 0);
  cpu_set_reg(UC_ARM_REG_CONTROL, control);
  refresh_mode();
  trace_fpu_frame(false);
  trace_break_pipeline();
  resume_pc = words[6] | 1;
}

static void return_from_exception(uint32_t exc_return) {
  int exception = (int)(cpu_reg(UC_ARM_REG_XPSR) & XPSR_EXCEPTION);
  uint32_t kind = exc_return & 0xf;
  bool valid =
      (exc_return & 0xffffffe0u) == 0xffffffe0u && (kind == 1 || kind == 9 || kind == 13) && nvic_is_active(exception);
  bool to_thread = kind != 1;
  bool base_level = nvic_active_count() == 1;
  if (to_thread != base_level && !(to_thread && (scb.ccr & CCR_NONBASETHRDENA))) valid = false;
  nvic_leave(exception);
  if (exception != EXC_NMI) cpu_set_reg(UC_ARM_REG_FAULTMASK, 0);
  timeline_number("leave", (unsigned)exception, 0);
  profile_exception_leave();
  if (!valid) {
    machine.fault = (fault_info){.cfsr = CFSR_INVPC, .pc = exc_return, .use_pc = true};
    take_fault();
    return;
  }
  int next = nvic_take();
  if (next) { /* tail-chaining: the frame stays where it is */
    machine.cycles += TAIL_CHAIN_CYCLES;
    start_handler(next, exc_return);
    return;
  }
  machine.cycles += RETURN_CYCLES;
  pop_frame(exc_return);
  if (to_thread && (scb.scr & SCR_SLEEPONEXIT)) events_sleep(false);
}

/* ---- run loop ---- */

static void on_exception(uc_engine *uc, uint32_t number, void *user) {
  (void)uc, (void)user;
  if (machine.stop !=
      STOP_NONE) { /* Unicorn may raise its own exception after a stop was asked for, and forget the stop */
    uc_emu_stop(machine.uc);
    return;
  }
  switch (number) {
    case UNICORN_SVC:
      cpu_request_stop(STOP_SVC);
      return;
    case UNICORN_BKPT:
    case UNICORN_SEMIHOST:
      cpu_request_stop(STOP_BREAKPOINT);
      return;
    case UNICORN_EXCEPTION_EXIT:
      cpu_request_stop(STOP_EXCEPTION_RETURN);
      return;
    case UNICORN_NOCP:
      cpu_raise_fault(CFSR_NOCP, 0);
      return;
    case UNICORN_PREFETCH_ABORT:
      cpu_raise_fault(cpu_fetch_fault(cpu_reg(UC_ARM_REG_PC)), 0);
      return;
    case UNICORN_DATA_ABORT: /* Unicorn raises it for alignment only */
      cpu_raise_fault(CFSR_UNALIGNED, 0);
      return;
    default:
      cpu_raise_fault(CFSR_UNDEFINSTR, 0);
  }
}

static uint16_t halfword(uint32_t address) {
  const uint8_t *host = memory_host(address, 2, false);
  return host ? (uint16_t)(host[0] | host[1] << 8) : 0;
}

/* WFE and YIELD arrive as invalid instructions; PC is behind them. */
static bool on_invalid(uc_engine *uc, void *user) {
  (void)uc, (void)user;
  uint16_t before = halfword(cpu_reg(UC_ARM_REG_PC) - 2);
  if (before == 0xbf10) return true; /* YIELD */
  if (before != 0xbf20) return false;
  machine.next_event = 0;
  events_sleep(true);
  return true;
}

static void handle_breakpoint(uint32_t pc) {
  if (halfword(pc) == 0xbeab) {
    semihost_call();
    trace_break_pipeline();
    resume_pc = (pc + 2) | 1;
    return;
  }
  scb.dfsr |= 2;
  machine.fault = (fault_info){.hfsr = HFSR_DEBUGEVT, .pc = pc, .use_pc = true};
  take_fault();
}

static void handle_stop(uc_err error) {
  uint32_t pc = cpu_reg(UC_ARM_REG_PC);
  resume_pc = pc | 1;
  if (error != UC_ERR_OK && machine.stop != STOP_FAULT) {
    bool fetch = error == UC_ERR_FETCH_UNMAPPED || error == UC_ERR_FETCH_PROT;
    if (fetch && pc >= 0xffffffe0u && (cpu_reg(UC_ARM_REG_XPSR) & XPSR_EXCEPTION)) {
      return_from_exception(pc | 1);
      return;
    }
    if (fetch && memory_allow_code(pc)) return; /* the same instruction again */
    fault_from_error(error, pc);
    machine.stop = STOP_FAULT;
  }
  switch (machine.stop) {
    case STOP_NONE: /* halted by WFI */
      if (halfword(pc - 2) == 0xbf30 || (halfword(pc - 4) == 0xf3af && halfword(pc - 2) == 0x8003)) events_sleep(false);
      break;
    case STOP_INTERRUPT: {
      int exception = nvic_take();
      if (exception) enter_exception(exception, pc);
      break;
    }
    case STOP_SVC:
      nvic_pend(EXC_SVC);
      if (nvic_take() == EXC_SVC) {
        enter_exception(EXC_SVC, pc);
      } else { /* SVC that cannot be taken escalates (B1.5.4) */
        machine.fault = (fault_info){.pc = pc - 2, .use_pc = true};
        scb.hfsr |= HFSR_FORCED;
        take_fault();
      }
      break;
    case STOP_BREAKPOINT:
      handle_breakpoint(pc);
      break;
    case STOP_EXCEPTION_RETURN:
      return_from_exception(pc | 1);
      break;
    case STOP_FAULT:
      take_fault();
      break;
    case STOP_END:
      break;
  }
}

void cpu_init(void) {
  static uc_hook hooks[3];
  uc_hook_add(machine.uc, &hooks[0], UC_HOOK_INTR, (void *)on_exception, NULL, 1, 0);
  uc_hook_add(machine.uc, &hooks[1], UC_HOOK_MEM_INVALID, (void *)on_bad_access, NULL, 1, 0);
  uc_hook_add(machine.uc, &hooks[2], UC_HOOK_INSN_INVALID, (void *)on_invalid, NULL, 1, 0);
  uint32_t sp = 0, pc = 0;
  memory_read32(FLASH_BASE, &sp);
  memory_read32(FLASH_BASE + 4, &pc);
  cpu_set_reg(UC_ARM_REG_SP, sp & ~3u);
  cpu_set_reg(UC_ARM_REG_LR, 0xffffffffu);
  cpu_set_reg(UC_ARM_REG_FPEXC, 0x40000000u); /* Unicorn's own switch; CPACR is checked in trace.c */
  resume_pc = pc;
}

void cpu_run(void) {
  events_schedule();
  while (machine.stop != STOP_END) {
    machine.stop = STOP_NONE;
    uc_err error = uc_emu_start(machine.uc, resume_pc, NO_ADDRESS_END, 0, 0);
    if (machine.stop != STOP_END) handle_stop(error);
    events_recheck();
  }
}
