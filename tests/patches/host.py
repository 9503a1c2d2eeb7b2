"""Patch stages on the host, under AddressSanitizer and UBSan: many in one program, memory of exactly the stated size.

As :mod:`tests.kernels.harness` does it for single calls; a stage has functions of its own, and may ask for its input.
"""

from __future__ import annotations

import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import rqdkm_tvm.patches.kernel  # noqa: F401  (registers the stage's kernel)
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.registry import Config
from rqdkm_tvm.layer import KernelCall, Layer
from rqdkm_tvm.patches.stage import Stage
from tests.kernels import harness
from tests.kernels.random_layers import Array
from tests.patches.stages import stage_layer

_QUICK = ("-std=gnu99", "-O0", "-w")
FLAGS = ("-std=gnu99", "-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all", *harness.WARNINGS)


@dataclass(frozen=True)
class Case:
    """A stage in one of its configurations, and frames (n, H, W, C)."""

    layer: Layer
    config: Config
    frames: Array

    @property
    def stage(self) -> Stage:
        assert self.layer.stage is not None
        return self.layer.stage

    def __str__(self) -> str:
        plan, layers = self.stage.plan, ", ".join(node.layer.name for node in self.stage.nodes)
        way = f"{plan.grid[0]}x{plan.grid[1]} {plan.halo} {plan.input} {len(plan.branches)} branches"
        return f"{way} {dict(self.config)} over {self.stage.frame.shape}: {layers}"


@dataclass(frozen=True)
class Result:
    """Outputs (n, H, W, C), and of the first frame what was asked for: (row, offset, rows, bytes)."""

    outputs: Array
    fetched: list[tuple[int, int, int, int]]


def cases_of(stage: Stage, frames: Array, *, most: int = 3) -> list[Case]:
    """A case for each configuration, at most ``most``: the fastest, the smallest, and some between."""
    layer = stage_layer(stage)
    kernel = registry.get("patch_stage")
    assert kernel.reject(layer) is None, kernel.reject(layer)
    found = kernel.configs(layer)
    assert found
    if len(found) > most:
        found = [found[round(i * (len(found) - 1) / (most - 1))] for i in range(most)]
    return [Case(layer, config, frames) for config in found]


def lowered(case: Case) -> KernelCall:
    """What the exporter writes for it."""
    return registry.get("patch_stage").lower(case.layer, case.config)


def run(cases: Sequence[Case], *, sanitize: bool = True) -> list[Result]:
    """Results of every case.

    Args:
        sanitize: off for large numbers of stages, which then take a quarter of the time.

    Raises:
        AssertionError: a sanitizer found something, a stage returned an error, or a size is not the one stated.
    """
    kernel = registry.get("patch_stage")
    calls = [lowered(case) for case in cases]
    for case, call in zip(cases, calls, strict=True):
        assert call.scratch_bytes == kernel.scratch_bytes(case.layer, case.config), str(case)
        assert sum(c.nbytes for c in call.constants) == kernel.constant_bytes(case.layer, case.config), str(case)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "stages.c").write_text(_program(calls))
        (root / "cases.bin").write_bytes(b"".join(map(_case_data, cases, calls)))
        _compile(root / "stages.c", root / "stages", sanitize)
        done = subprocess.run(
            [root / "stages", root / "cases.bin", root / "results.bin"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            finished = done.stderr.count(" done\n")
            raise AssertionError(f"{cases[min(finished, len(cases) - 1)]}:\n{done.stderr[-4000:]}")
        return _results(cases, (root / "results.bin").read_bytes())


def check(cases: Sequence[Case], expected: Sequence[Array]) -> list[Result]:
    """Run the cases and fail, naming the first differing one, unless every output byte is as expected."""
    found = run(cases)
    for case, result, want in zip(cases, found, expected, strict=True):
        different = np.argwhere(result.outputs != want)
        assert len(different) == 0, (
            f"{case}: {len(different)} of {want.size} outputs differ, first at {different[0].tolist()}: "
            f"{result.outputs[tuple(different[0])]} instead of {want[tuple(different[0])]}"
        )
    return found


# ---- generated C


def _compile(source: Path, program: Path, sanitize: bool) -> None:
    root = harness.tflm_ops_dir()
    include = ("-I", str(root / "include"), "-I", str(root / "src"))
    library = harness.host_library() if sanitize else harness.host_library(("-std=gnu99", "-O2"))
    command = ["cc", *(FLAGS if sanitize else _QUICK), *include, str(source), str(library), "-lm", "-o", str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


def _program(calls: Sequence[KernelCall]) -> str:
    includes = sorted({include for call in calls for include in call.includes})
    text = _SHARED + "".join(f'#include "{include}"\n' for include in ("stdio.h", "stdlib.h", *includes))
    runners = []
    for index, call in enumerate(calls):
        own = re.sub(r"\brqdkm_patch_(part|program)_", f"s{index}_\\1_", call.prelude)
        body = re.sub(r"\brqdkm_patch_program_", f"s{index}_program_", call.body)
        names = ["in0", *(f"c{i}" for i in range(len(call.constants)))]
        parameters = ", ".join(f"const void *{name}" for name in names)
        text += f"{own}static int32_t stage_{index}({parameters}, void *out, void *scratch) {{\n"
        text += f"{'' if call.scratch_bytes else '  (void)scratch;'}{body}}}\n"
        arguments = ", ".join(["in", *(f"b[{i}]" for i in range(len(call.constants)))])
        runners.append(f"    case {index}: return stage_{index}({arguments}, out, scratch);\n")
    text += f"#define COUNT {len(calls)}u\n#define CONSTANTS {max(1, *(len(call.constants) for call in calls), 1)}u\n"
    call_text = "static int32_t call(uint32_t index, const void *in, void **b, void *out, void *scratch) {\n"
    call_text += f"  (void)b;\n  switch (index) {{\n{''.join(runners)}    default: return -99;\n  }}\n}}\n"
    return text + call_text + _MAIN


# kernels that are inlined on the chip are functions here: hundreds of parts of layers would take minutes to compile
_SHARED = """\
#include "rqdkm/arch.h"
#undef RQDKM_INLINE
#define RQDKM_INLINE static __attribute__((noinline, unused))
"""

# cases file, per case: frames, bytes of a frame, bytes of a row of it, whether the stage asks for it, output bytes,
# scratch bytes, constants; then each constant as size and bytes; then the frames.
# results file, per case: the outputs of every frame; what was asked for of the first one as count and four words each
_MAIN = r"""
static uint32_t word(FILE *f) {
  uint32_t v = 0;
  if (fread(&v, 4, 1, f) != 1) exit(90);
  return v;
}

static struct {
  const int8_t *frame;
  uint32_t row_bytes;
  int32_t asked[4096][4];
  uint32_t count;
} camera;

static int32_t hand_over(void *context, int32_t row, int32_t offset, int32_t rows, int32_t bytes, void *to) {
  if (context != &camera || camera.count >= 4096) return -98;
  const int32_t asked[4] = {row, offset, rows, bytes};
  memcpy(camera.asked[camera.count++], asked, sizeof asked);
  if (rows <= 0 || bytes <= 0 || offset < 0 || row < 0) return -97;
  if ((uint32_t)(offset + bytes) > camera.row_bytes) return -96;
  for (int32_t i = 0; i < rows; i++)
    memcpy((int8_t *)to + i * bytes, camera.frame + (uint32_t)(row + i) * camera.row_bytes + offset, (size_t)bytes);
  return 0;
}

int main(int argc, char **argv) {
  FILE *cases = fopen(argc > 1 ? argv[1] : "", "rb"), *results = fopen(argc > 2 ? argv[2] : "", "wb");
  if (cases == 0 || results == 0) return 91;
  rqdkm_set_input(hand_over, &camera);
  for (uint32_t index = 0; index < COUNT; index++) {
    const uint32_t frames = word(cases), in_bytes = word(cases), row_bytes = word(cases), asks = word(cases);
    const uint32_t out_bytes = word(cases), scratch_bytes = word(cases), constants = word(cases);
    void *b[CONSTANTS] = {0};
    if (constants > CONSTANTS) return 95;
    for (uint32_t i = 0; i < constants; i++) {
      const uint32_t size = word(cases);
      b[i] = malloc(size);
      if (fread(b[i], 1, size, cases) != size) return 92;
    }
    uint32_t asked_first = 0;
    for (uint32_t frame = 0; frame < frames; frame++) {
      void *in = malloc(in_bytes), *out = malloc(out_bytes), *scratch = malloc(scratch_bytes);
      if (fread(in, 1, in_bytes, cases) != in_bytes) return 92;
      memset(out, 0x5a, out_bytes);
      memset(scratch, 0xa5, scratch_bytes);
      camera.frame = in;
      camera.row_bytes = row_bytes;
      if (frame != 0) camera.count = asked_first; else camera.count = 0;
      const int32_t status = call(index, asks ? 0 : in, b, out, scratch);
      if (status != 0) {
        fprintf(stderr, "case %u returned %d\n", (unsigned)index, (int)status);
        return 93;
      }
      if (frame == 0) asked_first = camera.count;
      if (fwrite(out, 1, out_bytes, results) != out_bytes) return 94;
      free(in);
      free(out);
      free(scratch);
    }
    fwrite(&asked_first, 4, 1, results);
    fwrite(camera.asked, 16, asked_first, results);
    fprintf(stderr, "case %u done\n", (unsigned)index);
    for (uint32_t i = 0; i < constants; i++) free(b[i]);
  }
  return fclose(results) != 0;
}
"""


def _case_data(case: Case, call: KernelCall) -> bytes:
    frame, result = case.stage.frame, case.layer.output
    row = frame.shape[2] * frame.shape[3]
    asks = case.stage.plan.input == "callback"
    head = (len(case.frames), frame.size, row, asks, result.size, call.scratch_bytes, len(call.constants))
    data = [struct.pack("<7I", *head)]
    for constant in call.constants:
        raw = np.ascontiguousarray(constant).tobytes()
        data += [struct.pack("<I", len(raw)), raw]
    return b"".join([*data, np.ascontiguousarray(case.frames).tobytes()])


def _results(cases: Sequence[Case], raw: bytes) -> list[Result]:
    found, start = [], 0
    for case in cases:
        shape = (len(case.frames), *case.layer.output.shape[1:])
        size = int(np.prod(shape))
        outputs = np.frombuffer(raw, np.int8, size, start).reshape(shape)
        start += size
        (count,) = struct.unpack_from("<I", raw, start)
        asked = np.frombuffer(raw, np.int32, 4 * count, start + 4).reshape(count, 4)
        start += 4 + 16 * count
        found.append(Result(outputs, [(int(a), int(b), int(c), int(d)) for a, b, c, d in asked]))
    assert start == len(raw)
    return found
