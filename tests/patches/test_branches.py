"""Branches with feature maps of 8, 4 and 2 bits: what C computes, and what a branch's layers are."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rqdkm.models import patched, reference
from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.patches.geometry import ROWS, Span
from rqdkm_tvm.patches.program import Patches
from rqdkm_tvm.patches.schedule import splits
from rqdkm_tvm.patches.stage import FRAME, Node, Stage, branch_nodes
from rqdkm_tvm.plan import LayerPlan, OutputPlan, Plan
from rqdkm_tvm.plan_patches import Outliers, PatchPlan
from rqdkm_tvm.sites import read_sites
from tests.kernels.random_layers import Array
from tests.passes import graphs
from tests.patches import host, stages
from tests.patches.stages import Rng
from tests.patches.test_geometry import read_along

BATCHES = (10, 11, 12)
PER_BATCH = 8


def batch(seed: int) -> list[Stage]:
    return [stages.random_branches(np.random.default_rng([seed, index]), index) for index in range(PER_BATCH)]


def by_hand(stage: Stage, frames: Array) -> Array:
    """Pixel by pixel from whole maps: of each branch, or, where rows are kept, of each column's patches."""
    taken = patched.stage_branches(stage, frames)
    (_, height, width, _), (rows, columns) = stage.result.shape, stage.plan.grid
    found = np.empty((len(frames), *stage.result.shape[1:]), np.int8)
    whole = [stages.unpatched(nodes, frames) for nodes in stage.branches]
    for n in range(len(frames)):
        for c in range(columns):
            column = [int(b) for b in taken[n, :, c]]
            kept = one_below_the_other(stage, frames[n : n + 1], column) if stage.plan.halo == "lines" else None
            for x in range(width * c // columns, width * (c + 1) // columns):
                for y in range(height):
                    r = next(r for r in range(rows) if height * r // rows <= y < height * (r + 1) // rows)
                    found[n, y, x] = whole[column[r]][n, y, x] if kept is None else kept[0, y, x]
    return found


def one_below_the_other(stage: Stage, frame: Array, branches: list[int]) -> Array:
    """Patches over the whole width: each computes all further rows, of every map, up to the last that it needs, from
    what is there so far, requantized where the one above has another branch."""
    height = stage.result.shape[1]
    maps = [np.zeros(node.layer.output.shape, np.int8) for node in stage.nodes]
    done = [0] * len(maps)
    before = branches[0]
    for r, branch in enumerate(branches):
        nodes = stage.branches[branch]
        if branch != before:
            maps = [converted(x, stage.branches[before][i], nodes[i]) for i, x in enumerate(maps)]
        needed = [*done[:-1], height * (r + 1) // len(branches)]
        for i in reversed(range(len(nodes))):
            for operand, source in enumerate(nodes[i].inputs):
                if needed[i] > done[i] and source != FRAME:
                    read = read_along(nodes[i].layer, operand, Span(done[i], needed[i]), ROWS)
                    needed[source] = max(needed[source], *(row + 1 for row in read), 0)
        for i, node in enumerate(nodes):
            if needed[i] > done[i]:
                result = reference.run_layer(node.layer, [frame if s == FRAME else maps[s] for s in node.inputs])
                maps[i][:, done[i] : needed[i]] = result[:, done[i] : needed[i]]
        done, before = needed, branch
    return maps[-1]


def converted(values: Array, before: Node, after: Node) -> Array:
    source, target = before.layer.output, after.layer.output
    if source == target:
        return values
    half = 1 << (target.value_bits - 1)
    layer = Layer("", "requantize", (source,), target, {"clamp": (-half, half - 1)})
    return reference.run_layer(layer, [values])


@pytest.mark.parametrize("seed", BATCHES)
def test_every_patch_is_that_of_its_branch(seed: int) -> None:
    rng = np.random.default_rng(seed)
    cases, expected = [], []
    different = mixed = 0
    for stage in batch(seed):
        frames = stages.frames(rng, stage, 3)
        frames[1] //= 4  # without outliers
        wanted = by_hand(stage, frames)
        assert np.array_equal(reference.run_layer(stages.stage_layer(stage), [frames]), wanted)
        own = host.cases_of(stage, frames, most=2)
        cases += own
        expected += [wanted] * len(own)
        different += not np.array_equal(wanted, stages.unpatched(stage.nodes, frames))
        mixed += len(np.unique(patched.stage_branches(stage, frames))) > 1
    host.check(cases, expected)
    assert different > PER_BATCH // 2
    assert mixed > PER_BATCH // 3


def test_where_rows_are_kept_both_branches_go_into_a_patch() -> None:
    """Some values are neither branch's alone, and none is where halos are computed again."""
    rng, met = np.random.default_rng(9), dict.fromkeys(stages.HALOS, 0)
    for seed in BATCHES:
        for stage in batch(seed):
            frames = stages.frames(rng, stage, 3)
            found = reference.run_layer(stages.stage_layer(stage), [frames])
            whole = [stages.unpatched(nodes, frames) for nodes in stage.branches]
            met[stage.plan.halo] += not np.any([found == x for x in whole], axis=0).all()
    assert met["recompute"] == 0 and met["lines"] >= 3


@pytest.mark.parametrize("dynamic", [False, True])
def test_rows_kept_over_several_patches_are_requantized_at_every_change(dynamic: bool) -> None:
    """Patches of one row, windows of three: rows go through 8, 2 and 4 bits and back."""
    rng = np.random.default_rng(3)
    net = stages.Network(rng, Tensor((1, 22, 6, 3), "int8", 0.02, 3))
    last = net.conv(net.conv(FRAME, 8, 3), 8, 3)
    net.join(net.conv(last, 8, 3), last)
    nodes = tuple(net.nodes)
    low, lower = ({node.layer.name: stages.format_of(node.layer, bits) for node in nodes[:-1]} for bits in (4, 2))
    branches, grid = ({}, lower, low), (22, 2)
    assignment = tuple(tuple((r + 2 * c) % 3 for c in range(2)) for r in range(22))
    if dynamic:
        branches, assignment = ({}, lower), ((1, 1),) * 22
    outliers = Outliers(-100, 100, 22) if dynamic else None
    stage = Stage(nodes, PatchPlan(nodes[-1].layer.name, grid, "lines", "frame", branches, assignment, outliers))
    frames = stages.frames(rng, stage, 2)
    frames[:, 4:9] //= 4
    frames[:, 15:18] //= 4
    taken = patched.stage_branches(stage, frames)
    assert (np.diff(taken, axis=1) != 0).sum() >= 8
    wanted = by_hand(stage, frames)
    assert np.array_equal(reference.run_layer(stages.stage_layer(stage), [frames]), wanted)
    cases = host.cases_of(stage, frames, most=2)
    host.check(cases, [wanted] * len(cases))


def test_the_random_branches_are_of_every_kind() -> None:
    everything = [stage for seed in BATCHES for stage in batch(seed)]
    bits = {node.layer.output.bits for stage in everything for nodes in stage.branches for node in nodes}
    assert bits == {8, 4, 2}
    outputs = [node.layer.output for stage in everything for nodes in stage.branches for node in nodes]
    assert {x.value_bits for x in outputs if x.bits == 8} == {8, 4, 2}  # a byte per value
    assert {(s.plan.outliers is not None, s.plan.halo, s.plan.grid[1] == 1) for s in everything} == {
        (dynamic, halo, column) for dynamic in (True, False) for halo in stages.HALOS for column in (True, False)
    }
    assert {len(s.plan.branches) for s in everything} == {2, 3}


def test_an_outlier_patch_takes_the_branch_of_the_model() -> None:
    """The rule as the plan's documentation words it, counted here in plain loops."""
    stage = next(
        s for seed in BATCHES for s in batch(seed) if s.plan.outliers is not None and s.plan.halo == "recompute"
    )
    rule = stage.plan.outliers
    assert rule is not None
    frames = stages.frames(np.random.default_rng(1), stage, 6)
    frames[3:] //= 4
    patches = Patches(stage)
    for n, frame in enumerate(frames):
        for r in range(stage.plan.grid[0]):
            for c in range(stage.plan.grid[1]):
                seen = patches.fresh(r, c, 0).trace.frame
                count = 0
                for y in range(seen.rows.start, seen.rows.stop):
                    for x in range(seen.columns.start, seen.columns.stop):
                        count += sum(int(v) < rule.low or int(v) > rule.high for v in frame[y, x])
                expected = 0 if count >= rule.count else stage.plan.branch(r, c)
                assert patched.stage_branches(stage, frames)[n, r, c] == expected


# ---- the layers of a branch, against the pass that makes them of a plan


def network() -> Any:
    """Convolutions, a depthwise one, pools, an addition: what a stage holds."""
    graphs.reseed()
    x = graphs.image(12, 12, 4)
    first = graphs.max_pool(graphs.conv2d(x, 8))
    left = graphs.conv2d(first, 8, in_channels=8, s_in=0.06)
    right = graphs.conv2d(first, 8, in_channels=8, s_in=0.06, depthwise=True, clip=False)
    joined = graphs.average_pool(graphs.add(left, right, clip=True))
    last = graphs.conv2d(joined, 8, in_channels=8, s_in=0.09, z_in=-5)
    return PartitionLayers()(graphs.module(graphs.max_pool(last)))


@pytest.fixture(scope="module")
def mod() -> Any:
    return network()


def formats(rng: Rng, layers: list[Layer]) -> dict[str, OutputPlan]:
    """For most that may have one, but not for the last of them."""
    able = [layer for layer in layers if layer.op in ("conv2d", "depthwise_conv2d", "add")][:-1]
    return {layer.name: stages.format_of(layer, int(rng.choice([8, 4, 2]))) for layer in able if rng.integers(4)}


@pytest.mark.parametrize("seed", range(8))
def test_a_branch_has_the_layers_that_the_pass_makes(mod: Any, seed: int) -> None:
    rng = np.random.default_rng(seed)
    layers = [site.layer for site in read_sites(mod["main"])]
    split = splits(mod["main"])[-1]
    outputs = formats(rng, layers)
    entries = [LayerPlan(x.name, x.op, output=outputs.get(x.name)) for x in layers]
    lowered = {site.name: site.layer for site in read_sites(LowerMixedPrecision(Plan(entries))(mod)["main"])}
    assert len(split.nodes) == 7
    for node in branch_nodes(split.nodes, outputs):
        ours, theirs = node.layer, lowered[node.layer.name]
        assert (ours.inputs, ours.output) == (theirs.inputs, theirs.output), ours.name
        assert {k: v for k, v in ours.attrs.items() if k != "clamp"} == {
            k: v for k, v in theirs.attrs.items() if k != "clamp"
        }
        assert _clamp(ours) == _clamp(theirs), ours.name
        for mine, other in ((ours.weights, theirs.weights), (ours.bias, theirs.bias)):
            assert (mine is None) == (other is None) and (mine is None or np.array_equal(mine, other)), ours.name
        if ours.weight_scales is not None:
            assert np.array_equal(np.ravel(ours.weight_scales), np.ravel(theirs.weight_scales))


def _clamp(layer: Layer) -> tuple[int, int]:
    """What values a result may have: the ends of int8 are those of the bits."""
    half = 1 << (layer.output.bits - 1)
    low, high = layer.attrs.get("clamp", (-128, 127))
    return max(low, -half), min(high, half - 1)


def test_weights_of_few_bits_are_those_of_the_plan_in_every_branch(mod: Any) -> None:
    layers = [site.layer for site in read_sites(mod["main"])]
    first = layers[0]
    lowered = LowerMixedPrecision(Plan([LayerPlan(first.name, first.op, weights=((4, 4), (2, 4)))]))(mod)
    nodes = splits(lowered["main"])[-1].nodes
    found = branch_nodes(nodes, {first.name: stages.format_of(first, 4)})
    assert found[0].layer.weight_bits == (4,) * 4 + (2,) * 4
    assert found[0].layer.weights is nodes[0].layer.weights


def test_branch_0_is_the_layers_themselves(mod: Any) -> None:
    nodes = splits(mod["main"])[-1].nodes
    assert all(a is b for a, b in zip(branch_nodes(nodes, {}), nodes, strict=True))
