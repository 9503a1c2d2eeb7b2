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
from tests.tflm import cases

PORTABLE = ("int8", "mixed", "random")


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
