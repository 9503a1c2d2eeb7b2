"""The quantizers: least error, stored exactly, and nothing changes that should not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rqdkm_tvm.lowbit import (
    Histogram,
    activation_quantization,
    dequantize_weights,
    fake_quantize,
    integer_range,
    quantize_weights,
    requantize_weights,
)


def squared_error(weights: np.ndarray, bits: int) -> np.ndarray:
    values, scales = quantize_weights(weights, [bits] * len(weights))
    difference = dequantize_weights(values, scales).astype(np.float64) - weights
    return np.square(difference).reshape(len(weights), -1).sum(axis=1)


@pytest.mark.parametrize(("bits", "low", "high"), [(8, -127, 127), (4, -8, 7), (2, -2, 1)])
def test_weights_stay_in_their_range(bits: int, low: int, high: int) -> None:
    assert integer_range(bits, weights=True) == (low, high)
    weights = np.random.default_rng(bits).standard_t(3, (5, 40))
    values, scales = quantize_weights(weights, [bits] * 5)
    assert values.dtype == np.int8
    assert scales.dtype == np.float32
    assert (scales > 0).all()
    assert low <= values.min()
    assert values.max() <= high


def best_by_brute_force(channel: np.ndarray) -> float:
    """Least error of a 2-bit channel: every assignment of the four integers, each with its best scale."""
    best = float(np.square(channel).sum())
    for assignment in itertools.product((-2, -1, 0, 1), repeat=len(channel)):
        q = np.array(assignment, np.float64)
        dot = float(q @ channel)
        if dot > 0:
            best = min(best, float(np.square(channel).sum()) - dot * dot / float(q @ q))
    return best


@pytest.mark.parametrize("seed", range(12))
def test_two_bit_weights_have_the_least_possible_error(seed: int) -> None:
    channel = np.random.default_rng(seed).normal(size=(1, 6))
    assert squared_error(channel, 2)[0] <= best_by_brute_force(channel[0]) * 1.0001


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.sampled_from([2, 4, 8]))
def test_weights_are_never_worse_than_without_clipping(seed: int, bits: int) -> None:
    weights = np.random.default_rng(seed).laplace(size=(4, 30))
    low, high = integer_range(bits, weights=True)
    scale = np.maximum(weights.max(axis=1) / high, weights.min(axis=1) / low)[:, None]
    plain = np.clip(np.rint(weights / scale), low, high) * scale
    assert (squared_error(weights, bits) <= np.square(plain - weights).sum(axis=1) * (1 + 1e-5)).all()


def test_more_bits_give_less_error() -> None:
    weights = np.random.default_rng(1).normal(size=(8, 72))
    assert (squared_error(weights, 8) < squared_error(weights, 4) / 50).all()
    assert (squared_error(weights, 4) < squared_error(weights, 2) / 5).all()


def test_bits_may_differ_between_channels() -> None:
    weights = np.random.default_rng(2).normal(size=(3, 2, 2, 9))
    mixed, scales = quantize_weights(weights, [8, 4, 2])
    for channel, bits in enumerate((8, 4, 2)):
        alone, alone_scale = quantize_weights(weights[channel : channel + 1], [bits])
        assert np.array_equal(mixed[channel], alone[0])
        assert scales[channel] == alone_scale[0]


def test_eight_bit_channels_are_untouched_by_requantization() -> None:
    rng = np.random.default_rng(3)
    values, scales = rng.integers(-90, 90, (4, 3, 3, 5)).astype(np.int8), rng.uniform(0.01, 0.1, 4).astype(np.float32)
    new, new_scales = requantize_weights(values, scales, [8, 4, 8, 2])
    assert np.array_equal(new[[0, 2]], values[[0, 2]])
    assert np.array_equal(new_scales[[0, 2]], scales[[0, 2]])
    assert -8 <= new[1].min() <= new[1].max() <= 7
    assert -2 <= new[3].min() <= new[3].max() <= 1


def test_a_channel_of_zeros_keeps_a_usable_scale() -> None:
    weights = np.stack([np.zeros(9), np.linspace(-1, 1, 9)])
    values, scales = quantize_weights(weights, [4, 4])
    assert not values[0].any()
    assert scales[0] == scales[1] > 0
    assert quantize_weights(np.zeros((1, 4)), [2])[1][0] == 1.0
    kept = requantize_weights(np.zeros((1, 4), np.int8), np.array([0.25], np.float32), [2])
    assert kept[1][0] == np.float32(0.25)


@pytest.mark.parametrize("bits", [3, 0, 16])
def test_other_widths_are_refused(bits: int) -> None:
    with pytest.raises(ValueError, match="bits"):
        quantize_weights(np.ones((1, 2)), [bits])


@pytest.mark.parametrize("bits", [2, 4, 8])
@pytest.mark.parametrize("kind", ["relu", "signed", "negative"])
def test_activations_have_near_least_error_and_an_exact_zero(bits: int, kind: str) -> None:
    samples = np.random.default_rng(bits).normal(0.3, 1.0, 5000)
    samples = {"relu": np.maximum(samples, 0), "signed": samples, "negative": -np.abs(samples)}[kind]
    scale, zero_point = activation_quantization(samples, bits)
    low, high = integer_range(bits)
    assert low <= zero_point <= high
    assert fake_quantize(np.zeros(1), float(scale), zero_point, bits)[0] == 0.0
    found = np.square(fake_quantize(samples, float(scale), zero_point, bits) - samples).mean()
    best = min(
        float(np.square(fake_quantize(samples, s, z, bits) - samples).mean())
        for s in np.geomspace(0.001, 4, 400)
        for z in range(low, high + 1, max(1, (high - low) // 15))
    )
    assert found <= best * 1.03


def test_symmetric_activations_have_zero_point_zero() -> None:
    samples = np.random.default_rng(5).laplace(size=4000)
    scale, zero_point = activation_quantization(samples, 4, symmetric=True)
    assert zero_point == 0
    found = np.square(fake_quantize(samples, float(scale), 0, 4) - samples).mean()
    grid = np.geomspace(0.01, 4, 600)
    assert found <= min(float(np.square(fake_quantize(samples, s, 0, 4) - samples).mean()) for s in grid) * 1.02


def test_a_histogram_serves_as_well_as_the_samples() -> None:
    samples = np.maximum(np.random.default_rng(6).normal(size=3000), 0)
    assert activation_quantization(Histogram.of(samples), 4) == activation_quantization(samples, 4)


def test_a_dead_feature_map_has_a_scale() -> None:
    assert activation_quantization(np.zeros(100), 4) == (np.float32(1.0), -8)
