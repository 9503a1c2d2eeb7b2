"""Random convolution and fully connected layers, plain and extreme, from a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.layer import Layer, Tensor

Array = npt.NDArray[Any]


def random_values(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """int8: mostly uniform, sometimes all 127, all -128, or only these two."""
    kind = rng.integers(8)
    if kind == 0:
        return np.full(shape, 127, np.int8)
    if kind == 1:
        return np.full(shape, -128, np.int8)
    if kind == 2:
        return rng.choice(np.array([-128, 127], np.int8), shape)
    return rng.integers(-128, 128, shape, dtype=np.int8)


def random_weights(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """int8 weights, one channel in four extreme."""
    weights = rng.integers(-127, 128, shape, dtype=np.int8)
    for channel in range(shape[0]):
        kind = rng.integers(16)
        if kind == 0:
            weights[channel] = 127
        elif kind == 1:
            weights[channel] = -127
        elif kind == 2:
            weights[channel] = rng.choice(np.array([-128, 127], np.int8), shape[1:])
        elif kind == 3:
            weights[channel] = 0
    return weights


def random_zero_point(rng: np.random.Generator) -> int:
    return int(rng.choice([-128, 127, 0, int(rng.integers(-128, 128))], p=[0.4, 0.1, 0.1, 0.4]))


def random_clamp(rng: np.random.Generator, zero_point: int) -> tuple[int, int]:
    """None, a relu (from the zero point up), or anything."""
    kind = rng.integers(4)
    if kind == 0:
        return -128, 127
    if kind < 3:
        return zero_point, 127 if kind == 1 else int(rng.integers(zero_point, 128))
    low, high = sorted(int(v) for v in rng.integers(-128, 128, 2))
    return low, high


def random_scales(rng: np.random.Generator, taps: int, channels: int) -> tuple[float, Array, float]:
    """(input, weights, output) scales.

    Mostly such that outputs use the int8 range, sometimes far from it: all saturate, all vanish, or need a left shift.
    """
    spread = 74.0 * 74.0 * np.sqrt(taps) / 40.0
    factor = float(rng.choice([1.0, 0.01, 100.0, 1e5, 1e-6], p=[0.8, 0.05, 0.05, 0.05, 0.05]))
    input_scale = np.float32(rng.uniform(0.001, 0.1))
    output_scale = np.float32(rng.uniform(0.001, 0.1))
    count = 1 if rng.integers(4) == 0 else channels
    scales = rng.uniform(0.4, 1.6, count) * factor / spread * float(output_scale) / float(input_scale)
    return float(input_scale), scales.astype(np.float32), float(output_scale)


def random_bias(rng: np.random.Generator, channels: int) -> Array | None:
    kind = rng.integers(6)
    if kind == 0:
        return None
    reach = 1 << 28 if kind == 1 else 20000
    return rng.integers(-reach, reach, channels).astype(np.int32)


def kill_channels(rng: np.random.Generator, scales: Array, bias: Array | None, channels: int) -> tuple[Array, Array]:
    """Dead channels as training leaves them.

    Scales next to zero, biases that make up for it, and outputs that stand still
    or, here and there, step once.
    """
    scales = np.broadcast_to(scales, (channels,)).astype(np.float32)
    bias = np.zeros(channels, np.int32) if bias is None else bias.copy()
    for channel in np.flatnonzero(rng.integers(0, 2, channels)):
        scales[channel] *= np.float32(10.0 ** -rng.uniform(3, 9))
        bias[channel] = int(rng.choice([2**30, -(2**30), int(rng.integers(-(2**30), 2**30))]))
    return scales, bias


def conv_layer(
    rng: np.random.Generator,
    *,
    size: tuple[int, int],
    channels: tuple[int, int],
    kernel: tuple[int, int],
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    same: bool = True,
    padding: tuple[int, int, int, int] | None = None,
    name: str = "",
) -> tuple[Layer, Array]:
    """A convolution with the given shape and random numbers, and an input for it."""
    (h, w), (ci, co) = size, channels
    reach_h, reach_w = (kernel[0] - 1) * dilation[0] + 1, (kernel[1] - 1) * dilation[1] + 1
    if padding is None:
        padding = (0, 0, 0, 0)
        if same:
            total_h = max(0, (-(-h // stride[0]) - 1) * stride[0] + reach_h - h)
            total_w = max(0, (-(-w // stride[1]) - 1) * stride[1] + reach_w - w)
            padding = (total_h // 2, total_w // 2, total_h - total_h // 2, total_w - total_w // 2)
    out_h = (h + padding[0] + padding[2] - reach_h) // stride[0] + 1
    out_w = (w + padding[1] + padding[3] - reach_w) // stride[1] + 1
    if out_h < 1 or out_w < 1:
        raise ValueError("kernel larger than the padded input")
    taps = kernel[0] * kernel[1] * (ci // groups)
    input_scale, weight_scales, output_scale = random_scales(rng, taps, co)
    weights, bias = random_weights(rng, (co, *kernel, ci // groups)), random_bias(rng, co)
    if rng.integers(4) == 0:
        weight_scales, bias = kill_channels(rng, weight_scales, bias, co)
    zero_point = random_zero_point(rng)
    layer = Layer(
        name or f"{h}x{w}x{ci}->{co} k{kernel} s{stride} d{dilation} g{groups} p{padding}",
        "conv2d",
        (Tensor((1, h, w, ci), "int8", input_scale, random_zero_point(rng)),),
        Tensor((1, out_h, out_w, co), "int8", output_scale, zero_point),
        {
            "strides": stride,
            "padding": padding,
            "dilation": dilation,
            "groups": groups,
            "clamp": random_clamp(rng, zero_point),
        },
        weights,
        weight_scales,
        0,
        bias,
    )
    return layer, random_values(rng, (1, h, w, ci))


def random_conv(rng: np.random.Generator) -> tuple[Layer, Array]:
    """Any small convolution."""
    while True:
        groups = int(rng.choice([1, 1, 1, 1, 2, 3, 4]))
        ci = groups * int(rng.choice([1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 17, 20]))
        co = groups * int(rng.choice([1, 2, 3, 4, 5, 8, 9, 16]))
        kernel = (int(rng.choice([1, 1, 2, 3, 3, 4, 5, 7])), int(rng.choice([1, 1, 2, 3, 3, 4, 5, 7])))
        if rng.integers(3) == 0:
            kernel = (1, 1)
        stride = (int(rng.choice([1, 1, 2, 3])), int(rng.choice([1, 1, 2, 3])))
        dilation = (1, 1) if rng.integers(4) else (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
        size = (int(rng.integers(1, 14)), int(rng.integers(1, 14)))
        kind = rng.integers(3)
        padding = None
        if kind == 2:
            t, le, b, r = (int(v) for v in rng.integers(0, 4, 4))
            padding = (t, le, b, r)
        try:
            return conv_layer(
                rng,
                size=size,
                channels=(ci, co),
                kernel=kernel,
                stride=stride,
                dilation=dilation,
                groups=groups,
                same=kind == 0,
                padding=padding,
            )
        except ValueError:
            continue


def random_fully_connected(rng: np.random.Generator) -> tuple[Layer, Array]:
    """Any small fully connected layer, one in eight with asymmetric weights (per tensor)."""
    inputs, outputs, batches = int(rng.integers(1, 70)), int(rng.integers(1, 20)), int(rng.choice([1, 1, 1, 3]))
    input_scale, weight_scales, output_scale = random_scales(rng, inputs, outputs)
    zero_point = random_zero_point(rng)
    weight_zero_point = int(rng.integers(-128, 128)) if weight_scales.size == 1 and rng.integers(8) == 0 else 0
    layer = Layer(
        f"{batches}x{inputs}->{outputs}",
        "fully_connected",
        (Tensor((batches, inputs), "int8", input_scale, random_zero_point(rng)),),
        Tensor((batches, outputs), "int8", output_scale, zero_point),
        {"clamp": random_clamp(rng, zero_point)},
        random_weights(rng, (outputs, inputs)),
        weight_scales,
        weight_zero_point,
        random_bias(rng, outputs),
    )
    return layer, random_values(rng, (batches, inputs))


def narrow_weights(rng: np.random.Generator, layer: Layer, widths: Sequence[int] = (8, 4, 2)) -> Layer:
    """The layer with weights of these widths, equal within groups of 1, 2, 4 or 8 output channels."""
    assert layer.weights is not None
    axis = 3 if layer.op == "depthwise_conv2d" else 0
    channels, group = layer.weights.shape[axis], int(rng.choice([1, 2, 4, 8]))
    bits = np.repeat(rng.choice(widths, -(-channels // group)), group)[:channels]
    shape = [1] * layer.weights.ndim
    shape[axis] = channels
    weights = layer.weights >> (8 - bits).reshape(shape)  # extremes stay extremes
    scales = np.broadcast_to(np.ravel(layer.weight_scales), (channels,)) * 2.0 ** (8 - bits)
    return replace(
        layer,
        name=f"{layer.name} w{'/'.join(str(b) for b in sorted(set(bits.tolist())))} by {group}",
        weights=weights.astype(np.int8),
        weight_scales=scales.astype(np.float32),
        weight_zero_point=0,
        weight_bits=tuple(int(b) for b in bits),
    )
