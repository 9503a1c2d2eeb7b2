"""A checked int8 :class:`~rqdkm.models.graph.Graph` as :class:`rqdkm_tvm.layer.Layer` objects with their wiring.

The compiler makes its layers from Relay; these come from the model file without Relay in between, which makes them an
independent check of it, and real material for kernel tests.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rqdkm.models.check import same_padding
from rqdkm.models.fixedpoint import activation_range
from rqdkm.models.graph import SELECT, Graph, NDArray, Operator, TensorInfo, layer_names
from rqdkm_tvm.errors import UnsupportedOperatorError
from rqdkm_tvm.layer import Layer, Tensor


@dataclass(frozen=True)
class WiredLayer:
    """``layer`` reads the graph's tensors ``inputs`` (constants included for ADD and MUL) and writes ``output``."""

    layer: Layer
    inputs: tuple[int, ...]
    output: int


def graph_layers(graph: Graph) -> list[WiredLayer]:
    """Every operator of an int8 graph, in order of execution.

    Raises:
        UnsupportedOperatorError: an operator that :data:`rqdkm_tvm.layer.OPS` does not have.
    """
    return [_layer(graph, operator, name) for operator, name in zip(graph.operators, layer_names(graph), strict=True)]


# TFLite builtin -> key of rqdkm_tvm.layer.OPS
OPERATORS = {
    "CONV_2D": "conv2d",
    "DEPTHWISE_CONV_2D": "depthwise_conv2d",
    "FULLY_CONNECTED": "fully_connected",
    "AVERAGE_POOL_2D": "avg_pool2d",
    "MAX_POOL_2D": "max_pool2d",
    "ADD": "add",
    "MUL": "mul",
    "PAD": "pad",
    "SOFTMAX": "softmax",
    "LOGISTIC": "logistic",
    "RESHAPE": "reshape",
    "CONCATENATION": "concatenate",
    "RELU": "relu",
    "RELU6": "requantize",
    "QUANTIZE": "requantize",
    "MEAN": "mean",
    SELECT: "reshape",  # the safe kernel's result as it is
}
_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_ONE_INPUT = ("PAD", "RESHAPE", "MEAN")  # their further inputs are constants that become attributes


def tensor_type(tensor: TensorInfo) -> Tensor:
    """The compiler's view of an activation tensor."""
    q = tensor.quantization
    return Tensor(tensor.shape, tensor.dtype, 1.0 if q is None else q.scale, 0 if q is None else q.zero_point)


def _layer(graph: Graph, operator: Operator, name: str) -> WiredLayer:
    op = OPERATORS.get(operator.op)
    output = tensor_type(graph.tensors[operator.outputs[0]])
    if op is None or output.dtype != "int8":
        raise UnsupportedOperatorError(f"operator {operator.op} has no int8 kernel", where=f"layer {name!r}")
    count = 1 if operator.op in (*_WEIGHTED, *_ONE_INPUT) else len(operator.inputs)
    inputs = operator.inputs[:count] if operator.op != SELECT else (operator.inputs[operator.attrs["safe"]],)
    weights: NDArray | None = None
    scales: NDArray | None = None
    bias: NDArray | None = None
    if operator.op in _WEIGHTED:
        tensor = graph.tensors[operator.inputs[1]]
        assert tensor.quantization is not None  # checked on import
        weights, scales = tensor.data, tensor.quantization.scales
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = graph.tensors[operator.inputs[2]].data
    if operator.op == "RELU" and output == tensor_type(graph.tensors[inputs[0]]):
        op = "clip"
    attributes = _ATTRIBUTES[operator.op](graph, operator) if operator.op in _ATTRIBUTES else {}
    if op not in ("pad", "softmax", "logistic", "reshape", "concatenate", "mean"):
        kind = operator.op if operator.op in ("RELU", "RELU6") else operator.attrs.get("activation", "NONE")
        attributes["clamp"] = activation_range(kind, output.scale, output.zero_point)
    types = tuple(tensor_type(graph.tensors[i]) for i in inputs)
    layer = Layer(name, op, types, output, attributes, weights, scales, 0, bias)
    return WiredLayer(layer, inputs, operator.outputs[0])


def _windowed(graph: Graph, operator: Operator, window: tuple[int, int]) -> dict[str, Any]:
    size, out = graph.tensors[operator.inputs[0]].shape[1:3], graph.tensors[operator.outputs[0]].shape[1:3]
    strides, dilation = operator.attrs["stride"], operator.attrs.get("dilation", (1, 1))
    padding = (0, 0, 0, 0)
    if operator.attrs["padding"] == "SAME":
        (top, bottom), (left, right) = (
            same_padding(size[i], window[i], strides[i], dilation[i], out[i]) for i in (0, 1)
        )
        padding = (top, left, bottom, right)
    return {"strides": strides, "padding": padding}


def _conv2d(graph: Graph, operator: Operator) -> dict[str, Any]:
    weights = graph.tensors[operator.inputs[1]].shape
    groups = graph.tensors[operator.inputs[0]].shape[3] // weights[3]
    attributes = _windowed(graph, operator, (weights[1], weights[2]))
    return attributes | {"dilation": operator.attrs["dilation"], "groups": groups}


def _depthwise(graph: Graph, operator: Operator) -> dict[str, Any]:
    weights = graph.tensors[operator.inputs[1]].shape
    attributes = _windowed(graph, operator, (weights[1], weights[2]))
    return attributes | {"dilation": operator.attrs["dilation"], "multiplier": operator.attrs["multiplier"]}


def _pool2d(graph: Graph, operator: Operator) -> dict[str, Any]:
    return _windowed(graph, operator, operator.attrs["window"]) | {"pool": operator.attrs["window"]}


def _pad(graph: Graph, operator: Operator) -> dict[str, Any]:
    amounts = graph.tensors[operator.inputs[1]].data
    assert amounts is not None
    zero = tensor_type(graph.tensors[operator.inputs[0]]).zero_point
    return {"pad_width": tuple((int(a), int(b)) for a, b in amounts), "value": zero}


def _mean(graph: Graph, operator: Operator) -> dict[str, Any]:
    axes = graph.tensors[operator.inputs[1]].data
    assert axes is not None
    rank = len(graph.tensors[operator.inputs[0]].shape)
    found = tuple(sorted({int(a) % rank for a in np.asarray(axes).reshape(-1)}))
    return {"axes": found, "keepdims": operator.attrs.get("keep_dims", False)}


def _concatenate(graph: Graph, operator: Operator) -> dict[str, Any]:
    return {"axis": operator.attrs["axis"] % len(graph.tensors[operator.outputs[0]].shape)}


_ATTRIBUTES: Mapping[str, Callable[[Graph, Operator], dict[str, Any]]] = {
    "CONV_2D": _conv2d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "AVERAGE_POOL_2D": _pool2d,
    "MAX_POOL_2D": _pool2d,
    "PAD": _pad,
    "MEAN": _mean,
    "CONCATENATION": _concatenate,
    "SOFTMAX": lambda _graph, operator: {"beta": operator.attrs.get("beta", 1.0)},
}
