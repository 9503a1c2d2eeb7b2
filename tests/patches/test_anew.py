"""Kernels and memory while split and grid are chosen, and both anew for bits that are known."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from rqdkm import branching, plan_files
from rqdkm.branching import Brancher, with_packing
from rqdkm.models import load
from rqdkm.planning import partition
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.patches.choose import Chooser, expected
from rqdkm_tvm.patches.estimate import Estimator
from rqdkm_tvm.patches.find import Finder, Formats, Request
from rqdkm_tvm.patches.outline import outline
from rqdkm_tvm.patches.program import Patches
from rqdkm_tvm.patches.schedule import split_at, splits
from rqdkm_tvm.patches.search import Branch
from rqdkm_tvm.patches.stage import Stage, branch_nodes
from rqdkm_tvm.plan import OutputPlan, Plan
from rqdkm_tvm.plan_patches import Outliers, PatchPlan

ROOT = Path(__file__).parents[2]
CONV1, CONV2, POOL = "conv1_bn_1/batchnorm", "conv2_bn_1/batchnorm", "max_pooling2d_1_2"
LOW = {name: OutputPlan(4, 0.1, -8) for name in (CONV1, CONV2)}


@pytest.fixture(scope="module")
def mod() -> object:
    return partition(load.load(ROOT / "examples/machinery/model.tflite"))


def everywhere(patches: PatchPlan) -> PatchPlan:
    rows, columns = patches.grid
    return dataclasses.replace(patches, branches=({}, LOW), assignment=((1,) * columns,) * rows)


def test_an_arena_is_offered_at_which_fast_kernels_fit(mod: object) -> None:
    stage = Stage(split_at(mod["main"], POOL).nodes, PatchPlan(POOL, (4, 4), "lines"))  # type: ignore[index]
    chooser = Chooser(Patches(stage))
    arenas = chooser.arenas()
    assert arenas == sorted(set(arenas)) and arenas[0] == chooser.least()
    found = [chooser.choose(arena) for arena in arenas]
    assert found[0].slow and not found[-1].slow
    first = next(i for i, chosen in enumerate(found) if not chosen.slow)
    # the step before it is one of the sizes just below: less is not offered at once, nor much more
    assert arenas[first] <= 1.1 * arenas[first - 1]
    assert found[first].cycles < found[first - 1].cycles


def test_no_reference_kernel_where_the_budget_holds_a_fast_one(mod: object) -> None:
    finder = Finder(mod, Plan(), ram_budget=12_800)
    patches = PatchPlan(POOL, (8, 4), "lines")
    worked = finder.work_out(patches)
    assert worked.slow == () and worked.cycles < 11e6
    tight = Finder(mod, Plan(), ram_budget=10_400).work_out(patches)
    assert tight.slow and tight.cycles > worked.cycles and worked.rank < tight.rank


def test_splits_that_leave_no_map_at_its_bits_are_no_candidates(mod: object) -> None:
    formats = Formats(LOW, False, everywhere)
    finder = Finder(mod, Plan(), ram_budget=12_800)
    legal = {made.plan.last for made in finder.candidates(Request(grid=(4, 2), halo="lines", formats=formats))}
    every = {made.plan.last for made in finder.candidates(Request(grid=(4, 2), halo="lines"))}
    # up to conv2 its map is the stage's result; a pooling of that keeps its format
    assert every - legal == {CONV1, CONV2, "max_pooling2d_1"} and POOL in legal


def test_packed_maps_make_larger_patches_fit(mod: object) -> None:
    finder = Finder(mod, Plan(), ram_budget=12_300)
    request = Request(last=POOL, halo="lines", grid=(4, 4))
    assert finder.work_out(PatchPlan(POOL, (4, 4), "lines")).slow
    low = {CONV1: OutputPlan(2, 0.4, -2), CONV2: LOW[CONV2]}

    def branched(patches: PatchPlan) -> PatchPlan:
        return dataclasses.replace(everywhere(patches), branches=({}, low))

    worked = finder.find(dataclasses.replace(request, formats=Formats(low, False, branched)))
    assert worked.plan is not None and worked.plan.branches == ({}, low)
    assert worked.slow == () and worked.arena_bytes <= 12_300


def test_an_estimate_counts_what_packed_maps_are_unpacked_to(mod: object) -> None:
    split = next(s for s in splits(mod["main"]) if s.last == POOL)  # type: ignore[index]
    low = dataclasses.replace(split, nodes=branch_nodes(split.nodes, LOW))
    made = [Estimator(s, lambda layer: 1.0).estimate((4, 2), "lines", "frame") for s in (split, low)]
    patches = Patches(Stage(split.nodes, everywhere(made[1].plan)))
    live = max(max(patches.program(p).live()) for p in patches.every)
    assert made[1].bytes < made[0].bytes
    assert made[1].bytes - 1024 - made[1].fixed > live  # 1024: of the kernels themselves


def test_the_outline_of_a_grid_is_near_what_all_its_parts_take(mod: object) -> None:
    finder = Finder(mod, Plan(), ram_budget=12_800)
    nodes = split_at(mod["main"], POOL).nodes  # type: ignore[index]
    made = next(c for c in finder.candidates(Request(grid=(8, 4), last=POOL, halo="lines")))
    slow, cycles = outline(nodes, made, 0, 12_800)
    chooser = Chooser(Patches(Stage(nodes, made.plan)))
    assert not slow and cycles == pytest.approx(chooser.choose(12_800 - 5_376).cycles, rel=0.15)
    assert outline(nodes, made, 0, 9_000)[0]


def test_grids_that_fit_come_first_where_there_is_no_slow_kernel_either(mod: object) -> None:
    plan, parameters = plan_files.read(ROOT / "examples/machinery/rq/plan.json")  # 2-bit weights
    lowered = LowerMixedPrecision(plan, parameters)(mod)
    nodes = split_at(lowered["main"], POOL).nodes
    finder = Finder(lowered, plan, ram_budget=10_496)
    for grid, fits in (((8, 7), True), ((8, 3), False)):
        made = next(iter(finder.candidates(Request(grid=grid, last=POOL, halo="lines"))))
        assert outline(nodes, made, 0, 10_496)[0] is not fits


@pytest.mark.parametrize("halo", ["lines", "recompute"])
def test_where_the_chip_decides_each_patch_is_run_once_in_all_its_ways(mod: object, halo: str) -> None:
    plan = PatchPlan(POOL, (4, 2), halo, branches=({}, LOW), assignment=((1, 1),) * 4)  # type: ignore[arg-type]
    plan = dataclasses.replace(plan, outliers=Outliers(-90, 90, 5))
    patches = Patches(Stage(split_at(mod["main"], POOL).nodes, plan))  # type: ignore[index]
    shares: dict[tuple[int, int], float] = {}
    for patch, share in expected(patches):
        assert 0 < share <= 1
        shares[patch.row, patch.column] = shares.get((patch.row, patch.column), 0.0) + share
    assert shares == pytest.approx({(r, c): 1.0 for r in range(4) for c in range(2)})


def test_how_values_are_stored_changes_bytes_but_no_loss_and_no_bitops(mod: object) -> None:
    """One measurement serves both ways; maps of a byte per value take 8 bits of memory and count as what they are."""
    nodes = split_at(mod["main"], POOL).nodes  # type: ignore[index]
    plan = everywhere(PatchPlan(POOL, (4, 1), "lines"))
    frames = np.random.default_rng(5).integers(-128, 128, (12, 32, 56, 1)).astype(np.int8)
    brancher = Brancher(mod, Plan(), frames, None, mode="static", max_drop=100.0)
    loose = with_packing(plan, packed=False)
    assert not any(output.packed for output in loose.branches[1].values())
    assert with_packing(loose, packed=True) == plan
    assert brancher.loss(loose) == brancher.loss(plan)
    assert len(brancher._losses) == 1
    packed, bytes_, whole = (Stage(nodes, p) for p in (plan, loose, PatchPlan(POOL, (4, 1), "lines")))
    assert packed.bitops == bytes_.bitops < whole.bitops
    kept = [sum(Patches(stage).kept_bytes.values()) for stage in (packed, bytes_, whole)]
    assert kept[0] < kept[1] == kept[2]


def test_a_loss_that_is_too_great_is_measured_no_further(mod: object, monkeypatch: pytest.MonkeyPatch) -> None:
    frames = np.zeros((1000, 32, 56, 1), np.int8)
    labels = np.zeros(1000, np.int64)
    wrong = {"share": 0}
    calls: list[int] = []

    def first_classes(function: object, part: np.ndarray) -> np.ndarray:
        calls.append(len(part))
        found = np.zeros(len(part), np.int64)
        if function != mod["main"]:  # type: ignore[index]
            found[: wrong["share"]] = 1
        return found

    monkeypatch.setattr(branching, "_first_classes", first_classes)
    brancher = Brancher(mod, Plan(), frames, labels, mode="all", max_drop=0.5)
    plan = everywhere(PatchPlan(POOL, (4, 2), "lines"))
    loss = brancher.loss(plan)
    assert (loss.lost, loss.won, loss.n) == (0, 0, 1000) and len(calls) == 8
    again = brancher.loss(everywhere(PatchPlan(POOL, (8, 3), "lines")))  # the same bits everywhere
    assert again == loss and len(calls) == 8
    wrong["share"] = 10
    other = dataclasses.replace(plan, branches=({}, {CONV1: LOW[CONV1]}))
    worse = brancher.loss(other)
    assert (worse.lost, worse.n) == (10, branching.JUDGE_AT_ONCE) and len(calls) == 9
    assert worse.upper(0.8) > 0.005


class Searched:
    """In place of VDQS: bits of the first map by lambda."""

    def __init__(self, *_arguments: object) -> None:
        pass

    def search(self, positions: list[tuple[int, int]], weight: float, *, renew: bool) -> Branch:
        output = dataclasses.replace(LOW[CONV1], scale=weight)
        return Branch(tuple(positions), {CONV1: output}, (), round(100 * weight), 100)


def judging(mod: object, monkeypatch: pytest.MonkeyPatch, lost: object, mode: str = "static") -> Brancher:
    """A brancher for which ``lost(patches, samples)`` says how many samples are lost."""
    frames = np.zeros((1600, 32, 56, 1), np.int8)
    frames[: len(frames) // 3, :16] = np.where(np.arange(56) % 8 == 0, 120, 0)[None, None, :, None]  # the upper half
    frames[: 2 * len(frames) // 3, :16, :28] = frames[:1, :16, :28]
    brancher = Brancher(mod, Plan(), frames, np.zeros(1600, np.int64), mode=mode, max_drop=0.5)

    def measure(found: branching._Measured, patches: PatchPlan, *, first: bool) -> None:
        found.n = branching.JUDGE_FIRST if first else branching.JUDGE_SAMPLES
        found.lost = lost(patches, found.n)  # type: ignore[operator]

    monkeypatch.setattr(branching, "Searcher", Searched)
    monkeypatch.setattr(brancher, "_measure", measure)
    return brancher


def test_lambda_is_sought_on_few_samples_and_taken_on_all(mod: object, monkeypatch: pytest.MonkeyPatch) -> None:
    def lost(patches: PatchPlan, samples: int) -> int:
        weight = patches.branches[1][CONV1].scale
        if samples == branching.JUDGE_FIRST:
            return 0 if weight >= 0.4 else 9
        return 0 if weight >= 0.6 else 12  # 0.8 points

    brancher = judging(mod, monkeypatch, lost, "all")
    made, found = brancher.find(PatchPlan(POOL, (4, 2), "lines"))
    assert found.weight == 0.6 and made.branches[1][CONV1].scale == 0.6
    trials = {trial.weight: trial for trial in found.trials}
    assert [trials[w].loss.n for w in (0.3, 0.4, 0.5, 0.6)] == [500, 1500, 1500, 1500]
    assert [trials[w].allowed for w in (0.3, 0.4, 0.5, 0.6)] == [False, False, False, True]


@pytest.mark.parametrize(("most", "share", "outlier_patches"), [(4, 0.25, 4), (6, 0.5, 2), (8, 0.75, 0)])
def test_there_are_as_few_outlier_patches_as_the_loss_permits(
    mod: object, monkeypatch: pytest.MonkeyPatch, most: int, share: float, outlier_patches: int
) -> None:
    """Of 4x2 patches the upper left two have outliers in two thirds of the samples, the upper right ones in a third."""

    def lost(patches: PatchPlan, samples: int) -> int:
        return 0 if sum(map(sum, patches.assignment)) <= most else samples // 50

    brancher = judging(mod, monkeypatch, lost)
    made, found = brancher.find(PatchPlan(POOL, (4, 2), "lines"))
    assert found.share == share and sum(row.count(0) for row in made.assignment) == outlier_patches
    again = brancher.split(PatchPlan(POOL, (4, 2), "lines"))  # another cut is classified by the same rule
    assert again.assignment == made.assignment
