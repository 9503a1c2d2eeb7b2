"""VDQS: entropies, scores, the order of changes, memory, and what lambda does."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rqdkm.models import load, patched
from rqdkm.planning import partition
from rqdkm_tvm.errors import BudgetError
from rqdkm_tvm.patches.branches import SearchBranchBitwidths, groups, searched
from rqdkm_tvm.patches.classify import stage_of
from rqdkm_tvm.patches.schedule import splits
from rqdkm_tvm.patches.search import Searcher, entropy
from rqdkm_tvm.patches.widths import quantizable
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.plan_patches import PatchPlan

MODEL = Path(__file__).parents[2] / "examples/mnist/model.tflite"


@pytest.fixture(scope="module")
def mod() -> object:
    return partition(load.load(MODEL))


@pytest.fixture(scope="module")
def frames() -> np.ndarray:
    """Strokes on black, smoothed: not noise, which has no entropy to lose."""
    rng = np.random.default_rng(0)
    found = np.full((16, 28, 28, 1), -128.0)
    for image in found:
        for _ in range(6):
            y, x = rng.integers(4, 24, 2)
            image[y - 3 : y + 3, x - 1 : x + 2, 0] += rng.uniform(60, 250)
    return np.clip(found, -128, 127).astype(np.int8)


def last(mod: object) -> str:
    return splits(mod["main"])[-1].last  # type: ignore[index]


def plan(mod: object, grid: tuple[int, int] = (2, 1), halo: str = "lines") -> Plan:
    found = Plan()
    found.patches = PatchPlan(last(mod), grid, halo)  # type: ignore[arg-type]
    return found


@pytest.fixture(scope="module")
def searcher(mod: object, frames: np.ndarray) -> Searcher:
    return Searcher(mod, stage_of(mod, plan(mod)), frames)


def test_entropy_is_shannons() -> None:
    assert entropy(np.array([0, 0, 0])) == 0
    assert entropy(np.array([-128, 127])) == pytest.approx(1)
    assert entropy(np.arange(-128, 128)) == pytest.approx(8)
    assert entropy(np.array([0, 0, 1, 2])) == pytest.approx(1.5)


def test_fewer_bits_never_have_more_entropy(searcher: Searcher) -> None:
    maps = searcher.maps({})
    for index in searcher.widths:
        found = searcher._entropies(maps, index, sorted(searcher.regions))
        assert found[2] <= found[4] + 1e-9 <= found[8] + 2e-9
        assert found[2] <= 2 and found[4] <= 4


def test_the_float_maps_are_those_of_the_int8_network(mod: object, frames: np.ndarray, searcher: Searcher) -> None:
    maps = searcher.maps({})
    exact = patched.run_nodes(searcher.nodes, frames)
    for index, node in enumerate(searcher.nodes):
        tensor = node.layer.output
        real = (exact[index].astype(float) - tensor.zero_point) * tensor.scale
        error = np.abs(np.stack(maps[index]) - real).mean()
        assert error < 2 * tensor.scale, node.layer.name


def test_lambda_trades_entropy_for_bitops(searcher: Searcher) -> None:
    positions = sorted(searcher.regions)
    found = [searcher.search(positions, weight) for weight in (0.0, 0.3, 0.6, 1.0)]
    bitops = [branch.bitops for branch in found]
    assert bitops == sorted(bitops)
    assert all(o.bits == 2 for o in found[0].outputs.values()) and len(found[0].outputs) == len(searcher.widths)
    assert not found[-1].outputs and found[-1].bitops == found[-1].bitops_8
    assert found[0].bitops < found[0].bitops_8


def test_each_change_gains_and_the_last_state_has_none_left(searcher: Searcher) -> None:
    branch = searcher.search(sorted(searcher.regions), 0.25)
    assert branch.changes
    assert all(change.gain > 0 for change in branch.changes)
    chosen = dict.fromkeys(branch.scores, 8)
    chosen |= {name: output.bits for name, output in branch.outputs.items()}
    for name, table in branch.scores.items():
        assert all(table[b] - table[chosen[name]] <= 1e-12 for b in table if b < chosen[name]), name
        assert table[8] == 0


def test_memory_forces_bits_that_no_gain_would(mod: object, frames: np.ndarray, searcher: Searcher) -> None:
    positions = sorted(searcher.regions)
    free, _ = searcher.memory({})
    least, _ = searcher.memory(
        {i: searcher.format(i, 2, searcher.values(searcher.maps({}), i, positions)) for i in searcher.widths}
    )
    assert least < free
    limit = (free + least) // 2
    tight = Searcher(mod, searcher.stage, frames, ram=limit)
    branch = tight.search(positions, 1.0)
    assert branch.outputs and branch.changes[-1].memory <= limit
    with pytest.raises(BudgetError, match="fewest bits"):
        Searcher(mod, searcher.stage, frames, ram=least - 8).search(positions, 1.0)


def test_the_stages_own_result_keeps_its_format(mod: object, searcher: Searcher) -> None:
    assert len(searcher.nodes) - 1 not in searcher.widths
    for split in splits(mod["main"]):  # type: ignore[index]
        for index in quantizable(split.nodes):
            assert index < len(split.nodes) - 1


def test_groups_share_formats_where_rows_are_kept() -> None:
    assignment = ((0, 1), (1, 1))
    lines = PatchPlan("x", (2, 2), "lines", branches=({}, {}), assignment=assignment)
    apart = PatchPlan("x", (2, 2), "recompute", branches=({}, {}), assignment=assignment)
    assert groups(lines) == [[(0, 1), (1, 0), (1, 1)]]
    assert groups(apart) == [[(0, 1)], [(1, 0)], [(1, 1)]]


def test_equal_branches_become_one(mod: object, frames: np.ndarray) -> None:
    wanted = plan(mod, (2, 2), "recompute")
    SearchBranchBitwidths(wanted, frames, weight=0.0)(mod)
    assert wanted.patches is not None
    assert wanted.patches.assignment == ((1, 1), (1, 1)) and len(wanted.patches.branches) == 2
    nothing = plan(mod, (2, 2), "recompute")
    SearchBranchBitwidths(nothing, frames, weight=1.0)(mod)
    assert nothing.patches is not None and nothing.patches.branches == ({},) and nothing.patches.assignment == ()


def test_the_same_search_twice_gives_the_same_plan(mod: object, frames: np.ndarray) -> None:
    texts = []
    for _ in range(2):
        wanted = plan(mod)
        SearchBranchBitwidths(wanted, frames, weight=0.3)(mod)
        texts.append(wanted.to_json())
    assert texts[0] == texts[1] and '"branches"' in texts[0]


def test_outlier_positions_are_left_out(mod: object, frames: np.ndarray, searcher: Searcher) -> None:
    classes = PatchPlan(last(mod), (2, 1), "lines", branches=({}, {}), assignment=((0,), (1,)))
    (positions,) = groups(classes)
    made = searched(classes, [searcher.search(positions, 0.0)])
    assert made.assignment == ((0,), (1,)) and made.branches[1]
