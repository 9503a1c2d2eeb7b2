"""Statistics, profile and call paths."""

from __future__ import annotations

from .conftest import Bench

PROGRAM = """
  WRITE FLASH_ACR, 0x705
  movs r4, #10
1: bl outer
  subs r4, #1
  bne 1b
  movs r0, #0
  b finish
  .ltorg
  .type outer, %function
outer:
  push {r4, lr}
  bl inner
  bl inner
  pop {r4, pc}
  .size outer, . - outer
  .type inner, %function
inner:
  movs r0, #100
1: subs r0, #1
  bne 1b
  b tail
  .size inner, . - inner
  .space 16
  .type tail, %function
tail:
  nop
  bx lr
  .size tail, . - tail
  .type main, %function
"""
KEYS = """
schema version exit_reason exit_code model timing cycles sleep_cycles wait_cycles instructions time_ms hclk_hz icache
dcache unaligned_accesses stack_bytes wall_seconds residency violations clock_history
"""


def test_stats_have_every_documented_key(board: Bench) -> None:
    stats = board(PROGRAM).stats
    assert set(stats) == set(KEYS.split())
    assert stats["schema"] == "rqdkm-vboard-stats/1" and stats["model"] == "f407" and stats["timing"] is True
    assert stats["exit_code"] == 0 and stats["exit_reason"] == "exit 0" and stats["hclk_hz"] == 16_000_000
    assert stats["instructions"] < stats["cycles"] and stats["icache"]["misses"] > 0 and stats["icache"]["hits"] > 50
    assert stats["stack_bytes"] >= 8
    assert stats["clock_history"][0] == {
        "cycle": 0,
        "time_ms": 0.0,
        "hclk_hz": 16000000,
        "source": "HSI",
        "wait_states": 0,
    }


def test_time_follows_the_clock(board: Bench) -> None:
    stats = board(PROGRAM).stats
    assert abs(stats["time_ms"] - stats["cycles"] / 16e3) < 1e-3


def test_profile_adds_up(board: Bench) -> None:
    run = board(PROGRAM)
    functions = {function["name"]: function for function in run.profile["functions"]}
    assert sum(function["self_cycles"] for function in functions.values()) == run.stats["cycles"]
    assert sum(function["instructions"] for function in functions.values()) == run.stats["instructions"]
    assert functions["outer"]["calls"] == 10 and functions["inner"]["calls"] == 20 and functions["tail"]["calls"] == 20
    assert functions["inner"]["instructions"] == 20 * (1 + 200 + 1)
    ordered = [function["self_cycles"] for function in run.profile["functions"]]
    assert ordered == sorted(ordered, reverse=True)


def test_call_paths_add_up(board: Bench) -> None:
    run = board(PROGRAM)
    paths = dict(line.rsplit(" ", 1) for line in run.folded.splitlines())
    assert sum(map(int, paths.values())) == run.stats["cycles"]
    assert any(path.endswith("main;outer;inner") for path in paths)
    assert any(path.endswith("main;outer;tail") for path in paths), "a tail call replaces its caller"


def test_interrupt_cycles_are_not_lost(board: Bench) -> None:
    handler = (
        "\n  .thumb_func\n  .global systick_handler\n  .type systick_handler, %function\nsystick_handler:\n  bx lr\n"
    )
    body = "  WRITE SYSTICK + 4, 300\n  WRITE SYSTICK + 8, 0\n  WRITE SYSTICK, 7\n" + PROGRAM
    run = board(body + handler)
    paths = dict(line.rsplit(" ", 1) for line in run.folded.splitlines())
    assert int(paths["systick_handler"]) > 0
    assert sum(map(int, paths.values())) == run.stats["cycles"]


def test_stripped_firmware_still_runs(board: Bench) -> None:
    elf = board.assemble(PROGRAM, flags=("-s",))
    run = board.run(elf)
    assert [function["name"] for function in run.profile["functions"]] == ["(unknown)"]
