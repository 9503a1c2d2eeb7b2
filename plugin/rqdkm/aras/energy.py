"""What the STM32F407 draws while it runs, sleeps, stops, wakes up and locks its PLL: an estimate, never a measurement.

The figures stand in a table, ``stm32f407.csv`` beside this file, each with its source: typical values of ST's
datasheet DS8626 (25 degrees, 3.3 V, peripherals off). Clocks without a row there are interpolated, and the row says so.
Another chip, or figures of your own board, is another table: ``rqdkm aras simulate --currents FILE``.
"""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path

from rqdkm_tvm.errors import DataError

DEFAULT = Path(__file__).with_name("stm32f407.csv")
HEADER = ("quantity", "mhz", "value", "unit", "source")
_HINT = "start from plugin/rqdkm/aras/stm32f407.csv: quantity,mhz,value,unit,source"

#: Quantities and their units; those in :data:`_BY_CLOCK` have one row per clock.
_UNITS = {
    "supply": "V",
    "run": "mA",
    "sleep": "mA",
    "stop": "mA",
    "stop_main": "mA",
    "stop_deep": "mA",
    "stop_wake": "us",
    "stop_wake_current": "mA",
    "pll": "mA",
    "pll_lock": "us",
    "hse_start": "us",
    "leave_pll": "us",
}
_BY_CLOCK = ("run", "sleep", "pll_lock")

#: Clock points of the port in its order: MHz, and the VCO that they are divided from (0: the internal oscillator).
POINTS: tuple[tuple[int, int], ...] = ((168, 336), (144, 288), (120, 240), (84, 168), (42, 168), (16, 0))
SAFE = 5


@dataclass(frozen=True)
class Currents:
    """A table as read. Currents mA, times us, clocks MHz."""

    supply_v: float
    run: dict[float, float]
    sleep: dict[float, float]
    stop: float
    stop_main: float
    stop_deep: float
    stop_wake: float
    stop_wake_current: float
    pll: float
    pll_lock: dict[float, float]
    hse_start: float
    leave_pll: float

    def at(self, table: dict[float, float], mhz: float) -> float:
        """Linear between the rows; beyond the last ones an error.

        Raises:
            DataError: ``mhz`` lies outside the table.
        """
        if mhz in table:
            return table[mhz]
        rows = sorted(table)
        if not rows[0] < mhz < rows[-1]:
            raise DataError(f"the table has no row near {mhz:g} MHz", where="currents", hint=_HINT)
        high = next(row for row in rows if row > mhz)
        low = rows[rows.index(high) - 1]
        return table[low] + (mhz - low) / (high - low) * (table[high] - table[low])

    def lock_us(self, vco: float, *, crystal: bool) -> float:
        """Until the PLL drives the core, from the internal oscillator; a crystal that feeds it has to start first."""
        return self.at(self.pll_lock, vco) + (self.hse_start if crystal else 0.0)


def read(path: Path = DEFAULT) -> Currents:
    """
    Raises:
        DataError: no such file, an unknown quantity or unit, a number that is none, or something is missing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the currents: {error}", where=str(path), hint=_HINT) from error
    return parse(text, where=str(path))


def parse(text: str, *, where: str) -> Currents:
    rows = csv.DictReader(io.StringIO(text))
    if tuple(rows.fieldnames or ()) != HEADER:
        raise DataError(f"the first line is not {','.join(HEADER)}", where=where, hint=_HINT)
    single: dict[str, float] = {}
    by_clock: dict[str, dict[float, float]] = {name: {} for name in _BY_CLOCK}
    for row in rows:
        here = f"{where}:{rows.line_num}"
        name = row["quantity"] or ""
        if name not in _UNITS:
            raise DataError(f'there is no quantity "{name}"', where=here, hint=f"one of {', '.join(_UNITS)}")
        if row["unit"] != _UNITS[name]:
            raise DataError(f'"{name}" is in {_UNITS[name]}, not in "{row["unit"]}"', where=here, hint=_HINT)
        value = _number(row["value"], here)
        if name in by_clock:
            by_clock[name][_number(row["mhz"], here)] = value
        else:
            single[name] = value
    missing = [name for name in _UNITS if name not in single and not by_clock.get(name)]
    if missing:
        raise DataError(f"there is no row for {', '.join(missing)}", where=where, hint=_HINT)
    return Currents(
        supply_v=single.pop("supply"),
        run=by_clock["run"],
        sleep=by_clock["sleep"],
        pll_lock=by_clock["pll_lock"],
        **single,
    )


def _number(text: str | None, where: str) -> float:
    try:
        value = float(text or "")
    except ValueError:
        value = float("nan")
    if not 0.0 < value < 1e9:
        raise DataError(f'"{text}" is no number above 0', where=where, hint=_HINT)
    return value


@dataclass(frozen=True)
class Workload:
    """Cycles of one frame by clock point, measured: fewer wait states, fewer cycles."""

    name: str
    cycles: tuple[int, ...]

    @property
    def factors(self) -> tuple[float, ...]:
        return tuple(count / self.cycles[0] for count in self.cycles)


WORKLOADS = Path(__file__).with_name("workloads.csv")


def read_workload(name: str, path: Path = WORKLOADS) -> Workload:
    """
    Raises:
        DataError: the file has no such row, or the row no cycles.
    """
    try:
        rows = list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the workloads: {error}", where=str(path)) from error
    for row in rows:
        if row.get("name") == name:
            cycles = tuple(round(_number(row.get(str(mhz)), f"{path}: {name}")) for mhz, _ in POINTS)
            return Workload(name, cycles)
    known = ", ".join(str(row.get("name")) for row in rows)
    raise DataError(f'there is no workload "{name}"', where=str(path), hint=f"known: {known}")
