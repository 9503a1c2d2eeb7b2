"""Random networks cut in any way compute, byte by byte, what their layers compute one after the other.

In C on the host, in every offered arena, on heap blocks of exactly the stated sizes under AddressSanitizer: a stage
that needed more memory than it says would be an error, not luck.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.patches.stage import Stage, fused_nodes
from tests.patches import host, stages
from tests.patches.host import Case

BATCHES: list[tuple[int, KernelSet]] = [(4, "auto"), (5, "auto"), (6, "auto"), (7, "direct")]
PER_BATCH = 14


@cache
def batch(seed: int, kernel_set: KernelSet) -> tuple[Stage, ...]:
    return tuple(
        stages.random_stage(np.random.default_rng([seed, index]), index, kernel_set) for index in range(PER_BATCH)
    )


@pytest.mark.parametrize(("seed", "kernel_set"), BATCHES)
def test_patched_equals_unpatched(seed: int, kernel_set: KernelSet) -> None:
    rng = np.random.default_rng(seed)
    cases, expected, varied = [], [], 0
    for index, stage in enumerate(batch(seed, kernel_set)):
        frames = stages.frames(rng, stage)
        wanted = stages.unpatched(stage.nodes, frames)
        own = host.cases_of(stage, frames, most=99 if index % 7 == 0 else 2)
        cases += own
        expected += [wanted] * len(own)
        varied += len(np.unique(wanted)) > 16
    results = host.check(cases, expected)
    assert varied > PER_BATCH // 2  # a result that stands still shows nothing
    for case, result in zip(cases, results, strict=True):
        _check_fetches(case, result.fetched)
    arenas = [case.config["arena"] for case in cases]
    assert len(set(arenas)) > PER_BATCH


def _check_fetches(case: Case, fetched: list[tuple[int, int, int, int]]) -> None:
    """Whole pixels of the frame; with lines and one column each row once, from top to bottom."""
    plan, frame = case.stage.plan, case.stage.frame
    if plan.input == "frame":
        assert fetched == []
        return
    assert fetched
    assert all(offset % frame.shape[3] == 0 and size % frame.shape[3] == 0 for _, offset, _, size in fetched)
    if plan.halo == "lines" and plan.grid[1] == 1:
        rows = [row + i for row, _, count, _ in fetched for i in range(count)]
        assert rows == sorted(set(rows)), case
        assert len({(offset, size) for _, offset, _, size in fetched}) == 1


def test_the_random_stages_are_of_every_kind() -> None:
    everything = [stage for seed, kernel_set in BATCHES for stage in batch(seed, kernel_set)]
    layers = [node.layer for stage in everything for node in fused_nodes(stage.nodes)]
    assert {layer.op for layer in layers} >= {"conv2d", "depthwise_conv2d", "avg_pool2d", "max_pool2d", "add", "mul"}
    assert {layer.op for layer in layers} >= {"clip", "relu", "requantize"}
    assert {layer.epilogue.op for layer in layers if layer.epilogue is not None} == {"add", "max_pool2d"}
    kernels = {
        (x.weights.shape[1], x.attrs["strides"][0]) for x in layers if x.op == "conv2d" and x.weights is not None
    }
    assert kernels >= {(1, 1), (1, 2), (3, 1), (3, 2), (5, 1), (5, 2)}
    ways = {(s.plan.halo, s.plan.input, s.plan.grid[1] == 1) for s in everything}
    assert len(ways) == 8
    assert {extent for s in everything for extent in s.plan.grid} == {1, 2, 3, 4, 5}
    assert any(extent % 2 for s in everything for extent in s.frame.shape[1:3])


def test_direct_takes_no_other_kernels() -> None:
    kernel = registry.get("patch_stage")
    for stage in batch(BATCHES[-1][0], "direct")[:4]:
        layer = stages.stage_layer(stage)
        call = kernel.lower(layer, kernel.configs(layer)[0])
        assert "winograd" not in call.prelude


def test_the_same_stage_gives_the_same_text() -> None:
    """Chosen anew, from equal layers that are other objects."""
    kernel = registry.get("patch_stage")
    texts = []
    for _ in range(2):
        stage = stages.random_stage(np.random.default_rng([0, 5]), 5)
        layer = stages.stage_layer(stage)
        call = kernel.lower(layer, kernel.configs(layer)[0])
        texts.append((call.prelude, call.body, [c.tobytes() for c in call.constants]))
    assert texts[0] == texts[1]
