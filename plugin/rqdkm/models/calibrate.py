"""Activation ranges from calibration data: minimum and maximum, percentile, or least squared error.

Two passes over the data: the first finds each tensor's extremes, the second (percentile and MSE only) a histogram
between them. Ranges always contain zero, which must be exactly representable.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rqdkm.models.float_run import Floats, run_float
from rqdkm.models.graph import Graph, Quantization, per_tensor
from rqdkm.models.morph_file import variants
from rqdkm_tvm.errors import DataError

METHODS = ("minmax", "percentile", "mse")
BINS = 2048
PERCENTILE = 99.99  # of the values, kept inside the range
BATCH = 16  # samples per pass through the network
_MSE_STEPS = 40  # candidate limits per side
_LEVELS = 256


@dataclass(frozen=True)
class Range:
    """What a tensor's values span, ``low <= 0 <= high``."""

    low: float
    high: float

    def union(self, other: Range) -> Range:
        return Range(min(self.low, other.low), max(self.high, other.high))


def calibrate(
    graph: Graph,
    inputs: Sequence[Floats],
    method: str = "minmax",
    progress: Callable[[str], None] = lambda _: None,
) -> dict[int, Range]:
    """Range of every activation of a float graph; of a morphing one with every kernel in turn.

    Args:
        graph: float, simplified.
        inputs: per model input (n, *sample shape), n >= 1.
        method: ``minmax``; ``percentile`` clips the outermost 0.01 % of the values; ``mse`` picks the limits with the
            least expected squared error of 8-bit quantization.

    Raises:
        DataError: unknown method, or the network computes NaN or infinity on this data.
    """
    if method not in METHODS:
        raise DataError(f"calibration method {method!r} does not exist", hint=f"available: {', '.join(METHODS)}")
    extremes: dict[int, Range] = {}

    def widen(index: int, values: Floats) -> None:
        found = Range(min(0.0, float(values.min())), max(0.0, float(values.max())))
        if not np.isfinite([found.low, found.high]).all():
            raise DataError(
                f"tensor {graph.tensors[index].name!r} becomes NaN or infinite on the calibration data",
                hint="check the data's scale and the model's weights",
            )
        extremes[index] = extremes[index].union(found) if index in extremes else found

    _pass(graph, inputs, widen, progress, "ranges")
    if method == "minmax":
        return extremes
    counts = {index: np.zeros(BINS, np.int64) for index in extremes}

    def tally(index: int, values: Floats) -> None:
        span = extremes[index]
        if span.high > span.low:
            counts[index] += np.histogram(values, BINS, (span.low, span.high))[0]

    _pass(graph, inputs, tally, progress, "histograms")
    pick = _percentile if method == "percentile" else _least_error
    return {index: pick(extremes[index], counts[index]) for index in extremes}


def activation_quantization(span: Range) -> Quantization:
    """Asymmetric int8: 255 steps from ``low`` to ``high``, zero on a step; scale is a float32."""
    if span.high <= span.low:
        return per_tensor(1.0, 0)  # only zeros were seen
    scale = np.float32((span.high - span.low) / (_LEVELS - 1))
    if not scale > 0:  # underflow
        return per_tensor(float(np.finfo(np.float32).tiny), 0)
    zero_point = int(np.clip(np.rint(-128 - span.low / float(scale)), -128, 127))
    return per_tensor(float(scale), zero_point)


def _pass(
    graph: Graph,
    inputs: Sequence[Floats],
    observe: Callable[[int, Floats], None],
    progress: Callable[[str], None],
    what: str,
) -> None:
    count, networks = len(inputs[0]), variants(graph)
    for start in range(0, count, BATCH):
        progress(f"calibrating: {what}, sample {start + 1} of {count}")
        for variant in networks:
            run_float(variant, [x[start : start + BATCH] for x in inputs], observe)


def _percentile(span: Range, counts: npt.NDArray[np.int64]) -> Range:
    total = counts.sum()
    if total == 0:
        return span
    edges = np.linspace(span.low, span.high, BINS + 1)
    outside = (1 - PERCENTILE / 100) / 2 * total
    below = np.cumsum(counts)
    first = int(np.searchsorted(below, outside, side="right"))
    last = int(np.searchsorted(below, total - outside, side="left"))
    # a one-sided tensor (behind a relu) keeps its zero side by construction
    return Range(min(0.0, float(edges[first])), max(0.0, float(edges[min(last, BINS - 1) + 1])))


def _least_error(span: Range, counts: npt.NDArray[np.int64]) -> Range:
    """Clipping error of the histogram plus step^2 / 12 inside, over a grid of limits."""
    total = counts.sum()
    if total == 0:
        return span
    centres = np.linspace(span.low, span.high, BINS + 1)[:-1] + (span.high - span.low) / BINS / 2
    # squared error of clipping at each candidate, per side
    fractions = np.linspace(1.0, 1 / _MSE_STEPS, _MSE_STEPS)
    lows, highs = span.low * fractions, span.high * fractions
    below = np.array([(counts * np.square(np.minimum(centres - low, 0))).sum() for low in lows])
    above = np.array([(counts * np.square(np.maximum(centres - high, 0))).sum() for high in highs])
    steps = (highs[None, :] - lows[:, None]) / (_LEVELS - 1)
    # behind a relu most values are exactly zero, and zero costs nothing
    rounded = total - (counts[0] if span.low == 0.0 else 0)
    errors = below[:, None] + above[None, :] + rounded * np.square(steps) / 12
    best = np.unravel_index(int(np.argmin(errors)), errors.shape)
    return Range(float(lows[best[0]]), float(highs[best[1]]))
