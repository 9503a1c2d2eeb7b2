"""Random layers of every operator but convolution and fully connected, with inputs, from a seed.

``GENERATORS[op](rng)`` gives a :class:`OneOp`: something that a one-operator .tflite file can say, so that TFLite
Micro can judge it. ``any_clamp`` makes of it a layer with a clamp that no activation has.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.layer import Layer, Tensor
from tests.kernels import random_layers
from tests.kernels.one_op import OneOp, activation_clamp, same_padding
from tests.kernels.random_layers import random_values, random_zero_point

Array = npt.NDArray[Any]
Rng = np.random.Generator

BYTES = np.arange(256).astype(np.uint8).view(np.int8).reshape(1, 4, 8, 8)


def _scale(rng: Rng, low: float = -3.0, high: float = 0.0) -> float:
    return float(np.float32(10.0 ** rng.uniform(low, high)))


def _tensor(rng: Rng, shape: tuple[int, ...], scale: float | None = None) -> Tensor:
    return Tensor(shape, "int8", _scale(rng) if scale is None else float(np.float32(scale)), random_zero_point(rng))


def _shape(rng: Rng, limit: int = 10) -> tuple[int, int, int, int]:
    h, w, c = (int(v) for v in rng.integers(1, limit, 3))
    return 1, h, w, c


def _activation(rng: Rng) -> str:
    return str(rng.choice(["none", "relu", "relu6"]))


def any_clamp(rng: Rng, case: OneOp) -> OneOp:
    low, high = sorted(int(v) for v in rng.integers(-128, 128, 2))
    return replace(case, layer=replace(case.layer, attrs={**case.layer.attrs, "clamp": (low, high)}))


def depthwise(
    rng: Rng,
    *,
    size: tuple[int, int],
    channels: int,
    kernel: tuple[int, int],
    stride: int = 1,
    dilation: int = 1,
    multiplier: int = 1,
    same: bool = True,
) -> OneOp:
    """A depthwise convolution; its numbers come from a grouped convolution of the same shape."""
    conv, x = random_layers.conv_layer(
        rng,
        size=size,
        channels=(channels, channels * multiplier),
        kernel=kernel,
        stride=(stride, stride),
        dilation=(dilation, dilation),
        groups=channels,
        same=same,
    )
    assert conv.weights is not None
    attrs = {key: value for key, value in conv.attrs.items() if key != "groups"}
    activation = _activation(rng)
    output = conv.output if rng.integers(2) else replace(conv.output, zero_point=-128)
    attrs = {**attrs, "multiplier": multiplier, "clamp": activation_clamp(activation, output)}
    weights = np.ascontiguousarray(np.transpose(conv.weights, (3, 1, 2, 0)))
    layer = replace(conv, op="depthwise_conv2d", output=output, attrs=attrs, weights=weights)
    return OneOp(layer, [x], "same" if same else "valid", activation)


def random_depthwise(rng: Rng) -> OneOp:
    kernel = [(3, 3), (3, 3), (3, 3), (5, 5), (9, 1), (1, 3), (2, 2), (3, 1), (4, 7), (1, 1)][int(rng.integers(10))]
    h, w = (int(v) for v in rng.integers(1, 15, 2))
    if rng.integers(5) == 0:
        w = 1
    channels = int(rng.integers(1, 20))
    multiplier = int(rng.choice([1, 2, 3])) if channels < 4 else 1
    stride = int(rng.choice([1, 1, 2, 3]))
    dilation = int(rng.choice([1, 1, 2])) if stride == 1 else 1
    same = bool(rng.integers(2))
    reach = [(extent - 1) * dilation + 1 for extent in kernel]
    if not same:
        h, w = max(h, reach[0]), max(w, reach[1])
    return depthwise(
        rng,
        size=(h, w),
        channels=channels,
        kernel=kernel,
        stride=stride,
        dilation=dilation,
        multiplier=multiplier,
        same=same,
    )


def _pool(rng: Rng, op: str) -> OneOp:
    _, h, w, c = _shape(rng, 14)
    window = [int(v) for v in rng.integers(1, 5, 2)]
    stride = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    kind = rng.integers(8)
    if kind == 0:  # global
        window = [h, w]
    elif kind == 1:  # more elements than 16-bit sums hold
        h, w, c, window = 17, 19, int(rng.integers(1, 6)), [17, 19]
    elif kind == 2:
        window, stride = [2, 2], (2, 2)
    same = bool(rng.integers(2))
    if same:
        out_h, top, bottom = same_padding(h, window[0], stride[0])
        out_w, left, right = same_padding(w, window[1], stride[1])
    else:
        window = [min(window[0], h), min(window[1], w)]
        out_h, out_w = (h - window[0]) // stride[0] + 1, (w - window[1]) // stride[1] + 1
        top = left = bottom = right = 0
    x = _tensor(rng, (1, h, w, c))
    y = replace(x, shape=(1, out_h, out_w, c))
    activation = _activation(rng)
    attrs = {
        "pool": (window[0], window[1]),
        "strides": stride,
        "padding": (top, left, bottom, right),
        "clamp": activation_clamp(activation, y),
    }
    return OneOp(Layer(op, op, (x,), y, attrs), [random_values(rng, x.shape)], "same" if same else "valid", activation)


def _binary(rng: Rng, op: str) -> OneOp:
    shape = _shape(rng)
    other = shape if rng.integers(3) else (1, 1, 1, shape[3])
    scale1 = _scale(rng, -2, -1)
    scale2 = scale1 if rng.integers(5) == 0 else float(np.float32(scale1 * 10.0 ** rng.uniform(-1, 1)))
    if op == "mul":
        scale_out = scale1 * scale2 * rng.uniform(20, 300)
    elif rng.integers(6) == 0:
        scale_out = scale1 * float(rng.choice([0.5, 1.0, 2.0]))  # ties
    else:
        scale_out = max(scale1, scale2) * rng.uniform(0.6, 2.2)
    a, b, y = _tensor(rng, shape, scale1), _tensor(rng, other, scale2), _tensor(rng, shape, scale_out)
    activation = _activation(rng)
    if activation == "relu" and rng.integers(2):
        y = replace(y, zero_point=-128)
    inputs = [random_values(rng, shape), random_values(rng, other)]
    operands = (a, b)
    if rng.integers(2):
        operands, inputs = (b, a), inputs[::-1]
    return OneOp(Layer(op, op, operands, y, {"clamp": activation_clamp(activation, y)}), inputs, "valid", activation)


def all_pairs(rng: Rng, op: str) -> OneOp:
    """A binary layer whose inputs meet in all 65,536 ways."""
    case = _binary(rng, op)
    shape = (1, 256, 256, 1)
    layer = case.layer
    layer = replace(
        layer,
        inputs=(replace(layer.inputs[0], shape=shape), replace(layer.inputs[1], shape=shape)),
        output=replace(layer.output, shape=shape),
    )
    values = np.arange(-128, 128).astype(np.int8)
    inputs = [np.repeat(values, 256).reshape(shape), np.tile(values, 256).reshape(shape)]
    return replace(case, layer=layer, inputs=inputs)


def _unary(rng: Rng, op: str) -> OneOp:
    shape = BYTES.shape
    x = _tensor(rng, shape, _scale(rng, -3, 0.3))
    if op == "logistic":
        y = Tensor(shape, "int8", 1 / 256, -128)
    elif op == "tanh":
        y = Tensor(shape, "int8", 1 / 128, 0)
    else:
        y = _tensor(rng, shape, x.scale * 10.0 ** rng.uniform(-0.7, 0.7))
    attrs: dict[str, Any] = {}
    if op == "relu":
        attrs["clamp"] = activation_clamp("relu", y)
    elif op == "requantize":
        attrs["clamp"] = (-128, 127)
    elif op == "leaky_relu":
        attrs["alpha"] = float(np.float32(rng.choice([0.01, 0.1, 0.2, 0.3, 1.5, -0.2])))
    return OneOp(Layer(op, op, (x,), y, attrs), [BYTES])


def _clip(rng: Rng, op: str) -> OneOp:
    scale = float(np.float32(rng.uniform(6 / 250, 6 / 30)))
    x = Tensor(BYTES.shape, "int8", scale, int(rng.integers(-128, 127 - round(6 / scale))))
    return OneOp(Layer(op, op, (x,), x, {"clamp": activation_clamp("relu6", x)}), [BYTES])


def _softmax(rng: Rng, op: str) -> OneOp:
    shape = (int(rng.integers(1, 5)), int(rng.integers(1, 40)))
    attrs = {"beta": float(np.float32(rng.choice([0.5, 1.0, 1.0, 2.0])))}
    x = _tensor(rng, shape, _scale(rng, -2.5, 0.3))
    return OneOp(Layer(op, op, (x,), Tensor(shape, "int8", 1 / 256, -128), attrs), [random_values(rng, shape)])


def _mean(rng: Rng, op: str) -> OneOp:
    shape = _shape(rng)
    if rng.integers(8) == 0:
        shape = (1, 18, 17, shape[3])  # more elements than 16-bit sums hold
    axes = [(1, 2), (2, 1), (1,), (2,), (3,), (2, 3), (1, 2, 3), (-1,)][int(rng.integers(8))]
    keep = bool(rng.integers(2))
    positive = {axis % 4 for axis in axes}
    if keep:
        out = tuple(1 if axis in positive else extent for axis, extent in enumerate(shape))
    else:
        out = tuple(extent for axis, extent in enumerate(shape) if axis not in positive)
    x = _tensor(rng, shape)
    y = replace(x, shape=out) if rng.integers(3) == 0 else _tensor(rng, out, x.scale * 10.0 ** rng.uniform(-1, 0.3))
    return OneOp(Layer(op, op, (x,), y, {"axes": axes, "keepdims": keep}), [random_values(rng, shape)])


def _pad(rng: Rng, op: str) -> OneOp:
    shape = _shape(rng)
    widths = [(int(a), int(b)) for a, b in rng.integers(0, 3, (4, 2)) * rng.integers(0, 2, (4, 1))]
    widths[0] = (0, 0)
    x = _tensor(rng, shape)
    y = replace(x, shape=tuple(before + n + after for n, (before, after) in zip(shape, widths, strict=True)))
    attrs = {"pad_width": tuple(widths), "value": x.zero_point}
    return OneOp(Layer(op, op, (x,), y, attrs), [random_values(rng, shape)])


def _concatenate(rng: Rng, op: str) -> OneOp:
    axis = int(rng.integers(1, 4))
    base = _tensor(rng, _shape(rng))
    parts = []
    for _ in range(int(rng.integers(2, 5))):
        shape = list(base.shape)
        shape[axis] = int(rng.integers(1, 9))
        parts.append(replace(base, shape=tuple(shape)))
    out = list(base.shape)
    out[axis] = sum(part.shape[axis] for part in parts)
    layer = Layer(op, op, tuple(parts), replace(base, shape=tuple(out)), {"axis": int(rng.choice([axis, axis - 4]))})
    return OneOp(layer, [random_values(rng, part.shape) for part in parts])


def _reshape(rng: Rng, op: str) -> OneOp:
    shape = _shape(rng)
    x = _tensor(rng, shape)
    y = replace(x, shape=(1, int(np.prod(shape))))
    return OneOp(Layer(op, op, (x,), y), [random_values(rng, shape)])


def _quantize(rng: Rng, op: str) -> OneOp:
    y = _tensor(rng, BYTES.shape)
    values = rng.normal(0, 60, BYTES.shape)
    values.ravel()[:128] = np.arange(128) - 63.5  # ties
    values.ravel()[128:140] = rng.choice([-1e9, 1e9, -130.49, 130.5, 0.49999997], 12)
    x = (values * np.float32(y.scale)).astype(np.float32)
    return OneOp(Layer(op, op, (Tensor(BYTES.shape, "float32"),), y), [x])


def _dequantize(rng: Rng, op: str) -> OneOp:
    return OneOp(Layer(op, op, (_tensor(rng, BYTES.shape),), Tensor(BYTES.shape, "float32")), [BYTES])


_UNARY = ("logistic", "tanh", "hard_swish", "elu", "relu", "leaky_relu", "requantize")

GENERATORS: dict[str, Callable[[Rng], OneOp]] = {
    "depthwise_conv2d": random_depthwise,
    "avg_pool2d": lambda rng: _pool(rng, "avg_pool2d"),
    "max_pool2d": lambda rng: _pool(rng, "max_pool2d"),
    "add": lambda rng: _binary(rng, "add"),
    "mul": lambda rng: _binary(rng, "mul"),
    "clip": lambda rng: _clip(rng, "clip"),
    "softmax": lambda rng: _softmax(rng, "softmax"),
    "mean": lambda rng: _mean(rng, "mean"),
    "pad": lambda rng: _pad(rng, "pad"),
    "concatenate": lambda rng: _concatenate(rng, "concatenate"),
    "reshape": lambda rng: _reshape(rng, "reshape"),
    "quantize": lambda rng: _quantize(rng, "quantize"),
    "dequantize": lambda rng: _dequantize(rng, "dequantize"),
    **{op: (lambda rng, op=op: _unary(rng, op)) for op in _UNARY},
}
