"""Convolution and fully connected kernels against an independent numpy reference, every byte, under sanitizers."""

from __future__ import annotations

import numpy as np
import pytest

from rqdkm_tvm.kernels import registry
from rqdkm_tvm.layer import Layer
from tests.kernels import harness, one_op, random_layers, tflite_arithmetic
from tests.kernels.random_layers import Array

#: (size, channels, kernel, stride): the shapes that the kernels were made for.
SHAPES = {
    "first, 3 channels": ((13, 16), (3, 8), (3, 3), (1, 1)),
    "first, 3 channels, stride 2": ((15, 16), (3, 6), (3, 3), (2, 2)),
    "first, 1 channel, tall kernel": ((21, 10), (1, 8), (10, 4), (2, 2)),
    "first, 1 channel, stride 1": ((9, 13), (1, 7), (3, 3), (1, 1)),
    "first, 4 channels": ((8, 9), (4, 8), (3, 3), (2, 2)),
    "3x3": ((6, 8), (16, 8), (3, 3), (1, 1)),
    "3x3, odd width": ((7, 11), (8, 6), (3, 3), (1, 1)),
    "3x3, stride 2": ((9, 12), (16, 8), (3, 3), (2, 2)),
    "3x3, odd channels": ((6, 7), (11, 5), (3, 3), (1, 1)),
    "5x5": ((8, 9), (8, 4), (5, 5), (1, 1)),
    "1x1": ((6, 7), (32, 9), (1, 1), (1, 1)),
    "1x1, 8 channels": ((10, 10), (8, 16), (1, 1), (1, 1)),
    "1x1, stride 2": ((8, 9), (16, 8), (1, 1), (2, 2)),
    "1x1, odd channels": ((5, 5), (17, 3), (1, 1), (1, 1)),
    "9 pixels": ((3, 3), (64, 8), (1, 1), (1, 1)),
    "1 pixel": ((1, 1), (40, 10), (1, 1), (1, 1)),
    "one output channel": ((6, 6), (8, 1), (3, 3), (1, 1)),
    "one dimension, width 1": ((30, 1), (12, 8), (3, 1), (1, 1)),
    "one dimension, height 1": ((1, 30), (12, 8), (1, 3), (1, 2)),
    "large kernel": ((12, 12), (3, 4), (11, 9), (2, 1)),
}


def expected(layer: Layer, x: Array) -> Array:
    return tflite_arithmetic.conv2d(layer, x) if layer.op == "conv2d" else tflite_arithmetic.fully_connected(layer, x)


def check(layers: list[tuple[Layer, Array]], configs: int | None) -> None:
    cases: list[harness.Case] = []
    outputs: list[Array] = []
    for layer, x in layers:
        # the Winograd kernels have tests of their own
        found = [case for case in harness.cases_for(layer, [x], configs=configs) if "winograd" not in case.kernel.name]
        cases += found
        outputs += [expected(layer, x)] * len(found)
    harness.check(cases, outputs)


@pytest.mark.parametrize("shape", SHAPES)
def test_every_configuration_of_every_kernel_on_the_shapes_it_is_made_for(shape: str) -> None:
    size, channels, kernel, stride = SHAPES[shape]
    rng = np.random.default_rng(sum(map(ord, shape)))
    layers = [
        random_layers.conv_layer(rng, size=size, channels=channels, kernel=kernel, stride=stride, same=same)
        for same in (True, False)
        if same or (size[0] >= kernel[0] and size[1] >= kernel[1])
    ]
    check(layers, 4)


@pytest.mark.parametrize("seed", range(3))
def test_random_convolutions(seed: int) -> None:
    rng = np.random.default_rng(1000 + seed)
    check([random_layers.random_conv(rng) for _ in range(50)], 2)


@pytest.mark.parametrize("seed", range(1))
def test_random_fully_connected_layers(seed: int) -> None:
    rng = np.random.default_rng(2000 + seed)
    check([random_layers.random_fully_connected(rng) for _ in range(150)], None)


def test_the_numpy_reference_agrees_with_tflite_micro() -> None:
    """The oracle of this file against the real interpreter, on layers that a .tflite file can say."""
    rng = np.random.default_rng(7)
    cases = []
    while len(cases) < 40:
        layer, x = random_layers.random_conv(rng) if len(cases) % 4 else random_layers.random_fully_connected(rng)
        case = one_op_case(layer, x)
        if case is not None:
            cases.append(case)
    for case, got in zip(cases, one_op.reference_outputs(cases), strict=True):
        np.testing.assert_array_equal(got.ravel(), expected(case.layer, case.inputs[0]).ravel(), str(case.layer))


def one_op_case(layer: Layer, x: Array) -> one_op.OneOp | None:
    """The layer as a .tflite operator: without clamp; convolutions with SAME or VALID padding and one group."""
    attrs = dict(layer.attrs, clamp=(-128, 127))
    layer = Layer(**{**layer.__dict__, "attrs": attrs})
    if layer.op == "fully_connected":
        return one_op.OneOp(layer, [x]) if layer.bias is None or abs(layer.bias).max() < 1 << 24 else None
    if attrs["groups"] != 1:
        return None
    _, h, w, _ = layer.inputs[0].shape
    same = [
        one_op.same_padding(size, kernel, stride, dilation)[1:]
        for size, kernel, stride, dilation in zip(
            (h, w), layer.weights.shape[1:3], attrs["strides"], attrs["dilation"], strict=True
        )
    ]
    if attrs["padding"] == (0, 0, 0, 0):
        return one_op.OneOp(layer, [x], "valid")
    if attrs["padding"] == (same[0][0], same[1][0], same[0][1], same[1][1]):
        return one_op.OneOp(layer, [x], "same")
    return None


def test_the_plain_reference_is_never_the_first_choice_where_another_kernel_fits() -> None:
    rng = np.random.default_rng(3)
    for _ in range(100):
        layer, _ = random_layers.random_conv(rng)
        found = registry.candidates(layer)
        assert found[0][0].reference == all(kernel.reference for kernel, _ in found)


def test_configurations_are_ordered_and_the_last_needs_the_least_scratch() -> None:
    rng = np.random.default_rng(4)
    for _ in range(60):
        layer, _ = random_layers.random_conv(rng)
        for kernel in registry.kernels_for(layer):
            if kernel.reject(layer) is not None:
                continue
            configs = kernel.configs(layer)
            scratch = [kernel.scratch_bytes(layer, config) for config in configs]
            cycles = [kernel.estimate_cycles(layer, config) for config in configs]
            assert scratch == sorted(scratch, reverse=True)
            assert cycles == sorted(cycles)
