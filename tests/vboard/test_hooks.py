"""The instruction hook must not change what a program computes.

Unicorn 2.1.4 with a memory hook leaves ITSTATE set after an access inside an IT block; the board therefore uses
no memory hooks.
`RQDKM_VBOARD_TEST=memory-hook` installs one, to show that the trap is real and that these programs would notice.
"""

from __future__ import annotations

import pytest

from .conftest import Bench

IT_PROGRAM = """
  ldr r4, =0x20000100
  movs r5, #0
  movw r6, #500
1: str r6, [r4]
  lsls r0, r6, #31
  ite mi
  ldrmi r1, [r4]
  strpl r5, [r4, #4]
  adds r5, r5, r1
  ands r0, r6, #3
  itt eq
  ldreq r2, [r4, #4]
  addeq r5, r5, r2
  eor r5, r5, r5, ror #7
  cmp r6, #250
  it hi
  ldrhi r3, [r4]
  add r5, r5, r3
  lsls r0, r5, #1
  it cs
  strcs r5, [r4, #8]
  mvns r7, r5
  add r5, r5, r7, lsr #3
  subs r6, #1
  bne 1b
  mov r0, r5
  bl emit
  ldr r0, [r4, #4]
  bl emit
  ldr r0, [r4, #8]
  bl emit
  movs r0, #0
  b finish
"""


def reference() -> list[int]:
    """The same program in Python."""
    mask, r1, r2, r3, r5, word1, word2 = 0xFFFFFFFF, 0x10, 0, 0, 0, 0, 0
    for r6 in range(500, 0, -1):
        if r6 & 1:
            r1 = r6
        else:
            word1 = r5
        r5 = (r5 + r1) & mask
        if r6 & 3 == 0:
            r2 = word1
            r5 = (r5 + r2) & mask
        r5 ^= (r5 >> 7 | r5 << 25) & mask
        if r6 > 250:
            r3 = r6
        r5 = (r5 + r3) & mask
        if r5 >> 31:
            word2 = r5
        r7 = ~r5 & mask
        r5 = (r5 + (r7 >> 3)) & mask
    return [r5, word1, word2]


def program() -> str:
    return "  movs r1, #0x10\n  movs r2, #0\n  movs r3, #0\n" + IT_PROGRAM


def test_loads_and_stores_in_it_blocks(board: Bench) -> None:
    elf = board.assemble(program())
    expected = reference()
    assert board.run(elf, "--functional").words == expected
    for model in ("f407", "l4r5", "none"):
        assert board.run(elf, "--flash-model", model).words == expected


def test_a_memory_hook_would_break_it(board: Bench) -> None:
    run = board.run(board.assemble(program()), "--timeout", "5", env={"RQDKM_VBOARD_TEST": "memory-hook"}, expect=None)
    assert run.output != b"".join(word.to_bytes(4, "little") for word in reference())


C_PROGRAM = r"""
#include <stdint.h>
static uint32_t state = 12345;
static uint32_t next(void) { return state = state * 1664525u + 1013904223u; }
static uint8_t data[4096];
static float floats[64];
const int8_t table[256] = {TABLE};
uint32_t work(void) {
  uint32_t sum = 0;
  for (int k = 0; k < 4096; k++) data[k] = (uint8_t)(next() >> 24);
  for (int round = 0; round < 40; round++) {
    for (int k = 0; k < 4096; k++) {
      int value = data[k] + table[(data[(k * 7) & 4095] + round) & 255];
      if (value < 0) value = -value;
      if (value > 255) value = 255;
      data[k] = (uint8_t)value;
      sum = (sum << 3 | sum >> 29) ^ (uint32_t)value;
      sum += sum / (uint32_t)(value + 1) + (uint32_t)((int32_t)sum % (value + 3));
    }
    for (int k = 0; k < 64; k++) floats[k] = floats[k] * 0.5f + (float)data[k * 64] / (float)(k + 1);
  }
  for (int k = 0; k < 64; k++) sum += (uint32_t)(int32_t)(floats[k] * 256.0f);
  return sum;
}
"""


@pytest.mark.parametrize("flags", [("-O2",), ("-O0",), ("-Os",), ("-O3", "-funroll-loops")])
def test_compiled_code_gives_the_same_with_and_without_timing(board: Bench, flags: tuple[str, ...]) -> None:
    c_source = C_PROGRAM.replace("TABLE", ", ".join(str((k * 37 + 11) % 256 - 128) for k in range(256)))
    body = "  bl work\n  bl emit\n  WRITE FLASH_ACR, 0x705\n  bl work\n  bl emit\n  movs r0, #0\n  b finish\n"
    elf = board.assemble(body, c_source=c_source, flags=flags)
    outputs = {
        option: board.run(elf, *option).words
        for option in (("--functional",), ("--flash-model", "none"), ("--flash-model", "f407"))
    }
    first = outputs[("--functional",)]
    assert len(first) == 2 and all(words == first for words in outputs.values())
    assert first[0] != first[1], "the second pass goes on from the state of the first"
