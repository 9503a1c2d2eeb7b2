"""Pooling, elementwise and movement operators: every byte equal to numpy and to TFLite Micro, on host and ARM."""

from __future__ import annotations

import numpy as np
import pytest

from rqdkm_tvm.kernels import add, mul, registry
from rqdkm_tvm.layer import OPS, Layer, Tensor
from tests.kernels import cortex_m4, harness, one_op, random_elementwise
from tests.kernels.random_elementwise import GENERATORS
from tests.kernels.random_layers import Array
from tests.kernels.tflite_elementwise import REFERENCES

OTHERS = [op for op in GENERATORS if op != "depthwise_conv2d"]


def test_every_operator_of_the_contract_is_tested() -> None:
    elsewhere = {"conv2d", "fully_connected", "patch_stage", "morph_conv2d"}  # the last two: tests/patches, tests/morph
    assert set(GENERATORS) | elsewhere == set(OPS)


@pytest.mark.parametrize("op", OTHERS)
def test_every_kernel_gives_tflite_micros_bytes(op: str) -> None:
    rng = np.random.default_rng(sum(map(ord, op)))
    ops = [GENERATORS[op](rng) for _ in range(100)]
    cases: list[harness.Case] = []
    wanted: list[Array] = []
    for case, judged in zip(ops, one_op.reference_outputs(ops), strict=True):
        found = harness.cases_for(case.layer, case.inputs)
        assert found, case.layer
        cases += found
        wanted += [judged.reshape(case.layer.output.shape)] * len(found)
    harness.check(cases, wanted)


@pytest.mark.parametrize("op", [op for op in REFERENCES if op != "depthwise_conv2d"])
def test_every_kernel_gives_numpys_bytes_for_any_clamp(op: str) -> None:
    rng = np.random.default_rng(4000 + sum(map(ord, op)))
    cases: list[harness.Case] = []
    wanted: list[Array] = []
    for _ in range(250):
        case = GENERATORS[op](rng)
        if "clamp" in case.layer.attrs:
            case = random_elementwise.any_clamp(rng, case)
        found = harness.cases_for(case.layer, case.inputs)
        cases += found
        wanted += [REFERENCES[op](case.layer, *case.inputs)] * len(found)
    harness.check(cases, wanted)


@pytest.mark.parametrize("op", ["add", "mul"])
def test_all_operand_pairs(op: str) -> None:
    rng = np.random.default_rng(8)
    cases: list[harness.Case] = []
    wanted: list[Array] = []
    for _ in range(25):
        case = random_elementwise.all_pairs(rng, op)
        found = harness.cases_for(case.layer, case.inputs)
        cases += found
        wanted += [REFERENCES[op](case.layer, *case.inputs)] * len(found)
    harness.check(cases, wanted)


def test_the_linear_form_of_add_exists_for_common_scales() -> None:
    rng = np.random.default_rng(9)
    solved = 0
    for _ in range(40):
        s1, s2 = (float(np.float32(value)) for value in rng.uniform(0.02, 0.2, 2))
        s3 = float(np.float32(max(s1, s2) * rng.uniform(0.7, 1.5)))
        params = add.add_params(*(Tensor((1,), "int8", s, int(rng.integers(-128, 128))) for s in (s1, s2, s3)))
        solved += add.solve_linear(params, (-128, 127)) is not None
    assert solved == 40


def test_a_sum_that_may_wrap_has_no_linear_form() -> None:
    params = add.add_params(Tensor((1,), scale=1.0), Tensor((1,), scale=1.0), Tensor((1,), scale=0.01))
    assert add.solve_linear(params, (-128, 127)) is None
    assert mul.solve_linear((0, 0, 0), 1 << 30, 1, (-128, 127)) is not None


def test_the_arm_code_agrees() -> None:
    cases: list[harness.Case] = []
    wanted: list[Array] = []
    for op, reference in REFERENCES.items():
        if op == "depthwise_conv2d":
            continue
        rng = np.random.default_rng(5000 + sum(map(ord, op)))
        for _ in range(8):
            case = GENERATORS[op](rng)
            found = harness.cases_for(case.layer, case.inputs)
            cases += found
            wanted += [reference(case.layer, *case.inputs)] * len(found)
    cortex_m4.check(cases, wanted)


def test_the_arm_code_of_tables_and_floats_agrees_with_tflite_micro() -> None:
    rng = np.random.default_rng(11)
    ops = [GENERATORS[op](rng) for op in OTHERS if op not in REFERENCES for _ in range(3)]
    cases: list[harness.Case] = []
    wanted: list[Array] = []
    for case, judged in zip(ops, one_op.reference_outputs(ops), strict=True):
        found = harness.cases_for(case.layer, case.inputs)
        cases += found
        wanted += [judged.reshape(case.layer.output.shape)] * len(found)
    cortex_m4.check(cases, wanted)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (Layer("l", "avg_pool2d", (Tensor((1, 4, 4, 4)),), Tensor((1, 4, 4, 4), scale=2.0), {}), "share scale"),
        (Layer("l", "softmax", (Tensor((1, 4)),), Tensor((1, 4)), {"beta": 1.0}), "1/256"),
        (Layer("l", "logistic", (Tensor((1, 4)),), Tensor((1, 4)), {}), "zero point"),
        (Layer("l", "add", (Tensor((1, 4, 3)), Tensor((1, 4, 1))), Tensor((1, 4, 3)), {}), "shapes"),
        (Layer("l", "quantize", (Tensor((1, 4)),), Tensor((1, 4)), {}), "float32"),
        (Layer("l", "concatenate", (Tensor((4,)), Tensor((4,), scale=2.0)), Tensor((8,)), {"axis": 0}), "share"),
    ],
)
def test_what_cannot_be_exact_is_refused_with_a_reason(layer: Layer, reason: str) -> None:
    for kernel in registry.kernels_for(layer):
        said = kernel.reject(layer)
        assert said is not None and reason in said
