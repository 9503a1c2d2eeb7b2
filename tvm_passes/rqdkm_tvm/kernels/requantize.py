"""Requantization arithmetic: TFLite's multipliers, and the cheapest C form that is provably exact.

The forms and their formulas stand in ``tflm_ops/include/rqdkm/requantize.h``. Everything here is a pure function;
accumulators are int64 arrays so that nothing wraps unless the function says so.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.layer import Layer

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]

INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1


# ---- multipliers, as the kernels' Prepare computes them ----------------------------------------------------


def quantize_multiplier(real: float) -> tuple[int, int]:
    """``real = multiplier * 2**(shift - 31)`` with multiplier in [2**30, 2**31), or (0, 0).

    TFLite's ``QuantizeMultiplier`` (kernels/internal/quantization_util.cc): frexp, round half away from zero,
    values below about 2**-31 become zero.

    Args:
        real: the factor, >= 0.
    """
    if real < 0.0 or not math.isfinite(real):
        raise ValueError(f"real multiplier {real} is negative or not finite")
    if real == 0.0:
        return 0, 0
    fraction, shift = math.frexp(real)
    multiplier = math.floor(fraction * (1 << 31) + 0.5)
    if multiplier == 1 << 31:
        multiplier >>= 1
        shift += 1
    return (0, 0) if shift < -31 else (multiplier, shift)


def quantize_multipliers(reals: Iterable[float]) -> tuple[Int32Array, Int32Array]:
    """:func:`quantize_multiplier` of each factor: int32 arrays (multipliers, shifts)."""
    pairs = [quantize_multiplier(float(real)) for real in reals]
    return (
        np.array([multiplier for multiplier, _ in pairs], dtype=np.int32),
        np.array([shift for _, shift in pairs], dtype=np.int32),
    )


def convolution_multipliers(layer: Layer, channels: int) -> tuple[Int32Array, Int32Array]:
    """Per-channel (multipliers, shifts) of a convolution or depthwise convolution with ``channels`` outputs.

    TFLite's ``PopulateConvolutionQuantizationParams``: float32 scales widened to double, then
    ``input * filter / output`` in that order. A per-tensor filter scale is repeated.
    """
    input_scale = float(np.float32(layer.inputs[0].scale))
    output_scale = float(np.float32(layer.output.scale))
    scales = _weight_scales(layer, channels)
    return quantize_multipliers(input_scale * float(scale) / output_scale for scale in scales)


def fully_connected_multipliers(layer: Layer, channels: int) -> tuple[Int32Array, Int32Array]:
    """Per-output (multipliers, shifts) of a fully connected layer with ``channels`` outputs.

    TFLite's ``CalculateOpDataFullyConnected``: with one filter scale the product input * filter is rounded to
    float32 first (``GetQuantizedConvolutionMultipler``); with several it is computed as for convolutions.
    """
    assert layer.weight_scales is not None
    if np.size(layer.weight_scales) > 1:
        return convolution_multipliers(layer, channels)
    product = np.float32(layer.inputs[0].scale) * np.float32(np.ravel(layer.weight_scales)[0])
    real = float(product) / float(np.float32(layer.output.scale))
    return quantize_multipliers([real] * channels)


def _weight_scales(layer: Layer, channels: int) -> npt.NDArray[np.float32]:
    assert layer.weight_scales is not None
    scales = np.ravel(np.asarray(layer.weight_scales, dtype=np.float32))
    if scales.size not in (1, channels):
        raise ValueError(f"{layer.name}: {scales.size} weight scales for {channels} output channels")
    return np.broadcast_to(scales, (channels,))


# ---- the definition ----------------------------------------------------------------------------------------


def doubling_high_mul(a: Int64Array, multiplier: Int64Array | int) -> Int64Array:
    """gemmlowp's SaturatingRoundingDoublingHighMul for a multiplier >= 0: ``floor((a m + 2**30) / 2**31)``."""
    result: Int64Array = (a * multiplier + (1 << 30)) >> 31
    return result


def rounding_divide_by_pot(x: Int64Array, exponent: Int64Array | int) -> Int64Array:
    """gemmlowp's RoundingDivideByPOT: ``x / 2**exponent``, ties away from zero."""
    mask = (np.int64(1) << np.asarray(exponent, dtype=np.int64)) - 1
    threshold = (mask >> 1) + (x < 0)
    result: Int64Array = (x >> exponent) + ((x & mask) > threshold)
    return result


def multiply_by_quantized_multiplier(x: npt.ArrayLike, multiplier: npt.ArrayLike, shift: npt.ArrayLike) -> Int64Array:
    """TFLite's MultiplyByQuantizedMultiplier (double rounding) on int32 values; left shifts wrap modulo 2**32."""
    values, factor, exponent = (np.asarray(a, dtype=np.int64) for a in (x, multiplier, shift))
    shifted = values << np.maximum(exponent, 0)
    wrapped = ((shifted + (1 << 31)) & 0xFFFFFFFF) - (1 << 31)
    return rounding_divide_by_pot(doubling_high_mul(wrapped, factor), np.maximum(-exponent, 0))


# ---- the choice of a form ----------------------------------------------------------------------------------


class Form(str, Enum):
    """Requantize forms of ``requantize.h``, fastest first."""

    FLOOR = "floor"
    UP = "up"
    AWAY = "away"
    WIDE = "wide"


@dataclass(frozen=True)
class Requantize:
    """Constants of one layer's requantization, one entry per output channel.

    Args:
        form: which C function they are for.
        multiplier: int32.
        offset: the C of the form's formula; the output zero point for WIDE.
        shift: right shift s for FLOOR, UP and AWAY; TFLite's signed shift for WIDE.
        bias_delta: to be added to the bias; zero unless asked for with ``may_move_bias``.
    """

    form: Form
    multiplier: Int32Array
    offset: Int32Array
    shift: Int32Array
    bias_delta: Int64Array

    @property
    def accumulator_shift(self) -> Int32Array:
        """How far left the accumulator must arrive: k = 17 - s for FLOOR, 1 for UP and AWAY, 0 for WIDE."""
        if self.form is Form.FLOOR:
            return (17 - self.shift).astype(np.int32)
        return np.full_like(self.shift, 0 if self.form is Form.WIDE else 1)


def accumulator_bounds(
    weights: npt.ArrayLike, bias: npt.ArrayLike | None, input_zero_point: int
) -> tuple[Int64Array, Int64Array]:
    """Smallest and largest accumulator each output channel can reach for any int8 input.

    Args:
        weights: (channels, taps), the taps that meet an input value. A tap on padding contributes 0, which lies
            within the same interval.
        bias: (channels,) or None.
        input_zero_point: in [-128, 127].
    """
    w = np.asarray(weights, dtype=np.int64)
    at_min, at_max = w * (-128 - input_zero_point), w * (127 - input_zero_point)
    base = np.zeros(w.shape[0], np.int64) if bias is None else np.asarray(bias, dtype=np.int64)
    return (
        base + np.minimum(at_min, at_max).sum(axis=1),
        base + np.maximum(at_min, at_max).sum(axis=1),
    )


@dataclass(frozen=True)
class _Channels:
    """Per-channel numbers in int64, and what they come to."""

    low: Int64Array
    high: Int64Array
    multiplier: Int64Array
    shift: Int64Array
    zero_point: int
    clamp: tuple[int, int]

    def output(self, acc: Int64Array) -> Int64Array:
        """The definition, clamp included. Exact where :meth:`regular`."""
        scaled = multiply_by_quantized_multiplier(acc, self.multiplier, self.shift)
        result: Int64Array = np.clip(scaled + self.zero_point, *self.clamp)
        return result

    def regular(self) -> npt.NDArray[np.bool_]:
        """Channels whose outputs grow with the accumulator: nothing wraps at either bound."""
        left = np.maximum(self.shift, 0)
        inside = [
            (bound << left >= INT32_MIN) & (bound << left <= INT32_MAX) & (np.abs(bound) <= INT32_MAX)
            for bound in (self.low, self.high)
        ]
        return inside[0] & inside[1]


def choose_requantize(
    bounds: tuple[Int64Array, Int64Array],
    multipliers: npt.ArrayLike,
    shifts: npt.ArrayLike,
    output_zero_point: int,
    clamp: tuple[int, int],
    forms: Iterable[Form] = tuple(Form),
    *,
    may_move_bias: bool = False,
) -> Requantize:
    """The first of ``forms`` (fastest first) that is exact for every accumulator within ``bounds``.

    Trained models hold dead channels: tiny scales, so that shifts reach 31 and biases 2**30, and the output never
    changes. A channel with one output value for its whole interval becomes multiplier 0 and an offset that gives the
    value; one with two values becomes a comparison, if the bias may move. The others have to meet the form's
    conditions.

    Args:
        bounds: (low, high) of each channel's accumulator, see :func:`accumulator_bounds`.
        multipliers, shifts: TFLite's, per channel.
        output_zero_point: in [-128, 127].
        clamp: (min, max) in output units.
        forms: what the calling kernel implements.
        may_move_bias: the caller adds :attr:`Requantize.bias_delta` to its biases.
    """
    channels = _Channels(
        np.asarray(bounds[0], dtype=np.int64),
        np.asarray(bounds[1], dtype=np.int64),
        np.asarray(multipliers, dtype=np.int64),
        np.asarray(shifts, dtype=np.int64),
        output_zero_point,
        clamp,
    )
    if (channels.multiplier < 0).any():
        raise ValueError("negative multiplier")
    for form in forms:
        found = _wide(channels) if form is Form.WIDE else _fast(form, channels, may_move_bias)
        if found is not None:
            return found
    raise ValueError("no requantize form is exact here; allow WIDE")


def _wide(channels: _Channels) -> Requantize:
    zero = np.zeros_like(channels.multiplier)
    return _requantize(Form.WIDE, channels.multiplier, zero + channels.zero_point, channels.shift, zero)


def _fast(form: Form, channels: _Channels, may_move_bias: bool) -> Requantize | None:
    """The form's constants, or None where some channel does not meet its conditions."""
    lowest, highest = channels.output(channels.low), channels.output(channels.high)
    regular = channels.regular()
    constant = regular & (lowest == highest)
    right = np.where(constant, 8, -channels.shift)
    multiplier = np.where(constant, 0, channels.multiplier)
    valid, offset = _conditions(form, channels, right)
    offset = np.where(constant, _constant_offset(form, lowest), offset)
    delta = np.zeros_like(offset)
    valid |= constant
    for index in np.flatnonzero(~valid & regular) if may_move_bias and form is not Form.FLOOR else ():
        step = _single_step(channels, int(index))
        if step is not None:
            delta[index], right[index], offset[index] = step
            multiplier[index] = INT32_MAX  # X = acc up to 2**30
            valid[index] = True
    return _requantize(form, multiplier, offset, right, delta) if valid.all() else None


def _conditions(form: Form, channels: _Channels, right: Int64Array) -> tuple[npt.NDArray[np.bool_], Int64Array]:
    """(channels for which the form is exact, their offsets)"""
    zero_point = channels.zero_point
    most = 15 if form is Form.FLOOR else 31
    valid = (right >= 1) & (right <= most)
    if form is not Form.AWAY and channels.clamp[0] < zero_point:
        valid[:] = False  # ties of negative values would show
    s = np.clip(right, 1, most)
    left = 17 - s if form is Form.FLOOR else np.ones_like(s)
    # acc << left fits 32 bits, so that the products below fit 64
    for bound in (channels.low, channels.high):
        valid &= (bound >= INT32_MIN >> left) & (bound <= INT32_MAX >> left)
    low, high = (np.where(valid, bound, 0) for bound in (channels.low, channels.high))
    if form is Form.FLOOR:
        offset = (np.int64(1) << (left - 2)) + (1 << 15) + zero_point * (1 << 16)
        results = [((bound << left) * channels.multiplier >> 32) + offset for bound in (low, high)]
    else:
        offset = (np.int64(1) << (s - 1)) + (np.int64(zero_point) << s)
        # SMMLAR forms X + offset; AWAY's correction takes one away
        results = [doubling_high_mul(bound, channels.multiplier) + offset for bound in (low, high)]
        results.append(results[0] - 1)
    for value in (offset, *results):
        valid &= (value >= INT32_MIN) & (value <= INT32_MAX)
    return valid, offset


def _constant_offset(form: Form, value: Int64Array) -> Int64Array:
    """Offset that gives ``value`` with multiplier 0 and right shift 8 (FLOOR shifts by 16 whatever s is)."""
    s = 16 if form is Form.FLOOR else 8
    return value * (1 << s) + (1 << (s - 1))


def _single_step(channels: _Channels, index: int) -> tuple[int, int, int] | None:
    """(bias delta, right shift, offset) of a channel that has two output values v - 1 and v.

    With the threshold moved to accumulator 0 and a multiplier of almost 1, X is the accumulator and
    ``((v << s) + X) >> s`` tells its sign. None if there are more values.
    """

    def output(acc: int) -> int:
        scaled = multiply_by_quantized_multiplier([acc], channels.multiplier[index], channels.shift[index])[0]
        return int(np.clip(scaled + channels.zero_point, *channels.clamp))

    low, high = int(channels.low[index]), int(channels.high[index])
    first, last = output(low), output(high)
    if last != first + 1:
        return None
    below, above = low, high  # output(below) == first, output(above) == last
    while above - below > 1:
        middle = (below + above) // 2
        if output(middle) == first:
            below = middle
        else:
            above = middle
    s = max(1, (high - low + 1).bit_length())
    return (-above, s, last * (1 << s)) if s <= 23 else None


def _requantize(
    form: Form, multiplier: Int64Array, offset: Int64Array, shift: Int64Array, delta: Int64Array
) -> Requantize:
    return Requantize(
        form, multiplier.astype(np.int32), offset.astype(np.int32), shift.astype(np.int32), delta.astype(np.int64)
    )
