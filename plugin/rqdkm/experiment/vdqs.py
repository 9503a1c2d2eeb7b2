"""VDQS against every possible choice: the sweep of lambda on a model small enough to try all bit-widths.

What a choice costs is BitOPs; what it spoils is measured as the mean squared change of the logits over calibration
samples, with the maps of all patches quantized. "Best" is the least such error among all choices with no more BitOPs
than VDQS's: what a search with unlimited time would have found.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm.branching import LAMBDAS
from rqdkm.models import data as datasets
from rqdkm.models import load
from rqdkm.planning import partition
from rqdkm_tvm.errors import DataError
from rqdkm_tvm.files import write_atomic
from rqdkm_tvm.patches.classify import stage_of
from rqdkm_tvm.patches.search import Scale, Searcher
from rqdkm_tvm.plan import OutputPlan, Plan
from rqdkm_tvm.plan_patches import PatchPlan
from rqdkm_tvm.sensitivity.float_twin import ActivationQuantizer, FloatTwin

Progress = Callable[[str], None]

SAMPLES = 32
SCALES: tuple[Scale, ...] = ("power", "linear")
MOST_CHOICES = 1000


@dataclass(frozen=True)
class Row:
    """One lambda. Errors are mean squared changes of the logits."""

    scale: Scale
    weight: float
    bits: Mapping[str, int]
    bitops: int
    error: float
    best: float
    best_bits: Mapping[str, int]
    better: int  # choices with no more BitOPs and less error
    eligible: int  # choices with no more BitOPs
    seconds: float


@dataclass(frozen=True)
class Result:
    """``seconds`` is what trying all ``choices`` took, ``reference`` the mean square of the logits."""

    model: str
    last: str
    grid: tuple[int, int]
    rows: tuple[Row, ...]
    choices: int
    seconds: float
    reference: float
    bitops_8: int


def run(
    model: Path,
    calib: Path,
    *,
    last: str,
    grid: tuple[int, int] = (2, 2),
    weights: Sequence[float] = LAMBDAS,
    progress: Progress = lambda _text: None,
) -> Result:
    """Search with every lambda, and try every choice.

    Raises:
        DataError: there are too many choices.
    """
    loaded = load.load(model)
    frames = datasets.quantize_inputs(datasets.load_data(calib, loaded), loaded)[0]
    frames = frames[np.sort(np.random.default_rng(0).permutation(len(frames))[:SAMPLES])]
    mod = partition(loaded)
    plan = Plan()
    plan.patches = PatchPlan(last, grid)
    searcher = Searcher(mod, stage_of(mod, plan), frames)
    positions = sorted(searcher.regions)
    choices = list(itertools.product(*searcher.widths.values()))
    if not 1 < len(choices) <= MOST_CHOICES:
        raise DataError(
            f"{len(choices)} choices of bit-widths, at most {MOST_CHOICES} can be tried",
            where="--split",
            hint="divide the network after an earlier layer, or take a smaller model",
        )
    progress("building the float network")
    judge = _Judge(mod, searcher, frames)
    found = []
    for scale, weight in itertools.product(SCALES, weights):
        progress(f"lambda {weight}, {scale}")
        start = time.monotonic()
        branch = searcher.search(positions, weight, scale=scale)
        seconds = time.monotonic() - start
        bits = {
            i: branch.outputs[searcher.names[i]].bits for i in searcher.widths if searcher.names[i] in branch.outputs
        }
        found.append((scale, weight, bits, seconds))
    start = time.monotonic()
    tried: dict[tuple[int, ...], tuple[int, float]] = {}
    for number, choice in enumerate(choices):
        if number % 20 == 0:
            progress(f"choice {number} of {len(choices)}")
        outputs = judge.outputs(choice)
        tried[choice] = sum(searcher.bitops(p, outputs) for p in positions), judge.error(outputs)
    seconds_all = time.monotonic() - start
    rows = []
    for scale, weight, bits, seconds in found:
        mine = tuple(bits.get(i, 8) for i in searcher.widths)
        bitops, error = tried[mine]
        eligible = {c: e for c, (b, e) in tried.items() if b <= bitops}
        best = min(eligible, key=lambda c: (eligible[c], c))
        rows.append(
            Row(
                scale,
                weight,
                dict(zip(judge.names, mine, strict=True)),
                bitops,
                error,
                eligible[best],
                dict(zip(judge.names, best, strict=True)),
                sum(e < error for e in eligible.values()),
                len(eligible),
                seconds,
            )
        )
    full = sum(searcher.bitops(p, {}) for p in positions)
    return Result(model.stem, last, grid, tuple(rows), len(choices), seconds_all, judge.reference, full)


class _Judge:
    """Logits of the float network with maps of the stage quantized."""

    def __init__(self, mod: Any, searcher: Searcher, frames: npt.NDArray[np.int8]) -> None:
        self.searcher, self.frames = searcher, frames
        self.indices = list(searcher.widths)
        self.names = [searcher.names[i] for i in self.indices]
        self.twin = FloatTwin.of(mod["main"])
        maps = searcher.maps({})
        positions = sorted(searcher.regions)
        self.formats = {
            (i, bits): searcher.format(i, bits, searcher.values(maps, i, positions))
            for i in self.indices
            for bits in searcher.widths[i]
        }
        self.before = self._logits({})
        self.reference = float(np.mean(np.square(self.before)))

    def outputs(self, choice: Sequence[int]) -> dict[int, OutputPlan]:
        return {i: self.formats[i, bits] for i, bits in zip(self.indices, choice, strict=True) if bits != 8}

    def error(self, outputs: Mapping[int, OutputPlan]) -> float:
        return float(np.mean(np.square(self._logits(outputs) - self.before)))

    def _logits(self, outputs: Mapping[int, OutputPlan]) -> npt.NDArray[np.float64]:
        self.twin.quantizers.clear()
        for i, output in outputs.items():
            self.twin.quantizers[self.searcher.names[i]] = ActivationQuantizer(
                output.scale, output.zero_point, output.bits
            )
        return np.array([self.twin.logits([frame]) for frame in self.frames], np.float64)


def markdown(results: Sequence[Result], commands: Sequence[str]) -> str:
    """The page of docs/, complete."""
    lines = [
        "# VDQS: the sweep of lambda, and every other choice\n",
        "Generated by the commands below; do not edit (times vary). Error is the mean squared change of the logits, "
        "relative to their mean square, with the feature maps of all patches quantized. `best` is the least error of "
        "all choices with no more BitOPs than VDQS's; `better` says how many of these have less error than VDQS's.\n",
    ]
    for result, command in zip(results, commands, strict=True):
        names = list(result.rows[0].bits)
        lines += [
            f"## {result.model}, up to {result.last}, {result.grid[0]}x{result.grid[1]} patches\n",
            f"`{command}`: {result.choices} choices, tried in {result.seconds:.1f} s. Bits are those of the results of "
            f"{', '.join(names)}.\n",
            "| entropy | lambda | bits | BitOPs less by | error | best | its bits | better | search, s | faster by |",
            "|---|--:|---|--:|--:|--:|---|--:|--:|--:|",
        ]
        for row in result.rows:
            lines.append(
                f"| {row.scale} | {row.weight} | {'/'.join(map(str, row.bits.values()))} "
                f"| {result.bitops_8 / row.bitops:.2f}x "
                f"| {row.error / result.reference:.2e} | {row.best / result.reference:.2e} "
                f"| {'/'.join(map(str, row.best_bits.values()))} | {row.better} of {row.eligible} "
                f"| {row.seconds:.2f} | {result.seconds / max(row.seconds, 1e-9):.0f}x |"
            )
        lines.append("")
    return "\n".join(lines)


def write_markdown(results: Sequence[Result], path: Path, commands: Sequence[str]) -> None:
    write_atomic(path, markdown(results, commands))
