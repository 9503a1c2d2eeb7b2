"""NVIC, SysTick, timers, sleep: latencies, periods, masking, order."""

from __future__ import annotations

import itertools

import pytest

from .conftest import Bench

FINISH = "\n  movs r0, #0\n  b finish\n  .ltorg\n"


def test_entry_and_exit_latency(board: Bench) -> None:
    # SVC: 1 + entry 12; handler: load CYCCNT 2 (r9) then BX 1; return 10; the NOP and load after it 1 + 2.
    body = """
  ldr r6, =DWT_CYCCNT
  ldr r7, [r6]
  svc 0
  nop
  ldr r8, [r6]
  sub r0, r9, r7
  bl emit
  sub r0, r8, r9
  bl emit
"""
    handler = "  .thumb_func\n  .global svc_handler\nsvc_handler:\n  ldr r9, [r6]\n  bx lr\n"
    assert board(body + FINISH + handler).words == [1 + 12 + 2, 1 + 10 + 1 + 2]


def test_tail_chaining_takes_six(board: Bench) -> None:
    # Two interrupts pend together; each handler loads CYCCNT.
    body = """
  ldr r6, =DWT_CYCCNT
  WRITE NVIC_ISER + 4, 0xff800000
  cpsid i
  WRITE NVIC_ISPR + 4, 0x01800000
  cpsie i
  nop
  sub r0, r10, r9
  bl emit
"""
    handler = """
  .thumb_func
  .global irq_handler
irq_handler:
  mov r9, r10
  ldr r10, [r6]
  bx lr
"""
    # between the two loads: bx 1, tail-chaining 6, mov 1, ldr 2
    assert board(body + FINISH + handler).words == [1 + 6 + 1 + 2]


def test_the_frame_is_what_the_architecture_says(board: Bench) -> None:
    body = """
  sub sp, #4
  mov r11, sp
  movs r0, #10
  movs r1, #11
  movs r2, #12
  movs r3, #13
  mov r12, #14
  mov lr, #15
  svc 0
after:
  mov r0, sp
  subs r0, r0, r11
  bl emit
"""
    handler = """
  .thumb_func
  .global svc_handler
svc_handler:
  push {r4, lr}
  add r4, sp, #8
  movs r5, #8
1: ldr r0, [r4], #4
  bl emit
  subs r5, #1
  bne 1b
  mrs r0, ipsr
  bl emit
  pop {r4, pc}
"""
    words = board(body + FINISH + handler + "  .section .rodata\n  .word after\n").words
    assert words[:6] == [10, 11, 12, 13, 14, 15]
    assert words[7] & 0x01000000, "Thumb bit"
    assert words[7] & 0x200, "SP was not a multiple of eight: the frame is padded, and bit 9 says so"
    assert words[8] == 11, "IPSR of SVC"
    assert words[9] == 0, "SP restored"


def test_fpu_frame_keeps_registers_of_the_interrupted_code(board: Bench) -> None:
    body = """
  vmov.f32 s0, #1.0
  vmov.f32 s15, #2.0
  mov r11, sp
  svc 0
  vmov r0, s0
  bl emit
  vmov r0, s15
  bl emit
  mov r0, r10
  bl emit
"""
    handler = """
  .thumb_func
  .global svc_handler
svc_handler:
  mov r10, lr
  vmov.f32 s0, #5.0
  vmov.f32 s15, #6.0
  bx lr
"""
    assert board(body + FINISH + handler).words == [0x3F800000, 0x40000000, 0xFFFFFFE9]


def test_systick_period(board: Bench) -> None:
    # LOAD = 999: every 1000 cycles; the handler notes CYCCNT. The interrupted loop jitters by its longest instruction.
    body = f"""
  ldr r6, =DWT_CYCCNT
  movs r10, #0
  WRITE SYSTICK + 4, 999
  WRITE SYSTICK + 8, 0
  WRITE SYSTICK, 7
1: nop
  cmp r10, #20
  bne 1b
{FINISH}
  .thumb_func
  .global systick_handler
systick_handler:
  push {{r4, lr}}
  ldr r0, [r6]
  bl emit
  add r10, #1
  pop {{r4, pc}}
"""
    times = board(body).words
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert len(times) == 20 and all(abs(gap - 1000) <= 3 for gap in gaps)
    assert abs(times[-1] - times[0] - 19 * 1000) <= 3, "no drift"


def test_systick_counter_and_flag(board: Bench) -> None:
    body = f"""
  WRITE SYSTICK + 4, 99
  WRITE SYSTICK + 8, 55
  ldr r5, =SYSTICK
  movs r0, #5
  str r0, [r5]
  ldr r0, [r5, #8]
  bl emit
  movs r4, #100
1: subs r4, #1
  bne 1b
  ldr r0, [r5]
  bl emit
  ldr r0, [r5]
  bl emit
{FINISH}"""
    value, first, second = board(body).words
    assert 90 <= value <= 99
    assert first == 0x10005 and second == 5, "COUNTFLAG is set by the wrap and cleared by reading"


@pytest.mark.parametrize(
    ("timer", "base", "bit", "prescaler"), [("tim2", 0x40000000, 28, 3), ("tim6", 0x40001000, 54, 9)]
)
def test_timer_period(board: Bench, timer: str, base: int, bit: int, prescaler: int) -> None:
    # (PSC + 1) * (ARR + 1) timer clocks; APB1 is not divided, so a timer clock is an HCLK cycle.
    body = f"""
  ldr r6, =DWT_CYCCNT
  ldr r5, ={base:#x}
  movs r10, #0
  WRITE {base:#x} + 0x28, {prescaler}
  WRITE {base:#x} + 0x2c, 199
  WRITE {base:#x} + 0x14, 1
  WRITE {base:#x} + 0x10, 0
  WRITE {base:#x} + 0x0c, 1
  WRITE NVIC_ISER + {bit // 32 * 4}, {1 << bit % 32}
  WRITE {base:#x}, 1
1: cmp r10, #10
  bne 1b
{FINISH}
  .thumb_func
  .global {timer}_handler
{timer}_handler:
  push {{r4, lr}}
  movs r0, #0
  str r0, [r5, #0x10]
  ldr r0, [r6]
  bl emit
  add r10, #1
  pop {{r4, pc}}
"""
    times = board(body).words
    period = (prescaler + 1) * 200
    assert all(abs(b - a - period) <= 3 for a, b in itertools.pairwise(times)) and len(times) == 10
    assert abs(times[-1] - times[0] - 9 * period) <= 3


def test_timer_clock_is_twice_a_divided_apb1(board: Bench) -> None:
    # HPRE 1, PPRE1 = 4: the timer runs at twice PCLK1, that is HCLK / 2.
    body = f"""
  WRITE RCC + 8, 0x1400
  WRITE 0x40000000, 1
  ldr r5, =0x40000000
  ldr r6, =DWT_CYCCNT
  ldr r7, [r6]
  ldr r8, [r5, #0x24]
  mov r4, #1000
1: subs r4, #1
  bne 1b
  ldr r0, [r6]
  ldr r1, [r5, #0x24]
  subs r0, r0, r7
  subs r4, r1, r8
  bl emit
  mov r0, r4
  bl emit
{FINISH}"""
    cycles, ticks = board(body).words
    assert abs(cycles - 2 * ticks) <= 2


PENDING = """
  WRITE NVIC_ISER + 4, 0x01800000
  ldr r2, =NVIC_IPR + 55
  movs r0, #0x40
  strb r0, [r2]
  movs r0, #0x80
  strb r0, [r2, #1]
"""
COUNTING = (
    "\n  .thumb_func\n  .global irq_handler\nirq_handler:\n  mrs r0, ipsr\n  push {r4, lr}\n  bl emit\n  pop {r4, pc}\n"
)


def test_primask_holds_interrupts_back(board: Bench) -> None:
    body = (
        PENDING
        + "  cpsid i\n  WRITE NVIC_ISPR + 4, 0x00800000\n  mov r0, #1\n  bl emit\n  cpsie i\n  mov r0, #2\n  bl emit\n"
    )
    assert board(body + FINISH + COUNTING).words == [1, 16 + 55, 2]


def test_basepri_holds_lower_priorities_back(board: Bench) -> None:
    body = f"""{PENDING}
  movs r0, #0x80
  msr basepri, r0
  WRITE NVIC_ISPR + 4, 0x01800000
  movs r0, #1
  bl emit
  movs r0, #0
  msr basepri, r0
  movs r0, #2
  bl emit
"""
    assert board(body + FINISH + COUNTING).words == [16 + 55, 1, 16 + 56, 2]


def test_higher_priority_preempts_and_equal_does_not(board: Bench) -> None:
    handler = """
  .thumb_func
  .global irq_handler
irq_handler:
  push {r4, lr}
  mrs r4, ipsr
  mov r0, r4
  bl emit
  cmp r4, #16 + 56
  bne 1f
  WRITE NVIC_ISPR + 4, 0x02800000
  movs r0, #9
  bl emit
1: pop {r4, pc}
"""
    # 56 at 0x80 pends 55 (0x40: pre-empts) and 57 (0x80: waits)
    body = f"""{PENDING}
  WRITE NVIC_ISER + 4, 0x02000000
  ldr r2, =NVIC_IPR + 57
  movs r0, #0x80
  strb r0, [r2]
  WRITE NVIC_ISPR + 4, 0x01000000
  nop
"""
    assert board(body + FINISH + handler).words == [16 + 56, 16 + 55, 9, 16 + 57]


def test_pendsv_runs_after_the_interrupt_that_pends_it(board: Bench) -> None:
    handlers = """
  .thumb_func
  .global systick_handler
systick_handler:
  push {r4, lr}
  WRITE SCB_ICSR, 0x10000000
  movs r0, #1
  bl emit
  pop {r4, pc}
  .thumb_func
  .global pendsv_handler
pendsv_handler:
  push {r4, lr}
  movs r0, #2
  bl emit
  pop {r4, pc}
"""
    body = "  WRITE 0xE000ED20, 0x00f00000\n  WRITE SCB_ICSR, 0x04000000\n  movs r0, #3\n  bl emit\n"
    assert board(body + FINISH + handlers).words == [1, 2, 3]


def test_thread_on_the_process_stack(board: Bench) -> None:
    handler = "  .thumb_func\n  .global svc_handler\nsvc_handler:\n  mov r10, lr\n  mrs r9, psp\n  bx lr\n"
    body = """
  ldr r0, =0x20008000
  msr psp, r0
  movs r0, #2
  msr control, r0
  isb
  svc 0
  mov r11, sp
  mov r0, r10
  bl emit
  mov r0, r9
  bl emit
  mov r0, r11
  bl emit
  movs r0, #3
  msr control, r0
  isb
  svc 0
  mrs r0, control
  bl emit
"""
    words = board(body + FINISH + handler).words
    assert words == [0xFFFFFFFD, 0x20008000 - 32, 0x20008000, 3]


def test_wfi_jumps_to_the_next_event(board: Bench) -> None:
    body = f"""
  ldr r6, =DWT_CYCCNT
  movs r10, #0
  WRITE SYSTICK + 4, 0x7fffff
  WRITE SYSTICK + 8, 0
  WRITE SYSTICK, 7
  ldr r7, [r6]
1: wfi
  cmp r10, #10
  bne 1b
  ldr r0, [r6]
  subs r0, r0, r7
  bl emit
{FINISH}
  .thumb_func
  .global systick_handler
systick_handler:
  add r10, #1
  bx lr
"""
    run = board(body)
    assert run.stats["cycles"] > 10 * 0x800000
    assert run.stats["sleep_cycles"] > 0.999 * run.stats["cycles"]
    assert run.words[0] < 1000, "CYCCNT stands still while the core sleeps"
    assert run.stats["wall_seconds"] < 5


def test_wfi_with_primask_wakes_without_taking_the_interrupt(board: Bench) -> None:
    body = "  cpsid i\n  WRITE SYSTICK + 4, 5000\n  WRITE SYSTICK, 7\n  wfi\n  movs r0, #1\n  bl emit\n"
    assert board(body + FINISH).words == [1]


def test_wfe_sleeps_too(board: Bench) -> None:
    body = "  WRITE SYSTICK + 4, 50000\n  WRITE SYSTICK + 8, 0\n  WRITE SYSTICK, 7\n  wfe\n  movs r0, #1\n  bl emit\n"
    handler = "\n  .thumb_func\n  .global systick_handler\nsystick_handler:\n  bx lr\n"
    run = board(body + FINISH + handler)
    assert run.words == [1] and run.stats["sleep_cycles"] > 45000


def test_sleeping_for_ever_ends_the_run(board: Bench) -> None:
    run = board("  wfi\n" + FINISH, expect=124)
    assert "asleep for ever" in run.stats["exit_reason"]


def test_interrupts_between_any_two_instructions_change_nothing(board: Bench) -> None:
    # A timer that interrupts every few cycles must not disturb flags, IT blocks or registers of the interrupted loop.
    loop = """
  movs r4, #0
  movw r5, #2000
1: adds r4, r4, r5
  lsls r0, r5, #31
  ite mi
  addmi r4, r4, #3
  eorpl r4, r4, r5
  itt eq
  addeq r4, r4, #1
  ldreq r1, [sp, #-8]
  subs r5, #1
  bne 1b
  mov r0, r4
  bl emit
"""
    timer = "  WRITE 0x4000002c, 52\n  WRITE 0x4000000c, 1\n  WRITE NVIC_ISER, 0x10000000\n  WRITE 0x40000000, 1\n"
    handler = """
  .thumb_func
  .global tim2_handler
tim2_handler:
  ldr r0, =0x40000000
  movs r1, #0
  str r1, [r0, #0x10]
  cmp r1, #1
  add r10, #1
  bx lr
"""
    quiet = board(loop + FINISH)
    busy = board("  mov r10, #0\n" + timer + loop + "  mov r0, r10\n  bl emit\n" + FINISH + handler)
    assert busy.words[0] == quiet.words[0]
    assert busy.words[1] > 300
