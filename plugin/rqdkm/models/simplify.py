"""Float graph -> the same network in fewer operators, as a quantizer wants it; every rewrite is exact in real numbers.

In order: constants stored as float16 become float32, SQUEEZE and EXPAND_DIMS become RESHAPE, multiplications and
additions of per-channel constants (what batch normalization leaves) go into the weights before them or become a 1x1
depthwise convolution, stand-alone RELU and RELU6 go into the operator before them. Transpositions that change layouts
(ONNX's NCHW) cancel, become reshapes where only dimensions of 1 move, or go into the weights of the fully connected
layer behind them.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from rqdkm.models.graph import Graph, NDArray, Operator, TensorInfo, prune

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
_CLAMPING = (*_WEIGHTED, "ADD", "MUL", "AVERAGE_POOL_2D", "MAX_POOL_2D")


def simplify(graph: Graph) -> Graph:
    """Apply every rewrite of this module."""
    return prune(_fuse_relu(_fold_scales(_merge_reshapes(_absorb_transposes(_as_reshape(_widen(graph)))))))


def _widen(graph: Graph) -> Graph:
    """DEQUANTIZE of a float16 constant -> float32 constant."""
    tensors = list(graph.tensors)
    operators = []
    for operator in graph.operators:
        source = graph.tensors[operator.inputs[0]] if operator.inputs else None
        if operator.op == "DEQUANTIZE" and source is not None and source.data is not None and source.dtype == "float16":
            index = operator.outputs[0]
            tensors[index] = replace(tensors[index], data=source.data.astype(np.float32))
        else:
            operators.append(operator)
    return replace(graph, tensors=tuple(tensors), operators=tuple(operators))


def _as_reshape(graph: Graph) -> Graph:
    shapes_only = ("SQUEEZE", "EXPAND_DIMS")
    operators = [
        replace(op, op="RESHAPE", inputs=op.inputs[:1], attrs={}) if op.op in shapes_only else op
        for op in graph.operators
    ]
    return replace(graph, operators=tuple(operators))


def _merge_reshapes(graph: Graph) -> Graph:
    """RESHAPE of a RESHAPE reads what the first one read; one that changes nothing goes."""
    source: dict[int, int] = {}
    alias: dict[int, int] = {}
    operators = []
    for old in graph.operators:
        operator = replace(old, inputs=tuple(alias.get(i, i) for i in old.inputs))
        if operator.op == "RESHAPE":
            data, output = operator.inputs[0], operator.outputs[0]
            data = source.get(data, data)
            source[output] = data
            operator = replace(operator, inputs=(data, *operator.inputs[1:]))
            if graph.tensors[data].shape == graph.tensors[output].shape and output not in graph.outputs:
                alias[output] = data
                continue
        operators.append(operator)
    return prune(replace(graph, operators=tuple(operators)))


def _absorb_transposes(graph: Graph) -> Graph:
    """TRANSPOSE after TRANSPOSE -> one or none; moving only ones -> RESHAPE; before flattening -> into the weights."""
    tensors = list(graph.tensors)
    operators = list(graph.operators)
    maker = {op.outputs[0]: i for i, op in enumerate(operators)}
    for number, operator in enumerate(operators):
        if operator.op == "TRANSPOSE":
            operators[number] = operator = _merged(tensors, operators, maker, operator)
            shape, axes = tensors[operator.inputs[0]].shape, _axes(tensors, operator)
            if [a for a in axes if shape[a] != 1] == sorted(a for a in axes if shape[a] != 1):
                operators[number] = Operator("RESHAPE", operator.inputs[:1], operator.outputs)
        elif operator.op == "FULLY_CONNECTED":
            operators[number] = _permuted(tensors, operators, maker, operator)
    return prune(replace(graph, tensors=tuple(tensors), operators=tuple(operators)))


def _axes(tensors: list[TensorInfo], operator: Operator) -> list[int]:
    data = tensors[operator.inputs[1]].data
    assert data is not None
    return [int(a) for a in data]


def _merged(
    tensors: list[TensorInfo], operators: list[Operator], maker: dict[int, int], operator: Operator
) -> Operator:
    before = operators[maker[operator.inputs[0]]] if operator.inputs[0] in maker else None
    if before is None or before.op != "TRANSPOSE":
        return operator
    first = _axes(tensors, before)
    axes = np.array([first[a] for a in _axes(tensors, operator)], np.int32)
    tensors.append(TensorInfo(f"{tensors[operator.outputs[0]].name}/axes", axes.shape, "int32", None, axes))
    return replace(operator, inputs=(before.inputs[0], len(tensors) - 1))


def _permuted(
    tensors: list[TensorInfo], operators: list[Operator], maker: dict[int, int], operator: Operator
) -> Operator:
    """TRANSPOSE, RESHAPE to one row, FULLY_CONNECTED -> FULLY_CONNECTED with its columns in another order."""
    weights = tensors[operator.inputs[1]]
    flat = operators[maker[operator.inputs[0]]] if operator.inputs[0] in maker else None
    moved = operators[maker[flat.inputs[0]]] if flat is not None and flat.inputs[0] in maker else None
    if flat is None or moved is None or (flat.op, moved.op) != ("RESHAPE", "TRANSPOSE"):
        return operator
    source = tensors[moved.inputs[0]]
    if weights.data is None or weights.shape[1] != source.size or source.dtype != "float32":
        return operator
    numbers = np.arange(source.size).reshape(source.shape).transpose(_axes(tensors, moved)).reshape(-1)
    permuted = np.empty_like(weights.data)
    permuted[:, numbers] = weights.data  # column j met source element numbers[j]
    kernel = _add_constant(tensors, weights.name, permuted)
    return replace(operator, inputs=(moved.inputs[0], kernel, *operator.inputs[2:]))


def _fold_scales(graph: Graph) -> Graph:
    """MUL and ADD of a constant per channel -> weights and bias of the layer before, or a 1x1 depthwise convolution."""
    tensors = list(graph.tensors)
    operators: list[Operator] = []
    users = _users(graph)
    for operator in graph.operators:
        found = _channel_constant(graph, operator)
        if found is None:
            operators.append(operator)
            continue
        data, constant = found
        before = next((i for i, op in enumerate(operators) if data in op.outputs), None)
        linear = before is not None and operators[before].op in _WEIGHTED
        alone = users.get(data) == 1 and data not in graph.outputs
        if not (linear and alone and operators[before or 0].attrs.get("activation", "NONE") == "NONE"):
            if len(graph.tensors[data].shape) != 4 or np.asarray(constant).size == 1:
                operators.append(operator)
                continue
            operators.append(_identity(tensors, data, operator.outputs[0]))
            before = len(operators) - 1
        assert before is not None
        target = operators[before]
        scale, offset = (constant, 0.0) if operator.op == "MUL" else (1.0, constant)
        operators[before] = replace(
            _scaled(tensors, target, np.float32(scale), np.float32(offset)),
            outputs=operator.outputs,
            attrs={**target.attrs, "activation": operator.attrs.get("activation", "NONE")},
        )
    return replace(graph, tensors=tuple(tensors), operators=tuple(operators))


def _channel_constant(graph: Graph, operator: Operator) -> tuple[int, NDArray] | None:
    """(data tensor, values per channel) of ``data * c`` or ``data + c``."""
    if operator.op not in ("MUL", "ADD"):
        return None
    constants = [i for i in operator.inputs if graph.tensors[i].is_constant]
    others = [i for i in operator.inputs if not graph.tensors[i].is_constant]
    if len(constants) != 1 or len(others) != 1:
        return None
    tensor, shape = graph.tensors[constants[0]], graph.tensors[others[0]].shape
    channels = shape[-1]
    per_channel = tensor.size == 1 or (tensor.size == channels and (not tensor.shape or tensor.shape[-1] == channels))
    if tensor.dtype != "float32" or not per_channel or shape != graph.tensors[operator.outputs[0]].shape:
        return None
    assert tensor.data is not None
    return others[0], np.asarray(tensor.data, np.float32).reshape(-1)


def _scaled(tensors: list[TensorInfo], operator: Operator, scale: NDArray, offset: NDArray) -> Operator:
    """``operator`` with output * scale + offset, by new weights and bias."""
    weights = tensors[operator.inputs[1]]
    assert weights.data is not None
    depthwise = operator.op == "DEPTHWISE_CONV_2D"
    channels = weights.shape[3] if depthwise else weights.shape[0]
    scale = np.broadcast_to(scale, (channels,))
    by_channel = scale if depthwise else scale.reshape(-1, *[1] * (len(weights.shape) - 1))
    bias = np.zeros(channels, np.float32)
    if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
        old = tensors[operator.inputs[2]].data
        assert old is not None
        bias = np.asarray(old, np.float32)
    new_weights = np.asarray(weights.data, np.float32) * by_channel
    new_bias = bias * scale + np.broadcast_to(offset, (channels,))
    indices = (
        _add_constant(tensors, weights.name, new_weights),
        _add_constant(tensors, f"{weights.name};bias", new_bias),
    )
    return replace(operator, inputs=(operator.inputs[0], *indices))


def _identity(tensors: list[TensorInfo], data: int, output: int) -> Operator:
    """A 1x1 depthwise convolution that copies ``data``."""
    channels = tensors[data].shape[3]
    ones = _add_constant(tensors, f"{tensors[output].name}/scale", np.ones((1, 1, 1, channels), np.float32))
    attrs = {"padding": "VALID", "stride": (1, 1), "dilation": (1, 1), "activation": "NONE", "multiplier": 1}
    return Operator("DEPTHWISE_CONV_2D", (data, ones), (output,), attrs)


def _add_constant(tensors: list[TensorInfo], name: str, data: NDArray) -> int:
    tensors.append(TensorInfo(name, data.shape, "float32", None, data.astype(np.float32)))
    return len(tensors) - 1


def _fuse_relu(graph: Graph) -> Graph:
    users = _users(graph)
    operators: list[Operator] = []
    for operator in graph.operators:
        before = next((i for i, op in enumerate(operators) if operator.inputs[0] in op.outputs), None)
        if (
            operator.op in ("RELU", "RELU6")
            and before is not None
            and operators[before].op in _CLAMPING
            and operators[before].attrs.get("activation", "NONE") == "NONE"
            and users[operator.inputs[0]] == 1
            and operator.inputs[0] not in graph.outputs
        ):
            target = operators[before]
            attrs = {**target.attrs, "activation": operator.op}
            operators[before] = replace(target, outputs=operator.outputs, attrs=attrs)
        else:
            operators.append(operator)
    return replace(graph, operators=tuple(operators))


def _users(graph: Graph) -> dict[int, int]:
    count: dict[int, int] = {}
    for operator in graph.operators:
        for index in operator.inputs:
            count[index] = count.get(index, 0) + 1
    return count
