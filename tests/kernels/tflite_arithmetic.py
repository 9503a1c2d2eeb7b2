"""TFLite's int8 arithmetic written down a second time, in plain numpy int64, for the tests to compare with.

Follows TFLite's 8-bit quantization specification and gemmlowp's fixed-point functions, not this project's code.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.layer import Layer

Array = npt.NDArray[Any]


def requantize(acc: Array, multiplier: Array, shift: Array, zero_point: int, clamp: tuple[int, int]) -> Array:
    """int64 accumulators -> int8, double rounding, with the divisions that gemmlowp writes."""
    left = np.maximum(shift, 0).astype(np.int64)
    right = np.maximum(-shift, 0).astype(np.int64)
    x = acc.astype(np.int64) * (1 << left)
    x = (x + 2**31) % 2**32 - 2**31
    product = x * multiplier.astype(np.int64)
    nudged = product + np.where(product >= 0, 2**30, 1 - 2**30)
    high = np.sign(nudged) * (np.abs(nudged) // 2**31)  # C division: towards zero
    # ties away from zero: round the magnitude half up
    half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
    scaled = np.sign(high) * ((np.abs(high) + half) // (np.int64(1) << right))
    return np.clip(scaled + zero_point, *clamp).astype(np.int8)


def scale_multiplier(real: float) -> tuple[int, int]:
    """A positive factor as (31-bit integer, exponent)."""
    if real == 0.0:
        return 0, 0
    mantissa, exponent = np.frexp(np.float64(real))
    fixed = int(np.floor(mantissa * 2.0**31 + 0.5))
    if fixed == 2**31:
        fixed, exponent = 2**30, exponent + 1
    return (0, 0) if exponent < -31 else (fixed, int(exponent))


def conv2d(layer: Layer, x: Array) -> Array:
    """Reference of a ``conv2d`` layer."""
    assert layer.weights is not None and layer.weight_scales is not None
    attrs = layer.attrs
    zero_point = layer.inputs[0].zero_point
    (sh, sw), (dh, dw), groups = attrs["strides"], attrs["dilation"], attrs["groups"]
    _, out_h, out_w, out_c = layer.output.shape
    _, kernel_h, kernel_w, group_c = layer.weights.shape
    image = x[0].astype(np.int64) - zero_point
    need_h = (out_h - 1) * sh + (kernel_h - 1) * dh + 1
    need_w = (out_w - 1) * sw + (kernel_w - 1) * dw + 1
    top, left = attrs["padding"][:2]
    padded = np.zeros((max(need_h, top + image.shape[0]), max(need_w, left + image.shape[1]), image.shape[2]), np.int64)
    padded[top : top + image.shape[0], left : left + image.shape[1]] = image
    acc = np.zeros((out_h, out_w, out_c), np.int64)
    weights = layer.weights.astype(np.int64)
    per_group = out_c // groups
    for ky in range(kernel_h):
        for kx in range(kernel_w):
            y0, x0 = ky * dh, kx * dw
            window = padded[y0 : y0 + (out_h - 1) * sh + 1 : sh, x0 : x0 + (out_w - 1) * sw + 1 : sw]
            for g in range(groups):
                o = slice(g * per_group, (g + 1) * per_group)
                acc[:, :, o] += window[:, :, g * group_c : (g + 1) * group_c] @ weights[o, ky, kx].T
    if layer.bias is not None:
        acc += layer.bias.astype(np.int64)
    scales = np.broadcast_to(np.ravel(layer.weight_scales).astype(np.float32), (out_c,))
    pairs = [
        scale_multiplier(
            float(
                np.float64(np.float32(layer.inputs[0].scale))
                * np.float64(s)
                / np.float64(np.float32(layer.output.scale))
            )
        )
        for s in scales
    ]
    multiplier, shift = (np.array(values, np.int64) for values in zip(*pairs, strict=True))
    return requantize(acc, multiplier, shift, layer.output.zero_point, attrs["clamp"])[None]


def fully_connected(layer: Layer, x: Array) -> Array:
    """Reference of a ``fully_connected`` layer."""
    assert layer.weights is not None and layer.weight_scales is not None
    outputs, inputs = layer.weights.shape
    rows = x.reshape(-1, inputs).astype(np.int64) - layer.inputs[0].zero_point
    acc = rows @ (layer.weights.astype(np.int64) - layer.weight_zero_point).T
    if layer.bias is not None:
        acc += layer.bias.astype(np.int64)
    scales = np.ravel(layer.weight_scales).astype(np.float32)
    input_scale, output_scale = np.float32(layer.inputs[0].scale), np.float32(layer.output.scale)
    if scales.size == 1:  # the product of the two scales is a float32 product
        reals = [float(np.float64(input_scale * scales[0]) / np.float64(output_scale))] * outputs
    else:
        reals = [float(np.float64(input_scale) * np.float64(s) / np.float64(output_scale)) for s in scales]
    multiplier, shift = (np.array(v, np.int64) for v in zip(*[scale_multiplier(real) for real in reals], strict=True))
    return requantize(acc, multiplier, shift, layer.output.zero_point, layer.attrs["clamp"]).reshape(layer.output.shape)
