"""An int8 interpreter in NumPy with TFLite's arithmetic: a second, independent statement of what every layer computes.

Written from TFLite's published quantization specification and papers, not from its kernels; tests hold it to
tflite-micro on every layer of every zoo model. It needs no compiler and no model file: layers are enough.
"""

from __future__ import annotations

import math
import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import threadpoolctl

from rqdkm.models import fixedpoint as fp
from rqdkm.models.graph import Graph
from rqdkm.models.layers import WiredLayer, graph_layers
from rqdkm_tvm.errors import RqdkmError, UnsupportedOperatorError
from rqdkm_tvm.graph import RESHAPES, calls, op_name, outputs
from rqdkm_tvm.layer import Layer
from rqdkm_tvm.offload.base import shape_of
from rqdkm_tvm.sites import read_sites

NAME = "NumPy interpreter of TFLite's integer arithmetic, double rounding"

_BATCH = 128  # samples at a time through a function, on each core
_AT_ONCE = 1 << 17  # values of a result at a time: what is computed on the way to them stays in the cache

Int8 = npt.NDArray[np.int8]
Ints = npt.NDArray[np.int64]


def run_graph(graph: Graph, inputs: Sequence[Int8], *, every_tensor: bool = False) -> dict[int, Int8]:
    """Run samples through an int8 graph.

    Args:
        graph: with int8 inputs (boundary conversions stripped).
        inputs: per model input (n, *shape of the tensor without its batch dimension).
        every_tensor: return all activations instead of the outputs only.

    Returns:
        Graph tensor number -> (n, *shape without batch dimension).
    """
    values: dict[int, Int8] = {}
    for index, array in zip(graph.inputs, inputs, strict=True):
        values[index] = np.asarray(array)
    for index, tensor in enumerate(graph.tensors):
        if tensor.data is not None and tensor.dtype == "int8":
            values[index] = _one_sample(tensor.data)
    run_layers(graph_layers(graph), values)
    if every_tensor:
        return {wired: values[wired] for op in graph.operators for wired in op.outputs}
    return {index: values[index] for index in graph.outputs}


def run_layers(layers: Sequence[WiredLayer], values: dict[int, Int8]) -> None:
    """Run layers in order; ``values`` maps tensor numbers to (n, ...) arrays and is extended."""
    for wired in layers:
        values[wired.output] = run_layer(wired.layer, [values[i] for i in wired.inputs])


def run_function(function: Any, inputs: Sequence[Int8]) -> list[Int8]:
    """Run samples through a partitioned main function (types inferred), mixed precision included.

    Args:
        inputs: per model input (n, *shape without its batch dimension), int8.

    Returns:
        Per output (n, *shape without batch dimension).

    Raises:
        UnsupportedOperatorError: an operator that is no layer.
    """
    steps = _steps(function)
    samples = [np.asarray(x) for x in inputs]
    starts = range(0, len(samples[0]), _BATCH)
    if len(starts) <= 1:
        return _run_steps(steps, samples)
    try:
        parts = _in_processes(steps, samples, starts)
    except BrokenProcessPool as error:
        raise RqdkmError(
            "a process that ran samples was ended from outside",
            where="reference",
            hint="most likely memory ran out: pass fewer samples, or free some",
        ) from error
    return [np.concatenate(found) for found in zip(*parts, strict=True)]


def _in_processes(steps: _Steps, samples: Sequence[Int8], starts: range) -> list[list[Int8]]:
    """In threads, so many short operations would wait for the interpreter's lock more than they compute."""
    with ProcessPoolExecutor(
        min(os.cpu_count() or 1, len(starts)),
        multiprocessing.get_context("fork"),
        initializer=_receive,
        initargs=(steps, samples),
    ) as pool:
        return list(pool.map(_run_part, starts))


def _one_sample(constant: npt.ArrayLike) -> Int8:
    """A constant operand as every sample reads it: with a batch axis of one, which NumPy broadcasts over them."""
    data = np.asarray(constant)
    return data if data.shape[:1] == (1,) else data[None]


@dataclass(frozen=True)
class _Steps:
    """A function without TVM.

    Args:
        constants: values by number; parameters have the numbers from 0.
        steps: layer or shape (without the batch dimension) of the result, numbers of operands, number of the result.
        outputs: numbers.
    """

    constants: Mapping[int, Int8]
    steps: Sequence[tuple[Layer | tuple[int, ...], tuple[int, ...], int]]
    outputs: tuple[int, ...]


def _steps(function: Any) -> _Steps:
    layers = {site.call: site.layer for site in read_sites(function)}
    numbers: dict[Any, int] = {parameter: number for number, parameter in enumerate(function.params)}
    constants: dict[int, Int8] = {}
    steps: list[tuple[Layer | tuple[int, ...], tuple[int, ...], int]] = []
    for call in calls(function):
        operands = [leaf for arg in call.args for leaf in (arg.fields if hasattr(arg, "fields") else [arg])]
        for x in operands:
            if hasattr(x, "data"):
                constants[numbers.setdefault(x, len(numbers))] = _one_sample(x.data.numpy())
        if call not in layers and op_name(call) not in RESHAPES:
            raise UnsupportedOperatorError(f"the NumPy reference has no {op_name(call)}", where="reference")
        step = layers[call] if call in layers else tuple(shape_of(call)[1:])
        steps.append((step, tuple(numbers[x] for x in operands), numbers.setdefault(call, len(numbers))))
    return _Steps(constants, steps, tuple(numbers[x] for x in outputs(function)))


def _run_steps(program: _Steps, inputs: Sequence[Int8]) -> list[Int8]:
    values = dict(program.constants) | dict(enumerate(inputs))
    for step, operands, result in program.steps:
        if isinstance(step, Layer):
            values[result] = run_layer(step, [values[x] for x in operands])
        else:
            values[result] = values[operands[0]].reshape(-1, *step)
    return [values[x] for x in program.outputs]


_received: tuple[_Steps, Sequence[Int8]] | None = None


def _receive(steps: _Steps, samples: Sequence[Int8]) -> None:
    """First of all in a forked process: what it works on comes with the fork, not through a pipe."""
    global _received
    _received = steps, samples
    threadpoolctl.threadpool_limits(1)  # every core has a process already


def _run_part(start: int) -> list[Int8]:
    assert _received is not None
    steps, samples = _received
    return _run_steps(steps, [x[start : start + _BATCH] for x in samples])


def run_layer(layer: Layer, inputs: Sequence[Int8]) -> Int8:
    """One layer on n samples: inputs (n, *shape[1:]) int8 -> (n, *output shape[1:]) int8. A morphing layer: its safe
    kernel, see :func:`rqdkm_tvm.morph.gather.FixKernel`.

    Raises:
        UnsupportedOperatorError: no reference for ``layer.op``.
    """
    if layer.stage is not None:
        from rqdkm.models.patched import run_stage  # runs layers

        return run_stage(layer.stage, np.asarray(inputs[0]))
    if layer.library is not None:
        values = np.asarray(inputs[0])
        for part in layer.library.paths[layer.library.safe].layers:
            values = run_layer(part, [values])
        return values
    function = _FUNCTIONS.get(layer.op)
    if function is None:
        raise UnsupportedOperatorError(f"the NumPy reference has no {layer.op}", where=f"layer {layer.name!r}")
    count = max(len(x) for x in inputs)
    shape = layer.output.shape[1:] if layer.output.shape[0] == 1 else layer.output.shape
    found: Int8 = np.empty((count, *shape), np.int8)
    step = max(1, _AT_ONCE // max(layer.output.size, layer.inputs[0].size))
    for start in range(0, count, step):
        some = [x if len(x) != count else x[start : start + step] for x in map(np.asarray, inputs)]
        wide: list[Any] = some if layer.weights is not None else [x.astype(np.int64) for x in some]
        found[start : start + step] = function(layer, wide).reshape(-1, *shape)
    return found


def output_multipliers(layer: Layer) -> tuple[Ints, Ints]:
    """Multiplier and shift per output channel of a layer with weights.

    TFLite forms ``s_in * s_w / s_out`` in double for convolutions and per-channel weights, but multiplies
    ``s_in * s_w`` in float32 for a fully connected layer with one weight scale.
    """
    assert layer.weight_scales is not None
    scales = np.asarray(layer.weight_scales, np.float32).reshape(-1)
    scale_in, scale_out = np.float32(layer.inputs[0].scale), float(np.float32(layer.output.scale))
    if layer.op == "fully_connected" and scales.size == 1:
        reals = [float(scale_in * scales[0]) / scale_out]
    else:
        reals = [float(scale_in) * float(scale) / scale_out for scale in scales]
    pairs = [fp.quantize_multiplier(real) for real in reals]
    return np.array([m for m, _ in pairs], np.int64), np.array([s for _, s in pairs], np.int64)


def _requantize_accumulators(layer: Layer, accumulators: Ints) -> Ints:
    if layer.bias is not None:
        accumulators += np.asarray(layer.bias, np.int64)
    multiplier, shift = output_multipliers(layer)
    scaled = fp.multiply_by_quantized_multiplier(accumulators, multiplier, shift)
    scaled += layer.output.zero_point
    return _clamp(layer, scaled)


def _clamp(layer: Layer, values: Ints) -> Ints:
    low, high = layer.attrs.get("clamp", (-128, 127))
    return np.clip(values, low, high)


def _windows(layer: Layer, x: npt.NDArray[Any], window: tuple[int, int], fill: float) -> npt.NDArray[Any]:
    """(n, OH, OW, C, KH, KW) view of the padded input."""
    top, left, bottom, right = layer.attrs["padding"]
    (sh, sw), (dh, dw) = layer.attrs["strides"], layer.attrs.get("dilation", (1, 1))
    around = ((0, 0), (top, bottom), (left, right), (0, 0))
    padded = np.pad(x, around, constant_values=fill) if any((top, bottom, left, right)) else x
    reach = ((window[0] - 1) * dh + 1, (window[1] - 1) * dw + 1)
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
    _, height, width, _ = layer.output.shape
    return view[:, ::sh, ::sw, :, ::dh, ::dw][:, :height, :width]


def _exact_float(layer: Layer, fan_in: int) -> type[np.float32] | type[np.float64]:
    """The narrower float type in which sums of ``fan_in`` products are exact integers."""
    assert layer.weights is not None
    largest = fan_in * int(np.abs(layer.weights.astype(np.int32)).max(initial=0)) * 255
    return np.float32 if largest < 1 << 24 else np.float64


def _conv2d(layer: Layer, inputs: list[Int8]) -> Ints:
    assert layer.weights is not None
    channels, kh, kw, depth = layer.weights.shape
    exact = _exact_float(layer, kh * kw * depth)
    x = inputs[0].astype(exact) - exact(layer.inputs[0].zero_point)
    weights = np.asarray(layer.weights, exact)
    view = _windows(layer, x, (kh, kw), 0)
    per_group = channels // layer.attrs["groups"]
    sums = [
        np.tensordot(
            view[:, :, :, g * depth : (g + 1) * depth],
            weights[g * per_group : (g + 1) * per_group],
            axes=((4, 5, 3), (1, 2, 3)),  # channels last: windows are copied for this, in longer runs
        )
        for g in range(layer.attrs["groups"])
    ]
    return _requantize_accumulators(layer, np.concatenate(sums, axis=3).astype(np.int64))


def _depthwise_conv2d(layer: Layer, inputs: list[Int8]) -> Ints:
    assert layer.weights is not None
    _, kh, kw, channels = layer.weights.shape
    exact = _exact_float(layer, kh * kw)
    x = inputs[0].astype(exact) - exact(layer.inputs[0].zero_point)
    multiplier = layer.attrs["multiplier"]
    view = _windows(layer, x, (kh, kw), 0)
    weights = np.asarray(layer.weights, exact).reshape(kh, kw, channels // multiplier, multiplier)
    sums = np.zeros((*view.shape[:4], multiplier), exact)
    for i in range(kh):
        for j in range(kw):
            for m in range(multiplier):
                sums[..., m] += view[..., i, j] * weights[i, j, :, m]
    return _requantize_accumulators(layer, sums.reshape(*view.shape[:3], channels).astype(np.int64))


def _fully_connected(layer: Layer, inputs: list[Int8]) -> Ints:
    assert layer.weights is not None
    exact = _exact_float(layer, layer.weights.shape[1])
    weights = np.asarray(layer.weights, exact)
    x = inputs[0].astype(exact) - exact(layer.inputs[0].zero_point)
    sums = x.reshape(len(x), -1, weights.shape[1]) @ weights.T
    return _requantize_accumulators(layer, sums.astype(np.int64))


def _avg_pool2d(layer: Layer, inputs: list[Ints]) -> Ints:
    sums = _windows(layer, inputs[0], layer.attrs["pool"], 0).sum(axis=(4, 5))
    counts = _windows(layer, np.ones_like(inputs[0][:1]), layer.attrs["pool"], 0).sum(axis=(4, 5))
    half = counts // 2
    return _clamp(layer, np.where(sums > 0, (sums + half) // counts, -((half - sums) // counts)))


def _max_pool2d(layer: Layer, inputs: list[Ints]) -> Ints:
    return _clamp(layer, _windows(layer, inputs[0], layer.attrs["pool"], -128).max(axis=(4, 5)))


def _add(layer: Layer, inputs: list[Ints]) -> Ints:
    left_shift = 20  # headroom: 8 + 1 bits of operand leave 2 bits below int32
    scales = [float(np.float32(t.scale)) for t in layer.inputs]
    twice = 2 * max(scales)
    total: Any = 0
    for x, tensor, scale in zip(inputs, layer.inputs, scales, strict=True):
        multiplier, shift = fp.quantize_multiplier(scale / twice)
        total = total + fp.multiply_by_quantized_multiplier((x - tensor.zero_point) << left_shift, multiplier, shift)
    multiplier, shift = fp.quantize_multiplier(twice / ((1 << left_shift) * float(np.float32(layer.output.scale))))
    scaled = fp.multiply_by_quantized_multiplier(total, multiplier, shift)
    return _clamp(layer, scaled + layer.output.zero_point)


def _mul(layer: Layer, inputs: list[Ints]) -> Ints:
    left, right = layer.inputs
    real = float(np.float32(left.scale)) * float(np.float32(right.scale)) / float(np.float32(layer.output.scale))
    product = (inputs[0] - left.zero_point) * (inputs[1] - right.zero_point)
    scaled = fp.multiply_by_quantized_multiplier(product, *fp.quantize_multiplier(real))
    return _clamp(layer, scaled + layer.output.zero_point)


def _pad(layer: Layer, inputs: list[Ints]) -> Ints:
    return np.pad(inputs[0], ((0, 0), *layer.attrs["pad_width"][1:]), constant_values=layer.attrs["value"])


def _reshape(layer: Layer, inputs: list[Ints]) -> Ints:
    return inputs[0]


def _concatenate(layer: Layer, inputs: list[Ints]) -> Ints:
    count = max(len(x) for x in inputs)
    same = [np.broadcast_to(x, (count, *x.shape[1:])) for x in inputs]
    return np.concatenate(same, axis=layer.attrs["axis"])


def _requantize(layer: Layer, inputs: list[Ints]) -> Ints:
    source, target = layer.inputs[0], layer.output
    real = float(np.float32(source.scale)) / float(np.float32(target.scale))
    return _rescaled(layer, inputs, real)


def _relu(layer: Layer, inputs: list[Ints]) -> Ints:
    """As requantize, but TFLite divides the scales in float32 here."""
    return _rescaled(layer, inputs, float(np.float32(layer.inputs[0].scale) / np.float32(layer.output.scale)))


def _rescaled(layer: Layer, inputs: list[Ints], real: float) -> Ints:
    source, target = layer.inputs[0], layer.output
    scaled = fp.multiply_by_quantized_multiplier(inputs[0] - source.zero_point, *fp.quantize_multiplier(real))
    return _clamp(layer, scaled + target.zero_point)


def _clip(layer: Layer, inputs: list[Ints]) -> Ints:
    return _clamp(layer, inputs[0])


def _mean(layer: Layer, inputs: list[Ints]) -> Ints:
    """The division by the element count is folded into the multiplier, as TFLite does."""
    axes = layer.attrs["axes"]
    count = math.prod(layer.inputs[0].shape[a] for a in axes)
    sums = inputs[0].sum(axis=tuple(axes)) - layer.inputs[0].zero_point * count
    source, target = layer.inputs[0], layer.output
    multiplier, exponent = fp.quantize_multiplier(float(np.float32(source.scale)) / float(np.float32(target.scale)))
    shift = min(count.bit_length() - 1, 32, 31 + exponent)
    scaled = fp.multiply_by_quantized_multiplier(sums, (multiplier << shift) // count, exponent - shift)
    return _clamp(layer, scaled + target.zero_point)


def _softmax(layer: Layer, inputs: list[Ints]) -> Ints:
    """Differences to the maximum in Q5, sum of exponentials in Q12, its reciprocal by Newton's method."""
    beta = float(np.float32(layer.attrs.get("beta", 1.0)))
    real = min(beta * float(np.float32(layer.inputs[0].scale)) * (1 << 26), (1 << 31) - 1.0)
    multiplier, shift = fp.quantize_multiplier(real)
    radius = math.floor(31 * (1 << 26) / (1 << shift))
    x = inputs[0]
    difference = x - x.max(axis=-1, keepdims=True)
    kept = difference >= -radius
    scaled = fp.multiply_by_quantized_multiplier(np.where(kept, difference, 0), multiplier, shift)
    exponentials = fp.exp_on_negative_values(scaled, 5)
    sums = np.where(kept, fp.rounding_divide_by_pot(exponentials, 12), 0).sum(axis=-1, keepdims=True)
    headroom = 32 - np.vectorize(int.bit_length, otypes=[np.int64])(sums.astype(object))
    reciprocal = fp.one_over_one_plus(((sums << headroom) & 0xFFFFFFFF) - (1 << 31))
    result = fp.rounding_divide_by_pot(fp.high_mul(reciprocal, exponentials), 12 - headroom + 31 - 8)
    return np.where(kept, np.clip(result - 128, -128, 127), -128)


def _logistic(layer: Layer, inputs: list[Ints]) -> Ints:
    """The function in Q4 input, Q0 output, at 8 fractional bits; saturated outside its radius."""
    source = layer.inputs[0]
    multiplier, shift = fp.quantize_multiplier(float(np.float32(source.scale)) * (1 << 27))
    radius = math.floor(15 * (1 << 27) / (1 << shift))
    x = inputs[0] - source.zero_point
    inside = np.clip(x, -radius, radius)
    scaled = fp.multiply_by_quantized_multiplier(inside, multiplier, shift)
    middle = np.clip(fp.rounding_divide_by_pot(fp.logistic(scaled, 4), 23) - 128, -128, 127)
    return np.where(x <= -radius, -128, np.where(x >= radius, 127, middle))


_FUNCTIONS: Mapping[str, Callable[[Layer, list[Any]], Ints]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise_conv2d,
    "fully_connected": _fully_connected,
    "avg_pool2d": _avg_pool2d,
    "max_pool2d": _max_pool2d,
    "add": _add,
    "mul": _mul,
    "pad": _pad,
    "reshape": _reshape,
    "concatenate": _concatenate,
    "requantize": _requantize,
    "clip": _clip,
    "relu": _relu,
    "mean": _mean,
    "softmax": _softmax,
    "logistic": _logistic,
}
