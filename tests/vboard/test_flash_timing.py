"""Flash accelerator models: misses, hits, prefetch and the enable bits of FLASH_ACR (RM0090 3.5.2, 3.9.1).

Five wait states everywhere: a miss costs 5, a prefetched sequential line 5 - 4 = 1.
f407: 16-byte lines; l4r5: 8-byte sectors.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

ALL_ON, NO_PREFETCH, NO_CACHES, NO_DATA_CACHE = 0x705, 0x605, 0x105, 0x305
Measure = Callable[..., dict[str, int]]


def flash_setup(acr: int) -> str:
    """Switch the accelerator on with both caches empty."""
    return f"  WRITE FLASH_ACR, 0x1800\n  WRITE FLASH_ACR, {acr:#x}\n"


# Every measurement starts at a multiple of 64 bytes: BEGIN takes 6 bytes, the sequence begins in the same line.
# 64 16-bit NOPs, that is 128 bytes: eight 16-byte lines (sixteen 8-byte sectors), all cold; END in the next line.
def straight(nops: int) -> str:
    return "  b 1f\n  .balign 64\n1:\n" + "  nop\n" * nops


LINES = 8
FETCHES = {
    # branch 2; first line of the target is a jump: 5; seven sequential lines and the one END sits in
    ("f407", ALL_ON): 2 + 64 + 5 + LINES * 1,
    ("f407", NO_PREFETCH): 2 + 64 + 5 + LINES * 5,
    ("l4r5", ALL_ON): 2 + 64 + 5 + 16 * 5,
    ("none", ALL_ON): 2 + 64,
}


@pytest.mark.parametrize(("model", "acr"), FETCHES)
def test_cold_straight_code(measure: Measure, model: str, acr: int) -> None:
    result = measure({"x": straight(64)}, "--flash-model", model, setup=flash_setup(acr))
    assert result["x"] == FETCHES[model, acr]


LOOP = "  movs r5, #2\n  b 1f\n  .balign 64\n1:\n" + "  nop\n" * 22 + "  subs r5, #1\n  bne 1b\n"


def test_second_pass_hits_the_instruction_cache(measure: Measure) -> None:
    # 48 bytes = 3 lines. Core: movs 1, b 2, per pass 22 + 1 + (2 or 1). Misses: 5 (jump), 1, 1 and 1 for END's line.
    core = 1 + 2 + (22 + 1 + 2) + (22 + 1 + 1)
    assert measure({"x": LOOP}, setup=flash_setup(ALL_ON))["x"] == core + 5 + 1 + 1 + 1
    # No instruction cache: the second pass fetches the three lines again, the first of them after a jump.
    assert measure({"x": LOOP}, setup=flash_setup(NO_CACHES))["x"] == core + 5 + 1 + 1 + (5 + 1 + 1) + 1


def test_a_loop_larger_than_the_cache_misses_every_line(measure: Measure) -> None:
    big = "  movs r5, #2\n  b 1f\n  .balign 64\n1:\n" + "  nop\n" * 638 + "  subs r5, #1\n  bne.w 1b\n"
    lines = 80  # 638 * 2 + 6 = 1282 bytes: 80 further lines after the first, with 64 lines of cache and LRU
    core = 1 + 2 + (638 + 1 + 2) + (638 + 1 + 1)
    assert measure({"x": big}, setup=flash_setup(ALL_ON))["x"] == core + 2 * (5 + lines * 1)


TABLE = "\n  .section .rodata\n  .balign 64\ntable: .space 512, 1\n  .text\n"


def data(loads: list[int], acr: int, model: str, measure: Measure) -> int:
    """Stall cycles of loads from these offsets of a table in flash, beyond what they cost from SRAM."""
    sequence = "".join(f"  ldr r1, [r2, #{offset}]\n" for offset in loads)

    def case(address: str) -> str:
        # the code runs once before it is measured, so that only data misses are left
        start = f"  ldr r2, ={address}\n  movs r9, #2\n  b 1f\n  .balign 16\n1: ldr r7, [r6]\n  nop\n"
        return start + sequence + "  subs r9, #1\n  bne 1b\n  nop\n"

    setup = flash_setup(acr)
    flash = measure({"x": case("table")}, "--flash-model", model, setup=setup, tail=TABLE)["x"]
    sram = measure({"x": case("0x20000000")}, "--flash-model", model, setup=setup, tail=TABLE)["x"]
    return flash - sram


@pytest.mark.parametrize(
    ("model", "acr", "loads", "stalls"),
    [
        # the measured pass is the second: what fits the cache hits
        ("f407", ALL_ON, [0, 4, 8, 12], 0),
        ("f407", ALL_ON, [16 * k for k in range(8)], 0),
        ("f407", ALL_ON, [16 * k for k in range(9)], 9 * 5),  # nine lines thrash eight, least recently used first
        ("f407", NO_DATA_CACHE, [0, 4, 8, 12], 4 * 5),
        ("l4r5", ALL_ON, [32 * k for k in range(8)], 0),
        ("l4r5", ALL_ON, [32 * k for k in range(9)], 9 * 5),
        ("none", ALL_ON, [16 * k for k in range(9)], 0),
    ],
)
def test_data_reads_from_flash(model: str, acr: int, loads: list[int], stalls: int, measure: Measure) -> None:
    assert data(loads, acr, model, measure) == stalls


def test_literals_go_through_the_data_cache(board: Callable[..., object]) -> None:
    body = flash_setup(ALL_ON) + "  ldr r0, =0x11223344\n  movs r0, #0\n  b finish\n  .ltorg\n"
    none = flash_setup(ALL_ON) + "  mov.w r0, #0x11\n  movs r0, #0\n  b finish\n  .ltorg\n"
    with_literal, without = board(body).stats["dcache"], board(none).stats["dcache"]  # type: ignore[attr-defined]
    assert sum(with_literal.values()) == sum(without.values()) + 1


def test_wait_states_cost_nothing_in_sram(measure: Measure) -> None:
    copy = """
  adr r0, 7f
  ldr r1, =0x20001000
  movs r2, #32
1: ldrb r5, [r0], #1
  strb r5, [r1], #1
  subs r2, #1
  bne 1b
  b 8f
  .balign 4
7: nop
  nop
  adds r1, #1
  bx lr
  .space 32
8: ldr r3, =0x20001001
"""
    # b 2 and a cold line 5, blx 1 + 2; in SRAM two NOPs, adds, bx 1 + 2; the return lands in the line it came from
    sequence = "  b 1f\n  .balign 64\n1: blx r3\n  nop\n"
    result = measure({"a": sequence}, setup=copy + flash_setup(ALL_ON))
    assert result["a"] == 2 + 5 + (1 + 2) + 3 + (1 + 2) + 1
