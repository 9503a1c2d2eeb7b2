"""Small int8 and float graphs, written as ``.tflite``, for what the zoo does not hold."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rqdkm.models.check import conv_output_size
from rqdkm.models.graph import Graph, Operator, Quantization, TensorInfo, per_tensor


class GraphBuilder:
    """Collects tensors and operators; shapes of outputs are the caller's business."""

    def __init__(self) -> None:
        self.tensors: list[TensorInfo] = []
        self.operators: list[Operator] = []

    def tensor(self, shape: tuple[int, ...], scale: float = 0.05, zero_point: int = 0, name: str = "") -> int:
        name = name or f"tensor{len(self.tensors)}"
        self.tensors.append(TensorInfo(name, shape, "int8", per_tensor(scale, zero_point)))
        return len(self.tensors) - 1

    def floats(self, shape: tuple[int, ...], name: str = "") -> int:
        self.tensors.append(TensorInfo(name or f"tensor{len(self.tensors)}", shape, "float32"))
        return len(self.tensors) - 1

    def constant(self, data: Any, quantization: Quantization | None = None) -> int:
        values = np.asarray(data)
        name = f"constant{len(self.tensors)}"
        self.tensors.append(TensorInfo(name, values.shape, str(values.dtype), quantization, values))
        return len(self.tensors) - 1

    def op(self, name: str, inputs: list[int], output: int, **attrs: Any) -> int:
        self.operators.append(Operator(name, tuple(inputs), (output,), attrs))
        return output

    def graph(self, inputs: list[int], outputs: list[int]) -> Graph:
        return Graph("test", tuple(self.tensors), tuple(self.operators), tuple(inputs), tuple(outputs))


def random_conv(rng: np.random.Generator, *, depthwise: bool = False) -> Graph:
    """One convolution with random shape, stride, dilation, padding, groups, scales and activation."""
    b = GraphBuilder()
    height, width = (int(v) for v in rng.integers(1, 12, 2))
    groups = 1 if depthwise or rng.random() < 0.7 else 2
    depth, multiplier = int(rng.integers(1, 9)), int(rng.integers(1, 4))
    channels_in = depth * groups
    channels = channels_in * multiplier if depthwise else groups * int(rng.integers(1, 9))
    kernel = tuple(int(v) for v in rng.integers(1, 5, 2))
    stride = tuple(int(v) for v in rng.integers(1, 4, 2))
    dilation = tuple(int(v) for v in rng.integers(1, 3, 2)) if rng.random() < 0.3 else (1, 1)
    padding = "SAME" if rng.random() < 0.5 else "VALID"
    out = [conv_output_size((height, width)[i], kernel[i], stride[i], dilation[i], padding) for i in (0, 1)]
    if min(out) < 1:
        padding = "SAME"
        out = [conv_output_size((height, width)[i], kernel[i], stride[i], dilation[i], padding) for i in (0, 1)]
    scale_in, scale_out = (float(s) for s in rng.uniform(0.01, 0.3, 2))
    data = b.tensor((1, height, width, channels_in), scale_in, int(rng.integers(-128, 128)), "data")
    shape = (1, *kernel, channels) if depthwise else (channels, *kernel, depth)
    scales = rng.uniform(0.001, 0.05, channels).astype(np.float32)
    axis = 3 if depthwise else 0
    quantization = Quantization(scales, np.zeros(channels, np.int64), axis)
    weights = b.constant(rng.integers(-127, 128, shape).astype(np.int8), quantization)
    bias_scale = Quantization((scales * np.float32(scale_in)).astype(np.float32), np.zeros(channels, np.int64), 0)
    bias = b.constant(rng.integers(-3000, 3000, channels).astype(np.int32), bias_scale)
    output = b.tensor((1, *out, channels), scale_out, int(rng.integers(-128, 128)), "out")
    attrs: dict[str, Any] = {"padding": padding, "stride": stride, "dilation": dilation}
    attrs["activation"] = str(rng.choice(["NONE", "RELU", "RELU6"]))
    if depthwise:
        attrs["multiplier"] = multiplier
    b.op("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", [data, weights, bias], output, **attrs)
    return b.graph([data], [output])


def random_dense(rng: np.random.Generator, *, per_channel: bool) -> Graph:
    """One fully connected layer."""
    b = GraphBuilder()
    depth, units = (int(v) for v in rng.integers(1, 40, 2))
    units = max(units, 2)
    scale_in = float(rng.uniform(0.01, 0.3))
    data = b.tensor((1, depth), scale_in, int(rng.integers(-128, 128)), "data")
    scales = rng.uniform(0.001, 0.05, units if per_channel else 1).astype(np.float32)
    quantization = Quantization(scales, np.zeros(scales.size, np.int64), 0)
    weights = b.constant(rng.integers(-127, 128, (units, depth)).astype(np.int8), quantization)
    bias_q = Quantization((scales * np.float32(scale_in)).astype(np.float32), np.zeros(scales.size, np.int64), 0)
    bias = b.constant(rng.integers(-3000, 3000, units).astype(np.int32), bias_q)
    out = b.tensor((1, units), float(rng.uniform(0.01, 0.3)), int(rng.integers(-128, 128)), "out")
    activation = str(rng.choice(["NONE", "RELU", "RELU6"]))
    b.op("FULLY_CONNECTED", [data, weights, bias], out, activation=activation)
    return b.graph([data], [out])


def random_binary(rng: np.random.Generator, op: str) -> Graph:
    """ADD or MUL of two inputs with scales up to 100 apart."""
    b = GraphBuilder()
    shape = (1, *(int(v) for v in rng.integers(1, 9, 3)))
    scales = 10 ** rng.uniform(-3, 0, 3)
    zeros = [int(z) for z in rng.integers(-128, 128, 3)]
    left, right, out = (b.tensor(shape, float(s), z, n) for s, z, n in zip(scales, zeros, "abc", strict=True))
    b.op(op, [left, right], out, activation=str(rng.choice(["NONE", "RELU", "RELU6"])))
    return b.graph([left, right], [out])


def random_pool(rng: np.random.Generator, op: str) -> Graph:
    b = GraphBuilder()
    height, width, channels = (int(v) for v in rng.integers(1, 10, 3))
    window, stride = (tuple(int(v) for v in rng.integers(1, 5, 2)) for _ in range(2))
    padding = "VALID" if window[0] <= height and window[1] <= width and rng.random() < 0.5 else "SAME"
    out = tuple(conv_output_size((height, width)[i], window[i], stride[i], 1, padding) for i in (0, 1))
    scale, zero = float(rng.uniform(0.01, 0.3)), int(rng.integers(-128, 128))
    data = b.tensor((1, height, width, channels), scale, zero, "data")
    result = b.tensor((1, *out, channels), scale, zero, "out")
    b.op(
        op, [data], result, window=window, stride=stride, padding=padding, activation=str(rng.choice(["NONE", "RELU"]))
    )
    return b.graph([data], [result])


def random_mean(rng: np.random.Generator) -> Graph:
    b = GraphBuilder()
    shape = (1, *(int(v) for v in rng.integers(1, 12, 3)))
    data = b.tensor(shape, float(rng.uniform(0.01, 0.3)), int(rng.integers(-128, 128)), "data")
    axes = b.constant(np.array([1, 2], np.int32))
    keep = bool(rng.random() < 0.5)
    out_shape = (1, 1, 1, shape[3]) if keep else (1, shape[3])
    out = b.tensor(out_shape, float(rng.uniform(0.01, 0.3)), int(rng.integers(-128, 128)), "out")
    b.op("MEAN", [data, axes], out, keep_dims=keep)
    return b.graph([data], [out])


def random_unary(rng: np.random.Generator, op: str, *, rescale: bool = False) -> Graph:
    """SOFTMAX, LOGISTIC, RELU, RELU6 (of one scale unless ``rescale``) or QUANTIZE (int8 to int8)."""
    b = GraphBuilder()
    shape = (1, int(rng.integers(1, 40)))
    data = b.tensor(shape, float(10 ** rng.uniform(-3, 0)), int(rng.integers(-128, 128)), "data")
    if op in ("SOFTMAX", "LOGISTIC"):
        out = b.tensor(shape, 1 / 256, -128, "out")
    elif op == "RELU6" and not rescale:
        b.tensors.append(replace(b.tensors[data], name="out"))
        out = len(b.tensors) - 1
    else:
        out = b.tensor(shape, float(10 ** rng.uniform(-3, 0)), int(rng.integers(-128, 128)), "out")
    b.op(op, [data], out, **({"beta": float(rng.choice([1.0, 0.5]))} if op == "SOFTMAX" else {}))
    return b.graph([data], [out])


def random_joined(rng: np.random.Generator) -> Graph:
    """PAD, then CONCATENATION with a second input, then RESHAPE."""
    b = GraphBuilder()
    height, width, left, right = (int(v) for v in rng.integers(1, 7, 4))
    scale, zero = float(rng.uniform(0.01, 0.3)), int(rng.integers(-128, 128))
    amounts = np.zeros((4, 2), np.int32)
    amounts[1:3] = rng.integers(0, 3, (2, 2))
    padded = (1, height + int(amounts[1].sum()), width + int(amounts[2].sum()))
    first = b.tensor((1, height, width, left), scale, zero, "first")
    second = b.tensor((*padded, right), scale, zero, "second")
    middle = b.op("PAD", [first, b.constant(amounts)], b.tensor((*padded, left), scale, zero, "padded"))
    joined = b.tensor((*padded, left + right), scale, zero, "joined")
    b.op("CONCATENATION", [middle, second], joined, axis=3, activation="NONE")
    size = int(np.prod(padded)) * (left + right)
    flat = b.op("RESHAPE", [joined], b.tensor((1, size), scale, zero, "flat"))
    return b.graph([first, second], [flat])
