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
from rqdkm_tvm.kernels.conv2d_quad import Conv2dQuad, first_bit
from rqdkm_tvm.kernels.lanes import Form
from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.lowbit import quantize_weights
from tests.kernels import cortex_m4, harness, random_layers, tflite_arithmetic
from tests.kernels.random_layers import Array

KERNEL = Conv2dQuad()


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


def every_way(seed: int) -> list[tuple[Layer, Array]]:
    """Random layers until every form, both places of the first pixel and both numbers of taps have met."""
    rng = np.random.default_rng(seed)
    made: list[tuple[Layer, Array]] = []
    met: set[tuple[Form, int, int]] = set()
    wanted = 2 * 2 * (len(Form) - 1)
    while len(met) < wanted or len(made) < 30:
        layer, x = random_case(rng)
        assert layer.weights is not None
        finish = plan_finish(layer)
        assert finish is not None
        way = (finish.form, first_bit(layer), layer.weights[0].size % 8)
        if way not in met or len(met) == wanted:
            made.append((layer, x))
        met.add(way)
    assert Form.WIDE not in {form for form, _, _ in met}
    return made


def test_random_layers_are_exact() -> None:
    harness.check(*cases_and_outputs(every_way(41)))


def test_the_cortex_m4_code_is_exact() -> None:
    rng = np.random.default_rng(42)
    made = every_way(42)
    made += [random_case(rng, channels=(4 * quads, 8), kernel=(1, 1), size=(3, 5)) for quads in range(1, 9)]
    cortex_m4.check(*cases_and_outputs(made))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("first", [4, 5])
def test_a_field_may_be_full_and_not_fuller(sign: int, first: int) -> None:
    """15 times the sum of absolute weights just below 2^14 or 2^13, of one sign, inputs at the ends of their range."""
    most = (1 << (18 - first)) - 1
    weights = np.zeros((4, 160), np.int8)
    weights[:, : most // 15 // 7] = 7 * sign
    weights[:, 159] = sign * (most // 15 % 7)
    if first == 5:  # where a weight of -8 stands beside a negative one
        weights[0, 157], weights[1, 157] = -1, -8
        weights[0, 0] -= sign
        weights[1, [0, 1]] -= sign * np.array([7, 1], np.int8)
    full = layer_of(weights)
    assert first_bit(full) == first
    assert 15 * np.abs(weights.astype(int)).sum(axis=1).max() > most - 15
    assert KERNEL.reject(full) is None
    rng = np.random.default_rng(43)
    shape = full.inputs[0].shape
    inputs = [np.full(shape, 7), np.full(shape, -8), rng.choice([-8, 7], shape)]
    cases, outputs = cases_and_outputs([(full, x.astype(np.int8)) for x in inputs])
    harness.check(cases, outputs)
    cortex_m4.check(cases, outputs)
    weights[3, 158] = sign
    assert f"{15 * (most // 15 + 1)}, of {most}" in (KERNEL.reject(layer_of(weights)) or "")
    assert KERNEL.reject(layer_of(weights, (-7, 7))) is None  # one value fewer


def test_inputs_of_the_full_range_with_few_small_weights() -> None:
    """2-bit weights on 8-bit maps: sum of absolute weights 64, inputs at both ends."""
    weights = np.array([[-1] * 64, [1] * 64, [-2, 0] * 32, [1, -1] * 32], np.int8)
    layer = replace(layer_of(weights, (-128, 127)), weight_bits=(2,) * 4)
    assert KERNEL.reject(layer) is None
    rng = np.random.default_rng(46)
    shape = layer.inputs[0].shape
    inputs = [np.full(shape, 127), np.full(shape, -128), rng.integers(-128, 128, shape)]
    cases, outputs = cases_and_outputs([(layer, x.astype(np.int8)) for x in inputs])
    harness.check(cases, outputs)
    cortex_m4.check(cases, outputs)


def test_layers_of_our_own_quantizer_are_taken() -> None:
    """Weights of a trained shape at 4 bits, which use -8: what bit-widths are chosen for."""
    rng = np.random.default_rng(47)
    taken = 0
    for channels in (16, 32, 64, 128):
        values, scales = quantize_weights(rng.laplace(0, 1, (channels, channels)), (4,) * channels)
        assert values.min() == -8
        layer = replace(layer_of(values), weight_scales=(scales * 0.01).astype(np.float32))
        taken += KERNEL.reject(layer) is None
        if KERNEL.reject(layer) is None:
            x = rng.integers(-8, 8, layer.inputs[0].shape).astype(np.int8)
            harness.check(*cases_and_outputs([(layer, x)]))
    assert taken == 4


def test_rejects_what_it_cannot_do_with_a_reason() -> None:
    weights = np.ones((6, 8), np.int8)
    plain = layer_of(weights)
    assert KERNEL.reject(plain) is None
    assert "4 bits or less" in (KERNEL.reject(replace(plain, weight_bits=(8, 4, 4, 4, 4, 4))) or "")
    assert "4 output channels" in (KERNEL.reject(layer_of(weights[:3])) or "")
    assert "multiple of 4" in (KERNEL.reject(layer_of(weights[:, :6])) or "")
    outside = replace(plain, inputs=(replace(plain.inputs[0], zero_point=9),))
    assert "padding" in (KERNEL.reject(outside) or "")
    wide = replace(plain, weight_scales=np.full(6, 1e5, np.float32), output=replace(plain.output, zero_point=3))
    form = plan_finish(wide)
    assert form is not None and form.form is Form.WIDE
    assert "64 bits" in (KERNEL.reject(wide) or "")


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
    for chosen in (packed, layer):  # what speed is measured against multiplies once for each product
        assert KERNEL.name not in {kernel.name for kernel, _ in registry.candidates(chosen, "direct")}
    x = rng.integers(-8, 8, layer.inputs[0].shape).astype(np.int8)
    found = [case for case in harness.cases_for(packed, [x], configs=4) if case.kernel.name == KERNEL.name]
    wanted = tflite_arithmetic.conv2d(plain_layer(packed, own_clamp=True), x)
    harness.check(found, [wanted] * len(found))
    assert len(found) > 2


def _bytes(layer: Layer) -> Tensor:
    return replace(layer.inputs[0], span=(-128, 127))


def test_in_bands_with_padding_and_strides() -> None:
    """What a network makes of it: a packed map in, bands of rows, a packed map or bytes out."""
    rng = np.random.default_rng(48)
    cases: list[harness.Case] = []
    wanted: list[Array] = []
    while len({(case.layer.attrs["strides"], case.layer.output.bits) for case in cases}) < 4:
        stride = int(rng.integers(1, 3))
        layer, _ = random_layers.conv_layer(
            rng, size=(9, 8), channels=(8, int(rng.integers(4, 12))), kernel=(3, 3), stride=(stride, stride)
        )
        layer = random_layers.narrow_weights(rng, layer, (4, 2))
        bits = 4 if layer.output.shape[3] % 2 == 0 and rng.integers(2) else 8
        output = replace(layer.output, bits=bits, zero_point=-8, scale=layer.output.scale * 2 ** (8 - bits))
        layer = replace(layer, inputs=(replace(layer.inputs[0], bits=4, zero_point=3),), output=output)
        banded = registry.banded(KERNEL)
        if registry.rejection(banded, layer) is not None:
            continue
        x = rng.integers(-8, 8, layer.inputs[0].shape).astype(np.int8)
        configs = [config for config in banded.configs(layer) if int(config["band"]) < layer.output.shape[1]]
        assert configs
        found = [harness.Case(layer, (x,), banded, config) for config in (configs[0], configs[-1])]
        cases += found
        wanted += [tflite_arithmetic.conv2d(plain_layer(layer, own_clamp=True), x)] * len(found)
    harness.check(cases, wanted)
    cortex_m4.check(cases, wanted)
