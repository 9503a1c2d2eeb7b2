"""TFLite's int8 arithmetic of pooling and elementwise operators, written down a second time in numpy for the tests.

Follows the definitions of TFLite's reference kernels, not this project's code.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.layer import Layer
from tests.kernels import tflite_arithmetic
from tests.kernels.tflite_arithmetic import requantize, scale_multiplier

Array = npt.NDArray[Any]


def depthwise_conv2d(layer: Layer, x: Array) -> Array:
    """A convolution with as many groups as input channels."""
    assert layer.weights is not None
    weights = np.transpose(layer.weights, (3, 1, 2, 0))
    attrs = {**layer.attrs, "groups": layer.inputs[0].shape[3]}
    grouped = Layer(
        layer.name, "conv2d", layer.inputs, layer.output, attrs, weights, layer.weight_scales, 0, layer.bias
    )
    return tflite_arithmetic.conv2d(grouped, x)


def _windows(layer: Layer, x: Array) -> list[list[Array]]:
    """The part of each window that lies inside the input, (elements, channels), by output row and column."""
    image = x[0].astype(np.int64)
    (ph, pw), (sh, sw), (top, left) = layer.attrs["pool"], layer.attrs["strides"], layer.attrs["padding"][:2]
    rows = []
    for oy in range(layer.output.shape[1]):
        row = []
        for ox in range(layer.output.shape[2]):
            y, x0 = oy * sh - top, ox * sw - left
            part = image[max(0, y) : max(0, y + ph), max(0, x0) : max(0, x0 + pw)]
            row.append(part.reshape(-1, image.shape[2]))
        rows.append(row)
    return rows


def max_pool2d(layer: Layer, x: Array) -> Array:
    out = np.array([[window.max(axis=0) for window in row] for row in _windows(layer, x)])
    return np.clip(out, *layer.attrs["clamp"]).astype(np.int8)[None]


def avg_pool2d(layer: Layer, x: Array) -> Array:
    def average(window: Array) -> Array:
        total, count = window.sum(axis=0), window.shape[0]
        return np.sign(total) * ((np.abs(total) + count // 2) // count)

    out = np.array([[average(window) for window in row] for row in _windows(layer, x)])
    return np.clip(out, *layer.attrs["clamp"]).astype(np.int8)[None]


def _scaled(x: Array, real: float) -> Array:
    """x * real with both roundings, not clamped."""
    multiplier, shift = scale_multiplier(real)
    left, right = max(shift, 0), max(-shift, 0)
    product = x.astype(np.int64) * (1 << left) * multiplier
    nudged = product + np.where(product >= 0, 2**30, 1 - 2**30)
    high = np.sign(nudged) * (np.abs(nudged) // 2**31)
    half = 1 << (right - 1) if right else 0
    return np.sign(high) * ((np.abs(high) + half) >> right)


def _float32(value: float) -> float:
    return float(np.float32(value))


def add(layer: Layer, a: Array, b: Array) -> Array:
    scale1, scale2, scale_out = (_float32(t.scale) for t in (*layer.inputs, layer.output))
    unit = 2 * max(scale1, scale2)
    left = _scaled((a.astype(np.int64) - layer.inputs[0].zero_point) * 2**20, scale1 / unit)
    right = _scaled((b.astype(np.int64) - layer.inputs[1].zero_point) * 2**20, scale2 / unit)
    out = _scaled(left + right, unit / (2**20 * scale_out)) + layer.output.zero_point
    return np.clip(out, *layer.attrs["clamp"]).astype(np.int8)


def mul(layer: Layer, a: Array, b: Array) -> Array:
    scale1, scale2, scale_out = (_float32(t.scale) for t in (*layer.inputs, layer.output))
    product = (a.astype(np.int64) - layer.inputs[0].zero_point) * (b.astype(np.int64) - layer.inputs[1].zero_point)
    multiplier, shift = scale_multiplier(scale1 * scale2 / scale_out)
    return requantize(product, np.array(multiplier), np.array(shift), layer.output.zero_point, layer.attrs["clamp"])


def mean(layer: Layer, x: Array) -> Array:
    axes = tuple(int(axis) % x.ndim for axis in layer.attrs["axes"])
    count = int(np.prod([x.shape[axis] for axis in set(axes)]))
    total = (x.astype(np.int64) - layer.inputs[0].zero_point).sum(axis=tuple(set(axes)))
    multiplier, shift = scale_multiplier(_float32(layer.inputs[0].scale) / _float32(layer.output.scale))
    bits = min(int(np.floor(np.log2(count))), 32, 31 + shift)
    multiplier, shift = (multiplier << bits) // count, shift - bits
    out = requantize(total, np.array(multiplier), np.array(shift), layer.output.zero_point, (-128, 127))
    return out.reshape(layer.output.shape)


def pad(layer: Layer, x: Array) -> Array:
    return np.pad(x, layer.attrs["pad_width"], constant_values=layer.attrs["value"])


def concatenate(layer: Layer, *parts: Array) -> Array:
    return np.concatenate(parts, axis=layer.attrs["axis"])


def clip(layer: Layer, x: Array) -> Array:
    return np.clip(x, *layer.attrs["clamp"])


def reshape(layer: Layer, x: Array) -> Array:
    return x.reshape(layer.output.shape)


REFERENCES: dict[str, Callable[..., Array]] = {
    "depthwise_conv2d": depthwise_conv2d,
    "avg_pool2d": avg_pool2d,
    "max_pool2d": max_pool2d,
    "add": add,
    "mul": mul,
    "mean": mean,
    "pad": pad,
    "concatenate": concatenate,
    "clip": clip,
    "reshape": reshape,
}
