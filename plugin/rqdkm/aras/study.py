"""Governors side by side on one trace, with what somebody who knows the future could do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rqdkm.aras import oracle, simulate, traces
from rqdkm.aras.energy import Currents, Workload
from rqdkm.aras.policies import GOVERNORS
from rqdkm.aras.simulate import Outcome
from rqdkm.aras.table import CTable, Task, build
from rqdkm.aras.traces import Trace

Progress = Callable[[str], None]
BASELINES = ("always", "ondemand", "sleep", "stop")


@dataclass(frozen=True)
class Comparison:
    """One trace under all governors.

    Args:
        outcomes: by the keys of :data:`rqdkm.aras.policies.GOVERNORS`.
        best: of the offline oracle; None where it was not asked for.
        floor_mj: energy per frame that no schedule can go below.
    """

    name: str
    outcomes: dict[str, Outcome]
    best: oracle.Best | None
    floor_mj: float

    @property
    def aras(self) -> Outcome:
        return self.outcomes["aras"]

    def saving(self, baseline: str) -> float:
        """Part of the baseline's energy per frame that ARAS saves."""
        return 1.0 - self.aras.energy_per_frame_mj / self.outcomes[baseline].energy_per_frame_mj

    @property
    def rivals(self) -> list[str]:
        """Baselines without stop mode that miss no more deadlines than ARAS, the most frugal first."""
        fair = [
            name
            for name in ("always", "ondemand", "sleep")
            if name in self.outcomes and self.outcomes[name].missed <= self.aras.missed
        ]
        return sorted(fair, key=lambda name: self.outcomes[name].energy_mj)


def compare(
    trace: Trace,
    table: CTable,
    name: str,
    *,
    governors: Sequence[str] = tuple(GOVERNORS),
    can_stop: bool = True,
    with_oracle: bool = True,
    keep: bool = False,
    progress: Progress = lambda _text: None,
) -> Comparison:
    outcomes: dict[str, Outcome] = {}
    for governor in governors:
        progress(f"simulate: {name}, {GOVERNORS[governor].name}")
        outcomes[governor] = simulate.run(trace, table, governor, can_stop=can_stop, keep=keep)
    best = None
    if with_oracle:
        progress(f"simulate: {name}, offline oracle")
        best = oracle.plan(trace, table, can_stop=can_stop)
    first = next(iter(outcomes.values()))
    floor = oracle.floor_mj(trace, table) / len(first.frames)
    return Comparison(name, outcomes, best, floor)


def worst_of(trace: Trace, workload: Workload) -> float:
    """The longest frame of a trace over the workload's cycles: what an application has to declare for it."""
    return max(a.cycles for a in trace if a.frame) / workload.cycles[0]


def as_mapping(found: Comparison) -> dict[str, Any]:
    """For ``--json``."""
    return {
        "trace": found.name,
        "governors": {
            key: {
                "name": o.name,
                "frames": len(o.frames),
                "missed": o.missed,
                "rest_late": o.tally.rest_late,
                "energy_per_frame_mj": round(o.energy_per_frame_mj, 6),
                "power_mw": round(o.power_mw, 3),
                "switches": o.tally.switches,
                "time_share": {k: round(v / o.time_us, 6) for k, v in o.tally.time_us.items() if v},
                "energy_share": {k: round(v / 1e6 / o.energy_mj, 6) for k, v in o.tally.energy_nj.items() if v},
                "faults": {k: v for k, v in o.faults.items() if v},
            }
            for key, o in found.outcomes.items()
        },
        "oracle": None
        if found.best is None
        else {"missed": found.best.missed, "energy_per_frame_mj": round(found.best.energy_per_frame_mj, 6)},
        "floor_mj": round(found.floor_mj, 6),
    }


def table_of(comparisons: Sequence[Comparison]) -> str:
    """Markdown: a line per trace and governor."""
    lines = [
        "| trace | governor | frames | missed | rest late | energy per frame, mJ | mean power, mW | ARAS saves |",
        "|---|---|--:|--:|--:|--:|--:|--:|",
    ]
    for c in comparisons:
        for key, o in c.outcomes.items():
            saves = f"{c.saving(key):.1%}" if key != "aras" and "aras" in c.outcomes else ""
            lines.append(
                f"| {c.name} | {o.name} | {len(o.frames)} | {o.missed} | {o.tally.rest_late} "
                f"| {o.energy_per_frame_mj:.3f} | {o.power_mw:.2f} | {saves} |"
            )
        if c.best is not None:
            energy = c.best.energy_per_frame_mj
            saves = f"{1 - c.aras.energy_per_frame_mj / energy:.1%}" if "aras" in c.outcomes else ""
            lines.append(f"| {c.name} | oracle | {c.best.frames} | {c.best.missed} | | {energy:.3f} | | {saves} |")
        lines.append(f"| {c.name} | floor | | | | {c.floor_mj:.3f} | | |")
    return "\n".join(lines) + "\n"


# ---- the page of docs/


def by_period(
    currents: Currents,
    workload: Workload,
    task: Task,
    periods_ms: Sequence[int],
    *,
    frames: int,
    progress: Progress = lambda _text: None,
) -> list[Comparison]:
    """One frame per period and little else: what is to be saved depends on how long the chip waits."""
    found = []
    for period in periods_ms:
        trace = tuple(
            traces.Arrival(k * period * 1000, True, workload.cycles[0], period * 900, timed=True) for k in range(frames)
        )
        found.append(compare(trace, build(currents, workload, task), f"{period} ms", progress=progress))
    return found


def period_table(comparisons: Sequence[Comparison], workload: Workload) -> str:
    """Markdown: a line per period."""
    lines = [
        "| frame every | busy at 168 MHz | always 168 MHz, mJ | on demand | race to sleep | race to stop | ARAS "
        "| oracle | floor | less than the best without stop |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for c in comparisons:
        period_us = float(c.name.split()[0]) * 1e3
        figures = [c.outcomes[k].energy_per_frame_mj for k in (*BASELINES, "aras")]
        assert c.best is not None
        lines.append(
            f"| {c.name} | {workload.cycles[0] / 168 / period_us:.0%} | "
            + " | ".join(f"{x:.3f}" for x in (*figures, c.best.energy_per_frame_mj, c.floor_mj))
            + f" | {c.saving(c.rivals[0]):.1%} ({c.outcomes[c.rivals[0]].name}) |"
        )
    return "\n".join(lines) + "\n"
