# SPDX-License-Identifier: GPL-2.0-or-later
"""Emulated instructions per second: ``speed.py PROGRAM FIRMWARE``. Prints one line per way of running."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

WAYS = (("--flash-model", "f407"), ("--flash-model", "l4r5"), ("--flash-model", "none"), ("--functional",))


def speed(program: str, firmware: str, options: tuple[str, ...]) -> tuple[float, float, int]:
    """(processor seconds, wall seconds, instructions) of one run."""
    with tempfile.TemporaryDirectory() as folder:
        stats = Path(folder) / "stats.json"
        before, began = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime, time.monotonic()
        subprocess.run([program, *options, "--stats", stats, firmware], check=True, stdin=subprocess.DEVNULL)
        wall = time.monotonic() - began
        used = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before
        return used, wall, int(json.loads(stats.read_text())["instructions"])


def main() -> None:
    for options in WAYS:
        used, wall, instructions = speed(sys.argv[1], sys.argv[2], options)
        millions = instructions / 1e6
        rates = f"{millions / used:6.1f} M/s of processor time, {millions / wall:6.1f} M/s of wall time"
        print(f"{' '.join(options):22} {millions:7.1f} M instructions  {rates}")


if __name__ == "__main__":
    main()
