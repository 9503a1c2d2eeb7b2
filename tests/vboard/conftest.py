"""Assemble small bare-metal programs and run them on the virtual board."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from rqdkm.board import virtual

HERE = Path(__file__).parent
CROSS = "arm-none-eabi-gcc"


@dataclass
class Run:
    """What a run of the virtual board left behind."""

    code: int
    output: bytes
    messages: str
    stats: dict[str, Any] = field(default_factory=dict)
    profile: dict[str, Any] = field(default_factory=dict)
    folded: str = ""

    @property
    def words(self) -> list[int]:
        """The output as unsigned 32-bit words (`emit` of prelude.S)."""
        assert len(self.output) % 4 == 0, self.output
        return list(struct.unpack(f"<{len(self.output) // 4}I", self.output))


@dataclass
class Bench:
    """Builds and runs test firmware in one folder."""

    folder: Path
    program: Path

    def assemble(self, body: str, *, c_source: str = "", flags: tuple[str, ...] = ()) -> Path:
        """Link the prelude, `body` (assembly that defines `main`) and optional C into an ELF."""
        name = hashlib.sha256((body + c_source + " ".join(flags)).encode()).hexdigest()[:12]
        elf = self.folder / f"{name}.elf"
        if elf.exists():
            return elf
        source = self.folder / f"{name}.S"
        source.write_text(
            f'.include "prelude.S"\n.text\n.thumb_func\n.global main\nmain:\n{body}\n.include "postlude.S"\n'
        )
        sources = [str(source)]
        if c_source:
            (self.folder / f"{name}.c").write_text(c_source)
            sources.append(str(self.folder / f"{name}.c"))
        command = [CROSS, "-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard", "-O2", "-nostdlib"]
        command += [
            f"-Wa,-I{HERE}",
            f"-T{HERE / 'link.ld'}",
            "-Wl,--no-warn-rwx-segments",
            *flags,
            *sources,
            "-o",
            str(elf),
        ]
        result = subprocess.run(command, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
        return elf

    def run(
        self, elf: Path, *options: str, stdin: bytes = b"", env: dict[str, str] | None = None, expect: int | None = 0
    ) -> Run:
        """Run `elf` with limits that no test needs, and check its exit code."""
        stats, profile, folded = (self.folder / f"run.{name}" for name in ("stats", "profile", "folded"))
        for path in (stats, profile, folded):
            path.unlink(missing_ok=True)
        command = [str(self.program), "--stats", str(stats), "--profile", str(profile), "--folded", str(folded)]
        command += ["--timeout", "60", *options, str(elf)]
        done = subprocess.run(
            command, input=stdin, capture_output=True, timeout=120, check=False, env={**os.environ, **(env or {})}
        )
        run = Run(done.returncode, done.stdout, done.stderr.decode(errors="replace"))
        if stats.exists():
            run.stats = json.loads(stats.read_text())
            run.profile = json.loads(profile.read_text())
            run.folded = folded.read_text()
        if expect is not None:
            assert run.code == expect, (run.code, run.messages, run.output)
        return run

    def __call__(self, body: str, *options: str, stdin: bytes = b"", expect: int | None = 0) -> Run:
        """Assemble and run."""
        return self.run(self.assemble(body), *options, stdin=stdin, expect=expect)


@pytest.fixture(scope="session")
def vboard_program() -> Path:
    return virtual.ensure_built()


@pytest.fixture(scope="module")
def board(tmp_path_factory: pytest.TempPathFactory, vboard_program: Path) -> Bench:
    if shutil.which(CROSS) is None:
        pytest.fail(f"{CROSS} is missing: apt-get install gcc-arm-none-eabi libnewlib-arm-none-eabi")
    return Bench(tmp_path_factory.mktemp("vboard"), vboard_program)


@pytest.fixture(scope="module")
def measure(board: Bench) -> Callable[..., dict[str, int]]:
    """Cycles of several instruction sequences, run one after the other in one program."""

    def measure_cases(
        cases: dict[str, str], *options: str, setup: str = "", per_case: str = "", tail: str = ""
    ) -> dict[str, int]:
        body = setup
        for sequence in cases.values():
            body += (
                f"  b 9f\n  .ltorg\n  .balign 64\n9:\n{per_case}\n  BEGIN\n{sequence}\n  END\n  mov r0, r4\n  bl emit\n"
            )
        run = board(body + "\n  movs r0, #0\n  b finish\n" + tail, *options)
        assert len(run.words) == len(cases)
        return dict(zip(cases, run.words, strict=True))

    return measure_cases
