"""One model in several configurations, side by side: speed, memory, accuracy, energy, each against the first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rqdkm import pipeline
from rqdkm.experiment import power
from rqdkm.models import data as datasets
from rqdkm.models import load
from rqdkm.options import MAX_DROP, DeployOptions
from rqdkm.report.schema import Report
from rqdkm_tvm.errors import DataError
from rqdkm_tvm.files import write_atomic

Progress = Callable[[str], None]
CONFIGS = ("baseline", "int8", "rq")
# what rq is to reach against the first configuration: frames per second, RAM peak and weights together, points of loss,
# and the test samples that it takes to say so
SPEED_UP, MEMORY, LOSS, SAMPLES = 2.0, 0.70, 0.5, 2000


def run(
    model: Path,
    calib: Path,
    data: Path,
    out: Path,
    *,
    plan: Path | None = None,
    configs: Sequence[str] = CONFIGS,
    samples: int = 20,
    max_drop: float = MAX_DROP,
    flash_bytes: int | None = None,
    ram_bytes: int | None = None,
    progress: Progress = lambda _text: None,
) -> list[Report]:
    """Deploy ``model`` on the virtual board once per configuration, into ``out/<config>``.

    Args:
        calib: what bit-widths are planned from.
        plan: one more row, ``rq`` by this plan (fine-tuned weights).
        data: labelled samples that no planning sees; ``samples`` of them run on the virtual board, too.
        flash_bytes, ram_bytes: budgets of all but ``baseline``.
    """
    if datasets.load_data(data, load.load(model)).labels is None:
        raise DataError("there are no labels to measure accuracy with", where=str(data))
    reports = []
    rows: list[tuple[str, Path | None]] = [(config, None) for config in configs]
    for config, given in [*rows, ("rq", plan)] if plan is not None else rows:
        free = config != "baseline"
        options = DeployOptions(
            model=model,
            out=out / (config if given is None else f"{config}-plan"),
            calib=calib if config == "rq" and given is None else None,
            plan=given,
            data=data,
            samples=samples,
            config=config,
            max_drop=max_drop if config == "rq" and given is None else None,
            flash_bytes=flash_bytes if free else None,
            ram_bytes=ram_bytes if free else None,
        )
        reports.append(pipeline.deploy(options, lambda text, name=config: progress(f"{name}: {text}")))  # type: ignore[misc]
    if any(report.accuracy is None for report in reports):
        raise DataError("no accuracy: the data needs labels, the model a list of classes", where=str(data))
    return reports


def memory(report: Report) -> int:
    """RAM at its peak and the flash of the weights: what a network itself takes."""
    return report.totals.ram_peak_bytes + report.totals.weights_bytes


@dataclass(frozen=True)
class Verdict:
    """One target of one configuration."""

    text: str
    met: bool


def verdicts(reports: Sequence[Report]) -> dict[str, tuple[Verdict, ...]]:
    """By label, of every configuration with planned bits."""
    return {_label(report): _judged(report, reports[0]) for report in reports[1:] if report.config == "rq"}


def passed(reports: Sequence[Report]) -> bool:
    """Whether every output is exact and one configuration with planned bits meets all targets."""
    exact = all(x.exactness is not None and x.exactness.mismatches == 0 for x in reports)
    return exact and any(all(x.met for x in found) for found in verdicts(reports).values())


def _judged(report: Report, first: Report) -> tuple[Verdict, ...]:
    speed_up, share = _speed_up(report, first), memory(report) / memory(first)
    a = report.accuracy
    loss, n = (None, 0) if a is None else (a.loss, a.n)
    shown = "unknown" if loss is None else f"{100 * loss:+.2f} points"
    return (
        Verdict(f"{speed_up:.3f} times the frames per second, target at least {SPEED_UP:g}", speed_up >= SPEED_UP),
        Verdict(f"{share:.3f} of the memory, target at most {MEMORY:g}", share <= MEMORY),
        Verdict(f"loss {shown}, target at most {LOSS:g}", loss is not None and 100 * loss <= LOSS),
        Verdict(f"{n:,} test samples, target at least {SAMPLES:,}", n >= SAMPLES),
    )


def _speed_up(report: Report, first: Report) -> float:
    return (report.totals.fps or 0.0) / first.totals.fps if first.totals.fps else 0.0


def _label(report: Report) -> str:
    """``rq`` with bit-widths that were not searched is one whose plan was given."""
    return f"{report.config}, fine-tuned" if report.config == "rq" and report.search is None else report.config


def table(reports: Sequence[Report]) -> str:
    """Markdown; the first report is what the others are measured against."""
    first = reports[0]
    rate, powers = power.of_all([report.totals.cycles or 0 for report in reports])
    lines = [
        "| config | frames/s | speed-up | cycles/MAC | RAM peak, KiB | weights, KiB | both | less by | accuracy | 95 % "
        f"| loss, points | 95 % | {power.header(rate)} |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|---|--:|---|--:|--:|--:|",
    ]
    for report, drawn in zip(reports, powers, strict=True):
        t, a = report.totals, report.accuracy
        assert t.fps is not None and first.totals.fps is not None and a is not None
        loss = "" if a.loss is None else f"{100 * a.loss:+.2f}"
        interval = "" if a.loss_ci95 is None else f"{100 * a.loss_ci95[0]:+.2f} to {100 * a.loss_ci95[1]:+.2f}"
        lines.append(
            f"| {_label(report)} | {t.fps:.1f} | {_speed_up(report, first):.2f}x | {t.cycles_per_mac:.3f} "
            f"| {t.ram_peak_bytes / 1024:.1f} | {t.weights_bytes / 1024:.1f} | {memory(report) / 1024:.1f} "
            f"| {1 - memory(report) / memory(first):.0%} "
            f"| {a.value:.2%} | {a.ci95[0]:.1%} to {a.ci95[1]:.1%} | {loss} | {interval} "
            f"| {power.cells(drawn)} |"
        )
    return "\n".join(lines) + "\n"


def markdown(title: str, reports: Sequence[Report], command: str) -> str:
    """The page of docs/, complete."""
    first = reports[0]
    assert first.accuracy is not None and first.exactness is not None
    head = [
        f"# {title}\n",
        f"Generated by `{command}`; do not edit.\n",
        f"`{first.model.name}` on the virtual STM32F407 at 168 MHz: cycles are *modelled*. `baseline` is int8 with our "
        "fastest direct kernels; `int8` is the same network, bit-exact, with every exact kernel (Winograd, fused "
        "epilogues): what it gains comes from kernels, not from bits. `rq` adds planned bit-widths. Memory is RAM at "
        "its peak (arena, stack, static data, painted) and the weights' flash. "
        f"Accuracy: {first.accuracy.n} labelled samples that no planning saw, by a host build of the same C; "
        f"{first.exactness.samples} of them on the virtual board as well, "
        f"{sum(r.exactness.mismatches for r in reports if r.exactness)} of "
        f"{sum(r.exactness.compared_bytes for r in reports if r.exactness)} output bytes different from the reference. "
        "Loss is against the model file as TFLite Micro runs it, paired by sample; negative is better.\n",
        power.note(power.of_all([report.totals.cycles or 0 for report in reports])[0]),
        _where_memory_goes(reports),
    ]
    judged = [f"- {label}: {_met(x)}: {x.text}" for label, found in verdicts(reports).items() for x in found]
    tail = ["\n## Targets\n", f"Against `{first.config}`:\n", *judged] if judged else []
    for report in reports:
        rows = [
            f"| {x.name} | {x.kernel} | {x.bits_weight:g} | {x.bits_output} | {x.cycles or 0:,} | {x.weights_bytes:,} "
            f"| {x.scratch_bytes:,} |"
            for x in report.layers
        ]
        tail += [
            f"\n## {_label(report)}\n",
            "| layer | kernel | weight bits | result bits | cycles | constants, bytes | scratch, bytes |",
            "|---|---|--:|--:|--:|--:|--:|",
            *rows,
        ]
    return "\n".join(head) + "\n" + table(reports) + "\n".join(tail) + "\n"


def _met(verdict: Verdict) -> str:
    return "met" if verdict.met else "**missed**"


def _where_memory_goes(reports: Sequence[Report]) -> str:
    """What of the memory has to do with bits, and what int8 has too."""
    rows = [
        f"{_label(x)} {x.totals.ram_peak_bytes / 1024:.1f} + {x.totals.weights_bytes / 1024:.1f} KiB" for x in reports
    ]
    return (
        f"RAM peak + weights: {', '.join(rows)}. Part of what RAM is saved has nothing to do with bits: an addition or "
        "a pooling fused into the convolution before it, and results written over their operands, keep whole feature "
        "maps out of memory, and `int8` has both as well; `baseline` has no fusion. Where a RAM budget leaves room, "
        "Winograd kernels take some of it back as scratch. What bits alone save is the weights' flash, and RAM where "
        "results have fewer than 8 bits: compare `rq` with `int8`, not with `baseline` only.\n"
    )


def write_markdown(title: str, reports: Sequence[Report], path: Path, command: str) -> None:
    write_atomic(path, markdown(title, reports, command))
