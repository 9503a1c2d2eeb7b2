"""Governors and oracle on many traces of a kind: means with intervals, missed frames summed.

Constants of ARAS were chosen, and faults of it found, on traces of seeds below 2000. What is reported is from
:data:`FIRST` on: traces that nothing was changed by.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import stdtrit  # type: ignore[import-untyped]

from rqdkm.aras import oracle, simulate, study, traces
from rqdkm.aras.chip import STATES
from rqdkm.aras.energy import Currents, Workload
from rqdkm.aras.policies import GOVERNORS, FreeArasGovernor
from rqdkm.aras.table import Task, build

FIRST, COUNT = 2001, 20
#: ARAS whose calls take no time; as free as the oracle: every frame announces its cycles, and the rest is granted
#: nothing; both, so that all it lacks of the oracle is to know when the rest comes.
FREE, TOLD, BOTH = "free", "told", "both"
_VARIANTS = {FREE: FreeArasGovernor.name, TOLD: "ARAS, told", BOTH: "ARAS, told, calls free"}

NAMES = {key: kind.name for key, kind in GOVERNORS.items()} | _VARIANTS | {"oracle": "oracle"}


@dataclass(frozen=True)
class Sample:
    """One trace. By governor, variant of ARAS, and the oracle: missed frames, late work of the rest, mJ per frame.

    Args:
        states_mj, calls_mj: of these, by :data:`rqdkm.aras.chip.STATES`, and what the governor itself takes.
        floor_mj: per frame, that no schedule can go below.
    """

    frames: int
    missed: dict[str, int]
    late: dict[str, int]
    energy_mj: dict[str, float]
    states_mj: dict[str, tuple[float, ...]]
    calls_mj: dict[str, float]
    floor_mj: float


@dataclass(frozen=True)
class Mean:
    """With half of its 95 % interval (Student's t; 0 of a single value); shown in per cent."""

    value: float
    half: float

    def __str__(self) -> str:
        return f"{100 * self.value:.1f} ± {100 * self.half:.1f}"


def mean(values: Sequence[float]) -> Mean:
    n = len(values)
    half = float(stdtrit(n - 1, 0.975)) * float(np.std(values, ddof=1)) / float(np.sqrt(n)) if n > 1 else 0.0
    return Mean(float(np.mean(values)), half)


@dataclass(frozen=True)
class Kind:
    """All traces of a kind."""

    name: str
    samples: tuple[Sample, ...]

    @property
    def frames(self) -> int:
        return sum(s.frames for s in self.samples)

    def missed(self, who: str) -> int:
        return sum(s.missed[who] for s in self.samples)

    def saving(self, who: str, against: str) -> Mean:
        """Part of the energy per frame that ``who`` saves, trace by trace."""
        return mean([1.0 - s.energy_mj[who] / s.energy_mj[against] for s in self.samples])

    def bound(self, against: str) -> Mean:
        """What no schedule whatsoever saves more than."""
        return mean([1.0 - s.floor_mj / s.energy_mj[against] for s in self.samples])

    def above_oracle(self, who: str = "aras") -> Mean:
        return mean([s.energy_mj[who] / s.energy_mj["oracle"] - 1.0 for s in self.samples])


def sample(kind: str, seed: int, frames: int, can_stop: bool, currents: Currents, load: Workload, task: Task) -> Sample:
    trace = traces.make(kind, seed, frames=frames, cycles=load.cycles[0])
    task = replace(task, worst=study.worst_of(trace, load))
    table = build(currents, load, task)
    outcomes = {name: simulate.run(trace, table, name, can_stop=can_stop) for name in GOVERNORS}
    announced = tuple(replace(a, announced=a.cycles) if a.frame else a for a in trace)
    alone = build(currents, load, replace(task, share=0))
    outcomes[FREE] = simulate.run(trace, table, FreeArasGovernor, can_stop=can_stop)
    outcomes[TOLD] = simulate.run(announced, alone, "aras", can_stop=can_stop)
    outcomes[BOTH] = simulate.run(announced, alone, FreeArasGovernor, can_stop=can_stop)
    best = oracle.plan(trace, table, can_stop=can_stop)
    return Sample(
        frames=best.frames,
        missed={name: o.missed for name, o in outcomes.items()} | {"oracle": best.missed},
        late={name: o.tally.rest_late for name, o in outcomes.items()},
        energy_mj={name: o.energy_per_frame_mj for name, o in outcomes.items()} | {"oracle": best.energy_per_frame_mj},
        states_mj={name: _per_frame(o.tally.state_nj, best.frames) for name, o in outcomes.items()}
        | {"oracle": _per_frame(best.state_nj, best.frames)},
        calls_mj={name: o.tally.energy_nj["control"] / 1e6 / best.frames for name, o in outcomes.items()},
        floor_mj=oracle.floor_mj(trace, table) / best.frames,
    )


def _per_frame(nanojoules: Sequence[float], frames: int) -> tuple[float, ...]:
    return tuple(x / 1e6 / frames for x in nanojoules)


def run(
    currents: Currents,
    load: Workload,
    task: Task,
    *,
    first: int,
    count: int,
    frames: int,
    can_stop: bool = True,
    progress: Callable[[str], None] = lambda _text: None,
) -> tuple[Kind, ...]:
    """Every kind of trace, ``count`` times, spread over the machine's cores."""
    jobs = [(kind, seed) for kind in traces.KINDS for seed in range(first, first + count)]
    found: dict[str, list[Sample]] = {kind: [] for kind in traces.KINDS}
    with ProcessPoolExecutor(os.cpu_count(), multiprocessing.get_context("spawn")) as pool:
        futures = [pool.submit(sample, *job, frames, can_stop, currents, load, task) for job in jobs]
        for (kind, seed), future in zip(jobs, futures, strict=True):
            progress(f"simulate: {kind}, seed {seed}{'' if can_stop else ', without stop mode'}")
            found[kind].append(future.result())
    return tuple(Kind(kind, tuple(samples)) for kind, samples in found.items())


def table(kinds: Sequence[Kind]) -> str:
    """Markdown: a line per kind of trace and governor."""
    lines = [
        "| trace | governor | frames | missed | rest late | energy per frame, mJ | ARAS saves, % | the oracle saves, % "
        "| none saves more than, % |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for kind in kinds:
        for who, name in NAMES.items():
            late = sum(s.late[who] for s in kind.samples) if who != "oracle" else ""
            saves = "" if who == "aras" else kind.saving("aras", who)
            best = "" if who == "oracle" else kind.saving("oracle", who)
            energy = np.mean([s.energy_mj[who] for s in kind.samples])
            lines.append(
                f"| {kind.name} | {name} | {kind.frames} | {kind.missed(who)} | {late} | {energy:.3f} "
                f"| {saves} | {best} | {kind.bound(who)} |"
            )
        lines.append(f"| {kind.name} | floor | | | | {np.mean([s.floor_mj for s in kind.samples]):.3f} | | | |")
    return "\n".join(lines) + "\n"


def state_table(kinds: Sequence[Kind]) -> str:
    """Markdown: in which state the energy goes, of those who are near the optimum."""
    lines = [
        f"| trace | governor | {', mJ | '.join(STATES)}, mJ | sum, mJ | calls of ARAS, mJ | above the oracle, % |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for kind in kinds:
        for who in ("oracle", BOTH, TOLD, FREE, "aras"):
            states = np.mean([s.states_mj[who] for s in kind.samples], axis=0)
            calls = f"{np.mean([s.calls_mj[who] for s in kind.samples]):.3f}" if who != "oracle" else ""
            above = kind.above_oracle(who) if who != "oracle" else ""
            row = " | ".join(f"{x:.3f}" for x in (*states, states.sum()))
            lines.append(f"| {kind.name} | {NAMES[who]} | {row} | {calls} | {above} |")
    return "\n".join(lines) + "\n"
