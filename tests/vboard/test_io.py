"""USART, semihosting, limits: the process side of the board."""

from __future__ import annotations

import os
import struct
import subprocess
import time
from pathlib import Path

import pytest

from .conftest import Bench

END = "\n  movs r0, #0\n  b finish\n  .ltorg\n"
ECHO = """
  ldr r4, =USART1
1: ldr r0, [r4]
  lsls r1, r0, #26
  bpl 1b
  ldr r0, [r4, #4]
  adds r1, r0, #1
  str r1, [r4, #4]
  cmp r0, #0x7a
  bne 1b
"""


def test_echo_by_polling(board: Bench) -> None:
    data = bytes(range(0x30, 0x7A)) * 500
    assert board(ECHO + END, stdin=data + b"z").output == bytes(b + 1 for b in data + b"z")


def test_usart2_is_connected_too(board: Bench) -> None:
    body = "  WRITE 0x40004400 + 12, 0x200c\n" + ECHO.replace("=USART1", "=0x40004400")
    assert board(body + END, stdin=b"abz").output == b"bc{"


def test_receive_interrupt_wakes_wfi(board: Bench) -> None:
    body = """
  WRITE USART1 + 12, 0x202c
  WRITE NVIC_ISER + 4, 0x20
1: wfi
  b 1b
"""
    handler = """
  .thumb_func
  .global usart1_handler
usart1_handler:
  push {r4, lr}
  ldr r4, =USART1
  ldr r0, [r4, #4]
  str r0, [r4, #4]
  cmp r0, #0x7a
  bne 1f
  movs r0, #5
  b finish
1: pop {r4, pc}
  .ltorg
"""
    assert board(body + handler, stdin=b"hello z", expect=5).output == b"hello z"


def test_polling_a_closed_input_ends_the_run(board: Bench) -> None:
    started = time.monotonic()
    run = board(ECHO + END, stdin=b"ab", expect=124)
    assert run.output == b"bc" and run.stats["exit_reason"].startswith("input closed")
    assert time.monotonic() - started < 10


def test_waiting_for_input_does_not_burn_the_processor(board: Bench) -> None:
    elf = board.assemble(ECHO + END)
    process = subprocess.Popen([board.program, elf], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin and process.stdout
    process.stdin.write(b"a")
    process.stdin.flush()
    assert process.stdout.read(1) == b"b"
    time.sleep(1.0)
    fields = Path(f"/proc/{process.pid}/stat").read_text().rsplit(")", 1)[1].split()
    busy = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    process.stdin.write(b"z")
    process.stdin.close()
    assert process.stdout.read() == b"{" and process.wait(10) == 0
    process.stdout.close()
    assert busy < 0.5, f"{busy} s of processor time in one second of waiting"


def test_time_passes_while_waiting(board: Bench) -> None:
    elf = board.assemble(ECHO + END)
    stats = board.folder / "wait.json"
    process = subprocess.Popen([board.program, "--stats", stats, elf], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
    time.sleep(0.7)
    process.communicate(b"z", timeout=20)
    assert process.returncode == 0
    assert b'"wait_cycles": 0' not in stats.read_bytes()


def test_closed_output_ends_the_run(board: Bench) -> None:
    elf = board.assemble("1: movs r0, #65\n  bl emit\n  b 1b\n" + END)
    process = subprocess.Popen([board.program, "--timeout", "30", elf], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout and process.stderr
    process.stdout.read(10)
    process.stdout.close()
    assert process.wait(20) == 124 and b"output closed" in process.stderr.read()
    process.stderr.close()


def call(operation: int, *arguments: int | str) -> str:
    """Semihosting call with a parameter block on the stack; the result is sent."""
    code = "  sub sp, #16\n"
    for index, argument in enumerate(arguments):
        code += f"  ldr r0, ={argument}\n  str r0, [sp, #{4 * index}]\n"
    return code + f"  movs r0, #{operation}\n  mov r1, sp\n  bkpt 0xab\n  add sp, #16\n  bl emit\n"


TEXT = '\n  .section .rodata\ntt: .asciz ":tt"\nother: .asciz "/etc/passwd"\ntext: .asciz "hello host\\n"\n  .text\n'


def test_semihosting_console(board: Bench) -> None:
    body = "  ldr r1, =text\n  movs r0, #4\n  bkpt 0xab\n  ldr r1, =text\n  movs r0, #3\n  bkpt 0xab\n"
    run = board(body + END + TEXT)
    assert run.messages == "hello host\nh" and run.output == b""


def test_semihosting_files(board: Bench) -> None:
    body = call(1, "tt", 0, 3) + call(1, "tt", 4, 3) + call(1, "tt", 8, 3) + call(1, "other", 0, 11)
    body += call(9, 2) + call(0x0C, 1) + call(0x13)
    run = board(body + END + TEXT)
    assert run.words == [1, 2, 3, 0xFFFFFFFF, 1, 0, 13]


def test_semihosting_stdin_and_stdout(board: Bench) -> None:
    body = call(6, 1, "0x20000000", 5) + call(5, 2, "0x20000000", 5) + call(6, 1, "0x20000000", 4) + call(2, 1)
    run = board(body + END, stdin=b"abcde")
    assert run.output == struct.pack("<I", 0) + b"abcde" + struct.pack("<III", 0, 4, 0)


def test_semihosting_time(board: Bench) -> None:
    body = "  movs r0, #0x31\n  movs r1, #0\n  bkpt 0xab\n  bl emit\n"
    body += "  sub sp, #8\n  movs r0, #0x30\n  mov r1, sp\n  bkpt 0xab\n"
    body += "  ldr r0, [sp]\n  bl emit\n  ldr r0, [sp, #4]\n  bl emit\n" + call(0x10) + call(0x11)
    frequency, low, high, centiseconds, seconds = board(body + END).words
    assert frequency == 16_000_000 and 0 < low < 10000 and high == 0 and centiseconds == 0
    assert abs(seconds - time.time()) < 60


@pytest.mark.parametrize("code", [0, 1, 42, 120])
def test_exit_code_is_the_firmwares(board: Bench, code: int) -> None:
    run = board(f"  movs r0, #{code}\n  b finish\n", expect=code)
    assert run.stats["exit_code"] == code and run.stats["exit_reason"] == f"exit {code}"


def test_plain_exit_reports_the_reason(board: Bench) -> None:
    board("  ldr r1, =0x20026\n  movs r0, #0x18\n  bkpt 0xab\n  .ltorg\n", expect=0)
    board("  ldr r1, =0x20023\n  movs r0, #0x18\n  bkpt 0xab\n  .ltorg\n", expect=1)


def test_cycle_limit(board: Bench) -> None:
    run = board("  b .\n" + END, "--max-cycles", "1000000", expect=124)
    assert 1_000_000 <= run.stats["cycles"] < 1_000_100 and "cycle limit" in run.messages


def test_time_limit(board: Bench) -> None:
    started = time.monotonic()
    run = board("  b .\n" + END, "--timeout", "0.5", expect=124)
    assert "time limit" in run.stats["exit_reason"] and time.monotonic() - started < 10


def test_time_limit_also_while_sleeping(board: Bench) -> None:
    handler = "\n  .thumb_func\n  .global systick_handler\nsystick_handler:\n  bx lr\n"
    body = "  WRITE SYSTICK + 4, 1000\n  WRITE SYSTICK, 7\n1: wfi\n  b 1b\n"
    assert "limit" in board(body + END + handler, "--timeout", "0.5", expect=124).stats["exit_reason"]


def test_system_reset_ends_the_run(board: Bench) -> None:
    assert "reset" in board("  WRITE 0xE000ED0C, 0x05fa0004\n  b .\n" + END, expect=124).stats["exit_reason"]
