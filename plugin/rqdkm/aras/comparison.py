"""Everything that ARAS is measured by in simulation, as one page: traces, periods, predictors, cooperation with DKM."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rqdkm.aras import cooperate, predictors, seeds, study
from rqdkm.aras.cooperate import Swings
from rqdkm.aras.energy import Currents, Workload
from rqdkm.aras.predictors import Score
from rqdkm.aras.seeds import Kind
from rqdkm.aras.study import Comparison
from rqdkm.aras.table import Task, build
from rqdkm_tvm.files import write_atomic

PERIODS_MS = (50, 70, 100, 150, 200, 300, 500, 1000)
MORE_MISSES = 0.01  # than the oracle, of the adversarial trace's frames
LESS_ENERGY = 0.20  # than the best governor that does not stop
NEAR_OPTIMUM = 0.06  # above the offline oracle, where less is not to be had


@dataclass(frozen=True)
class Found:
    """
    Args:
        frames: of a trace.
        standard: all kinds of traces, many of each.
        sleeping: the same without stop mode.
        periods: one frame per period and nothing else.
        fixed, coupled, told: the clock alone with one kernel; DKM told the running clock; DKM told the possible one.
    """

    workload: Workload
    frames: int
    standard: tuple[Kind, ...]
    sleeping: tuple[Kind, ...]
    periods: tuple[Comparison, ...]
    scores: tuple[Score, ...]
    fixed: Swings
    coupled: Swings
    told: Swings


@dataclass(frozen=True)
class Verdict:
    met: bool
    text: str


def run(
    currents: Currents, workload: Workload, *, frames: int, seed: int, count: int, progress: Callable[[str], None]
) -> Found:
    """``count`` traces of each kind, of seeds from ``seed`` on; predictors and DKM on the first one's."""
    task = Task()
    standard, sleeping = (
        seeds.run(
            currents,
            workload,
            task,
            first=seed,
            count=count,
            frames=frames,
            can_stop=can_stop,
            progress=progress,
        )
        for can_stop in (True, False)
    )
    periods = study.by_period(currents, workload, task, PERIODS_MS, frames=max(20, frames // 3), progress=progress)
    progress("simulate: predictors")
    scores = predictors.compare(frames=3 * frames, cycles=workload.cycles[0], quantile=task.quantile, seed=seed)
    progress("simulate: ARAS with DKM")
    cycles = [round(workload.cycles[0] * k) for k in cooperate.KERNELS]
    table = build(currents, workload, Task(worst=1.05 * max(cooperate.KERNELS)))
    swings = [
        cooperate.run(table, cycles, dispatch, coupled=coupled, frames=5 * frames, can_stop=False, seed=seed)
        for dispatch, coupled in (
            (lambda _state, _limit: 0, False),
            (cooperate.by_rule(cycles), True),
            (cooperate.by_rule(cycles), False),
        )
    ]
    return Found(workload, frames, standard, sleeping, tuple(periods), scores, *swings)


def judged(kind: Kind) -> list[Verdict]:
    """Targets of a kind of trace, met or not; the figures are in the texts."""
    adversarial = kind.name == "adversarial"
    allowed = kind.missed("oracle") + (MORE_MISSES * kind.frames if adversarial else 0)
    text = f"{kind.name}: {kind.missed('aras')} of {kind.frames} frames missed, the oracle {kind.missed('oracle')}"
    deadlines = Verdict(kind.missed("aras") <= allowed, text)
    if adversarial:
        return [deadlines]
    above = kind.above_oracle()
    saved = [f"{kind.saving('aras', who)} % less energy than {seeds.NAMES[who]}" for who in ("sleep", "stop")]
    best = [f"{kind.saving('oracle', who)}" for who in ("sleep", "stop")]
    text = f"{kind.name}: {' and '.join(saved)}; the oracle {' and '.join(best)} %: ARAS is {above} % above it"
    near = above.value <= NEAR_OPTIMUM or kind.saving("aras", "sleep").value >= LESS_ENERGY
    return [deadlines, Verdict(near, text)]


def verdicts(found: Found) -> list[Verdict]:
    swings = found.told.kernel_cycles + found.told.clock_cycles
    text = f"with DKM: {swings} swings of kernel or clock in {found.told.frames} frames"
    return [*(verdict for kind in found.standard for verdict in judged(kind)), Verdict(swings == 0, text)]


def swing_table(found: Found) -> str:
    lines = [
        "| DKM is told | frames | kernel swings | clock swings | kernel changes | missed | mean kernel, cycles |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, s in (
        ("nothing: one kernel", found.fixed),
        ("the clock that runs", found.coupled),
        ("the clock that could run", found.told),
    ):
        mean = sum(cooperate.KERNELS[k] for k in s.kernels) / len(s.kernels)
        lines.append(
            f"| {name} | {s.frames} | {s.kernel_cycles} | {s.clock_cycles} | {s.changes} | {s.missed} | {mean:.2f} |"
        )
    return "\n".join(lines) + "\n"


def text(found: Found) -> str:
    """The tables, Markdown."""
    return (
        "## Traces\n\n"
        f"{seeds.table(found.standard)}\n"
        "## The same without stop mode\n\n"
        f"{seeds.table(found.sleeping)}\n"
        "## Where the energy goes\n\n"
        "Per frame, with stop mode. *Calls free*: its calls and its ticks take no time. *Told*: ARAS as free as the "
        "oracle, every frame announces its cycles and the rest is granted no share. Both together lack of the oracle "
        "only that they do not know when the rest, and frames by surprise, will come.\n\n"
        f"{seeds.state_table(found.standard)}\n"
        "## One frame per period\n\n"
        "Energy per frame, mJ.\n\n"
        f"{study.period_table(found.periods, found.workload)}\n"
        "## Predictors\n\n"
        f"{predictors.table(found.scores)}\n"
        "## With DKM\n\n"
        f"{swing_table(found)}\n"
    )


def page(found: Found, command: str) -> str:
    judged = "".join(f"- {'met' if v.met else '**missed**'}: {v.text}\n" for v in verdicts(found))
    return (
        "# ARAS: comparison in simulation\n\n"
        f"Generated by `{command}`; do not edit.\n\n"
        "Cycles of frames are *modelled* on the virtual board, energy is *estimated* from datasheet currents "
        "([aras.md](aras.md)). ARAS is the C of the chip. "
        f"{len(found.standard[0].samples)} traces of {found.frames} frames of each kind, of seeds that nothing was "
        "chosen by; savings are means over them with 95 % intervals (Student's t), in percentage points. *Late* counts "
        "work of the rest that was not finished within its limit; the oracle knows the future and need not keep the "
        "rest's share, and as it keeps a few schedules per clock only, its misses are an upper bound on the least "
        "possible; with this table of currents no schedule that computes every frame can be below the floor.\n\n"
        f"{judged}\n{text(found)}"
    )


def write(found: Found, path: Path, command: str) -> None:
    write_atomic(path, page(found, command))
