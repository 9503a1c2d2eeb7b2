"""TFLite's integer arithmetic on NumPy arrays, bit for bit: requantization and the fixed-point functions of softmax.

Written from the published definitions (Jacob et al., "Quantization and Training of Neural Networks for Efficient
Integer-Arithmetic-Only Inference", section 2.2 and appendix A.1; gemmlowp's fixed-point documentation). ``Qm.n`` is a
32-bit number with m integer bits; all arrays are int64 that hold int32 values.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]

_INT32_MAX = (1 << 31) - 1
_INT32_MIN = -(1 << 31)


@functools.cache
def quantize_multiplier(real: float) -> tuple[int, int]:
    """``real ~= multiplier / 2^31 * 2^shift`` with a 31-bit multiplier; TFLite's ``QuantizeMultiplier``."""
    if real == 0.0:
        return 0, 0
    mantissa, shift = math.frexp(real)
    multiplier = math.floor(abs(mantissa) * (1 << 31) + 0.5)  # std::round; multipliers are positive
    if multiplier == 1 << 31:
        multiplier //= 2
        shift += 1
    if shift < -31:
        return 0, 0
    if shift > 30:
        return _INT32_MAX, 30
    return multiplier, shift


def multiply_by_quantized_multiplier(x: Ints, multiplier: Any, shift: Any) -> Ints:
    """``round(round(x * 2^max(shift, 0) * multiplier / 2^31) / 2^max(-shift, 0))``: two roundings, "double rounding".

    ``multiplier`` and ``shift`` are ints, or arrays that broadcast against ``x``. The left shift wraps as int32 does.
    """
    shift = np.asarray(shift, np.int64)
    left, right = np.maximum(shift, 0), np.maximum(-shift, 0)
    shifted = wrap(np.asarray(x, np.int64) << left) if left.any() else x
    return rounding_divide_by_pot(high_mul(shifted, multiplier), right)


def multiply_single_rounding(x: Ints, multiplier: Any, shift: Any) -> Ints:
    """``floor(x * multiplier / 2^(31 - shift) + 1/2)``: what a build with ``TFLITE_SINGLE_ROUNDING`` does instead."""
    total = 31 - np.asarray(shift, np.int64)
    product = np.asarray(x, np.int64) * np.asarray(multiplier, np.int64)
    result: Ints = (product + (np.int64(1) << (total - 1))) >> total
    return result


def quantize_real(real: float, scale: float, zero_point: int) -> int:
    """``zero_point + round(real / scale)`` in float32, ties away from zero (TFLite's ``TfLiteRound``)."""
    ratio = float(np.float32(real) / np.float32(scale))
    return zero_point + int(math.copysign(math.floor(abs(ratio) + 0.5), ratio))


def activation_range(activation: str, scale: float, zero_point: int) -> tuple[int, int]:
    """Clamp of a fused activation in int8 output units, TFLite's ``CalculateActivationRangeQuantized``.

    Raises:
        KeyError: an activation that cannot be a clamp.
    """
    low, high = {"NONE": (None, None), "RELU": (0.0, None), "RELU6": (0.0, 6.0), "RELU_N1_TO_1": (-1.0, 1.0)}[
        activation
    ]
    return (
        -128 if low is None else max(-128, quantize_real(low, scale, zero_point)),
        127 if high is None else min(127, quantize_real(high, scale, zero_point)),
    )


def wrap(x: Ints) -> Ints:
    """Keep the low 32 bits, as signed."""
    return ((x - _INT32_MIN) & 0xFFFFFFFF) + _INT32_MIN


def saturate(x: Ints) -> Ints:
    return np.clip(x, _INT32_MIN, _INT32_MAX)


def high_mul(a: Any, b: Any) -> Ints:
    """``SaturatingRoundingDoublingHighMul``: round(a * b / 2^31), ties up (C's division truncates, what is added
    before it depends on the sign: together that rounds every tie up)."""
    product = np.asarray(np.asarray(a, np.int64) * np.asarray(b, np.int64))
    product += 1 << 30
    product >>= 31
    return np.minimum(product, _INT32_MAX, out=product)


def rounding_divide_by_pot(x: Any, exponent: Any) -> Ints:
    """Divide by 2^exponent, round to nearest, ties away from zero."""
    x, exponent = np.asarray(x, np.int64), np.asarray(exponent, np.int64)
    half = (np.int64(1) << exponent) >> 1
    quotient: Ints = np.asarray((x >> 63) * (half > 0))  # -1 for negative numbers: their ties go down
    quotient += x
    quotient += half
    quotient >>= exponent
    return quotient


def exp_on_negative_values(a: Ints, integer_bits: int) -> Ints:
    """exp of Q``integer_bits`` numbers <= 0, as Q0: a polynomial within a quarter, times one constant per set bit."""
    fraction = 31 - integer_bits
    quarter = 1 << (fraction - 2)
    low = (a & (quarter - 1)) - quarter
    result = _exp_near_zero(saturate(low << integer_bits))
    remainder = low - a
    # exp(-2^exponent) in Q0
    for exponent, constant in (
        (-2, 1672461947),
        (-1, 1302514674),
        (0, 790015084),
        (1, 290630308),
        (2, 39332535),
        (3, 720401),
        (4, 242),
    ):
        if integer_bits > exponent:
            result = np.where(remainder & (1 << (fraction + exponent)), high_mul(result, constant), result)
    if integer_bits > 5:
        result = np.where(a < -(1 << (36 - integer_bits)), 0, result)
    return np.where(a == 0, _INT32_MAX, result)


def _exp_near_zero(a: Ints) -> Ints:
    """exp on [-1/4, 0) in Q0: Taylor of order 4 around -1/8."""
    at_centre, third = 1895147668, 715827883  # exp(-1/8), 1/3
    x = a + (1 << 28)
    x2 = high_mul(x, x)
    x3, x4 = high_mul(x2, x), high_mul(x2, x2)
    tail = rounding_divide_by_pot(high_mul(rounding_divide_by_pot(x4, 2) + x3, third) + x2, 1)
    return at_centre + high_mul(at_centre, x + tail)


def one_over_one_plus(a: Ints) -> Ints:
    """1 / (1 + a) for a in Q0, 0 <= a < 1, as Q0: three Newton steps."""
    total = a + _INT32_MAX
    half = (total + 1) // 2  # a >= 0, so the sum is positive
    x = 1515870810 + high_mul(half, -1010580540)  # 48/17 - 32/17 * half, Q2
    for _ in range(3):
        rest = (1 << 29) - high_mul(half, x)
        x = x + saturate(high_mul(x, rest) << 2)
    return saturate(x << 1)


def logistic(a: Ints, integer_bits: int) -> Ints:
    """1 / (1 + exp(-a)) of Q``integer_bits`` numbers, as Q0."""
    positive = one_over_one_plus(exp_on_negative_values(-np.abs(a), integer_bits))
    result = np.where(a > 0, positive, _INT32_MAX - positive)
    return np.where(a == 0, 1 << 30, result)
