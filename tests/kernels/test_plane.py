"""The 3x3 convolution of one channel is bit-exact with TFLite wherever it does not reject."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from rqdkm_tvm.kernels.conv2d_plane import Conv2dPlane
from rqdkm_tvm.layer import Layer
from tests.kernels import cortex_m4, harness, random_layers, tflite_arithmetic
from tests.kernels.test_winograd import plain_layer

KERNEL = Conv2dPlane()


def random_case(rng: np.random.Generator, **fixed: Any) -> harness.Case:
    """A random layer that the kernel accepts."""
    while True:
        shape: dict[str, Any] = {
            "size": (int(rng.integers(1, 15)), int(rng.integers(1, 25))),
            "channels": (1, int(rng.integers(1, 9))),
        }
        if rng.integers(3) == 0:
            shape["padding"] = tuple(int(v) for v in rng.integers(0, 4, 4))
        try:
            layer, x = random_layers.conv_layer(rng, kernel=(3, 3), **{**shape, **fixed})
        except ValueError:  # nothing left of the image
            continue
        if KERNEL.reject(layer) is None:
            return harness.Case(layer, (x,), KERNEL, {})


def expected(cases: list[harness.Case]) -> list[np.ndarray]:
    return [tflite_arithmetic.conv2d(case.layer, case.inputs[0]) for case in cases]


def one_channel(zero_point: int = -3, **changes: Any) -> Layer:
    layer = plain_layer((4, 4), (6, 9))
    return replace(
        layer,
        inputs=(replace(layer.inputs[0], shape=(1, 6, 9, 1)),),
        output=replace(layer.output, scale=0.05, zero_point=zero_point),
        weights=layer.weights[..., :1],
        **changes,
    )


def test_random_layers_are_exact() -> None:
    rng = np.random.default_rng(31)
    cases = [random_case(rng) for _ in range(100)]
    harness.check(cases, expected(cases))


def test_every_width_and_what_its_blocks_leave_is_exact() -> None:
    rng = np.random.default_rng(32)
    cases = [random_case(rng, size=(h, w), padding=(1, 1, 1, 1)) for h in (1, 4) for w in range(1, 18)]
    harness.check(cases, expected(cases))


def test_padding_wider_than_the_kernel_is_exact() -> None:
    rng = np.random.default_rng(33)
    cases = [random_case(rng, padding=(5, 7, 4, 6), size=(3, 4)), random_case(rng, padding=(0, 0, 0, 0), size=(9, 9))]
    harness.check(cases, expected(cases))


def test_both_forms_are_used() -> None:
    for zero_point, form in ((-128, 0), (-3, 1)):
        assert f", {form});" in KERNEL.lower(one_channel(zero_point), {}).body


def test_the_cortex_m4_code_is_exact() -> None:
    rng = np.random.default_rng(34)
    cases = [random_case(rng) for _ in range(40)]
    cases += [random_case(rng, size=(12, 16), channels=(1, 6)) for _ in range(10)]
    cases += [random_case(rng, size=(3, width), channels=(1, 3)) for width in range(4, 29)]  # blocks odd and even
    cortex_m4.check(cases, expected(cases))


def test_rejects_what_it_cannot_do_with_a_reason() -> None:
    layer = one_channel()
    assert KERNEL.reject(layer) is None
    assert "one input channel" in (KERNEL.reject(plain_layer()) or "")
    assert "stride" in (KERNEL.reject(replace(layer, attrs={**layer.attrs, "strides": (2, 2)})) or "")
    assert "floor" in (KERNEL.reject(replace(layer, weight_scales=np.full(4, 1e4, np.float32))) or "")
