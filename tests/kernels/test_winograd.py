"""The Winograd convolutions are bit-exact with TFLite wherever they do not reject, for every configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rqdkm_tvm.kernels import conv2d_winograd, winograd_pack
from rqdkm_tvm.kernels.registry import Config
from rqdkm_tvm.kernels.requantize import accumulator_bounds
from rqdkm_tvm.layer import Layer
from tests.kernels import cortex_m4, harness, one_op, random_layers, tflite_arithmetic

KERNELS = {
    "f4x4": conv2d_winograd.WinogradF4x4(),
    "f2x2": conv2d_winograd.WinogradF2x2(),
    "f4x1": conv2d_winograd.WinogradF4x1(),
    "f4x4s2": conv2d_winograd.WinogradF4x4Stride2(),
}
every_kernel = pytest.mark.parametrize("name", KERNELS)


def sampled_configs(name: str, layer: Layer, rng: np.random.Generator) -> list[Config]:
    """Two of the kernel's configurations and one with a strip that none of them has."""
    configs = KERNELS[name].configs(layer)
    chosen = [configs[int(rng.integers(len(configs)))] for _ in range(2)]
    return [*chosen, {"strip": int(rng.integers(1, 9)), "weights": str(rng.choice(["online", "flash"]))}]


def random_case(name: str, rng: np.random.Generator, **fixed: Any) -> list[harness.Case]:
    """Cases of one random layer that the kernel accepts."""
    while True:
        shape: dict[str, Any] = {
            "size": (int(rng.integers(1, 15)), int(rng.integers(1, 15))),
            "channels": (4 * int(rng.integers(1, 9)), int(rng.integers(1, 8))),
        }
        if rng.integers(3) == 0:
            shape["padding"] = tuple(int(v) for v in rng.integers(0, 4, 4))
        try:
            stride = (KERNELS[name].stride,) * 2
            layer, x = random_layers.conv_layer(rng, kernel=(3, 3), stride=stride, **{**shape, **fixed})
        except ValueError:  # nothing left of the image
            continue
        if KERNELS[name].reject(layer) is None:
            return [harness.Case(layer, (x,), KERNELS[name], config) for config in sampled_configs(name, layer, rng)]


def expected(cases: list[harness.Case]) -> list[np.ndarray]:
    return [tflite_arithmetic.conv2d(case.layer, case.inputs[0]) for case in cases]


def plain_layer(
    channels: tuple[int, int] = (16, 4), size: tuple[int, int] = (8, 8), seed: int = 0, name: str = "f4x4"
) -> Layer:
    """A layer with ordinary scales, no clamp and no padding worth mentioning, of the stride of a kernel."""
    rng = np.random.default_rng(seed)
    stride = (KERNELS[name].stride,) * 2
    layer, _ = random_layers.conv_layer(rng, size=size, channels=channels, kernel=(3, 3), stride=stride)
    weights = rng.integers(-127, 128, layer.weights.shape).astype(np.int8)
    scale = np.full(channels[1], 0.005, np.float32)
    bias = rng.integers(-5000, 5000, channels[1]).astype(np.int32)
    return replace(
        layer,
        inputs=(replace(layer.inputs[0], scale=0.02, zero_point=-7),),
        output=replace(layer.output, scale=0.016 * (9 * channels[0]) ** 0.5, zero_point=-3),
        attrs={**layer.attrs, "clamp": (-128, 127)},
        weights=weights,
        weight_scales=scale,
        bias=bias,
    )


@every_kernel
def test_random_layers_are_exact(name: str) -> None:
    rng = np.random.default_rng(1)
    cases = [case for _ in range(130) for case in random_case(name, rng)]
    harness.check(cases, expected(cases))


@every_kernel
def test_every_small_map_and_its_edge_tiles_are_exact(name: str) -> None:
    rng = np.random.default_rng(2)
    cases = [case for h in range(1, 10) for w in range(1, 10) for case in random_case(name, rng, size=(h, w))[:2]]
    harness.check(cases, expected(cases))


@every_kernel
@pytest.mark.parametrize("channels", [(16, 16), (32, 32), (48, 6), (64, 5), (96, 3), (20, 2), (4, 1)])
def test_every_configuration_of_a_shape_is_exact(name: str, channels: tuple[int, int]) -> None:
    rng = np.random.default_rng(3)
    layer = random_case(name, rng, channels=channels, size=(9, 13), same=True)[0].layer
    x = random_layers.random_values(rng, layer.inputs[0].shape)
    cases = [harness.Case(layer, (x,), KERNELS[name], config) for config in KERNELS[name].configs(layer)]
    harness.check(cases, expected(cases))


@every_kernel
def test_outputs_equal_those_of_the_reference_interpreter(name: str) -> None:
    rng = np.random.default_rng(4)
    models = []
    for same in (True, False) * 6:
        layer = random_case(name, rng, size=(int(rng.integers(4, 12)), int(rng.integers(4, 12))), same=same)[0].layer
        activation = str(rng.choice(["none", "relu", "relu6"]))
        clamp = one_op.activation_clamp(activation, layer.output)
        if same:
            (_, top, bottom), (_, left, right) = (
                one_op.same_padding(size, 3, KERNELS[name].stride) for size in layer.inputs[0].shape[1:3]
            )
            padding = (top, left, bottom, right)
        else:
            padding = (0, 0, 0, 0)
        height, width = (
            (s + padding[i] + padding[i + 2] - 3) // KERNELS[name].stride + 1
            for i, s in enumerate(layer.inputs[0].shape[1:3])
        )
        layer = replace(
            layer,
            output=replace(layer.output, shape=(1, height, width, layer.output.shape[3])),
            attrs={**layer.attrs, "clamp": clamp, "padding": padding},
        )
        x = random_layers.random_values(rng, layer.inputs[0].shape)
        models.append(one_op.OneOp(layer, [x], "same" if same else "valid", activation))
    cases = [
        harness.Case(model.layer, tuple(model.inputs), KERNELS[name], config)
        for model in models
        for config in KERNELS[name].configs(model.layer)[:2]
    ]
    outputs = [output for output in one_op.reference_outputs(models) for _ in range(2)]
    harness.check(cases, outputs)


@every_kernel
@pytest.mark.parametrize("sign", [1, -1])
def test_exact_up_to_the_bound_and_rejected_beyond_it(name: str, sign: int) -> None:
    """Accumulators of exactly the largest magnitude that the proof allows."""
    kernel = KERNELS[name]
    layer = plain_layer((32, 2), name=name)
    limit = 1 << (31 - kernel.form.power)
    weights = np.full_like(layer.weights, 127 * sign)
    low, high = accumulator_bounds(weights.reshape(2, -1), None, layer.inputs[0].zero_point)
    room = limit - 1 - int(max(high[0], -low[0]))
    layer = replace(layer, weights=weights, bias=np.array([room * sign, 0], np.int32))
    x = np.full(layer.inputs[0].shape, 127, np.int8)
    acc = sign * (127 * 134 * 9 * 32 + room)
    assert abs(acc) == limit - 1
    # scales at which such an accumulator does not saturate: WIDE; and at which the fast form is used
    for scale in (1e-4, 5e-3):
        tuned = replace(layer, weight_scales=np.full(2, scale, np.float32))
        assert kernel.reject(tuned) is None
        cases = [harness.Case(tuned, (x,), kernel, config) for config in kernel.configs(tuned)]
        harness.check(cases, expected(cases))
    beyond = replace(layer, bias=np.array([0, (room + 1) * sign], np.int32))
    reason = kernel.reject(beyond)
    assert reason is not None and "output channel 1" in reason and str(limit) in reason


@every_kernel
def test_rejects_what_it_cannot_do_with_a_reason(name: str) -> None:
    kernel, layer = KERNELS[name], plain_layer(name=name)
    assert kernel.reject(layer) is None
    for change, word in (
        ({"strides": (3, 3)}, "stride"),
        ({"dilation": (1, 2)}, "dilation"),
        ({"groups": 2}, "groups"),
    ):
        reason = kernel.reject(replace(layer, attrs={**layer.attrs, **change}))
        assert reason is not None and word in reason
    assert "5x5" in (kernel.reject(replace(layer, weights=np.zeros((4, 5, 5, 16), np.int8))) or "")
    odd = replace(
        layer,
        weights=layer.weights[..., :6],
        inputs=(replace(layer.inputs[0], shape=(1, 8, 8, 6)),),
    )
    assert "6 input channels" in (kernel.reject(odd) or "")
    assert "symmetric" in (kernel.reject(replace(layer, weight_zero_point=1)) or "")


@every_kernel
def test_the_fast_form_is_used_where_it_is_proven(name: str) -> None:
    kernel, layer = KERNELS[name], plain_layer(name=name)
    relu = replace(layer, output=replace(layer.output, zero_point=-128))
    for tuned, form in (
        (layer, "away"),
        (relu, "floor"),
        (replace(layer, attrs={**layer.attrs, "clamp": (-3, 100)}), "clamp"),
        (replace(layer, weight_scales=np.full(4, 50.0, np.float32)), "wide"),
    ):
        body = kernel.lower(tuned, kernel.configs(tuned)[0]).body
        assert f"rqdkm_winograd_{name}_output_{form}, " in body


@every_kernel
def test_one_channel_that_needs_the_wide_form_leaves_the_others_fast(name: str) -> None:
    kernel, layer = KERNELS[name], plain_layer(name=name)
    layer = replace(layer, weight_scales=np.array([0.005, 0.005, 3.0, 0.005], np.float32))
    assert kernel.table(layer).words[:, 5].tolist() == [0, 0, 1, 0]
    x = random_layers.random_values(np.random.default_rng(5), layer.inputs[0].shape)
    cases = [harness.Case(layer, (x,), kernel, config) for config in kernel.configs(layer)]
    harness.check(cases, expected(cases))


@every_kernel
def test_a_dead_channel_does_not_cost_the_fast_form(name: str) -> None:
    """A pruned filter keeps a tiny scale: its output is the zero point whatever the input."""
    kernel, layer = KERNELS[name], plain_layer(name=name)
    layer = replace(layer, weight_scales=np.array([0.005, 1e-9, 0.005, 0.005], np.float32))
    assert not kernel.table(layer).wide
    x = random_layers.random_values(np.random.default_rng(6), layer.inputs[0].shape)
    cases = [harness.Case(layer, (x,), kernel, config) for config in kernel.configs(layer)]
    harness.check(cases, expected(cases))


#: Maps of one, two, five and six tiles of 4x4, whole ones and others.
FEW_TILES = [(4, 4), (1, 3), (4, 7), (8, 4), (5, 4), (4, 20), (3, 17), (8, 12), (7, 9)]


@pytest.mark.parametrize("packed", [False, True])
def test_maps_of_few_tiles_are_exact_in_groups_of_two(packed: bool) -> None:
    """Any number of output channels, in groups of 4; values as large as they come every other time."""
    rng = np.random.default_rng(9)
    kernel, cases = KERNELS["f4x4"], []
    for index, size in enumerate(FEW_TILES):
        for outputs in (1, 3, 4, 5, 6, 7, 8, 11):
            layer = plain_layer((4 * int(rng.integers(1, 13)), outputs), size, seed=outputs)
            x = random_layers.random_values(rng, layer.inputs[0].shape)
            if index % 2 != 0:
                layer = replace(layer, weights=rng.choice(np.array([-128, 127], np.int8), layer.weights.shape))
                x = rng.choice(np.array([-128, 127], np.int8), x.shape)
            if packed:
                layer = random_layers.narrow_weights(rng, layer)
            cases += [harness.Case(layer, (x,), kernel, config) for config in kernel.configs(layer)]
    few = [case for case in cases if "_f4x4_few(" in kernel.lower(case.layer, case.config).body]
    assert len(few) > 40
    assert {size for size in FEW_TILES if any(case.layer.inputs[0].shape[1:3] == size for case in few)} == set(
        FEW_TILES
    )
    harness.check(cases, expected(cases))
    cortex_m4.check(few[::2], expected(few[::2]))


@every_kernel
def test_the_last_configuration_needs_the_least_scratch(name: str) -> None:
    for shape in (((16, 16), (32, 32)), ((64, 64), (8, 8)), ((12, 5), (3, 21))):
        layer = plain_layer(*shape, name=name)
        sizes = [KERNELS[name].scratch_bytes(layer, config) for config in KERNELS[name].configs(layer)]
        assert sizes[-1] == min(sizes)


@every_kernel
def test_constants_take_as_much_flash_as_announced(name: str) -> None:
    kernel, layer = KERNELS[name], plain_layer((20, 5), name=name)
    for config in kernel.configs(layer):
        constants = kernel.lower(layer, config).constants
        assert sum(array.nbytes for array in constants) == kernel.constant_bytes(layer, config)


@every_kernel
def test_estimates_rank_a_larger_strip_of_on_line_weights_first(name: str) -> None:
    kernel, layer = KERNELS[name], plain_layer((16, 16), (32, 32), name=name)
    configs = [config for config in kernel.configs(layer) if config["weights"] == "online"]
    ordered = sorted(configs, key=lambda config: kernel.estimate_cycles(layer, config))
    assert [config["strip"] for config in ordered] == sorted((c["strip"] for c in configs), reverse=True)


@every_kernel
def test_transformed_weights_fit_16_bits_for_any_weights(name: str) -> None:
    """The largest |U| over all int8 weights: -128 or 127 wherever a row of the matrix is negative or positive."""
    form = KERNELS[name].form
    row_sums = [np.abs(matrix).sum(axis=1).max() for matrix in form.transforms]
    assert row_sums[0] * row_sums[1] * 128 <= 0x7FFF
    rng = np.random.default_rng(7)
    extremes = rng.choice(np.array([-128, 127], np.int8), (64, 3, 3, 4))
    assert np.abs(winograd_pack.transform_weights(form, extremes)).max() <= 0x7FFF


@every_kernel
def test_the_cortex_m4_code_is_exact(name: str) -> None:
    """The asm blocks, on QEMU: the same cases as on the host, every output byte equal."""
    rng = np.random.default_rng(8)
    cases = [case for _ in range(25) for case in random_case(name, rng)]
    for channels in ((16, 6), (32, 4), (64, 4)):
        for size in ((12, 12), (5, 7)):
            cases += random_case(name, rng, channels=channels, size=size)
    cortex_m4.check(cases, expected(cases))
