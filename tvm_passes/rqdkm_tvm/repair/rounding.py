"""Integers for weights that give the least error of a layer's *output*, not of the weights.

For one output channel the mean squared error of the output is, up to a constant, the quadratic form

    e(q, s) = (s q - w*)^T H (s q - w*)

with H = E[x x^T] of the layer's inputs and w* the real weights of least error. Three classic steps, for all output
channels at once:

1. For each scale on a grid: round element by element, the element with the largest H_kk first, and spread the error of
   each over those that are still real, ``w_j -= err * [H^-1]_kj / [H^-1]_kk`` (Optimal Brain Surgeon: Hassibi and
   Stork, 1993; in this order by Cholesky factor: Frantar et al., "GPTQ", 2023).
2. For the best scale: coordinate descent. Given all the others, the best real value of element k is known; rounded and
   clipped it is the best integer, since e is a parabola in it.
3. The best scale for these integers is ``<q, w*>_H / <q, q>_H``; then 2 again.

Steps 2 and 3 cannot raise e.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.layer import NDArray
from rqdkm_tvm.lowbit import integer_range

Doubles = npt.NDArray[np.float64]

FACTORS = tuple(np.linspace(0.55, 1.25, 15))  # scales tried, relative to the given ones
ROUNDS = 6  # of steps 2 and 3


def damped(hessian: Doubles, damping: float) -> Doubles:
    """(G, K, K) with ``damping`` times the mean of the diagonal added to it: calibration does not know every input."""
    size = hessian.shape[-1]
    mean = np.trace(hessian, axis1=1, axis2=2) / size
    return np.asarray(hessian + (damping * mean + 1e-12)[:, None, None] * np.eye(size))


def floor(second_moments: Doubles) -> Doubles:
    """What single precision leaves uncertain in a covariance, times the unit matrix: constant inputs have no other."""
    size = second_moments.shape[-1]
    mean = np.trace(second_moments, axis1=1, axis2=2) / size
    return np.asarray(1e-5 * mean[:, None, None] * np.eye(size))


def target(hessian: Doubles, cross: Doubles, real: NDArray, damping: float) -> Doubles:
    """w*, (G, R, K): least squares of the wanted outputs, drawn towards the real weights (ridge regression).

    Where the inputs already carry the error of the layers before, w* takes back what of it is linear.

    Args:
        hessian: E[x x^T], (G, K, K), undamped.
        cross: E[y x^T], (G, R, K).
        real: (G, R, K), where the ridge pulls to.
    """
    ridge = damped(hessian, damping)
    pull = ridge[:, 0, 0] - hessian[:, 0, 0]
    right = cross + pull[:, None, None] * real
    return np.asarray(np.linalg.solve(ridge, right.transpose(0, 2, 1)).transpose(0, 2, 1))


def round_weights(
    wanted: Doubles, hessian: Doubles, bits: NDArray, values: NDArray, scales: NDArray
) -> tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]:
    """Integers and scales of least error, never worse (by this error) than those given.

    Args:
        wanted: w*, (G, R, K).
        hessian: positive definite, (G, K, K).
        bits: (G, R).
        values, scales: (G, R, K) integers and (G, R) scales to start from, the plain ones.
    """
    low, high = _ranges(bits)
    starts = [(np.asarray(values, np.float64), np.asarray(scales, np.float64))]
    surgeon = _Surgeon.of(wanted, hessian)
    for factor in FACTORS:
        scale = scales * np.float64(factor)
        starts.append((surgeon.round(scale, low, high), scale))
    errors = np.stack([_error(q, s, wanted, hessian) for q, s in starts])
    best = errors.argmin(axis=0)
    q = np.take_along_axis(np.stack([x for x, _ in starts]), best[None, :, :, None], axis=0)[0]
    s = np.take_along_axis(np.stack([x for _, x in starts]), best[None], axis=0)[0]
    for _ in range(ROUNDS):
        before = q.copy()
        _descend(q, s, wanted, hessian, low, high)
        qh = q @ hessian
        power, product = (qh * q).sum(axis=-1), (qh * wanted).sum(axis=-1)
        s = np.where((power > 0) & (product > 0), product / np.where(power > 0, power, 1), s)
        if np.array_equal(before, q):
            break
    # float32 is what is stored: integers last, so that they fit the stored scale
    stored = s.astype(np.float32)
    stored = np.where(stored > 0, stored, np.float32(1.0)).astype(np.float32)
    _descend(q, stored.astype(np.float64), wanted, hessian, low, high)
    worse = _error(q, stored, wanted, hessian) > errors[0]
    q = np.where(worse[..., None], values, q)
    return q.astype(np.int8), np.where(worse, scales, stored).astype(np.float32)


def _ranges(bits: NDArray) -> tuple[Doubles, Doubles]:
    pairs = np.array([integer_range(int(b), weights=True) for b in np.asarray(bits).reshape(-1)], np.float64)
    return pairs[:, 0].reshape(np.shape(bits)), pairs[:, 1].reshape(np.shape(bits))


def _error(q: NDArray, s: NDArray, wanted: Doubles, hessian: Doubles) -> Doubles:
    delta = q * np.asarray(s, np.float64)[..., None] - wanted
    return np.asarray(((delta @ hessian) * delta).sum(axis=-1))


@dataclass(frozen=True)
class _Surgeon:
    """Step 1: what does not depend on the scale is worked out once."""

    order: npt.NDArray[np.int64]  # (G, K) elements, the largest H_kk first
    factor: Doubles  # (G, K, K) U of H^-1 = U^T U, in that order
    wanted: Doubles  # (G, R, K) likewise

    @staticmethod
    def of(wanted: Doubles, hessian: Doubles) -> _Surgeon:
        order = np.argsort(-np.diagonal(hessian, axis1=1, axis2=2), axis=1, kind="stable")
        permuted = np.take_along_axis(np.take_along_axis(hessian, order[:, :, None], 1), order[:, None, :], 2)
        factor = np.linalg.cholesky(np.linalg.inv(permuted)).transpose(0, 2, 1)
        return _Surgeon(order, np.ascontiguousarray(factor), np.take_along_axis(wanted, order[:, None, :], 2))

    def round(self, scale: Doubles, low: Doubles, high: Doubles) -> Doubles:
        """(G, R, K) integers at one scale per channel."""
        w = self.wanted.copy()
        q = np.empty_like(w)
        for k in range(w.shape[2]):
            q[:, :, k] = np.clip(np.rint(w[:, :, k] / scale), low, high)
            spread = (w[:, :, k] - q[:, :, k] * scale) / self.factor[:, k, k, None]
            w[:, :, k + 1 :] -= spread[:, :, None] * self.factor[:, None, k, k + 1 :]
        return np.asarray(np.take_along_axis(q, np.argsort(self.order, axis=1)[:, None, :], 2))


def _descend(q: Doubles, scale: Doubles, wanted: Doubles, hessian: Doubles, low: Doubles, high: Doubles) -> None:
    """Step 2: one sweep over the elements, in place."""
    slope = (q * scale[..., None] - wanted) @ hessian
    curvature = np.diagonal(hessian, axis1=1, axis2=2)
    for k in range(q.shape[2]):
        best = q[:, :, k] - slope[:, :, k] / (curvature[:, k, None] * scale)
        new = np.clip(np.rint(best), low, high)
        change = (new - q[:, :, k]) * scale
        slope += change[:, :, None] * hessian[:, None, k, :]
        q[:, :, k] = new
