"""The STM32F407 in figures: memories, clocks, currents; and the energy estimate made from them.

Source: ST DS8626 Rev 12 (memories: section 2.2; wait states and clocks: tables 14 and 17; currents: tables 20 to 22,
typical at 25 degrees and 3.3 V).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from rqdkm_tvm.errors import RqdkmError


@dataclass(frozen=True)
class Memory:
    """One memory: start address, size in bytes, and whether code can run from it."""

    name: str
    start: int
    bytes: int
    executable: bool


@dataclass(frozen=True)
class Board:
    """What the rest of the program may know about a board.

    Args:
        run_ma: HCLK in MHz -> supply current in mA, running with the flash accelerator on, peripherals off.
        sleep_ma: the same in sleep (WFI), peripherals off.
    """

    name: str
    core: str
    memories: tuple[Memory, ...]
    max_hclk_hz: int
    internal_hz: int
    crystal_hz: int
    max_apb1_hz: int
    max_apb2_hz: int
    supply_v: float
    hz_per_wait_state: int
    run_ma: Mapping[int, float] = field(repr=False)
    sleep_ma: Mapping[int, float] = field(repr=False)
    source: str = ""

    def memory(self, name: str) -> Memory:
        """The memory of that name; KeyError if there is none."""
        return next(memory for memory in self.memories if memory.name == name)

    def wait_states(self, hclk_hz: int) -> int:
        """Flash wait states needed at ``hclk_hz``: one per started 30 MHz beyond the first."""
        return max(0, -(-hclk_hz // self.hz_per_wait_state) - 1)


STM32F407 = Board(
    name="stm32f407",
    core="Cortex-M4F",
    memories=(
        Memory("flash", 0x08000000, 1024 * 1024, True),
        Memory("sram", 0x20000000, 128 * 1024, True),  # SRAM1 112 KB + SRAM2 16 KB, contiguous
        Memory("ccm", 0x10000000, 64 * 1024, False),  # data only: no code, no DMA
    ),
    max_hclk_hz=168_000_000,
    internal_hz=16_000_000,
    crystal_hz=8_000_000,
    max_apb1_hz=42_000_000,
    max_apb2_hz=84_000_000,
    supply_v=3.3,
    hz_per_wait_state=30_000_000,
    run_ma={168: 40, 144: 31, 120: 26, 90: 20, 60: 14, 30: 8, 25: 6, 16: 5, 8: 3},
    sleep_ma={168: 12, 144: 9, 120: 8, 90: 7, 60: 5, 30: 3, 25: 2, 16: 2, 8: 1},
    source="ST DS8626 Rev 12, tables 20 and 22: typical, 25 degrees C, 3.3 V, flash accelerator on, peripherals off",
)


@dataclass(frozen=True)
class Energy:
    """An estimate, never a measurement.

    Args:
        energy_mj: of the cycles asked for, millijoules.
        power_mw: while they run, milliwatts.
        interpolated: the clock has no row in the datasheet; the current is linear between its neighbours.
    """

    energy_mj: float
    power_mw: float
    interpolated: bool
    source: str


def current_ma(table: Mapping[int, float], hclk_hz: int) -> tuple[float, bool]:
    """Supply current at ``hclk_hz``, and whether it was interpolated (linearly, between the neighbouring rows).

    Raises:
        RqdkmError: outside the table's range.
    """
    mhz = hclk_hz / 1e6
    rows = sorted(table)
    if not rows[0] <= mhz <= rows[-1]:
        raise RqdkmError(f"the datasheet has no current for {mhz:g} MHz", hint=f"use {rows[0]} to {rows[-1]} MHz")
    upper = next(row for row in rows if row >= mhz)
    if upper == mhz:
        return float(table[upper]), False
    lower = rows[rows.index(upper) - 1]
    share = (mhz - lower) / (upper - lower)
    return table[lower] + share * (table[upper] - table[lower]), True


def estimate_energy(cycles: float, hclk_hz: int, board: Board = STM32F407) -> Energy:
    """Energy of ``cycles`` at ``hclk_hz``: E = U * I(f) * cycles / f, with I(f) from the datasheet's run mode."""
    current, interpolated = current_ma(board.run_ma, hclk_hz)
    power = board.supply_v * current
    return Energy(power * cycles / hclk_hz, power, interpolated, board.source)
