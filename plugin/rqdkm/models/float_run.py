"""A float graph on NumPy, many samples at once: what calibration observes and quantized models are compared with."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm.models.check import same_padding
from rqdkm.models.graph import SELECT, Graph, Operator, layer_names
from rqdkm_tvm.errors import UnsupportedOperatorError

Floats = npt.NDArray[np.float32]


def run_float(
    graph: Graph, inputs: Sequence[Floats], observe: Callable[[int, Floats], None] | None = None
) -> list[Floats]:
    """Run samples through a float graph.

    Args:
        graph: float32, batch size 1 in its shapes.
        inputs: per model input (n, *shape without batch dimension).
        observe: called with (tensor number, (n, ...) values) for every activation, inputs included.

    Returns:
        Per model output (n, *shape without batch dimension).

    Raises:
        UnsupportedOperatorError: an operator without a float definition here.
    """
    values: dict[int, Floats] = dict(zip(graph.inputs, (np.asarray(x, np.float32) for x in inputs), strict=True))
    remaining = _uses(graph)
    for index in graph.inputs:
        if observe is not None:
            observe(index, values[index])
    for operator, layer in zip(graph.operators, layer_names(graph), strict=True):
        function = _FUNCTIONS.get(operator.op)
        if function is None:
            raise UnsupportedOperatorError(
                f"operator {operator.op} cannot be quantized",
                where=f"layer {layer!r}",
                hint="replace it in the model, or quantize the model elsewhere and pass it as int8",
            )
        operands = [values[i] if i in values else _constant(graph, i) for i in operator.inputs if i >= 0]
        result = function(graph, operator, operands)
        target = graph.tensors[operator.outputs[0]].shape
        values[operator.outputs[0]] = result = result.reshape(len(result), *_without_batch(target)).astype(np.float32)
        if observe is not None:
            observe(operator.outputs[0], result)
        for index in operator.inputs:
            remaining[index] = remaining.get(index, 0) - 1
            if remaining[index] == 0 and index in values:
                del values[index]
    return [values[i] for i in graph.outputs]


def supported(operator: str) -> bool:
    """Whether :func:`run_float` can compute ``operator``."""
    return operator in _FUNCTIONS


def _uses(graph: Graph) -> dict[int, int]:
    count: dict[int, int] = dict.fromkeys(graph.outputs, 1)
    for operator in graph.operators:
        for index in operator.inputs:
            count[index] = count.get(index, 0) + 1
    return count


def _without_batch(shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[1:] if len(shape) > 1 else shape


def _constant(graph: Graph, index: int) -> npt.NDArray[Any]:
    data = graph.tensors[index].data
    assert data is not None
    return np.asarray(data)


def _activate(operator: Operator, x: Floats) -> Floats:
    kind = operator.attrs.get("activation", "NONE")
    limits = {"NONE": (None, None), "RELU": (0, None), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}[kind]
    return x if limits == (None, None) else np.clip(x, *limits)


def _windows(graph: Graph, operator: Operator, x: Floats, window: tuple[int, int], fill: float) -> Floats:
    """(n, OH, OW, C, KH, KW) view of the padded input."""
    strides, dilation = operator.attrs["stride"], operator.attrs.get("dilation", (1, 1))
    out = graph.tensors[operator.outputs[0]].shape[1:3]
    pads = [(0, 0), (0, 0), (0, 0), (0, 0)]
    if operator.attrs["padding"] == "SAME":
        for i in (0, 1):
            pads[i + 1] = same_padding(x.shape[i + 1], window[i], strides[i], dilation[i], out[i])
    padded = np.pad(x, pads, constant_values=fill)
    reach = ((window[0] - 1) * dilation[0] + 1, (window[1] - 1) * dilation[1] + 1)
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
    view = view[:, :: strides[0], :: strides[1], :, :: dilation[0], :: dilation[1]]
    return view[:, : out[0], : out[1]]


def _conv2d(graph: Graph, operator: Operator, operands: list[Any]) -> Floats:
    x, weights = operands[0], operands[1]
    channels, kh, kw, depth = weights.shape
    groups = x.shape[3] // depth
    each = channels // groups
    if (kh, kw) == (1, 1) and operator.attrs["stride"] == (1, 1):
        view = x[..., None, None]
    else:
        view = _windows(graph, operator, x, (kh, kw), 0.0)
    parts = [
        np.tensordot(
            view[:, :, :, g * depth : (g + 1) * depth],
            weights[g * each : (g + 1) * each],
            axes=((3, 4, 5), (3, 1, 2)),
        )
        for g in range(groups)
    ]
    out = np.concatenate(parts, axis=3) if groups > 1 else parts[0]
    return _activate(operator, out + operands[2] if len(operands) > 2 else out)


def _depthwise(graph: Graph, operator: Operator, operands: list[Any]) -> Floats:
    x, weights = operands[0], operands[1]
    _, kh, kw, channels = weights.shape
    view = _windows(graph, operator, x, (kh, kw), 0.0)
    per_input = weights.reshape(kh, kw, x.shape[3], channels // x.shape[3])
    out = np.zeros((*view.shape[:3], *per_input.shape[2:]), np.float32)
    for i in range(kh):  # a loop over taps is faster than einsum over a strided view
        for j in range(kw):
            out += view[..., i, j][..., None] * per_input[i, j]
    out = out.reshape(*view.shape[:3], channels)
    return _activate(operator, out + operands[2] if len(operands) > 2 else out)


def _fully_connected(graph: Graph, operator: Operator, operands: list[Any]) -> Floats:
    x, weights = operands[0], operands[1]
    out = x.reshape(len(x), -1, weights.shape[1]) @ weights.T
    return _activate(operator, out + operands[2] if len(operands) > 2 else out)


def _average_pool(graph: Graph, operator: Operator, operands: list[Any]) -> Floats:
    window = operator.attrs["window"]
    sums = _windows(graph, operator, operands[0], window, 0.0).sum(axis=(4, 5))
    counts = _windows(graph, operator, np.ones_like(operands[0][:1]), window, 0.0).sum(axis=(4, 5))
    return _activate(operator, sums / counts)


def _max_pool(graph: Graph, operator: Operator, operands: list[Any]) -> Floats:
    return _activate(operator, _windows(graph, operator, operands[0], operator.attrs["window"], -np.inf).max((4, 5)))


def _pad(graph: Graph, operator: Operator, operands: list[Any]) -> Floats:
    amounts = [tuple(int(v) for v in pair) for pair in operands[1]]
    return np.pad(operands[0], amounts)


def _softmax(graph: Graph, operator: Operator, operands: list[Any]) -> Floats:
    x = operands[0] * np.float32(operator.attrs.get("beta", 1.0))
    powers = np.exp(x - x.max(axis=-1, keepdims=True))
    result: Floats = powers / powers.sum(axis=-1, keepdims=True)
    return result


def _mean(graph: Graph, operator: Operator, operands: list[Any]) -> Floats:
    rank = len(graph.tensors[operator.inputs[0]].shape)
    axes = tuple({int(a) % rank for a in np.asarray(operands[1]).reshape(-1)})
    result: Floats = operands[0].mean(axis=axes, dtype=np.float32)
    return result


def _elementwise(function: Callable[[Any, Any], Any]) -> Callable[[Graph, Operator, list[Any]], Floats]:
    def run(graph: Graph, operator: Operator, operands: list[Any]) -> Floats:
        return _activate(operator, function(operands[0], operands[1]))

    return run


_FUNCTIONS: Mapping[str, Callable[[Graph, Operator, list[Any]], Floats]] = {
    "CONV_2D": _conv2d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "AVERAGE_POOL_2D": _average_pool,
    "MAX_POOL_2D": _max_pool,
    "ADD": _elementwise(np.add),
    "MUL": _elementwise(np.multiply),
    "PAD": _pad,
    "SOFTMAX": _softmax,
    "LOGISTIC": lambda _g, _o, operands: 1 / (1 + np.exp(-operands[0])),
    "TANH": lambda _g, _o, operands: np.tanh(operands[0]),
    "LEAKY_RELU": lambda _g, operator, operands: np.where(
        operands[0] >= 0, operands[0], operands[0] * np.float32(operator.attrs["alpha"])
    ),
    "HARD_SWISH": lambda _g, _o, operands: operands[0] * np.clip(operands[0] + 3, 0, 6) / 6,
    "RELU": lambda _g, _o, operands: np.maximum(operands[0], 0),
    "RELU6": lambda _g, _o, operands: np.clip(operands[0], 0, 6),
    "RESHAPE": lambda _g, _o, operands: operands[0],
    "CONCATENATION": lambda _g, operator, operands: np.concatenate(operands, axis=operator.attrs["axis"]),
    "TRANSPOSE": lambda _g, _o, operands: operands[0].transpose(tuple(int(a) for a in operands[1])),
    "MEAN": _mean,
    SELECT: lambda _g, operator, operands: operands[operator.attrs["safe"]],
}
