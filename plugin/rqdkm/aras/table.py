"""The constants of chip and task: built from the energy model, given to the C library, written as C."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import dataclass

from rqdkm.aras.energy import POINTS, SAFE, Currents, Workload
from rqdkm_tvm.errors import RqdkmError

MOST_POINTS, LEVELS, VERSION = 8, 4, 2
PREDICTORS = ("last", "average", "holt", "rls")

#: Of the numbers of a :class:`Task`.
LIMITS: dict[str, tuple[float, float]] = {
    "worst": (0.01, 100),
    "tick_us": (1, 1_000_000),
    "guard_us": (0, 1_000_000),
    "window_us": (1000, 10_000_000),
    "rest_us": (1, 1_000_000_000),
    "share": (0, 0.9),
    "hysteresis": (0, 0.5),
    "raise_cost": (0, 1),
    "quantile": (0.5, 0.999),
}


@dataclass(frozen=True)
class Task:
    """What the application asks for; the fields of ``rqdkm_aras_table`` that no datasheet knows.

    Args:
        worst: most that a frame takes, over the cycles of the workload.
        tick_us: longest time between two looks while a frame is computed.
        guard_us: frames are to be finished this much before their deadline.
        window_us: over which the rest's share is kept and loads are measured.
        rest_us: longest time that work of the rest may take behind a wake-up, above what the fastest clock takes.
        share: of the time that the rest is granted at any priority.
        hysteresis: part of the energy that a change of clock has to save.
        raise_cost: part that a higher priority has to save.
        quantile: of predicted demand that is planned for.
        crystal: the PLL runs from the crystal, which has to start after every stop.
    """

    worst: float = 1.1
    tick_us: int = 1000
    guard_us: int = 500
    window_us: int = 20_000
    rest_us: int = 5_000
    share: float = 0.2
    hysteresis: float = 0.03
    raise_cost: float = 0.05
    quantile: float = 0.95
    frame_predictor: str = "rls"
    rest_predictor: str = "holt"
    crystal: bool = False

    def __post_init__(self) -> None:
        for name, (low, high) in LIMITS.items():
            value = getattr(self, name)
            if not low <= value <= high:
                raise RqdkmError(f"{name} must lie between {low:g} and {high:g}, got {value:g}", where="task")
        for name in (self.frame_predictor, self.rest_predictor):
            if name not in PREDICTORS:
                raise RqdkmError(
                    f'there is no predictor "{name}"', where="task", hint=f"one of {', '.join(PREDICTORS)}"
                )


class CPoint(ctypes.Structure):
    _fields_ = [
        ("hz", ctypes.c_uint32),
        ("factor", ctypes.c_float),
        ("run_ma", ctypes.c_float),
        ("sleep_ma", ctypes.c_float),
    ]


class CTable(ctypes.Structure):
    """``rqdkm_aras_table``."""

    _fields_ = [
        ("version", ctypes.c_uint32),
        ("points", ctypes.c_uint32),
        ("safe", ctypes.c_uint32),
        ("point", CPoint * MOST_POINTS),
        ("switch_us", (ctypes.c_uint16 * MOST_POINTS) * MOST_POINTS),
        ("switch_ma", ctypes.c_float),
        ("volts", ctypes.c_float),
        ("stop_ma", ctypes.c_float),
        ("wake_us", ctypes.c_float),
        ("wake_ma", ctypes.c_float),
        ("worst_cycles", ctypes.c_uint32),
        ("tick_us", ctypes.c_uint32),
        ("guard_us", ctypes.c_uint32),
        ("window_us", ctypes.c_uint32),
        ("rest_us", ctypes.c_uint32),
        ("share", ctypes.c_float),
        ("hysteresis", ctypes.c_float),
        ("raise_cost", ctypes.c_float),
        ("quantile", ctypes.c_float),
        ("frame_kind", ctypes.c_uint32),
        ("rest_kind", ctypes.c_uint32),
    ]


def build(currents: Currents, workload: Workload, task: Task = Task()) -> CTable:
    """The table of a chip, a network and a task."""
    table = CTable(version=VERSION, points=len(POINTS), safe=SAFE)
    for index, ((mhz, _), factor) in enumerate(zip(POINTS, workload.factors, strict=True)):
        run, sleep = currents.at(currents.run, mhz), currents.at(currents.sleep, mhz)
        table.point[index] = CPoint(mhz * 1_000_000, factor, run, sleep)
    for start in range(len(POINTS)):
        for end, (_, vco) in enumerate(POINTS):
            table.switch_us[start][end] = round(_switch_us(currents, start, end, vco, task.crystal))
    table.switch_ma = currents.at(currents.run, POINTS[SAFE][0]) + currents.pll
    table.volts, table.stop_ma = currents.supply_v, currents.stop
    table.wake_us, table.wake_ma = currents.stop_wake, currents.stop_wake_current
    table.worst_cycles = round(task.worst * workload.cycles[0])
    for name in ("tick_us", "guard_us", "window_us", "rest_us", "share", "hysteresis", "raise_cost", "quantile"):
        setattr(table, name, getattr(task, name))
    table.frame_kind = PREDICTORS.index(task.frame_predictor)
    table.rest_kind = PREDICTORS.index(task.rest_predictor)
    return table


def _switch_us(currents: Currents, start: int, end: int, vco: int, crystal: bool) -> float:
    """The PLL can only be set while it is off: between two of its clocks the core runs on the internal oscillator."""
    if start == end:
        return 0.0
    leave = currents.leave_pll if start != SAFE else 0.0
    # the crystal runs on between two clocks of the PLL, and stands still on the internal oscillator
    return leave + (currents.lock_us(vco, crystal=crystal and start == SAFE) if end != SAFE else 0.0)


def to_c(table: CTable, name: str, comment: str) -> str:
    """The table as a C file."""
    lines = [
        "/* SPDX-License-Identifier: Apache-2.0 */",
        f"/* {comment} */",
        '#include "rqdkm/aras.h"',
        "",
        f"const rqdkm_aras_table {name} = {{",
        *_fields(table),
        "};",
    ]
    return "\n".join(lines) + "\n"


def _fields(table: CTable) -> Iterator[str]:
    count = table.points
    for field in CTable._fields_:
        key = field[0]
        value = getattr(table, key)
        if key == "point":
            yield "    .point = {"
            for p in table.point[:count]:
                numbers = ", ".join(_number(x) for x in (p.factor, p.run_ma, p.sleep_ma))
                yield f"        {{{p.hz}u, {numbers}}},"
            yield "    },"
        elif key == "switch_us":
            yield "    .switch_us = {"
            yield from (f"        {{{', '.join(str(x) for x in row[:count])}}}," for row in value[:count])
            yield "    },"
        else:
            yield f"    .{key} = {_number(value) if isinstance(value, float) else f'{value}u'},"


def _number(value: float) -> str:
    text = f"{value:.9g}"
    return f"{text}f" if "." in text or "e" in text else f"{text}.0f"
