"""Requantization arithmetic: TFLite's multipliers and roundings, and the interval an accumulator can reach.

Everything here is a pure function; accumulators are int64 arrays so that nothing wraps unless the function says so.
Cheaper C forms that are provably exact: ``exact_floor.py``, ``lanes.py``, ``winograd_pack.py``.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

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


# ---- what an accumulator can be --------------------------------------------------------------------------------


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
