"""Whole compilations: custom operators, free reshapes, fallbacks, outputs, and what nothing can compile."""

from __future__ import annotations

from typing import Any

import pytest

from rqdkm_tvm.compile import compile_model
from rqdkm_tvm.cost import bitops
from rqdkm_tvm.errors import UnsupportedOperatorError
from rqdkm_tvm.graph import calls
from rqdkm_tvm.operators import is_layer_call
from rqdkm_tvm.passes import (
    AssignKernels,
    LegalizeQnn,
    LowerKernels,
    PartitionLayers,
    StripBoundaryQuantize,
    offload,
    prepare,
)
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.tvm_import import relay, tvm
from tests.passes import graphs as g


def _classifier() -> Any:
    x = g.average_pool(g.conv2d(g.image(8, 8, 4), 16), (8, 8))
    logits = g.dense(relay.reshape(x, (1, 16)), features=16)
    return g.module(g.quantize(relay.nn.softmax(g.dequantize(logits, 0.1, 4))))


def test_passes_one_by_one_equal_the_sequence() -> None:
    one, whole = Plan(), Plan()
    mod = _classifier()
    steps = mod
    for step in (StripBoundaryQuantize(), LegalizeQnn(), PartitionLayers(), AssignKernels(one), LowerKernels(one)):
        steps = step(steps)
    sequence = offload(whole)(mod)
    assert one == whole
    assert tvm.ir.structural_equal(steps, sequence)


def test_lowered_module_consists_of_layer_calls_only() -> None:
    compiled = compile_model(prepare(_classifier()))
    found = list(calls(compiled.module["main"]))
    assert all(is_layer_call(call) for call in found)
    assert [layer.layer.op for layer in compiled.layers] == ["conv2d", "avg_pool2d", "fully_connected", "softmax"]


def test_a_reshape_costs_nothing_and_is_reported_so() -> None:
    compiled = compile_model(prepare(_classifier()))
    [row] = [row for row in compiled.report.rows if row.op == "reshape"]
    assert row.offloaded and row.kernel == "none, free"
    assert "reshape" not in g.operators(compiled.module)


def test_a_reshape_at_the_output_moves_into_the_layer() -> None:
    mod = prepare(g.module(relay.reshape(g.conv2d(g.image()), (1, -1))))
    compiled = compile_model(mod)
    assert compiled.outputs[0].tensor.shape == (1, 512)
    assert all(is_layer_call(call) for call in calls(compiled.module["main"]))


def test_macs_follow_the_direct_algorithm() -> None:
    compiled = compile_model(prepare(_classifier()))
    assert [layer.macs for layer in compiled.layers] == [8 * 8 * 16 * 9 * 4, 0, 16 * 5, 0]
    assert compiled.layers[0].bitops == bitops(compiled.layers[0].layer) == compiled.layers[0].macs * 64
    assert [layer.lowered.macs for layer in compiled.layers] == [layer.macs for layer in compiled.layers]


def test_every_layer_has_one_c_function_that_tvm_calls() -> None:
    compiled = compile_model(prepare(_classifier()))
    generated = "".join(compiled.aot.sources.values())
    for layer in compiled.layers:
        assert compiled.layers_source.count(f"int32_t {layer.lowered.symbol}(") == 2  # declaration, definition
        assert f"{layer.lowered.symbol}(" in generated
    assert len({layer.lowered.symbol for layer in compiled.layers}) == len(compiled.layers)


def test_unknown_operators_fall_back_and_are_reported() -> None:
    mod = prepare(g.module(relay.transpose(g.conv2d(g.image()), (0, 3, 1, 2))))
    compiled = compile_model(mod)
    [fallback] = compiled.report.fallbacks
    assert fallback.op == "transpose" and fallback.reason == "no pattern takes this transpose"
    assert compiled.report.offloaded == 1


def test_an_operator_nobody_can_compile_is_named() -> None:
    mod = prepare(g.module(relay.sort(g.conv2d(g.image()))))
    with pytest.raises(UnsupportedOperatorError) as caught:
        compile_model(mod)
    assert "operator sort" in caught.value.where and "TVM's runtime" in caught.value.what


def test_inputs_and_outputs_know_their_quantization() -> None:
    x = relay.var("image", shape=(1, 8, 8, 4), dtype="float32")
    mod = g.module(g.dequantize(g.conv2d(g.quantize(x, 0.05, -128)), 0.06, -128))
    compiled = compile_model(mod, output_names=["scores"])
    [image], [scores] = compiled.inputs, compiled.outputs
    assert (image.name, image.stripped, image.tensor.zero_point) == ("image", True, -128)
    assert image.tensor.scale == pytest.approx(0.05, rel=1e-6)
    assert (scores.name, scores.stripped, scores.tensor.scale) == ("scores", True, pytest.approx(0.06, rel=1e-6))


def test_the_same_module_gives_the_same_c() -> None:
    mod = prepare(_classifier())
    first, second = compile_model(mod), compile_model(mod)
    assert first.layers_source == second.layers_source
    assert first.aot.sources == second.aot.sources and first.plan == second.plan


def test_deep_networks_do_not_exhaust_the_stack() -> None:
    x = g.image(2, 2, 4)
    for _ in range(400):
        x = g.max_pool(x, (1, 1))
    compiled = compile_model(prepare(g.module(x)), kernel_set="reference")
    assert len(compiled.layers) == 400
