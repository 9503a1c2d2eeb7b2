"""Core cycles against sequences counted by hand from the Cortex-M4 TRM (DDI0439), at zero flash wait states.

Rules used (docs/virtual-board.md, "Core"): ALU 1; LDR 2, or 1 right after another load; STR 1, with register offset 2;
LDM, STM, PUSH, POP 1 + N; taken branch 1 + P with P = 1 (immediate), 2 (register), 3 (loaded); DIV 2 to 12 by operands;
FPU add and multiply 1, multiply-accumulate 3, divide and square root 14.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

# name -> sequence, cycles; SRAM runs before each of them and is not measured
SRAM = "  ldr r2, =0x20000100\n  ldr r3, =0x20000200\n  str r3, [r2]\n  str r3, [r3]\n  movs r0, #4\n  movs r1, #0\n"

CASES: dict[str, tuple[str, int]] = {
    "nothing": ("", 0),
    "four ALU": ("adds r0, #1\n add.w r1, r1, #1\n eor r5, r0, r1\n smlad r5, r0, r1, r5", 4),
    "multiplies are single cycle": ("mul r5, r0, r1\n smull r5, r9, r0, r1\n smlal r5, r9, r0, r1", 3),
    "one load": ("ldr r1, [r2]", 2),
    "three independent loads pipeline": ("ldr r1, [r2]\n ldr r5, [r3]\n ldrb r9, [r2, #1]", 2 + 1 + 1),
    "a loaded address does not pipeline": ("ldr r5, [r2]\n ldr r9, [r5]", 2 + 2),
    "load then use costs nothing more": ("ldr r1, [r2]\n adds r1, #1", 2 + 1),
    "ALU result as address waits one": ("add r5, r2, #0\n ldr r1, [r5]", 1 + 2 + 1),
    "SXTB result as address waits one": ("sxtb r5, r0\n ldr r1, [r2, r5]", 1 + 2 + 1),
    "compare sets no register": ("cmp r2, r2\n ldr r1, [r2]", 1 + 2),
    "low word of a long multiply as address waits one": ("umull r5, r9, r2, r0\n ldr r1, [r2, r1]\n", 1 + 2),
    "literal loads take two each": ("ldr r5, =0x12345678\n ldr r9, =0x23456789", 2 + 2),
    "store immediate": ("str r1, [r2, #4]", 1),
    "store register offset": ("str r1, [r2, r0]", 2),
    "load multiple": ("ldm r2, {r1, r5, r9}", 1 + 3),
    "store multiple": ("stm r2, {r0, r1}", 1 + 2),
    "push and pop": ("push {r0, r1, r5}\n pop {r0, r1, r5}", 4 + 4),
    "load dual": ("ldrd r5, r9, [r2]", 3),
    "branch": ("b 1f\n nop\n1:", 1 + 1),
    "branch not taken": ("cmp r0, #99\n beq 1f\n1: nop", 1 + 1 + 1),
    "compare and branch taken": ("cbnz r0, 1f\n nop\n1:", 1 + 1),
    "register branch": ("adr r5, 1f + 1\n bx r5\n nop\n .balign 4\n1:", 1 + 1 + 2),
    "call and return": ("bl 1f\n b 2f\n1: bx lr\n2:", (1 + 1) + (1 + 2) + (1 + 1)),
    "pop to PC": ("adr r5, 1f + 1\n push {r5}\n pop {pc}\n .balign 4\n1:", 1 + 2 + (1 + 1 + 3)),
    # sequences start at an address of 2 modulo 4 here
    "wide target across a word": ("b 1f\n nop\n1: add.w r1, r1, #1", 1 + 1 + 1 + 1),
    "wide target at a word": ("b 1f\n nop.w\n1: add.w r1, r1, #1", 1 + 1 + 1),
    "loop of ten": ("movs r5, #10\n1: subs r5, #1\n bne 1b", 1 + 10 * 1 + 9 * 2 + 1),
    "divide small by large": ("movs r5, #100\n udiv r9, r0, r5", 1 + 2),
    "divide 100 by 7": ("movs r5, #100\n movs r1, #7\n udiv r9, r5, r1", 2 + 4),
    "divide 2^32-1 by 1": ("mov r5, #-1\n movs r1, #1\n udiv r9, r5, r1", 2 + 11),
    "signed divide by magnitude": ("mvn r5, #99\n movs r1, #7\n sdiv r9, r5, r1", 2 + 4),
    "divide by zero": ("movs r1, #0\n udiv r9, r0, r1", 1 + 2),
    "unaligned word, even": ("add r5, r2, #2\n nop\n ldr r1, [r5]", 2 + 2 + 1),
    "unaligned word, odd": ("add r5, r2, #1\n nop\n ldr r1, [r5]", 2 + 2 + 2),
    "unaligned halfword": ("add r5, r2, #1\n nop\n ldrh r1, [r5]", 2 + 2 + 1),
    "unaligned store": ("add r5, r2, #2\n nop\n str r1, [r5]", 2 + 1 + 1),
    "IT folds into a 16-bit neighbour": ("cmp r0, r0\n it eq\n addeq r1, r1, #1", 1 + 0 + 1),
    "IT behind a wide instruction": ("cmp.w r0, #4\n it eq\n addeq r1, r1, #1", 1 + 1 + 1),
    "skipped instructions take one": ("cmp r0, r0\n itt ne\n ldrne r1, [r2]\n ldmne r2, {r1, r5, r9}", 1 + 0 + 1 + 1),
    "half of an IT block": ("cmp r0, r0\n ite ne\n ldrne r1, [r2]\n ldreq r1, [r3]", 1 + 0 + 1 + 2),
    "FPU add": ("vadd.f32 s0, s1, s2\n vadd.f32 s3, s4, s5", 1 + 1),
    "FPU result used at once": ("vadd.f32 s0, s1, s2\n vadd.f32 s3, s0, s5", 1 + 1 + 1),
    "FPU multiply-accumulate": ("vmla.f32 s0, s1, s2", 3),
    "FPU accumulator forwarded": ("vfma.f32 s0, s1, s2\n vfma.f32 s0, s3, s4", 3 + 3),
    "FPU divide and root": ("vdiv.f32 s0, s1, s2\n nop\n vsqrt.f32 s3, s4", 14 + 1 + 14),
    "FPU loads pipeline": ("vldr s0, [r2]\n vldr s1, [r2, #4]", 2 + 1),
    "FPU double load": ("vldr d0, [r2]", 3),
    "FPU load multiple": ("vldm r2, {s0-s3}", 1 + 4),
    "special registers": ("mrs r1, basepri\n mrs r1, primask", 2 + 2),
    "table branch": ("movs r1, #0\n tbb [pc, r1]\n1: .byte (2f - 1b) / 2, 0\n2:", 1 + 3 + 3),
}


@pytest.fixture(scope="module")
def cycles(measure: Callable[..., dict[str, int]]) -> dict[str, int]:
    return measure({name: sequence for name, (sequence, _) in CASES.items()}, per_case=SRAM)


@pytest.mark.parametrize("name", CASES)
def test_sequence_costs_what_the_manual_says(name: str, cycles: dict[str, int]) -> None:
    assert cycles[name] == CASES[name][1]


def test_long_multiply_low_word_as_address_waits(measure: Callable[..., dict[str, int]]) -> None:
    setup = SRAM + "  ldr r9, =0x20000100\n  movs r0, #1\n"
    result = measure({"rdlo": "umull r5, r1, r9, r0\n ldr r1, [r5]"}, setup=setup)
    assert result["rdlo"] == 1 + 2 + 1
