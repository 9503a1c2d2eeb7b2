"""Kernels that stand for a trained convolution: least squares on what it reads and gives, in NumPy.

A kernel is fitted to the results y of the trained convolution, before its activation function, from what *its own*
network hands it, so that a layer also makes up for the errors of those before it (as in Zhang et al., "Accelerating
Very Deep Convolutional Networks for Classification and Detection", 2015). Weights w minimise

    |x w - t|^2 + r |w - w0|^2,    r = ridge * mean diagonal of x'x

around ``w0``, what structure alone gives. Where y is cut off by the activation function any value that is cut off
is right, so the target t is y where it passes, and where it does not the nearest value to x w that is cut off, too;
t and w are found by turns.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float32]
Wide = npt.NDArray[np.float64]

RIDGE = 1e-3
TURNS = 6
_CHUNK = 1024  # rows whose products are summed up at a time
_EXACT = 1e-5  # relative error below which there is nothing to fit


@dataclass(frozen=True)
class Convolution:
    """One convolution, weights HWIO; depthwise (KH, KW, C, 1). ``padding``: top, left, bottom, right."""

    weights: Floats
    bias: Floats
    strides: tuple[int, int]
    padding: tuple[int, int, int, int]
    dilation: int = 1
    depthwise: bool = False

    def patches(self, x: Floats, where: npt.NDArray[np.int64] | None = None) -> Floats:
        """What each output pixel reads: x (n, H, W, C) -> (rows, KH * KW, C); of some of the pixels, by number."""
        top, left, bottom, right = self.padding
        kh, kw = self.weights.shape[:2]
        reach = [(size - 1) * self.dilation + 1 for size in (kh, kw)]
        padded = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
        view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(1, 2))
        view = view[:, :: self.strides[0], :: self.strides[1], :, :: self.dilation, :: self.dilation]
        n, rows, columns = view.shape[:3]
        if where is None:
            chosen = view.reshape(n * rows * columns, x.shape[3], kh * kw)
        else:
            chosen = view[where // (rows * columns), where // columns % rows, where % columns].reshape(
                len(where), x.shape[3], kh * kw
            )
        return np.ascontiguousarray(chosen.transpose(0, 2, 1))

    def run(self, x: Floats) -> Floats:
        """(n, H, W, C) -> (n, OH, OW, O), one sample at a time: windows are copied."""
        found = []
        for sample in x:
            patches = self.patches(sample[None])
            if self.depthwise:
                y = np.einsum("rtc,tc->rc", patches, self.weights.reshape(-1, patches.shape[2]))
            else:
                y = patches.reshape(len(patches), -1) @ self.weights.reshape(-1, self.weights.shape[3])
            found.append((y + self.bias).reshape(*self.output_size(sample.shape), -1))
        return np.stack(found).astype(np.float32)

    def output_size(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Height and width of the result for an input of (height, width, ...)."""
        kh, kw = self.weights.shape[:2]
        top, left, bottom, right = self.padding
        rows = (shape[0] + top + bottom - (kh - 1) * self.dilation - 1) // self.strides[0] + 1
        return rows, (shape[1] + left + right - (kw - 1) * self.dilation - 1) // self.strides[1] + 1

    def sized(self, size: int, dilation: int = 1) -> Convolution:
        """No weights yet, but the same pixels in the middle: a kernel of ``size`` x ``size``."""
        shift = (size - 1) // 2 * dilation - (self.weights.shape[0] - 1) // 2 * self.dilation
        padding = tuple(max(0, p + shift) for p in self.padding)
        weights = np.zeros((size, size, *self.weights.shape[2:]), np.float32)
        assert len(padding) == 4
        return replace(self, weights=weights, padding=padding, dilation=dilation)


@dataclass(frozen=True)
class Examples:
    """What a fit has to go by.

    Args:
        x: inputs (n, H, W, C) that the kernel will get.
        y: (rows, outputs) results wanted at ``where``.
        where: numbers of output pixels, counted through all samples.
        low, high: where the activation function cuts off.
    """

    x: Floats
    y: Floats
    where: npt.NDArray[np.int64]
    low: float = -np.inf
    high: float = np.inf


Fit = Callable[[Convolution, Examples], tuple[Convolution, ...]]


# ---- least squares


def _gram(a: Floats, b: Floats) -> Wide:
    """a'b, summed up in double precision."""
    parts = [slice(i, i + _CHUNK) for i in range(0, len(a), _CHUNK)]
    return np.asarray(sum((a[p].T @ b[p]).astype(np.float64) for p in parts))


def _target(y: Floats, predicted: Floats, low: float, high: float) -> Floats:
    t = np.where(y <= low, np.minimum(predicted, low), y)
    return np.where(y >= high, np.maximum(predicted, high), t).astype(np.float32)


def _with_one(x: Floats) -> Floats:
    return np.concatenate([x, np.ones((len(x), 1), np.float32)], axis=1)


def _solve(x: Floats, prior: Wide, e: Examples, turns: int = TURNS) -> Wide:
    """Weights and, in the last row, bias."""
    weights = prior
    inverse: Wide | None = None
    for _ in range(turns):
        predicted = x @ weights.astype(np.float32)
        t = _target(e.y, predicted, e.low, e.high)
        if np.square(t - predicted).sum() <= _EXACT**2 * np.square(e.y).sum():
            break
        if inverse is None:
            gram = _gram(x, x)
            inverse = np.linalg.inv(gram + np.eye(len(gram)) * (RIDGE * np.trace(gram) / len(gram)))
        weights = prior + inverse @ _gram(x, t - x @ prior.astype(np.float32))
    return weights


def _parts(weights: Wide, shape: tuple[int, ...]) -> tuple[Floats, Floats]:
    return weights[:-1].reshape(shape).astype(np.float32), weights[-1].astype(np.float32)


# ---- kernels


def keep(trained: Convolution, _examples: Examples) -> tuple[Convolution, ...]:
    """The trained convolution itself."""
    return (trained,)


def plain(size: int, dilation: int = 1) -> Fit:
    """A convolution of another size; starts from the trained taps that both have."""

    def fit(trained: Convolution, e: Examples) -> tuple[Convolution, ...]:
        empty = trained.sized(size, dilation)
        first = empty.weights.copy()
        middle, centre = (size - 1) // 2, (trained.weights.shape[0] - 1) // 2
        for i in range(size):
            for j in range(size):
                u, v = ((k - middle) * dilation + centre for k in (i, j))
                if 0 <= u < trained.weights.shape[0] and 0 <= v < trained.weights.shape[1]:
                    first[i, j] = trained.weights[u, v]
        x = _with_one(empty.patches(e.x, e.where).reshape(len(e.where), -1))
        prior = np.concatenate([first.reshape(-1, first.shape[3]), trained.bias[None]]).astype(np.float64)
        weights, bias = _parts(_solve(x, prior, e), first.shape)
        return (replace(empty, weights=weights, bias=bias),)

    return fit


def separable(trained: Convolution, e: Examples) -> tuple[Convolution, ...]:
    """Depthwise, then pointwise. Starts from the best rank 1 of the taps of every input channel; each is then solved
    for while the other is kept, by turns. Nothing is cut off between them."""
    kh, kw, inputs, outputs = trained.weights.shape
    taps = kh * kw
    depthwise, pointwise = np.zeros((taps, inputs)), np.zeros((inputs, outputs))
    for c in range(inputs):
        u, s, v = np.linalg.svd(trained.weights[:, :, c].reshape(taps, outputs).astype(np.float64), full_matrices=False)
        depthwise[:, c], pointwise[c] = u[:, 0], s[0] * v[0]
    x = trained.patches(e.x, e.where)
    flat = x.reshape(len(x), -1)
    gram = _gram(flat, flat)
    bias = trained.bias.astype(np.float64)

    def between() -> Floats:
        found: Floats = np.einsum("rtc,tc->rc", x, depthwise.astype(np.float32))
        return found

    for _ in range(TURNS):
        z = _with_one(between())
        solved = _solve(z, np.concatenate([pointwise, bias[None]]), e, turns=2)
        pointwise, bias = solved[:-1], solved[-1]
        t = _target(e.y, z @ solved.astype(np.float32), e.low, e.high) - bias.astype(np.float32)
        wanted = np.einsum("tco,co->tc", _gram(flat, t).reshape(taps, inputs, outputs), pointwise).reshape(-1)
        alike = np.tile(pointwise @ pointwise.T, (taps, taps))  # of (tap, channel) and (tap, channel)
        system = gram * alike
        ridge = RIDGE * np.trace(system) / len(system)
        step = wanted + ridge * depthwise.reshape(-1)
        depthwise = np.linalg.solve(system + np.eye(len(system)) * ridge, step).reshape(taps, inputs)
    # one scale serves all channels of the map in between: make them equally large
    size = np.maximum(np.sqrt(np.square(between()).mean(axis=0)), 1e-6).astype(np.float64)
    depthwise /= size
    solved = _solve(_with_one(between()), np.concatenate([pointwise * size[:, None], bias[None]]), e)
    zeros = np.zeros(inputs, np.float32)
    first = replace(
        trained, weights=depthwise.reshape(kh, kw, inputs, 1).astype(np.float32), bias=zeros, depthwise=True
    )
    return first, _pointwise(*_parts(solved, (1, 1, inputs, outputs)))


def low_rank(trained: Convolution, e: Examples) -> tuple[Convolution, ...]:
    """A convolution of the same size with a quarter of the channels, then a pointwise one: the directions in which the
    results vary most (Zhang et al.)."""
    outputs = trained.weights.shape[3]
    rank = max(1, outputs // 4)
    (whole,) = plain(trained.weights.shape[0], trained.dilation)(trained, e)
    x = whole.patches(e.x, e.where).reshape(len(e.where), -1)
    y = x @ whole.weights.reshape(-1, outputs)
    mean = y.mean(axis=0)
    vectors = np.linalg.eigh(_gram(y - mean, y - mean))[1][:, ::-1][:, :rank]
    weights = whole.weights.reshape(-1, outputs) @ vectors
    bias = -mean @ vectors
    size = np.maximum(np.sqrt(np.square(x @ weights.astype(np.float32) + bias).mean(axis=0)), 1e-6)
    weights, bias = weights / size, bias / size
    z = _with_one((x @ weights.astype(np.float32) + bias).astype(np.float32))
    prior = np.concatenate([vectors.T * size[:, None], (whole.bias + mean)[None]]).astype(np.float64)
    solved = _solve(z, prior, e)
    shape = (*trained.weights.shape[:3], rank)
    first = replace(trained, weights=weights.reshape(shape).astype(np.float32), bias=bias.astype(np.float32))
    return first, _pointwise(*_parts(solved, (1, 1, rank, outputs)))


def _pointwise(weights: Floats, bias: Floats) -> Convolution:
    return Convolution(weights, bias, (1, 1), (0, 0, 0, 0))


#: by the name that the compiler gives such a path (rqdkm_tvm.morph.library.path_name)
FITS: Mapping[str, Fit] = {
    "3x3": keep,
    "5x5": plain(5),
    "separable 3x3": separable,
    "1x1": plain(1),
    "3x3 dilated": plain(3, 2),
    "3x3 + 1x1": low_rank,
}
