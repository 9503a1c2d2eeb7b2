"""Traces: what arrives at the chip and when; seeded, and as CSV.

One line per arrival, in order of time::

    time_us,kind,cycles,limit_us,level,known
    0,frame,5016699,90000,0,5016699
    1370,rest,60000,20000,0,0

``kind``: a ``frame``, to be computed within ``limit_us`` of its arrival, or work of the ``rest`` (an interrupt), that
should be finished within its limit. ``cycles``: at the fastest clock point. ``level``: of the rest, the highest
priority level of inference at which it still interrupts, 0 to 3. ``known``: of a frame, the cycles that the
application announces (0: none) and, if above 0, that its time of arrival is known before, too; of the rest unused.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rqdkm_tvm.errors import DataError
from rqdkm_tvm.files import write_atomic

HEADER = ("time_us", "kind", "cycles", "limit_us", "level", "timed", "announced")
_HINT = "rqdkm aras trace KIND -o t.csv writes one"


@dataclass(frozen=True)
class Arrival:
    """One line of a trace.

    Args:
        time_us: when it arrives.
        frame: a frame, else work of the rest.
        cycles: at the fastest clock point.
        limit_us: to be finished within this of its arrival.
        level: the highest priority level of inference at which the rest still interrupts.
        timed: the application knows when this frame arrives (a timer); else it is a surprise (a sensor).
        announced: cycles that the application announces for this frame; 0: none.
    """

    time_us: int
    frame: bool
    cycles: int
    limit_us: int
    level: int = 0
    timed: bool = False
    announced: int = 0


Trace = tuple[Arrival, ...]


def to_csv(trace: Trace) -> str:
    text = io.StringIO()
    out = csv.writer(text, lineterminator="\n")
    out.writerow(HEADER)
    for a in trace:
        kind = "frame" if a.frame else "rest"
        out.writerow((a.time_us, kind, a.cycles, a.limit_us, a.level, int(a.timed), a.announced))
    return text.getvalue()


def write(trace: Trace, path: Path) -> None:
    write_atomic(path, to_csv(trace))


def read(path: Path) -> Trace:
    """
    Raises:
        DataError: no such file, or a line of it is wrong; says which.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the trace: {error}", where=str(path), hint=_HINT) from error
    rows = csv.DictReader(io.StringIO(text))
    if tuple(rows.fieldnames or ()) != HEADER:
        raise DataError(f"the first line is not {','.join(HEADER)}", where=str(path), hint=_HINT)
    found: list[Arrival] = []
    for row in rows:
        where = f"{path}:{rows.line_num}"
        if row["kind"] not in ("frame", "rest"):
            raise DataError(f'kind is frame or rest, not "{row["kind"]}"', where=where, hint=_HINT)
        arrival = Arrival(
            time_us=_integer(row, "time_us", 0, 10**13, where),
            frame=row["kind"] == "frame",
            cycles=_integer(row, "cycles", 1, 10**9, where),
            limit_us=_integer(row, "limit_us", 1, 10**9, where),
            level=_integer(row, "level", 0, 3, where),
            timed=bool(_integer(row, "timed", 0, 1, where)),
            announced=_integer(row, "announced", 0, 10**9, where),
        )
        if found and arrival.time_us < found[-1].time_us:
            raise DataError(f"time_us goes back from {found[-1].time_us}", where=where, hint="sort the lines by time")
        found.append(arrival)
    if not any(arrival.frame for arrival in found):
        raise DataError("there is no frame in the trace", where=str(path), hint=_HINT)
    return tuple(found)


def _integer(row: dict[str, str], name: str, low: int, high: int, where: str) -> int:
    text = row[name]
    try:
        value = int(text)
    except (TypeError, ValueError):
        value = low - 1
    if not low <= value <= high:
        raise DataError(f'{name} is a whole number from {low} to {high}, not "{text}"', where=where, hint=_HINT)
    return value


# ---- the generator

PERIOD_US, LIMIT_US, SMALL_EVERY_US, SMALL_CYCLES = 100_000, 90_000, 20_000, 4_000


@dataclass
class _Maker:
    """Draws arrivals; cycles of frames and of the rest are given as shares of the frame's and of full speed."""

    rng: np.random.Generator
    frames: int
    cycles: int
    mhz: float

    def __post_init__(self) -> None:
        self.found: list[Arrival] = []
        self.end_us = self.frames * PERIOD_US

    def frame(self, time_us: float, scale: float, *, limit_us: int = LIMIT_US, timed: bool = True) -> None:
        cycles = max(1, round(self.cycles * scale * (1 + 0.01 * self.rng.standard_normal())))
        self.found.append(Arrival(round(time_us), True, cycles, limit_us, timed=timed))

    def rest(self, start_us: float, end_us: float, load: float, every_us: float, limit_us: int = 50_000) -> None:
        """Deferrable work that takes ``load`` of full speed from start to end, every_us apart on average."""
        time = start_us + self.rng.uniform(0, every_us)
        while time < min(end_us, self.end_us):
            cycles = max(1, round(load * every_us * self.mhz * self.rng.uniform(0.7, 1.3)))
            self.found.append(Arrival(round(time), False, cycles, limit_us))
            time += every_us * self.rng.uniform(0.8, 1.2)

    def urgent(self) -> None:
        """A small handler that nothing may hold up."""
        for time in range(SMALL_EVERY_US // 2, self.end_us, SMALL_EVERY_US):
            self.found.append(Arrival(time, False, SMALL_CYCLES, 1_000, level=3))

    def trace(self) -> Trace:
        self.urgent()
        return tuple(sorted(self.found, key=lambda a: (a.time_us, a.frame)))


def _periodic(m: _Maker) -> None:
    for k in range(m.frames):
        m.frame(k * PERIOD_US, 1.0)
    m.rest(0, m.end_us, m.rng.uniform(0.05, 0.15), 10_000)


def _step(m: _Maker) -> None:
    """Frames' and the rest's demand hold for 20 to 60 frames, then jump."""
    at = 0
    while at < m.frames:
        held = int(m.rng.integers(20, 60))
        scale, load = m.rng.choice([0.4, 0.7, 1.0, 1.4, 1.7]), m.rng.choice([0.02, 0.1, 0.2])
        for k in range(at, min(at + held, m.frames)):
            m.frame(k * PERIOD_US, scale)
        m.rest(at * PERIOD_US, (at + held) * PERIOD_US, load, 10_000)
        at += held


def _bursty(m: _Maker) -> None:
    """Frames come when a sensor says so; the rest in bursts that would take most of the chip."""
    time, n = 0.0, 0
    while n < m.frames:
        if m.rng.random() < 0.15:
            time += m.rng.uniform(2, 8) * PERIOD_US
        m.frame(time, m.rng.uniform(0.6, 1.3), timed=False)
        time += PERIOD_US * m.rng.uniform(1.0, 1.5)
        n += 1
    m.end_us = round(time)
    m.rest(0, m.end_us, 0.03, 10_000)
    start = m.rng.exponential(400_000)
    while start < m.end_us:
        length = m.rng.uniform(20_000, 150_000)
        m.rest(start, start + length, m.rng.uniform(0.3, 0.7), 4_000, limit_us=200_000)
        start += length + m.rng.exponential(500_000)


def _adversarial(m: _Maker) -> None:
    """Just when a predictor has settled: the longest frame, with a burst of the rest behind its start; and frames that
    nothing could finish in time."""
    k = 0
    while k < m.frames:
        for _ in range(int(m.rng.integers(1, 12))):
            m.frame(k * PERIOD_US, 0.3)
            k += 1
        kind = m.rng.random()
        limit = LIMIT_US
        if kind < 0.5:
            m.rest(k * PERIOD_US + 1_000, k * PERIOD_US + 60_000, 0.8, 3_000, limit_us=300_000)
        elif kind < 0.7:
            limit = math.floor(2.2 * m.cycles / m.mhz * m.rng.uniform(0.95, 1.15))
        m.frame(k * PERIOD_US, 2.2, limit_us=limit)
        k += 1
    m.rest(0, m.end_us, 0.02, 10_000)


KINDS: dict[str, Callable[[_Maker], None]] = {
    "periodic": _periodic,
    "bursty": _bursty,
    "step": _step,
    "adversarial": _adversarial,
}


def make(kind: str, seed: int, *, frames: int, cycles: int, mhz: float = 168.0) -> Trace:
    """A trace of a kind; the same arguments give the same trace.

    Args:
        kind: a key of :data:`KINDS`.
        cycles: of a frame at the fastest clock point, of average size.
        mhz: that clock.
    """
    if kind not in KINDS:
        raise DataError(f'there is no kind of trace "{kind}"', where="trace", hint=f"one of {', '.join(KINDS)}")
    maker = _Maker(np.random.default_rng((seed, sorted(KINDS).index(kind))), max(1, frames), cycles, mhz)
    KINDS[kind](maker)
    return maker.trace()
