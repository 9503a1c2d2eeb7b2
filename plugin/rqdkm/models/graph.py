"""A network as TFLite sees it, free of TVM: tensors, operators in execution order, constants as arrays.

Every importer ends here and everything that wants to know about a model before it is compiled starts here
(``summary``, ``quantize``, ``reference``). Operators carry TFLite's builtin names (``CONV_2D``), tensors TFLite's
layouts: activations NHWC, convolution weights OHWI, depthwise (1, KH, KW, C * multiplier), fully connected (O, I).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

NDArray = npt.NDArray[Any]

CUSTOM = "custom_options"  # attribute of a custom operator: the bytes of its options
SELECT = "RQDKM_SELECT"  # takes one kernel's result of a morphing layer, see rqdkm.models.morph_file


@dataclass(frozen=True)
class Quantization:
    """``real = scale * (q - zero_point)``; one entry per tensor, or one per index of dimension ``axis``."""

    scales: npt.NDArray[np.float32]
    zero_points: npt.NDArray[np.int64]
    axis: int = 0

    @property
    def per_channel(self) -> bool:
        return self.scales.size > 1

    @property
    def scale(self) -> float:
        """The scale of a per-tensor quantization: the float32 of the file, widened."""
        return float(self.scales[0])

    @property
    def zero_point(self) -> int:
        return int(self.zero_points[0])

    def same(self, other: Quantization) -> bool:
        return bool(np.array_equal(self.scales, other.scales) and np.array_equal(self.zero_points, other.zero_points))


def per_tensor(scale: float, zero_point: int) -> Quantization:
    return Quantization(np.array([scale], np.float32), np.array([zero_point], np.int64))


@dataclass(frozen=True)
class TensorInfo:
    """One tensor. ``data`` is set for constants; ``quantization`` only where the file gives one."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: Quantization | None = None
    data: NDArray | None = None

    @property
    def size(self) -> int:
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def bytes(self) -> int:
        return self.size * np.dtype(self.dtype).itemsize

    @property
    def is_constant(self) -> bool:
        return self.data is not None


@dataclass(frozen=True)
class Operator:
    """One operator. ``inputs`` and ``outputs`` index ``Graph.tensors``; -1 is an absent optional input.

    ``attrs``: ``stride``, ``dilation``, ``window`` are (height, width); ``padding`` is ``"SAME"`` or ``"VALID"``;
    ``activation`` one of ``NONE RELU RELU_N1_TO_1 RELU6 TANH``; others as in the schema (``axis``, ``beta``, ...).
    """

    op: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Graph:
    """A whole model; ``inputs`` and ``outputs`` index ``tensors``."""

    name: str
    tensors: tuple[TensorInfo, ...]
    operators: tuple[Operator, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]

    def activations(self, operator: Operator) -> list[int]:
        """Non-constant inputs of ``operator``."""
        return [i for i in operator.inputs if i >= 0 and not self.tensors[i].is_constant]

    @property
    def is_quantized(self) -> bool:
        """Whether it computes in int8: every operator's activations are int8 (or carry shapes as int32)."""
        kinds = {self.tensors[i].dtype for op in self.operators for i in (*self.activations(op), *op.outputs)}
        return "int8" in kinds and kinds <= {"int8", "int32", "int64", "bool"}


def shortened(name: str, limit: int = 80) -> str:
    """Converters join dozens of names into one; messages show the end, which says most."""
    return name if len(name) <= limit else f"...{name[3 - limit :]}"


def layer_names(graph: Graph) -> list[str]:
    """A short, unique, stable name per operator, in execution order.

    Converters name a fused layer by everything that went into it, joined by ``;``, in no useful order; the weights'
    name is better: its scope (``model/conv2d_1/Conv2D`` -> ``conv2d_1``) is what the author of the model wrote. A
    first scope that all layers share (``model``) is dropped.
    """
    paths = [_scope(graph, operator) for operator in graph.operators]
    firsts = {path[0] for path in paths if len(path) > 1}
    shared = len(firsts) == 1
    taken: set[str] = set()
    found = []
    for operator, path in zip(graph.operators, paths, strict=True):
        base = "/".join(path[1:] if shared and len(path) > 1 else path) or operator.op.lower()
        name, again = base, 1
        while name in taken:
            again += 1
            name = f"{base}_{again}"
        taken.add(name)
        found.append(name)
    return found


def prune(graph: Graph) -> Graph:
    """Without operators whose result nobody uses: shapes are static, so what computes a RESHAPE's shape is one."""
    operators = [replace(op, inputs=op.inputs[:1]) if op.op == "RESHAPE" else op for op in graph.operators]
    wanted = set(graph.outputs)
    kept: list[Operator] = []
    for operator in reversed(operators):
        if wanted.intersection(operator.outputs):
            kept.append(operator)
            wanted.update(operator.inputs)
    return replace(graph, operators=tuple(reversed(kept)))


def compact(graph: Graph) -> Graph:
    """Without tensors that no operator reads or writes; tensors get new numbers."""
    used = {*graph.inputs, *graph.outputs}
    for operator in graph.operators:
        used.update(i for i in (*operator.inputs, *operator.outputs) if i >= 0)
    number = {old: new for new, old in enumerate(sorted(used))} | {-1: -1}

    def renumbered(indices: tuple[int, ...]) -> tuple[int, ...]:
        return tuple(number[i] for i in indices)

    operators = tuple(
        replace(op, inputs=renumbered(op.inputs), outputs=renumbered(op.outputs)) for op in graph.operators
    )
    tensors = tuple(graph.tensors[i] for i in sorted(used))
    return Graph(graph.name, tensors, operators, renumbered(graph.inputs), renumbered(graph.outputs))


# last part of the name of a layer's weights, as converters call them
WEIGHT_NAMES = {"CONV_2D": "Conv2D", "DEPTHWISE_CONV_2D": "depthwise", "FULLY_CONNECTED": "MatMul"}
_OPAQUE = ("Identity", "StatefulPartitionedCall", "PartitionedCall", "tfl.", "tensor_")  # say nothing about a layer


def _scope(graph: Graph, operator: Operator) -> list[str]:
    """The author's path to the layer, outermost scope first; empty if the file does not tell."""
    kind = WEIGHT_NAMES.get(operator.op)
    if kind and len(operator.inputs) > 1:
        both = (graph.tensors[operator.inputs[1]].name, graph.tensors[operator.outputs[0]].name)
        for part in ";".join(both).split(";"):
            path = part.split("/")
            if len(path) > 1 and path[-1] == kind:
                return path[:-1]
    path = graph.tensors[operator.outputs[0]].name.split(";")[-1].split("/")
    if path[0].startswith(_OPAQUE) or not path[0]:
        return []
    return path[:-1] if len(path) > 1 else path
