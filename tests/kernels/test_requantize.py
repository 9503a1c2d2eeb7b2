"""The cheap requantize forms against TFLite's definition, and the proof that chooses them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rqdkm_tvm.kernels.lanes import LANE_SHIFT, RIGHT_SHIFT, Finish, Form, choose_finish
from rqdkm_tvm.kernels.requantize import multiply_by_quantized_multiplier, quantize_multiplier
from tests.kernels import tflite_arithmetic

Array = npt.NDArray[Any]
FAST = [Form.FLOOR, Form.SHIFT, Form.AWAY, Form.AWAY_SHIFT]


def wrap(x: Array) -> Array:
    return (x + 2**31) % 2**32 - 2**31


def run_form(finish: Finish, channel: int, acc: Array) -> Array:
    """The C function of output.h, instruction by instruction, on accumulators that arrive shifted."""
    multiplier, offset, shift = (int(values[channel]) for values in (finish.multiplier, finish.offset, finish.shift))
    acc = acc + int(finish.bias_delta[channel])
    shifted = acc << LANE_SHIFT
    assert (shifted == wrap(shifted)).all()
    addend = {Form.AWAY: shift, Form.AWAY_SHIFT: -(1 << (LANE_SHIFT - 1))}.get(finish.form, 0)
    total = wrap(offset + (shifted >> 31 & addend))
    product = wrap((shifted * multiplier >> 32) + total)  # SMMLA
    right_shift = shift if finish.form in (Form.SHIFT, Form.AWAY_SHIFT) else RIGHT_SHIFT
    return np.clip(product >> right_shift, -128, 127)


def definition(acc: Array, multiplier: int, shift: int, zero_point: int, clamp: tuple[int, int]) -> Array:
    ones = np.ones_like(acc)
    return tflite_arithmetic.requantize(acc, multiplier * ones, shift * ones, zero_point, clamp).astype(np.int64)


def around_thresholds(low: int, high: int, multiplier: int, shift: int, reach: int) -> Array:
    """Accumulators near every point where the output may change, near the bounds, near zero, and random ones."""
    step = 2.0 ** (31 - shift) / max(1, multiplier)
    centres = np.concatenate([np.arange(-300, 301) * step, (np.arange(-300, 300) + 0.5) * step, [0, low, high]])
    centres = centres[(centres >= low - reach) & (centres <= high + reach)].astype(np.int64)
    near = (centres[:, None] + np.arange(-reach, reach + 1)).ravel()
    spread = np.linspace(low, high, 2000).astype(np.int64)
    return np.unique(np.clip(np.concatenate([near, spread]), low, high))


def random_channel(rng: np.random.Generator) -> tuple[int, int, int, int]:
    """(low, high, multiplier, shift)"""
    multiplier = int(rng.choice([2**30, 2**31 - 1, 2**30 + 1, int(rng.integers(2**30, 2**31))]))
    shift = -int(rng.integers(-2, 32))
    reach = 1 << int(rng.integers(3, 31))
    centre = int(rng.integers(-reach, reach)) if rng.integers(2) else int(rng.choice([0, 2**29, -(2**29)]))
    return max(-(2**31), centre - reach), min(2**31 - 1, centre + reach), multiplier, shift


def only(form: Form, *channels: tuple[int, int, int, int], zero_point: int, clamp: tuple[int, int]) -> Finish | None:
    """What :func:`lanes.choose_finish` gives if ``form`` and WIDE were the only forms; channels as random_channel."""
    low, high, multipliers, shifts = (np.array(column, np.int64) for column in zip(*channels, strict=True))
    return choose_finish(
        (low, high), multipliers.astype(np.int32), shifts.astype(np.int32), zero_point, clamp, forms=(form,)
    )


@pytest.mark.parametrize("form", FAST)
def test_a_form_that_is_chosen_gives_the_defined_output_around_every_threshold(form: Form) -> None:
    rng = np.random.default_rng(int(form))
    proved = 0
    for _ in range(500):
        low, high, multiplier, shift = random_channel(rng)
        zero_point = int(rng.integers(-128, 128))
        clamp = (zero_point, 127) if rng.integers(2) else (-128, 127)
        finish = only(form, (low, high, multiplier, shift), zero_point=zero_point, clamp=clamp)
        if finish is None or finish.form is not form:
            continue
        proved += 1
        acc = around_thresholds(low, high, multiplier, shift, 3)
        got = np.clip(run_form(finish, 0, acc), *clamp)
        want = definition(acc, multiplier, shift, zero_point, clamp)
        wrong = np.flatnonzero(got != want)
        assert wrong.size == 0, (form, low, high, multiplier, shift, zero_point, clamp, acc[wrong[:5]])
    assert proved > 70, "the proof accepts next to nothing"


@pytest.mark.parametrize("form", FAST)
def test_every_accumulator_of_a_small_channel(form: Form) -> None:
    """Exhaustive: 2^18 accumulators, several multipliers, all shifts that the form takes."""
    acc = np.arange(-(2**17), 2**17)
    rng = np.random.default_rng(1)
    tried = 0
    for shift in range(-16, 0):
        for multiplier in (2**30, 2**31 - 1, int(rng.integers(2**30, 2**31))):
            for zero_point, clamp in ((-128, (-128, 127)), (5, (5, 127)), (-3, (-128, 127))):
                channel = (int(acc[0]), int(acc[-1]), multiplier, shift)
                finish = only(form, channel, zero_point=zero_point, clamp=clamp)
                if finish is None or finish.form is not form:
                    continue
                tried += 1
                want = definition(acc, multiplier, shift, zero_point, clamp)
                np.testing.assert_array_equal(np.clip(run_form(finish, 0, acc), *clamp), want)
    assert tried >= 15


def test_rounding_up_is_refused_where_negative_halves_would_show() -> None:
    bounds = (np.array([-10000]), np.array([10000]))
    for shift, shown, hidden in ((-8, Form.AWAY, Form.FLOOR), (-4, Form.AWAY_SHIFT, Form.SHIFT)):
        multipliers, shifts = np.array([2**30], np.int32), np.array([shift], np.int32)
        for clamp, form in (((-128, 127), shown), ((0, 127), hidden)):
            finish = choose_finish(bounds, multipliers, shifts, 0, clamp)
            assert finish is not None and finish.form is form
    # and they do show: -8 / 2 / 16 = -0.25, -24 / 32 = -0.75, but -16 / 32 = -0.5 is a half
    assert definition(np.array([-16]), 2**30, -4, 0, (-128, 127))[0] == -1


def test_dead_channels_do_not_cost_their_layer_the_fast_form() -> None:
    # a live channel; multiplier 0; bias 2^29 with shift 31: one output; bias 2^29 at a threshold: two outputs
    low = np.array([-40000, 2**30 - 5000, 2**29 - 5000, 2**29 - 3000])
    high = np.array([40000, 2**30 + 5000, 2**29 + 5000, 2**29 + 2000])
    multipliers = np.array([2**30 + 12345, 0, 2**31 - 1, 2**30], np.int32)
    shifts = np.array([-8, 0, -31, -29], np.int32)
    for zero_point, form in ((-128, Form.FLOOR), (0, Form.AWAY)):
        finish = choose_finish((low, high), multipliers, shifts, zero_point, (-128, 127))
        assert finish is not None and finish.form is form
        for channel in range(4):
            acc = np.arange(low[channel], high[channel] + 1)
            want = definition(acc, int(multipliers[channel]), int(shifts[channel]), zero_point, (-128, 127))
            assert len(set(want)) == (1, 2)[channel == 3] or channel == 0
            np.testing.assert_array_equal(run_form(finish, channel, acc), want)


def test_accumulators_beyond_24_bits_are_refused() -> None:
    bounds = (np.array([-(2**24) - 1]), np.array([2**20]))
    assert choose_finish(bounds, np.array([2**30], np.int32), np.array([-9], np.int32), 0, (-128, 127)) is None


def test_quantize_multiplier_matches_the_specification() -> None:
    rng = np.random.default_rng(0)
    for real in [*(10.0 ** rng.uniform(-12, 3, 2000)), 0.0, 1.0, 0.5, 2.0**-31, 2.0**-33, 1.0 - 2.0**-40]:
        assert quantize_multiplier(float(real)) == tflite_arithmetic.scale_multiplier(float(real))
    with pytest.raises(ValueError, match="negative"):
        quantize_multiplier(-1.0)


def test_multiply_by_quantized_multiplier_matches_the_specification() -> None:
    rng = np.random.default_rng(2)
    acc = rng.integers(-(2**31), 2**31, 20000)
    multiplier, shift = rng.integers(2**30, 2**31, 20000), rng.integers(-31, 1, 20000)
    got = np.clip(multiply_by_quantized_multiplier(acc, multiplier, shift) + 3, -128, 127)
    np.testing.assert_array_equal(got, tflite_arithmetic.requantize(acc, multiplier, shift, 3, (-128, 127)))
