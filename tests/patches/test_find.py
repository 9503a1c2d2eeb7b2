"""Where to divide and how to cut: estimates against what is really computed, budgets, and what cannot be."""

from __future__ import annotations

from pathlib import Path

import pytest

from rqdkm.models import load, zoo
from rqdkm.planning import partition
from rqdkm_tvm import cost
from rqdkm_tvm.errors import BudgetError, PlanError
from rqdkm_tvm.patches import find
from rqdkm_tvm.patches.estimate import Estimator
from rqdkm_tvm.patches.find import Finder, Request
from rqdkm_tvm.patches.program import Patches
from rqdkm_tvm.patches.schedule import splits
from rqdkm_tvm.patches.stage import Stage
from rqdkm_tvm.plan import Plan

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def mod() -> object:
    return partition(load.load(ROOT / "examples/machinery/model.tflite"))


def finder(mod: object, ram: int) -> Finder:
    return Finder(mod, Plan(), ram_budget=ram)


@pytest.mark.parametrize("halo", ["recompute", "lines"])
@pytest.mark.parametrize("source", ["frame", "callback"])
@pytest.mark.parametrize("grid", [(1, 1), (3, 1), (2, 3), (4, 2)])
def test_estimates_are_what_the_programs_do(mod: object, halo: str, source: str, grid: tuple[int, int]) -> None:
    for split in splits(mod["main"])[2::2]:  # type: ignore[index]
        if grid[0] > split.result.shape[1] or grid[1] > split.result.shape[2]:
            continue
        made = Estimator(split, lambda layer: float(layer.output.size)).estimate(grid, halo, source)  # type: ignore[arg-type]
        stage = Stage(split.nodes, made.plan)
        patches = Patches(stage)
        computed = sum(patches.macs(patch) for patch in patches.planned)
        assert made.macs == pytest.approx(computed, rel=0.001), split.last
        live = sum(patches.kept_bytes.values()) + max(max(patches.program(p).live(), default=0) for p in patches.every)
        frame = 0 if source == "callback" else stage.frame.size
        total = live + frame + patches.result.size
        assert total <= made.bytes * 1.1 and made.bytes - 1024 <= total * 1.15, (split.last, total, made.bytes)


def test_what_is_found_fits_and_costs_little(mod: object, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(find, "OUTLINED", 16)
    whole = finder(mod, 1 << 20).work_out(None)
    ram = 20_000
    assert whole.arena_bytes > ram
    last = splits(mod["main"])[4].last  # type: ignore[index]
    worked = finder(mod, ram).find(Request(halo="lines", last=last))
    assert worked.plan is not None and worked.arena_bytes <= ram
    assert worked.cycles < 2 * whole.cycles


def test_requests_are_obeyed(mod: object) -> None:
    made = finder(mod, 40_000).candidates(Request(grid=(3, 2), halo="lines"))
    assert {c.plan.grid for c in made} == {(3, 2)} and {c.plan.halo for c in made} == {"lines"}
    last = splits(mod["main"])[3].last  # type: ignore[index]
    assert {c.plan.last for c in finder(mod, 40_000).candidates(Request(last=last))} == {last}


def test_what_cannot_be_says_what_can(mod: object) -> None:
    with pytest.raises(PlanError, match="cannot be divided") as error:
        finder(mod, 40_000).candidates(Request(last="softmax"))
    assert splits(mod["main"])[0].last in str(error.value.hint)  # type: ignore[index]
    with pytest.raises(PlanError, match="cannot be divided"):  # whether or not patches are needed
        finder(mod, 1 << 20).check(Request(last="softmax"))
    with pytest.raises(PlanError, match="no feature map has 99 x 1"):
        finder(mod, 40_000).candidates(Request(grid=(99, 1)))


def test_a_budget_that_cannot_hold_names_what_is_needed(mod: object) -> None:
    last = splits(mod["main"])[4].last  # type: ignore[index]
    with pytest.raises(BudgetError) as error:
        finder(mod, 3_000).find(Request(grid=(4, 2), halo="lines", last=last))
    assert error.value.needed_bytes > 3_000


def test_a_network_without_local_layers_has_no_splits() -> None:
    dense = partition(load.load(zoo.path("anomaly_detection")))
    with pytest.raises(PlanError, match="no layer after which"):
        finder(dense, 40_000).candidates(Request())


def test_rows_are_chosen_for_the_columns_asked_for(mod: object) -> None:
    made = finder(mod, 40_000).candidates(Request(columns=1, halo="lines"))
    assert {c.plan.grid[1] for c in made} == {1} and len({c.plan.grid[0] for c in made}) > 10
    own = {split.last: sum(cost.macs(n.layer) for n in split.nodes) for split in splits(mod["main"])}  # type: ignore[index]
    assert all(c.macs == pytest.approx(own[c.plan.last], rel=0.001) for c in made)  # nothing is computed again
    with pytest.raises(PlanError, match="any number of x 99"):
        finder(mod, 40_000).candidates(Request(columns=99))
