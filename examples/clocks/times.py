#!/usr/bin/env python3
"""Build the firmware of this folder, run it on the virtual board, and print what clock changes and stop mode cost.

python examples/clocks/times.py > tables.md
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rqdkm.board import virtual
from rqdkm.export.project import cmake_build

HERE = Path(__file__).parent
POINTS = ("168", "144", "120", "84", "42", "16", "84 divided", "42 divided")
STOPS = ("main regulator", "low-power regulator", "low-power, flash in deep power-down")
BAUD = 115200


@dataclass(frozen=True)
class Reply:
    """The firmware's answer to one command (main.c)."""

    status: int
    point: int
    hclk_hz: int
    microseconds: int
    cycles: int
    interrupts: int
    on_crystal: int
    refused: int
    crystal_faults: int
    pll_faults: int


@dataclass(frozen=True)
class Run:
    """A run of the firmware on the virtual board."""

    code: int
    replies: list[Reply]
    events: list[dict[str, str]]
    stats: dict[str, Any]
    messages: str


def build(folder: Path) -> Path:
    """The firmware, compiled in ``folder``."""
    cmake_build(HERE, folder, ["-DRQDKM_WERROR=ON"])
    return folder / "clocks.elf"


def run(elf: Path, commands: Sequence[str], *options: str, timeout_s: float = 60) -> Run:
    """Send ``commands`` and then the end; every broken clock rule ends the run with 123."""
    text = "".join(f"{command}\n" for command in [*commands, "x 0"])
    with tempfile.TemporaryDirectory() as folder:
        stats, events = Path(folder) / "stats.json", Path(folder) / "events.csv"
        command: list[str | Path] = [virtual.ensure_built(), "--strict-clock", "--baud", str(BAUD)]
        command += ["--stats", stats, "--events", events, *options, elf]
        done = subprocess.run(command, input=text, capture_output=True, text=True, timeout=timeout_s, check=False)
        with events.open() as file:
            rows = list(csv.DictReader(file))
        return Run(done.returncode, parse(done.stdout), rows, json.loads(stats.read_text()), done.stderr)


def parse(output: str) -> list[Reply]:
    """One reply a line."""
    return [Reply(*(int(word) for word in line.split())) for line in output.splitlines()]


def transitions(elf: Path, *options: str) -> list[list[Reply]]:
    """The reply to every change, by row (from) and column (to)."""
    pairs = [(start, end) for start in range(len(POINTS)) for end in range(len(POINTS))]
    done = run(elf, [f"c {point}" for pair in pairs for point in pair], *options)
    if done.code != 0:
        raise SystemExit(f"the firmware ended with {done.code}: {done.messages}")
    changes = done.replies[1::2]
    return [changes[row * len(POINTS) :][: len(POINTS)] for row in range(len(POINTS))]


@dataclass(frozen=True)
class Stop:
    """A stop as the time line shows it, microseconds."""

    stopped: float
    wake_up: float
    back: float  # from the first instruction until the clock of before drives the core
    late: int  # when the call returned, after the time asked for


def stop(elf: Path, kind: int, *, crystal: bool, point: int = 0, microseconds: int = 20_000) -> Stop:
    """One stop from ``point``."""
    done = run(elf, [f"p {int(crystal)}", f"c {(point + 1) % 6}", f"c {point}", f"s {kind} {microseconds}"])
    if done.code != 0:
        raise SystemExit(f"the firmware ended with {done.code}: {done.messages}")
    at = {row["subject"]: float(row["time_us"]) for row in done.events if row["event"] == "mode"}
    first = next(float(r["time_us"]) for r in done.events if (r["event"], r["subject"]) == ("mode", "stop"))
    awake = at["wake-up"]
    running = next(float(r["time_us"]) for r in done.events if r["subject"] == "run" and float(r["time_us"]) > awake)
    clocks = [float(r["time_us"]) for r in done.events if r["event"] == "clock" and r["subject"] == "PLL"]
    back = max(clocks, default=running) - running if point != POINTS.index("16") else 0.0
    return Stop(awake - first, running - awake, back, done.replies[-1].microseconds - microseconds)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """A table; the first row is its head."""
    lines = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        elf = build(Path(folder))
        table = transitions(elf)
        rows = [["us, from \\ to", *POINTS]]
        rows += [[POINTS[k], *(str(change.microseconds) for change in row)] for k, row in enumerate(table)]
        print(markdown(rows), "\n")
        rows = [["stop of 20 ms from 168 MHz", "PLL fed by", "stopped, us", "wake-up, us", "back at 168 MHz after, us"]]
        for kind, name in enumerate(STOPS):
            for crystal in (True, False):
                done = stop(elf, kind, crystal=crystal)
                source = "crystal" if crystal else "internal oscillator"
                rows.append([name, source, f"{done.stopped:.0f}", f"{done.wake_up:.0f}", f"{done.back:.0f}"])
        print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
