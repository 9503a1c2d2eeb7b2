"""Timers: compare flags, the sixteen-bit ones, and what a change of the bus clock does to them."""

from __future__ import annotations

import pytest

from .conftest import Bench

END = "\n  movs r0, #0\n  b finish\n  .ltorg\n"
CLOCKS = "  WRITE RCC + 0x40, 0x1000003f\n"  # PWR, TIM2 to TIM7


def handler(name: str, base: str, flag: int) -> str:
    """Adds one to r10, keeps the cycle counter of the first call in r9, clears the flag."""
    return f"""
  .thumb_func
  .global {name}
{name}:
  ldr r0, [r6]
  cmp r10, #0
  it eq
  moveq r9, r0
  add r10, #1
  WRITE {base} + 0x10, {~flag & 0xFFFFFFFF:#x}
  bx lr
  .ltorg
"""


def test_a_compare_flag_comes_when_the_counter_matches(board: Bench) -> None:
    # TIM5 divides by 4: 1000 ticks of 4 cycles behind the start, and 12 cycles of exception entry
    start = "  mov r10, #0\n  ldr r6, =DWT_CYCCNT\n  WRITE 0x40000c28, 3\n  WRITE 0x40000c14, 1\n"
    start += "  WRITE 0x40000c34, 1000\n  WRITE 0x40000c10, 0\n  WRITE 0x40000c0c, 2\n  WRITE NVIC_ISER + 4, 0x40000\n"
    go = "  ldr r0, =0x40000c00\n  movs r1, #1\n  ldr r5, [r6]\n  str r1, [r0]\n"
    wait = "  ldr r3, =2000\n1: subs r3, #1\n  bne 1b\n"
    show = "  sub r0, r9, r5\n  bl emit\n  mov r0, r10\n  bl emit\n  ldr r0, =0x40000c10\n  ldr r0, [r0]\n  bl emit\n"
    run = board(CLOCKS + start + go + wait + show + END + handler("tim5_handler", "0x40000c00", 2))
    elapsed, count, flags = run.words
    assert 4000 <= elapsed - 12 <= 4010, "the first instruction of the handler reads the counter"
    assert (count, flags) == (1, 0), "the counter of 32 bits does not come by again; the other channels are at 0"


@pytest.mark.parametrize(("match", "flag"), [(50, 1), (99, 1), (100, 0)])
def test_a_match_beyond_the_reload_value_never_comes(board: Bench, match: int, flag: int) -> None:
    start = f"  WRITE 0x4000042c, 99\n  WRITE 0x40000434, {match}\n  WRITE 0x40000410, 0\n  WRITE 0x40000400, 1\n"
    wait = "  ldr r3, =200\n1: subs r3, #1\n  bne 1b\n  ldr r0, =0x40000410\n  ldr r0, [r0]\n  bl emit\n"
    run = board(CLOCKS + start + wait + END)
    assert run.words[0] >> 1 & 1 == flag and run.words[0] & 1, "TIM3 passed its reload value several times"


def test_a_sixteen_bit_timer_interrupts_at_its_rate(board: Bench) -> None:
    # TIM3: 160 cycles a period
    start = "  mov r10, #0\n  ldr r6, =DWT_CYCCNT\n  WRITE 0x4000042c, 159\n  WRITE 0x4000040c, 1\n"
    start += "  WRITE NVIC_ISER, 0x20000000\n  WRITE 0x40000400, 1\n  ldr r5, [r6]\n"
    wait = "1: ldr r0, [r6]\n  subs r0, r0, r5\n  cmp r0, #20224\n  blo 1b\n  WRITE 0x40000400, 0\n"
    wait += "  mov r0, r10\n  bl emit\n"
    run = board(CLOCKS + start + wait + END + handler("tim3_handler", "0x40000400", 1))
    assert run.words[0] in (126, 127)  # 20224 / 160 = 126.4


def test_timers_count_twice_a_divided_bus_clock(board: Bench) -> None:
    # APB1 = HCLK / 4: timers at HCLK / 2. Afterwards undivided: at HCLK.
    read = "  ldr r4, =0x40000824\n  ldr r5, [r4]\n  ldr r3, =1000\n1: subs r3, #1\n  bne 1b\n  ldr r0, [r4]\n"
    read += "  subs r0, r0, r5\n  bl emit\n"
    body = CLOCKS + "  WRITE RCC + 8, 0x1400\n  WRITE 0x40000800, 1\n" + read + "  WRITE RCC + 8, 0\n" + read
    halved, full = board(body + END).words
    assert halved == pytest.approx(full / 2, abs=2) and full > 2000
