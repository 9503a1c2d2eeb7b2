"""One-operator .tflite models from a :class:`Layer`, run by TFLite Micro's reference kernels.

``reference_outputs`` is the oracle of the kernel tests: it writes the models and starts this file as a program of its
own, since the interpreter must not share a process with TVM.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.layer import Layer, Tensor

Array = npt.NDArray[Any]

ACTIVATIONS = {"none": 0, "relu": 1, "relu_n1_to_1": 2, "relu6": 3}
_LIMITS = {"none": (None, None), "relu": (0.0, None), "relu_n1_to_1": (-1.0, 1.0), "relu6": (0.0, 6.0)}
_TYPES = {"float32": 0, "int32": 2, "int8": 9}


def activation_clamp(activation: str, output: Tensor) -> tuple[int, int]:
    """TFLite's ``CalculateActivationRangeQuantized``: the fused activation in output units."""

    def quantized(value: float) -> int:
        ratio = float(np.float32(value) / np.float32(output.scale))
        return output.zero_point + int(np.sign(ratio) * np.floor(abs(ratio) + 0.5))

    low, high = _LIMITS[activation]
    return (
        -128 if low is None else max(-128, quantized(low)),
        127 if high is None else min(127, quantized(high)),
    )


def same_padding(size: int, kernel: int, stride: int, dilation: int = 1) -> tuple[int, int, int]:
    """TFLite's SAME: (output size, padding before, padding after)."""
    output = -(-size // stride)
    total = max(0, (output - 1) * stride + (kernel - 1) * dilation + 1 - size)
    return output, total // 2, total - total // 2


@dataclass(frozen=True)
class OneOp:
    """A layer and what a .tflite operator says differently.

    Args:
        layer: with padding attributes that agree with ``padding``, and a clamp that agrees with ``activation``.
        inputs: one array per non-constant input.
        padding: "same" or "valid".
        activation: a key of :data:`ACTIVATIONS`.
    """

    layer: Layer
    inputs: Sequence[Array]
    padding: str = "valid"
    activation: str = "none"


def reference_outputs(cases: Sequence[OneOp]) -> list[Array]:
    """The reference interpreter's output of every case."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        for index, case in enumerate(cases):
            (root / f"{index}.tflite").write_bytes(model_bytes(case))
            np.savez(root / f"{index}.npz", *case.inputs)
        (root / "count.json").write_text(json.dumps(len(cases)))
        result = subprocess.run([sys.executable, __file__, folder], capture_output=True, text=True, check=False)
        if result.returncode != 0:
            raise RuntimeError(f"reference interpreter failed:\n{result.stdout[-2000:]}\n{result.stderr[-2000:]}")
        return [np.load(root / f"{index}.out.npy") for index in range(len(cases))]


# ---- the flatbuffer --------------------------------------------------------------------------------------------------


@dataclass
class _Graph:
    """Tensors and buffers of a model under construction; buffer 0 is the empty one."""

    builder: Any
    tensors: list[int] = field(default_factory=list)
    buffers: list[bytes] = field(default_factory=lambda: [b""])

    def add(self, tensor: Tensor, data: Array | None = None, scales: Array | None = None, axis: int = 0) -> int:
        """Append a tensor (constant if ``data`` is given) and return its index."""
        import tflite

        b = self.builder
        buffer = 0
        if data is not None:
            buffer = len(self.buffers)
            self.buffers.append(np.ascontiguousarray(data).tobytes())
        shape = b.CreateNumpyVector(np.array(tensor.shape, np.int32))
        name = b.CreateString(f"t{len(self.tensors)}")
        quantization = None
        if tensor.dtype != "float32":
            values = np.array([tensor.scale], np.float32) if scales is None else np.asarray(scales, np.float32)
            scale = b.CreateNumpyVector(values)
            zero = b.CreateNumpyVector(np.full(values.size, tensor.zero_point, np.int64))
            tflite.QuantizationParametersStart(b)
            tflite.QuantizationParametersAddScale(b, scale)
            tflite.QuantizationParametersAddZeroPoint(b, zero)
            tflite.QuantizationParametersAddQuantizedDimension(b, axis)
            quantization = tflite.QuantizationParametersEnd(b)
        tflite.TensorStart(b)
        tflite.TensorAddShape(b, shape)
        tflite.TensorAddType(b, _TYPES[tensor.dtype])
        tflite.TensorAddBuffer(b, buffer)
        tflite.TensorAddName(b, name)
        if quantization is not None:
            tflite.TensorAddQuantization(b, quantization)
        self.tensors.append(tflite.TensorEnd(b))
        return len(self.tensors) - 1

    def add_int32(self, values: Sequence[int]) -> int:
        data = np.array(values, np.int32)
        return self.add(Tensor(data.shape, "int32"), data)


_OPERATORS = {
    "conv2d": "CONV_2D",
    "depthwise_conv2d": "DEPTHWISE_CONV_2D",
    "fully_connected": "FULLY_CONNECTED",
    "avg_pool2d": "AVERAGE_POOL_2D",
    "max_pool2d": "MAX_POOL_2D",
    "add": "ADD",
    "mul": "MUL",
    "pad": "PAD",
    "softmax": "SOFTMAX",
    "logistic": "LOGISTIC",
    "reshape": "RESHAPE",
    "concatenate": "CONCATENATION",
    "relu": "RELU",
    "clip": "RELU6",
    "leaky_relu": "LEAKY_RELU",
    "tanh": "TANH",
    "hard_swish": "HARD_SWISH",
    "elu": "ELU",
    "requantize": "QUANTIZE",
    "quantize": "QUANTIZE",
    "dequantize": "DEQUANTIZE",
    "mean": "MEAN",
}


def model_bytes(case: OneOp) -> bytes:
    """The .tflite file of one operator."""
    import flatbuffers
    import tflite

    b = flatbuffers.Builder(1024)
    graph = _Graph(b)
    layer = case.layer
    model_inputs = [graph.add(tensor) for tensor in layer.inputs]
    operands = model_inputs + _constants(graph, layer)
    output = graph.add(layer.output)
    options_type, options = _options(b, case)

    operand_vector = b.CreateNumpyVector(np.array(operands, np.int32))
    output_vector = b.CreateNumpyVector(np.array([output], np.int32))
    tflite.OperatorStart(b)
    tflite.OperatorAddOpcodeIndex(b, 0)
    tflite.OperatorAddInputs(b, operand_vector)
    tflite.OperatorAddOutputs(b, output_vector)
    if options is not None:
        tflite.OperatorAddBuiltinOptionsType(b, options_type)
        tflite.OperatorAddBuiltinOptions(b, options)
    operators = _vector(b, [tflite.OperatorEnd(b)])
    tensors = _vector(b, graph.tensors)
    input_vector = b.CreateNumpyVector(np.array(model_inputs, np.int32))
    result_vector = b.CreateNumpyVector(np.array([output], np.int32))
    tflite.SubGraphStart(b)
    tflite.SubGraphAddTensors(b, tensors)
    tflite.SubGraphAddInputs(b, input_vector)
    tflite.SubGraphAddOutputs(b, result_vector)
    tflite.SubGraphAddOperators(b, operators)
    subgraphs = _vector(b, [tflite.SubGraphEnd(b)])

    code = getattr(tflite.BuiltinOperator, _OPERATORS[layer.op])
    tflite.OperatorCodeStart(b)
    tflite.OperatorCodeAddDeprecatedBuiltinCode(b, min(code, 127))
    tflite.OperatorCodeAddBuiltinCode(b, code)
    tflite.OperatorCodeAddVersion(b, 2)
    codes = _vector(b, [tflite.OperatorCodeEnd(b)])
    buffers = []
    for data in graph.buffers:
        payload = b.CreateNumpyVector(np.frombuffer(data, np.uint8)) if data else None
        tflite.BufferStart(b)
        if payload is not None:
            tflite.BufferAddData(b, payload)
        buffers.append(tflite.BufferEnd(b))
    buffer_vector = _vector(b, buffers)
    tflite.ModelStart(b)
    tflite.ModelAddVersion(b, 3)
    tflite.ModelAddOperatorCodes(b, codes)
    tflite.ModelAddSubgraphs(b, subgraphs)
    tflite.ModelAddBuffers(b, buffer_vector)
    b.Finish(tflite.ModelEnd(b), b"TFL3")
    return bytes(b.Output())


def _vector(b: Any, offsets: list[int]) -> int:
    b.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        b.PrependUOffsetTRelative(offset)
    return int(b.EndVector())


def _constants(graph: _Graph, layer: Layer) -> list[int]:
    """The operator's constant operands, after its inputs."""
    if layer.weights is not None:
        assert layer.weight_scales is not None
        scales = np.ravel(np.asarray(layer.weight_scales, np.float32))
        axis = 3 if layer.op == "depthwise_conv2d" else 0
        weights = Tensor(layer.weights.shape, str(layer.weights.dtype), zero_point=layer.weight_zero_point)
        operands = [graph.add(weights, layer.weights, scales, axis)]
        if layer.bias is not None:
            bias = np.asarray(layer.bias, np.int32).ravel()
            operands.append(graph.add(Tensor(bias.shape, "int32"), bias, scales * np.float32(layer.inputs[0].scale)))
        return operands
    if layer.op == "pad":
        widths = np.array(layer.attrs["pad_width"], np.int32)
        return [graph.add(Tensor(widths.shape, "int32"), widths)]
    if layer.op == "mean":
        return [graph.add_int32([int(axis) for axis in layer.attrs["axes"]])]
    if layer.op == "reshape":
        return [graph.add_int32(layer.output.shape)]
    return []


def _options(b: Any, case: OneOp) -> tuple[int, int | None]:
    """(type, offset) of the operator's options table, as flatbuffers' object name says."""
    import tflite

    layer, attrs = case.layer, case.layer.attrs
    padding = {"same": 0, "valid": 1}[case.padding]
    activation = ACTIVATIONS[case.activation]
    name, fields = {
        "conv2d": lambda: (
            "Conv2DOptions",
            {
                "Padding": padding,
                "StrideH": attrs["strides"][0],
                "StrideW": attrs["strides"][1],
                "DilationHFactor": attrs["dilation"][0],
                "DilationWFactor": attrs["dilation"][1],
                "FusedActivationFunction": activation,
            },
        ),
        "depthwise_conv2d": lambda: (
            "DepthwiseConv2DOptions",
            {
                "Padding": padding,
                "StrideH": attrs["strides"][0],
                "StrideW": attrs["strides"][1],
                "DepthMultiplier": attrs["multiplier"],
                "DilationHFactor": attrs["dilation"][0],
                "DilationWFactor": attrs["dilation"][1],
                "FusedActivationFunction": activation,
            },
        ),
        "fully_connected": lambda: ("FullyConnectedOptions", {"FusedActivationFunction": activation}),
        "avg_pool2d": lambda: _pool_options(attrs, padding, activation),
        "max_pool2d": lambda: _pool_options(attrs, padding, activation),
        "add": lambda: ("AddOptions", {"FusedActivationFunction": activation}),
        "mul": lambda: ("MulOptions", {"FusedActivationFunction": activation}),
        "pad": lambda: ("PadOptions", {}),
        "softmax": lambda: ("SoftmaxOptions", {"Beta": attrs["beta"]}),
        "reshape": lambda: ("ReshapeOptions", {}),
        "concatenate": lambda: ("ConcatenationOptions", {"Axis": attrs["axis"]}),
        "leaky_relu": lambda: ("LeakyReluOptions", {"Alpha": attrs["alpha"]}),
        "mean": lambda: ("ReducerOptions", {"KeepDims": attrs["keepdims"]}),
    }.get(layer.op, lambda: ("", {}))()
    if not name:
        return 0, None
    getattr(tflite, f"{name}Start")(b)
    for key, value in fields.items():
        getattr(tflite, f"{name}Add{key}")(b, value)
    return int(getattr(tflite.BuiltinOptions, name)), int(getattr(tflite, f"{name}End")(b))


def _pool_options(attrs: Any, padding: int, activation: int) -> tuple[str, dict[str, int]]:
    return (
        "Pool2DOptions",
        {
            "Padding": padding,
            "StrideH": attrs["strides"][0],
            "StrideW": attrs["strides"][1],
            "FilterHeight": attrs["pool"][0],
            "FilterWidth": attrs["pool"][1],
            "FusedActivationFunction": activation,
        },
    )


def _run_folder(folder: str) -> None:
    from tflite_micro import runtime

    root = Path(folder)
    for index in range(json.loads((root / "count.json").read_text())):
        print(f"case {index}", flush=True)
        interpreter = runtime.Interpreter.from_file(str(root / f"{index}.tflite"), arena_size=1 << 21)
        arrays = np.load(root / f"{index}.npz")
        for position, name in enumerate(arrays.files):
            interpreter.set_input(arrays[name], position)
        interpreter.invoke()
        np.save(root / f"{index}.out.npy", interpreter.get_output(0))


if __name__ == "__main__":
    _run_folder(sys.argv[1])
