"""How sure is a measured accuracy? Pure functions; intervals are two-sided, 95 % unless ``confidence`` differs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.special import betaincinv  # type: ignore[import-untyped]

Array = npt.NDArray[Any]
# one-sided: a loss counts as allowed when it is with this probability
CONFIDENCE = 0.8


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


def binomial_limits(successes: int, n: int, alpha: float) -> tuple[float, float]:
    """Lower and upper limit of a proportion, each wrong at most ``alpha`` of the time; exact, also at 0 and ``n``.

    Quantiles of Beta(k, n - k + 1) and Beta(k + 1, n - k): C. J. Clopper and E. S. Pearson, "The use of confidence or
    fiducial limits illustrated in the case of the binomial", Biometrika 26 (1934).
    """
    low = 0.0 if successes == 0 else float(betaincinv(successes, n - successes + 1, alpha))
    high = 1.0 if successes == n else float(betaincinv(successes + 1, n - successes, 1 - alpha))
    return low, high


@dataclass(frozen=True)
class PairedLoss:
    """Loss of accuracy between two networks on the same ``n`` samples, as a fraction (0.005 is half a point).

    ``lost``: samples that the first alone gets right; ``won``: those that the second alone does. Only these count (Q.
    McNemar, "Note on the sampling error of the difference between correlated proportions or percentages",
    Psychometrika 12, 1947).
    """

    lost: int
    won: int
    n: int

    @property
    def loss(self) -> float:
        return (self.lost - self.won) / self.n

    def interval(self, confidence: float = 0.95) -> tuple[float, float]:
        """Two-sided; see :func:`_limit`."""
        alpha = (1 - _checked(confidence)) / 2
        return -_limit(self.won, self.lost, self.n, alpha), _limit(self.lost, self.won, self.n, alpha)

    def upper(self, confidence: float) -> float:
        """One-sided upper bound, never below that of a network which changed none of as many samples.

        That one is ``1 - alpha^(1/n)``: with a greater loss, a sample without any has a probability below alpha. What
        a network wins says nothing of what it loses elsewhere, so few samples never prove more than this.
        """
        alpha = 1 - _checked(confidence)
        return max(_limit(self.lost, self.won, self.n, alpha), _limit(0, 0, self.n, alpha))


def _limit(lost: int, won: int, n: int, alpha: float) -> float:
    """Upper limit of ``p_lost - p_won``, one-sided.

    ``d + sqrt(a^2 + b^2 + 2 r a b)`` with ``d`` the observed difference, ``a`` from the observed ``p_lost`` up to its
    exact limit, ``b`` from the observed ``p_won`` down to its own, and ``-r`` the correlation of the two counts of a
    multinomial, ``r = sqrt(p_lost p_won / ((1 - p_lost) (1 - p_won)))``. Recovers the variance at the limits, where it
    matters, rather than at the estimate, where it may be zero: G. Y. Zou and A. Donner, "Construction of confidence
    limits about effect measures: a general approach", Statistics in Medicine 27 (2008).
    """
    p, q = lost / n, won / n
    up = binomial_limits(lost, n, alpha)[1] - p
    down = q - binomial_limits(won, n, alpha)[0]
    r = 0.0 if not lost or not won else math.sqrt(p * q / ((1 - p) * (1 - q)))
    return p - q + math.sqrt(up * up + down * down + 2 * r * up * down)


def samples_needed(loss: float, confidence: float = CONFIDENCE) -> int | None:
    """The fewest samples on which :meth:`PairedLoss.upper` can be ``loss`` at all (none of them lost); None: no number.

    ``1 - alpha^(1/n) <= loss``; about ``1.6 / loss`` at 80 %.
    """
    if loss <= 0:
        return None
    return 1 if loss >= 1 else max(1, math.ceil(math.log(1 - _checked(confidence)) / math.log1p(-loss) - 1e-9))


def paired_loss(before: Array, after: Array) -> PairedLoss:
    """From what each network gets right (boolean, same samples).

    Raises:
        ValueError: shapes differ or there are no samples.
    """
    before, after = np.asarray(before, bool), np.asarray(after, bool)
    n = len(before)
    if before.shape != (n,) or after.shape != (n,) or n == 0:
        raise ValueError(f"{before.shape} and {after.shape} are no paired samples")
    return PairedLoss(int(np.sum(before & ~after)), int(np.sum(~before & after)), n)


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
    return NormalDist().inv_cdf(0.5 + _checked(confidence) / 2)


def _checked(confidence: float) -> float:
    if not 0 < confidence < 1:
        raise ValueError(f"confidence {confidence} is not between 0 and 1")
    return confidence
