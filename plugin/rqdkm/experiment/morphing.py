"""The four configurations over one mixed trace: a network with fixed kernels, and those that morph, by their policies.

Deployments in, a table out. Every network is measured on the same noisy samples (:mod:`rqdkm.dkm.measure`); policies
learn on one set of samples and traces and are judged on others. What a frame takes is ``cycles / (clock (1 - load))``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rqdkm import pipeline
from rqdkm.board.describe import STM32F407
from rqdkm.dkm import dqn, measure, study
from rqdkm.dkm.costs import Costs
from rqdkm.dkm.environment import Weights
from rqdkm.dkm.policy_file import PolicyFile
from rqdkm.experiment import power
from rqdkm.experiment.configurations import Verdict
from rqdkm.report import codec
from rqdkm.report.schema import Report
from rqdkm_tvm.errors import DataError
from rqdkm_tvm.files import write_atomic

Progress = Callable[[str], None]

# by configuration: times the baseline's frames per second, share of its memory, points of loss
TARGETS: Mapping[str, tuple[float, float, float]] = {"dkm": (3.0, 0.85, 0.2), "rq-dkm": (4.0, 0.65, 0.0)}
DECISION = 0.005  # of a frame's cycles, that looking at the input and deciding may take


@dataclass(frozen=True)
class Row:
    """One deployment over the trace.

    Args:
        study: its policy beside others, on the baseline's frames; of a network that does not morph, its one kernel.
        decision: of firmware with the policy; None where nothing is decided.
    """

    name: str
    report: Report
    costs: Costs
    study: study.Result
    policy: PolicyFile | None
    decision: measure.Decision | None

    @property
    def ram(self) -> int:
        """Peak, bytes: the most that any kernel needs, alone or in firmware with the policy; measured."""
        if self.decision is None:
            return self.report.totals.ram_peak_bytes
        return max(self.decision.ram, round(float(self.costs.memory.max()) * STM32F407.memory("sram").bytes))

    @property
    def weights(self) -> int:
        """Bytes of flash, the policy's included."""
        own = 0 if self.policy is None else len(self.policy.policy.to_bytes())
        return self.report.totals.weights_bytes + own

    @property
    def memory(self) -> int:
        return self.ram + self.weights

    @property
    def cycles(self) -> float:
        """Of a mean frame of the trace."""
        return float(self.costs.frame @ self.study.policy.shares)


def run(
    deployments: Mapping[str, Path],
    learn: Path,
    data: Path,
    out: Path,
    *,
    weights: Mapping[str, Weights],
    levels: Sequence[float] = measure.LEVELS,
    training: dqn.Training,
    frames: int = 2000,
    keep: bool = False,
    progress: Progress = lambda _text: None,
) -> list[Row]:
    """Measure, learn and compare.

    Args:
        deployments: directories of ``rqdkm deploy`` by configuration; the first is the baseline. Morphing ones come
            without a policy.
        learn: labelled samples that policies learn on.
        data: labelled samples that nothing has seen.
        weights: of the reward; by configuration where they differ.
        out: costs and policies go there.
        keep: take the costs that are there already.

    Raises:
        DataError: a directory without a report, or data that does not fit.
    """
    check_names(deployments)
    out.mkdir(parents=True, exist_ok=True)
    projects = {name: pipeline.find_project(directory) for name, directory in deployments.items()}
    metadata = {name: pipeline.read_metadata(project) for name, project in projects.items()}

    def measured(name: str, kind: str, samples: Path) -> Costs:
        step = _prefixed(name, progress)
        return _measured(out / f"{name}.{kind}.npz", keep, projects[name], metadata[name], samples, levels, step)

    costs = {name: measured(name, "test", data) for name in deployments}
    unit = _limit_unit(costs)
    rows: list[Row] = []
    for name, directory in deployments.items():
        step, found = _prefixed(name, progress), costs[name]
        policy = decision = None
        if len(found.names) > 1:
            seen = measured(name, "learn", learn)
            learned = study.train(seen, weights[name], training, step, unit=unit)
            policy = PolicyFile(seen.names, seen.safe, tuple(round(float(n)) for n in seen.cycles), learned)
            policy.save(out / f"{name}.policy.json")
            decision = measure.decision(projects[name], metadata[name], data, policy)
            found = dataclasses.replace(found, deciding=decision.cycles)
        result = study.compare(
            None if policy is None else policy.policy,
            found,
            next(iter(costs.values())),
            weights.get(name, Weights()),
            frames=frames,
            unit=unit,
            progress=step,
        )
        rows.append(Row(name, codec.read(directory / "report.json"), found, result, policy, decision))
    return rows


def _limit_unit(costs: Mapping[str, Costs]) -> float:
    """The safe kernel's cycles of the first network that morphs: all configurations meet the same time limits."""
    first = next((found for found in costs.values() if len(found.names) > 1), next(iter(costs.values())))
    return float(first.cycles[first.safe])


def _measured(
    path: Path,
    keep: bool,
    project: Path,
    metadata: Mapping[str, Any],
    data: Path,
    levels: Sequence[float],
    progress: Progress,
) -> Costs:
    if keep and path.is_file():
        return Costs.load(path)
    found = measure.measure(project, metadata, data, levels=levels, progress=progress)
    found.save(path)
    return found


def verdicts(rows: Sequence[Row]) -> dict[str, tuple[Verdict, ...]]:
    """What was to be reached, by configuration."""
    found: dict[str, tuple[Verdict, ...]] = {}
    for row in rows[1:]:
        if row.name not in TARGETS or row.policy is None or row.decision is None:
            continue
        speed, share, loss = TARGETS[row.name]
        reference = row.study.policy.reference
        assert reference is not None
        times = row.study.policy.frames_per_second / reference.frames_per_second
        memory = row.memory / rows[0].memory
        over = _points(reference.loss, reference.loss_ci95)
        clean = _points(reference.clean_loss, reference.clean_loss_ci95)
        cost, most = row.decision.cycles / row.cycles, row.decision.cycles / float(row.costs.frame.min())
        beaten = study.passed(row.study) and study.proven(row.study)
        found[row.name] = (
            Verdict(f"{times:.2f} times the baseline's frames per second, target at least {speed:g}", times >= speed),
            Verdict(f"{memory:.3f} of its memory, target at most {share:g}", memory <= share),
            Verdict(f"loss over the trace {over}, target at most {loss:g}", 100 * reference.loss <= loss),
            Verdict(f"loss on clean frames {clean}, target at most {loss:g}", 100 * reference.clean_loss <= loss),
            Verdict(
                "its policy has a greater mean reward than fixed kernels, rule and chance: "
                f"{study.least_lead(row.study)} (95 %)",
                beaten,
            ),
            Verdict(
                f"deciding takes {cost:.2%} of the mean frame's cycles ({most:.2%} of the fastest kernel's), "
                f"target at most {DECISION:.1%}",
                cost <= DECISION,
            ),
        )
    return found


def _points(loss: float, interval: tuple[float, float]) -> str:
    low, high = (100 * value for value in interval)
    return f"{100 * loss:+.2f} points (95 % {low:+.2f} to {high:+.2f})"


def table(rows: Sequence[Row]) -> str:
    """Markdown, one row per configuration."""
    rate, powers = power.of_all([row.cycles for row in rows])
    lines = [
        "| config | frames/s | speed-up | RAM peak, KiB | weights, KiB | both | less by | right over the trace "
        f"| loss, points | 95 % | right, clean | too late | right and in time | {power.header(rate)} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|--:|--:|--:|--:|--:|",
    ]
    base = rows[0].memory
    for row, drawn in zip(rows, powers, strict=True):
        outcome = row.study.policy
        reference = outcome.reference
        assert reference is not None
        low, high = (100 * value for value in reference.loss_ci95)
        lines.append(
            f"| {row.name} | {outcome.frames_per_second:.1f} "
            f"| {outcome.frames_per_second / reference.frames_per_second:.2f}x | {row.ram / 1024:.1f} "
            f"| {row.weights / 1024:.1f} | {row.memory / 1024:.1f} "
            f"| {1 - row.memory / base:.0%} | {outcome.accuracy:.2%} | {100 * reference.loss:+.2f} "
            f"| {low:+.2f} to {high:+.2f} | {outcome.clean:.2%} | {outcome.missed:.1%} | {outcome.served:.1%} "
            f"| {power.cells(drawn)} |"
        )
    return "\n".join(lines) + "\n"


def markdown(title: str, rows: Sequence[Row], command: str) -> str:
    """The page of docs/, complete."""
    judged = [
        f"- {name}: {'met' if x.met else '**missed**'}: {x.text}" for name, y in verdicts(rows).items() for x in y
    ]
    costs = rows[0].costs
    parts = [
        f"# {title}\n",
        f"Generated by `{command}`; do not edit.\n",
        f"Mixed traces of load, clock, time limits and noise (docs/dkm.md), {len(study.HELD_OUT)} of "
        f"{rows[0].study.frames:,} frames (seeds {study.HELD_OUT.start} to {study.HELD_OUT.stop - 1}), the same for "
        f"all; {costs.right.shape[1]:,} labelled samples that neither training "
        f"nor policies saw, with noise of {', '.join(f'{level:g}' for level in costs.levels)} added. Cycles are "
        "*modelled* (virtual board); those of a morphing network contain what deciding takes. Loss is against the "
        "first row, paired by frame, its interval by sample; negative is better. Clean: without added noise. RAM of "
        "what morphs is of "
        "the kernel that needs most, in firmware with the policy.\n",
        power.note(power.of_all([row.cycles for row in rows])[0]),
        table(rows),
        "## Targets\n",
        *judged,
        "",
    ]
    for row in rows:
        if row.policy is not None and row.decision is not None:
            weights = row.study.weights
            parts += [
                f"## {row.name}\n",
                f"Reward: throughput - {weights.penalty:g} x violation; too late or too large counts 1, a wrong "
                f"class {weights.wrong:g}. Deciding takes {row.decision.cycles:,.0f} cycles, the look at the input "
                "included. Policies on the same traces, by mean reward:\n",
                study.table(row.study),
                study.kernels_table(row.costs),
            ]
    return "\n".join(parts)


def write_markdown(title: str, rows: Sequence[Row], path: Path, command: str) -> None:
    write_atomic(path, markdown(title, rows, command))


def check_names(deployments: Mapping[str, Path]) -> None:
    """
    Raises:
        DataError: a directory that no deployment is in.
    """
    for name, directory in deployments.items():
        if not (directory / "report.json").is_file():
            raise DataError(
                "there is no report.json", where=f"{name}: {directory}", hint="give a directory of rqdkm deploy"
            )


def _prefixed(name: str, progress: Progress) -> Progress:
    return lambda text: progress(f"{name}: {text}")
