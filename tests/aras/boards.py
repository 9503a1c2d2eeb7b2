"""A board whose every answer a test can set, and the table that tests use."""

from __future__ import annotations

from rqdkm.aras import energy, table
from rqdkm.aras.library import FALLBACK, OK, REFUSED, Board
from rqdkm.aras.table import CTable, Task

WORKLOAD = energy.Workload("test", (5_000_000, 4_900_000, 4_880_000, 4_860_000, 4_820_000, 4_780_000))
CYCLES = WORKLOAD.cycles[0]


def built(**task: object) -> CTable:
    return table.build(energy.read(), WORKLOAD, Task(**task))  # type: ignore[arg-type]


class Scripted(Board):
    """Time and cycles pass when told; faults are switched on by attributes."""

    def __init__(self, *, cycles: int = 0, now_us: int = 0) -> None:
        self.counter, self.time = float(cycles), float(now_us)
        self.point, self.level = 0, 0
        self.mhz = [mhz for mhz, _ in energy.POINTS]
        self.calls: list[tuple[str, int]] = []
        self.dead_pll = self.frozen_counter = self.frozen_time = self.refuses = self.no_timer = False
        self.slept_us = 0.0

    def run(self, us: float) -> None:
        """The core computes."""
        if not self.frozen_time:
            self.time += us
        if not self.frozen_counter:
            self.counter += us * self.mhz[self.point]

    def cycles(self) -> int:
        return int(self.counter)

    def now_us(self) -> int:
        return int(self.time)

    def clock(self) -> int:
        return self.point

    def set_clock(self, point: int) -> int:
        self.calls.append(("clock", point))
        if self.refuses or not 0 <= point < len(self.mhz):
            return REFUSED
        self.time += 0 if self.frozen_time else 300
        if self.dead_pll and point != 5:
            self.point = 5
            return FALLBACK
        self.point = point
        return OK

    def sleep(self, until_us: int) -> int:
        self.calls.append(("sleep", until_us))
        self.slept_us += max(0.0, until_us - self.time)
        self.time = max(self.time, float(until_us))
        return OK

    def doze(self, until_us: int) -> int:
        self.calls.append(("doze", until_us))
        return self._away(until_us)

    def stop(self, until_us: int) -> int:
        self.calls.append(("stop", until_us))
        if self.no_timer:
            self.sleep(until_us)
            return 3
        return self._away(until_us)

    def _away(self, until_us: int) -> int:
        self.time = max(self.time, float(until_us))
        if self.dead_pll:  # it has to be locked again, and is not
            self.point = 5
            return FALLBACK
        return OK

    def set_priority(self, level: int) -> int:
        self.calls.append(("priority", level))
        if self.refuses:
            return REFUSED
        self.level = level
        return OK
