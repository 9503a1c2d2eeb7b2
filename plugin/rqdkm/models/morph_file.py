"""Morphing layers in a ``.tflite`` file: the custom operator ``RQDKM_MORPH_CONV_2D``, and what it is while we hold it.

In the file a morphing layer is one operator. Its inputs are the feature map, then weights and bias (or -1) of every
layer of every kernel; its options (``tflm_ops/tflm/option_keys.h``) say how the layers are put together::

    kernels = [1, 1, 2]     three kernels, the last of two layers
    ops = [0, 0, 1, 0]      convolution, convolution, depthwise and pointwise convolution

In a :class:`~rqdkm.models.graph.Graph` it is the ordinary operators of all kernels and :data:`SELECT`, which takes the
result of one of them (attribute ``safe``): calibration, quantization, reference and importer see plain layers.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from rqdkm.models import custom_options
from rqdkm.models.check import conv_output_size
from rqdkm.models.graph import CUSTOM, SELECT, Graph, Operator, Quantization, TensorInfo, compact, per_tensor, prune
from rqdkm_tvm.errors import ModelError
from rqdkm_tvm.morph.library import MOST_PATHS

OP = "RQDKM_MORPH_CONV_2D"

_KEYS = ("kernels", "safe", "ops", "strides", "dilations", "valid", "activations")
_INNER_KEYS = ("inner_scales", "inner_zeros")  # int8 only
_OPS = ("CONV_2D", "DEPTHWISE_CONV_2D")
_MOST_LAYERS = 16  # of a kernel
_ACTIVATIONS = {0: "NONE", 1: "RELU", 2: "RELU_N1_TO_1", 3: "RELU6"}
_HINT = "the file is damaged, or something else than rqdkm wrote it; export the model again"


class _FileError(Exception):
    """What is wrong with one operator."""


def named(op: str) -> str:
    """A custom operator as :mod:`rqdkm.models.tflite_read` calls it."""
    return f"CUSTOM({op})"


# ---- the operator's options


@dataclass(frozen=True)
class _Layer:
    """One layer of a kernel; ``result`` is the quantization of what it hands on to the next one."""

    op: str
    attrs: Mapping[str, Any]
    result: Quantization | None


@dataclass(frozen=True)
class _Options:
    name: str
    kernels: tuple[tuple[_Layer, ...], ...]
    safe: int


def _need(condition: object, what: str) -> None:
    if not condition:
        raise _FileError(what)


def _list(
    options: Mapping[str, custom_options.Value], key: str, count: int, allowed: Callable[[int], bool]
) -> list[int]:
    value = options[key]
    _need(isinstance(value, list), f'option "{key}" is no list')
    assert isinstance(value, list)
    _need(len(value) == count, f'option "{key}" has {len(value)} values, {count} are needed')
    wrong = [item for item in value if not allowed(item)]
    _need(not wrong, f'option "{key}" has a value that cannot be: {wrong[:1]}')
    return value


def _is_extent(value: int) -> bool:
    return 1 <= value < 1 << 16


def _read(data: bytes, quantized: bool) -> _Options:
    try:
        options = custom_options.decode(data)
    except ValueError as error:
        raise _FileError(str(error)) from None
    _need("code" not in options, "it is generated code of rqdkm tflm export: deploy the file that was exported")
    wanted = {"version", "layer", *_KEYS, *(_INNER_KEYS if quantized else ())}
    for key in sorted(wanted - set(options)):
        raise _FileError(f'option "{key}" is missing')
    for key in sorted(set(options) - wanted):
        raise _FileError(
            f'option "{key}" does not belong to a morphing layer of a{"n int8" if quantized else " float"} model'
        )
    lengths = options["kernels"]
    _need(isinstance(lengths, list) and lengths, "it has no kernels")
    assert isinstance(lengths, list)
    _need(len(lengths) <= MOST_PATHS, f"it has {len(lengths)} kernels, at most {MOST_PATHS} are possible")
    for length in lengths:
        _need(1 <= length <= _MOST_LAYERS, f"a kernel cannot have {length} layers")
    safe = options["safe"]
    _need(isinstance(safe, int) and 0 <= safe < len(lengths), f"its safe kernel {safe} does not exist")
    assert isinstance(safe, int)
    count, inner = sum(lengths), sum(lengths) - len(lengths)
    ops = _list(options, "ops", count, lambda v: v in (0, 1))
    strides = _list(options, "strides", 2 * count, _is_extent)
    dilations = _list(options, "dilations", 2 * count, _is_extent)
    valid = _list(options, "valid", count, lambda v: v in (0, 1))
    activations = _list(options, "activations", count, lambda v: v in _ACTIVATIONS)
    results: list[Quantization | None] = [None] * inner
    if quantized:
        bits = _list(options, "inner_scales", inner, lambda v: -(1 << 31) <= v < 1 << 31)
        scales = [struct.unpack("<f", struct.pack("<i", v))[0] for v in bits]
        _need(all(np.isfinite(s) and s > 0 for s in scales), "the scale of an inner result is not a positive number")
        zeros = _list(options, "inner_zeros", inner, lambda v: -128 <= v <= 127)
        results = [per_tensor(s, z) for s, z in zip(scales, zeros, strict=True)]
    kernels, at, between = [], 0, iter(results)
    for length in lengths:
        layers = []
        for i in range(length):
            attrs = {
                "padding": "VALID" if valid[at] else "SAME",
                "stride": (strides[2 * at], strides[2 * at + 1]),
                "dilation": (dilations[2 * at], dilations[2 * at + 1]),
                "activation": _ACTIVATIONS[activations[at]],
            }
            layers.append(_Layer(_OPS[ops[at]], attrs, next(between) if i + 1 < length else None))
            at += 1
        kernels.append(tuple(layers))
    return _Options(str(options["layer"]), tuple(kernels), safe)


# ---- file to graph


def expand(graph: Graph, where: str) -> Graph:
    """Every morphing operator as the layers of its kernels and a :data:`SELECT`.

    Raises:
        ModelError: names the layer.
    """
    if all(operator.op != named(OP) for operator in graph.operators):
        return graph
    tensors, operators = list(graph.tensors), []
    for operator in graph.operators:
        if operator.op != named(OP):
            operators.append(operator)
            continue
        try:
            operators += _expanded(tensors, operator)
        except _FileError as error:
            name = _name(graph, operator)
            raise ModelError(str(error), where=f"{where}: layer {name!r} ({OP})", hint=_HINT) from None
    return replace(graph, tensors=tuple(tensors), operators=tuple(operators))


def _name(graph: Graph, operator: Operator) -> str:
    try:
        return str(custom_options.decode(operator.attrs[CUSTOM])["layer"])
    except (ValueError, KeyError):
        return graph.tensors[operator.outputs[0]].name


def _expanded(tensors: list[TensorInfo], operator: Operator) -> list[Operator]:
    _need(len(operator.outputs) == 1 and operator.inputs, "it needs one result and a feature map to read")
    source, output = operator.inputs[0], tensors[operator.outputs[0]]
    _need(source >= 0 and not tensors[source].is_constant, "its first input is no feature map")
    _need(len(tensors[source].shape) == 4, "the map it reads does not have 4 dimensions")
    options = _read(operator.attrs[CUSTOM], output.dtype == "int8")
    count = sum(map(len, options.kernels))
    _need(
        len(operator.inputs) == 1 + 2 * count,
        f"it has {len(operator.inputs)} inputs, its {count} layers need {1 + 2 * count}: map, weights and biases",
    )
    taken = {tensor.name for tensor in tensors}
    scope = output.name.rsplit("/", 1)[0]
    found, results = [], []
    constants = iter(zip(operator.inputs[1::2], operator.inputs[2::2], strict=True))
    for number, layers in enumerate(options.kernels):
        x = source
        for place, layer in enumerate(layers):
            weights, bias = next(constants)
            what = f"kernel {number}, layer {place}"
            _need(weights >= 0 and tensors[weights].is_constant, f"{what} has no weights")
            _need(len(tensors[weights].shape) == 4, f"the weights of {what} do not have 4 dimensions")
            attrs = dict(layer.attrs)
            shape = _result_shape(tensors[x].shape, tensors[weights].shape, layer, what)
            if layer.op == "DEPTHWISE_CONV_2D":
                attrs["multiplier"] = shape[3] // tensors[x].shape[3]
            name = f"{scope}/{number}.{place}/result"  # what the layer is called unless its weights say it better
            while name in taken:
                name += "_"
            taken.add(name)
            quantization = layer.result if place + 1 < len(layers) else output.quantization
            tensors.append(TensorInfo(name, shape, output.dtype, quantization))
            found.append(Operator(layer.op, (x, weights, bias), (len(tensors) - 1,), attrs))
            x = len(tensors) - 1
        results.append(x)
    attrs = {"safe": options.safe, "layer": options.name, CUSTOM: b""}
    return [*found, Operator(SELECT, tuple(results), operator.outputs, attrs)]


def _result_shape(x: tuple[int, ...], weights: tuple[int, ...], layer: _Layer, what: str) -> tuple[int, ...]:
    stride, dilation = layer.attrs["stride"], layer.attrs["dilation"]
    rows, columns = (
        conv_output_size(x[1 + i], weights[1 + i], stride[i], dilation[i], layer.attrs["padding"]) for i in (0, 1)
    )
    _need(rows >= 1 and columns >= 1, f"{what} is larger than the map it reads")
    return (x[0], rows, columns, weights[3 if layer.op == "DEPTHWISE_CONV_2D" else 0])


# ---- graph to file


def fold(graph: Graph) -> Graph:
    """The inverse of :func:`expand`; tensors that no operator reads or writes are dropped."""
    selects = [operator for operator in graph.operators if operator.op == SELECT]
    if not selects:
        return graph
    maker = {operator.outputs[0]: operator for operator in graph.operators}
    folded: dict[int, Operator] = {}
    within: set[int] = set()
    for select in selects:
        paths = [_path(maker, result) for result in select.inputs]
        source = next(op.inputs[0] for op in reversed(paths[0]) if all(_reads(path, op.inputs[0]) for path in paths))
        kernels = []
        for path in paths:
            first = next(i for i, op in enumerate(path) if op.inputs[0] == source)
            kernels.append(path[first:])
            within.update(op.outputs[0] for op in path[first:])
        folded[select.outputs[0]] = _folded(graph, select, source, kernels)
    operators = [
        folded.get(operator.outputs[0], operator) for operator in graph.operators if operator.outputs[0] not in within
    ]
    return compact(replace(graph, operators=tuple(operators)))


def _path(maker: Mapping[int, Operator], result: int) -> list[Operator]:
    """Convolutions one after the other that end in ``result``, as far back as there are any."""
    found: list[Operator] = []
    while result in maker and maker[result].op in _OPS:
        found.insert(0, maker[result])
        result = maker[result].inputs[0]
    return found


def _reads(path: list[Operator], index: int) -> bool:
    return any(operator.inputs[0] == index for operator in path)


def _folded(graph: Graph, select: Operator, source: int, kernels: list[list[Operator]]) -> Operator:
    layers = [operator for path in kernels for operator in path]
    codes = {name: code for code, name in _ACTIVATIONS.items()}
    values: dict[str, custom_options.Value] = {
        "kernels": [len(path) for path in kernels],
        "safe": int(select.attrs["safe"]),
        "ops": [_OPS.index(op.op) for op in layers],
        "strides": [v for op in layers for v in op.attrs["stride"]],
        "dilations": [v for op in layers for v in op.attrs["dilation"]],
        "valid": [int(op.attrs["padding"] == "VALID") for op in layers],
        "activations": [codes[op.attrs.get("activation", "NONE")] for op in layers],
    }
    if graph.tensors[select.outputs[0]].dtype == "int8":
        inner = [graph.tensors[op.outputs[0]].quantization for path in kernels for op in path[:-1]]
        values["inner_scales"] = [struct.unpack("<i", struct.pack("<f", q.scale))[0] for q in inner if q is not None]
        values["inner_zeros"] = [q.zero_point for q in inner if q is not None]
    constants = [index for op in layers for index in (op.inputs[1:3] if len(op.inputs) > 2 else (op.inputs[1], -1))]
    options = custom_options.encode(str(select.attrs["layer"]), values)
    return Operator(OP, (source, *constants), select.outputs, {CUSTOM: options})


# ---- one kernel at a time


def kernel_count(graph: Graph) -> int:
    """Of the morphing layer that has most; 0: there is none."""
    return max((len(operator.inputs) for operator in graph.operators if operator.op == SELECT), default=0)


def fixed(graph: Graph, kernel: int | None = None) -> Graph:
    """The network that is computed while ``kernel`` is selected (None: nothing), with a :data:`SELECT` of one each.

    A layer without such a kernel runs its safe one. Tensor numbers stay what they are.
    """

    def chosen(operator: Operator) -> Operator:
        known = kernel is not None and kernel < len(operator.inputs)
        taken = operator.inputs[kernel if known and kernel is not None else operator.attrs["safe"]]
        return replace(operator, inputs=(taken,), attrs={**operator.attrs, "safe": 0})

    operators = tuple(chosen(op) if op.op == SELECT else op for op in graph.operators)
    return prune(replace(graph, operators=operators))


def variants(graph: Graph) -> list[Graph]:
    """Every network that the chip may compute: one per kernel, and the safe kernels' where those are mixed."""
    selects = [operator for operator in graph.operators if operator.op == SELECT]
    safe = {operator.inputs[operator.attrs["safe"]] for operator in selects}
    uniform = any(
        {op.inputs[k if k < len(op.inputs) else op.attrs["safe"]] for op in selects} == safe
        for k in range(kernel_count(graph))
    )
    return [fixed(graph, k) for k in (*range(kernel_count(graph)), *(() if uniform else (None,)))]


def without_selects(graph: Graph, kernel: int | None = None) -> Graph:
    """:func:`fixed` in ordinary operators only: any interpreter runs it. Of the kernel's last layer the result is named
    as the morphing layer's."""
    graph = fixed(graph, kernel)
    target = {op.inputs[0]: op.outputs[0] for op in graph.operators if op.op == SELECT}
    operators = tuple(
        replace(op, outputs=(target.get(op.outputs[0], op.outputs[0]),)) for op in graph.operators if op.op != SELECT
    )
    return replace(graph, operators=operators)
