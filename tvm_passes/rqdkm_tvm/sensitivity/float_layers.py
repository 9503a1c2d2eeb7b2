"""What every layer computes in real numbers, as Relay: differentiable, with weights and biases as arguments."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rqdkm_tvm.errors import UnsupportedOperatorError
from rqdkm_tvm.layer import Layer
from rqdkm_tvm.tvm_import import relay

Expr = Any


def float_layer(layer: Layer, x: list[Expr], weight: Expr | None, bias: Expr | None) -> Expr:
    build = _LAYERS.get(layer.op)
    if build is None:
        raise UnsupportedOperatorError(
            f"{layer.op} has no counterpart in the float network", where=f'layer "{layer.name}"'
        )
    y = build(layer, x, weight)
    if bias is not None:
        y = relay.nn.bias_add(y, bias, axis=-1)
    if "clamp" in layer.attrs:
        # without an activation function the bounds are those of int8: values beyond saturate
        low, high = ((bound - layer.output.zero_point) * layer.output.scale for bound in layer.attrs["clamp"])
        y = relay.clip(y, low, high)
    return y


def _conv2d(layer: Layer, x: list[Expr], weight: Expr | None) -> Expr:
    attrs = layer.attrs
    depthwise = layer.op == "depthwise_conv2d"
    assert layer.weights is not None
    return relay.nn.conv2d(
        x[0],
        weight,
        strides=attrs["strides"],
        padding=attrs["padding"],
        dilation=attrs["dilation"],
        groups=layer.inputs[0].shape[-1] if depthwise else attrs["groups"],
        channels=layer.output.shape[-1],
        kernel_size=layer.weights.shape[1:3],
        data_layout="NHWC",
        kernel_layout="HWOI" if depthwise else "HWIO",
    )


def _pool(operator: Any, **more: Any) -> Callable[[Layer, list[Expr], Expr | None], Expr]:
    return lambda layer, x, _weight: operator(
        x[0], layer.attrs["pool"], layer.attrs["strides"], padding=layer.attrs["padding"], layout="NHWC", **more
    )


def _pad(layer: Layer, x: list[Expr], _weight: Expr | None) -> Expr:
    value = (layer.attrs["value"] - layer.output.zero_point) * layer.output.scale
    return relay.nn.pad(x[0], layer.attrs["pad_width"], float(value))


def _softmax(layer: Layer, x: list[Expr], _weight: Expr | None) -> Expr:
    return relay.nn.softmax(x[0] * relay.const(np.float32(layer.attrs.get("beta", 1.0))))


def _hard_swish(_layer: Layer, x: list[Expr], _weight: Expr | None) -> Expr:
    return x[0] * relay.clip(x[0] + relay.const(3.0), 0.0, 6.0) * relay.const(1 / 6)


def _elu(_layer: Layer, x: list[Expr], _weight: Expr | None) -> Expr:
    negative = relay.exp(relay.minimum(x[0], relay.const(0.0))) - relay.const(1.0)
    return relay.where(relay.greater(x[0], relay.const(0.0)), x[0], negative)


def _same(_layer: Layer, x: list[Expr], _weight: Expr | None) -> Expr:
    return x[0]


_LAYERS: Mapping[str, Callable[[Layer, list[Expr], Expr | None], Expr]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _conv2d,
    "fully_connected": lambda layer, x, weight: relay.nn.dense(x[0], weight),
    "avg_pool2d": _pool(relay.nn.avg_pool2d, count_include_pad=False),
    "max_pool2d": _pool(relay.nn.max_pool2d),
    "add": lambda layer, x, weight: relay.add(x[0], x[1]),
    "mul": lambda layer, x, weight: relay.multiply(x[0], x[1]),
    "pad": _pad,
    "softmax": _softmax,
    "logistic": lambda layer, x, weight: relay.sigmoid(x[0]),
    "tanh": lambda layer, x, weight: relay.tanh(x[0]),
    "leaky_relu": lambda layer, x, weight: relay.nn.leaky_relu(x[0], layer.attrs["alpha"]),
    "hard_swish": _hard_swish,
    "elu": _elu,
    "reshape": lambda layer, x, weight: relay.reshape(x[0], layer.output.shape),
    "concatenate": lambda layer, x, weight: relay.concatenate(x, layer.attrs["axis"]),
    "mean": lambda layer, x, weight: relay.mean(x[0], layer.attrs["axes"], layer.attrs["keepdims"]),
    "clip": _same,
    "requantize": _same,
    "relu": _same,
    "quantize": _same,
    "dequantize": _same,
}
