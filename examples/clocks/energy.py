#!/usr/bin/env python3
"""A worked example: what 10 ms of work at 168 MHz in every 100 ms costs, by what the firmware does with the rest.

python examples/clocks/energy.py
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from times import build, markdown, run

from rqdkm.board.residency import State, energy_j, read

# DS8626 Rev 12, typical, 25 C, 3.3 V, peripherals off: tables 20 (run, accelerator on), 22 (sleep), 24 (stop); mA.
MHZ = (8, 16, 25, 30, 60, 90, 120, 144, 168)
RUN = (3, 5, 6, 8, 14, 20, 26, 31, 40)
SLEEP = (1, 2, 2, 3, 5, 7, 8, 9, 12)
STOP_MAIN, STOP_LOW_POWER, STOP_DEEP = 0.45, 0.31, 0.28
VOLTS = 3.3
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


def milliamperes(state: State) -> float:
    """Typical, interpolated between the rows. Waking up is charged as running at 16 MHz: an assumption."""
    if state.mode == "stop":
        return STOP_DEEP if state.deep else STOP_LOW_POWER if state.low_power else STOP_MAIN
    if state.mode == "wake-up":
        return float(RUN[1])
    return float(np.interp(state.hclk_hz / 1e6, MHZ, SLEEP if state.mode == "sleep" else RUN))


def energy_mj(elf: Path, *commands: str) -> float:
    return 1000 * energy_j(read(run(elf, [*START, *commands]).stats), milliamperes, VOLTS)


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
