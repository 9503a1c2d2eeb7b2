""":class:`~rqdkm.models.graph.Graph` -> ``.tflite`` bytes; the inverse of ``tflite_read`` for what ``quantize`` makes.

A model that we quantized is an ordinary TFLite int8 file: it goes through the same import as anybody's, TFLite's own
interpreter can judge it, and it can be used elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import flatbuffers  # type: ignore[import-untyped]
import numpy as np
import tflite

from rqdkm.models.graph import CUSTOM, Graph, NDArray, Operator, Quantization, TensorInfo
from rqdkm_tvm.errors import UnsupportedOperatorError

_TYPES = {
    "float32": tflite.TensorType.FLOAT32,
    "int32": tflite.TensorType.INT32,
    "int16": tflite.TensorType.INT16,
    "int8": tflite.TensorType.INT8,
    "uint8": tflite.TensorType.UINT8,
}
_ACTIVATION = tflite.ActivationFunctionType
_PADDING = tflite.Padding
# operator version that introduced the int8 kernel
_VERSIONS = {"CONV_2D": 3, "DEPTHWISE_CONV_2D": 3, "FULLY_CONNECTED": 4, "RESHAPE": 1, "QUANTIZE": 1, "DEQUANTIZE": 2}
_ALIGNMENT = 16  # of constant data, as the schema demands

Builder = Any


def write_graph(graph: Graph, description: str = "", metadata: Mapping[str, bytes] | None = None) -> bytes:
    """Serialize ``graph``. An operator with the attribute :data:`CUSTOM` is a custom one of that name.

    Args:
        metadata: further data of the file, by name.

    Raises:
        UnsupportedOperatorError: an operator :data:`_OPTIONS` does not know.
    """
    builder: Builder = flatbuffers.Builder(1 << 16)
    buffers = [_buffer(builder, None)]  # buffer 0 is empty by convention
    tensors = []
    for tensor in graph.tensors:
        index = 0
        if tensor.data is not None:
            index = len(buffers)
            buffers.append(_buffer(builder, tensor.data))
        tensors.append(_tensor(builder, tensor, index))
    names = sorted({operator.op for operator in graph.operators})
    operators = [
        _operator(builder, operator, names.index(operator.op), graph.tensors[operator.outputs[0]].shape)
        for operator in graph.operators
    ]
    codes = [_code(builder, name) for name in names]
    subgraph = _subgraph(builder, graph, tensors, operators)
    notes = []
    for name, data in (metadata or {}).items():
        notes.append(_note(builder, name, len(buffers)))
        buffers.append(_buffer(builder, np.frombuffer(data, np.uint8)))
    text = builder.CreateString(description)
    vectors = [
        _references(builder, tflite.ModelStartOperatorCodesVector, codes),
        _references(builder, tflite.ModelStartSubgraphsVector, [subgraph]),
        _references(builder, tflite.ModelStartBuffersVector, buffers),
        _references(builder, tflite.ModelStartMetadataVector, notes) if notes else None,
    ]
    tflite.ModelStart(builder)
    tflite.ModelAddVersion(builder, 3)
    tflite.ModelAddOperatorCodes(builder, vectors[0])
    tflite.ModelAddSubgraphs(builder, vectors[1])
    tflite.ModelAddDescription(builder, text)
    tflite.ModelAddBuffers(builder, vectors[2])
    if vectors[3] is not None:
        tflite.ModelAddMetadata(builder, vectors[3])
    builder.Finish(tflite.ModelEnd(builder), b"TFL3")
    return bytes(builder.Output())


def _note(builder: Builder, name: str, buffer: int) -> int:
    text = builder.CreateString(name)
    tflite.MetadataStart(builder)
    tflite.MetadataAddName(builder, text)
    tflite.MetadataAddBuffer(builder, buffer)
    return int(tflite.MetadataEnd(builder))


def _references(builder: Builder, start: Callable[[Builder, int], Any], items: list[int]) -> int:
    start(builder, len(items))
    for item in reversed(items):
        builder.PrependUOffsetTRelative(item)
    return int(builder.EndVector())


def _numbers(builder: Builder, values: Any, dtype: str) -> int:
    return int(builder.CreateNumpyVector(np.ascontiguousarray(values, dtype)))


def _buffer(builder: Builder, data: NDArray | None) -> int:
    vector = None
    if data is not None:
        raw = np.ascontiguousarray(data).tobytes()
        builder.StartVector(1, len(raw), _ALIGNMENT)
        builder.head -= len(raw)
        builder.Bytes[builder.head : builder.head + len(raw)] = raw
        vector = builder.EndVector()
    tflite.BufferStart(builder)
    if vector is not None:
        tflite.BufferAddData(builder, vector)
    return int(tflite.BufferEnd(builder))


def _quantization(builder: Builder, quantization: Quantization) -> int:
    scales = _numbers(builder, quantization.scales, "<f4")
    zero_points = _numbers(builder, quantization.zero_points, "<i8")
    tflite.QuantizationParametersStart(builder)
    tflite.QuantizationParametersAddScale(builder, scales)
    tflite.QuantizationParametersAddZeroPoint(builder, zero_points)
    tflite.QuantizationParametersAddQuantizedDimension(builder, quantization.axis)
    return int(tflite.QuantizationParametersEnd(builder))


def _tensor(builder: Builder, tensor: TensorInfo, buffer: int) -> int:
    name = builder.CreateString(tensor.name)
    shape = _numbers(builder, np.array(tensor.shape, np.int32), "<i4")
    quantization = None if tensor.quantization is None else _quantization(builder, tensor.quantization)
    tflite.TensorStart(builder)
    tflite.TensorAddShape(builder, shape)
    tflite.TensorAddType(builder, _TYPES[tensor.dtype])
    tflite.TensorAddBuffer(builder, buffer)
    tflite.TensorAddName(builder, name)
    if quantization is not None:
        tflite.TensorAddQuantization(builder, quantization)
    return int(tflite.TensorEnd(builder))


def _code(builder: Builder, name: str) -> int:
    value = getattr(tflite.BuiltinOperator, name, tflite.BuiltinOperator.CUSTOM)
    custom = value == tflite.BuiltinOperator.CUSTOM
    text = builder.CreateString(name) if custom else None
    tflite.OperatorCodeStart(builder)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, min(value, 127))
    tflite.OperatorCodeAddVersion(builder, 1 if custom else _VERSIONS.get(name, 2))
    tflite.OperatorCodeAddBuiltinCode(builder, value)
    if text is not None:
        tflite.OperatorCodeAddCustomCode(builder, text)
    return int(tflite.OperatorCodeEnd(builder))


def _operator(builder: Builder, operator: Operator, code: int, shape: tuple[int, ...]) -> int:
    entry = ("NONE", None) if CUSTOM in operator.attrs else _OPTIONS.get(operator.op)
    if entry is None:
        raise UnsupportedOperatorError(f"cannot write operator {operator.op} to a .tflite file")
    kind, write = entry
    inputs = _numbers(builder, operator.inputs, "<i4")
    outputs = _numbers(builder, operator.outputs, "<i4")
    options = write(builder, {**operator.attrs, "shape": shape}) if write else None
    custom = builder.CreateByteVector(operator.attrs[CUSTOM]) if CUSTOM in operator.attrs else None
    tflite.OperatorStart(builder)
    tflite.OperatorAddOpcodeIndex(builder, code)
    tflite.OperatorAddInputs(builder, inputs)
    tflite.OperatorAddOutputs(builder, outputs)
    if options is not None:
        tflite.OperatorAddBuiltinOptionsType(builder, getattr(tflite.BuiltinOptions, kind))
        tflite.OperatorAddBuiltinOptions(builder, options)
    if custom is not None:
        tflite.OperatorAddCustomOptions(builder, custom)
    return int(tflite.OperatorEnd(builder))


def _subgraph(builder: Builder, graph: Graph, tensors: list[int], operators: list[int]) -> int:
    inputs = _numbers(builder, graph.inputs, "<i4")
    outputs = _numbers(builder, graph.outputs, "<i4")
    tensor_vector = _references(builder, tflite.SubGraphStartTensorsVector, tensors)
    operator_vector = _references(builder, tflite.SubGraphStartOperatorsVector, operators)
    name = builder.CreateString(graph.name)
    tflite.SubGraphStart(builder)
    tflite.SubGraphAddTensors(builder, tensor_vector)
    tflite.SubGraphAddInputs(builder, inputs)
    tflite.SubGraphAddOutputs(builder, outputs)
    tflite.SubGraphAddOperators(builder, operator_vector)
    tflite.SubGraphAddName(builder, name)
    return int(tflite.SubGraphEnd(builder))


# ---- options -------------------------------------------------------------------------------------------------------


def _generic(kind: str, *fields: tuple[str, Callable[[Mapping[str, Any]], Any]]) -> Callable[[Builder, Any], int]:
    """A writer of options table ``kind`` from ``(schema field, attrs -> value)`` pairs."""

    def write(builder: Builder, attrs: Mapping[str, Any]) -> int:
        getattr(tflite, f"{kind}Start")(builder)
        for name, value in fields:
            getattr(tflite, f"{kind}Add{name}")(builder, value(attrs))
        return int(getattr(tflite, f"{kind}End")(builder))

    return write


def _reshape(builder: Builder, attrs: Mapping[str, Any]) -> int:
    """The shape stands in the options, so that the operator needs no second input."""
    shape = _numbers(builder, attrs["shape"], "<i4")
    tflite.ReshapeOptionsStart(builder)
    tflite.ReshapeOptionsAddNewShape(builder, shape)
    return int(tflite.ReshapeOptionsEnd(builder))


_ACT = ("FusedActivationFunction", lambda a: getattr(_ACTIVATION, a.get("activation", "NONE")))
_PAD = ("Padding", lambda a: getattr(_PADDING, a["padding"]))
_STRIDES = (("StrideW", lambda a: a["stride"][1]), ("StrideH", lambda a: a["stride"][0]))
_DILATION = (
    ("DilationWFactor", lambda a: a.get("dilation", (1, 1))[1]),
    ("DilationHFactor", lambda a: a.get("dilation", (1, 1))[0]),
)
_WINDOW = (("FilterWidth", lambda a: a["window"][1]), ("FilterHeight", lambda a: a["window"][0]))

_OPTION_TABLES: Mapping[str, tuple[tuple[str, Callable[[Mapping[str, Any]], Any]], ...]] = {
    "Conv2DOptions": (_PAD, *_STRIDES, _ACT, *_DILATION),
    "DepthwiseConv2DOptions": (_PAD, *_STRIDES, ("DepthMultiplier", lambda a: a["multiplier"]), _ACT, *_DILATION),
    "Pool2DOptions": (_PAD, *_STRIDES, *_WINDOW, _ACT),
    "FullyConnectedOptions": (_ACT, ("KeepNumDims", lambda a: a.get("keep_dims", False))),
    "SoftmaxOptions": (("Beta", lambda a: a.get("beta", 1.0)),),
    "ConcatenationOptions": (("Axis", lambda a: a["axis"]), _ACT),
    "AddOptions": (_ACT,),
    "MulOptions": (_ACT,),
    "ReducerOptions": (("KeepDims", lambda a: a.get("keep_dims", False)),),
    "LeakyReluOptions": (("Alpha", lambda a: a["alpha"]),),
    "HardSwishOptions": (),
    "PadOptions": (),
    "TransposeOptions": (),
}
_KINDS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "AVERAGE_POOL_2D": "Pool2DOptions",
    "MAX_POOL_2D": "Pool2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "SOFTMAX": "SoftmaxOptions",
    "CONCATENATION": "ConcatenationOptions",
    "ADD": "AddOptions",
    "MUL": "MulOptions",
    "MEAN": "ReducerOptions",
    "LEAKY_RELU": "LeakyReluOptions",
    "HARD_SWISH": "HardSwishOptions",
    "PAD": "PadOptions",
    "TRANSPOSE": "TransposeOptions",
}
_OPTIONS: Mapping[str, tuple[str, Callable[[Builder, Any], int] | None]] = {
    **{op: (kind, _generic(kind, *_OPTION_TABLES[kind])) for op, kind in _KINDS.items()},
    "RESHAPE": ("ReshapeOptions", _reshape),
    **dict.fromkeys(("LOGISTIC", "TANH", "RELU", "RELU6", "QUANTIZE", "DEQUANTIZE"), ("NONE", None)),
}
