#!/usr/bin/env python3
"""A worked example: what 10 ms of work at 168 MHz in every 100 ms costs, by what the firmware does with the rest.

python examples/clocks/energy.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from times import build, markdown, run

from rqdkm.aras import energy
from rqdkm.aras.onboard import milliamperes
from rqdkm.board.residency import energy_j, read

START = ("p 0", "c 5", "c 0")
WORK = "b 10000"
WAYS = {
    "stays busy": ("b 90000",),
    "sleeps at 168 MHz": ("z 90000",),
    "sleeps at 42 MHz, divided": ("c 7", "z 89970", "c 0"),
    "sleeps at 16 MHz, comes back": ("c 5", "z 89650", "c 0"),
    "stops, main regulator": ("s 0 90000",),
    "stops, low-power regulator": ("s 1 90000",),
    "stops, flash in deep power-down": ("s 2 90000",),
}


def energy_mj(elf: Path, *commands: str) -> float:
    """By the project's table of currents (typical values of DS8626; plugin/rqdkm/aras/stm32f407.csv)."""
    currents = energy.read()
    stays = read(run(elf, [*START, *commands]).stats)
    return 1000 * energy_j(stays, lambda state: milliamperes(state, currents), currents.supply_v)


def main() -> int:
    rows = [["the rest of 100 ms", "mJ"]]
    with tempfile.TemporaryDirectory() as folder:
        elf = build(Path(folder))
        start = energy_mj(elf)
        for name, commands in WAYS.items():
            rows.append([name, f"{energy_mj(elf, WORK, *commands) - start:.2f}"])
    print(markdown(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
