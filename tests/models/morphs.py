"""Small float and int8 model files with morphing layers."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from rqdkm.models import custom_options, load, morph_file, quantize, tflite_write
from rqdkm.models.data import Dataset
from rqdkm.models.graph import CUSTOM, SELECT, Graph
from rqdkm.models.load import LoadedModel
from tests.models.graphs import GraphBuilder

NAMES = ("3x3", "5x5", "separable 3x3", "3x3 in 2 groups", "3x3 dilated")
SIZE = (9, 10, 2)
WINDOW = {"padding": "SAME", "stride": (1, 1), "dilation": (1, 1), "activation": "RELU"}


class _Builder(GraphBuilder):
    def __init__(self) -> None:
        super().__init__()
        self.rng = np.random.default_rng(3)

    def layer(self, x: int, name: str, shape: tuple[int, ...], *, gain: float = 1.0, **attrs: Any) -> int:
        """A convolution of ``x``; ``shape`` of its weights, (1, h, w, channels) a depthwise one."""
        depthwise = "multiplier" in attrs
        fan_in = shape[1] * shape[2] * (1 if depthwise else shape[3])
        channels = shape[3] if depthwise else shape[0]
        stride = attrs.get("stride", (1, 1))
        _, height, width, _ = self.tensors[x].shape
        weights = self.rng.normal(size=shape) * gain * np.sqrt(2 / fan_in)
        inputs = [x, self.constant(weights.astype(np.float32))]
        inputs.append(self.constant(self.rng.normal(0, 0.1, channels).astype(np.float32)))
        result = self.floats((1, -(-height // stride[0]), -(-width // stride[1]), channels), name)
        return self.op("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", inputs, result, **{**WINDOW, **attrs})

    def morph(self, x: int, name: str, outputs: int, *, safe: int, stride: tuple[int, int], gain: float = 1.0) -> int:
        depth = self.tensors[x].shape[3]
        results = [
            self.layer(x, f"{name}/a", (outputs, 3, 3, depth), stride=stride),
            self.layer(x, f"{name}/b", (outputs, 5, 5, depth), stride=stride, gain=gain),
        ]
        inner = self.layer(x, f"{name}/c1", (1, 3, 3, depth), stride=stride, multiplier=1, gain=0.3)
        results.append(self.layer(inner, f"{name}/c2", (outputs, 1, 1, depth)))
        results.append(self.layer(x, f"{name}/d", (outputs, 3, 3, depth // 2), stride=stride))
        results.append(self.layer(x, f"{name}/e", (outputs, 3, 3, depth), stride=stride, dilation=(2, 2)))
        shape = self.tensors[results[0]].shape
        attrs = {"safe": safe, "layer": name, CUSTOM: b""}
        return self.op(SELECT, results, self.floats(shape, f"{name}/select"), **attrs)


def float_graph(gain: float = 1.0) -> Graph:
    """Two morphing layers, a pooling between them, a classifier; ``gain`` makes kernel 1 of the first one louder."""
    b = _Builder()
    x = b.floats((1, *SIZE), "image")
    y = b.layer(x, "first/out", (6, 3, 3, 2))
    y = b.morph(y, "one", 6, safe=0, stride=(1, 1), gain=gain)
    y = b.op("MAX_POOL_2D", [y], b.floats((1, 4, 5, 6), "pool/out"), padding="VALID", stride=(2, 2), window=(2, 2))
    y = b.morph(y, "two", 8, safe=2, stride=(2, 1))
    axes = b.constant(np.array([1, 2], np.int32))
    y = b.op("MEAN", [y, axes], b.floats((1, 8), "mean/out"))
    weights = b.constant(b.rng.normal(size=(4, 8)).astype(np.float32))
    y = b.op("FULLY_CONNECTED", [y, weights], b.floats((1, 4), "dense/out"), activation="NONE")
    return b.graph([x], [y])


def float_file(gain: float = 1.0) -> bytes:
    return tflite_write.write_graph(morph_file.fold(float_graph(gain)))


def samples(count: int = 24) -> Dataset:
    values = np.random.default_rng(1).normal(0, 1, (count, *SIZE)).clip(-2, 2).astype(np.float32)
    return Dataset((values,), None, "noise")


@functools.cache
def int8_model() -> LoadedModel:
    return load.load_tflite(int8_file(), Path("morph.tflite"))


@functools.cache
def int8_file() -> bytes:
    return quantize.quantize(load.load_tflite(float_file(), Path("morph.tflite")), samples()).file()


def changed(
    data: bytes, change: Callable[[dict[str, Any]], None], inputs: Callable[[list[int]], None] | None = None
) -> bytes:
    """The file with other options, or inputs, in its first morphing operator."""
    from dataclasses import replace

    from rqdkm.models import tflite_read

    graph = tflite_read.read_graph(data, "morph.tflite")
    operators = []
    for operator in graph.operators:
        if operator.op == morph_file.named(morph_file.OP):
            options = custom_options.decode(operator.attrs[CUSTOM])
            ours = operator
            if not any(op.op == morph_file.OP for op in operators):
                change(options)
                wired = list(operator.inputs)
                if inputs is not None:
                    inputs(wired)
                ours = replace(operator, inputs=tuple(wired))
            layer = str(options.pop("layer"))
            ours = replace(ours, op=morph_file.OP, attrs={CUSTOM: custom_options.encode(layer, options)})
            operators.append(ours)
        else:
            operators.append(operator)
    return tflite_write.write_graph(replace(graph, operators=tuple(operators)))
