"""The cheap requantize forms against TFLite's definition, and the proof that chooses them."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from rqdkm_tvm.kernels.requantize import (
    Form,
    Requantize,
    choose_requantize,
    multiply_by_quantized_multiplier,
    quantize_multiplier,
)
from tests.kernels import tflite_arithmetic

Array = npt.NDArray[Any]


def wrap(x: Array) -> Array:
    return (x + 2**31) % 2**32 - 2**31


def run_form(plan: Requantize, channel: int, acc: Array) -> Array:
    """The C functions of requantize.h, instruction by instruction, on accumulators that arrive shifted."""
    multiplier, offset, shift = (int(values[channel]) for values in (plan.multiplier, plan.offset, plan.shift))
    acc = acc + int(plan.bias_delta[channel])
    shifted = wrap(acc << int(plan.accumulator_shift[channel]))
    if plan.form is Form.FLOOR:  # SMMLA, SSAT with ASR #16
        return np.clip(wrap(((offset << 32) + shifted * multiplier) >> 32) >> 16, -128, 127)
    scaled = wrap(((offset << 32) + shifted * multiplier + 2**31) >> 32)  # SMMLAR
    if plan.form is Form.AWAY:
        scaled = wrap(scaled + (shifted >> 31))
    return np.clip(scaled >> shift, -128, 127)


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


@pytest.mark.parametrize("form", [Form.FLOOR, Form.UP, Form.AWAY])
def test_a_form_that_is_chosen_gives_the_defined_output_around_every_threshold(form: Form) -> None:
    rng = np.random.default_rng(list(Form).index(form))
    proved = 0
    for _ in range(700):
        low, high, multiplier, shift = random_channel(rng)
        zero_point = int(rng.integers(-128, 128))
        clamp = (zero_point, 127) if rng.integers(2) else (-128, 127)
        bounds = (np.array([low]), np.array([high]))
        plan = choose_requantize(
            bounds, [multiplier], [shift], zero_point, clamp, (form, Form.WIDE), may_move_bias=bool(rng.integers(2))
        )
        if plan.form is not form:
            continue
        proved += 1
        acc = around_thresholds(low, high, multiplier, shift, 3)
        got = np.clip(run_form(plan, 0, acc), *clamp)
        want = definition(acc, multiplier, shift, zero_point, clamp)
        wrong = np.flatnonzero(got != want)
        assert wrong.size == 0, (form, low, high, multiplier, shift, zero_point, clamp, acc[wrong[:5]])
    assert proved > 70, "the proof accepts next to nothing"


@pytest.mark.parametrize("form", [Form.FLOOR, Form.UP, Form.AWAY])
def test_every_accumulator_of_a_small_channel(form: Form) -> None:
    """Exhaustive: 2^18 accumulators, several multipliers, all shifts that the form takes."""
    acc = np.arange(-(2**17), 2**17)
    bounds = (np.array([acc[0]]), np.array([acc[-1]]))
    rng = np.random.default_rng(1)
    tried = 0
    for shift in range(-16, 0):
        for multiplier in (2**30, 2**31 - 1, int(rng.integers(2**30, 2**31))):
            for zero_point, clamp in ((-128, (-128, 127)), (5, (5, 127)), (-3, (-128, 127))):
                plan = choose_requantize(bounds, [multiplier], [shift], zero_point, clamp, (form, Form.WIDE))
                if plan.form is Form.WIDE:
                    continue
                tried += 1
                want = definition(acc, multiplier, shift, zero_point, clamp)
                np.testing.assert_array_equal(np.clip(run_form(plan, 0, acc), *clamp), want)
    assert tried >= 30


def test_rounding_up_is_refused_where_negative_ties_would_show() -> None:
    bounds = (np.array([-1000]), np.array([1000]))
    assert choose_requantize(bounds, [2**30], [-4], 0, (-128, 127)).form is Form.AWAY
    assert choose_requantize(bounds, [2**30], [-4], 0, (0, 127)).form is Form.FLOOR
    # and it does show: -8 / 2 / 16 = -0.25, -24 / 32 = -0.75, but -16 / 32 = -0.5 is a tie
    assert definition(np.array([-16]), 2**30, -4, 0, (-128, 127))[0] == -1


@pytest.mark.parametrize("may_move_bias", [False, True])
def test_dead_channels_do_not_force_the_wide_form(may_move_bias: bool) -> None:
    # a live channel beside: multiplier 0; bias 2^29 with shift 31: one output value
    low = np.array([-40000, 2**30 - 5000, 2**29 - 5000])
    high = np.array([40000, 2**30 + 5000, 2**29 + 5000])
    multipliers, shifts = [2**30 + 12345, 0, 2**31 - 1], [-8, 0, -31]
    plan = choose_requantize((low, high), multipliers, shifts, -128, (-128, 127), may_move_bias=may_move_bias)
    assert plan.form is Form.FLOOR
    for channel in range(3):
        acc = np.linspace(low[channel], high[channel], 5001).astype(np.int64)
        want = definition(acc, multipliers[channel], shifts[channel], -128, (-128, 127))
        np.testing.assert_array_equal(run_form(plan, channel, acc), want)


def test_a_channel_with_two_outputs_becomes_a_comparison() -> None:
    # the threshold between 0 and 1 lies inside the interval: acc / 2^30 = 0.5
    low, high = np.array([2**29 - 3000]), np.array([2**29 + 2000])
    acc = np.arange(low[0], high[0] + 1)
    for form, clamp in ((Form.UP, (0, 127)), (Form.AWAY, (-128, 127))):
        plan = choose_requantize((low, high), [2**30], [-29], 0, clamp, (form, Form.WIDE), may_move_bias=True)
        assert plan.form is form
        want = definition(acc, 2**30, -29, 0, clamp)
        assert set(want) == {0, 1}
        np.testing.assert_array_equal(run_form(plan, 0, acc), want)


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
