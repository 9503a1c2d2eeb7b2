"""Every grid at every split point of two networks, byte by byte against TFLite's reference kernels.

Run from the repository: ``python -m tests.patches.sweep``. For the image classification and the visual wake words
model, every place where the network can be divided, every grid from 1x1 to 5x5 that the map there allows, both halos,
frame and callback in turn: the stage is compiled as the exporter does it and run on this computer; prints a table and
writes docs/patches-exactness.md. One program holds all grids of a split point.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from rqdkm import judge
from rqdkm.models import load, oracle, zoo
from rqdkm_tvm import cost
from rqdkm_tvm.files import write_atomic
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.layer import Layer
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.patches import choose
from rqdkm_tvm.patches.kernel import ARENA
from rqdkm_tvm.patches.program import Patches
from rqdkm_tvm.patches.schedule import Split, splits
from rqdkm_tvm.patches.stage import Stage
from rqdkm_tvm.plan_patches import PatchPlan
from tests.kernels.random_layers import Array
from tests.patches import host, stages

log = logging.getLogger(__name__)

PAGE = Path(__file__).parents[2] / "docs" / "patches-exactness.md"
NETWORKS = ("image_classification", "visual_wake_words")
LARGEST = 5
SAMPLES = 2  # one of noise, one smooth


@dataclass(frozen=True)
class Network:
    """A model of the zoo: where it can be divided, samples, and what TFLite's kernels make of them."""

    name: str
    splits: tuple[Split, ...]
    frames: Array
    tensors: tuple[Array, ...]  # every layer's result

    def expected(self, split: Split) -> Array:
        """The stage's result: the NumPy interpreter says which tensor of the file it is."""
        result = stages.unpatched(split.nodes, self.frames)
        found = [x for x in self.tensors if x.size == result.size and np.array_equal(x.reshape(result.shape), result)]
        if not found:
            raise AssertionError(f'{self.name}: TFLite has no tensor like the result of "{split.last}"')
        return found[0].reshape(result.shape)


@cache
def network(name: str) -> Network:
    model = load.load(zoo.path(name))
    frames = judge.exactness_inputs(model, SAMPLES, seed=4)
    function: Any = PartitionLayers()(prepare(model.module))["main"]
    tensors = oracle.reference_layers(model, frames)
    return Network(name, tuple(splits(function)), frames[0], tuple(tensors.values()))


def ways(split: Split) -> list[PatchPlan]:
    """Every grid with both halos, the input as it comes."""
    _, height, width, _ = split.result.shape
    grids = [(r, c) for r in range(1, LARGEST + 1) for c in range(1, LARGEST + 1) if r <= height and c <= width]
    return [
        PatchPlan(split.last, grid, halo, stages.INPUTS[(index + turn) % 2])  # type: ignore[arg-type]
        for index, grid in enumerate(grids)
        for turn, halo in enumerate(stages.HALOS)
    ]


def cases(net: Network, split: Split, plans: Sequence[PatchPlan], kernel_set: KernelSet) -> list[host.Case]:
    """One per plan: the smallest arena that is offered and the largest in turn."""
    found = []
    for index, plan in enumerate(plans):
        stage = Stage(split.nodes, plan, kernel_set)
        arenas = choose.Chooser(Patches(stage), kernel_set).arenas()
        found.append(host.Case(stages.stage_layer(stage), {ARENA: arenas[0 if index % 4 < 2 else -1]}, net.frames))
    return found


def redundant(stage: Stage) -> float:
    """MACs computed more than once, as part of those of the layers."""
    patches = Patches(stage)
    macs = sum(cost.macs(run.problem) for patch in patches.planned for _, run in patches.program(patch).runs)
    return macs / stage.macs - 1


@dataclass(frozen=True)
class Row:
    """What was found at a split point."""

    network: str
    last: str
    layers: int
    shape: tuple[int, ...]
    stages: int
    compared: int
    mismatches: int
    most_redundant: tuple[float, float]  # by halo
    seconds: float


def sweep_split(net: Network, split: Split, kernel_set: KernelSet) -> Row:
    began = time.monotonic()
    found, expected = cases(net, split, ways(split), kernel_set), net.expected(split)
    results = host.run(found, sanitize=False)
    macs = {halo: max(redundant(c.stage) for c in found if c.stage.plan.halo == halo) for halo in stages.HALOS}
    return Row(
        net.name,
        split.last,
        len(split.nodes),
        split.result.shape,
        len(found),
        sum(r.outputs.size for r in results),
        sum(int(np.count_nonzero(r.outputs != expected)) for r in results),
        (macs["recompute"], macs["lines"]),
        time.monotonic() - began,
    )


@cache
def _remembered() -> None:
    """Parts of a layer recur from grid to grid: kernels and constants are worked out once."""
    known: dict[object, Any] = {}
    options, call = choose.options, choose.Chooser.call

    def described(problem: Layer) -> object:
        shapes = tuple(t.shape for t in (*problem.inputs, problem.output, problem.stored))
        return problem.title, shapes, problem.attrs.get("padding"), id(problem.weights)

    def remembered_options(problem: Layer, *rest: Any) -> Any:
        token = (described(problem), rest)
        if token not in known:
            known[token] = options(problem, *rest)
        return known[token]

    def remembered_call(chooser: choose.Chooser, key: int, option: choose.Option) -> Any:
        token = (described(chooser.problems[key]), option.kernel.name, tuple(sorted(option.config.items())))
        if token not in known:
            known[token] = call(chooser, key, option)
        return known[token]

    choose.options = remembered_options
    choose.Chooser.call = remembered_call  # type: ignore[method-assign]


_HEAD = """\
# Exactness of patch stages

Generated by `python -m tests.patches.sweep` (part of `make bench`); do not edit. Every legal split point of two trained
third-party networks, every grid from 1x1 to {largest}x{largest} that the map there allows, recomputed halos and kept
lines, the input as a frame and by callback in turn, the smallest and the largest arena in turn, all branches at 8 bits:
the generated C on the host against TFLite's reference kernels, {samples} samples each (noise, and smooth). Kernels are
the {kernels} set. Redundant MACs are those of the worst grid, as part of the stage's.

**{stages:,} stages, {compared:,} bytes compared, {mismatches:,} different.**

| network | last layer | layers | result | stages | bytes | different | redundant, recomputed | redundant, lines |
|---|---|--:|---|--:|--:|--:|--:|--:|
"""


def table(rows: Sequence[Row], kernel_set: KernelSet) -> str:
    text = _HEAD.format(
        largest=LARGEST,
        kernels=f"`{kernel_set}`",
        samples=SAMPLES,
        stages=sum(r.stages for r in rows),
        compared=sum(r.compared for r in rows),
        mismatches=sum(r.mismatches for r in rows),
    )
    for r in rows:
        _, height, width, channels = r.shape
        text += (
            f"| {r.network} | `{r.last}` | {r.layers} | {height}x{width}x{channels} | {r.stages} | {r.compared:,} "
            f"| {r.mismatches:,} | {100 * r.most_redundant[0]:.1f} % | {100 * r.most_redundant[1]:.1f} % |\n"
        )
    return text


def main(kernel_set: KernelSet = "direct") -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    _remembered()
    rows = []
    for name in NETWORKS:
        net = network(name)
        for split in net.splits:
            rows.append(sweep_split(net, split, kernel_set))
            log.info("%s %s: %d stages in %.1f s", name, split.last, rows[-1].stages, rows[-1].seconds)
            if rows[-1].mismatches:
                raise SystemExit(f"{name} after {split.last}: {rows[-1].mismatches} bytes differ")
    text = table(rows, kernel_set)
    print(text)
    write_atomic(PAGE, text)


if __name__ == "__main__":
    main()
