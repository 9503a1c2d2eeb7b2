"""Clock tree, start-up times and the rules that silicon does not check."""

from __future__ import annotations

import pytest

from .conftest import Bench

END = "\n  movs r0, #0\n  b finish\n  .ltorg\n"


def wait_cr(bit: int) -> str:
    """Wait for a ready bit of RCC_CR, at most r5 times."""
    return f"""
  ldr r0, =RCC
  movs r3, #0
1: adds r3, #1
  cmp r3, r5
  beq 9f
  ldr r1, [r0]
  tst r1, #{1 << bit:#x}
  beq 1b
9:
"""


def pll(m: int, n: int, p: int, *, ws: int = 5, hpre: int = 0, ppre1: int = 5, ppre2: int = 4, hse: bool = True) -> str:
    """The firmware's way to a PLL clock: wait states, source, PLL, prescalers, switch; waits are bounded (r5)."""
    pllcfgr = m | n << 6 | (p // 2 - 1) << 16 | int(hse) << 22 | 7 << 24
    code = f"  ldr r5, =200000\n  WRITE FLASH_ACR, {0x700 | ws:#x}\n"
    code += "  WRITE RCC, 0x10081\n" + wait_cr(17) if hse else ""
    code += f"  WRITE RCC + 4, {pllcfgr:#x}\n  WRITE RCC, {0x1010081 if hse else 0x1000081:#x}\n{wait_cr(25)}"
    cfgr = hpre << 4 | ppre1 << 10 | ppre2 << 13 | 2
    return code + f"  WRITE RCC + 8, {cfgr:#x}\n  ldr r0, =RCC\n  ldr r0, [r0, #8]\n  bl emit\n"


def kinds(stats: dict[str, list[dict[str, object]]]) -> list[object]:
    return [violation["kind"] for violation in stats["violations"]]


def test_168_mhz(board: Bench) -> None:
    run = board(pll(8, 336, 2) + END)
    assert run.stats["hclk_hz"] == 168_000_000 and run.stats["violations"] == []
    assert run.words[0] >> 2 & 3 == 2, "SWS says PLL"
    last = run.stats["clock_history"][-1]
    assert last["source"] == "PLL" and last["hclk_hz"] == 168_000_000
    # 2 ms crystal, 200 us + (336 - 100) / 332 * 100 us PLL lock
    assert last["time_ms"] == pytest.approx(2.0 + 0.271, abs=0.01)


@pytest.mark.parametrize(
    ("m", "n", "p", "ws", "hpre", "hz"),
    [
        (8, 336, 4, 2, 0, 84_000_000),
        (8, 288, 2, 4, 0, 144_000_000),
        (4, 168, 4, 2, 0, 84_000_000),
        (8, 336, 2, 2, 8, 84_000_000),
    ],
)
def test_other_clocks(board: Bench, m: int, n: int, p: int, ws: int, hpre: int, hz: int) -> None:
    run = board(pll(m, n, p, ws=ws, hpre=hpre) + END)
    assert run.stats["hclk_hz"] == hz and run.stats["violations"] == []


def test_pll_from_hsi(board: Bench) -> None:
    run = board(pll(16, 336, 2, hse=False) + END)
    assert run.stats["hclk_hz"] == 168_000_000 and run.stats["violations"] == []


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (pll(8, 336, 2, ws=4), "wait-states"),
        (pll(8, 360, 2, ws=5), "over-frequency"),
        (pll(8, 336, 2, ppre1=4), "over-frequency"),
        (pll(8, 336, 2, ppre2=0), "over-frequency"),
        ("  WRITE PWR_CR, 0\n" + pll(8, 336, 2), "voltage-scale"),
        (pll(4, 240, 4), "pll"),  # VCO at 480 MHz
        (pll(2, 100, 2), "pll"),  # input at 4 MHz
        (pll(8, 336, 2) + "  WRITE RCC + 4, 0x24003010\n", "pll"),
        (pll(8, 336, 2) + "  WRITE FLASH_ACR, 0x702\n", "wait-states"),
        (pll(8, 288, 2) + "  WRITE PWR_CR, 0\n", "voltage-scale"),  # may change while the PLL is off only
        (pll(8, 336, 2) + "  WRITE RCC, 0x10081\n", "clock-source"),
        ("  WRITE RCC + 8, 1\n", "clock-source"),
        ("  WRITE RCC + 0x44, 0\n  WRITE USART1 + 4, 65\n  WRITE RCC + 0x44, 16\n", "clock-off"),
        ("  WRITE RCC + 0x40, 0\n  WRITE 0x40000000, 1\n", "clock-off"),
    ],
)
def test_broken_rules_are_recorded(board: Bench, code: str, kind: str) -> None:
    elf = board.assemble(code + END)
    run = board.run(elf)
    assert kind in kinds(run.stats)
    found = next(v for v in run.stats["violations"] if v["kind"] == kind)
    assert 0x08000000 <= int(found["pc"], 16) < 0x08001000 and found["cycle"] > 0 and found["reason"]
    assert found["reason"] in run.messages
    strict = board.run(elf, "--strict-clock", expect=123)
    assert strict.stats["exit_reason"].startswith("clock violation")


def test_a_peripheral_without_clock_does_not_answer(board: Bench) -> None:
    body = "  WRITE 0x4000002c, 1234\n  WRITE RCC + 0x40, 0\n  ldr r0, =0x4000002c\n  ldr r0, [r0]\n  bl emit\n"
    assert board(body + END).words == [0]


@pytest.mark.parametrize(("option", "bit"), [("--hse-dead", 17), ("--pll-dead", 25)])
def test_dead_sources_never_become_ready(board: Bench, option: str, bit: int) -> None:
    run = board(pll(8, 336, 2) + END, option)
    assert run.stats["hclk_hz"] == 16_000_000
    assert run.words[0] >> 2 & 3 == 0, "the switch waits for ever: still HSI"


def test_pllcfgr_is_locked_while_the_pll_runs(board: Bench) -> None:
    run = board(pll(8, 336, 2) + "  WRITE RCC + 4, 0x24003010\n  ldr r0, =RCC\n  ldr r0, [r0, #4]\n  bl emit\n" + END)
    assert run.words[1] & 0x7FFF == 8 | 336 << 6
    assert run.stats["hclk_hz"] == 168_000_000


def test_a_start_of_the_pll_can_fail_and_the_next_succeed(board: Bench) -> None:
    again = "  WRITE RCC, 0x10081\n" + pll(8, 336, 2)
    run = board(pll(8, 336, 2).replace("RCC + 8, ", "RCC + 8, 0 * ") + again + END, "--pll-miss", "1")
    assert run.words[0] >> 2 & 3 == 0 and run.words[1] >> 2 & 3 == 2
    assert run.stats["hclk_hz"] == 168_000_000


NMI = """
  .thumb_func
  .global nmi
nmi:
  ldr r2, =RCC
  ldr r0, [r2, #12]
  add r10, r10, r0
  ldr r0, =0x800000
  str r0, [r2, #12]
  bx lr
  .ltorg
"""
COUNT_DOWN = "  ldr r3, =400000\n1: subs r3, #1\n  bne 1b\n"  # 7 ms at 168 MHz
SHOW = "  mov r0, r10\n  bl emit\n  ldr r4, =RCC\n  ldr r0, [r4]\n  bl emit\n  ldr r0, [r4, #8]\n  bl emit\n"


def test_the_clock_security_system_saves_the_core_from_a_crystal_that_stops(board: Bench) -> None:
    watched = "  mov r10, #0\n" + pll(8, 336, 2) + "  WRITE RCC, 0x1090081\n" + COUNT_DOWN + SHOW
    run = board(watched + END + NMI, "--hse-stops", "5")
    _pll, flags, cr, cfgr = run.words
    assert flags == 0x80, "one NMI, with CSSF"
    assert cr & 0x03030000 == 0 and cfgr >> 2 & 3 == 0, "crystal and PLL are off, HSI drives the core"
    last = run.stats["clock_history"][-1]
    assert last["source"] == "HSI" and last["time_ms"] == pytest.approx(5, abs=0.001)


def test_without_clock_security_the_core_stands_still(board: Bench) -> None:
    run = board(pll(8, 336, 2) + COUNT_DOWN + END, "--hse-stops", "5", expect=124)
    assert "clock security is off" in run.stats["exit_reason"]
    assert run.stats["time_ms"] == pytest.approx(5, abs=0.001)
    # a crystal that drives nothing is missed by nobody
    assert board("  WRITE RCC, 0x10081\n" + COUNT_DOWN + END, "--hse-stops", "5").code == 0


@pytest.mark.parametrize(
    ("divider", "right"), [(139, True), (136, True), (143, True), (128, False), (150, False), (0, False)]
)
def test_a_wrong_baud_rate_breaks_bytes(board: Bench, divider: int, right: bool) -> None:
    # 16 MHz / 139 = 115108 baud; the line takes 3 % either way
    body = f"  WRITE USART1 + 8, {divider}\n  movs r0, #0x55\n  bl emit\n"
    run = board(body + END, "--baud", "115200")
    assert run.words == [0x55 if right else 0xFFFFFFAA]
    assert kinds(run.stats) == ([] if right else ["baud-rate"])
    assert board(body + END).words == [0x55], "without --baud every rate will do"
