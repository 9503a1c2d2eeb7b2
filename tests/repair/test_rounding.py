"""Rounding by output error: the sums it needs, and how near it comes to the best integers there are."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest

from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.lowbit import integer_range, quantize_weights
from rqdkm_tvm.repair.moments import Moments, patches, rows_of, weights_of
from rqdkm_tvm.repair.rounding import damped, round_weights, target

Array = np.ndarray[Any, Any]


def conv(
    shape: tuple[int, int, int],
    weights: tuple[int, ...],
    *,
    op: str = "conv2d",
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    padding: tuple[int, int, int, int] = (0, 0, 0, 0),
    groups: int = 1,
) -> Layer:
    kh, kw = ((k - 1) * d + 1 for k, d in zip(weights[1:3], dilation, strict=True))
    height = (shape[0] + padding[0] + padding[2] - kh) // stride[0] + 1
    width = (shape[1] + padding[1] + padding[3] - kw) // stride[1] + 1
    channels = weights[3] if op == "depthwise_conv2d" else weights[0]
    attrs: dict[str, Any] = {"strides": stride, "padding": padding, "dilation": dilation, "clamp": (-128, 127)}
    attrs |= {"multiplier": weights[3] // shape[2]} if op == "depthwise_conv2d" else {"groups": groups}
    integers = np.random.default_rng(0).integers(-127, 128, weights).astype(np.int8)
    return Layer(
        "l", op, (Tensor((1, *shape)),), Tensor((1, height, width, channels)), attrs, integers, np.ones(channels)
    )


LAYERS = {
    "same": conv((6, 5, 3), (4, 3, 3, 3), padding=(1, 1, 1, 1)),
    "strided": conv((7, 8, 2), (3, 3, 2, 2), stride=(2, 3), padding=(0, 0, 1, 1)),
    "dilated": conv((8, 9, 2), (3, 3, 3, 2), dilation=(2, 1), padding=(2, 1, 2, 1)),
    "grouped": conv((5, 5, 6), (8, 3, 3, 3), groups=2),
    "depthwise": conv((6, 6, 3), (1, 3, 3, 3), op="depthwise_conv2d", padding=(0, 0, 1, 1), stride=(2, 2)),
    "multiplier": conv((5, 6, 2), (1, 2, 3, 6), op="depthwise_conv2d"),
    "dense": Layer(
        "l", "fully_connected", (Tensor((1, 1, 1, 7)),), Tensor((1, 4)), {"clamp": (-128, 127)},
        np.random.default_rng(1).integers(-127, 128, (4, 7)).astype(np.int8), np.ones(4),
    ),
}  # fmt: skip


def naive(layer: Layer, x: Array) -> Array:
    """The layer as the definition says, one product at a time."""
    assert layer.weights is not None
    w, out = layer.weights.astype(np.float64), layer.output.shape
    if layer.op == "fully_connected":
        return x.reshape(-1) @ w.T
    result = np.zeros(out[1:])
    top, left = layer.attrs["padding"][:2]
    (sh, sw), (dh, dw) = layer.attrs["strides"], layer.attrs["dilation"]
    for oy, ox, o, ky, kx in itertools.product(*map(range, out[1:]), *map(range, w.shape[1:3])):
        y, z = oy * sh + ky * dh - top, ox * sw + kx * dw - left
        if not (0 <= y < x.shape[0] and 0 <= z < x.shape[1]):
            continue
        if layer.op == "depthwise_conv2d":
            result[oy, ox, o] += w[0, ky, kx, o] * x[y, z, o // layer.attrs["multiplier"]]
        else:
            depth = w.shape[3]
            first = o // (w.shape[0] // layer.attrs["groups"]) * depth
            result[oy, ox, o] += w[o, ky, kx] @ x[y, z, first : first + depth]
    return result


@pytest.mark.parametrize("name", LAYERS)
def test_patches_times_weights_are_the_layer(name: str) -> None:
    layer = LAYERS[name]
    x = np.random.default_rng(2).integers(-5, 6, layer.inputs[0].shape[1:]).astype(np.float64)
    assert layer.weights is not None
    rows = rows_of(layer, layer.weights.astype(np.float64))
    y = patches(layer, x) @ rows.transpose(0, 2, 1)  # (G, P, R)
    found = np.moveaxis(y, 1, 0).reshape(layer.output.shape[1:])
    assert np.array_equal(found, naive(layer, x))
    assert np.array_equal(weights_of(layer, rows), layer.weights)


@pytest.mark.parametrize("name", ["grouped", "multiplier", "dense"])
def test_moments_give_the_error_of_any_weights(name: str) -> None:
    layer = LAYERS[name]
    rng = np.random.default_rng(3)
    assert layer.weights is not None
    real = rows_of(layer, layer.weights.astype(np.float64))
    moments = Moments.empty(*real.shape)
    other, shift = real + rng.normal(0, 9, real.shape), rng.normal(0, 9, real.shape[:2])
    squares, first = [], []
    for _ in range(5):
        x = patches(layer, rng.normal(size=layer.inputs[0].shape[1:]))
        y = patches(layer, rng.normal(size=layer.inputs[0].shape[1:])) @ real.transpose(0, 2, 1)
        moments.add(x, y)
        difference = y - x @ other.transpose(0, 2, 1)
        first.append(difference)
        squares.append(np.square(difference - shift[:, None]))
    assert moments.error(other, shift) == pytest.approx(np.concatenate(squares, axis=1).mean(axis=1), rel=1e-4)
    assert moments.mean_error(other) == pytest.approx(np.concatenate(first, axis=1).mean(axis=1), abs=1e-3)


def correlated(rng: np.random.Generator, groups: int, elements: int, count: int = 400) -> Array:
    """(G, K, K) second moments of inputs that move together, as neighbouring pixels do."""
    mixing = rng.normal(size=(groups, elements, elements)) * 0.9 ** np.arange(elements)
    x = rng.normal(size=(groups, count, elements)) @ mixing
    return np.asarray(x.transpose(0, 2, 1) @ x / count)


def errors(q: Array, s: Array, wanted: Array, hessian: Array) -> Array:
    delta = q * np.asarray(s, np.float64)[..., None] - wanted
    return np.asarray(((delta @ hessian) * delta).sum(axis=-1))


def plain(wanted: Array, bits: Array) -> tuple[Array, Array]:
    shape = wanted.shape
    values, scales = quantize_weights(wanted.reshape(-1, shape[2]), bits.reshape(-1))
    return values.reshape(shape), scales.reshape(shape[:2])


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("width", [2, 4])
def test_never_worse_than_plain_and_much_better_on_correlated_inputs(seed: int, width: int) -> None:
    rng = np.random.default_rng(seed)
    wanted = rng.normal(size=(2, 5, 24))
    hessian = damped(correlated(rng, 2, 24), 0.01)
    bits = np.full((2, 5), width)
    bits[1, 3] = 6 - width  # and one channel of the other kind
    values, scales = plain(wanted, bits)
    q, s = round_weights(wanted, hessian, bits, values, scales)
    before, after = errors(values, scales, wanted, hessian), errors(q, s, wanted, hessian)
    assert (after <= before).all()
    assert after.mean() < 0.5 * before.mean()
    assert q.dtype == np.int8 and s.dtype == np.float32 and (s > 0).all()
    for row, b in zip(q.reshape(-1, 24), bits.reshape(-1), strict=True):
        low, high = integer_range(int(b))
        assert low <= row.min() and row.max() <= high


def test_near_the_best_there_is() -> None:
    """All 4^6 choices of 2-bit integers, each with its own best scale."""
    ratios = []
    choices = np.array(list(itertools.product(range(-2, 2), repeat=6)), np.float64)
    for seed in range(12):
        rng = np.random.default_rng(seed)
        hessian = damped(correlated(rng, 1, 6), 0.01)
        wanted = rng.normal(size=(1, 1, 6))
        power = ((choices @ hessian[0]) * choices).sum(axis=1)
        product = np.maximum(choices @ hessian[0] @ wanted[0, 0], 0)
        best = (wanted[0, 0] @ hessian[0] @ wanted[0, 0] - product**2 / np.where(power > 0, power, np.inf)).min()
        values, scales = plain(wanted, np.array([[2]]))
        q, s = round_weights(wanted, hessian, np.array([[2]]), values, scales)
        ratios.append((errors(q, s, wanted, hessian)[0, 0] + 1e-9) / (best + 1e-9))
    assert min(ratios) >= 1 - 1e-4
    assert np.median(ratios) < 1.5


def test_the_target_takes_back_an_error_of_the_input() -> None:
    """Inputs that arrive at half their size: least squares doubles the weights, as far as the ridge lets it."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1, 500, 8))
    real = rng.normal(size=(1, 3, 8))
    y = x @ real.transpose(0, 2, 1)
    moments = Moments.empty(1, 3, 8)
    moments.add(0.5 * x, y)
    assert target(moments.xx, moments.yx, real, 1e-6) == pytest.approx(2 * real, rel=1e-3)
    assert target(moments.xx, moments.yx, real, 1e6) == pytest.approx(real, rel=1e-3)
