"""What could be done at best by somebody who knows the future.

:func:`plan` is a dynamic program over what arrives: for every frame a clock and whether it masks the rest, for every
idle time a clock and sleep or stop, for every piece of the rest a clock; fewest missed frames first, then least energy.
It wakes up just in time. It keeps a few schedules per clock, so that both are upper bounds on the least possible.
:func:`floor_mj` is a bound from the other side, of the same chip: no schedule that computes every frame takes less.
Every cycle at the clock where it costs least, stop mode for all other time, no change of clock, no wake-up, no
deadline. The oracle may hold up the rest for ever; :func:`hopeless` are frames that nobody finishes in time who grants
it the share that ARAS promises.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from rqdkm.aras.table import CTable
from rqdkm.aras.traces import Arrival, Trace

_MOST_LABELS = 6  # per clock; labels differ in time by what the rest delays, and few survive
_MASKED = 3  # priority level of a frame that masks what may be masked
_PROMISE = 1.25  # windows that the rest may have to wait for its share (docs/aras.md)


@dataclass(frozen=True)
class Best:
    """``state_nj``: the energy by :data:`rqdkm.aras.chip.STATES`."""

    missed: int
    energy_mj: float
    frames: int
    state_nj: _Spent

    @property
    def energy_per_frame_mj(self) -> float:
        return self.energy_mj / self.frames


_Spent = tuple[float, float, float, float]  # energy by state: PLL, internal oscillator, asleep, stopped


class _Label(NamedTuple):
    """A way to have come here: missed frames, energy (nJ), time, and the next arrivals of either priority."""

    missed: int
    energy: float
    t: float
    point: int
    due: int  # of the rest, the next one that was not served
    states: _Spent = (0.0, 0.0, 0.0, 0.0)

    def then(self, t: float, point: int, spent: _Spent, *, due: int, missed: int = 0) -> _Label:
        a, b, c, d = self.states
        w, x, y, z = spent
        states = (a + w, b + x, c + y, d + z)
        return _Label(self.missed + missed, self.energy + (w + x + y + z), t, point, due, states)


class _Chip:
    def __init__(self, table: CTable) -> None:
        n = table.points
        self.mhz = [table.point[p].hz / 1e6 for p in range(n)]
        self.rate = [table.point[p].hz / 1e6 / table.point[p].factor for p in range(n)]
        self.run = [table.volts * table.point[p].run_ma for p in range(n)]
        self.sleep = [table.volts * table.point[p].sleep_ma for p in range(n)]
        self.stop = table.volts * table.stop_ma
        self.switch_us = [[float(x) for x in row[:n]] for row in table.switch_us[:n]]
        self.switch = table.volts * table.switch_ma
        self.wake_us, self.wake = float(table.wake_us), table.volts * table.wake_ma
        self.safe, self.points = int(table.safe), range(n)

    def running(self, point: int, energy: float, change: float) -> _Spent:
        return (0.0, energy + change, 0.0, 0.0) if point == self.safe else (energy, change, 0.0, 0.0)


def floor_mj(trace: Trace, table: CTable) -> float:
    """Of a whole trace, up to its last deadline: what every schedule that computes every frame takes at least, with the
    currents of the table. Every cycle costs at least the least of run less stop power over its rate, and the stop power
    that the time costs anyway::

        E >= P_stop T + sum over cycles of min over clocks of (P_run - P_stop) / rate
    """
    chip = _Chip(table)
    of_frames = min((chip.run[p] - chip.stop) / chip.rate[p] for p in chip.points)
    of_rest = min((chip.run[p] - chip.stop) / chip.mhz[p] for p in chip.points)
    end = max(a.time_us + a.limit_us for a in trace if a.frame)
    work = sum(a.cycles * (of_frames if a.frame else of_rest) for a in trace if a.time_us < end)
    return float(chip.stop * end + work) / 1e6


def plan(trace: Trace, table: CTable, *, can_stop: bool = True) -> Best:
    """The best that the choices named in the module allow, from 168 MHz at time 0 to the last deadline."""
    chip = _Chip(table)
    frames = [a for a in trace if a.frame]
    rest = [a for a in trace if not a.frame]
    end = max(a.time_us + a.limit_us for a in frames)
    labels = [_Label(0, 0.0, 0.0, 0, 0)]
    for frame in frames:
        labels = _wait(chip, labels, rest, float(frame.time_us), can_stop)
        labels = _prune([new for label in labels for new in _compute(chip, label, rest, frame)])
    labels = _wait(chip, labels, rest, float(end), can_stop)
    best = min(labels, key=lambda x: (x.missed, x.energy))
    return Best(best.missed, best.energy / 1e6, len(frames), best.states)


def hopeless(trace: Trace, table: CTable) -> tuple[int, ...]:
    """Frames, by number, that no schedule finishes in time which keeps the promise to the rest: over any time T in
    which some of it waits it gets ``share x (T - 1.25 windows)``. At the fastest clock from the first moment on, with
    what nothing may hold up before the end."""
    chip, found = _Chip(table), []
    for k, frame in enumerate(a for a in trace if a.frame):
        alone = frame.cycles / chip.rate[0]
        urgent = sum(
            a.cycles / chip.mhz[0]
            for a in trace
            if not a.frame and a.level >= _MASKED and 0 <= a.time_us - frame.time_us < alone
        )
        deadline = frame.time_us + frame.limit_us
        waiting = [a for a in trace if not a.frame and a.level < _MASKED and frame.time_us <= a.time_us < deadline]
        if alone + urgent + _promised_us(waiting, deadline, chip.mhz[0], table) > frame.limit_us:
            found.append(k)
    return tuple(found)


def _promised_us(waiting: list[Arrival], end: int, mhz: float, table: CTable) -> float:
    """The least that the promise grants them by then: some are served, and the next one waits from its arrival on."""
    served, least = 0.0, float("inf")
    for a in waiting:
        granted = table.share * max(0.0, end - a.time_us - _PROMISE * table.window_us)
        least = min(least, served + granted)
        served += a.cycles / mhz
    return min(least, served)


def _prune(labels: list[_Label]) -> list[_Label]:
    """Per clock those that no other beats in misses, energy and time."""
    kept: dict[int, list[_Label]] = {}
    for label in sorted(labels, key=lambda x: (x.missed, x.energy, x.t)):
        group = kept.setdefault(label.point, [])
        if len(group) < _MOST_LABELS and not any(
            g.missed <= label.missed and g.energy <= label.energy and g.t <= label.t + 1e-6 for g in group
        ):
            group.append(label)
    return [label for group in kept.values() for label in group]


def _compute(chip: _Chip, label: _Label, rest: list[Arrival], frame: Arrival) -> list[_Label]:
    deadline = frame.time_us + frame.limit_us
    if label.t >= deadline:
        return [label._replace(missed=label.missed + 1)]
    found = []
    for point in chip.points:
        for level in (0, _MASKED):
            change = chip.switch_us[label.point][point]
            t, due, left = label.t + change, label.due, frame.cycles / chip.rate[point]
            waiting = 0.0
            while due < len(rest) and rest[due].time_us < t + left:
                us = rest[due].cycles / chip.mhz[point]
                if rest[due].level >= level:
                    left += us
                else:
                    waiting += us
                due += 1
            done = t + left
            spent = chip.running(point, chip.run[point] * (done + waiting - t), chip.switch * change)
            found.append(label.then(done + waiting, point, spent, due=due, missed=int(done > deadline)))
    return found


def _wait(chip: _Chip, labels: list[_Label], rest: list[Arrival], until: float, can_stop: bool) -> list[_Label]:
    """From whatever time the labels are at to ``until``, the rest served as it comes."""
    finished = [label for label in labels if label.t >= until]
    waiting = [label for label in labels if label.t < until]
    while waiting:
        # labels at the same next arrival go on together, so that they can be compared
        first = min(label.due for label in waiting)
        now = [label for label in waiting if label.due == first]
        later = [label for label in waiting if label.due != first]
        event = float(rest[first].time_us) if first < len(rest) else float("inf")
        grown: list[_Label] = []
        for label in now:
            grown += _idle(chip, label, min(event, until), can_stop) if label.t < min(event, until) else [label]
        grown = _prune(grown)
        if event < until:
            grown = _prune([new for label in grown for new in _serve(chip, label, rest[first])])
        finished += [label for label in grown if label.t >= until]
        waiting = later + [label for label in grown if label.t < until]
    return _prune(finished)


def _idle(chip: _Chip, label: _Label, end: float, can_stop: bool) -> list[_Label]:
    found = []
    for point in chip.points:
        change = chip.switch_us[label.point][point]
        left = end - label.t - change
        if left < 0.0:
            continue
        spent = (0.0, chip.switch * change, chip.sleep[point] * left, 0.0)
        found.append(label.then(end, point, spent, due=label.due))
        # stopped from where it is, and awake at `point` in time
        relock = chip.switch_us[chip.safe][point]
        back = chip.wake_us + relock
        if can_stop and end - label.t > back:
            wake = chip.wake * chip.wake_us + chip.switch * relock
            spent = (0.0, wake, 0.0, chip.stop * (end - label.t - back))
            found.append(label.then(end, point, spent, due=label.due))
    return found


def _serve(chip: _Chip, label: _Label, arrival: Arrival) -> list[_Label]:
    found = []
    for point in chip.points:
        change = chip.switch_us[label.point][point]
        us = arrival.cycles / chip.mhz[point]
        spent = chip.running(point, chip.run[point] * us, chip.switch * change)
        found.append(label.then(label.t + change + us, point, spent, due=label.due + 1))
    return found
