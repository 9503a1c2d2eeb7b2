"""ARAS and DKM together: who follows whom, and whether the two chase each other.

DKM chooses the kernel of a frame from load, memory, clock and slack; ARAS chooses the clock of a frame from its
cycles. Fed with the clock that runs now, DKM would follow ARAS and ARAS DKM: a loop that can swing for ever. Here DKM
is told what ARAS *could* give (``rqdkm_aras_morph_state``), announces the cycles of its choice, and ARAS follows: one
direction, no loop. :func:`run` counts how often each of them swings while nothing around them changes, both ways.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rqdkm.aras import simulate
from rqdkm.aras.chip import Chip
from rqdkm.aras.policies import ArasGovernor
from rqdkm.aras.table import CTable
from rqdkm.aras.traces import Arrival, Trace
from rqdkm.dkm.state import slack_of

State = tuple[float, float, float, float]  # load, memory, clock (Hz), slack
Dispatch = Callable[[State, float], int]  # and the frame's time limit, us -> kernel

#: Cycles of five kernels over those of the safe one, the first; what is expected to be right most often costs most.
KERNELS = (1.0, 1.6, 0.45, 0.25, 0.8)
SETTLED = 10  # frames behind a change of the load that do not count


def by_rule(cycles: Sequence[int]) -> Dispatch:
    """The greatest kernel that fits: the rule that follows a clock most eagerly."""

    def choose(state: State, limit_us: float) -> int:
        load, _, clock, _ = state
        time = [c / (clock / 1e6 * max(1.0 - load, 0.05)) for c in cycles]
        fitting = [k for k, us in enumerate(time) if us <= 0.9 * limit_us]
        return max(fitting, key=lambda k: cycles[k]) if fitting else int(np.argmin(cycles))

    return choose


@dataclass(frozen=True)
class Swings:
    """Of one way to couple the two.

    Args:
        frames: that count: the load around them had not changed for a while.
        kernel_cycles: of four frames in a row, how often kernels went A B A B.
        clock_cycles: likewise the clock that frames begin with.
        changes: of kernel, from one frame to the next.
        kernels, clocks: frame by frame, for plots.
    """

    name: str
    frames: int
    missed: int
    energy_per_frame_mj: float
    kernel_cycles: int
    clock_cycles: int
    changes: int
    kernels: tuple[int, ...]
    clocks: tuple[int, ...]


class _Cooperating(ArasGovernor):
    """DKM first, then ARAS. ``coupled``: DKM sees the clock that runs now, the way that is not taken."""

    name = "ARAS with DKM"
    cycles: tuple[int, ...] = ()
    dispatch: Dispatch
    coupled = False

    def __init__(self, chip: Chip) -> None:
        super().__init__(chip)
        self.kernels: list[int] = []
        self.clocks: list[int] = []

    def begin(self, frame: Arrival) -> Arrival:
        left = frame.limit_us  # what a frame is granted; not what microseconds of starting late leave of it
        load, memory, clock, slack = self.aras.morph_state(self.cycles[0], left)
        if self.coupled:
            now = 1e6 * self.chip.mhz[self.chip.point]
            load = min(load * clock / now, 0.95)
            slack = slack_of(left, self.cycles[0] / (now / 1e6 * (1.0 - load)))
            clock = now
        kernel = self.dispatch((load, memory, clock, slack), float(left))
        self.kernels.append(kernel)
        actual = round(frame.cycles / self.cycles[0] * self.cycles[kernel])
        begun = super().begin(replace(frame, cycles=actual, announced=self.cycles[kernel]))
        self.clocks.append(self.chip.point)
        return begun


def trace(seed: int, *, frames: int, cycles: int, held: int, period_us: int, mhz: float = 168.0) -> Trace:
    """Frames of one size and a load of the rest that climbs from 0 to 0.7 and falls again, ``held`` frames a step."""
    rng = np.random.default_rng(seed)
    found: list[Arrival] = []
    for k in range(frames):
        size = max(1, round(cycles * (1 + 0.002 * rng.standard_normal())))
        found.append(Arrival(k * period_us, True, size, period_us * 9 // 10, timed=True))
        load = 0.7 * abs((k // held * 0.037) % 2 - 1)
        for time in range(k * period_us, (k + 1) * period_us, 2_500):
            work = round(load * 2_500 * mhz * rng.uniform(0.9, 1.1))
            if work > 0:
                found.append(Arrival(time, False, work, 200_000))
    return tuple(sorted(found, key=lambda a: (a.time_us, a.frame)))


def run(
    table: CTable,
    cycles: Sequence[int],
    dispatch: Dispatch,
    *,
    coupled: bool,
    frames: int,
    held: int = 50,
    period_us: int = 100_000,
    can_stop: bool = True,
    seed: int = 1,
) -> Swings:
    """
    Args:
        cycles: of the kernels, the safe one first.
        coupled: the way that is not taken, for comparison.
        held: frames for which the load of the rest stays as it is.
    """
    made: list[_Cooperating] = []

    class Governor(_Cooperating):
        def __init__(self, chip: Chip) -> None:
            super().__init__(chip)
            self.cycles, self.dispatch, self.coupled = tuple(cycles), dispatch, coupled
            made.append(self)

    load = trace(seed, frames=frames, cycles=cycles[0], held=held, period_us=period_us)
    outcome = simulate.run(load, table, Governor, can_stop=can_stop)
    started = [k for k, frame in enumerate(outcome.frames) if frame.finish_us is not None]
    kernels, clocks = made[0].kernels, made[0].clocks
    counted = [i for i, k in enumerate(started) if k % held >= SETTLED and i >= 3 and started[i - 3] == k - 3]
    return Swings(
        "clock that runs" if coupled else "clock that could run",
        frames=len(counted),
        missed=outcome.missed,
        energy_per_frame_mj=outcome.energy_per_frame_mj,
        kernel_cycles=sum(_swings(kernels[i - 3 : i + 1]) for i in counted),
        clock_cycles=sum(_swings(clocks[i - 3 : i + 1]) for i in counted),
        changes=sum(kernels[i] != kernels[i - 1] for i in counted),
        kernels=tuple(kernels),
        clocks=tuple(clocks),
    )


def _swings(four: Sequence[int]) -> bool:
    return four[0] == four[2] != four[1] == four[3]
