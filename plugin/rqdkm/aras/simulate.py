"""One trace under one governor: the loop of an application, in simulated time."""

from __future__ import annotations

from dataclasses import dataclass

from rqdkm.aras.chip import Chip, Stretch, Tally
from rqdkm.aras.policies import GOVERNORS, ArasGovernor, Governor
from rqdkm.aras.table import CTable
from rqdkm.aras.traces import Trace

FAR_US = 60_000_000  # nothing is known to come


@dataclass(frozen=True)
class FrameResult:
    """One frame. ``finish_us`` is None where it was too late to begin with it."""

    release_us: int
    deadline_us: int
    cycles: int
    start_us: float
    finish_us: float | None
    point: int  # at its end

    @property
    def missed(self) -> bool:
        return self.finish_us is None or self.finish_us > self.deadline_us


@dataclass(frozen=True)
class Outcome:
    """What a governor made of a trace."""

    name: str
    frames: tuple[FrameResult, ...]
    tally: Tally
    time_us: float
    stretches: tuple[Stretch, ...]
    faults: dict[str, int]
    decisions: int

    @property
    def missed(self) -> int:
        return sum(frame.missed for frame in self.frames)

    @property
    def energy_mj(self) -> float:
        return sum(self.tally.energy_nj.values()) / 1e6

    @property
    def energy_per_frame_mj(self) -> float:
        return self.energy_mj / len(self.frames)

    @property
    def power_mw(self) -> float:
        return 1e6 * self.energy_mj / self.time_us


def run(
    trace: Trace,
    table: CTable,
    governor: str | type[Governor],
    *,
    can_stop: bool = True,
    keep: bool = False,
) -> Outcome:
    """
    Args:
        governor: a key of :data:`GOVERNORS`, or a class of its own.
        can_stop: no peripheral needs its clock while the core waits.
        keep: note every stretch of time, for plots.
    """
    chip = Chip(table, trace, keep=keep)
    kind = GOVERNORS[governor] if isinstance(governor, str) else governor
    deciding = kind(chip)
    timed = [a.time_us for a in trace if a.frame and a.timed]
    surprised = any(a.frame and not a.timed for a in trace)
    end_us = max(a.time_us + a.limit_us for a in trace if a.frame)
    results: list[FrameResult] = []
    upcoming = 0
    while True:
        chip.pump()
        if chip.frames:
            frame = chip.frames.popleft()
            deadline, start = frame.time_us + frame.limit_us, chip.t
            finish = None
            if start < deadline:
                frame = deciding.begin(frame)
                chip.compute(frame.cycles, deciding.tick)
                deciding.end()
                finish = chip.t
            results.append(FrameResult(frame.time_us, deadline, frame.cycles, start, finish, chip.point))
            continue
        if chip.t >= end_us:
            break
        while upcoming < len(timed) and timed[upcoming] <= chip.t:
            upcoming += 1
        until = timed[upcoming] if upcoming < len(timed) else int(chip.t) + FAR_US
        before = chip.t
        deciding.idle(min(until, end_us), can_stop, surprised)
        if chip.t <= before:  # too short for anything: time passes all the same
            chip.spend(1.0, chip.run_ma[chip.point], "wait")
    found = deciding.aras if isinstance(deciding, ArasGovernor) else None
    return Outcome(
        name=deciding.name,
        frames=tuple(results),
        tally=chip.tally,
        time_us=chip.t,
        stretches=tuple(chip.stretches),
        faults=found.fault_counts if found else {},
        decisions=found.decisions if found else 0,
    )
