"""Patch-based inference at one RAM budget: halos computed again or kept, 8 bits or what VDPC and VDQS find."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rqdkm import pipeline, plan_files
from rqdkm.models import data as datasets
from rqdkm.models import load, patched
from rqdkm.options import MAX_DROP, DeployOptions
from rqdkm.planning import partition
from rqdkm.report.schema import Report
from rqdkm_tvm.errors import BudgetError, DataError
from rqdkm_tvm.files import write_atomic
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.patches.program import Patch, Patches
from rqdkm_tvm.patches.schedule import split_at
from rqdkm_tvm.patches.stage import Stage

Progress = Callable[[str], None]
_SAMPLED = 500  # samples over which the BitOPs of dynamic classes are averaged


@dataclass(frozen=True)
class Variant:
    """One row: what it is called, and the options that make it."""

    name: str
    halo: str
    vdpc: str
    planned: bool = False  # by the layers' plan that was given


VARIANTS = (
    Variant("8 bits, halos computed again", "recompute", "off"),
    Variant("8 bits, rows kept (VDQS off)", "lines", "off"),
    Variant("VDPC and VDQS", "auto", "static"),
    Variant("VDPC off: all patches searched", "auto", "all"),
    Variant("VDPC on the chip, VDQS", "auto", "dynamic"),
)
PLANNED = (
    Variant("weights by RQ, rows kept (VDQS off)", "lines", "off", planned=True),
    Variant("VDPC and VDQS, weights by RQ", "auto", "static", planned=True),
    Variant("VDPC off: all patches searched, weights by RQ", "auto", "all", planned=True),
)
BITOPS, CYCLES, POINTS = 2.2, 1.5, 0.5  # targets: times less, times less, loss
STEPS = {"find": "split and grid", "classify": "VDPC", "search": "VDQS", "bound": "measuring losses"}


@dataclass(frozen=True)
class Row:
    """``report`` is None where the budget does not hold; ``failure`` says why."""

    variant: Variant
    report: Report | None
    bitops: int = 0
    failure: str = ""


@dataclass(frozen=True)
class Result:
    """All rows of one model. ``network_macs`` counts every layer once."""

    model: str
    ram_bytes: int
    max_drop: float
    rows: tuple[Row, ...]


def run(
    model: Path,
    calib: Path,
    data: Path,
    out: Path,
    *,
    ram_bytes: int,
    plan: Path | None = None,
    samples: int = 10,
    max_drop: float = MAX_DROP,
    progress: Progress = lambda _text: None,
) -> Result:
    """Deploy ``model`` once per variant, into ``out``.

    Args:
        plan: of the layers (bit-widths of weights): more rows.
        data: labelled samples that neither classification nor search sees; ``samples`` of them run on the board, too.
    """
    loaded = load.load(model)
    dataset = datasets.load_data(data, loaded)
    if dataset.labels is None:
        raise DataError("there are no labels to measure accuracy with", where=str(data))
    frames = datasets.quantize_inputs(dataset, loaded)[0]
    rows = []
    for number, variant in enumerate((*VARIANTS, *(PLANNED if plan is not None else ()))):
        options = DeployOptions(
            model=model,
            out=out / f"{number}",
            calib=calib if variant.vdpc != "off" else None,
            data=data,
            samples=samples,
            ram_bytes=ram_bytes,
            plan=plan if variant.planned else None,
            max_drop=max_drop if variant.vdpc != "off" else None,
            patch="auto",
            halo=variant.halo,
            vdpc=variant.vdpc,
            force=True,
        )
        say = _prefixed(variant.name, progress)
        try:
            report = pipeline.deploy(options, say)
        except BudgetError as error:
            rows.append(Row(variant, None, failure=str(error).splitlines()[0]))
            continue
        rows.append(Row(variant, report, _bitops(loaded, options.out, report, frames)))
    return Result(model.stem, ram_bytes, max_drop, tuple(rows))


def _bitops(model: load.LoadedModel, out: Path, report: Report, frames: npt.NDArray[np.int8]) -> int:
    """Of the network; with classes decided on the chip the mean over samples."""
    if report.patches is None or report.patches.vdpc != "dynamic":
        return report.totals.bitops
    plan, parameters = plan_files.read(out / "plan.json")
    assert plan.patches is not None
    lowered = LowerMixedPrecision(plan, parameters)(partition(model))
    stage = Stage(split_at(lowered["main"], plan.patches.last).nodes, plan.patches)
    taken = patched.stage_branches(stage, frames[:_SAMPLED])
    return report.totals.bitops - stage.bitops + round(mean_bitops(Patches(stage), taken))


def mean_bitops(patches: Patches, taken: npt.NDArray[np.int64]) -> float:
    """BitOPs of a stage's patches, mean over samples.

    Args:
        taken: (n, rows, columns), the branch of every patch.
    """
    known: dict[Patch, int] = {}
    total = 0
    for sample in taken:
        for column in range(sample.shape[1]):
            above: Patch | None = None
            for row in range(sample.shape[0]):
                branch = int(sample[row, column])
                above = patches.fresh(row, column, branch) if above is None else patches.below(above, branch)
                if above not in known:
                    known[above] = patches.bitops(above)
                total += known[above]
    return total / len(taken)


def table(result: Result) -> str:
    """Markdown; the first row is what the others are measured against."""
    first = result.rows[0]
    lines = [
        "| variant | patches, up to | halo | MACs again | BitOPs, M | less by | cycles | less by | RAM peak, KiB "
        "| accuracy | 95 % | loss, points | 95 % |",
        "|---|---|---|--:|--:|--:|--:|--:|--:|--:|---|--:|---|",
    ]
    for row in result.rows:
        report = row.report
        if report is None:
            lines.append(f"| {row.variant.name} | {row.failure} |" + " |" * 11)
            continue
        lines.append(f"| {row.variant.name} | {' | '.join(_cells(row, first, report))} |")
    return "\n".join(lines) + "\n"


def _cells(row: Row, first: Row, report: Report) -> list[str]:
    totals, accuracy, found = report.totals, report.accuracy, report.patches
    assert totals.cycles is not None and accuracy is not None
    where, halo, again = "none needed", "", ""
    if found is not None:
        where = f"{found.grid[0]}x{found.grid[1]}, {found.last}"
        halo = "computed again" if found.halo == "recompute" else "rows kept"
        again = f"{(found.computed_macs - found.macs) / totals.macs:.1%}"
    base = first.report
    ratios = ["", ""]
    if base is not None and base.totals.cycles is not None:
        ratios = [f"{ratio:.2f}x" for ratio in _gains(row, first)[:2]]
    interval = accuracy.loss_ci95
    return [
        where,
        halo,
        again,
        f"{row.bitops / 1e6:,.0f}",
        ratios[0],
        f"{totals.cycles:,}",
        ratios[1],
        f"{totals.ram_peak_bytes / 1024:.1f}",
        f"{accuracy.value:.2%}",
        f"{accuracy.ci95[0]:.1%} to {accuracy.ci95[1]:.1%}",
        "" if accuracy.loss is None else f"{100 * accuracy.loss:+.2f}",
        "" if interval is None else f"{100 * interval[0]:+.2f} to {100 * interval[1]:+.2f}",
    ]


def markdown(results: Sequence[Result], commands: Sequence[str]) -> str:
    """The page of docs/, complete."""
    lines = [
        "# Patch-based inference: comparison at one RAM budget\n",
        "Generated by the commands below; do not edit. On the virtual STM32F407 at 168 MHz: cycles are *modelled*. "
        "Every variant gets the same RAM budget and looks for its own split and grid within it. The first is what "
        "patch-based inference was so far: 8 bits, and what neighbouring patches share is computed again. `MACs again` "
        "is that part, of the network's MACs. BitOPs are MACs times bits of weights times bits of what is read, over "
        "the whole network; with classes decided on the chip, the mean over test samples. Accuracy is measured on "
        "labelled samples that neither classification nor search saw, by a host build of the same C; loss is against "
        "the model file as TFLite Micro runs it, paired by sample, negative is better.\n",
    ]
    for result, command in zip(results, commands, strict=True):
        reports = [row.report for row in result.rows if row.report is not None and row.report.accuracy is not None]
        n = reports[0].accuracy.n if reports and reports[0].accuracy is not None else 0
        lines += [
            f"## {result.model}, {result.ram_bytes / 1024:g} KiB\n",
            f"`{command}`, {n} test samples, allowed loss {result.max_drop:g} points (on calibration samples).\n",
            table(result),
            targets(result),
            seconds(result),
        ]
        for row in result.rows:
            if row.report is not None and row.report.patches is not None and row.report.patches.trials:
                lines.append(_branches(row.variant.name, row.report))
    return "\n".join(lines)


def targets(result: Result) -> str:
    """Which of the searched variants do what VDPC and VDQS are for; Markdown."""
    first = result.rows[0]
    lines = [
        f"Targets, against the first row: BitOPs at least {BITOPS:g}x less, cycles at least {CYCLES:g}x less, loss at "
        f"most {POINTS:g} points.\n"
    ]
    for row in result.rows:
        if row.variant.vdpc == "off" or row.report is None or first.report is None:
            continue
        bitops, cycles, loss = _gains(row, first)
        missed = [
            text
            for text, met in (
                (f"BitOPs {bitops:.2f}x", bitops >= BITOPS),
                (f"cycles {cycles:.2f}x", cycles >= CYCLES),
                (f"loss {100 * loss:+.2f}", 100 * loss <= POINTS),
            )
            if not met
        ]
        lines.append(f"- {row.variant.name}: {'**missed**: ' + ', '.join(missed) if missed else 'met'}")
    return "\n".join(lines) + "\n"


def _gains(row: Row, first: Row) -> tuple[float, float, float]:
    """BitOPs and cycles of the first over those of the row, and the loss of accuracy."""
    assert row.report is not None and first.report is not None
    before, after, accuracy = first.report.totals.cycles, row.report.totals.cycles, row.report.accuracy
    assert before is not None and after is not None and accuracy is not None
    return first.bitops / row.bitops, before / after, accuracy.loss or 0.0


def seconds(result: Result) -> str:
    """What the search took, by step; Markdown."""
    lines = [f"Seconds that the search took (elapsed, {os.cpu_count()} cores; they vary):\n"]
    for row in result.rows:
        taken = {} if row.report is None else row.report.run.get("patch_seconds", {})
        if taken:
            shown = ", ".join(f"{text} {taken[step]:g}" for step, text in STEPS.items() if taken.get(step))
            lines.append(f"- {row.variant.name}: {sum(taken.values()):.0f} ({shown})")
    return "\n".join(lines) + "\n"


def _branches(name: str, report: Report) -> str:
    """What was tried and taken; Markdown."""
    found = report.patches
    assert found is not None
    lines = [
        f"### {name}\n",
        "| lambda | BitOPs of the searched patches | samples | loss, points | upper bound | allowed |",
        "|--:|--:|--:|--:|--:|---|",
    ]
    for trial in sorted(found.trials, key=lambda trial: -trial.weight):
        taken = ", and taken" if trial.weight == found.weight and len(found.branches) > 1 else ""
        lines.append(
            f"| {trial.weight:g} | {trial.bitops_ratio:.2f}x less | {trial.samples} | {100 * trial.loss:+.2f} "
            f"| {100 * trial.loss_upper:+.2f} | {'yes' if trial.allowed else 'no'}{taken} |"
        )
    lines.append("")
    for index, branch in enumerate(found.branches):
        low = ", ".join(f"{layer} {bits}" for layer, bits in branch.bits.items() if bits != 8)
        lines.append(
            f"Branch {index}: {branch.patches} patches; results not of the layers' own bits: {low or 'none'}.\n"
        )
    return "\n".join(lines)


def write_markdown(results: Sequence[Result], path: Path, commands: Sequence[str]) -> None:
    write_atomic(path, markdown(results, commands))


def _prefixed(name: str, progress: Progress) -> Progress:
    return lambda text: progress(f"{name}: {text}")
