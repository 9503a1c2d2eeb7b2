"""Portable operators: what of a layer goes into a node's options, what into constants, and the scratch it takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm.models.custom_options import Value
from rqdkm.tflm.generated import NAMES
from rqdkm.tflm.nodes import NOTHING, Need, Nodes
from rqdkm_tvm.errors import UnsupportedOperatorError
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.add import add_params, broadcast_period
from rqdkm_tvm.kernels.band_parts import Window, clamped, plain_layer
from rqdkm_tvm.kernels.conv2d import bias_of, plan_finish
from rqdkm_tvm.kernels.fully_connected import fast_form
from rqdkm_tvm.kernels.mul import mul_multiplier
from rqdkm_tvm.kernels.pack import channel_bits, pack_channels
from rqdkm_tvm.kernels.pool import mean_axes, mean_multiplier
from rqdkm_tvm.kernels.registry import BAND, Config, Kernel
from rqdkm_tvm.kernels.requantize import convolution_multipliers, fully_connected_multipliers
from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.morph.kernel import rooms_of

Array = npt.NDArray[Any]
Options = dict[str, Value]

REFERENCE = 0  # "kernel": PortableKernel of tflm_ops/tflm/convolution.h
KERNELS = {"conv2d_s8_gemm": 1, "conv2d_s8_im2row": 2, "fully_connected_s8_fast": 3}
SCRATCH = 16 * 1024  # bytes that a kernel may take, if a slower one takes less
ELEMENTS = 256  # that elementwise operators unpack at a time (tflm_ops/tflm/unary.h, binary.h)
PART = 2048  # bytes that a pooling should unpack at a time


# ---- options


def map_bits(layer: Layer) -> list[int]:
    return [tensor.bits for tensor in (*layer.inputs, layer.output)]


def _unpacked(layer: Layer, parts: Sequence[int] = ()) -> int:
    """Bytes of scratch in which maps below 8 bits are unpacked.

    Args:
        parts: elements of each map that are unpacked at a time; empty: all.
    """
    maps = (*layer.inputs, layer.output)
    sizes = [min(part, tensor.size) for part, tensor in zip(parts or [t.size for t in maps], maps, strict=True)]
    return sum(-(-size // 8) * 8 for size, tensor in zip(sizes, maps, strict=True) if tensor.bits != 8)


def _clamp(layer: Layer) -> list[int]:
    return [int(bound) for bound in clamped(layer, layer.output.bits)["clamp"]]


def _zero_points(layer: Layer) -> list[int]:
    return [tensor.zero_point for tensor in (*layer.inputs, layer.output)]


def _geometry(layer: Layer, window: tuple[int, ...]) -> Options:
    return {
        "bits": map_bits(layer),
        "input": layer.inputs[0].shape[1:],
        "output": layer.output.shape[1:],
        "filter": window,
        "stride": layer.attrs["strides"],
        "dilation": layer.attrs.get("dilation", (1, 1)),
        "padding": layer.attrs["padding"],
        "zero_points": _zero_points(layer),
        "clamp": _clamp(layer),
    }


# ---- operators with weights


def _weighted(
    nodes: Nodes, layer: Layer, operands: list[int], result: int, values: Options, channels: int, rows: Array
) -> None:
    """``rows``: weights (channels, taps) in the order of the reference kernels."""
    chosen = _fast_kernel(layer)
    if chosen is None:
        fully_connected = layer.op == "fully_connected"
        scaling = fully_connected_multipliers if fully_connected else convolution_multipliers
        bits = channel_bits(layer)
        constants: list[Array] = [pack_channels(rows, bits), bias_of(layer, channels), *scaling(layer, channels)]
        constants.append(np.array(bits, np.uint8))
        need = NOTHING
    else:
        kernel, config, band = chosen
        plain = plain_layer(layer, own_clamp=True)
        constants = list(kernel.lower(plain, config).constants)
        finish = fast_form(plain) if layer.op == "fully_connected" else plan_finish(plain)
        assert finish is not None
        values["kernel"], values["form"] = KERNELS[kernel.name], finish.form.value
        need = Need(_unpacked(layer) + kernel.scratch_bytes(plain, config))
        if layer.op == "conv2d":
            values["tile"] = [int(config.get(key, default)) for key, default in _TILE.items()]
            own = max(kernel.scratch_bytes(part, config) for part in _bands(plain, band))
            need = Need(_banded(values, layer, band) + own)
    inputs = [*operands, *(nodes.constant(array, f"{layer.name}/{i}") for i, array in enumerate(constants))]
    nodes.custom(NAMES[layer.op], layer.name, values, inputs, result, need)


_TILE = {"rows": 1, "pixels": 1, "resident": 0}


def _fast_kernel(layer: Layer) -> tuple[Kernel, Config, int] | None:
    """The fastest kernel that takes its parameters at run time within :data:`SCRATCH`, or the one with least scratch;
    None: only the reference. Kernel, its configuration, and rows of the result at a time."""
    plain = plain_layer(layer, own_clamp=True)
    able = [
        kernel
        for kernel in registry.kernels_for(layer)
        if kernel.name in KERNELS
        and registry.rejection(registry.get(kernel.name), plain) is None
        and registry.rejection(kernel, layer) is None
    ]
    found = [
        (kernel, config, kernel.scratch_bytes(layer, config)) for kernel in able for config in kernel.configs(layer)
    ]
    if not found:
        return None
    fit = [choice for choice in found if choice[2] <= SCRATCH]
    if fit:
        kernel, config, _ = min(fit, key=lambda choice: choice[0].estimate_cycles(layer, choice[1]))
    else:
        kernel, config, _ = min(found, key=lambda choice: choice[2])
    rows = layer.output.shape[1] if layer.op == "conv2d" else 1
    inner = {key: value for key, value in config.items() if key != BAND}
    return registry.get(kernel.name), inner, min(int(config.get(BAND, rows)), rows)


def _bands(layer: Layer, band: int) -> Iterator[Layer]:
    """The int8 problems of which ``layer``, a window operator, is made."""
    window, rows = Window.of(layer), layer.output.shape[1]
    if band >= rows:
        yield layer
        return
    _, left, _, right = layer.attrs["padding"]
    for first in range(0, rows, band):
        count = min(band, rows - first)
        taken, above, below = window.band(first, count)
        yield replace(
            layer,
            inputs=(_with_rows(layer.inputs[0], taken),),
            output=_with_rows(layer.output, count),
            attrs={**layer.attrs, "padding": (above, left, below, right)},
        )


def _with_rows(tensor: Tensor, rows: int) -> Tensor:
    return replace(tensor, shape=(1, rows, *tensor.shape[2:]))


def _banded(values: Options, layer: Layer, band: int) -> int:
    """Sets the option where a map is packed; bytes in which parts of maps are unpacked."""
    source, target = layer.inputs[0], layer.output
    if not layer.packs_tensors:
        return 0
    values["band"] = band
    if band >= target.shape[1]:
        return _unpacked(layer)
    row_in, row_out = source.size // source.shape[1], target.size // target.shape[1]
    return _unpacked(layer, [Window.of(layer).rows(band) * row_in, band * row_out])


def _conv2d(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    assert layer.weights is not None
    values = _geometry(layer, layer.weights.shape[1:]) | {"kernel": REFERENCE}
    channels = layer.weights.shape[0]
    _weighted(nodes, layer, operands, result, values, channels, layer.weights.reshape(channels, -1))


def _depthwise(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    assert layer.weights is not None
    channels = layer.weights.shape[3]
    rows = layer.weights.reshape(-1, channels).T
    _weighted(nodes, layer, operands, result, _geometry(layer, layer.weights.shape[1:3]), channels, rows)


def _fully_connected(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    assert layer.weights is not None
    outputs, inputs = layer.weights.shape
    values: Options = {
        "kernel": REFERENCE,
        "bits": map_bits(layer),
        "filter": [outputs, inputs],
        "count": layer.inputs[0].size // inputs,
        "zero_points": [layer.inputs[0].zero_point, layer.weight_zero_point, layer.output.zero_point],
        "clamp": _clamp(layer),
    }
    _weighted(nodes, layer, operands, result, values, outputs, layer.weights)


# ---- kernels that are selected frame by frame


class _Recorded(Nodes):
    """Keeps what a writer would append; constants go into the graph."""

    def __init__(self, nodes: Nodes) -> None:
        super().__init__()
        self.nodes = nodes
        self.found: list[tuple[Mapping[str, Value], list[int], Need]] = []

    def constant(self, array: Array, name: str) -> int:
        return self.nodes.constant(array, name)

    def custom(
        self,
        op: str,
        layer: str,
        values: Mapping[str, Value],
        inputs: Sequence[int],
        output: int,
        need: Need = NOTHING,
    ) -> None:
        self.found.append(({"layer": layer, **values}, list(inputs), need))


def _morph(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    """Layers of every kernel with the options that they would have as nodes; scratch as morph_conv_2d.cc divides it."""
    assert layer.library is not None
    recorded = _Recorded(nodes)
    for path in layer.library.paths:
        for inner in path.layers:
            if inner.op not in _STEPS:
                raise UnsupportedOperatorError(f"there is no portable {inner.op} in one", where=f"layer {layer.name!r}")
            _STEPS[inner.op](recorded, inner, operands[:1], result)
    options, inputs, needs = zip(*recorded.found, strict=True)
    values: dict[str, Any] = {
        "kernels": [len(path.layers) for path in layer.library.paths],
        "safe": layer.library.safe,
        "ops": [list(_STEPS).index(inner.op) for inner in layer.library.layers],
        "constants": [len(found) - 1 for found in inputs],
        "steps": list(options),
    }
    scratch, own = 0, iter(needs)
    for path in layer.library.paths:
        free = sum(rooms_of(path))
        scratch = max(scratch, *(free + next(own).scratch for _ in path.layers))
    constants = [index for found in inputs for index in found[1:]]
    nodes.custom(NAMES[layer.op], layer.title, values, [*operands, *constants], result, Need(scratch))


_STEPS: Mapping[str, Callable[[Nodes, Layer, list[int], int], None]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise,
}


# ---- others


def _parts(layer: Layer) -> Need:
    """Scratch of an elementwise layer; operands that repeat are unpacked whole."""
    repeats = any(tensor.size != layer.output.size for tensor in layer.inputs)
    return Need(_unpacked(layer, () if repeats else [ELEMENTS] * (len(layer.inputs) + 1)))


def _binary(layer: Layer, operands: list[int]) -> tuple[Layer, list[int], Options]:
    """The layer with its larger operand first, and what both operators have."""
    period = broadcast_period(layer)
    if period is None:
        raise UnsupportedOperatorError("its operands' shapes do not repeat", where=f"layer {layer.name!r}")
    swapped, size = period
    step = -1 if swapped else 1
    inputs = layer.inputs[::step]
    options: Options = {
        "bits": [tensor.bits for tensor in (*inputs, layer.output)],
        "count": [layer.output.size, size],
        "clamp": _clamp(layer),
        "zero_points": [tensor.zero_point for tensor in (*inputs, layer.output)],
    }
    return Layer(layer.name, layer.op, inputs, layer.output, layer.attrs), operands[::step], options


def _add(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    ordered, inputs, values = _binary(layer, operands)
    first, second = ordered.inputs
    p = add_params(first, second, ordered.output)
    values["multipliers"] = [p.input1_multiplier, p.input2_multiplier, p.output_multiplier]
    values["shifts"] = [p.input1_shift, p.input2_shift, p.output_shift]
    nodes.custom(NAMES["add"], layer.name, values, inputs, result, _parts(ordered))


def _mul(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    multiplier, shift = mul_multiplier(layer)
    ordered, inputs, values = _binary(layer, operands)
    values |= {"multipliers": [multiplier], "shifts": [shift]}
    nodes.custom(NAMES["mul"], layer.name, values, inputs, result, _parts(ordered))


def _pool(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    values = _geometry(layer, layer.attrs["pool"])
    rows = layer.output.shape[1]
    row = (layer.inputs[0].size * layer.attrs["strides"][0]) // layer.inputs[0].shape[1]
    band = max(1, min(rows, PART // row)) if Window.of(layer).meets(rows) else rows
    nodes.custom(NAMES[layer.op], layer.name, values, operands, result, Need(_banded(values, layer, band)))


def _mean(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    axes, shape = mean_axes(layer), layer.inputs[0].shape
    if axes != list(range(axes[0], axes[-1] + 1)):
        raise UnsupportedOperatorError("its axes are not adjacent", where=f"layer {layer.name!r}")
    reduced = math.prod(shape[a] for a in axes)
    multiplier, shift = mean_multiplier(layer, reduced)
    values: Options = {
        "bits": map_bits(layer),
        "input": [math.prod(shape[: axes[0]]), reduced, math.prod(shape[axes[-1] + 1 :])],
        "zero_points": _zero_points(layer),
        "multipliers": [multiplier],
        "shifts": [shift],
    }
    nodes.custom(NAMES["mean"], layer.name, values, operands, result, Need(_unpacked(layer)))


def _pad(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    missing = 4 - len(layer.inputs[0].shape)
    if missing < 0:
        raise UnsupportedOperatorError("it has more than 4 axes", where=f"layer {layer.name!r}")
    widths = [(0, 0)] * missing + [(int(before), int(after)) for before, after in layer.attrs["pad_width"]]
    values: Options = {
        "bits": map_bits(layer),
        "input": [*[1] * missing, *layer.inputs[0].shape],
        "before": [before for before, _ in widths],
        "after": [after for _, after in widths],
        "value": int(layer.attrs["value"]),
    }
    nodes.custom(NAMES["pad"], layer.name, values, operands, result, Need(_unpacked(layer)))


def _clip(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    values: Options = {"bits": map_bits(layer), "count": layer.output.size, "clamp": _clamp(layer)}
    nodes.custom(NAMES["clip"], layer.name, values, operands, result, _parts(layer))


#: by operator; they append to the nodes: layer, numbers of its maps, number of its result
WRITERS: Mapping[str, Callable[[Nodes, Layer, list[int], int], None]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise,
    "fully_connected": _fully_connected,
    "morph_conv2d": _morph,
    "add": _add,
    "mul": _mul,
    "avg_pool2d": _pool,
    "max_pool2d": _pool,
    "mean": _mean,
    "pad": _pad,
    "clip": _clip,
}
