"""Float model + calibration data -> int8 model by TFLite's quantization specification, as a ``.tflite`` file.

Weights: symmetric, one scale per output channel for convolutions, one per tensor for fully connected layers. Biases:
int32 at scale ``s_in * s_w``. Activations: asymmetric, one scale per tensor, zero exactly representable, from
:mod:`rqdkm.models.calibrate`. Softmax and logistic give steps of 1/256 from -128, tanh of 1/128. Operators that only
move, select or average values (reshape, pad, pooling, concatenation) keep the scale of their input.

The result is loaded like any other int8 ``.tflite``: same Relay forms, same kernels, same reference interpreter.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from rqdkm.models import calibrate as calibration
from rqdkm.models import float_run, morph_file, oracle, reference, tflite_write
from rqdkm.models.data import Dataset, dequantize, quantize_inputs
from rqdkm.models.graph import SELECT, Graph, Operator, Quantization, TensorInfo, layer_names, per_tensor, prune
from rqdkm.models.simplify import simplify
from rqdkm_tvm.errors import DataError, ModelError, UnsupportedOperatorError

if TYPE_CHECKING:
    from rqdkm.models.load import LoadedModel

_WEIGHTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# TFLite Micro's RELU6 clamps without rescaling, so its scale must not change either
_SAME_SCALE = ("RESHAPE", "PAD", "MAX_POOL_2D", "AVERAGE_POOL_2D", "TRANSPOSE", "CONCATENATION", "RELU6", SELECT)
# outputs whose quantization the specification fixes
_FIXED = {"SOFTMAX": per_tensor(1 / 256, -128), "LOGISTIC": per_tensor(1 / 256, -128), "TANH": per_tensor(1 / 128, 0)}
_REPORT_SAMPLES = 64
_BIAS_LIMIT = 1 << 30  # leaves room for the accumulator

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class LayerError:
    """How well a layer's int8 output follows the float one, over the calibration samples.

    Args:
        name: layer.
        op: TFLite operator.
        scale: of its output.
        zero_point: of its output.
        sqnr_db: 10 log10(sum float^2 / sum (float - int8)^2), errors of the layers before it included; inf if equal.
        clipped: fraction of the float values outside the int8 range.
    """

    name: str
    op: str
    scale: float
    zero_point: int
    sqnr_db: float
    clipped: float


@dataclass(frozen=True)
class Quantized:
    """An int8 model and what became of its accuracy.

    Args:
        model: ready for the passes; ``model.tflite`` holds the file.
        method: calibration method.
        samples: calibration samples used.
        layers: per layer, in order of execution.
        agreement: fraction of the reported samples whose top-1 output is that of the float model.
        compared: number of samples compared.
        kernels: of a model with morphing layers ``agreement`` with every kernel.
    """

    model: LoadedModel
    method: str
    samples: int
    layers: tuple[LayerError, ...]
    agreement: float
    compared: int
    kernels: tuple[float, ...] = ()

    @property
    def output_sqnr_db(self) -> float:
        """SQNR of the last layer with a scale that calibration chose."""
        return self.layers[-1].sqnr_db


def quantize(
    model: LoadedModel,
    data: Dataset | None,
    method: str = "minmax",
    progress: Callable[[str], None] = lambda _: None,
) -> LoadedModel:
    """:func:`quantize_and_compare` without its report."""
    return quantize_and_compare(model, data, method, progress).model


def quantize_and_compare(
    model: LoadedModel,
    data: Dataset | None,
    method: str = "minmax",
    progress: Callable[[str], None] = lambda _: None,
) -> Quantized:
    """Quantize a float model.

    Args:
        model: ``is_quantized`` False.
        data: calibration samples, real values; a hundred or so that look like what the device will see.
        method: one of :data:`rqdkm.models.calibrate.METHODS`.

    Raises:
        DataError: no calibration data, or data on which the network overflows.
        UnsupportedOperatorError: an operator that has no int8 form here.
    """
    if model.is_quantized:
        raise ModelError("the model is int8 already", where=str(model.path))
    if data is None or len(data) == 0:
        raise DataError(
            "a float model needs calibration data to choose its int8 ranges",
            where=str(model.path),
            hint="pass --calib with about 100 representative inputs: .npz, .npy or a folder of images",
        )
    inputs = [np.asarray(x, np.float32) for x in data.inputs]
    progress("simplifying the float graph")
    graph = simplify(model.graph)
    _check_supported(graph, str(model.path))
    ranges = calibration.calibrate(graph, inputs, method, progress)
    progress("quantizing weights")
    quantized = prune(_to_int8(graph, ranges))
    description = f"int8, calibrated by {method} on {len(data)} samples"
    loaded = _load(model, tflite_write.write_graph(morph_file.fold(quantized), description))
    progress("comparing with the float model")
    found = compare(graph, loaded, data)
    return Quantized(loaded, method, len(data), found.layers, found.agreement, found.compared, found.kernels)


@dataclass(frozen=True)
class Comparison:
    """An int8 model beside the float one; fields as in :class:`Quantized`."""

    layers: tuple[LayerError, ...]
    agreement: float
    compared: int
    kernels: tuple[float, ...]


def compare(graph: Graph, model: LoadedModel, data: Dataset) -> Comparison:
    """Layer errors and top-1 agreement of an int8 ``model`` against the float ``graph``."""
    some = data.head(_REPORT_SAMPLES)
    samples, ints = [np.asarray(x, np.float32) for x in some.inputs], quantize_inputs(some, model)
    errors: dict[str, LayerError] = {}
    agreements = []
    # what runs unless a kernel is selected comes last: layers that all kernels have are judged by that
    for kernel in (*range(morph_file.kernel_count(graph)), None):
        integer = morph_file.fixed(model.graph, kernel)
        floats, outputs = _floats(morph_file.fixed(graph, kernel), samples)
        values = _every_tensor(integer, ints)
        for operator in integer.operators:
            index = operator.outputs[0]
            tensor = integer.tensors[index]
            if tensor.name in floats and tensor.quantization is not None and index in values:
                name = model.layer_names[tensor.name]
                real = floats[tensor.name]
                errors[name] = _layer_error(name, operator.op, real, values[index], tensor.quantization)
        chosen = values[integer.outputs[0]].reshape(len(some), -1).argmax(axis=1)
        wanted = outputs[0].reshape(len(some), -1).argmax(axis=1)
        agreements.append(float((chosen == wanted).mean()))
    layers = tuple(errors[name] for name in layer_names(model.graph) if name in errors)
    return Comparison(layers, agreements[-1], len(some), tuple(agreements[:-1]))


def _floats(graph: Graph, inputs: list[Floats]) -> tuple[dict[str, Floats], list[Floats]]:
    """Every activation, by name, and the outputs."""
    found: dict[str, Floats] = {}
    outputs = float_run.run_float(
        graph, inputs, lambda index, values: found.__setitem__(graph.tensors[index].name, values)
    )
    return found, outputs


def _every_tensor(graph: Graph, inputs: list[npt.NDArray[np.int8]]) -> dict[int, npt.NDArray[np.int8]]:
    """All activations; by TFLite's interpreter where the NumPy reference lacks an operator."""
    try:
        return reference.run_graph(graph, inputs, every_tensor=True)
    except UnsupportedOperatorError:
        plain = morph_file.without_selects(graph)
        by_name = oracle.reference_layers(tflite_write.write_graph(plain), inputs)
        return {i: by_name[t.name] for i, t in enumerate(graph.tensors) if t.name in by_name}


def _layer_error(name: str, op: str, real: Floats, values: npt.NDArray[np.int8], q: Quantization) -> LayerError:
    wide = real.astype(np.float64)
    noise = float(np.square(wide - dequantize(values, q).reshape(wide.shape)).sum())
    signal = float(np.square(wide).sum())
    if noise == 0:
        sqnr = float("inf")
    else:
        sqnr = 10 * float(np.log10(signal / noise)) if signal > 0 else float("-inf")
    low, high = (np.array([-128, 127]) - q.zero_point) * q.scale
    clipped = float(((wide < low - q.scale / 2) | (wide > high + q.scale / 2)).mean())
    return LayerError(name, op, q.scale, q.zero_point, sqnr, clipped)


def _load(model: LoadedModel, data: bytes) -> LoadedModel:
    from rqdkm.models.load import load_tflite

    loaded = load_tflite(data, model.path)
    return dataclasses.replace(
        loaded, name=model.name, format=model.format, file_inputs=model.file_inputs, file_outputs=model.file_outputs
    )


def _check_supported(graph: Graph, where: str) -> None:
    for operator, name in zip(graph.operators, layer_names(graph), strict=True):
        if not float_run.supported(operator.op):
            raise UnsupportedOperatorError(
                f"operator {operator.op} cannot be quantized",
                where=f"{where}: layer {name!r}",
                hint="replace it in the model, or quantize the model elsewhere and pass it as int8",
            )


# ---- choosing scales -----------------------------------------------------------------------------------------------


def _to_int8(graph: Graph, ranges: dict[int, calibration.Range]) -> Graph:
    scales = _activation_scales(graph, ranges)
    builder = _Builder(graph, scales)
    for operator in graph.operators:
        builder.add(operator)
    return Graph(graph.name, tuple(builder.tensors), tuple(builder.operators), graph.inputs, graph.outputs)


def _activation_scales(graph: Graph, ranges: dict[int, calibration.Range]) -> dict[int, Quantization]:
    """One quantization per activation; tensors that must share one get the union of their ranges.

    An operator of :data:`_SAME_SCALE` ties its output to its input, a morphing layer to the results of all its kernels.
    Concatenations tie all their inputs, except those with a fixed scale or one that is tied elsewhere: these get a
    QUANTIZE in between (see :class:`_Builder`).
    """
    fixed = {op.outputs[0]: _FIXED[op.op] for op in graph.operators if op.op in _FIXED}
    root = {index: index for index in ranges}

    def find(index: int) -> int:
        while root[index] != index:
            index = root[index]
        return index

    spans = {index: ranges[index] for index in ranges}
    for operator in graph.operators:
        if operator.op not in _SAME_SCALE:
            continue
        output = find(operator.outputs[0])
        for index in graph.activations(operator)[: None if operator.op in ("CONCATENATION", SELECT) else 1]:
            source = find(index)
            if source == output:
                continue
            if source in fixed and operator.op == "CONCATENATION":
                continue
            # the source's root stays the root, so that a fixed scale reaches everything behind it
            keep, drop = (source, output) if source in fixed or output not in fixed else (output, source)
            root[drop] = keep
            spans[keep] = spans[keep].union(spans[drop])
            output = find(operator.outputs[0])
    return {
        index: fixed.get(find(index)) or calibration.activation_quantization(spans[find(index)]) for index in ranges
    }


class _Builder:
    """Collects the tensors and operators of the int8 graph; tensor numbers of the float graph stay valid."""

    def __init__(self, graph: Graph, scales: dict[int, Quantization]) -> None:
        self.graph = graph
        self.scales = scales
        self.operators: list[Operator] = []
        self.tensors = [
            dataclasses.replace(tensor, dtype="int8", quantization=scales[index]) if index in scales else tensor
            for index, tensor in enumerate(graph.tensors)
        ]

    def add(self, operator: Operator) -> None:
        inputs = list(operator.inputs)
        if operator.op in _WEIGHTED:
            inputs = self._weighted(operator)
        elif operator.op in ("ADD", "MUL"):
            inputs = [self._constant(i) if self.graph.tensors[i].is_constant else i for i in inputs]
        elif operator.op == "CONCATENATION":
            if any(self.graph.tensors[i].is_constant for i in inputs):
                raise UnsupportedOperatorError("concatenation with a constant cannot be quantized")
            inputs = [self._with_scale(i, self.scales[operator.outputs[0]]) for i in inputs]
        self.operators.append(dataclasses.replace(operator, inputs=tuple(inputs)))

    def _new(self, tensor: TensorInfo) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def _with_scale(self, index: int, wanted: Quantization) -> int:
        """``index``, or a copy of it requantized to ``wanted``."""
        if self.scales[index].same(wanted):
            return index
        source = self.tensors[index]
        copy = self._new(dataclasses.replace(source, name=f"{source.name}/requantize", quantization=wanted))
        self.operators.append(Operator("QUANTIZE", (index,), (copy,)))
        return copy

    def _constant(self, index: int) -> int:
        """An activation-like constant operand, asymmetric per tensor."""
        tensor = self.graph.tensors[index]
        values = np.asarray(tensor.data, np.float32)
        span = calibration.Range(min(0.0, float(values.min())), max(0.0, float(values.max())))
        q = calibration.activation_quantization(span)
        ints = np.clip(np.rint(values / q.scale) + q.zero_point, -128, 127).astype(np.int8)
        return self._new(dataclasses.replace(tensor, dtype="int8", quantization=q, data=ints))

    def _weighted(self, operator: Operator) -> list[int]:
        data, weights = operator.inputs[0], self.graph.tensors[operator.inputs[1]]
        if weights.data is None:
            raise UnsupportedOperatorError(f"{operator.op} with computed weights cannot be quantized")
        axis = 3 if operator.op == "DEPTHWISE_CONV_2D" else 0
        values = np.asarray(weights.data, np.float32)
        bias = np.zeros(values.shape[axis], np.float32)
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = np.asarray(self.graph.tensors[operator.inputs[2]].data, np.float32)
        scale_in = self.scales[data].scale
        scales = weight_scales(values, bias, axis, scale_in, per_channel=operator.op != "FULLY_CONNECTED")
        shape = [1] * values.ndim
        shape[axis] = -1
        ints = np.clip(np.rint(values / scales.reshape(shape)), -127, 127).astype(np.int8)
        bias_scales = (np.float64(scale_in) * scales).astype(np.float32)
        bias_ints = np.rint(bias / (np.float64(scale_in) * scales)).astype(np.int32)
        used = scales if operator.op != "FULLY_CONNECTED" else scales[:1]
        zeros = np.zeros(used.size, np.int64)
        new_weights = TensorInfo(weights.name, weights.shape, "int8", Quantization(used, zeros, axis), ints)
        bias_q = Quantization(bias_scales[: used.size], zeros, 0)
        new_bias = TensorInfo(f"{weights.name}/bias", bias_ints.shape, "int32", bias_q, bias_ints)
        return [data, self._new(new_weights), self._new(new_bias)]


def weight_scales(
    values: Floats, bias: Floats, axis: int, scale_in: float, *, per_channel: bool
) -> npt.NDArray[np.float32]:
    """Scale per output channel: largest weight on 127, unless the bias would not fit into int32 then.

    Without ``per_channel`` all entries are equal.
    """
    others = tuple(i for i in range(values.ndim) if i != axis)
    largest = np.abs(values).max(axis=others)
    if not per_channel:
        largest = np.full_like(largest, largest.max())
    scales = np.where(largest > 0, largest / 127, 0.0).astype(np.float64)
    needed = np.abs(bias).astype(np.float64) / (scale_in * _BIAS_LIMIT)
    if not per_channel:
        needed = np.full_like(needed, needed.max())
    scales = np.maximum(scales, needed)
    result: npt.NDArray[np.float32] = np.where(scales > 0, scales, 1.0).astype(np.float32)
    return result
