"""Layers with every width of weights and maps, and every kernel that runs them, side by side in one model."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt

from rqdkm.models import reference
from rqdkm.models.graph import Graph
from rqdkm.tflm import generated, portable, portable_operators
from rqdkm.tflm.generated import NAMES, LayerCode
from rqdkm.tflm.nodes import Need, Nodes, feature_map
from rqdkm_tvm.graph import c_type
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.bits import pack
from rqdkm_tvm.kernels.registry import BAND
from rqdkm_tvm.layer import KernelCall, Layer, Tensor
from rqdkm_tvm.morph.library import library
from rqdkm_tvm.operators import LoweredLayer

Array = npt.NDArray[Any]
SAMPLES = 2
MAPS = ((8, 8), (4, 8), (8, 4), (4, 4), (2, 2))
WEIGHTS = ((8,), (4,), (2,), (8, 4, 2))  # the last: groups of channels of different widths within the layer
#: by kind of model: widths of maps and of weights; generated code takes longest to compile, and 8 bits have no bands
CHOSEN = {"portable": (MAPS, WEIGHTS), "bands": (MAPS[1:], WEIGHTS[3:]), "generated": (MAPS[::2], WEIGHTS[::3])}
USUAL = {"SCRATCH": portable_operators.SCRATCH, "PART": portable_operators.PART}
LITTLE = dict.fromkeys(USUAL, 0)  # the least scratch there is
SHAPES = ("conv3x3", "pointwise", "grouped", "stride2", "depthwise", "dense")
CHANNELS = 8


@dataclass(frozen=True)
class Path:
    """One node of the model: the layer, what ran it, and where its samples are."""

    name: str
    layer: Layer
    inputs: tuple[Array, ...]  # unpacked, samples first

    @property
    def expected(self) -> Array:
        """Bytes of the result, samples first."""
        out = reference.run_layer(self.layer, list(self.inputs))
        return np.stack([pack(sample, self.layer.output.bits).reshape(-1) for sample in out])


def layers(maps: Sequence[tuple[int, int]], weights: Sequence[tuple[int, ...]], seed: int = 0) -> Iterator[Layer]:
    """Layers with weights, one of every shape for every pair of map widths and every kind of weights."""
    rng = np.random.default_rng(seed)
    for shape, pair, widths in itertools.product(SHAPES, maps, weights):
        yield _layer(rng, shape, pair, widths)


def _layer(rng: np.random.Generator, shape: str, maps: tuple[int, int], widths: tuple[int, ...]) -> Layer:
    group = {"grouped": 2}.get(shape, 1)
    weight_shape = {
        "conv3x3": (CHANNELS, 3, 3, CHANNELS),
        "pointwise": (CHANNELS, 1, 1, CHANNELS),
        "grouped": (CHANNELS, 3, 3, CHANNELS // group),
        "stride2": (CHANNELS, 3, 3, 4),
        "depthwise": (1, 3, 3, CHANNELS),
        "dense": (CHANNELS, 24),
    }[shape]
    op = {"depthwise": "depthwise_conv2d", "dense": "fully_connected"}.get(shape, "conv2d")
    axis = 3 if op == "depthwise_conv2d" else 0
    bits = np.resize(np.repeat(widths, 2), CHANNELS)
    along = [1] * len(weight_shape)
    along[axis] = CHANNELS
    half = (1 << (bits - 1)).reshape(along)
    weights = rng.integers(-half, half, weight_shape).astype(np.int8)
    taps = weights.size // CHANNELS
    stride = 2 if shape == "stride2" else 1
    attrs: dict[str, Any] = {"clamp": (-128, 127)}
    if op != "fully_connected":
        pad = 0 if shape == "pointwise" else 1
        attrs |= {"strides": (stride, stride), "padding": (pad, pad, pad, pad), "dilation": (1, 1)}
        attrs |= {"multiplier": 1} if op == "depthwise_conv2d" else {"groups": group}
        source = (1, 8, 6, weight_shape[3] * group if op == "conv2d" else CHANNELS)
        target = (1, 8 // stride, 6 // stride, CHANNELS)
    else:
        source, target = (1, weight_shape[1]), (1, CHANNELS)
    halves = [1 << (b - 1) for b in maps]
    in_scale, w_scale = 0.05, 0.02 * (1 << 7) / half.reshape(-1)
    spread = in_scale * halves[0] * 0.6 * float(0.02 * 128 * 0.6) * np.sqrt(taps)
    low, high = -halves[1], halves[1] - 1
    zero = int(rng.integers(low, high + 1))
    if rng.integers(2) and op != "fully_connected":  # a relu
        zero = low
    attrs["clamp"] = (low, high)
    return Layer(
        f"{shape} a{maps[0]} w{'/'.join(map(str, widths))} o{maps[1]}",
        op,
        (Tensor(source, "int8", in_scale, int(rng.integers(-halves[0], halves[0])), maps[0]),),
        Tensor(target, "int8", float(np.float32(2 * spread / halves[1])), zero, maps[1]),
        attrs,
        weights,
        w_scale.astype(np.float32),
        0,
        rng.integers(-200, 200, CHANNELS).astype(np.int32),
        tuple(int(b) for b in bits) if set(widths) != {8} else (),
    )


def morphs(seed: int = 2) -> Iterator[Layer]:
    """Morphing layers for three widths of maps; the separable kernel runs, with a map of 4 bits inside."""
    rng = np.random.default_rng(seed)
    for pair in MAPS[::2]:
        first = _layer(rng, "conv3x3", pair, WEIGHTS[3])
        outer = {"inputs": first.inputs, "output": first.output}
        depthwise = _layer(rng, "depthwise", (pair[0], 4), WEIGHTS[0])
        pointwise = _layer(rng, "pointwise", (4, pair[1]), WEIGHTS[1])
        grouped = _layer(rng, "grouped", pair, WEIGHTS[0])
        chains = [
            [first],
            [replace(grouped, **outer, attrs={**grouped.attrs, "clamp": first.attrs["clamp"]})],
            [
                replace(depthwise, inputs=first.inputs),
                replace(
                    pointwise,
                    inputs=(depthwise.output,),
                    output=first.output,
                    attrs={**pointwise.attrs, "clamp": first.attrs["clamp"]},
                ),
            ],
        ]
        name = f"morph a{pair[0]} o{pair[1]}"
        chains = [[replace(x, name=f"{name}/{i}.{j}") for j, x in enumerate(c)] for i, c in enumerate(chains)]
        yield Layer(name, "morph_conv2d", **outer, attrs={}, library=library(chains, 2, where=name))


def followers(seed: int = 1) -> Iterator[Layer]:
    """Layers without weights, for every width of their maps."""
    rng = np.random.default_rng(seed)
    for bits in (8, 4, 2):
        half = 1 << (bits - 1)

        def tensor(shape: tuple[int, ...], scale: float = 0.1, half: int = half, bits: int = bits) -> Tensor:
            return Tensor(shape, "int8", scale, int(rng.integers(-half, half)), bits)

        x, clamp = tensor((1, 6, 4, 8)), (-half, half - 1)
        window = {"pool": (2, 2), "strides": (2, 2), "padding": (0, 0, 0, 0)}
        pooled = Tensor((1, 3, 2, 8), "int8", x.scale, x.zero_point, bits)
        padded = Tensor((1, 8, 5, 8), "int8", x.scale, x.zero_point, bits)
        mean = Tensor((1, 8), "int8", 0.05, 3)
        ramp = {"clamp": (x.zero_point, half - 1)}
        yield Layer(f"add {bits}", "add", (x, tensor(x.shape, 0.15)), tensor(x.shape, 0.2), {"clamp": clamp})
        yield Layer(f"mul {bits}", "mul", (x, tensor((1, 1, 1, 8), 0.15)), tensor(x.shape, 0.1), {"clamp": clamp})
        yield Layer(f"max_pool2d {bits}", "max_pool2d", (x,), pooled, {**window, **ramp})
        yield Layer(f"avg_pool2d {bits}", "avg_pool2d", (x,), pooled, {**window, "clamp": clamp})
        yield Layer(f"mean {bits}", "mean", (x,), mean, {"axes": (1, 2), "keepdims": False})
        widths = ((0, 0), (1, 1), (0, 1), (0, 0))
        yield Layer(f"pad {bits}", "pad", (x,), padded, {"pad_width": widths, "value": x.zero_point})
        yield Layer(f"clip {bits}", "clip", (x,), x, ramp)
    wide = Tensor((1, 6, 4, 8), "int8", 0.1, 5)
    yield Layer("requantize", "requantize", (wide,), Tensor(wide.shape, "int8", 0.07, -9), {"clamp": (-128, 127)})
    yield Layer(
        "softmax", "softmax", (Tensor((1, 10), "int8", 0.1, 5),), Tensor((1, 10), "int8", 1 / 256, -128), {"beta": 1.0}
    )


@dataclass
class Model:
    """A model of independent nodes."""

    nodes: Nodes
    paths: list[Path]
    codes: dict[int, LayerCode]

    @property
    def graph(self) -> Graph:
        outputs = [operator.outputs[0] for operator in self.nodes.operators]
        inputs = [i for op in self.nodes.operators for i in op.inputs if not self.nodes.tensors[i].is_constant]
        return self.nodes.graph("paths", inputs, outputs)

    @property
    def inputs(self) -> list[Array]:
        """Packed, samples first, in the shape of the tensors."""
        found = []
        for path in self.paths:
            for tensor, values in zip(path.layer.inputs, path.inputs, strict=True):
                packed = [pack(sample, tensor.bits).reshape(tensor.packed_shape[1:]) for sample in values]
                found.append(np.stack(packed))
        return found


@cache
def model(kind: str) -> Model:
    """``"portable"``; ``"bands"``: the same in as little scratch as possible; or ``"generated"``: each layer by the
    kernel that is expected to be fastest, and by all that no layer before it has taken."""
    rng = np.random.default_rng(5)
    made = Model(Nodes(), [], {})
    seen: set[tuple[str, str, bool]] = set()
    for layer in itertools.chain(layers(*CHOSEN[kind]), morphs(), followers()):
        if kind != "generated":
            operands, result = _tensors(made, layer)
            with mock.patch.multiple(portable_operators, **(LITTLE if kind == "bands" else USUAL)):
                portable.append(made.nodes, layer, operands, result)
            made.paths.append(Path(layer.name, layer, _inputs(rng, layer)))
            continue
        first = True
        for kernel, config in registry.candidates(layer):
            key = (layer.op, kernel.name, BAND in config)
            if not first and key in seen:
                continue
            first = False
            seen.add(key)
            _append_generated(made, layer, kernel.lower(layer, config))
            made.paths.append(Path(f"{layer.name}: {kernel.name} {dict(config)}", layer, _inputs(rng, layer)))
    return made


def _tensors(made: Model, layer: Layer) -> tuple[list[int], int]:
    operands = [made.nodes.add(feature_map(f"{layer.name}/in{i}", t)) for i, t in enumerate(layer.inputs)]
    return operands, made.nodes.add(feature_map(layer.name, layer.output))


def _append_generated(made: Model, layer: Layer, call: KernelCall) -> None:
    operands, result = _tensors(made, layer)
    operands += [made.nodes.constant(array, f"{layer.name}/{i}") for i, array in enumerate(call.constants)]
    lowered = LoweredLayer(
        *(layer.name, layer.op, "unused", call.kernel, dict(call.config), len(layer.inputs)),
        parameter_types=tuple(c_type(made.nodes.tensors[i].dtype) for i in (*operands, result)),
        constant_bytes=sum(array.nbytes for array in call.constants),
        scratch_bytes=call.scratch_bytes,
        macs=call.macs,
        body=call.body,
        includes=call.includes,
        prelude=call.prelude,
    )
    code = generated.layer_code(lowered, [made.nodes.tensors[i] for i in (*operands, result)])
    made.codes.setdefault(code.code, code)
    name = NAMES.get(layer.op, generated.OTHER)
    made.nodes.custom(name, layer.name, {"code": code.code}, operands, result, Need(call.scratch_bytes))


def _inputs(rng: np.random.Generator, layer: Layer) -> tuple[Array, ...]:
    return tuple(
        rng.integers(-(1 << (t.bits - 1)), 1 << (t.bits - 1), (SAMPLES, *t.shape[1:])).astype(np.int8)
        for t in layer.inputs
    )
