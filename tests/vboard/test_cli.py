"""Bad command lines and files: exit 121 and one line, never a crash."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest

from .conftest import Bench

GOOD = "  movs r0, #0\n  b finish\n"


def refused(program: Path, arguments: Sequence[str | Path], expected: str) -> None:
    done = subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=20, check=False, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 121, done
    assert done.stdout == "" and done.stderr.count("\n") == 1 and expected in done.stderr, done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "no firmware"),
        (["--nonsense", "x.elf"], "unknown option"),
        (["--flash-model", "h7", "x.elf"], "unknown flash model"),
        (["--flash-model"], "needs a value"),
        (["--max-cycles", "0", "x.elf"], "positive number"),
        (["--max-cycles", "12x", "x.elf"], "positive number"),
        (["--timeout", "-1", "x.elf"], "positive number"),
        (["--timeout", "nan", "x.elf"], "positive number"),
        (["--hse", "1", "x.elf"], "outside"),
        (["--lsi", "1000", "x.elf"], "outside"),
        (["--lse", "-1", "x.elf"], "positive number"),
        (["--pll-miss", "0", "x.elf"], "positive number"),
        (["--hse-stops", "soon", "x.elf"], "positive number"),
        (["a.elf", "b.elf"], "one firmware"),
        (["missing.elf"], "No such file"),
        (["/"], "directory"),
    ],
)
def test_bad_command_lines(board: Bench, arguments: list[str], message: str) -> None:
    refused(board.program, arguments, message)


def corrupt(data: bytes, offset: int, value: bytes) -> bytes:
    return data[:offset] + value + data[offset + len(value) :]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"", "empty"),
        (lambda data: b"hello world", "not an ELF"),
        (lambda data: random.Random(1).randbytes(5000), "not an ELF"),
        (lambda data: data[:20], "truncated"),
        (lambda data: data[:60], "truncated"),
        (lambda data: data[:0x1010], "truncated"),
        (lambda data: corrupt(data, 18, struct.pack("<H", 62)), "not a 32-bit little-endian ARM"),
        (lambda data: corrupt(data, 4, b"\x02"), "not a 32-bit little-endian ARM"),
        (lambda data: corrupt(data, 5, b"\x02"), "not a 32-bit little-endian ARM"),
        (lambda data: corrupt(data, 16, b"\x01"), "not an executable"),
        (lambda data: corrupt(data, 44, b"\x00\x00"), "no program headers"),
        (lambda data: corrupt(data, 28, struct.pack("<I", 0xFFFFFFF0)), "truncated"),
        (lambda data: corrupt(data, 52 + 12, struct.pack("<I", 0x60000000)), "does not fit"),
        (lambda data: corrupt(data, 52 + 16, struct.pack("<I", 0xFFFFFFFF)), "truncated"),
    ],
)
def test_bad_files(board: Bench, change: object, message: str, tmp_path: Path) -> None:
    good = board.assemble(GOOD).read_bytes()
    bad = tmp_path / "bad.elf"
    bad.write_bytes(change(good))  # type: ignore[operator]
    refused(board.program, [bad], message)


def test_a_program_of_the_host_is_refused(board: Bench) -> None:
    refused(board.program, ["/bin/true"], "ARM")


def test_fuzzed_files_never_crash(board: Bench, tmp_path: Path) -> None:
    good = bytearray(board.assemble(GOOD).read_bytes())
    generator = random.Random(7)
    for _ in range(150):
        data = bytearray(good)
        for _ in range(generator.randint(1, 8)):
            data[generator.randrange(min(len(data), 200) if generator.random() < 0.5 else len(data))] = (
                generator.randrange(256)
            )
        path = tmp_path / "fuzz.elf"
        path.write_bytes(data)
        done = subprocess.run(
            [board.program, "--max-cycles", "100000", "--timeout", "10", path],
            capture_output=True,
            timeout=30,
            check=False,
            stdin=subprocess.DEVNULL,
        )
        assert done.returncode >= 0, (done, data.hex()[:200])


def test_unwritable_statistics_are_reported(board: Bench) -> None:
    done = subprocess.run(
        [board.program, "--stats", "/nonexistent/x.json", board.assemble(GOOD)],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0 and "cannot write /nonexistent/x.json" in done.stderr


def test_help_and_version(board: Bench) -> None:
    done = subprocess.run([board.program, "--help"], capture_output=True, text=True, timeout=20, check=True)
    assert "--flash-model" in done.stdout
    done = subprocess.run([board.program, "--version"], capture_output=True, text=True, timeout=20, check=True)
    assert done.stdout.startswith("rqdkm-vboard ")
