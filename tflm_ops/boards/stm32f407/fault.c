/* SPDX-License-Identifier: Apache-2.0 */
/* Every exception nobody handles ends here. MemManage, BusFault and UsageFault stay disabled and escalate to HardFault:
   the status registers say the same, and there is one way in.

   The handler notes everything on a small stack of its own (the faulting one may have overflowed), then returns to
   thread mode on the emptied main stack, where the report is written: there the semihosting breakpoint works, and is
   skipped when no debugger listens instead of locking the core up. */
#include "port/fault.h"

#include "board.h"
#include "registers.h"

enum { kExitFault = 98, kThreadMain = 0xFFFFFFF9, kBreakpointSemihosting = 0xBEAB };

extern uint32_t _stack_bottom[], _stack_first_frame[];
extern uint8_t _text_start[], _text_end[];

/* used from assembly */
uint32_t board_fault_stack[64] __attribute__((aligned(8), used));
void board_fault_entry(void);
void board_fault_handler(uint32_t *frame, uint32_t exc_return, const uint32_t *high);

static rqdkm_fault fault;
static volatile uint32_t faults;

__attribute__((naked, used)) void board_fault_entry(void) {
  __asm volatile(
      "mrs   r0, msp\n"
      "mov   r2, r0\n"
      "tst   lr, #4\n"
      "it    ne\n"
      "mrsne r0, psp\n" /* r0: the stacked frame */
      "mov   r1, lr\n"
      "ldr   r3, =board_fault_stack + 256\n"
      "msr   msp, r3\n"
      "push  {r2, lr}\n"
      "push  {r4-r11}\n"
      "mov   r2, sp\n"
      "bl    board_fault_handler\n" /* returns only when a breakpoint is to be skipped */
      "pop   {r4-r11}\n"
      "pop   {r2, lr}\n"
      "msr   msp, r2\n"
      "bx    lr\n"
      ".ltorg\n");
}

static void stop(void) __attribute__((noreturn));
static void stop(void) {
  for (;;) __asm volatile("wfi");
}

static void finish(void) __attribute__((noreturn));
static void finish(void) {
  rqdkm_fault_report(&fault);
  const volatile uint32_t exit[2] = {0x20026u /* ADP_Stopped_ApplicationExit */, kExitFault};
  (void)board_semihosting(0x20 /* SYS_EXIT_EXTENDED */, exit);
  stop();
}

/* A breakpoint without debugger is a hard fault with an empty CFSR. */
static bool skip_breakpoint(uint32_t *frame, uint32_t cfsr) {
  if (cfsr != 0 || (SCB_HFSR & SCB_HFSR_VECTTBL)) return false;
  if (*(const volatile uint16_t *)frame[6] != kBreakpointSemihosting) return false;
  SCB_HFSR = SCB_HFSR;    /* write 1 to clear */
  frame[0] = 0xffffffffu; /* "nobody answered" */
  frame[6] += 2;
  return true;
}

/* Return addresses are odd and lie in the code. Some of those found are left over from earlier calls; still, they name
   the culprit of an overflow, whose own program counter could not be saved. */
static void trace(uint32_t sp) {
  const uint32_t *word = sp < (uint32_t)_stack_bottom ? _stack_bottom : (const uint32_t *)sp;
  uint32_t found = 0;
  for (; word < _stack_first_frame && found < RQDKM_FAULT_TRACE; word++)
    if ((*word & 1u) && *word >= (uint32_t)_text_start && *word < (uint32_t)_text_end) fault.trace[found++] = *word;
}

void board_fault_handler(uint32_t *frame, uint32_t exc_return, const uint32_t *high) {
  const uint32_t cfsr = SCB_CFSR;
  if (skip_breakpoint(frame, cfsr)) return;
  if (faults++) stop(); /* the report itself crashed */
  __asm volatile("cpsid i" ::: "memory");
  uint32_t ipsr;
  __asm volatile("mrs %0, ipsr" : "=r"(ipsr));
  fault.exception = ipsr;
  fault.exc_return = exc_return;
  fault.cfsr = cfsr;
  fault.hfsr = SCB_HFSR;
  fault.mmfar = SCB_MMFAR;
  fault.bfar = SCB_BFAR;
  fault.sp = (uint32_t)frame;
  if (!(cfsr & SCB_CFSR_STACKING)) {
    fault.r0 = frame[0];
    fault.r1 = frame[1];
    fault.r2 = frame[2];
    fault.r3 = frame[3];
    fault.r12 = frame[4];
    fault.lr = frame[5];
    fault.pc = frame[6];
    fault.xpsr = frame[7];
    /* 8 words, 26 with floating point (EXC_RETURN bit 4 clear), one more to align (xPSR bit 9) */
    fault.sp += (exc_return & 16u ? 32u : 104u) + (frame[7] & 1u << 9 ? 4u : 0u);
  }
  fault.r4 = high[0];
  fault.r5 = high[1];
  fault.r6 = high[2];
  fault.r7 = high[3];
  fault.r8 = high[4];
  fault.r9 = high[5];
  fault.r10 = high[6];
  fault.r11 = high[7];
  trace(fault.sp);
  SCB_CFSR = cfsr;
  SCB_HFSR = fault.hfsr;
  FPU_FPCCR &= ~FPU_FPCCR_LSPACT; /* no late saving of FP registers to the abandoned stack */
  SCB_CCR |= 1u;                  /* NONBASETHRDENA: thread mode although an interrupt may still be active */
  uint32_t *top = _stack_first_frame;
  top[5] = 0;
  top[6] = (uint32_t)(uintptr_t)finish & ~1u;
  top[7] = 1u << 24;
  __asm volatile("msr msp, %0\n bx %1" : : "r"(top), "r"((uint32_t)kThreadMain) : "memory");
  __builtin_unreachable();
}
