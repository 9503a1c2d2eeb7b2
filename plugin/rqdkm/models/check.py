"""Does a graph make sense as a static network? Shapes, strides, weights and quantization of every operator.

Importers and interpreters trust these; a damaged file must end here, with a sentence, and not inside them.
Operators that are not listed in :data:`_RULES` only get the generic checks.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from rqdkm.models.graph import SELECT, Graph, Operator, Quantization, TensorInfo, layer_names, shortened
from rqdkm_tvm.errors import ModelError

_DAMAGED = "the file is damaged, or its converter did something unusual; export it again"
_RETRAIN = (
    "quantize with tf.lite.TFLiteConverter: optimizations=[DEFAULT], a representative_dataset and "
    "supported_ops=[TFLITE_BUILTINS_INT8]; or pass the float model with --calib and let rqdkm quantize it"
)


class _LayerError(ModelError):
    """A finding about one operator; ``check`` adds file and layer."""


def check(graph: Graph, where: str) -> None:
    """Raise a :class:`ModelError` naming layer and operator at the first thing that cannot be right.

    Args:
        graph: as read; boundary conversions already stripped (see ``tflite_read.strip_boundary``).
        where: the file, for messages.
    """
    for index in graph.inputs:
        tensor = graph.tensors[index]
        if len(tensor.shape) > 1 and tensor.shape[0] != 1:
            raise ModelError(
                f"the batch size is {tensor.shape[0]}, firmware runs one input at a time",
                where=f"{where}: input {shortened(tensor.name)!r}",
                hint="export the model with batch size 1",
            )
    for operator, layer in zip(graph.operators, layer_names(graph), strict=True):
        try:
            _check_types(graph, operator)
            rule = _RULES.get(operator.op)
            if rule is not None:
                rule(graph, operator)
        except _LayerError as problem:
            raise ModelError(
                problem.what, where=f"{where}: layer {layer!r} ({operator.op})", hint=problem.hint or _DAMAGED
            ) from None


def conv_output_size(size: int, window: int, stride: int, dilation: int, padding: str) -> int:
    """Output height or width: TFLite's ``ComputeOutSize``."""
    reach = (window - 1) * dilation + 1
    return -(-size // stride) if padding == "SAME" else (size - reach + stride) // stride


def same_padding(size: int, window: int, stride: int, dilation: int, out: int) -> tuple[int, int]:
    """(before, after) of SAME padding; the odd element goes behind."""
    total = max(0, (out - 1) * stride + (window - 1) * dilation + 1 - size)
    return total // 2, total - total // 2


def _need(condition: object, what: str, hint: str = "") -> None:
    if not condition:
        raise _LayerError(what, hint=hint)


def _tensor(graph: Graph, operator: Operator, place: int) -> TensorInfo:
    _need(place < len(operator.inputs) and operator.inputs[place] >= 0, f"its input {place} is missing")
    return graph.tensors[operator.inputs[place]]


def _output(graph: Graph, operator: Operator) -> TensorInfo:
    return graph.tensors[operator.outputs[0]]


def _check_types(graph: Graph, operator: Operator) -> None:
    floats = ints = 0
    for index in (*operator.inputs, *operator.outputs):
        if index < 0:
            continue
        tensor = graph.tensors[index]
        q = tensor.quantization
        _need(
            not (tensor.dtype == "uint8" and q is not None),
            f"tensor {shortened(tensor.name)!r} uses the legacy uint8 quantization",
            _RETRAIN,
        )
        _need(
            not (tensor.dtype == "int16" and q is not None),
            f"tensor {shortened(tensor.name)!r} uses 16-bit activations, which are not supported",
            _RETRAIN,
        )
        if tensor.dtype == "int8" and q is not None:
            name = shortened(tensor.name)
            _need(np.all((q.zero_points >= -128) & (q.zero_points <= 127)), f"zero point of {name!r} is not int8")
            _need(tensor.is_constant or not q.per_channel, f"activation {name!r} is quantized per channel")
        if not tensor.is_constant:
            floats += tensor.dtype in ("float32", "float16")
            ints += tensor.dtype == "int8"
    if operator.op in ("QUANTIZE", "DEQUANTIZE"):
        return
    _need(not (floats and ints), "it mixes float and int8 activations", _RETRAIN)
    if floats and operator.op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
        _need(
            _tensor(graph, operator, 1).dtype != "int8",
            "its weights are int8 but its activations are float (dynamic-range quantization)",
            _RETRAIN,
        )
    if ints:
        for index in (*graph.activations(operator), *operator.outputs):
            tensor = graph.tensors[index]
            name = shortened(tensor.name)
            _need(tensor.dtype != "int8" or tensor.quantization, f"int8 tensor {name!r} has no scale", _RETRAIN)


def _window(operator: Operator, size: tuple[int, ...], window: tuple[int, ...], out: tuple[int, ...]) -> None:
    stride, dilation = operator.attrs["stride"], operator.attrs.get("dilation", (1, 1))
    _need(min(*stride, *dilation, *window) >= 1, f"stride {stride}, dilation {dilation} or window {window} is below 1")
    _need(
        max(*stride, *dilation, *window) < 1 << 16,
        f"stride {stride}, dilation {dilation} or window {window} is too large",
    )
    expected = tuple(
        conv_output_size(size[i], window[i], stride[i], dilation[i], operator.attrs["padding"]) for i in (0, 1)
    )
    _need(expected == out, f"its output should be {expected} high and wide, the file says {out}")


def _activation(operator: Operator) -> None:
    kind = operator.attrs.get("activation", "NONE")
    _need(kind in ("NONE", "RELU", "RELU6", "RELU_N1_TO_1"), f"its fused activation {kind} is not supported")


def _bias(graph: Graph, operator: Operator, channels: int, weights: TensorInfo) -> None:
    if len(operator.inputs) < 3 or operator.inputs[2] < 0:
        return
    bias = _tensor(graph, operator, 2)
    _need(bias.size == channels, f"{bias.size} biases for {channels} output channels")
    _need(bias.is_constant, "its bias is not constant", "export the model with frozen weights")
    wanted = "int32" if weights.dtype == "int8" else ("float32", "float16")
    _need(bias.dtype in wanted, f"its bias is {bias.dtype}")


def _weights(graph: Graph, operator: Operator, axis: int) -> TensorInfo:
    weights = _tensor(graph, operator, 1)
    _need(weights.is_constant or weights.dtype == "float32", "its weights are not constant", "freeze the model")
    if weights.dtype != "int8":
        return weights
    q: Quantization | None = weights.quantization
    _need(q is not None, "its int8 weights have no scale", _RETRAIN)
    assert q is not None
    _need(not np.any(q.zero_points), "its weights are not symmetric (zero point is not 0)", _RETRAIN)
    _need(not q.per_channel or q.axis == axis, f"its weights are quantized along dimension {q.axis}, not {axis}")
    return weights


def _conv2d(graph: Graph, operator: Operator) -> None:
    _need(operator.attrs, "its options are missing")
    data, out, weights = _tensor(graph, operator, 0), _output(graph, operator), _weights(graph, operator, 0)
    _need(len(data.shape) == len(weights.shape) == len(out.shape) == 4, "its tensors do not have 4 dimensions")
    channels, height, width, per_group = weights.shape
    _need(data.shape[3] % per_group == 0, f"{per_group} input channels per filter do not divide {data.shape[3]}")
    groups = data.shape[3] // per_group
    _need(channels % groups == 0, f"{groups} groups do not divide {channels} output channels")
    _need(out.shape[3] == channels and out.shape[0] == data.shape[0], "its weights and its output disagree")
    _window(operator, data.shape[1:3], (height, width), out.shape[1:3])
    _bias(graph, operator, channels, weights)
    _activation(operator)


def _depthwise(graph: Graph, operator: Operator) -> None:
    _need(operator.attrs, "its options are missing")
    data, out, weights = _tensor(graph, operator, 0), _output(graph, operator), _weights(graph, operator, 3)
    _need(len(data.shape) == len(weights.shape) == len(out.shape) == 4, "its tensors do not have 4 dimensions")
    channels = weights.shape[3]
    _need(weights.shape[0] == 1, "its weights do not start with dimension 1")
    _need(operator.attrs["multiplier"] * data.shape[3] == channels, "depth multiplier, input and weights disagree")
    _need(out.shape[3] == channels and out.shape[0] == data.shape[0], "its weights and its output disagree")
    _window(operator, data.shape[1:3], weights.shape[1:3], out.shape[1:3])
    _bias(graph, operator, channels, weights)
    _activation(operator)


def _fully_connected(graph: Graph, operator: Operator) -> None:
    data, out, weights = _tensor(graph, operator, 0), _output(graph, operator), _weights(graph, operator, 0)
    _need(operator.attrs.get("weights_format", 0) == 0, "its weights are stored shuffled")
    _need(len(weights.shape) == 2, "its weights do not have 2 dimensions")
    units, depth = weights.shape
    _need(data.size % depth == 0, f"{data.size} inputs do not fit {depth} weights per unit")
    _need(out.size == data.size // depth * units and out.shape[-1] == units, "its weights and its output disagree")
    _bias(graph, operator, units, weights)
    _activation(operator)


def _same_quantization(graph: Graph, operator: Operator) -> None:
    data, out = _tensor(graph, operator, 0), _output(graph, operator)
    _need(data.dtype == out.dtype, f"input is {data.dtype}, output is {out.dtype}")
    if data.dtype == "int8" and data.quantization and out.quantization:
        _need(data.quantization.same(out.quantization), "its input and output scales differ; TFLite wants them equal")


def _pool2d(graph: Graph, operator: Operator) -> None:
    _need(operator.attrs, "its options are missing")
    data, out = _tensor(graph, operator, 0), _output(graph, operator)
    _need(len(data.shape) == len(out.shape) == 4, "its tensors do not have 4 dimensions")
    _need(data.shape[3] == out.shape[3] and data.shape[0] == out.shape[0], "input and output channels differ")
    _window(operator, data.shape[1:3], operator.attrs["window"], out.shape[1:3])
    _same_quantization(graph, operator)
    _activation(operator)


def _elementwise(graph: Graph, operator: Operator) -> None:
    left, right, out = _tensor(graph, operator, 0), _tensor(graph, operator, 1), _output(graph, operator)
    _need(left.dtype == right.dtype == out.dtype, "its operands have different types")
    try:
        shape = np.broadcast_shapes(left.shape, right.shape)
    except ValueError:
        raise _LayerError(f"its operands {left.shape} and {right.shape} do not fit together") from None
    _need(shape == out.shape, f"its operands give {shape}, the file says {out.shape}")
    _activation(operator)


def _reshape(graph: Graph, operator: Operator) -> None:
    data, out = _tensor(graph, operator, 0), _output(graph, operator)
    _need(data.size == out.size, f"{data.shape} cannot become {out.shape}")
    _same_quantization(graph, operator)


def _unchanged_shape(graph: Graph, operator: Operator) -> None:
    data, out = _tensor(graph, operator, 0), _output(graph, operator)
    _need(data.shape == out.shape, f"its input is {data.shape}, its output {out.shape}")


def _fixed_output(graph: Graph, operator: Operator) -> None:
    """Softmax and logistic in int8: TFLite fixes the output to scale 1/256, zero point -128."""
    _unchanged_shape(graph, operator)
    out = _output(graph, operator)
    _need(_tensor(graph, operator, 0).dtype == out.dtype, "input and output types differ")
    if out.dtype == "int8" and out.quantization:
        q = out.quantization
        _need(abs(q.scale - 1 / 256) < 1e-6 and q.zero_point == -128, "its output is not in 1/256 steps from -128")


def _concatenation(graph: Graph, operator: Operator) -> None:
    _need(operator.attrs and operator.inputs, "its options are missing")
    out = _output(graph, operator)
    axis = operator.attrs["axis"] + (len(out.shape) if operator.attrs["axis"] < 0 else 0)
    _need(0 <= axis < len(out.shape), f"axis {axis} does not exist")
    total = 0
    for place in range(len(operator.inputs)):
        part = _tensor(graph, operator, place)
        rest = part.shape[:axis] + part.shape[axis + 1 :]
        _need(rest == out.shape[:axis] + out.shape[axis + 1 :] and len(part.shape) == len(out.shape), "shapes differ")
        _need(part.dtype == out.dtype, "its operands have different types")
        total += part.shape[axis]
    _need(total == out.shape[axis], "its operands do not add up to its output")


def _select(graph: Graph, operator: Operator) -> None:
    """A morphing layer's kernels, see :mod:`rqdkm.models.morph_file`."""
    out = _output(graph, operator)
    for place in range(len(operator.inputs)):
        result = _tensor(graph, operator, place)
        _need(result.shape == out.shape, f"kernel {place} gives {result.shape}, the layer {out.shape}")
        _need(result.dtype == out.dtype, f"kernel {place} gives {result.dtype}, the layer {out.dtype}")


def _pad(graph: Graph, operator: Operator) -> None:
    data, amounts, out = _tensor(graph, operator, 0), _tensor(graph, operator, 1), _output(graph, operator)
    _need(amounts.is_constant and amounts.dtype in ("int32", "int64"), "its padding amounts are not constant")
    assert amounts.data is not None
    _need(amounts.shape == (len(data.shape), 2), "padding amounts do not fit its input")
    _need(np.all((amounts.data >= 0) & (amounts.data < 1 << 16)), "a padding amount is negative or absurd")
    padded = tuple(int(d + a.sum()) for d, a in zip(data.shape, amounts.data, strict=True))
    _need(padded == out.shape, f"its input padded is {padded}, the file says {out.shape}")


def _reduce(graph: Graph, operator: Operator) -> None:
    data, axes, out = _tensor(graph, operator, 0), _tensor(graph, operator, 1), _output(graph, operator)
    _need(axes.is_constant and axes.dtype == "int32", "its axes are not constant")
    assert axes.data is not None
    rank = len(data.shape)
    _need(np.all((axes.data >= -rank) & (axes.data < rank)), "an axis does not exist")
    reduced = {int(a) % rank for a in axes.data.reshape(-1)}
    kept = tuple(1 if i in reduced else d for i, d in enumerate(data.shape))
    if not operator.attrs.get("keep_dims", False):
        kept = tuple(d for i, d in enumerate(data.shape) if i not in reduced)
    _need(kept == out.shape, f"its output should be {kept}, the file says {out.shape}")


_RULES: dict[str, Callable[[Graph, Operator], None]] = {
    "CONV_2D": _conv2d,
    "DEPTHWISE_CONV_2D": _depthwise,
    "FULLY_CONNECTED": _fully_connected,
    "AVERAGE_POOL_2D": _pool2d,
    "MAX_POOL_2D": _pool2d,
    "ADD": _elementwise,
    "SUB": _elementwise,
    "MUL": _elementwise,
    "RESHAPE": _reshape,
    "SOFTMAX": _fixed_output,
    "LOGISTIC": _fixed_output,
    "RELU": _unchanged_shape,
    "RELU6": _unchanged_shape,
    "CONCATENATION": _concatenation,
    SELECT: _select,
    "PAD": _pad,
    "PADV2": _pad,
    "MEAN": _reduce,
}
