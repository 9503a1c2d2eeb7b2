"""What each pattern makes of the form that TVM's TFLite importer emits: operator counts before and after."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from rqdkm_tvm.compile import compile_model
from rqdkm_tvm.partition import PartitionLayers, refusals
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.sites import read_sites
from rqdkm_tvm.tvm_import import relay
from tests.passes import graphs as g

Expr = Any


def _mean(x: Expr) -> Expr:
    wide = relay.mean(relay.cast(x, "int32"), axis=[1, 2])
    return relay.qnn.op.requantize(wide, g.scale(0.05), g.zero(1), g.scale(0.04), g.zero(-9), out_dtype="int8")


def _concatenate(x: Expr, count: int) -> Expr:
    scales = relay.Tuple([g.scale(0.05 + 0.01 * i) for i in range(count)])
    zeros = relay.Tuple([g.zero(i) for i in range(count)])
    parts = relay.Tuple([x] * count)
    return relay.qnn.op.concatenate(parts, scales, zeros, g.scale(0.07), g.zero(1), axis=3)


def _hard_swish(x: Expr) -> Expr:
    real = g.dequantize(x)
    return g.quantize(real * relay.clip(real + relay.const(3.0), 0, 6) / relay.const(6.0), 0.08, -5)


def _flat(x: Expr) -> Expr:
    return relay.reshape(x, (1, -1))


CASES: dict[str, tuple[Callable[[Expr], Expr], dict[str, int]]] = {
    "conv2d": (lambda x: g.conv2d(x), {"rqdkm.conv2d": 1}),
    "conv2d, no bias, no clip": (lambda x: g.conv2d(x, bias=False, clip=False), {"rqdkm.conv2d": 1}),
    "pointwise": (lambda x: g.conv2d(x, kernel=(1, 1), padding=(0, 0, 0, 0)), {"rqdkm.conv2d": 1}),
    "dilated": (lambda x: g.conv2d(x, dilation=(2, 2), padding=(2, 2, 2, 2)), {"rqdkm.conv2d": 1}),
    "depthwise": (lambda x: g.conv2d(x, depthwise=True), {"rqdkm.depthwise_conv2d": 1}),
    "dense": (lambda x: g.dense(_flat(x), features=256), {"reshape": 1, "rqdkm.fully_connected": 1}),
    "dense, scales per output": (
        lambda x: g.dense(_flat(x), features=256, per_channel=True, bias=False),
        {"reshape": 1, "rqdkm.fully_connected": 1},
    ),
    "average pool": (lambda x: g.average_pool(x), {"rqdkm.avg_pool2d": 1}),
    "max pool": (lambda x: g.max_pool(x), {"rqdkm.max_pool2d": 1}),
    "mean": (_mean, {"rqdkm.mean": 1}),
    "add": (lambda x: g.add(x, x), {"rqdkm.add": 1}),
    "add with relu": (lambda x: g.add(x, x, clip=True), {"rqdkm.add": 1}),
    "mul": (lambda x: g.add(x, x, op="mul"), {"rqdkm.mul": 1}),
    "softmax": (lambda x: g.quantize(relay.nn.softmax(g.dequantize(_flat(x)))), {"reshape": 1, "rqdkm.softmax": 1}),
    "logistic": (lambda x: g.quantize(relay.sigmoid(g.dequantize(x))), {"rqdkm.logistic": 1}),
    "tanh": (lambda x: g.quantize(relay.tanh(g.dequantize(x)), 1 / 128, 0), {"rqdkm.tanh": 1}),
    "leaky relu": (lambda x: g.quantize(relay.nn.leaky_relu(g.dequantize(x), 0.1), 0.1, 0), {"rqdkm.leaky_relu": 1}),
    "hard swish": (_hard_swish, {"rqdkm.hard_swish": 1}),
    "concatenate 2": (lambda x: _concatenate(x, 2), {"rqdkm.concatenate": 1}),
    "concatenate 8": (lambda x: _concatenate(x, 8), {"rqdkm.concatenate": 1}),
    "pad alone": (
        lambda x: g.max_pool(relay.nn.pad(x, [[0, 0], [1, 1], [1, 1], [0, 0]], pad_value=3)),
        {"rqdkm.pad": 1, "rqdkm.max_pool2d": 1},
    ),
    "relu": (lambda x: relay.clip(x, 3, 127), {"rqdkm.clip": 1}),
    "relu that rescales": (
        lambda x: relay.qnn.op.requantize(
            relay.clip(x, 3, 127), g.scale(0.1), g.zero(3), g.scale(0.07), g.zero(-9), out_dtype="int8"
        ),
        {"rqdkm.relu": 1},
    ),
    "requantize": (
        lambda x: relay.qnn.op.requantize(x, g.scale(0.1), g.zero(3), g.scale(0.07), g.zero(-9), out_dtype="int8"),
        {"rqdkm.requantize": 1},
    ),
    "inner quantize and dequantize": (
        lambda x: g.max_pool(g.quantize(relay.exp(g.dequantize(x)), 0.1, 0)),
        {"rqdkm.dequantize": 1, "exp": 1, "rqdkm.quantize": 1, "rqdkm.max_pool2d": 1},
    ),
    "residual block": (
        lambda x: g.add(g.conv2d(x, 4), x),
        {"rqdkm.conv2d": 1, "rqdkm.add": 1},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_importer_form_becomes_layers(name: str) -> None:
    build, expected = CASES[name]
    before = g.module(build(g.image()))
    assert not any(op.startswith("rqdkm.") for op in g.operators(before))
    assert g.operators(PartitionLayers()(prepare(before))) == expected


@pytest.mark.parametrize(("build", "count"), [(lambda x: g.add(x, x, clip=True), 2), (lambda x: _concatenate(x, 3), 3)])
def test_the_same_operand_twice_is_two_operands(build: Callable[[Expr], Expr], count: int) -> None:
    mod = PartitionLayers()(prepare(g.module(build(g.conv2d(g.image())))))
    assert len(read_sites(mod["main"])[1].layer.inputs) == count


def test_a_sum_with_itself_reads_the_tensor_twice() -> None:
    x = g.conv2d(g.image())
    assert [layer.lowered.tensors for layer in compile_model(prepare(g.module(g.add(x, x)))).layers] == [1, 2]


REFUSED: dict[str, tuple[Callable[[Expr], Expr], str]] = {
    "uint8": (lambda x: relay.clip(relay.cast(x, "uint8"), 3, 100), "clip: the tensor is uint8"),
    "per-channel output": (
        lambda x: relay.qnn.op.requantize(
            x,
            relay.const(np.full(4, 0.1, np.float32)),
            relay.const(np.zeros(4, np.int32)),
            g.scale(0.1),
            g.zero(0),
            axis=3,
            out_dtype="int8",
        ),
        "requantize: a tensor is quantized per channel",
    ),
    "softmax over another axis": (
        lambda x: g.quantize(relay.nn.softmax(g.dequantize(x), axis=1)),
        "softmax: softmax over axis 1",
    ),
    "int16 output": (
        lambda x: relay.qnn.op.requantize(x, g.scale(0.1), g.zero(3), g.scale(0.07), g.zero(0), out_dtype="int16"),
        "requantize: int8 to int16",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_stays_and_says_why(name: str) -> None:
    build, reason = REFUSED[name]
    partitioned = PartitionLayers()(prepare(g.module(build(g.image()))))
    assert any(text.startswith(reason) for text in refusals(partitioned["main"]).values())


def test_layer_holds_weights_in_tflite_layout_and_exact_scales() -> None:
    weights = np.arange(3 * 3 * 4 * 8, dtype=np.int64).reshape(3, 3, 4, 8) % 251 - 125
    scales = np.linspace(0.001, 0.02, 8, dtype=np.float32)
    x = g.image()
    y = relay.qnn.op.conv2d(
        x,
        relay.const(weights.astype(np.int8)),
        g.zero(-7),
        g.zero(0),
        g.scale(0.1),
        relay.const(scales),
        kernel_size=(3, 3),
        channels=8,
        strides=(2, 1),
        padding=(1, 0, 2, 1),
        data_layout="NHWC",
        kernel_layout="HWIO",
        out_dtype="int32",
    )
    y = relay.clip(g.requantize(y, scales * np.float32(0.1), s_out=0.3, z_out=-11, axis=3), -11, 90)
    [site] = read_sites(PartitionLayers()(prepare(g.module(y)))["main"])
    layer = site.layer
    assert layer.weights is not None and layer.weights.shape == (8, 3, 3, 4)
    assert np.array_equal(layer.weights, weights.transpose(3, 0, 1, 2))
    assert np.array_equal(layer.weight_scales, scales) and layer.weight_scales.dtype == np.float32
    assert layer.inputs[0].scale == float(np.float32(0.1)) and layer.inputs[0].zero_point == -7
    assert layer.output.scale == float(np.float32(0.3)) and layer.output.zero_point == -11
    assert layer.attrs == {
        "strides": (2, 1),
        "padding": (1, 0, 2, 1),
        "dilation": (1, 1),
        "clamp": (-11, 90),
        "groups": 1,
    }
    assert layer.bias is None


def test_depthwise_weights_keep_channel_order() -> None:
    weights = np.arange(3 * 3 * 4 * 2, dtype=np.int8).reshape(3, 3, 4, 2)
    y = relay.qnn.op.conv2d(
        g.image(),
        relay.const(weights),
        g.zero(0),
        g.zero(0),
        g.scale(0.1),
        g.scale(0.1),
        kernel_size=(3, 3),
        channels=8,
        groups=4,
        data_layout="NHWC",
        kernel_layout="HWOI",
        out_dtype="int32",
    )
    [site] = read_sites(PartitionLayers()(prepare(g.module(g.requantize(y, 0.01, axis=3))))["main"])
    assert site.layer.op == "depthwise_conv2d" and site.layer.attrs["multiplier"] == 2
    assert site.layer.weights is not None
    assert np.array_equal(site.layer.weights, weights.reshape(1, 3, 3, 8))
    assert site.layer.weight_scales is not None and site.layer.weight_scales.shape == (8,)


def test_quantization_reaches_operators_that_carry_none() -> None:
    pooled = g.max_pool(g.conv2d(g.image(), s_out=0.125))
    mod = g.module(g.conv2d(pooled, 8, in_channels=8, s_in=0.125))
    [_, pool, _] = read_sites(PartitionLayers()(prepare(mod))["main"])
    assert (pool.layer.inputs[0].scale, pool.layer.inputs[0].zero_point) == (0.125, -128)
    assert (pool.layer.output.scale, pool.layer.output.zero_point) == (0.125, -128)


def test_layers_are_named_uniquely_and_stably() -> None:
    x = g.image()
    mod = g.module(g.conv2d(g.conv2d(g.conv2d(x), 8, in_channels=8), 8, in_channels=8))
    names = [site.name for site in read_sites(PartitionLayers()(prepare(mod))["main"])]
    again = [site.name for site in read_sites(PartitionLayers()(prepare(mod))["main"])]
    assert names == again and len(set(names)) == 3
