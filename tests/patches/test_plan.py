"""The key ``patches`` of a plan: written, read back, obeyed, and refused when it is malformed or does not fit."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from rqdkm_tvm.compile import CompiledModel, compile_model
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.plan import PATCHED_KERNEL, LayerPlan, OutputPlan, Plan
from rqdkm_tvm.plan_patches import Outliers, PatchPlan
from tests.patches import networks, stages

FORMAT = OutputPlan(4, 0.25, -8)
BRANCHED = PatchPlan(
    "conv2d_4",
    (2, 3),
    "lines",
    "frame",
    ({}, {"conv2d": FORMAT, "conv2d.1": OutputPlan(2, 0.5, 0)}),
    ((0, 1, 1), (1, 0, 1)),
    Outliers(-90, 113, 3),
)
PLANS = {
    "one branch": PatchPlan("add", (3, 1)),
    "lines, callback": PatchPlan("add", (3, 1), "lines", "callback"),
    "branches": dataclasses.replace(BRANCHED, outliers=None),
    "outliers": BRANCHED,
    "a byte per value": dataclasses.replace(
        BRANCHED, branches=({}, {"conv2d": dataclasses.replace(FORMAT, packed=False)})
    ),
}
LAYERS = [LayerPlan("conv2d", "conv2d", "conv2d_s8_direct", {"rows": 4}), LayerPlan("dense", "fully_connected")]


@pytest.mark.parametrize("name", PLANS)
def test_json_round_trip_keeps_every_byte(name: str) -> None:
    plan = Plan(LAYERS, patches=PLANS[name])
    text = plan.to_json()
    assert json.loads(text)["version"] == 3
    assert Plan.from_json(text) == plan
    assert Plan.from_json(text).to_json() == text


def test_layers_outside_of_branches_are_packed() -> None:
    text = VERSION_2.replace('"zero_point": -8}', '"zero_point": -8, "packed": false}')
    with pytest.raises(PlanError, match="only the branches of patches"):
        Plan.from_json(text)


VERSION_2 = """\
{
  "schema": "rqdkm.plan",
  "version": 2,
  "layers": [
    {"name": "conv2d", "op": "conv2d", "kernel": "conv2d_s8_direct", "config": {"rows": 4}, "weights": [[4, 8]], \
"output": {"bits": 4, "scale": 0.0625, "zero_point": -8}},
    {"name": "dense", "op": "fully_connected"}
  ]
}
"""


def test_a_plan_without_patches_is_written_as_before() -> None:
    assert Plan.from_json(VERSION_2).patches is None
    assert Plan.from_json(VERSION_2).to_json() == VERSION_2
    assert Plan.from_json(VERSION_2.replace('"version": 2', '"version": 1')).to_json() == VERSION_2
    assert Plan.from_json(VERSION_2.replace('"version": 2', '"version": 3')).to_json() == VERSION_2


def test_only_branches_make_a_plan_mixed() -> None:
    assert not Plan(patches=PLANS["one branch"]).is_mixed
    assert Plan(patches=PLANS["branches"]).is_mixed


GOOD = BRANCHED.to_json()


def without(key: str) -> dict[str, Any]:
    return {name: value for name, value in GOOD.items() if name != key}


MALFORMED: dict[str, tuple[Any, str, str]] = {
    "a list": ([], "wrong type", ""),
    "no last layer": (without("last"), '"last" is missing', "patches"),
    "no grid": (without("grid"), '"grid" is missing', "patches"),
    "no halo": (without("halo"), '"halo" is missing', "patches"),
    "no input": (without("input"), '"input" is missing', "patches"),
    "an unknown key": ({**GOOD, "overlap": 1}, '"overlap" is not a known key', "patches"),
    "last is a number": ({**GOOD, "last": 4}, '"last" has the wrong type', "patches"),
    "grid of one": ({**GOOD, "grid": [2]}, "expected .rows, columns.", "patches"),
    "grid of three": ({**GOOD, "grid": [2, 3, 1]}, "expected .rows, columns.", "patches"),
    "grid of zero": ({**GOOD, "grid": [0, 3]}, "expected .rows, columns.", "patches"),
    "grid of bools": ({**GOOD, "grid": [True, True]}, "expected .rows, columns.", "patches"),
    "grid of fractions": ({**GOOD, "grid": [2.0, 3.0]}, "expected .rows, columns.", "patches"),
    "grid beyond all maps": ({**GOOD, "grid": [257, 1]}, "of 1 to 256", "patches"),
    "grid as text": ({**GOOD, "grid": "2x3"}, '"grid" has the wrong type', "patches"),
    "an unknown halo": ({**GOOD, "halo": "keep"}, "known are: recompute, lines", "patches"),
    "an unknown input": ({**GOOD, "input": "camera"}, "known are: frame, callback", "patches"),
    "branches as object": ({**GOOD, "branches": {}}, '"branches" has the wrong type', "patches"),
    "no branches": ({**GOOD, "branches": []}, "first branch", "branches"),
    "a branch that is a list": ({**GOOD, "branches": [{}, []]}, "expected an object", "branches[1]"),
    "formats in branch 0": (
        {**GOOD, "branches": [{"conv2d": {"bits": 4, "scale": 0.1, "zero_point": 0}}, {}]},
        "first branch",
        "branches",
    ),
    "a format without scale": (
        {**GOOD, "branches": [{}, {"conv2d": {"bits": 4, "zero_point": 0}}]},
        '"scale" is missing',
        'branches[1]: "conv2d"',
    ),
    "3 bits": (
        {**GOOD, "branches": [{}, {"conv2d": {"bits": 3, "scale": 0.1, "zero_point": 0}}]},
        "3 bits cannot be stored",
        'branches[1]: "conv2d"',
    ),
    "a zero point out of range": (
        {**GOOD, "branches": [{}, {"conv2d": {"bits": 2, "scale": 0.1, "zero_point": 2}}]},
        "outside the range of 2 bits",
        'branches[1]: "conv2d"',
    ),
    "no assignment": (without("assignment"), "one of 2 branches for each of 2 x 3", "patches"),
    "an assignment of one row": ({**GOOD, "assignment": [[0, 1, 1]]}, "for each of 2 x 3", "patches"),
    "an assignment with a short row": ({**GOOD, "assignment": [[0, 1, 1], [0]]}, "for each of 2 x 3", "patches"),
    "a flat assignment": ({**GOOD, "assignment": [0, 1, 1, 1, 0, 1]}, "for each of 2 x 3", "patches"),
    "a branch that is not there": ({**GOOD, "assignment": [[0, 1, 2], [1, 0, 1]]}, "one of 2 branches", "patches"),
    "a negative branch": ({**GOOD, "assignment": [[0, 1, -1], [1, 0, 1]]}, "one of 2 branches", "patches"),
    "a branch as bool": ({**GOOD, "assignment": [[0, 1, True], [1, 0, 1]]}, "one of 2 branches", "patches"),
    "outliers as list": ({**GOOD, "outliers": [-90, 113, 3]}, '"outliers" has the wrong type', "patches"),
    "outliers without count": ({**GOOD, "outliers": {"low": -90, "high": 113}}, '"count" is missing', "outliers"),
    "outliers of a fraction": (
        {**GOOD, "outliers": {"low": -90.5, "high": 113, "count": 3}},
        '"low" has the wrong type',
        "outliers",
    ),
    "outliers beyond int8": ({**GOOD, "outliers": {"low": -200, "high": 113, "count": 3}}, "int8 values", "outliers"),
    "outliers of no value": ({**GOOD, "outliers": {"low": -90, "high": 113, "count": 0}}, "at least 1", "outliers"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_value_is_one_clear_error(name: str) -> None:
    value, reason, where = MALFORMED[name]
    text = json.dumps({"schema": "rqdkm.plan", "version": 3, "patches": value, "layers": []})
    with pytest.raises(PlanError, match=reason) as caught:
        Plan.from_json(text, where="my.json")
    assert caught.value.where.startswith("my.json") and where in caught.value.where


def test_a_plan_of_an_earlier_version_has_no_patches() -> None:
    text = json.dumps({"schema": "rqdkm.plan", "version": 2, "patches": GOOD, "layers": []})
    with pytest.raises(PlanError, match='"patches" is not a known key'):
        Plan.from_json(text)


def test_an_assignment_of_one_branch_is_none() -> None:
    value = {**PLANS["one branch"].to_json(), "assignment": [[0], [0], [0]]}
    text = json.dumps({"schema": "rqdkm.plan", "version": 3, "patches": value, "layers": []})
    assert Plan.from_json(text).patches == PLANS["one branch"]


# ---- against a network


@pytest.fixture(scope="module")
def mod() -> Any:
    return networks.small()


def fitting(mod: Any, grid: tuple[int, int] = (4, 2), **changes: Any) -> PatchPlan:
    """A stage over all local layers with one branch of its own."""
    last = list(networks.legal(mod).values())[-2]
    able = {node.layer.name: node.layer for node in last.nodes}
    branch = {"conv2d": stages.format_of(able["conv2d"], 4), "add": stages.format_of(able["add"], 2)}
    assignment = tuple(tuple((r + c) % 2 for c in range(grid[1])) for r in range(grid[0]))
    plan = PatchPlan(last.last, grid, "lines", "frame", ({}, branch), assignment)
    return dataclasses.replace(plan, **changes)


@pytest.fixture(scope="module")
def complete(mod: Any) -> CompiledModel:
    return compile_model(mod, plan=Plan(patches=fitting(mod)))


def test_the_small_network_can_be_divided_where_one_tensor_is_alive(mod: Any) -> None:
    assert list(networks.legal(mod)) == ["conv2d", "add", "depthwise_conv2d", "conv2d.2", "avg_pool2d"]


def test_layers_of_the_stage_are_marked_and_the_stage_has_an_entry(complete: CompiledModel) -> None:
    kernels = {layer.name: layer.kernel for layer in complete.plan.layers}
    inside = ["conv2d", "conv2d.1", "add", "depthwise_conv2d", "conv2d.2"]
    assert [name for name, kernel in kernels.items() if kernel == PATCHED_KERNEL] == inside
    assert kernels["patch_stage"] == "patch_stage"
    assert complete.layers[0].name == "patch_stage"


def test_a_complete_plan_compiles_to_the_same_c(mod: Any, complete: CompiledModel) -> None:
    again = compile_model(mod, plan=Plan.from_json(complete.plan.to_json()))
    assert again.plan == complete.plan
    assert again.layers_source == complete.layers_source and again.aot.sources == complete.aot.sources


UNFIT: dict[str, tuple[dict[str, Any], str, str, str]] = {
    "an unknown split": ({"last": "conv9"}, "cannot be divided there", 'after "conv9"', "conv2d.2"),
    "a split inside a residual block": ({"last": "conv2d.1"}, "cannot be divided there", 'after "conv2d.1"', '"add"'),
    "more patches than rows": (
        {"grid": (9, 2), "branches": ({},), "assignment": ()},
        "9 patches over 8 rows",
        "patches",
        "8 x 8",
    ),
    "more patches than columns": (
        {"grid": (4, 9), "branches": ({},), "assignment": ()},
        "9 patches over 8 columns",
        "patches",
        "8 x 8",
    ),
    "a layer outside": ({"branches": ({}, {"fully_connected": FORMAT})}, "no layer of the stage", "branches[1]", ""),
    "the last layer": ({"branches": ({}, {"conv2d.2": FORMAT})}, "result in one format", "branches[1]", ""),
    "outliers with a callback": (
        {"input": "callback", "outliers": Outliers(-90, 113, 3)},
        "only if the frame is in memory",
        "patches",
        '"input": "frame"',
    ),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_plan_that_does_not_fit_names_place_and_remedy(mod: Any, name: str) -> None:
    changes, reason, where, hint = UNFIT[name]
    with pytest.raises(PlanError, match=reason) as caught:
        compile_model(mod, plan=Plan(patches=fitting(mod, **changes)))
    assert where in caught.value.where
    assert hint in caught.value.hint


def test_pixels_must_end_on_a_byte() -> None:
    from rqdkm_tvm.passes import prepare
    from tests.passes import graphs as g

    odd = g.conv2d(g.image(8, 8, 4), 5)
    mod = prepare(g.module(g.max_pool(g.conv2d(odd, 4, in_channels=5, s_in=0.06))))
    plan = PatchPlan("conv2d.1", (1, 1), branches=({}, {"conv2d": FORMAT}), assignment=((1,),))
    with pytest.raises(PlanError, match="do not end on a byte") as caught:
        compile_model(mod, plan=Plan(patches=plan))
    assert 'branches[1]: "conv2d"' in caught.value.where


def test_a_layer_that_keeps_the_format_of_its_input_gets_none_of_its_own() -> None:
    from rqdkm_tvm.passes import prepare
    from tests.passes import graphs as g

    pooled = g.max_pool(g.conv2d(g.image(8, 8, 4), 8))
    mod = prepare(g.module(g.max_pool(g.conv2d(pooled, 8, in_channels=8, s_in=0.06))))
    plan = PatchPlan("conv2d.1", (1, 1), branches=({}, {"max_pool2d": FORMAT}), assignment=((1,),))
    with pytest.raises(PlanError, match="cannot be quantized anew") as caught:
        compile_model(mod, plan=Plan(patches=plan))
    assert 'branches[1]: "max_pool2d"' in caught.value.where


def test_a_stage_may_not_end_in_the_format_of_a_branch() -> None:
    """The last layer is a pooling, which keeps the format that one branch gives to what it reads."""
    from rqdkm_tvm.passes import prepare
    from tests.passes import graphs as g

    pooled = g.max_pool(g.conv2d(g.image(8, 8, 4), 8))
    mod = prepare(g.module(g.max_pool(g.conv2d(pooled, 8, in_channels=8, s_in=0.06))))
    plan = PatchPlan("max_pool2d", (1, 1), branches=({}, {"conv2d": FORMAT}), assignment=((1,),))
    with pytest.raises(PlanError, match="result in one format") as caught:
        compile_model(mod, plan=Plan(patches=plan))
    assert "end the stage after another layer" in caught.value.hint


def test_the_reference_kernels_run_no_patches(mod: Any) -> None:
    with pytest.raises(PlanError, match="reference kernels do not run patches") as caught:
        compile_model(mod, plan=Plan(patches=fitting(mod)), kernel_set="reference")
    assert "--kernels auto" in caught.value.hint


def test_a_network_whose_input_is_read_twice_far_apart_cannot_be_divided() -> None:
    from rqdkm_tvm.passes import prepare
    from rqdkm_tvm.tvm_import import relay
    from tests.passes import graphs as g

    x = g.image()
    mod = prepare(g.module(relay.transpose(g.add(relay.transpose(x, (0, 2, 1, 3)), g.conv2d(x, 4)), (0, 2, 1, 3))))
    with pytest.raises(PlanError, match="cannot be divided there") as caught:
        compile_model(mod, plan=Plan(patches=PatchPlan("conv2d", (2, 2))))
    assert "none" in caught.value.hint
