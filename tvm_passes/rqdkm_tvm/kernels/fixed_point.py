"""gemmlowp's fixed point functions, as TFLite's int8 softmax, logistic and tanh use them.

A raw int64 value ``r`` with n integer bits stands for ``r * 2**(n - 31)``. Pure functions on arrays; the C twin of what
softmax needs is ``tflm_ops/src/kernels/fixed_point.h``.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.kernels.requantize import INT32_MAX, INT32_MIN, doubling_high_mul, rounding_divide_by_pot

Int64Array = npt.NDArray[np.int64]

# exp(-2**k) without integer bits, k = -2 ... 4
_EXP_FACTORS = (1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242)


def shift_left_saturated(x: Int64Array, exponent: int) -> Int64Array:
    """``x * 2**exponent`` within int32."""
    result: Int64Array = np.clip(x << exponent, INT32_MIN, INT32_MAX)
    return result


def exp_of_negative(x: npt.ArrayLike, integer_bits: int) -> Int64Array:
    """exp(x) for x <= 0 with ``integer_bits`` <= 5 integer bits; the result has none.

    The part below 1/4 goes through a fourth order Taylor series around -1/8, every higher bit is one factor.
    """
    a = np.asarray(x, dtype=np.int64)
    quarter = 1 << (31 - integer_bits - 2)
    remainder = (a & (quarter - 1)) - quarter
    result = _exp_of_small(shift_left_saturated(remainder, integer_bits))
    for bit, factor in enumerate(_EXP_FACTORS):
        if integer_bits > bit - 2:
            result = np.where((remainder - a) & (quarter << bit), doubling_high_mul(result, factor), result)
    return np.where(a == 0, INT32_MAX, result)


def _exp_of_small(a: Int64Array) -> Int64Array:
    """exp(a) for a in [-1/4, 0), no integer bits."""
    x = a + (1 << 28)
    x2 = doubling_high_mul(x, x)
    x3 = doubling_high_mul(x2, x)
    x4 = doubling_high_mul(x2, x2)
    cubic = doubling_high_mul(rounding_divide_by_pot(x4, 2) + x3, 715827883) + x2  # times 1/3
    return 1895147668 + doubling_high_mul(x + rounding_divide_by_pot(cubic, 1), 1895147668)  # exp(-1/8)


def _reciprocal_estimate(x: Int64Array) -> Int64Array:
    """2 / (1 + x) for x in [0, 1), two integer bits: three Newton-Raphson steps from 48/17 - 32/17 d."""
    half = (x + INT32_MAX + 1) >> 1
    estimate = 1515870810 + doubling_high_mul(half, -1010580540)
    for _ in range(3):
        rest = (1 << 29) - doubling_high_mul(half, estimate)
        estimate = estimate + shift_left_saturated(doubling_high_mul(estimate, rest), 2)
    return estimate


def logistic(x: npt.ArrayLike, integer_bits: int) -> Int64Array:
    """1 / (1 + exp(-x)); the result has no integer bits."""
    a = np.asarray(x, dtype=np.int64)
    positive = shift_left_saturated(_reciprocal_estimate(exp_of_negative(-np.abs(a), integer_bits)), 1)
    return np.where(a == 0, 1 << 30, np.where(a > 0, positive, INT32_MAX - positive))


def tanh(x: npt.ArrayLike, integer_bits: int) -> Int64Array:
    """tanh(x); the result has no integer bits."""
    a = np.asarray(x, dtype=np.int64)
    exp = exp_of_negative(-np.abs(a), integer_bits + 1)  # one more integer bit doubles the value
    magnitude = shift_left_saturated(_reciprocal_estimate(exp) - (1 << 29), 2)
    return np.where(a == 0, 0, np.where(a > 0, magnitude, -magnitude))
