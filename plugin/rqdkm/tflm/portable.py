"""A partitioned module as a TFLite graph of operators that take their parameters at run time: no generated code.

Operators that may meet weights or feature maps below 8 bits are ours throughout, functions of one int8 tensor are
tables; the rest is TFLM's own. Convolutions run the fast kernels that need no specialisation, on maps unpacked to int8.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm.models.graph import TensorInfo
from rqdkm.tflm.generated import NAMES, Converted, unsupported
from rqdkm.tflm.nodes import NOTHING, Need, Nodes, feature_map
from rqdkm.tflm.options import Value
from rqdkm_tvm.errors import PlanError, UnsupportedOperatorError
from rqdkm_tvm.graph import RESHAPES, calls, op_name, outputs
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels._c import hwc
from rqdkm_tvm.kernels.add import add_params, broadcast_period
from rqdkm_tvm.kernels.band_parts import clamped, plain_layer
from rqdkm_tvm.kernels.conv2d import bias_of, plan_finish
from rqdkm_tvm.kernels.fully_connected import fast_form
from rqdkm_tvm.kernels.mul import mul_multiplier
from rqdkm_tvm.kernels.pack import channel_bits, pack_channels
from rqdkm_tvm.kernels.pool import mean_axes, mean_multiplier
from rqdkm_tvm.kernels.registry import Config, Kernel
from rqdkm_tvm.kernels.requantize import convolution_multipliers, fully_connected_multipliers
from rqdkm_tvm.kernels.unary_tables import TABLES, unary_table
from rqdkm_tvm.layer import Layer
from rqdkm_tvm.offload.base import shape_of
from rqdkm_tvm.sites import IoTensor, read_sites

Expr = Any
Array = npt.NDArray[Any]
Options = dict[str, Value]

REFERENCE = 0  # "kernel": PortableKernel of tflm_ops/tflm/convolution.h
KERNELS = {"conv2d_s8_gemm": 1, "conv2d_s8_im2row": 2, "fully_connected_s8_fast": 3}
TABLE = "RQDKM_TABLE"
SCRATCH = 16 * 1024  # bytes that a kernel may take, if a slower one takes less


def convert(mod: Any, name: str, interface: tuple[list[IoTensor], list[IoTensor]]) -> Converted:
    """The graph of a partitioned module with the plan's bit-widths (types inferred).

    Args:
        interface: inputs and outputs.

    Raises:
        UnsupportedOperatorError: an operator that neither we nor TFLM run.
        PlanError: a patch stage.
    """
    function = mod["main"]
    layers = {site.call: site.layer for site in read_sites(function)}
    nodes = Nodes()
    for var, item in zip(function.params, interface[0], strict=True):
        nodes.add(feature_map(item.name, item.tensor), var)
    for call in calls(function):
        if op_name(call) in RESHAPES:
            nodes.values[call] = _reshaped(nodes, call)
            continue
        layer = layers.get(call)
        if layer is None:
            raise unsupported(call)
        if layer.stage is not None:
            raise PlanError(
                "a patch stage exists as generated code only", where="--portable", hint="leave out --portable"
            )
        operands = [nodes.values.setdefault(x, -1) for x in _flat(call.args)]
        for position, expr in enumerate(_flat(call.args)):
            if operands[position] < 0:
                operands[position] = nodes.values[expr] = nodes.constant(expr.data.numpy(), f"{layer.name}/operand")
        result = nodes.add(feature_map(layer.name, layer.output), call)
        append(nodes, layer, operands, result)
    results = [nodes.values[expr] for expr in outputs(function)]
    for index, expr, item in zip(results, outputs(function), interface[1], strict=True):
        nodes.declare(index, item.name, shape_of(expr))
    graph = nodes.graph(name, [nodes.values[var] for var in function.params], results)
    return Converted(graph, tuple(nodes.needs))


def _flat(args: Any) -> list[Expr]:
    return [leaf for arg in args for leaf in (arg.fields if hasattr(arg, "fields") else [arg])]


def _reshaped(nodes: Nodes, call: Expr) -> int:
    """Our operators mind no shapes, so a packed map needs no copy; TFLM's do."""
    source = nodes.values[call.args[0]]
    tensor = nodes.tensors[source]
    shape = shape_of(call)
    if math.prod(shape) != tensor.size or tuple(shape) == tensor.shape:
        return source  # packed
    result = nodes.add(TensorInfo(f"{tensor.name}/reshaped", shape, tensor.dtype, tensor.quantization))
    nodes.builtin("RESHAPE", [source], result, {})
    return result


def append(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    """Append ``layer``, which reads the tensors ``operands`` and writes ``result``.

    Raises:
        UnsupportedOperatorError: there is no portable operator for it.
    """
    write = _WRITERS.get(layer.op)
    if layer.op in TABLES:
        values: Options = {"count": layer.output.size, "bits": _bits(layer)}
        table = nodes.constant(unary_table(layer), f"{layer.name}/table")
        nodes.custom(TABLE, layer.name, values, [*operands, table], result)
    elif write is not None:
        write(nodes, layer, operands, result)
    elif layer.op in _BUILTINS:
        op, attrs = _BUILTINS[layer.op]
        nodes.builtin(op, operands, result, {key: layer.attrs[key] for key in attrs})
    else:
        raise UnsupportedOperatorError(f"there is no portable {layer.op}", where=f"layer {layer.name!r}")


# TFLM's own, and the attributes that they take
_BUILTINS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "softmax": ("SOFTMAX", ("beta",)),
    "concatenate": ("CONCATENATION", ("axis",)),
    "quantize": ("QUANTIZE", ()),
    "dequantize": ("DEQUANTIZE", ()),
}


# ---- options


def _bits(layer: Layer) -> list[int]:
    return [tensor.bits for tensor in (*layer.inputs, layer.output)]


def _unpacked(layer: Layer) -> int:
    """Bytes of scratch in which maps below 8 bits are unpacked."""
    return sum(-(-tensor.size // 8) * 8 for tensor in (*layer.inputs, layer.output) if tensor.bits != 8)


def _clamp(layer: Layer) -> list[int]:
    return [int(bound) for bound in clamped(layer, layer.output.bits)["clamp"]]


def _zero_points(layer: Layer) -> list[int]:
    return [tensor.zero_point for tensor in (*layer.inputs, layer.output)]


def _geometry(layer: Layer, window: tuple[int, ...]) -> Options:
    return {
        "bits": _bits(layer),
        "input": hwc(layer.inputs[0]),
        "output": hwc(layer.output),
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
        kernel, config = chosen
        plain = plain_layer(layer, own_clamp=True)
        constants = list(kernel.lower(plain, config).constants)
        finish = fast_form(plain) if layer.op == "fully_connected" else plan_finish(plain)
        assert finish is not None
        values["kernel"], values["form"] = KERNELS[kernel.name], finish.form.value
        if layer.op == "conv2d":
            values["tile"] = [int(config.get(key, default)) for key, default in _TILE.items()]
        need = Need(_unpacked(layer) + kernel.scratch_bytes(plain, config))
    inputs = [*operands, *(nodes.constant(array, f"{layer.name}/{i}") for i, array in enumerate(constants))]
    nodes.custom(NAMES[layer.op], layer.name, values, inputs, result, need)


_TILE = {"rows": 1, "pixels": 1, "resident": 0}


def _fast_kernel(layer: Layer) -> tuple[Kernel, Config] | None:
    """The fastest kernel that takes its parameters at run time within :data:`SCRATCH`, or the one with least scratch;
    None: only the reference."""
    plain = plain_layer(layer, own_clamp=True)
    found = [(k, c) for k, c in registry.candidates(plain) if k.name in KERNELS]
    for kernel, config in found:
        if kernel.scratch_bytes(plain, config) <= SCRATCH:
            return kernel, config
    return min(found, key=lambda item: item[0].scratch_bytes(plain, item[1]), default=None)


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
        "bits": _bits(layer),
        "filter": [outputs, inputs],
        "count": layer.inputs[0].size // inputs,
        "zero_points": [layer.inputs[0].zero_point, layer.weight_zero_point, layer.output.zero_point],
        "clamp": _clamp(layer),
    }
    _weighted(nodes, layer, operands, result, values, outputs, layer.weights)


# ---- others


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
    nodes.custom(NAMES["add"], layer.name, values, inputs, result, Need(_unpacked(layer)))


def _mul(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    multiplier, shift = mul_multiplier(layer)
    _, inputs, values = _binary(layer, operands)
    values |= {"multipliers": [multiplier], "shifts": [shift]}
    nodes.custom(NAMES["mul"], layer.name, values, inputs, result, Need(_unpacked(layer)))


def _pool(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    values = _geometry(layer, layer.attrs["pool"])
    nodes.custom(NAMES[layer.op], layer.name, values, operands, result, Need(_unpacked(layer)))


def _mean(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    axes, shape = mean_axes(layer), layer.inputs[0].shape
    if axes != list(range(axes[0], axes[-1] + 1)):
        raise UnsupportedOperatorError("its axes are not adjacent", where=f"layer {layer.name!r}")
    reduced = math.prod(shape[a] for a in axes)
    multiplier, shift = mean_multiplier(layer, reduced)
    values: Options = {
        "bits": _bits(layer),
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
        "bits": _bits(layer),
        "input": [*[1] * missing, *layer.inputs[0].shape],
        "before": [before for before, _ in widths],
        "after": [after for _, after in widths],
        "value": int(layer.attrs["value"]),
    }
    nodes.custom(NAMES["pad"], layer.name, values, operands, result, Need(_unpacked(layer)))


def _clip(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    values: Options = {"bits": _bits(layer), "count": layer.output.size, "clamp": _clamp(layer)}
    nodes.custom(NAMES["clip"], layer.name, values, operands, result, Need(_unpacked(layer)))


_WRITERS: Mapping[str, Callable[[Nodes, Layer, list[int], int], None]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise,
    "fully_connected": _fully_connected,
    "add": _add,
    "mul": _mul,
    "avg_pool2d": _pool,
    "max_pool2d": _pool,
    "mean": _mean,
    "pad": _pad,
    "clip": _clip,
}
