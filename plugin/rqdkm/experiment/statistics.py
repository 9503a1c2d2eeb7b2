"""How sure is a measured accuracy? Pure functions; intervals are two-sided, 95 % unless ``confidence`` differs."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def wilson_interval(successes: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a proportion; right also for small ``n`` and near 0 and 1.

    ``(p + z^2/2n +- z sqrt(p (1-p)/n + z^2/4n^2)) / (1 + z^2/n)`` with ``p = successes / n``. E. B. Wilson,
    "Probable inference, the law of succession, and statistical inference", JASA 22 (1927).

    Raises:
        ValueError: ``n`` < 1, ``successes`` outside 0 to ``n``, or ``confidence`` outside (0, 1).
    """
    if n < 1 or not 0 <= successes <= n:
        raise ValueError(f"{successes} of {n} is not a proportion")
    z = _z(confidence)
    p, zz = successes / n, z * z
    centre, half = p + zz / (2 * n), z * math.sqrt(p * (1 - p) / n + zz / (4 * n * n))
    scale = 1 + zz / n
    low = 0.0 if successes == 0 else (centre - half) / scale
    high = 1.0 if successes == n else (centre + half) / scale
    return low, high


def top1(outputs: Array, labels: Array) -> tuple[int, int]:
    """(correct, n): the largest of ``outputs`` (n, classes), the first of equals, against ``labels`` (n,)."""
    if outputs.ndim != 2 or labels.shape != outputs.shape[:1]:
        raise ValueError(f"outputs {outputs.shape} and labels {labels.shape} do not belong together")
    return int(np.count_nonzero(outputs.argmax(axis=1) == labels)), len(labels)


def auc(scores: Array, positive: Array) -> float:
    """Area under the ROC curve of ``scores`` (n,) for the boolean ``positive`` (n,); higher scores mean positive.

    The probability that a positive scores above a negative, ties counting half: Mann-Whitney's U / (n1 n0), computed
    from mid-ranks. J. A. Hanley and B. J. McNeil, "The meaning and use of the area under a ROC curve", Radiology 143
    (1982).

    Raises:
        ValueError: shapes differ, a score is not finite, or one class is empty.
    """
    scores, positive = np.asarray(scores, np.float64), np.asarray(positive, bool)
    if scores.ndim != 1 or scores.shape != positive.shape or not np.isfinite(scores).all():
        raise ValueError("needs one finite score per label")
    n1 = int(positive.sum())
    n0 = len(positive) - n1
    if n1 == 0 or n0 == 0:
        raise ValueError("needs both classes")
    _, inverse, counts = np.unique(scores, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    mid_rank = last - (counts - 1) / 2  # of 1-based ranks
    u = mid_rank[inverse][positive].sum() - n1 * (n1 + 1) / 2
    return float(u / (n1 * n0))


def auc_interval(area: float, positives: int, negatives: int, confidence: float = 0.95) -> tuple[float, float]:
    """Interval of an AUC, cut to [0, 1], by Hanley and McNeil's standard error (source: see :func:`auc`).

    ``SE^2 = (A (1-A) + (n1-1)(Q1-A^2) + (n0-1)(Q2-A^2)) / (n1 n0)``, ``Q1 = A/(2-A)``, ``Q2 = 2A^2/(1+A)``.

    Raises:
        ValueError: ``area`` outside [0, 1] or an empty class.
    """
    if not 0 <= area <= 1 or positives < 1 or negatives < 1:
        raise ValueError(f"no interval for an area of {area} from {positives} and {negatives} samples")
    square = area * area
    q1, q2 = area / (2 - area), 2 * square / (1 + area)
    variance = area * (1 - area) + (positives - 1) * (q1 - square) + (negatives - 1) * (q2 - square)
    half = _z(confidence) * math.sqrt(max(0.0, variance) / (positives * negatives))
    return max(0.0, area - half), min(1.0, area + half)


def _z(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    return NormalDist().inv_cdf(0.5 + confidence / 2)
