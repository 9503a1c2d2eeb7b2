"""Whole models in TFLM's interpreter: the bytes of TVM's firmware, and of the NumPy interpreter."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rqdkm.export import host, project
from rqdkm.models import oracle, reference
from rqdkm.models.tflite_write import write_graph
from rqdkm.tflm import arena
from rqdkm.tflm.generated import Converted
from rqdkm_tvm.errors import RqdkmError
from rqdkm_tvm.morph.gather import FixKernel
from tests.tflm import cases

PORTABLE = ("int8", "mixed", "random", "morph", "morph file")


def in_tflm(converted: Converted, inputs: list[cases.Array], plugin: Path) -> list[cases.Array]:
    placed = arena.plan(converted.graph, converted.needs)
    data = write_graph(converted.graph, metadata=placed.metadata())
    if not converted.graph.inputs:
        return oracle.run_interpreter(data, converted.graph, [], plugin, frames=inputs[0])
    return oracle.run_interpreter(data, converted.graph, inputs, plugin)


def flat(array: cases.Array) -> cases.Array:
    return array.reshape(len(array), -1)


@pytest.mark.parametrize("name", cases.CASES)
def test_generated_layers_give_the_bytes_of_tvm_s_firmware(name: str, plugin: Path, tmp_path: Path) -> None:
    case = cases.case(name)
    inputs = case.inputs()
    (found,) = in_tflm(case.generated(), inputs, plugin)
    compiled = case.compiled()
    written = project.write_project(compiled, tmp_path / "project", name="case")
    (firmware,) = host.run(host.build_host_runner(written.path), inputs)
    (numpy,) = reference.run_function(compiled.quantized["main"], inputs)
    assert np.array_equal(flat(found), flat(firmware))
    assert np.array_equal(flat(found), flat(numpy))
    assert len(np.unique(flat(found), axis=0)) > 1


@pytest.mark.parametrize("name", PORTABLE)
def test_portable_operators_give_the_same_bytes(name: str, plugin: Path) -> None:
    case = cases.case(name)
    inputs = case.inputs()
    (found,) = in_tflm(case.portable(), inputs, plugin)
    (numpy,) = reference.run_function(case.compiled().quantized["main"], inputs)
    assert np.array_equal(flat(found), flat(numpy))


def test_a_patch_stage_is_one_node_and_has_no_portable_form() -> None:
    case = cases.case("patches")
    ops = [operator.op for operator in case.generated().graph.operators]
    assert ops.count("RQDKM_PATCH_STAGE") == 1
    assert "RQDKM_CONV_2D" in ops
    with pytest.raises(RqdkmError, match="generated code only"):
        from rqdkm.tflm import portable
        from rqdkm_tvm.sites import read_io

        mod = case.compiled().quantized
        portable.convert(mod, "case", read_io(mod["main"], []))


_HEAD = re.compile(r"Arena allocation head (\d+) bytes")
_PROGRAM = """
import sys
from rqdkm.models.oracle_worker import load_plugin
names = load_plugin(sys.argv[1])
from tflite_micro import runtime
runtime.Interpreter.from_file(sys.argv[2], custom_op_registerers=names, arena_size=1 << 20).print_allocations()
"""


ARENAS = [("mixed", "generated"), ("patches", "generated"), ("callback", "generated"), ("random", "portable")]
ARENAS += [("morph", "generated"), ("morph", "portable")]


@pytest.mark.parametrize(("name", "kind"), ARENAS)
def test_tflm_s_arena_is_the_planned_one(name: str, kind: str, plugin: Path, tmp_path: Path) -> None:
    converted = getattr(cases.case(name), kind)()
    placed = arena.plan(converted.graph, converted.needs)
    model = tmp_path / "model.tflite"
    model.write_bytes(write_graph(converted.graph, metadata=placed.metadata()))
    command = [sys.executable, "-c", _PROGRAM, str(plugin), str(model)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    found = _HEAD.search(done.stderr + done.stdout)
    assert found is not None and int(found[1]) == placed.size


def test_the_arena_is_as_small_as_that_of_the_firmware() -> None:
    """Up to the coarser alignment; results in place included."""
    for name in ("int8", "mixed", "patches", "callback"):
        case = cases.case(name)
        converted = case.generated()
        ours = arena.plan(converted.graph, converted.needs).size
        assert ours <= case.compiled().memory.arena_bytes * 1.02 + 256


_SWITCHING = """
import ctypes, sys
import numpy as np
from rqdkm.models.oracle_worker import load_plugin
names = load_plugin(sys.argv[1])
from tflite_micro import runtime
library = ctypes.CDLL(sys.argv[1])
interpreter = runtime.Interpreter.from_file(sys.argv[2], custom_op_registerers=names, arena_size=1 << 20)
frames, kernels = np.load(sys.argv[3]), [int(k) for k in sys.argv[4].split(",")]
head = (ctypes.c_int64 * 16)()  # a rqdkm_morph: dispatch, context, then kernels, safe, selected
library.rqdkm_set_morph(head)
results = []
for frame, kernel in zip(frames, kernels):
    ctypes.cast(head, ctypes.POINTER(ctypes.c_int32))[6] = kernel
    interpreter.set_input(frame[None], 0)
    interpreter.invoke()
    results.append(np.array(interpreter.get_output(0)))
np.save(sys.argv[3], np.stack(results))
"""


@pytest.mark.parametrize("kind", ["generated", "portable"])
@pytest.mark.parametrize("name", ["morph", "morph file"])
def test_kernels_are_switched_between_frames_of_one_interpreter(
    name: str, kind: str, plugin: Path, tmp_path: Path
) -> None:
    """Every kernel after every other, each frame as the firmware with that kernel fixed computes it."""
    case = cases.case(name)
    converted = getattr(case, kind)()
    assert sum(operator.op == "RQDKM_MORPH_CONV_2D" for operator in converted.graph.operators) == 2
    placed = arena.plan(converted.graph, converted.needs)
    model, data = tmp_path / "model.tflite", tmp_path / "frames.npy"
    model.write_bytes(write_graph(converted.graph, metadata=placed.metadata()))
    kernels = [k for a in range(5) for b in range(5) for k in (a, b)]
    frames = np.random.default_rng(8).integers(-128, 128, (len(kernels), *case.inputs()[0].shape[1:])).astype(np.int8)
    np.save(data, frames)
    command = [sys.executable, "-c", _SWITCHING, str(plugin), str(model), str(data), ",".join(map(str, kernels))]
    subprocess.run(command, capture_output=True, text=True, check=True)
    found, quantized = np.load(data), case.compiled().quantized
    for kernel in range(5):
        of_kernel = np.array(kernels) == kernel
        (wanted,) = reference.run_function(FixKernel(kernel)(quantized)["main"], [frames[of_kernel]])
        assert np.array_equal(flat(found[of_kernel]), flat(wanted)), kernel
