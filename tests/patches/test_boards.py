"""A patched model as firmware: the bytes of the host on both emulators, and a reader that is missing or fails."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rqdkm import judge
from rqdkm.board import run as board_run
from rqdkm.export import host, project
from rqdkm.models import reference
from rqdkm_tvm.compile import CompiledModel, compile_model
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.plan_patches import Outliers, PatchPlan
from tests.kernels import harness
from tests.patches import networks, stages
from tests.patches.stages import INPUTS

SAMPLES = 3


def compiled(input_: str) -> CompiledModel:
    """Kept lines, two branches; with a frame in memory the chip looks for outliers."""
    mod = networks.small()
    split = networks.legal(mod)["conv2d.2"]
    layers = {node.layer.name: node.layer for node in split.nodes}
    branch = {"conv2d": stages.format_of(layers["conv2d"], 4), "add": stages.format_of(layers["add"], 2)}
    outliers = Outliers(-126, 126, 8) if input_ == "frame" else None
    assignment = ((0, 1), (1, 1), (1, 0))
    plan = PatchPlan(split.last, (3, 2), "lines", input_, ({}, branch), assignment, outliers)  # type: ignore[arg-type]
    return compile_model(mod, plan=Plan(patches=plan))


def frames() -> np.ndarray:
    rng = np.random.default_rng(3)
    found = rng.integers(-128, 128, (SAMPLES, 16, 16, 4)).astype(np.int8)
    found[1] //= 3
    return found


@pytest.fixture(scope="module", params=INPUTS)
def written(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[CompiledModel, Path]:
    model = compiled(request.param)
    return model, project.write_project(model, tmp_path_factory.mktemp("patched") / "p", name="patched").path


def expected(model: CompiledModel) -> np.ndarray:
    return reference.run_function(model.quantized["main"], [frames()])[0]


def test_the_host_computes_what_the_interpreter_says(written: tuple[CompiledModel, Path]) -> None:
    model, path = written
    wanted = expected(model)
    found = host.run(host.build_host_runner(path), [frames()])[0]
    assert np.array_equal(found.reshape(wanted.shape), wanted)
    assert len(np.unique(wanted)) > 5


@pytest.mark.slow
def test_both_emulators_compute_the_same_bytes(written: tuple[CompiledModel, Path]) -> None:
    model, path = written
    wanted = expected(model)
    elf = project.build(path)
    for board in ("virtual", "qemu"):
        ran = board_run.run_samples(elf, board, judge.by_sample([frames()]))
        found = np.stack([sample[0] for sample in ran.outputs])
        assert np.array_equal(found.reshape(wanted.shape), wanted), board
        assert ran.arena_bytes <= model.memory.arena_bytes, board


def test_a_frame_that_is_handed_over_lies_in_no_memory_of_the_model() -> None:
    framed, fetched = compiled("frame"), compiled("callback")
    tensors = [next(m for m in x.memory.moments if m.name == "patch_stage").tensors_bytes for x in (framed, fetched)]
    assert tensors[0] - tensors[1] == 16 * 16 * 4
    assert fetched.memory.arena_bytes < framed.memory.arena_bytes


# ---- whoever hands over the input

_READERS = r"""
#include <stdio.h>
#include "rqdkm/patches.h"
#include "rqdkm_model.h"
static int32_t calls, answer;
static int32_t reader(void *context, int32_t row, int32_t offset, int32_t rows, int32_t bytes, void *to) {
  (void)row, (void)offset;
  if (context != &calls) return -50;
  for (int32_t i = 0; i < rows * bytes; i++) ((int8_t *)to)[i] = 0;
  return ++calls == 3 ? answer : 0;
}
int main(void) {
  printf("%d ", (int)rqdkm_model_run()); /* no reader yet */
  rqdkm_set_input(reader, &calls);
  answer = -40;
  printf("%d ", (int)rqdkm_model_run()); /* the third region is missing */
  const int32_t asked = calls;
  printf("%d ", (int)rqdkm_model_run()); /* all is well again */
  rqdkm_set_input(0, 0);
  printf("%d %d\n", (int)rqdkm_model_run(), (int)asked);
  return 0;
}
"""


def test_no_reader_and_one_that_fails_are_statuses_of_the_run(tmp_path: Path) -> None:
    """Under sanitizers, with the project's own sources but the stand-in for a camera."""
    path = project.write_project(compiled("callback"), tmp_path / "p", name="patched").path
    (path / "model" / "frame.c").unlink()
    (path / "reader.c").write_text(_READERS)
    sources = [
        path / "reader.c",
        *sorted((path / "model").glob("*.c")),
        *(path / "tflm_ops" / "src" / "kernels").glob("*.c"),
    ]
    include = [path / "model", path / "model" / "tvm", path / "tflm_ops" / "include", path / "tflm_ops" / "src"]
    command: list[Any] = [
        "cc",
        *harness.FLAGS,
        "-w",
        *(f"-I{p}" for p in include),
        *sources,
        "-lm",
        "-o",
        path / "reader",
    ]
    built = subprocess.run([str(word) for word in command], capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr[-3000:]
    ran = subprocess.run([path / "reader"], capture_output=True, text=True, check=False)
    assert (ran.returncode, ran.stderr) == (0, "")
    none, failed, fine, again, asked = (int(word) for word in ran.stdout.split())
    assert none == again == _status("RQDKM_ERROR_ARGUMENT")
    assert (failed, fine) == (-40, 0)
    assert asked == 3  # nothing is asked for after a failure


def _status(name: str) -> int:
    text = (harness.tflm_ops_dir() / "include" / "rqdkm" / "types.h").read_text()
    return int(next(line for line in text.splitlines() if f"{name} =" in line).split("=")[1].split(",")[0])
