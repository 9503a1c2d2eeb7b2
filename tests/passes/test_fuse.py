"""FuseEpilogues: what is fused, what is not, and what a plan has to say about it."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from rqdkm_tvm.compile import compile_model
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.fuse import FuseEpilogues
from rqdkm_tvm.kernels.registry import BAND, KernelSet
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.plan import LayerPlan, Plan
from rqdkm_tvm.sites import read_sites
from rqdkm_tvm.tvm_import import relay
from tests.passes import graphs as g

Expr = Any


def _conv(x: Expr, *, channels: int = 8, in_channels: int = 8, **attrs: Any) -> Expr:
    return g.conv2d(x, channels, in_channels=in_channels, s_out=0.05, **attrs)


def _first(size: int = 16) -> Expr:
    return _conv(g.image(size, size, 4), in_channels=4)


def _add(a: Expr, b: Expr) -> Expr:
    return relay.qnn.op.add(a, b, g.scale(0.05), g.zero(-128), g.scale(0.05), g.zero(-128), g.scale(0.08), g.zero(-100))


def _block(x: Expr) -> Expr:
    return _add(x, _conv(_conv(x)))


def _two_readers(x: Expr) -> Expr:
    y = _conv(x)
    return _add(g.max_pool(y), g.max_pool(y, (2, 2)))


def _padded_pool(x: Expr) -> Expr:
    return relay.nn.max_pool2d(_conv(x), pool_size=(2, 2), strides=(2, 2), padding=(1, 1), layout="NHWC")


def _overlapping_pool(x: Expr) -> Expr:
    return relay.nn.max_pool2d(_conv(x), pool_size=(3, 3), strides=(2, 2), layout="NHWC")


def _broadcast(x: Expr) -> Expr:
    return _add(x, _conv(g.average_pool(x, (16, 16)), kernel=(1, 1), padding=(0, 0, 0, 0)))


def _twice_the_same(x: Expr) -> Expr:
    y = _conv(x)
    return _add(y, y)


def _downsampling(x: Expr) -> Expr:
    shortcut = _conv(x, kernel=(1, 1), padding=(0, 0, 0, 0), strides=(2, 2))
    return _add(_conv(_conv(x, strides=(2, 2))), shortcut)


# each behind a first convolution: names of the layers that are fused
CASES: dict[str, tuple[Callable[[Expr], Expr], list[tuple[str, ...]]]] = {
    "residual block": (_block, [("conv2d.2", "add")]),
    "two blocks": (lambda x: _block(_block(x)), [("conv2d.2", "add"), ("conv2d.4", "add.1")]),
    "pooling": (lambda x: g.max_pool(_conv(x)), [("conv2d.1", "max_pool2d")]),
    "pooling that leaves a row": (
        lambda x: g.max_pool(_conv(x, padding=(0, 1, 0, 1)), (3, 2)),
        [("conv2d.1", "max_pool2d")],
    ),
    "depthwise": (lambda x: _add(x, _conv(x, depthwise=True)), [("depthwise_conv2d", "add")]),
    "depthwise, pooled": (lambda x: g.max_pool(_conv(x, depthwise=True)), [("depthwise_conv2d", "max_pool2d")]),
    "two convolutions: the later one": (_downsampling, [("conv2d.3", "add")]),
    "addition, then pooling": (lambda x: g.max_pool(_block(x)), [("conv2d.2", "add")]),
    "two readers": (_two_readers, []),
    "padded pooling": (_padded_pool, []),
    "overlapping pooling": (_overlapping_pool, []),
    "an operand that repeats": (_broadcast, []),
    "twice the same operand": (_twice_the_same, []),
}


def _partitioned(build: Callable[[Expr], Expr]) -> Any:
    return PartitionLayers()(prepare(g.module(build(_first()))))


@pytest.mark.parametrize("name", CASES)
def test_what_is_fused(name: str) -> None:
    build, fused = CASES[name]
    before = _partitioned(build)
    after = FuseEpilogues()(before)
    assert [site.names for site in read_sites(after["main"]) if site.layer.epilogue is not None] == fused
    counts = g.operators(before)
    for producer, follower in fused:
        counts[f"rqdkm.{_op(producer)}"] -= 1
        counts[f"rqdkm.{_op(follower)}"] -= 1
    counts["rqdkm.fused"] = len(fused)
    assert g.operators(after) == {op: count for op, count in counts.items() if count}


def _op(name: str) -> str:
    return name.partition(".")[0]


def test_a_layer_knows_both_results() -> None:
    mod = FuseEpilogues()(_partitioned(lambda x: g.max_pool(_conv(x))))
    layer = read_sites(mod["main"])[1].layer
    assert layer.title == "conv2d.1 + max_pool2d"
    assert (layer.output.shape, layer.stored.shape) == ((1, 16, 16, 8), (1, 8, 8, 8))
    assert layer.epilogue is not None and layer.epilogue.inputs == (layer.output,)
    assert layer.stored.scale == layer.output.scale


def test_a_layer_knows_its_residual() -> None:
    mod = FuseEpilogues()(_partitioned(_block))
    layer = read_sites(mod["main"])[2].layer
    assert [tensor.zero_point for tensor in layer.inputs] == [-128, -128]
    assert layer.epilogue is not None and layer.epilogue.inputs == (layer.output, layer.inputs[1])
    assert (layer.stored.zero_point, layer.epilogue.attrs) == (-100, {"clamp": (-128, 127)})


def test_an_output_of_the_model_is_kept() -> None:
    x = _first()
    y = _conv(x)
    mod = PartitionLayers()(prepare(g.module(relay.Tuple([y, g.max_pool(y)]))))
    assert "rqdkm.fused" not in g.operators(FuseEpilogues()(mod))


@pytest.mark.parametrize("kernel_set", ["direct", "reference"])
def test_what_speed_is_measured_against_is_not_fused(kernel_set: KernelSet) -> None:
    mod = _partitioned(_block)
    assert g.operators(FuseEpilogues(kernel_set=kernel_set)(mod)) == g.operators(mod)


# ---- plans


@pytest.fixture(scope="module")
def mod() -> Any:
    return prepare(g.module(g.max_pool(_conv(_block(_first())))))


@pytest.fixture(scope="module")
def complete(mod: Any) -> Plan:
    return compile_model(mod).plan


def test_followers_stand_in_the_plan(mod: Any, complete: Plan) -> None:
    assert [(x.name, x.op, x.kernel == "fused") for x in complete.layers] == [
        ("conv2d", "conv2d", False),
        ("conv2d.1", "conv2d", False),
        ("conv2d.2", "conv2d", False),
        ("add", "add", True),
        ("conv2d.3", "conv2d", False),
        ("max_pool2d", "max_pool2d", True),
    ]
    assert all(BAND in x.config for x in complete.layers if x.name in ("conv2d.2", "conv2d.3"))


def test_a_complete_plan_gives_the_same_c(mod: Any, complete: Plan) -> None:
    first, second = compile_model(mod), compile_model(mod, plan=Plan.from_json(complete.to_json()))
    assert second.plan == complete
    assert second.layers_source == first.layers_source


@pytest.mark.parametrize("kernel", ["max_pool2d_s8", None])
def test_a_follower_with_another_kernel_is_not_fused(mod: Any, kernel: str | None) -> None:
    compiled = compile_model(mod, plan=Plan([LayerPlan("max_pool2d", "max_pool2d", kernel)]))
    fused = [layer.layer.title for layer in compiled.layers if layer.layer.epilogue is not None]
    assert fused == ["conv2d.2 + add"]
    row = next(row for row in compiled.report.rows if row.layer == "max_pool2d")
    assert (row.kernel, row.offloaded) == (kernel or "", kernel is not None)


def test_a_convolution_that_is_left_to_tvm_is_not_fused(mod: Any) -> None:
    compiled = compile_model(mod, plan=Plan([LayerPlan("conv2d.3", "conv2d", None)]))
    assert "max_pool2d" in [layer.name for layer in compiled.layers]


def test_a_plan_may_ask_any_kernel_set_for_fusion(mod: Any) -> None:
    plan = Plan([LayerPlan("max_pool2d", "max_pool2d", "fused")])
    compiled = compile_model(mod, plan=plan, kernel_set="direct")
    assert [layer.layer.title for layer in compiled.layers if layer.layer.epilogue] == ["conv2d.3 + max_pool2d"]


def test_the_kernel_of_a_fused_convolution_can_be_edited(mod: Any, complete: Plan) -> None:
    data = json.loads(complete.to_json())
    data["layers"][2].update(kernel="conv2d_s8_ref", config={})
    compiled = compile_model(mod, plan=Plan.from_json(json.dumps(data)))
    layer = next(layer for layer in compiled.layers if layer.name == "conv2d.2")
    assert layer.lowered.kernel == "conv2d_s8_ref" and layer.layer.epilogue is not None


def test_a_fusion_that_is_impossible_is_refused(mod: Any) -> None:
    plan = Plan([LayerPlan("conv2d.1", "conv2d", "fused")])
    with pytest.raises(PlanError, match="cannot be computed by the layer that it reads") as caught:
        compile_model(mod, plan=plan)
    assert '"conv2d.1"' in caught.value.where


def test_a_fusion_without_a_kernel_is_refused(mod: Any) -> None:
    plan = Plan([LayerPlan("conv2d.3", "conv2d", "conv2d_s8_magic"), LayerPlan("max_pool2d", "max_pool2d", "fused")])
    with pytest.raises(PlanError, match='no kernel "conv2d_s8_magic" for conv2d') as caught:
        compile_model(mod, plan=plan)
    assert '"conv2d.3"' in caught.value.where  # whose kernel it is, not what was fused with it


def test_a_plan_of_another_model_is_called_that(mod: Any) -> None:
    """Before anything that depends on its entries: fusions, kernels, bit-widths."""
    plan = Plan([LayerPlan("elsewhere", "conv2d", "conv2d_s8_direct"), LayerPlan("pool", "max_pool2d", "fused")])
    with pytest.raises(PlanError, match='the model has no layer "elsewhere"'):
        compile_model(mod, plan=plan)
    plan = Plan([LayerPlan("conv2d.2", "depthwise_conv2d"), LayerPlan("max_pool2d", "max_pool2d", "fused")])
    with pytest.raises(PlanError, match='the plan says "depthwise_conv2d", the model has "conv2d"') as caught:
        compile_model(mod, plan=plan)
    assert '"conv2d.2"' in caught.value.where


# ---- what it is for


def test_reports_name_both_and_count_the_work_once(mod: Any) -> None:
    compiled = compile_model(mod)
    apart = compile_model(mod, kernel_set="direct")
    assert compiled.macs == apart.macs
    assert [(row.op, row.kernel, row.reason) for row in compiled.report.rows if row.kernel == "fused"] == [
        ("add", "fused", "part of conv2d.2"),
        ("max_pool2d", "fused", "part of conv2d.3"),
    ]
    assert [row.layer for row in compiled.report.rows] == [row.layer for row in apart.report.rows]


def test_a_pooled_map_never_exists_whole(mod: Any) -> None:
    """16x16x8 between convolution and pooling: fused, a budget below the two maps holds."""
    alone = Plan([LayerPlan("max_pool2d", "max_pool2d", "max_pool2d_s8"), LayerPlan("add", "add", "add_s8_linear")])
    least = compile_model(mod, plan=alone, ram_budget=3 * 2048 + 256).memory.arena_bytes
    assert least >= 3 * 2048  # the block's input, residual and result
    assert compile_model(mod, ram_budget=2 * 2048 + 1024).memory.arena_bytes <= 2 * 2048 + 1024
