"""The host build of the same C: every byte equal to the reference, and fallbacks equal to TVM's own result."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rqdkm.export.host import build_host_runner, run, sample_shape
from rqdkm.export.project import Project, write_project
from rqdkm.models import zoo
from rqdkm.models.data import Dataset, structured_inputs
from rqdkm.models.load import LoadedModel, load
from rqdkm.models.oracle import reference_outputs
from rqdkm.models.quantize import quantize
from rqdkm_tvm.compile import CompiledModel, compile_model
from rqdkm_tvm.errors import DataError, ToolError
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.plan import LayerPlan, Plan
from rqdkm_tvm.tvm_import import relay
from tests.passes import graphs as g

Expr = Any
# one residual, one depthwise, one dense network; tests/networks deploys all of them to the virtual board
HOST = ["image_classification", "keyword_spotting", "autoencoder_example"]
# TFLM's arenas for these models, bytes
TFLM_ARENA = {"image_classification": 54_996, "visual_wake_words": 100_708, "keyword_spotting": 22_820}


def _random(shapes: list[tuple[int, ...]], count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.integers(-128, 128, (count, *shape)).astype(np.int8) for shape in shapes]


def _assert_exact(model: LoadedModel, kernel_set: KernelSet, project: Path) -> CompiledModel:
    """Compile, run on this computer, and compare every output byte with TFLite's reference kernels."""
    compiled = compile_model(model.module, kernel_set=kernel_set, output_names=list(model.output_names))
    assert compiled.report.fallbacks == ()
    assert compiled.memory.arena_bytes == compiled.memory.lower_bound_bytes
    runner = build_host_runner(write_project(compiled, project, name=model.name).path)
    inputs = _random([sample_shape(t.shape) for t in model.inputs], 8)
    expected = reference_outputs(model, inputs)
    for found, wanted in zip(run(runner, inputs), expected, strict=True):
        assert np.array_equal(found, wanted)
    return compiled


@pytest.mark.parametrize("name", HOST)
def test_zoo_model_is_exact_on_the_host(name: str, tmp_path: Path) -> None:
    _assert_exact(load(zoo.path(name)), "auto", tmp_path / "p")


@pytest.mark.parametrize("name", TFLM_ARENA)
def test_direct_kernels_are_exact_in_no_more_memory_than_tflm(name: str, tmp_path: Path) -> None:
    compiled = _assert_exact(load(zoo.path(name)), "direct", tmp_path / "p")
    assert compiled.memory.arena_bytes <= TFLM_ARENA[name]


@pytest.mark.parametrize("name", ["keyword_spotting", "autoencoder_example"])
def test_reference_kernels_are_exact(name: str, tmp_path: Path) -> None:
    compiled = _assert_exact(load(zoo.path(name)), "reference", tmp_path / "p")
    assert all(layer.lowered.kernel.endswith("_ref") or layer.layer.op == "concatenate" for layer in compiled.layers)


# of the three TENet models one is enough here
@pytest.mark.parametrize("name", [f"{n}.float32" for n in zoo.float_twins() if not n.endswith("_v3")])
def test_float_model_quantized_here_is_exact_on_the_host(name: str, tmp_path: Path) -> None:
    model = load(zoo.path(name))
    calibration = Dataset(tuple(structured_inputs(model, 16, seed=3)), None, "synthetic")
    _assert_exact(quantize(model, calibration), "auto", tmp_path / "p")


def _tvm_result(mod: Any, x: np.ndarray) -> list[np.ndarray]:
    result = relay.create_executor("graph", mod=mod, target="llvm").evaluate()(x)
    return [r.numpy() for r in result] if not hasattr(result, "numpy") else [result.numpy()]


FALLBACKS: dict[str, Callable[[Expr], Expr]] = {
    "transpose": lambda x: relay.transpose(x, (0, 3, 1, 2)),
    "resize": lambda x: relay.image.resize2d(
        x,
        (16, 16),
        layout="NHWC",
        method="nearest_neighbor",
        coordinate_transformation_mode="asymmetric",
        rounding_method="floor",
    ),
    "strided slice": lambda x: relay.strided_slice(x, [0, 1, 0, 2], [1, 7, 8, 4]),
    "subtract": lambda x: relay.qnn.op.subtract(
        x, x, g.scale(0.1), g.zero(1), g.scale(0.2), g.zero(-4), g.scale(0.3), g.zero(2)
    ),
    "float function": lambda x: g.quantize(relay.exp(g.dequantize(x, 0.01, 3)), 0.1, 0),
    "argmax": lambda x: relay.argmax(x, axis=3),
    "two outputs": lambda x: relay.Tuple([relay.transpose(x, (0, 2, 1, 3)), relay.nn.relu(x)]),
    "an early output that must survive": lambda x: relay.Tuple(
        [g.max_pool(x), relay.transpose(g.max_pool(relay.transpose(relay.nn.relu(x), (0, 2, 1, 3))), (0, 3, 1, 2))]
    ),
    "an output that is read again": lambda x: relay.Tuple([relay.nn.relu(x), g.max_pool(relay.nn.relu(x))]),
}


@pytest.mark.parametrize("name", FALLBACKS)
def test_what_is_left_to_tvm_computes_what_tvm_computes(name: str, tmp_path: Path) -> None:
    mod = prepare(g.module(FALLBACKS[name](g.image())))
    compiled = compile_model(mod)
    runner = build_host_runner(write_project(compiled, tmp_path / "p", name="fallback").path)
    [x] = _random([(8, 8, 4)], 3)
    found = run(runner, [x])
    for index in range(3):
        for out, wanted in zip(found, _tvm_result(mod, x[index : index + 1]), strict=True):
            assert np.array_equal(out[index], wanted.reshape(out[index].shape))


def test_an_input_that_is_read_late_survives_until_then(tmp_path: Path) -> None:
    first, second = g.image(name="first"), g.image(name="second")
    early = g.max_pool(relay.transpose(g.max_pool(relay.transpose(first, (0, 2, 1, 3)), (1, 1)), (0, 2, 1, 3)), (1, 1))
    mod = prepare(g.module(g.add(early, second)))
    path = write_project(compile_model(mod), tmp_path / "p", name="two").path
    a, b = _random([(8, 8, 4), (8, 8, 4)], 2)
    direct = write_project(compile_model(prepare(g.module(g.add(first, second)))), tmp_path / "q", name="two").path
    assert np.array_equal(run(build_host_runner(path), [a, b])[0], run(build_host_runner(direct), [a, b])[0])


def test_a_layer_taken_from_our_kernels_still_runs(tmp_path: Path) -> None:
    """Maximum has one right answer, so that TVM's C and our kernel must agree."""
    mod = prepare(g.module(g.max_pool(g.conv2d(g.image()))))
    names = [layer.name for layer in compile_model(mod).plan.layers]
    plan = Plan(layers=[LayerPlan(names[0], "conv2d", ""), LayerPlan(names[1], "max_pool2d", None)])
    inputs = _random([(8, 8, 4)], 4)
    outputs = []
    for index, given in enumerate((None, plan)):
        path = write_project(compile_model(mod, plan=given or Plan()), tmp_path / str(index), name="m").path
        outputs.append(run(build_host_runner(path), inputs)[0])
    assert np.array_equal(*outputs)


def test_wrong_samples_are_refused(project: Project) -> None:
    runner = build_host_runner(project.path)
    with pytest.raises(DataError, match="the model takes int8"):
        run(runner, [np.zeros((1, 8, 8, 3), np.int8)])
    with pytest.raises(DataError, match="the model takes int8"):
        run(runner, [np.zeros((1, 8, 8, 4), np.float32)])
    with pytest.raises(DataError, match="2 input arrays"):
        run(runner, [np.zeros((1, 8, 8, 4), np.int8)] * 2)


def test_a_failing_runner_is_a_clear_error(project: Project, tmp_path: Path) -> None:
    script = tmp_path / "runner"
    script.write_text("#!/bin/sh\necho rqdkm_model_run returned -2 >&2\nexit 3\n")
    script.chmod(0o755)
    with pytest.raises(ToolError, match="returned -2"):
        run(script, [np.zeros((1, 8, 8, 4), np.int8)], project_dir=project.path)
