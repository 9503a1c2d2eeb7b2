"""Four products per multiplication: exact wherever the kernel does not reject, and it rejects what does not fit."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.band_parts import plain_layer
from rqdkm_tvm.kernels.conv2d import plan_finish
from rqdkm_tvm.kernels.conv2d_quad import FIELD_BITS, Conv2dQuad
from rqdkm_tvm.layer import Layer, Tensor
from tests.kernels import cortex_m4, harness, random_layers, tflite_arithmetic
from tests.kernels.random_layers import Array

KERNEL = Conv2dQuad()
FIELD = (1 << FIELD_BITS) - 1


def random_case(rng: np.random.Generator, widths: Sequence[int] = (4, 2), **fixed: Any) -> tuple[Layer, Array]:
    """A layer that the kernel takes, its input of the full range that it may have, some channels extreme."""
    while True:
        shape: dict[str, Any] = {
            "size": (int(rng.integers(1, 10)), int(rng.integers(1, 10))),
            "channels": (4 * int(rng.integers(1, 9)), int(rng.integers(4, 20))),
            "kernel": (1, 1) if rng.integers(2) else (int(rng.integers(1, 4)), int(rng.integers(1, 4))),
            "stride": (int(rng.integers(1, 3)), int(rng.integers(1, 3))),
        }
        try:
            layer, _ = random_layers.conv_layer(rng, **{**shape, **fixed})
        except ValueError:  # nothing left of the image
            continue
        layer = random_layers.narrow_weights(rng, layer, widths)
        low, high = sorted(int(v) for v in rng.integers(-128, 128, 2)) if rng.integers(4) == 0 else (-8, 7)
        layer = replace(
            layer,
            weights=np.maximum(layer.weights, -7),
            weight_scales=layer.weight_scales * np.float32(rng.choice([1.0, 1 / 64])),
            inputs=(replace(layer.inputs[0], zero_point=int(rng.integers(low, high + 1)), span=(low, high)),),
        )
        if KERNEL.reject(layer) is None:
            x = (
                rng.integers(low, high + 1, layer.inputs[0].shape)
                if rng.integers(4)
                else np.full(layer.inputs[0].shape, rng.choice([low, high]))
            )
            return layer, x.astype(np.int8)


def cases_and_outputs(made: Sequence[tuple[Layer, Array]]) -> tuple[list[harness.Case], list[Array]]:
    cases = [
        harness.Case(layer, (x,), KERNEL, config)
        for layer, x in made
        for config in (*KERNEL.configs(layer)[:2], KERNEL.configs(layer)[-1])
    ]
    return cases, [tflite_arithmetic.conv2d(case.layer, case.inputs[0]) for case in cases]


def layer_of(weights: Array, span: tuple[int, int] = (-8, 7)) -> Layer:
    """1x1 on 4x4 pixels; weights (output channels, input channels)."""
    outputs, inputs = weights.shape
    return Layer(
        "plain",
        "conv2d",
        (Tensor((1, 4, 4, inputs), "int8", 0.1, span[0], span=span),),
        Tensor((1, 4, 4, outputs), "int8", 0.1, -128),
        {"strides": (1, 1), "padding": (0, 0, 0, 0), "dilation": (1, 1), "groups": 1, "clamp": (-128, 127)},
        weights.reshape(outputs, 1, 1, inputs).astype(np.int8),
        np.full(outputs, 0.001, np.float32),
        weight_bits=(4,) * outputs,
    )


def test_random_layers_are_exact() -> None:
    rng = np.random.default_rng(41)
    made = [random_case(rng) for _ in range(70)]
    assert len({plan_finish(layer).form for layer, _ in made}) == 5  # type: ignore[union-attr]
    harness.check(*cases_and_outputs(made))


def test_the_cortex_m4_code_is_exact() -> None:
    rng = np.random.default_rng(42)
    made = [random_case(rng) for _ in range(16)]
    made += [random_case(rng, channels=(4 * quads, 8), kernel=(1, 1), size=(3, 5)) for quads in range(1, 9)]
    cortex_m4.check(*cases_and_outputs(made))


@pytest.mark.parametrize("sign", [1, -1])
def test_a_field_may_be_full_and_not_fuller(sign: int) -> None:
    """15 times the sum of absolute weights just below 2^14, all of one sign, inputs at both ends of their range."""
    weights = np.zeros((4, 160), np.int8)
    weights[:, :156] = 7 * sign  # 1092 in all: 15 * 1092 = 16380
    full = layer_of(weights)
    assert KERNEL.reject(full) is None
    rng = np.random.default_rng(43)
    shape = full.inputs[0].shape
    inputs = [np.full(shape, 7), np.full(shape, -8), rng.choice([-8, 7], shape)]
    cases, outputs = cases_and_outputs([(full, x.astype(np.int8)) for x in inputs])
    harness.check(cases, outputs)
    cortex_m4.check(cases, outputs)
    weights[3, 156] = sign
    assert f"{15 * 1093}, a field holds {FIELD}" in (KERNEL.reject(layer_of(weights)) or "")
    assert KERNEL.reject(layer_of(weights, (-7, 7))) is None  # one value fewer


def test_rejects_what_it_cannot_do_with_a_reason() -> None:
    weights = np.ones((6, 8), np.int8)
    plain = layer_of(weights)
    assert KERNEL.reject(plain) is None
    assert "4 bits or less" in (KERNEL.reject(replace(plain, weight_bits=(8, 4, 4, 4, 4, 4))) or "")
    assert "4 output channels" in (KERNEL.reject(layer_of(weights[:3])) or "")
    assert "multiple of 4" in (KERNEL.reject(layer_of(weights[:, :6])) or "")
    beside = weights.copy()
    beside[0, 3], beside[1, 3] = -1, -8
    assert "-8 beside a negative" in (KERNEL.reject(layer_of(beside)) or "")
    beside[0, 3] = 0
    fits = layer_of(beside)
    assert KERNEL.reject(fits) is None
    rng = np.random.default_rng(44)
    harness.check(*cases_and_outputs([(fits, rng.integers(-8, 8, fits.inputs[0].shape).astype(np.int8))]))
    padded = replace(plain, inputs=(replace(plain.inputs[0], zero_point=9),))
    assert KERNEL.reject(padded) is None  # pads nothing
    attrs = {**plain.attrs, "padding": (1, 1, 1, 1)}
    padded = replace(padded, attrs=attrs, output=replace(plain.output, shape=(1, 6, 6, 6)))
    assert "padding" in (KERNEL.reject(padded) or "")


def test_it_runs_layers_between_packed_maps_and_leaves_8_bits_alone() -> None:
    rng = np.random.default_rng(45)
    layer = layer_of(np.clip(np.round(rng.normal(0, 2, (64, 64))), -7, 7))
    assert all(kernel.name != KERNEL.name for kernel, _ in registry.candidates(replace(layer, inputs=(_bytes(layer),))))
    packed = replace(
        layer,
        inputs=(replace(layer.inputs[0], bits=4, span=(-128, 127)),),
        output=replace(layer.output, bits=4, scale=1.0, zero_point=-8),
    )
    assert plain_layer(packed, own_clamp=True).inputs[0].span == (-8, 7)
    first, _ = registry.candidates(packed)[0]
    assert first.name == KERNEL.name  # expected to be the fastest there
    x = rng.integers(-8, 8, layer.inputs[0].shape).astype(np.int8)
    found = [case for case in harness.cases_for(packed, [x], configs=4) if case.kernel.name == KERNEL.name]
    wanted = tflite_arithmetic.conv2d(plain_layer(packed, own_clamp=True), x)
    harness.check(found, [wanted] * len(found))
    assert len(found) > 2


def _bytes(layer: Layer) -> Tensor:
    return replace(layer.inputs[0], span=(-128, 127))
