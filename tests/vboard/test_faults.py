"""Bad accesses and instructions become faults in the guest, as on silicon (ARMv7-M ARM B1.5.14, B3.2.15)."""

from __future__ import annotations

import random
import struct

import pytest

from .conftest import Bench

PRECISE, IMPRECISE, INSTRUCTION_BUS, FORCED = 0x8200, 0x400, 0x100, 1 << 30
UNDEFINED, INVALID_STATE, INVALID_PC, NO_COPROCESSOR, UNALIGNED, DIVIDE = (1 << bit for bit in (16, 17, 18, 19, 24, 25))
FAULTED = 77
END = "\n  movs r0, #0\n  b finish\n  .ltorg\n"


def fault(board: Bench, body: str) -> list[int]:
    """CFSR, HFSR, BFAR, stacked PC minus the address of label `here` when the program publishes it in r11."""
    return board(body + END, expect=FAULTED).words


UNMAPPED = [
    0x0010_0000,
    0x1001_0000,
    0x2002_0000,
    0x3000_0000,
    0x4001_2000,
    0x5000_0000,
    0x6000_0000,
    0xA000_0000,
    0xF000_0000,
]


@pytest.mark.parametrize("address", UNMAPPED)
def test_unmapped_read(board: Bench, address: int) -> None:
    cfsr, hfsr, bfar, _pc = fault(
        board, f"  adr r0, here\n  bl emit\n  ldr r0, ={address:#x}\n  .balign 4\nhere: ldr r1, [r0]\n"
    )[1:]
    assert (cfsr, hfsr, bfar) == (PRECISE, FORCED, address)


@pytest.mark.parametrize("address", [0x0800_0000, 0x0000_0100, 0x1FFF_7A10, 0x2002_0000, 0x9000_0000])
def test_unmapped_or_forbidden_write(board: Bench, address: int) -> None:
    words = fault(board, f"  adr r0, here\n  bl emit\n  ldr r0, ={address:#x}\n  .balign 4\nhere: strb r1, [r0]\n")
    here, cfsr, hfsr, bfar, pc = words
    assert (cfsr, hfsr, bfar) == (PRECISE, FORCED, address)
    assert pc == here, "the stacked PC is the instruction that failed"


def test_flash_is_unharmed_by_a_forbidden_write(board: Bench) -> None:
    handler = """
  .thumb_func
  .global hard_fault
hard_fault:
  ldr r0, =0x08000000
  ldr r0, [r0]
  bl emit
  movs r0, #0
  b finish
"""
    assert board("  ldr r0, =0x08000000\n  str r0, [r0]\n  .ltorg\n" + handler).words == [0x20020000]


@pytest.mark.parametrize(
    ("body", "cfsr"),
    [
        ("  udf #0", UNDEFINED),
        ("  .inst.w 0xf7f0a000", UNDEFINED),
        ("  ldr r0, =main\n  bic r0, #1\n  bx r0", INVALID_STATE),
        ("  WRITE SCB_CCR, 0x210\n  movs r0, #0\n  udiv r1, r1, r0", DIVIDE),
        ("  WRITE SCB_CCR, 0x210\n  movs r0, #0\n  sdiv r1, r1, r0", DIVIDE),
        ("  WRITE SCB_CCR, 0x208\n  ldr r0, =0x20000002\n  ldr r1, [r0]", UNALIGNED),
        ("  WRITE SCB_CCR, 0x208\n  ldr r0, =0x20000001\n  strh r1, [r0]", UNALIGNED),
        ("  ldr r0, =0x20000002\n  ldrd r1, r2, [r0]", UNALIGNED),
        ("  ldr r0, =0x20000002\n  ldm r0, {r1, r2}", UNALIGNED),
        ("  ldr r0, =0x20000001\n  vldr s0, [r0]", UNALIGNED),
        ("  WRITE 0xE000ED88, 0\n  vadd.f32 s0, s1, s2", NO_COPROCESSOR),
        ("  ldr r0, =0x10000001\n  bx r0", INSTRUCTION_BUS),  # the CCM holds data only
        ("  ldr r0, =0x60000001\n  bx r0", INSTRUCTION_BUS),
        ("  ldr r0, =0x40020001\n  bx r0", 1),  # IACCVIOL: execute never
        ("  ldr r0, =0x40004804\n  ldr r1, [r0]\n  nop", IMPRECISE),  # USART3 is not modelled, its page is
    ],
)
def test_fault_kinds(board: Bench, body: str, cfsr: int) -> None:
    words = fault(board, body)
    assert words[0] == cfsr and words[1] == FORCED


def test_divide_by_zero_is_zero_when_not_trapped(board: Bench) -> None:
    assert board("  movs r1, #0\n  movs r0, #5\n  udiv r0, r0, r1\n  bl emit\n" + END).words == [0]


def test_an_enabled_bus_fault_handler_is_used_and_can_return(board: Bench) -> None:
    handler = """
  .thumb_func
  .global bus_fault
bus_fault:
  push {r4, lr}
  ldr r4, =SCB_CFSR
  ldr r0, [r4]
  str r0, [r4]
  bl emit
  ldr r0, [r4]
  bl emit
  ldr r0, [sp, #8 + 24]
  adds r0, #2
  str r0, [sp, #8 + 24]
  mrs r0, ipsr
  bl emit
  pop {r4, pc}
  .ltorg
"""
    body = "  WRITE SCB_SHCSR, 0x20000\n  ldr r0, =0x30000000\n  ldr r1, [r0]\n  movs r0, #42\n  bl emit\n" + END
    assert board(body + handler).words == [PRECISE, 0, 5, 42]


def test_fault_in_a_fault_handler_is_a_lockup(board: Bench) -> None:
    handler = (
        "  .thumb_func\n  .global hard_fault\nhard_fault:\n  ldr r0, =0x30000000\n  ldr r1, [r0]\n  b .\n  .ltorg\n"
    )
    run = board("  udf #0\n" + handler, expect=122)
    assert "lockup" in run.stats["exit_reason"] and "lockup" in run.messages


def test_fault_with_faultmask_is_a_lockup(board: Bench) -> None:
    assert board("  cpsid f\n  udf #0\n" + END, expect=122).code == 122


def test_fault_with_primask_is_taken(board: Bench) -> None:
    assert fault(board, "  cpsid i\n  udf #0\n")[0] == UNDEFINED


def test_stack_overflow_into_nothing_is_reported(board: Bench) -> None:
    # SP below SRAM: the push fails, then the exception frame cannot be stored either, and the handler has no stack.
    run = board("  ldr r0, =0x20000004\n  mov sp, r0\n  push {r0-r3}\n" + END, expect=122)
    assert "CFSR 0x0000" in run.stats["exit_reason"]


def test_svc_inside_an_equal_priority_handler_escalates(board: Bench) -> None:
    handler = "  .thumb_func\n  .global svc_handler\nsvc_handler:\n  svc 1\n  bx lr\n"
    words = board("  svc 0\n" + END + handler, expect=FAULTED).words
    assert words[0] == 0 and words[1] == FORCED


def test_breakpoint_without_debugger_is_a_hard_fault(board: Bench) -> None:
    words = fault(board, "  bkpt 1\n")
    assert words[1] == 1 << 31


def test_invalid_exception_return(board: Bench) -> None:
    handler = "  .thumb_func\n  .global svc_handler\nsvc_handler:\n  ldr r0, =0xfffffff1\n  bx r0\n  .ltorg\n"
    assert board("  svc 0\n" + END + handler, expect=FAULTED).words[0] == INVALID_PC


def test_fault_inside_an_it_block_is_taken(board: Bench) -> None:
    words = fault(board, "  ldr r0, =0x30000000\n  cmp r0, r0\n  itt eq\n  ldreq r1, [r0]\n  moveq r2, #1\n")
    assert words[0] == PRECISE and words[2] == 0x30000000


# region 0, on top of the default map
GUARD = """
  WRITE 0xE000ED98, 0
  WRITE 0xE000ED9C, {base:#x}
  WRITE 0xE000EDA0, {attributes:#x}
  WRITE 0xE000ED94, 5
  dsb
"""
MEMORY_DATA, MEMORY_FETCH = 0x82, 0x01
NO_ACCESS_128_MB = 1 << 28 | 26 << 1 | 1
READ_ONLY_256 = 6 << 24 | 7 << 1 | 1


def mpu(base: int, attributes: int) -> str:
    return GUARD.format(base=base, attributes=attributes)


@pytest.mark.parametrize(
    ("region", "access", "cfsr"),
    [
        (mpu(0, NO_ACCESS_128_MB), "  movs r0, #0\n  ldr r1, [r0]\n", MEMORY_DATA),
        (mpu(0, NO_ACCESS_128_MB), "  movs r0, #4\n  strb r1, [r0]\n", MEMORY_DATA),
        (mpu(0, NO_ACCESS_128_MB), "  movs r0, #0x41\n  bx r0\n", MEMORY_FETCH),
        (mpu(0x20001000, READ_ONLY_256), "  ldr r0, =0x200010fc\n  ldr r1, [r0]\n  str r1, [r0]\n", MEMORY_DATA),
        (mpu(0x20001000, READ_ONLY_256), "  ldr r0, =0x20000ffc\n  stm r0, {r1, r2}\n", MEMORY_DATA),
    ],
)
def test_the_memory_protection_unit(board: Bench, region: str, access: str, cfsr: int) -> None:
    words = fault(board, region + access)
    assert words[:2] == [cfsr, FORCED]


def test_the_memory_protection_unit_lets_everything_else_pass(board: Bench) -> None:
    # sub-region 1 (32 bytes) of the read-only region is switched off
    body = mpu(0x20001000, READ_ONLY_256 | 2 << 8) + "  ldr r0, =0x20001020\n  str r0, [r0]\n  str r0, [r0, #0x100]\n"
    assert board(body + END).code == 0


def test_thread_mode_from_inside_nested_handlers(board: Bench) -> None:
    # A fault handler may drop to thread mode with other exceptions active when CCR.NONBASETHRDENA is set.
    handlers = """
  .thumb_func
  .global svc_handler
svc_handler:
  udf #0
  .thumb_func
  .global hard_fault
hard_fault:
  ldr r0, =after
  str r0, [sp, #24]
  ldr r0, =0x01000000
  str r0, [sp, #28]
  ldr r0, =0xfffffff9
  bx r0
  .ltorg
  .thumb_func
after:
  mrs r0, ipsr
  bl emit
  movs r0, #0
  b finish
"""
    assert board("  WRITE SCB_CCR, 0x201\n  svc 0\n" + handlers).words == [0]
    assert board("  WRITE SCB_CCR, 0x200\n  svc 0\n" + handlers, expect=122).code == 122


def test_fault_of_the_fpu_inside_an_it_block(board: Bench) -> None:
    # Unicorn cannot stop inside an IT block and raises an exception of its own there.
    words = fault(board, "  WRITE 0xE000ED88, 0\n  cmp r0, r0\n  itt eq\n  vaddeq.f32 s0, s1, s2\n  moveq r2, #1\n")
    assert words[:2] == [NO_COPROCESSOR, FORCED]


PLAUSIBLE = [
    0x2000,
    0x6000,
    0x6800,
    0x4400,
    0xB500,
    0xBD00,
    0xE000,
    0xD000,
    0xBF08,
    0xF8D0,
    0xFB90,
    0xEE30,
    0xED90,
    0xE8BD,
]


@pytest.mark.parametrize("seed", range(4))
def test_random_code_neither_hangs_nor_crashes_the_board(board: Bench, seed: int) -> None:
    generator = random.Random(seed)
    for _ in range(15):
        code = bytearray(generator.randbytes(2000))
        for offset in range(0, len(code), 2):
            if generator.random() < 0.6:
                struct.pack_into("<H", code, offset, generator.choice(PLAUSIBLE) | generator.randrange(256))
        elf = board.folder / "random.elf"
        elf.write_bytes(bare_elf(bytes(code)))
        options = generator.choice([("--functional",), ("--flash-model", "f407"), ("--flash-model", "l4r5")])
        run = board.run(elf, *options, "--max-cycles", "200000", "--timeout", "20", expect=None)
        assert run.code in (122, 124), (seed, run)


def bare_elf(code: bytes) -> bytes:
    """An ELF whose vectors all point to `code`, which starts at 0x08000200."""
    image = struct.pack("<128I", 0x20010000, *[0x08000201] * 127) + code
    header = struct.pack("<16sHHIIIIIHHHHHH", b"\x7fELF\1\1\1", 2, 40, 1, 0x08000200, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    segment = struct.pack("<8I", 1, 84, 0x08000000, 0x08000000, len(image), len(image), 5, 4)
    return header + segment + image
