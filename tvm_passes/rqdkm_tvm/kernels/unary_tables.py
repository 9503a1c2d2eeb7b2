"""The 256-entry tables of unary int8 operators, computed with the arithmetic of TFLite Micro's reference kernels.

Every function takes the input's values -128 ... 127 (int64) and returns the outputs in the same order.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.kernels.fixed_point import logistic, tanh
from rqdkm_tvm.kernels.requantize import (
    multiply_by_quantized_multiplier,
    quantize_multiplier,
    rounding_divide_by_pot,
)
from rqdkm_tvm.layer import Layer

Int64Array = npt.NDArray[np.int64]
Int8Array = npt.NDArray[np.int8]

INT8_VALUES: Int64Array = np.arange(-128, 128, dtype=np.int64)


def unary_table(layer: Layer) -> Int8Array:
    """The layer's function as an array indexed by the input's byte, ``table[x & 255]``."""
    out = np.clip(TABLES[layer.op](layer, INT8_VALUES), -128, 127).astype(np.int8)
    return np.roll(out, 128)


def _rescale(x: Int64Array, real: float) -> Int64Array:
    return multiply_by_quantized_multiplier(x, *quantize_multiplier(real))


def _clip(x: Int64Array, low: int, high: int) -> Int64Array:
    result: Int64Array = np.clip(x, low, high)
    return result


def _f32(value: float) -> np.float32:
    result: np.float32 = np.float32(value)
    return result


def requantize(layer: Layer, q: Int64Array) -> Int64Array:
    """QUANTIZE from int8 to int8: the factor is the quotient of the scales in double precision."""
    source, target = layer.inputs[0], layer.output
    out = _rescale(q - source.zero_point, float(_f32(source.scale)) / float(_f32(target.scale)))
    return _clip(out + target.zero_point, *layer.attrs.get("clamp", (-128, 127)))


def relu(layer: Layer, q: Int64Array) -> Int64Array:
    """RELU that rescales: here the quotient of the scales is single precision, unlike QUANTIZE's."""
    source, target = layer.inputs[0], layer.output
    out = _rescale(q - source.zero_point, float(_f32(source.scale) / _f32(target.scale)))
    return _clip(out + target.zero_point, *layer.attrs["clamp"])


def leaky_relu(layer: Layer, q: Int64Array) -> Int64Array:
    """LEAKY_RELU: one factor for each sign, single precision quotients."""
    source, target = layer.inputs[0], layer.output
    x = q - source.zero_point
    alpha = float(_f32(source.scale) * _f32(layer.attrs["alpha"]) / _f32(target.scale))
    identity = float(_f32(source.scale) / _f32(target.scale))
    negative = _rescale(x, abs(alpha)) * (-1 if alpha < 0 else 1)
    return np.where(x >= 0, _rescale(x, identity), negative) + target.zero_point


def _sigmoid_like(layer: Layer, q: Int64Array, function: Callable[[Int64Array, int], Int64Array]) -> Int64Array:
    """LOGISTIC and TANH: input to Q4.27, ``function`` without integer bits, saturated outside the input radius."""
    integer_bits = 4
    x = q - layer.inputs[0].zero_point
    fraction, shift = math.frexp(float(_f32(layer.inputs[0].scale)) * (1 << (31 - integer_bits)))
    multiplier = math.floor(fraction * (1 << 31) + 0.5)
    radius = math.floor(((1 << integer_bits) - 1) * (1 << (31 - integer_bits)) / (2.0**shift))
    inside = np.where(np.abs(x) < radius, x, 0)
    raw = function(multiply_by_quantized_multiplier(inside, multiplier, shift), integer_bits)
    low, high = np.int64(-(1 << 31)), np.int64(1 << 31)
    return np.where(x <= -radius, low, np.where(x >= radius, high, raw))


def logistic_table(layer: Layer, q: Int64Array) -> Int64Array:
    """LOGISTIC; output scale 1/256, zero point -128."""
    raw = _sigmoid_like(layer, q, logistic)
    return np.where(raw < 0, -128, rounding_divide_by_pot(raw, 31 - 8) - 128)


def tanh_table(layer: Layer, q: Int64Array) -> Int64Array:
    """TANH; output scale 1/128, zero point 0."""
    return rounding_divide_by_pot(_sigmoid_like(layer, q, tanh), 31 - 7)


def _high_mul16(a: Int64Array, b: Int64Array | int, *, rounded: bool) -> Int64Array:
    """High half of twice a 16-bit product, saturated; truncated toward zero or rounded (ties up)."""
    product = a * b
    if rounded:
        result = (product + (1 << 14)) >> 15
    else:
        result = np.sign(product) * (np.abs(product) >> 15)
    return _clip(result, -32768, 32767)


def _multiplier16(real: float) -> tuple[int, int]:
    """A multiplier of 15 bits and its exponent (``DownScaleInt32ToInt16Multiplier``)."""
    multiplier, exponent = quantize_multiplier(real)
    return min((multiplier + (1 << 15)) >> 16, 32767), exponent


def hard_swish(layer: Layer, q: Int64Array) -> Int64Array:
    """HARD_SWISH: x * relu6(x + 3) / 6 in 16-bit fixed point."""
    source, target = layer.inputs[0], layer.output
    fine_scale = _f32(1.0 / 128.0) * _f32(source.scale)
    output_multiplier, output_exponent = _multiplier16(float(fine_scale / _f32(target.scale)))
    relu_multiplier, relu_exponent = _multiplier16(float(fine_scale / _f32(3.0 / 32768.0)))
    fine = (q - source.zero_point) << 7
    on_output_scale = _high_mul16(fine, output_multiplier, rounded=True)
    gate = fine
    if relu_exponent > 0:
        gate = np.clip(gate << (relu_exponent - 1), -32768, 32767)
    gate = _high_mul16(gate, relu_multiplier, rounded=True)
    if relu_exponent > 0:
        gate = np.clip(gate << 1, -32768, 32767)
    elif relu_exponent < 0:
        gate = rounding_divide_by_pot(gate, -relu_exponent)
    gate = (gate + (1 << 15)) >> 1
    product = _high_mul16(gate, on_output_scale, rounded=False)
    return rounding_divide_by_pot(product, -output_exponent) + target.zero_point


def elu(layer: Layer, q: Int64Array) -> Int64Array:
    """ELU: TFLite itself fills a table, in single precision."""
    source, target = layer.inputs[0], layer.output
    x = _f32(source.scale) * (q - source.zero_point).astype(np.float32)
    # exp in double, then rounded: libm's expf is within half a unit of it
    negative = np.exp(np.minimum(x, 0).astype(np.float64)).astype(np.float32) - _f32(1.0)
    y = np.where(x < 0, negative, x)
    scaled = (y * (_f32(1.0) / _f32(target.scale))).astype(np.float64)
    rounded = np.sign(scaled) * np.floor(np.abs(scaled) + 0.5)
    return _clip(rounded.astype(np.int64), -1024, 1024) + target.zero_point


TABLES: dict[str, Callable[[Layer, Int64Array], Int64Array]] = {
    "requantize": requantize,
    "relu": relu,
    "leaky_relu": leaky_relu,
    "logistic": logistic_table,
    "tanh": tanh_table,
    "hard_swish": hard_swish,
    "elu": elu,
}
