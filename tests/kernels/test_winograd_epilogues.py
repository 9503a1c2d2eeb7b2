"""Maximum pooling and residual additions inside the output stage of the two-dimensional Winograd convolutions."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rqdkm_tvm.kernels.registry import Config, rejection
from rqdkm_tvm.layer import KernelCall, Layer, Tensor
from tests.kernels import cortex_m4, harness, one_op, random_layers, tflite_arithmetic
from tests.kernels.test_winograd import KERNELS, plain_layer, random_case, sampled_configs
from tests.kernels.tflite_elementwise import REFERENCES

Array = random_layers.Array

FUSING = ("f4x4", "f2x2")
ADDING = (*FUSING, "f4x4s2")
every_adding_kernel = pytest.mark.parametrize("name", ADDING)
every_fusing_kernel = pytest.mark.parametrize("name", FUSING)


def pooled(layer: Layer, clamp: tuple[int, int] = (-128, 127)) -> Layer:
    """The layer with a 2x2 maximum of its result; an odd last row or column is dropped."""
    _, height, width, channels = layer.output.shape
    attrs = {"pool": (2, 2), "strides": (2, 2), "padding": (0, 0, 0, 0), "clamp": clamp}
    stored = replace(layer.output, shape=(1, height // 2, width // 2, channels))
    return replace(layer, epilogue=Layer("pool", "max_pool2d", (layer.output,), stored, attrs))


def added(layer: Layer, rng: np.random.Generator, clamp: tuple[int, int] | None = None) -> Layer:
    """The layer with a residual added to its result."""
    scale = layer.output.scale
    residual = Tensor(layer.output.shape, "int8", scale * float(rng.uniform(0.3, 3)), int(rng.integers(-128, 128)))
    zero_point = random_layers.random_zero_point(rng)
    stored = Tensor(layer.output.shape, "int8", scale * float(rng.uniform(0.8, 3)), zero_point)
    attrs = {"clamp": clamp or (zero_point, 127)}
    addition = Layer("add", "add", (layer.output, residual), stored, attrs)
    return replace(layer, inputs=(*layer.inputs, residual), epilogue=addition)


def inputs_of(layer: Layer, rng: np.random.Generator) -> tuple[Array, ...]:
    return tuple(random_layers.random_values(rng, tensor.shape) for tensor in layer.inputs)


def expected(layer: Layer, inputs: tuple[Array, ...]) -> Array:
    assert layer.epilogue is not None
    result = tflite_arithmetic.conv2d(layer, inputs[0])
    return REFERENCES[layer.epilogue.op](layer.epilogue, result, *inputs[1:])


def check(name: str, layers: list[Layer], rng: np.random.Generator, on: Any = harness) -> None:
    cases, outputs = [], []
    for layer in layers:
        inputs = inputs_of(layer, rng)
        want = expected(layer, inputs)
        for config in sampled_configs(name, layer, rng):
            cases.append(harness.Case(layer, inputs, KERNELS[name], config))
            outputs.append(want)
    on.check(cases, outputs)


def random_layers_with(name: str, epilogue: str, rng: np.random.Generator, count: int, **fixed: Any) -> list[Layer]:
    """Random layers, scales and clamps included, that the kernel accepts with the epilogue."""
    found: list[Layer] = []
    while len(found) < count:
        plain = random_case(name, rng, **fixed)[0].layer
        layer = pooled(plain) if epilogue == "max_pool2d" else added(plain, rng)
        if rejection(KERNELS[name], layer) is None:
            found.append(layer)
    return found


@every_fusing_kernel
@pytest.mark.parametrize("epilogue", ["max_pool2d", "add"])
def test_random_layers_are_exact(name: str, epilogue: str) -> None:
    rng = np.random.default_rng(21)
    check(name, random_layers_with(name, epilogue, rng, 60), rng)


@every_fusing_kernel
@pytest.mark.parametrize("epilogue", ["max_pool2d", "add"])
def test_every_small_map_is_exact(name: str, epilogue: str) -> None:
    """Odd sizes, tiles of which a part counts, groups that are not full."""
    rng = np.random.default_rng(22)
    least = 2 if epilogue == "max_pool2d" else 1
    sizes = [(h, w) for h in range(least, 11) for w in range(least, 11)]
    check(name, [random_layers_with(name, epilogue, rng, 1, size=s, padding=(1, 1, 1, 1))[0] for s in sizes], rng)


FORMS: dict[str, dict[str, Any]] = {
    "floor": {"zero_point": -128},
    "away": {},
    "clamp": {"clamp": (-3, 100)},
    "wide": {"scale": 10000.0},  # left shifts
}


def formed(name: str, **wanted: Any) -> Layer:
    layer = plain_layer((16, 5), (9, 11), seed=3)
    layer = replace(layer, output=replace(layer.output, zero_point=wanted.get("zero_point", -3)))
    layer = replace(layer, attrs={**layer.attrs, "clamp": wanted.get("clamp", (-128, 127))})
    return replace(layer, weight_scales=layer.weight_scales * np.float32(wanted.get("scale", 1.0)))


@every_fusing_kernel
@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_used_and_exact(name: str, form: str) -> None:
    rng = np.random.default_rng(23)
    layer = formed(name, **FORMS[form])
    pool, addition = pooled(layer), added(layer, rng)
    config = KERNELS[name].configs(pool)[0]
    assert f"rqdkm_winograd_{name}_pool_{form}, " in KERNELS[name].lower(pool, config).body
    assert f"rqdkm_winograd_{name}_output_{form}, " in KERNELS[name].lower(addition, config).body
    check(name, [layer for layer in (pool, addition) if rejection(KERNELS[name], layer) is None], rng)


def test_epilogues_of_maps_of_few_tiles_are_exact() -> None:
    """f4x4 in groups of two tiles and four output channels, whole tiles and others."""
    rng, layers = np.random.default_rng(28), []
    for size in ((4, 4), (4, 7), (8, 12), (5, 3)):
        for outputs in (3, 4, 6, 9):
            plain = plain_layer((16, outputs), size, seed=outputs)
            layers += [pooled(plain), added(plain, rng)]
    kernel = KERNELS["f4x4"]
    accepted = [layer for layer in layers if rejection(kernel, layer) is None]
    few = [layer for layer in accepted if "_f4x4_few(" in kernel.lower(layer, kernel.configs(layer)[0]).body]
    assert {layer.epilogue.op for layer in few if layer.epilogue} == {"max_pool2d", "add"} and len(few) > 12
    check("f4x4", accepted, rng)
    check("f4x4", few, rng, cortex_m4)


@every_adding_kernel
@pytest.mark.parametrize("clamp", [(-128, 127), (-20, 127), (-128, 60), (-7, 9)])
def test_an_addition_with_any_clamp_is_exact(name: str, clamp: tuple[int, int]) -> None:
    rng = np.random.default_rng(24)
    layers = [added(plain_layer((16, 5), (9, 6), seed, name), rng, clamp) for seed in range(6)]
    accepted = [layer for layer in layers if rejection(KERNELS[name], layer) is None]
    assert accepted
    check(name, accepted, rng)


def test_sums_beyond_comparison_take_the_wide_form() -> None:
    """f4x4 compares 576 times the accumulator: a channel that might reach 2^31 / 576 is finished output by output."""
    kernel = KERNELS["f4x4"]
    layer = pooled(plain_layer((32, 4)))
    limit = (2**31 - 1) // 576
    inside = replace(layer, weights=np.full_like(layer.weights, 11), bias=np.zeros(4, np.int32))
    reach = 11 * 134 * 9 * 32  # input zero point -7
    bias = np.array([limit - reach, limit - reach + 1, 0, 0], np.int32)
    inside = replace(inside, bias=bias)
    assert kernel.table(inside).words[:, 5].tolist() == [0, 1, 0, 0]
    x = np.full(layer.inputs[0].shape, 127, np.int8)
    x[:, ::2, 1::3] = -128
    for scale in (5e-3, 1e-4, 3e-5):
        tuned = replace(inside, weight_scales=np.full(4, scale, np.float32))
        cases = [harness.Case(tuned, (x,), kernel, config) for config in kernel.configs(tuned)]
        harness.check(cases, [expected(tuned, (x,))] * len(cases))


class InPlace:
    """A kernel whose output is the residual's memory."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.name = kernel.name

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return int(self.kernel.scratch_bytes(layer, config))

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        call = self.kernel.lower(layer, config)
        assert call.body.count("in1") == 1
        body = f"  memcpy(out, in1, {layer.stored.size});\n" + call.body.replace("in1", "out")
        return replace(call, body=body)


@every_adding_kernel
def test_an_addition_may_write_over_its_residual(name: str) -> None:
    rng = np.random.default_rng(25)
    cases, outputs = [], []
    for layer in random_layers_with(name, "add", rng, 25):
        inputs = inputs_of(layer, rng)
        cases.append(harness.Case(layer, inputs, InPlace(KERNELS[name]), KERNELS[name].configs(layer)[-1]))
        outputs.append(expected(layer, inputs))
    harness.check(cases, outputs)


@every_fusing_kernel
def test_the_cortex_m4_code_is_exact(name: str) -> None:
    rng = np.random.default_rng(26)
    layers = []
    for epilogue in ("max_pool2d", "add"):
        layers += random_layers_with(name, epilogue, rng, 12)
        for zero_point in (-128, 3):  # FLOOR and AWAY, whole tiles only and partial ones
            for size in ((16, 16), (13, 10)):
                plain = plain_layer((16, 6), size, seed=abs(zero_point))
                plain = replace(plain, output=replace(plain.output, zero_point=zero_point))
                layers.append(pooled(plain) if epilogue == "max_pool2d" else added(plain, rng))
    accepted = [layer for layer in layers if rejection(KERNELS[name], layer) is None]
    assert len(accepted) >= 28
    check(name, accepted, rng, cortex_m4)


@every_fusing_kernel
def test_estimated_scratch_and_constants_are_announced(name: str) -> None:
    for layer in (pooled(plain_layer((20, 5), (9, 9))), added(plain_layer((20, 5)), np.random.default_rng(0))):
        for config in KERNELS[name].configs(layer):
            call = KERNELS[name].lower(layer, config)
            assert call.scratch_bytes == KERNELS[name].scratch_bytes(layer, config)
            assert sum(array.nbytes for array in call.constants) == KERNELS[name].constant_bytes(layer, config)


@every_fusing_kernel
def test_rejects_what_it_cannot_fuse_with_a_reason(name: str) -> None:
    kernel, layer = KERNELS[name], plain_layer()
    pool = pooled(layer)
    assert rejection(kernel, pool) is None
    assert pool.epilogue is not None

    def reason(**attrs: Any) -> str:
        assert pool.epilogue is not None
        epilogue = replace(pool.epilogue, attrs={**pool.epilogue.attrs, **attrs})
        return rejection(kernel, replace(pool, epilogue=epilogue)) or ""

    assert "2x2" in reason(pool=(3, 3))
    assert "2x2" in reason(strides=(1, 1))
    assert "2x2" in reason(padding=(0, 0, 1, 1))
    assert "clamps" in reason(clamp=(0, 127))
    bigger = replace(pool.epilogue, output=replace(pool.epilogue.output, shape=(1, 5, 5, 4)))
    assert "half" in (rejection(kernel, replace(pool, epilogue=bigger)) or "")
    addition = added(layer, np.random.default_rng(1))
    assert addition.epilogue is not None
    repeated = replace(addition.epilogue.inputs[1], shape=(1, 1, 1, 4))
    epilogue = replace(addition.epilogue, inputs=(layer.output, repeated))
    narrow = replace(addition, inputs=(layer.inputs[0], repeated), epilogue=epilogue)
    assert "repeats" in (rejection(kernel, narrow) or "")
    assert "mean" in (rejection(kernel, replace(pool, epilogue=replace(pool.epilogue, op="mean"))) or "")
    assert "max_pool2d" in (rejection(KERNELS["f4x1"], pool) or "")


def test_pooled_outputs_equal_those_of_the_reference_interpreter() -> None:
    """TFLite Micro's own kernels, one after the other."""
    rng = np.random.default_rng(27)
    layer = plain_layer((8, 4), (7, 9), seed=5)
    x = random_layers.random_values(rng, layer.inputs[0].shape)
    (convolved,) = one_op.reference_outputs([one_op.OneOp(layer, [x], "same")])
    pool = pooled(layer).epilogue
    assert pool is not None
    (want,) = one_op.reference_outputs([one_op.OneOp(pool, [convolved])])
    cases = [harness.Case(pooled(layer), (x,), KERNELS[name], KERNELS[name].configs(layer)[0]) for name in FUSING]
    harness.check(cases, [want, want])
