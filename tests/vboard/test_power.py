"""Stop mode, what wakes from it, and how the time is accounted for."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest

from .conftest import Bench
from .test_clock import pll

END = "\n  movs r0, #0\n  b finish\n  .ltorg\n"
DEEP = "  WRITE SCB_SCR, 4\n"
EMIT_CLOCK = "  ldr r4, =RCC\n  ldr r0, [r4]\n  bl emit\n  ldr r0, [r4, #8]\n  bl emit\n"
LSI_HZ = 32_000


def poll(address: str, bit: int) -> str:
    return f"  ldr r0, ={address}\n1: ldr r1, [r0]\n  tst r1, #{bit:#x}\n  beq 1b\n"


RTC_ON = (
    "  WRITE PWR_CR, 0x4100\n  WRITE RCC + 0x74, 1\n"
    + poll("RCC + 0x74", 2)
    + "  WRITE RCC + 0x70, 0x8200\n  WRITE RTC + 0x24, 0xca\n  WRITE RTC + 0x24, 0x53\n"
    + "  WRITE EXTI + 8, 0x400000\n  WRITE EXTI, 0x400000\n  WRITE NVIC_ISER, 8\n"
)


def arm(count: int, select: int = 3) -> str:
    """The wake-up timer, for `count` periods of 2 (3), 4 (2), 8 (1), or 16 (0) ticks."""
    code = poll("RTC + 0xc", 4)
    return code + f"  WRITE RTC + 0x14, {count - 1}\n  WRITE RTC + 8, {0x4400 | select:#x}\n"


RTC_HANDLER = """
  .thumb_func
  .global rtc_handler
rtc_handler:
  add r10, #1
  WRITE RTC + 0xc, 0
  WRITE EXTI + 0x14, 0x400000
  bx lr
  .ltorg
"""


def time_of(stats: dict[str, Any], mode: str) -> float:
    return sum(row["time_ms"] for row in stats["residency"] if row["mode"] == mode)


def row_of(stats: dict[str, Any], mode: str) -> dict[str, Any]:
    (row,) = (row for row in stats["residency"] if row["mode"] == mode)
    return dict(row)


@pytest.mark.parametrize(
    ("bits", "regulator", "flash", "wake_up_us"),
    [
        (0x000, "main", "stop", 13),
        (0x001, "low-power", "stop", 17),
        (0x201, "low-power", "deep power-down", 110),
        (0x200, "main", "deep power-down", 110),
    ],
)
def test_stop_mode_keeps_time_and_wakes_on_the_internal_oscillator(
    board: Bench, bits: int, regulator: str, flash: str, wake_up_us: int
) -> None:
    cycles = "  ldr r6, =DWT_CYCCNT\n  ldr r7, [r6]\n  wfi\n  ldr r0, [r6]\n  subs r0, r0, r7\n  bl emit\n"
    body = "  mov r10, #0\n" + pll(8, 336, 2) + RTC_ON + arm(100) + f"  WRITE PWR_CR, {0x4100 | bits:#x}\n" + DEEP
    run = board(body + cycles + EMIT_CLOCK + "  mov r0, r10\n  bl emit\n" + END + RTC_HANDLER, "--strict-clock")
    _pll, slept, cr, cfgr, handled = run.words
    assert slept < 200, "no cycle passes in stop mode, but for the handler"
    assert cr & 0x03030003 == 0x00000003, "HSI on and ready, crystal and PLL off"
    assert cfgr & 0xF == 0 and cfgr >> 10 & 7 == 5, "HSI drives the core; prescalers are as before"
    assert handled == 1 and run.stats["hclk_hz"] == 16_000_000
    stop, wake_up = row_of(run.stats, "stop"), row_of(run.stats, "wake-up")
    assert (stop["regulator"], stop["flash"], stop["cycles"]) == (regulator, flash, 0)
    # 100 periods of 2 ticks, begun with the next tick; less the way from arming the timer to WFI
    tick_ms = 1000 / LSI_HZ
    assert 200 * tick_ms - 0.01 < stop["time_ms"] <= 201 * tick_ms
    assert wake_up["time_ms"] == pytest.approx(wake_up_us / 1000, abs=1e-6) and wake_up["entries"] == 1


def test_the_wake_up_timer_goes_on_period_by_period(board: Bench) -> None:
    body = (
        "  mov r10, #0\n" + RTC_ON + arm(3, select=0) + DEEP + "1: wfi\n  cmp r10, #10\n  bne 1b\n" + END + RTC_HANDLER
    )
    run = board(body)
    # 10 times 3 periods of 16 ticks, and at most one more tick at the start
    since_armed = time_of(run.stats, "stop") + time_of(run.stats, "wake-up")
    assert 480 / LSI_HZ * 1000 - 0.2 < since_armed < 481 / LSI_HZ * 1000
    assert row_of(run.stats, "stop")["entries"] == 10


def test_the_crystal_of_32_khz_drives_the_real_time_clock_too(board: Bench) -> None:
    on = (
        RTC_ON.replace("RCC + 0x74, 1", "RCC + 0x70, 1").replace("RCC + 0x74", "RCC + 0x70").replace("0x8200", "0x8101")
    )
    body = "  mov r10, #0\n" + on + arm(0x4000)
    run = board(body + DEEP + "  wfi\n" + END + RTC_HANDLER, "--lse", "32768")
    assert time_of(run.stats, "stop") == pytest.approx(1000, abs=0.1)
    assert time_of(run.stats, "run") == pytest.approx(2000, abs=1), "it takes 2 s to start"
    never = board.run(board.assemble(body + END), "--max-cycles", "1000000", expect=124)
    assert "cycle limit" in never.stats["exit_reason"], "there is none unless --lse says so"


PIN_SETUP = """
  WRITE RCC + 0x44, 0x4010       @ SYSCFG
  WRITE RCC + 0x30, 0x100007     @ GPIOA to C
  WRITE SYSCFG + 8, 0x0002       @ EXTI0 is PC0
  WRITE EXTI + 8, 1              @ rising
"""
EXTI0_HANDLER = """
  .thumb_func
  .global exti0_handler
exti0_handler:
  add r10, #1
  WRITE EXTI + 0x14, 1
  bx lr
  .ltorg
"""


def pins(tmp_path: Path, text: str) -> str:
    path = tmp_path / "pins.txt"
    path.write_text(text)
    return str(path)


@pytest.mark.parametrize("deep", [False, True])
def test_a_pin_wakes_the_core_at_the_right_edge_of_the_right_port(board: Bench, tmp_path: Path, deep: bool) -> None:
    edges = "# falling, other port, rising\n1 PC0 1\n2 PC0 0\n3 PA0 1  # not selected\n\n7.5 PC0 1\n"
    setup = PIN_SETUP.replace("+ 8, 1 ", "+ 8, 0 ") + "  WRITE EXTI, 1\n  WRITE NVIC_ISER, 0x40\n"
    late = "  ldr r3, =8000\n1: subs r3, #1\n  bne 1b\n  WRITE EXTI + 8, 1\n"  # rising edges count from 1.5 ms on
    read = "  ldr r0, =0x40020810\n  ldr r0, [r0]\n  bl emit\n  mov r0, r10\n  bl emit\n"
    body = "  mov r10, #0\n" + setup + late + (DEEP if deep else "") + "  wfi\n" + read + END + EXTI0_HANDLER
    run = board(body, "--pins", pins(tmp_path, edges))
    assert run.words == [1, 1]
    wake_up_ms = 0.013 if deep else 0
    assert run.stats["time_ms"] == pytest.approx(7.5 + wake_up_ms, abs=0.02)


def test_wfe_takes_an_event_without_an_interrupt(board: Bench, tmp_path: Path) -> None:
    body = PIN_SETUP + "  WRITE EXTI + 4, 1\n" + DEEP + "  wfe\n" + END
    run = board(body, "--pins", pins(tmp_path, "4 PC0 1\n"))
    assert run.stats["time_ms"] == pytest.approx(4.013, abs=0.02)


def test_an_interrupt_that_the_nvic_does_not_let_through_does_not_wake(board: Bench, tmp_path: Path) -> None:
    edges = pins(tmp_path, "4 PC0 1\n")
    for enable in ("", "  WRITE EXTI, 1\n"):  # without EXTI_IMR, and with it but without NVIC
        run = board(PIN_SETUP + enable + DEEP + "  wfi\n" + END, "--pins", edges, expect=124)
        assert "no event to come" in run.stats["exit_reason"]


def test_pending_requests_keep_the_chip_from_stopping(board: Bench) -> None:
    software = PIN_SETUP + "  WRITE EXTI, 1\n  WRITE EXTI + 0x10, 1\n"
    run = board(software + DEEP + "  wfi\n  ldr r0, =EXTI\n  ldr r0, [r0, #0x14]\n  bl emit\n" + END)
    assert run.words == [1] and time_of(run.stats, "stop") == 0


def test_several_lines_share_an_interrupt(board: Bench) -> None:
    handler = """
  .thumb_func
  .global exti15_handler
exti15_handler:
  ldr r1, =EXTI
  ldr r0, [r1, #0x14]
  add r10, r10, r0
  str r0, [r1, #0x14]
  bx lr
  .ltorg
"""
    body = "  mov r10, #0\n  WRITE NVIC_ISER + 4, 0x100\n  WRITE EXTI, 0x8400\n  WRITE EXTI + 0x10, 0x8400\n  nop\n"
    run = board(body + "  mov r0, r10\n  bl emit\n  ldr r0, =EXTI\n  ldr r0, [r0, #0x10]\n  bl emit\n" + END + handler)
    assert run.words == [0x8400, 0], "both pending at once; clearing them clears SWIER"


def test_standby_is_refused_and_stopping_for_ever_ends_the_run(board: Bench) -> None:
    standby = board("  WRITE PWR_CR, 0x4002\n" + DEEP + "  wfi\n" + END, expect=124)
    assert "standby is not modelled" in standby.stats["exit_reason"]
    # SysTick runs in sleep but not in stop mode
    tick = "  WRITE SYSTICK + 4, 5000\n  WRITE SYSTICK, 7\n"
    stopped = board(tick + DEEP + "  wfi\n" + END, expect=124)
    assert "stop mode" in stopped.stats["exit_reason"] and "no event to come" in stopped.stats["exit_reason"]


def test_timers_stand_still_in_stop_mode(board: Bench) -> None:
    start = "  WRITE RCC + 0x40, 0x10020019\n  WRITE 0x40000c00, 1\n"  # TIM5 at 16 MHz
    count = "  ldr r4, =0x40000c24\n  ldr r5, [r4]\n  wfi\n  ldr r0, [r4]\n  subs r0, r0, r5\n  bl emit\n"
    run = board("  mov r10, #0\n" + start + RTC_ON + arm(100) + DEEP + count + END + RTC_HANDLER)
    assert run.words[0] < 200 and time_of(run.stats, "stop") > 6


@pytest.mark.parametrize("unlock", ["none", "domain", "keys", "wrong keys", "both"])
def test_the_real_time_clock_is_locked_twice(board: Bench, unlock: str) -> None:
    code = "  WRITE PWR_CR, 0x4100\n" if unlock in ("domain", "wrong keys", "both") else ""
    code += "  WRITE RCC + 0x74, 1\n" + poll("RCC + 0x74", 2) + "  WRITE RCC + 0x70, 0x8200\n"
    if unlock in ("keys", "both"):
        code += "  WRITE RTC + 0x24, 0xca\n  WRITE RTC + 0x24, 0x53\n"
    if unlock == "wrong keys":
        code += "  WRITE RTC + 0x24, 0x53\n  WRITE RTC + 0x24, 0xca\n"
    code += "  ldr r3, =8000\n1: subs r3, #1\n  bne 1b\n  WRITE RTC + 0x14, 77\n"
    read = "  ldr r0, =RTC\n  ldr r0, [r0, #0x14]\n  bl emit\n  ldr r0, =RCC\n  ldr r0, [r0, #0x70]\n  bl emit\n"
    wutr, bdcr = board(code + read + END).words
    assert wutr == (77 if unlock == "both" else 0xFFFF)
    assert bdcr == (0 if unlock in ("none", "keys") else 0x8200)


def test_the_calendar_counts_ticks_and_passes_midnight(board: Bench) -> None:
    # A second of this calendar is 40 sub-seconds of 100 ticks: 125 ms of LSI. It starts at 23:59:58.
    init = "  WRITE RTC + 0xc, 0x80\n" + poll("RTC + 0xc", 0x40)
    init += "  WRITE RTC + 0x10, 39\n  WRITE RTC + 0x10, 0x630027\n  WRITE RTC, 0x235958\n"
    init += "  WRITE RTC + 4, 0x2101\n  WRITE RTC + 0xc, 0\n"
    read = "  ldr r4, =RTC\n  ldr r0, [r4]\n  bl emit\n  ldr r0, [r4, #0x28]\n  bl emit\n"
    body = "  mov r10, #0\n" + RTC_ON + init + read + arm(4150) + DEEP + "  wfi\n" + read
    run = board(body + END + RTC_HANDLER)
    # 8300 ticks: 2 seconds and 3 sub-seconds of 100 ticks
    assert [hex(word) for word in run.words] == ["0x235958", hex(39), "0x0", hex(36)]


# --- residency and time line ---


def test_residency_adds_up_to_all_time_and_cycles(board: Bench) -> None:
    sleep = "  WRITE SYSTICK + 4, 50000\n  WRITE SYSTICK + 8, 0\n  WRITE SYSTICK, 7\n  cpsid i\n  wfi\n"
    sleep += "  WRITE SYSTICK, 0\n  WRITE SCB_ICSR, 0x2000000\n"
    body = "  mov r10, #0\n" + sleep + pll(8, 336, 2) + sleep + RTC_ON + arm(100)
    run = board(body + "  cpsie i\n" + DEEP + "  wfi\n" + END + RTC_HANDLER)
    rows = run.stats["residency"]
    assert sum(row["time_ms"] for row in rows) == pytest.approx(run.stats["time_ms"], abs=1e-4)
    assert sum(row["cycles"] for row in rows) == run.stats["cycles"]
    sleeping = [row for row in rows if row["mode"] == "sleep"]
    assert [row["hclk_hz"] for row in sleeping] == [16_000_000, 168_000_000]
    assert all(row["cycles"] == pytest.approx(50_000, abs=60) for row in sleeping)
    assert [row["ahb1"] for row in sleeping] == ["0x00000000"] * 2, "the CCM's clock is off in sleep"
    fast = [row for row in rows if row["mode"] == "run" and row.get("source") == "PLL"]
    assert {(row["vco_hz"], row["hse"], row["art"], row["wait_states"], row["scale"]) for row in fast} == {
        (336_000_000, True, True, 5, 1)
    }


def test_the_time_line_has_clocks_modes_exceptions_pins_and_markers(board: Bench, tmp_path: Path) -> None:
    body = "  mov r10, #0\n  WRITE RCC + 0x30, 0x100008\n  WRITE 0x40020c18, 0x1000\n  WRITE 0x40020c18, 0x10000000\n"
    body += "  WRITE 0xe0000e80, 1\n  WRITE 0xe0000e00, 2\n  WRITE 0xe0000000, 5\n  WRITE 0xe0000004, 1234\n"
    path = tmp_path / "events.csv"
    run = board(body + RTC_ON + arm(100) + DEEP + "  wfi\n" + END + RTC_HANDLER, "--events", str(path))
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["event"], row["subject"], row["value"]) for row in rows] == [
        ("clock", "HSI", "16000000"),
        ("pin", "PD12", "1"),
        ("pin", "PD12", "0"),
        ("marker", "1", "1234"),
        ("mode", "stop", "0"),
        ("mode", "wake-up", "0"),
        ("mode", "run", "0"),
        ("enter", "19", "0"),
        ("leave", "19", "0"),
    ]
    set_at, reset_at = (int(row["cycle"]) for row in rows[1:3])
    assert reset_at - set_at == 2 + 1 + 1  # LDR literal, LDR literal right behind it, STR
    assert float(rows[1]["time_us"]) == pytest.approx(set_at / 16, abs=0.01)
    stopped, woke, ran = (float(row["time_us"]) for row in rows[4:7])
    assert ran - woke == pytest.approx(13, abs=0.002)
    assert woke - stopped == pytest.approx(1000 * row_of(run.stats, "stop")["time_ms"], abs=0.002)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 PA0\n", "expected"),
        ("1 PA16 1\n", "expected"),
        ("1 PJ0 1\n", "expected"),
        ("1 PA0 2\n", "expected"),
        ("1 PA0 1 x\n", "expected"),
        ("-1 PA0 1\n", "expected"),
        ("2 PA0 1\n1 PA0 0\n", "order of time"),
    ],
)
def test_bad_pin_files_name_the_line(board: Bench, tmp_path: Path, text: str, message: str) -> None:
    run = board(END, "--pins", pins(tmp_path, text), expect=121)
    assert message in run.messages and f"pins.txt:{text.count(chr(10))}:" in run.messages
