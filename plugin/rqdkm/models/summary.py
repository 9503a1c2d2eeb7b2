"""What ``rqdkm inspect`` shows: layers, shapes, MACs, parameters, quantization and memory, before anything is built.

Computed from the model file alone. RAM is the *live set*: what the activations that exist while a layer runs occupy at
least, in the file's order of execution, without scratch, stack or alignment. A reshape costs nothing, its output
is its input. Float models are counted as the int8 models they are deployed as (1 byte per activation and weight,
4 per bias).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rqdkm.models import morph_file, relay_import
from rqdkm.models.graph import SELECT, Graph, Operator, TensorInfo, layer_names
from rqdkm.models.layers import OPERATORS as _KERNEL_OPS
from rqdkm.models.load import load_graph

# builtin operators that become our own C kernels; others go to TVM's C code
KERNEL_OPERATORS = frozenset(_KERNEL_OPS) | {"PADV2", "DEQUANTIZE", "TANH", "LEAKY_RELU", "HARD_SWISH", "ELU"}


@dataclass(frozen=True)
class TensorSummary:
    """A model input or output; ``scale`` and ``zero_point`` are None for float tensors."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    scale: float | None
    zero_point: int | None


@dataclass(frozen=True)
class LayerSummary:
    """One operator.

    Args:
        name: short, unique, from the names in the file.
        op: TFLite's name of the operator.
        detail: what distinguishes it: kernel size, stride, activation.
        inputs: shapes of its activations.
        output: shape of its output.
        macs: multiply-accumulates of the direct algorithm, padding taps included.
        parameters: number of weights and biases.
        weights_bytes: what they take in flash as int8 weights and int32 biases.
        bits_weight: 8 or 32 (float), None without weights.
        bits_activation: 8 or 32 (float).
        per_channel: whether the weights have a scale per output channel.
        ram_bytes: live set while it runs.
        runs_on: ``kernel`` (our C), ``tvm`` (TVM's C code) or ``unsupported``.
    """

    name: str
    op: str
    detail: str
    inputs: tuple[tuple[int, ...], ...]
    output: tuple[int, ...]
    macs: int
    parameters: int
    weights_bytes: int
    bits_weight: int | None
    bits_activation: int
    per_channel: bool
    ram_bytes: int
    runs_on: str


@dataclass(frozen=True)
class ModelSummary:
    """A whole model; see the module's docstring for what is counted.

    Args:
        name: C identifier made of the file name.
        path: the file.
        format: ``tflite`` or ``onnx``.
        file_bytes: size of the file.
        is_quantized: int8 already; False means it needs ``--calib``.
        inputs: as deployed (int8 where the file quantizes right behind its input).
        outputs: likewise.
        layers: in order of execution.
        macs: sum over the layers; of a morphing layer the safe kernel's.
        parameters: sum over the layers, shared constants once.
        weights_bytes: flash for weights and biases, shared constants once.
        ram_peak_bytes: the largest live set.
        peak_layer: name of the layer that has it.
    """

    name: str
    path: str
    format: str
    file_bytes: int
    is_quantized: bool
    inputs: tuple[TensorSummary, ...]
    outputs: tuple[TensorSummary, ...]
    layers: tuple[LayerSummary, ...]
    macs: int
    parameters: int
    weights_bytes: int
    ram_peak_bytes: int
    peak_layer: str


def summarize(path: Path | str) -> ModelSummary:
    """Summary of a model file.

    Raises:
        ModelError: the file cannot be read as a model. Unsupported operators are shown, not raised.
    """
    path = Path(path)
    return summarize_graph(load_graph(path), path)


def summarize_graph(graph: Graph, path: Path) -> ModelSummary:
    """:func:`summarize` for a graph that is already there."""
    live = _live(graph)
    ran = {operator.outputs[0] for operator in morph_file.fixed(graph).operators}
    importable = relay_import.supported_operators()
    layers = tuple(
        _layer(graph, operator, name, ram, importable)
        for operator, name, ram in zip(graph.operators, layer_names(graph), live, strict=True)
    )
    constants = {i for op in graph.operators for i in _parameters(graph, op)}
    peak = int(np.argmax(live))
    return ModelSummary(
        name=graph.name,
        path=str(path),
        format=path.suffix.lstrip(".").lower() or "tflite",
        file_bytes=path.stat().st_size if path.exists() else 0,
        is_quantized=graph.is_quantized,
        inputs=tuple(_tensor(graph.tensors[i]) for i in graph.inputs),
        outputs=tuple(_tensor(graph.tensors[i]) for i in graph.outputs),
        layers=layers,
        macs=sum(x.macs for x, op in zip(layers, graph.operators, strict=True) if op.outputs[0] in ran),
        parameters=sum(graph.tensors[i].size for i in constants),
        weights_bytes=sum(_deployed_bytes(graph.tensors[i]) for i in constants),
        ram_peak_bytes=live[peak],
        peak_layer=layers[peak].name,
    )


def _live(graph: Graph) -> list[int]:
    """:func:`live_sets`; of morphing layers only one kernel exists at a time."""
    found: dict[int, int] = {}
    for variant in morph_file.variants(graph):
        for operator, size in zip(variant.operators, live_sets(variant), strict=True):
            found[operator.outputs[0]] = max(size, found.get(operator.outputs[0], 0))
    return [found[operator.outputs[0]] for operator in graph.operators]


def live_sets(graph: Graph) -> list[int]:
    """Bytes of the activations that exist while each operator runs, in order."""
    root = {i: i for i in range(len(graph.tensors))}
    for operator in graph.operators:
        if operator.op in ("RESHAPE", "SQUEEZE", "EXPAND_DIMS", SELECT):
            root[operator.outputs[0]] = root[operator.inputs[0]]
    born = {root[i]: -1 for i in graph.inputs}
    last = {root[i]: len(graph.operators) for i in graph.outputs}
    for number, operator in enumerate(graph.operators):
        for index in graph.activations(operator):
            last[root[index]] = max(last.get(root[index], 0), number)
        for index in operator.outputs:
            born.setdefault(root[index], number)
            last.setdefault(root[index], number)
    size = {index: _deployed_bytes(graph.tensors[index]) for index in born}
    return [
        sum(size[index] for index in born if born[index] <= number <= last.get(index, -1))
        for number in range(len(graph.operators))
    ]


def macs(graph: Graph, operator: Operator) -> int:
    """Multiply-accumulates of the direct algorithm, padding taps included; 0 where nothing is multiplied by weights."""
    out = graph.tensors[operator.outputs[0]].size
    if operator.op == "CONV_2D":
        _, height, width, depth = graph.tensors[operator.inputs[1]].shape
        return out * height * width * depth
    if operator.op == "DEPTHWISE_CONV_2D":
        _, height, width, _ = graph.tensors[operator.inputs[1]].shape
        return out * height * width
    if operator.op == "FULLY_CONNECTED":
        return out * graph.tensors[operator.inputs[1]].shape[1]
    return 0


def _parameters(graph: Graph, operator: Operator) -> list[int]:
    """Constants that hold trained numbers, not axes, shapes or padding amounts."""
    if operator.op in ("RESHAPE", "PAD", "PADV2", "MEAN", "STRIDED_SLICE", "SLICE", "TRANSPOSE", "PACK", "SHAPE"):
        return []
    return [i for i in operator.inputs if i >= 0 and graph.tensors[i].is_constant]


def _deployed_bytes(tensor: TensorInfo) -> int:
    if tensor.dtype in ("float32", "float16"):
        is_bias = tensor.is_constant and len(tensor.shape) == 1
        return tensor.size * (4 if is_bias else 1)
    return tensor.bytes


def _layer(graph: Graph, operator: Operator, name: str, ram: int, importable: frozenset[str]) -> LayerSummary:
    constants = [graph.tensors[i] for i in _parameters(graph, operator)]
    weights = constants[0] if constants else None
    output = graph.tensors[operator.outputs[0]]
    if operator.op in KERNEL_OPERATORS:
        runs_on = "kernel"
    else:
        runs_on = "tvm" if operator.op in importable else "unsupported"
    return LayerSummary(
        name=name,
        op=operator.op,
        detail=_detail(graph, operator),
        inputs=tuple(graph.tensors[i].shape for i in graph.activations(operator)),
        output=output.shape,
        macs=macs(graph, operator),
        parameters=sum(t.size for t in constants),
        weights_bytes=sum(_deployed_bytes(t) for t in constants),
        bits_weight=None if weights is None else 8 * np.dtype(weights.dtype).itemsize,
        bits_activation=8 * np.dtype(output.dtype).itemsize,
        per_channel=weights is not None and weights.quantization is not None and weights.quantization.per_channel,
        ram_bytes=ram,
        runs_on=runs_on,
    )


def _detail(graph: Graph, operator: Operator) -> str:
    attrs: Mapping[str, Any] = operator.attrs
    if operator.op == SELECT:
        return f"{len(operator.inputs)} kernels, {operator.attrs['safe']} is safe"
    parts = []
    window = attrs.get("window")
    if operator.op in ("CONV_2D", "DEPTHWISE_CONV_2D"):
        window = graph.tensors[operator.inputs[1]].shape[1:3]
    if window:
        parts.append(f"{window[0]}x{window[1]}")
    stride, dilation = attrs.get("stride", (1, 1)), attrs.get("dilation", (1, 1))
    if tuple(stride) != (1, 1):
        parts.append(f"stride {stride[0]}" if stride[0] == stride[1] else f"stride {stride[0]}x{stride[1]}")
    if tuple(dilation) != (1, 1):
        parts.append(f"dilation {dilation[0]}x{dilation[1]}")
    if attrs.get("padding"):
        parts.append(str(attrs["padding"]).lower())
    if attrs.get("activation", "NONE") != "NONE":
        parts.append(str(attrs["activation"]).lower())
    return " ".join(parts)


def _tensor(tensor: TensorInfo) -> TensorSummary:
    q = tensor.quantization
    return TensorSummary(
        tensor.name, tensor.shape, tensor.dtype, None if q is None else q.scale, None if q is None else q.zero_point
    )
