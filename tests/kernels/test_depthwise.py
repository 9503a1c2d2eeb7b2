"""Depthwise kernels: every byte equal to a numpy reference and to TFLite Micro, under sanitizers and as ARM code."""

from __future__ import annotations

import numpy as np
import pytest

from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.exact_floor import Channel, Form, solve_layer
from tests.kernels import cortex_m4, harness, one_op, random_elementwise
from tests.kernels.random_layers import Array
from tests.kernels.tflite_elementwise import depthwise_conv2d

#: (size, channels, kernel, stride): what the fast kernels have separate code for.
SHAPES = {
    "3x3": ((8, 12), 8, (3, 3), 1),
    "3x3, odd height and width": ((7, 9), 4, (3, 3), 1),
    "3x3, rest of 2 columns": ((5, 6), 8, (3, 3), 1),
    "3x3, rest of 3 columns": ((6, 7), 8, (3, 3), 1),
    "3x3, 3 columns": ((4, 3), 4, (3, 3), 1),
    "3x3, 1 pixel": ((1, 1), 4, (3, 3), 1),
    "3x3, 5 columns, as keyword spotting": ((25, 5), 4, (3, 3), 1),
    "3x3, odd channels": ((6, 7), 7, (3, 3), 1),
    "3x3, stride 2": ((12, 12), 8, (3, 3), 2),
    "3x3, stride 2, 3 columns": ((6, 6), 8, (3, 3), 2),
    "3x3, stride 2, 2 columns": ((4, 4), 8, (3, 3), 2),
    "3x3, stride 2, odd": ((9, 7), 6, (3, 3), 2),
    "9x1, width 1": ((20, 1), 8, (9, 1), 1),
    "9x1, width 1, stride 2": ((21, 1), 12, (9, 1), 2),
    "1x9, height 1": ((1, 20), 8, (1, 9), 1),
    "3x1": ((9, 5), 8, (3, 1), 1),
    "5x5": ((8, 9), 8, (5, 5), 1),
    "5x5, stride 2, odd channels": ((9, 9), 5, (5, 5), 2),
    "7x7, one input channel": ((13, 12), 1, (7, 7), 2),
    "2x2": ((6, 6), 4, (2, 2), 1),
    "5x5, 12 columns": ((7, 12), 4, (5, 5), 1),
    "5x5, stride 2": ((11, 16), 8, (5, 5), 2),
    "5x5, stride 2, rest of 3 columns": ((6, 14), 4, (5, 5), 2),
    "3x7": ((6, 11), 4, (3, 7), 1),
    "7x7, stride 2": ((10, 13), 4, (7, 7), 2),
    "8x8, stride 2": ((9, 12), 4, (8, 8), 2),
    "5x5, stride 2, too wide for immediates": ((5, 130), 4, (5, 5), 2),
}


def cases_of(case: one_op.OneOp, configs: int | None) -> tuple[list[harness.Case], list[Array]]:
    found = harness.cases_for(case.layer, case.inputs, configs=configs)
    return found, [depthwise_conv2d(case.layer, case.inputs[0])] * len(found)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_configuration_on_the_shapes_with_code_of_their_own(shape: str) -> None:
    size, channels, kernel, stride = SHAPES[shape]
    rng = np.random.default_rng(sum(map(ord, shape)))
    cases: list[harness.Case] = []
    wanted: list[Array] = []
    for same in (True, True, False):
        if not same and (size[0] < kernel[0] or size[1] < kernel[1]):
            continue
        multiplier = 8 if channels == 1 else 1
        case = random_elementwise.depthwise(
            rng, size=size, channels=channels, kernel=kernel, stride=stride, multiplier=multiplier, same=same
        )
        for variant in (case, random_elementwise.any_clamp(rng, case)):
            found, outputs = cases_of(variant, 5)
            cases += found
            wanted += outputs
    harness.check(cases, wanted)


@pytest.mark.parametrize("seed", range(8))
def test_random_layers(seed: int) -> None:
    rng = np.random.default_rng(3000 + seed)
    cases: list[harness.Case] = []
    wanted: list[Array] = []
    for _ in range(75):
        case = random_elementwise.random_depthwise(rng)
        if rng.integers(3) == 0:
            case = random_elementwise.any_clamp(rng, case)
        found, outputs = cases_of(case, 2)
        cases += found
        wanted += outputs
    harness.check(cases, wanted)


def test_tflite_micro_agrees() -> None:
    rng = np.random.default_rng(31)
    cases = [random_elementwise.random_depthwise(rng) for _ in range(60)]
    for case, judged in zip(cases, one_op.reference_outputs(cases), strict=True):
        np.testing.assert_array_equal(depthwise_conv2d(case.layer, case.inputs[0]), judged)


def test_the_arm_code_agrees() -> None:
    cases: list[harness.Case] = []
    wanted: list[Array] = []
    for shape, (size, channels, kernel, stride) in SHAPES.items():
        rng = np.random.default_rng(sum(map(ord, shape)))
        for _ in range(2):
            multiplier = 8 if channels == 1 else 1
            case = random_elementwise.depthwise(
                rng, size=size, channels=channels, kernel=kernel, stride=stride, multiplier=multiplier
            )
            found, outputs = cases_of(case, 2)
            cases += found
            wanted += outputs
    cortex_m4.check(cases, wanted)


def test_fast_kernels_are_chosen_where_they_apply() -> None:
    for size, channels, kernel, stride, wanted in (
        ((24, 24), 32, (3, 3), 1, "strip"),
        ((12, 12), 64, (3, 3), 2, "direct"),
        ((24, 24), 96, (3, 3), 2, "plane"),
        ((24, 24), 32, (5, 5), 1, "plane"),
        ((32, 56), 16, (5, 5), 2, "plane"),
        ((20, 1), 8, (9, 1), 1, "direct"),
    ):
        rng = np.random.default_rng(2)
        case = random_elementwise.depthwise(rng, size=size, channels=channels, kernel=kernel, stride=stride)
        assert registry.candidates(case.layer)[0][0].name == f"depthwise_conv2d_s8_{wanted}", (size, kernel, stride)
    case = random_elementwise.depthwise(rng, size=(24, 24), channels=1, kernel=(5, 5), multiplier=8)
    assert registry.candidates(case.layer)[0][0].name == "depthwise_conv2d_s8_as_conv2d"


def test_estimates_know_where_offsets_are_no_immediates() -> None:
    kernel = registry.get("depthwise_conv2d_s8_plane")
    cycles = []
    for width in (120, 128):  # of the result: 60 and 64
        case = random_elementwise.depthwise(
            np.random.default_rng(2), size=(12, width), channels=8, kernel=(5, 5), stride=2
        )
        assert kernel.reject(case.layer) is None
        cycles.append(kernel.estimate_cycles(case.layer, {"rows": 6}) / width)
    assert cycles[1] > 1.3 * cycles[0]


@pytest.mark.parametrize("form", list(Form))
def test_solved_constants_reproduce_every_accumulator(form: Form) -> None:
    """The proof looks at steps only; here every accumulator of the interval is computed."""
    zero_point, clamp = (-128, (-128, 127)) if form is Form.FLOOR else (-3, (-128, 127))
    channels = [
        Channel(1518500250, -6, zero_point, clamp, -30000, 29000),
        Channel(1073741824, -7, zero_point, clamp, -20000, 20001),
        Channel(2147483647, -7, zero_point, clamp, -15000, 31000),
    ]
    bounds = (8, 16)
    if form is Form.SHIFT:  # too far apart for one right shift with so few bits
        bounds = (2, 8)
        channels += [
            Channel(1987654321, -1, zero_point, clamp, -10000, 9000),
            Channel(1234567891, -12, zero_point, clamp, -1000000, 900000),
        ]
    solved = solve_layer(channels, min_k=bounds[0], max_k=bounds[1])
    assert solved is not None
    assert solved[0] is form
    for channel, floor in zip(channels, solved[1], strict=True):
        acc = np.arange(channel.low, channel.high + 1, dtype=np.int64)
        value = (acc - floor.base) << floor.k
        assert value.min() >= -(2**31) and value.max() < 2**31
        offset = floor.offset + np.where(value < 0, floor.addend, 0)
        result = ((value * floor.multiplier >> 32) + offset) >> floor.right_shift
        np.testing.assert_array_equal(np.clip(np.clip(result, -128, 127), *clamp), channel.output(acc))
