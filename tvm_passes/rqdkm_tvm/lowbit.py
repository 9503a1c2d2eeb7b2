"""Quantizers for 8, 4 and 2 bits: what a weight tensor and a feature map become at a bit-width. Pure NumPy.

Both minimise the mean squared error over the clipping range (the usual remedy when levels are few: Sung et al.,
"Resiliency of Deep Neural Networks under Quantization", 2015; Banner et al., "Post Training 4-bit Quantization of
Convolutional Networks for Rapid-Deployment", 2019). The sensitivity metric and the lowering pass share them, so that
what was predicted is what runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

NDArray = npt.NDArray[Any]

BITS = (2, 4, 8)  # what kernels can store
_STEPS = 32  # clipping factors tried
_REFINEMENTS = 4  # alternations of "best scale for these integers" and "best integers for this scale"


def integer_range(bits: int, *, weights: bool = False) -> tuple[int, int]:
    """Least and greatest integer of ``bits``-bit storage; 8-bit weights leave out -128, as TFLite's do."""
    low, high = -(1 << (bits - 1)), (1 << (bits - 1)) - 1
    return (low + 1 if weights and bits == 8 else low), high


# ---- weights


def channel_axis(op: str) -> int:
    """Axis of the output channels in a layer's weights (see :class:`rqdkm_tvm.layer.Layer`)."""
    return 3 if op == "depthwise_conv2d" else 0


def quantize_weights(
    weights: NDArray, bits_per_channel: Sequence[int] | NDArray
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Symmetric quantization with one scale per output channel, of least squared error per channel.

    ``w ~ scale[o] * q[o]``. For each channel a grid of clipping ranges is searched, then scale and integers are refined
    in turn: for fixed integers the best scale is ``<w, q> / <q, q>``, and neither step can raise the error.

    Args:
        weights: (O, ...) real values, output channels first.
        bits_per_channel: (O,) each 8, 4 or 2.

    Returns:
        Integers, shape of ``weights``, in ``integer_range(bits, weights=True)``, and scales (O,), all positive.
        A channel of zeros gets the largest scale of the others (1.0 if there is none): any would do.
    """
    flat = np.asarray(weights, np.float64).reshape(len(weights), -1)
    bits = np.asarray(bits_per_channel, np.int64).reshape(-1)
    if bits.shape != (len(flat),):
        raise ValueError(f"{len(flat)} channels, {bits.size} bit-widths")
    values = np.zeros(flat.shape, np.int8)
    scales = np.zeros(len(flat), np.float32)
    for width in sorted(set(bits.tolist())):
        if width not in BITS:
            raise ValueError(f"{width} bits: not one of {BITS}")
        members = np.flatnonzero(bits == width)
        values[members], scales[members] = _quantize_channels(flat[members], width)
    scales[scales == 0] = scales.max(initial=0) or 1.0
    return values.reshape(np.shape(weights)), scales


def requantize_weights(
    values: NDArray, scales: NDArray, bits_per_channel: Sequence[int] | NDArray
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """:func:`quantize_weights` of the int8 tensor ``scales[o] * values[o]``; 8-bit channels stay as they are.

    Args:
        values: (O, ...) int8, zero point 0, output channels first.
        scales: (O,) or (1,).
        bits_per_channel: (O,) each 8, 4 or 2.
    """
    values = np.asarray(values, np.int8)
    old = np.broadcast_to(np.asarray(scales, np.float32).reshape(-1), (len(values),))
    bits = np.asarray(bits_per_channel, np.int64).reshape(-1)
    spread = (-1, *[1] * (values.ndim - 1))
    new, new_scales = quantize_weights(values * old.astype(np.float64).reshape(spread), bits)
    kept = (bits == 8) | ~values.reshape(len(values), -1).any(axis=1)
    return np.where(kept.reshape(spread), values, new).astype(np.int8), np.where(kept, old, new_scales)


def dequantize_weights(values: NDArray, scales: NDArray) -> npt.NDArray[np.float32]:
    """Real values of (O, ...) integers with (O,) or (1,) scales."""
    real: npt.NDArray[np.float32] = (np.asarray(values, np.float32).T * np.asarray(scales, np.float32).reshape(-1)).T
    return real


def _quantize_channels(flat: npt.NDArray[np.float64], bits: int) -> tuple[NDArray, NDArray]:
    """(O, K) at one bit-width; scale 0 for channels of zeros."""
    low, high = integer_range(bits, weights=True)
    # the narrowest range that can hold every value without clipping, by the side that needs more
    reach = np.maximum(flat.max(axis=1, initial=0) / high, flat.min(axis=1, initial=0) / low)
    best_error = np.full(len(flat), np.inf)
    best = np.zeros(len(flat))
    # wider than that pays where levels are few: a channel of like values is best as one level
    for factor in (1.0, *np.linspace(1 + 4 / 2**bits, 1 / _STEPS, _STEPS)):
        scale = reach * factor
        for _ in range(_REFINEMENTS):
            q = _round(flat, scale, low, high)
            error = np.square(flat - q * scale[:, None]).sum(axis=1)
            better = error < best_error
            best_error, best = np.where(better, error, best_error), np.where(better, scale, best)
            power = np.square(q).sum(axis=1)
            scale = np.where(power > 0, (flat * q).sum(axis=1) / np.where(power > 0, power, 1), scale)
    # float32 is what is stored: round first, so that the integers fit the stored scale
    scales = best.astype(np.float32)
    return _round(flat, scales.astype(np.float64), low, high).astype(np.int8), scales


def _round(flat: NDArray, scale: NDArray, low: int, high: int) -> NDArray:
    return np.clip(np.rint(flat / np.where(scale > 0, scale, 1)[:, None]), low, high)


# ---- activations


@dataclass(frozen=True)
class Histogram:
    """Counts of values in equal bins between ``low`` and ``high``; exact zeros are counted apart.

    Zeros (most of what a relu gives) are representable at any scale, and would otherwise sit half a bin off.
    """

    counts: npt.NDArray[np.int64]
    low: float
    high: float
    zeros: int = 0

    @staticmethod
    def of(samples: NDArray, bins: int = 2048) -> Histogram:
        flat = np.asarray(samples, np.float64).reshape(-1)
        rest = flat[flat != 0]
        low, high = float(min(flat.min(initial=0), 0.0)), float(max(flat.max(initial=0), 0.0))
        counts, _ = np.histogram(rest, bins=bins, range=(low, high if high > low else low + 1.0))
        return Histogram(counts.astype(np.int64), low, high, flat.size - rest.size)

    @property
    def centres(self) -> npt.NDArray[np.float64]:
        edges = np.linspace(self.low, self.high, len(self.counts) + 1)
        return (edges[:-1] + edges[1:]) / 2


def activation_quantization(samples: NDArray | Histogram, bits: int, symmetric: bool = False) -> tuple[np.float32, int]:
    """Scale and zero point of a feature map at ``bits`` bits: least mean squared error over clipping ranges.

    The range always holds 0, and 0 is exact (``real = scale * (q - zero_point)``), so that padding stays padding.

    Args:
        samples: real values seen in calibration, any shape, or their histogram.
        bits: 8, 4 or 2.
        symmetric: zero point 0.
    """
    seen = samples if isinstance(samples, Histogram) else Histogram.of(samples)
    low, high = integer_range(bits)
    if not seen.counts.any() or seen.high <= seen.low:
        return np.float32(1.0), 0 if symmetric else low
    used = np.flatnonzero(seen.counts)
    values, weights = seen.centres[used], seen.counts[used].astype(np.float64)

    def error(candidate: tuple[float, int]) -> float:
        scale, zero_point = candidate
        q = np.clip(np.rint(values / scale) + zero_point, low, high)
        return float(weights @ np.square(values - scale * (q - zero_point)))

    below, above = seen.low, seen.high
    if symmetric:
        above = max(below / low, above / high) * high
        below = above / high * low
    coarse = np.linspace(1.0, 1 / _STEPS, _STEPS)
    fine = np.linspace(1.05, 0.95, 11)
    for grid in (coarse, fine):  # everywhere, then around the best
        scale, zero_point = min(sorted(_candidates(below, above, grid, bits, symmetric)), key=error)
        below, above = scale * (low - zero_point), scale * (high - zero_point)
    return np.float32(scale), zero_point


def _candidates(below: float, above: float, grid: NDArray, bits: int, symmetric: bool) -> set[tuple[float, int]]:
    """Stored scale and zero point for every clipping range on the grid; a side that ends in 0 stays there."""
    low, high = integer_range(bits)
    if symmetric:
        return {(float(np.float32(above * b / high)), 0) for b in grid}
    found = set()
    for a in grid if below < 0 else grid[:1]:
        for b in grid if above > 0 else grid[:1]:
            scale = float(np.float32((above * b - below * a) / (high - low)))
            found.add((scale, int(np.clip(np.rint(low - below * a / scale), low, high))))
    return found


def fake_quantize(values: NDArray, scale: float, zero_point: int, bits: int) -> npt.NDArray[np.float64]:
    """Real values of ``values`` after quantization to ``bits`` bits."""
    low, high = integer_range(bits)
    q = np.clip(np.rint(np.asarray(values, np.float64) / float(scale)) + zero_point, low, high)
    real: npt.NDArray[np.float64] = float(scale) * (q - zero_point)
    return real
