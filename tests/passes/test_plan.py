"""plan.json: written by the passes, read back, obeyed, and refused when it does not fit."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from rqdkm_tvm.assign import options
from rqdkm_tvm.compile import compile_model
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.fuse import FuseEpilogues
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.plan import LayerPlan, OutputPlan, ParametersFile, Plan, runs
from rqdkm_tvm.sites import read_sites
from tests.passes import graphs as g


@pytest.fixture(scope="module")
def mod() -> Any:
    x = g.image(16, 16, 4)
    first = g.conv2d(x, 8, s_out=0.05)
    return prepare(g.module(g.max_pool(g.conv2d(first, 8, in_channels=8))))


@pytest.fixture(scope="module")
def complete(mod: Any) -> Plan:
    return compile_model(mod).plan


def _edited(plan: Plan, index: int, **changes: Any) -> Plan:
    data = json.loads(plan.to_json())
    data["layers"][index].update(changes)
    return Plan.from_json(json.dumps(data))


def test_absent_plan_is_written_for_every_layer(mod: Any, complete: Plan) -> None:
    sites = read_sites(PartitionLayers()(mod)["main"])
    assert [(x.name, x.op) for x in complete.layers] == [(s.name, s.layer.op) for s in sites]
    assert all(layer.kernel is not None for layer in complete.layers)


def test_json_round_trip_keeps_every_byte(complete: Plan) -> None:
    text = complete.to_json()
    assert Plan.from_json(text) == complete
    assert Plan.from_json(text).to_json() == text


def test_a_complete_plan_compiles_to_the_same_c(mod: Any, complete: Plan) -> None:
    first, second = compile_model(mod), compile_model(mod, plan=Plan.from_json(complete.to_json()))
    assert second.plan == complete
    assert second.layers_source == first.layers_source and second.aot.sources == first.aot.sources


def test_the_callers_plan_object_is_left_alone(mod: Any) -> None:
    plan = Plan()
    compile_model(mod, plan=plan)
    assert plan.layers == []


def test_an_edited_kernel_is_obeyed(mod: Any, complete: Plan) -> None:
    edited = _edited(complete, 1, kernel="conv2d_s8_ref", config={})
    compiled = compile_model(mod, plan=edited)
    assert compiled.layers[1].lowered.kernel == "conv2d_s8_ref"
    assert compiled.layers[0].lowered.kernel == complete.layers[0].kernel


def test_an_edited_configuration_is_obeyed(mod: Any, complete: Plan) -> None:
    layer = read_sites(FuseEpilogues()(PartitionLayers()(mod))["main"])[1].layer
    other = next(
        o for o in options(layer) if o.kernel.name != "conv2d_s8_ref" and dict(o.config) != complete.layers[1].config
    )
    compiled = compile_model(mod, plan=_edited(complete, 1, kernel=other.kernel.name, config=dict(other.config)))
    assert compiled.layers[1].lowered.config == dict(other.config)
    assert compiled.layers[1].lowered.scratch_bytes == other.scratch_bytes


def test_a_partial_plan_is_completed(mod: Any, complete: Plan) -> None:
    name = complete.layers[0].name
    compiled = compile_model(mod, plan=Plan([LayerPlan(name, "conv2d", "conv2d_s8_ref")]))
    assert compiled.layers[0].lowered.kernel == "conv2d_s8_ref"
    assert len(compiled.plan.layers) == 3


def test_a_kernel_without_configuration_gets_one(mod: Any, complete: Plan) -> None:
    compiled = compile_model(mod, plan=_edited(complete, 1, kernel="conv2d_s8_direct", config={}))
    assert compiled.plan.layers[1].kernel == "conv2d_s8_direct"
    assert compiled.plan.layers[1].config == compiled.layers[1].lowered.config != {}


def test_null_leaves_the_layer_to_tvm(mod: Any, complete: Plan) -> None:
    alone = _edited(complete, 1, config={})  # its configuration was one with the pooling in it
    compiled = compile_model(mod, plan=_edited(alone, 2, kernel=None))
    assert [layer.layer.op for layer in compiled.layers] == ["conv2d", "conv2d"]
    row = compiled.report.rows[2]
    assert (row.op, row.offloaded, row.reason) == ("max_pool2d", False, "the plan leaves it to TVM")


UNFIT = {
    "unknown layer": ({"name": "conv9"}, 'no layer "conv9"'),
    "unknown kernel": ({"kernel": "conv2d_s8_magic"}, 'no kernel "conv2d_s8_magic"'),
    "kernel of another operator": ({"kernel": "add_s8_ref", "config": {}}, 'no kernel "add_s8_ref" for conv2d'),
    "unknown configuration": ({"config": {"strip": 12345}}, "no configuration"),
    "another operator": ({"op": "add"}, 'the plan says "add"'),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_plan_that_does_not_fit_names_layer_and_reason(mod: Any, complete: Plan, name: str) -> None:
    changes, reason = UNFIT[name]
    with pytest.raises(PlanError, match=reason) as caught:
        compile_model(mod, plan=_edited(complete, 0, **changes))
    if "name" not in changes:
        assert complete.layers[0].name in caught.value.where


def test_a_kernel_that_refuses_the_layer_says_why(mod: Any, complete: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = registry.get(str(complete.layers[0].kernel))
    monkeypatch.setattr(type(kernel), "reject", lambda _self, _layer: "the channels are odd")
    with pytest.raises(PlanError, match="the channels are odd") as caught:
        compile_model(mod, plan=complete)
    assert complete.layers[0].name in caught.value.where


GOOD = {"schema": "rqdkm.plan", "version": 2, "layers": []}
LAYER = {"name": "a", "op": "conv2d", "kernel": "k", "config": {}}
OUTPUT = {"bits": 4, "scale": 0.5, "zero_point": -8}
MALFORMED = {
    "not json": ("{", "not JSON"),
    "a list": ("[]", "expected an object"),
    "no layers": (json.dumps({"schema": "rqdkm.plan", "version": 2}), '"layers" is missing'),
    "another schema": (json.dumps({**GOOD, "schema": "other"}), 'schema is "other"'),
    "a later version": (json.dumps({**GOOD, "version": 4}), "version 4 is not known"),
    "version is a bool": (json.dumps({**GOOD, "version": True}), "wrong type"),
    "an unknown key": (json.dumps({**GOOD, "patches": []}), '"patches" is not a known key'),
    "layers is an object": (json.dumps({**GOOD, "layers": {}}), "wrong type"),
    "a layer without op": (json.dumps({**GOOD, "layers": [{"name": "a"}]}), '"op" is missing'),
    "3 bits": (json.dumps({**GOOD, "layers": [{**LAYER, "weights": [[3, 8]]}]}), "expected .bits, channels."),
    "no channels": (json.dumps({**GOOD, "layers": [{**LAYER, "weights": [[4, 0]]}]}), "expected .bits, channels."),
    "flat bits": (
        json.dumps({**GOOD, "layers": [{**LAYER, "weights": [4, 8]}]}),
        "expected .bits, channels.",
    ),
    "an output of 5 bits": (json.dumps({**GOOD, "layers": [{**LAYER, "output": {**OUTPUT, "bits": 5}}]}), "5 bits"),
    "a scale of zero": (json.dumps({**GOOD, "layers": [{**LAYER, "output": {**OUTPUT, "scale": 0}}]}), "positive"),
    "scale NaN": (
        json.dumps({**GOOD, "layers": [{**LAYER, "output": {**OUTPUT, "scale": math.nan}}]}),
        "positive",
    ),
    "a zero point out of range": (
        json.dumps({**GOOD, "layers": [{**LAYER, "output": {**OUTPUT, "zero_point": 8}}]}),
        "outside the range of 4 bits",
    ),
    "parameters elsewhere": (
        json.dumps({**GOOD, "parameters": {"file": "../x.npz", "sha256": ""}}),
        "outside the plan's folder",
    ),
    "a layer's unknown key": (json.dumps({**GOOD, "layers": [{**LAYER, "bits": 4}]}), '"bits" is not a known key'),
    "a layer twice": (json.dumps({**GOOD, "layers": [LAYER, LAYER]}), "listed twice"),
    "a nested config": (json.dumps({**GOOD, "layers": [{**LAYER, "config": {"x": [1]}}]}), "expected a number"),
    "kernel is a number": (json.dumps({**GOOD, "layers": [{**LAYER, "kernel": 3}]}), "wrong type"),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_malformed_plans_are_refused(name: str) -> None:
    text, reason = MALFORMED[name]
    with pytest.raises(PlanError, match=reason):
        Plan.from_json(text)


def test_bit_widths_survive_json_byte_for_byte() -> None:
    layers = [
        LayerPlan("a", "conv2d", "k", {"rows": 2}, weights=((8, 4), (2, 12)), output=OutputPlan(4, 0.125, -8)),
        LayerPlan("b", "add", output=OutputPlan(2, 0.375, 1)),
        LayerPlan("c", "softmax", None),
    ]
    plan = Plan(layers, ParametersFile("parameters.npz", "00ff"))
    read = Plan.from_json(plan.to_json())
    assert read == plan
    assert read.to_json() == plan.to_json()
    assert read.layers[0].weight_bits == (8,) * 4 + (2,) * 12
    assert plan.is_mixed
    assert not Plan([LayerPlan("c", "softmax", None)]).is_mixed


def test_a_plan_of_version_1_is_read() -> None:
    assert Plan.from_json(json.dumps({**GOOD, "version": 1, "layers": [LAYER]})).layers[0].kernel == "k"


def test_runs_join_equal_neighbours() -> None:
    assert runs([8, 8, 4, 4, 4, 8]) == ((8, 2), (4, 3), (8, 1))
    assert runs([8] * 5) == ()
    assert runs([]) == ()
