"""``.tflite`` bytes -> :class:`~rqdkm.models.graph.Graph`, with everything checked, without TVM or TensorFlow.

Field numbers are those of TensorFlow Lite's published schema (version 3).
"""

from __future__ import annotations

import dataclasses
import functools
import struct
from typing import Any

import numpy as np
import tflite

from rqdkm.models.flatbuffer import FlatbufferError, Table, root_table
from rqdkm.models.graph import CUSTOM, Graph, NDArray, Operator, Quantization, TensorInfo, shortened
from rqdkm_tvm.errors import ModelError

IDENTIFIER = b"TFL3"
SCHEMA_VERSION = 3
MAX_RANK = 6
MAX_ELEMENTS = 1 << 28  # far beyond any microcontroller, small enough to stay harmless here
MAX_OPERATORS = 10_000

_DTYPES = {
    tflite.TensorType.FLOAT32: "float32",
    tflite.TensorType.FLOAT16: "float16",
    tflite.TensorType.INT32: "int32",
    tflite.TensorType.UINT8: "uint8",
    tflite.TensorType.INT64: "int64",
    tflite.TensorType.BOOL: "bool",
    tflite.TensorType.INT16: "int16",
    tflite.TensorType.INT8: "int8",
}
_ACTIVATIONS = {
    tflite.ActivationFunctionType.NONE: "NONE",
    tflite.ActivationFunctionType.RELU: "RELU",
    tflite.ActivationFunctionType.RELU_N1_TO_1: "RELU_N1_TO_1",
    tflite.ActivationFunctionType.RELU6: "RELU6",
    tflite.ActivationFunctionType.TANH: "TANH",
    tflite.ActivationFunctionType.SIGN_BIT: "SIGN_BIT",
}
_PADDINGS = {tflite.Padding.SAME: "SAME", tflite.Padding.VALID: "VALID"}


@functools.cache
def _enum(kind: str) -> dict[int, str]:
    members = vars(getattr(tflite, kind))
    return {value: name for name, value in members.items() if isinstance(value, int)}


def read_graph(data: bytes, where: str, name: str = "model") -> Graph:
    """Parse and check a ``.tflite`` file's bytes.

    Args:
        data: the whole file.
        where: what error messages call it (its path).
        name: name of the graph.

    Raises:
        ModelError: not a TFLite file, damaged, or outside what a static int8/float network can be.
    """
    try:
        graph = _model(data, where, name)
    except FlatbufferError as error:
        raise damaged(data, where, str(error)) from error
    _check_order(graph, where)
    return graph


def damaged(data: bytes, where: str, detail: str) -> ModelError:
    """The one message for files that are not (whole) TFLite files."""
    if not data:
        return ModelError("the file is empty", where=where, hint="export or download the model again")
    if data[4:8] != IDENTIFIER:
        return ModelError(
            "this is not a TensorFlow Lite model: its bytes 4 to 7 are not 'TFL3'",
            where=where,
            hint="pass a .tflite file as tf.lite.TFLiteConverter writes it",
        )
    return ModelError(
        f"the TensorFlow Lite file is damaged or truncated ({detail})", where=where, hint="export or download it again"
    )


def _model(data: bytes, where: str, name: str) -> Graph:
    model = root_table(data, IDENTIFIER)
    version = model.integer(0, "<I")
    if version != SCHEMA_VERSION:
        raise ModelError(
            f"schema version {version} is unknown, this reader knows {SCHEMA_VERSION}",
            where=where,
            hint="convert the model again with a TensorFlow of 2.x",
        )
    subgraphs = model.tables(2)
    if len(subgraphs) != 1:
        raise ModelError(
            f"the model has {len(subgraphs)} subgraphs, one is supported",
            where=where,
            hint="export a single inference signature, without control flow (if, while)",
        )
    buffers = model.tables(4)
    opcodes = [_operator_name(code) for code in model.tables(1)]
    subgraph = subgraphs[0]
    tensors = tuple(_tensor(t, i, buffers, where) for i, t in enumerate(subgraph.tables(0)))
    tables = subgraph.tables(3)
    if not tables:
        raise ModelError("the model has no operators", where=where, hint="there is nothing to deploy")
    if len(tables) > MAX_OPERATORS:
        raise ModelError(f"the model has {len(tables)} operators, at most {MAX_OPERATORS} are supported", where=where)
    operators = tuple(_operator(t, i, opcodes, where) for i, t in enumerate(tables))
    return Graph(name, tensors, operators, _indices(subgraph, 1), _indices(subgraph, 2))


def _indices(table: Table, number: int) -> tuple[int, ...]:
    return tuple(int(i) for i in table.array(number, "<i4"))


def _operator_name(code: Table) -> str:
    # since schema 3a the code is in field 3; files written for both hold it in both, capped at 127 in field 0
    value = max(code.integer(0, "<b"), code.integer(3))
    if value == tflite.BuiltinOperator.CUSTOM:
        return f"CUSTOM({code.text(1)})"
    return _enum("BuiltinOperator").get(value, f"UNKNOWN({value})")


def _tensor(table: Table, index: int, buffers: list[Table], where: str) -> TensorInfo:
    name = table.text(3) or f"tensor_{index}"
    here = f"{where}: tensor {shortened(name)!r}"
    shape = tuple(int(d) for d in table.array(0, "<i4"))
    signature = tuple(int(d) for d in table.array(7, "<i4"))
    if len(shape) > MAX_RANK:
        raise ModelError(f"{len(shape)} dimensions, at most {MAX_RANK} are supported", where=here)
    if any(d < 1 for d in shape) or (len(signature) == len(shape) and any(d < 0 for d in signature[1:])):
        raise ModelError(
            f"its shape is dynamic or empty: {list(signature or shape)}",
            where=here,
            hint="export the model with a fixed input shape, e.g. (1, height, width, channels)",
        )
    if np.prod(shape, dtype=np.float64) > MAX_ELEMENTS:
        raise ModelError(f"the shape {list(shape)} is too large for a microcontroller", where=here)
    kind = table.integer(1, "<b")
    if kind not in _DTYPES:
        raise ModelError(
            f"its type {_enum('TensorType').get(kind, str(kind))} is not supported",
            where=here,
            hint="supported are int8 (with int32 bias) and float32 networks",
        )
    if table.table(6) is not None:
        raise ModelError("it is stored sparse", where=here, hint="export the model without sparse tensors")
    data = _constant(table, _DTYPES[kind], shape, buffers, here)
    return TensorInfo(name, shape, _DTYPES[kind], _quantization(table, shape, here), data)


def _quantization(table: Table, shape: tuple[int, ...], here: str) -> Quantization | None:
    details = table.table(4)
    if details is None:
        return None
    scales = details.array(2, "<f4").astype(np.float32)
    zero_points = details.array(3, "<i8").astype(np.int64)
    if not scales.size:
        return None
    if not zero_points.size:
        zero_points = np.zeros(scales.size, np.int64)
    axis = details.integer(6)
    if zero_points.size != scales.size:
        raise ModelError(f"{scales.size} scales but {zero_points.size} zero points", where=here)
    if not np.all(np.isfinite(scales)) or np.any(scales <= 0):
        raise ModelError("a quantization scale is not a positive number", where=here)
    if scales.size > 1 and (not 0 <= axis < len(shape) or shape[axis] != scales.size):
        raise ModelError(f"{scales.size} scales do not fit dimension {axis} of {list(shape)}", where=here)
    return Quantization(scales, zero_points, axis)


def _constant(table: Table, dtype: str, shape: tuple[int, ...], buffers: list[Table], here: str) -> NDArray | None:
    index = table.integer(2, "<I")
    if index >= len(buffers):
        raise ModelError(f"its buffer {index} does not exist, there are {len(buffers)}", where=here)
    if buffers[index].integer(1, "<Q") > 1:
        raise ModelError("its data lies outside the FlatBuffer (model over 2 GB)", where=here)
    raw = buffers[index].array(0, "<u1")
    if not raw.size:
        return None
    need = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
    if raw.size != need:
        raise ModelError(
            f"holds {raw.size} bytes, its type {dtype} and shape {list(shape)} need {need}",
            where=here,
            hint="the file is damaged; export or download it again",
        )
    values: NDArray = raw.view(np.dtype(dtype).newbyteorder("<")).reshape(shape)
    return values


def _operator(table: Table, index: int, opcodes: list[str], where: str) -> Operator:
    code = table.integer(0, "<I")
    if code >= len(opcodes):
        raise ModelError(f"operator {index} uses code {code}, there are {len(opcodes)}", where=where)
    options = table.table(4)
    kind = _enum("BuiltinOptions").get(table.integer(3, "<B"), "NONE")
    if opcodes[code].startswith("CUSTOM("):
        attrs: dict[str, Any] = {CUSTOM: table.array(5, "<u1").tobytes()}
    elif options is None:
        attrs = {}
    else:
        attrs = _attributes(kind, options, f"{where}: operator {index} ({opcodes[code]})")
    return Operator(opcodes[code], _indices(table, 1), _indices(table, 2), attrs)


def _choice(options: Table, number: int, names: dict[int, str], here: str) -> str:
    value = options.integer(number, "<b")
    if value not in names:
        raise ModelError(f"option {number} has the unknown value {value}", where=here)
    return names[value]


def _attributes(kind: str, options: Table, here: str) -> dict[str, Any]:
    def activation(number: int) -> str:
        return _choice(options, number, _ACTIVATIONS, here)

    def padding() -> str:
        return _choice(options, 0, _PADDINGS, here)

    if kind == "Conv2DOptions":
        return {
            "padding": padding(),
            "stride": (options.integer(2), options.integer(1)),
            "dilation": (options.integer(5, default=1), options.integer(4, default=1)),
            "activation": activation(3),
        }
    if kind == "DepthwiseConv2DOptions":
        return {
            "padding": padding(),
            "stride": (options.integer(2), options.integer(1)),
            "dilation": (options.integer(6, default=1), options.integer(5, default=1)),
            "activation": activation(4),
            "multiplier": options.integer(3),
        }
    if kind == "Pool2DOptions":
        return {
            "padding": padding(),
            "stride": (options.integer(2), options.integer(1)),
            "window": (options.integer(4), options.integer(3)),
            "activation": activation(5),
        }
    if kind == "FullyConnectedOptions":
        return {
            "activation": activation(0),
            "weights_format": options.integer(1, "<b"),
            "keep_dims": bool(options.integer(2, "<b")),
        }
    if kind == "SoftmaxOptions":
        return {"beta": options.real(0)}
    if kind == "ConcatenationOptions":
        return {"axis": options.integer(0), "activation": activation(1)}
    if kind in ("AddOptions", "SubOptions", "MulOptions", "DivOptions"):
        return {"activation": activation(0)}
    if kind == "ReducerOptions":
        return {"keep_dims": bool(options.integer(0, "<b"))}
    if kind == "LeakyReluOptions":
        return {"alpha": options.real(0)}
    return {}


def _check_order(graph: Graph, where: str) -> None:
    """Indices exist, every tensor is made once and before it is used, and there is something to put in and take out."""
    if not graph.inputs or not graph.outputs:
        raise ModelError("the model has no inputs or no outputs", where=where)
    count = len(graph.tensors)
    ready = set()
    for index in graph.inputs:
        if not 0 <= index < count or index in ready or graph.tensors[index].is_constant:
            raise ModelError(f"tensor {index} cannot be a model input", where=where)
        ready.add(index)
    for number, operator in enumerate(graph.operators):
        here = f"{where}: operator {number} ({operator.op})"
        for index in operator.inputs:
            if not -1 <= index < count:
                raise ModelError(f"its input tensor {index} does not exist", where=here)
            if index >= 0 and index not in ready and not graph.tensors[index].is_constant:
                raise ModelError(
                    f"its input {shortened(graph.tensors[index].name)!r} is used before it is computed", where=here
                )
        if not operator.outputs:
            raise ModelError("it has no output", where=here)
        for index in operator.outputs:
            if not 0 <= index < count or index in ready or graph.tensors[index].is_constant:
                raise ModelError(f"tensor {index} cannot be its output", where=here)
            ready.add(index)
    named: dict[str, int] = {}
    for index in sorted(ready):
        name = graph.tensors[index].name
        if named.setdefault(name, index) != index:  # importers keep tensors by name
            raise ModelError(
                f"two tensors are called {shortened(name)!r}", where=where, hint="give layers unique names"
            )
    for index in graph.outputs:
        if index not in ready or index in graph.inputs:
            raise ModelError(f"the model output {index} is not computed by any operator", where=where)


# ---- int8 at the boundary ------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Boundary:
    """Which operators only convert between the outside world and int8, and what remains without them."""

    removed: tuple[int, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]


def find_boundary(graph: Graph) -> Boundary:
    """QUANTIZE right behind a float or uint8 input and DEQUANTIZE/QUANTIZE right before such an output."""
    users: dict[int, list[int]] = {}
    maker: dict[int, int] = {}
    for number, operator in enumerate(graph.operators):
        for index in operator.inputs:
            users.setdefault(index, []).append(number)
        for index in operator.outputs:
            maker[index] = number
    removed: list[int] = []
    inputs, outputs = list(graph.inputs), list(graph.outputs)
    for place, index in enumerate(graph.inputs):
        behind = users.get(index, [])
        if len(behind) != 1 or graph.operators[behind[0]].op != "QUANTIZE" or index in graph.outputs:
            continue
        inner = graph.operators[behind[0]].outputs[0]
        if graph.tensors[inner].dtype == "int8" and graph.tensors[index].dtype != "int8" and inner not in outputs:
            removed.append(behind[0])
            inputs[place] = inner
    for place, index in enumerate(graph.outputs):
        before = maker[index]
        if graph.operators[before].op not in ("DEQUANTIZE", "QUANTIZE") or users.get(index) or before in removed:
            continue
        inner = graph.operators[before].inputs[0]
        is_int8 = graph.tensors[inner].dtype == "int8" and graph.tensors[index].dtype in ("float32", "uint8")
        if is_int8 and inner in maker and maker[inner] not in removed and inner not in outputs:
            removed.append(before)
            outputs[place] = inner
    return Boundary(tuple(sorted(removed)), tuple(inputs), tuple(outputs))


def strip_boundary(data: bytes, graph: Graph) -> tuple[bytes, Graph]:
    """The same model with int8 inputs and outputs: as file and as graph. A model that has them is returned as is.

    Only three vectors of the file change, in place: the subgraph's inputs, outputs and operators. Everything else,
    names and tensor numbers included, stays byte for byte what the user gave.
    """
    boundary = find_boundary(graph)
    if not boundary.removed or len(boundary.removed) == len(graph.operators):
        return data, graph
    edited = bytearray(data)
    subgraph = root_table(data, IDENTIFIER).tables(2)[0]
    for number, values in ((1, boundary.inputs), (2, boundary.outputs)):
        position, count = subgraph.vector(number, 4)
        struct.pack_into(f"<{count}i", edited, position, *values)
    position, count = subgraph.vector(3, 4)
    targets = [position + 4 * i + struct.unpack_from("<I", data, position + 4 * i)[0] for i in range(count)]
    kept = [target for i, target in enumerate(targets) if i not in boundary.removed]
    struct.pack_into("<I", edited, position - 4, len(kept))
    for i, target in enumerate(kept):
        struct.pack_into("<I", edited, position + 4 * i, target - (position + 4 * i))
    operators = tuple(op for i, op in enumerate(graph.operators) if i not in boundary.removed)
    stripped = dataclasses.replace(graph, operators=operators, inputs=boundary.inputs, outputs=boundary.outputs)
    return bytes(edited), stripped
