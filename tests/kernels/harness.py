"""Run kernel calls on the host, under AddressSanitizer and UBSan, and return every output byte.

:func:`run` takes :class:`Case` objects (a layer, one of its kernels with a configuration, input arrays), lowers them
through the registry exactly as the exporter does, writes one C wrapper per case, compiles them in one go with the
library, and returns the outputs. All buffers (inputs, constants, output, scratch) are heap blocks of the exact size, so
a byte read or written too far is an error; scratch and output hold garbage before the call.

To test a new operator, make :class:`~rqdkm_tvm.layer.Layer` objects for it and compare
``run(cases_for(layer, inputs))`` with your reference: ``one_op.reference_outputs`` (TFLite Micro's own kernels) or
numpy; :func:`check` does both steps. :func:`cases_for` gives every kernel and configuration that accepts the layer, the
plain C reference included, and once more in place where a kernel can. Nothing here knows operators or kernels by name.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import rqdkm_tvm.kernels  # noqa: F401  (registers all kernels)
from rqdkm_tvm import in_place
from rqdkm_tvm.kernels import bits
from rqdkm_tvm.kernels.registry import Config, Kernel, candidates
from rqdkm_tvm.layer import KernelCall, Layer
from rqdkm_tvm.sources import tflm_ops_dir

Array = npt.NDArray[Any]

FLAGS = ("-std=gnu99", "-O1", "-g", "-fsanitize=address,undefined,float-cast-overflow", "-fno-sanitize-recover=all")
WARNINGS = ("-Wall", "-Wextra", "-Wconversion", "-Werror")


@dataclass(frozen=True)
class Case:
    """One call of one kernel with one configuration."""

    layer: Layer
    inputs: tuple[Array, ...]
    kernel: Kernel
    config: Config

    def __str__(self) -> str:
        return f"{self.kernel.name} {dict(self.config)} on {self.layer.name or self.layer.op}"


def cases_for(layer: Layer, inputs: Sequence[Array], *, configs: int | None = None) -> list[Case]:
    """A case for every kernel and configuration that accepts ``layer``, references included.

    Args:
        configs: keep at most this many configurations per kernel: the first, the last, and evenly between.
    """
    found: list[Case] = []
    for kernel, group in itertools.groupby(
        sorted(candidates(layer), key=lambda item: item[0].name), key=lambda item: item[0]
    ):
        choices = [config for _, config in group]
        if configs is not None and len(choices) > configs:
            choices = [choices[round(i * (len(choices) - 1) / max(1, configs - 1))] for i in range(configs)]
        for config in choices:
            found.append(Case(layer, tuple(inputs), kernel, config))
            found += [
                Case(layer, tuple(inputs), kernel, {**config, in_place.CONFIG: operand})
                for operand in kernel.in_place(layer, config)
            ]
    return found


def run(cases: Sequence[Case], *, batch: int = 400) -> list[Array]:
    """Output array of every case, on the host.

    Raises:
        AssertionError: a sanitizer found something, a kernel returned an error, or the registry's scratch size does
            not match the call's.
    """
    outputs: list[Array] = []
    for start in range(0, len(cases), batch):
        outputs += _run_batch(cases[start : start + batch])
    return outputs


def check(cases: Sequence[Case], expected: Sequence[Array]) -> None:
    """Run the cases and fail, naming the first differing case, unless every output byte is as expected."""
    for case, got, want in zip(cases, run(cases), expected, strict=True):
        assert got.shape == want.shape, f"{case}: shape {got.shape}, expected {want.shape}"
        different = np.flatnonzero(got.ravel() != want.ravel())
        assert different.size == 0, (
            f"{case}: {different.size} of {got.size} outputs differ, first at {different[0]}: "
            f"{got.ravel()[different[0]]} instead of {want.ravel()[different[0]]}\n{case.layer}"
        )


# ---- generated C --------------------------------------------------------------------------------------------------


def wrapper(symbol: str, call: KernelCall, inputs: int) -> str:
    """The C function the exporter writes for a call: parameters in0.., c0.., out, scratch."""
    parameters = [f"const void *in{i}" for i in range(inputs)]
    parameters += [f"const void *c{i}" for i in range(len(call.constants))]
    parameters += ["void *out", *(["void *scratch"] if call.scratch_bytes else [])]
    return f"static int32_t {symbol}({', '.join(parameters)}) {{\n{call.body}}}\n"


def program(calls: Sequence[tuple[Case, KernelCall]]) -> str:
    """C program that runs the calls of a cases file (:func:`case_data`) and writes their outputs to a results file."""
    includes = sorted({include for _, call in calls for include in call.includes})
    text = "".join(f'#include "{include}"\n' for include in ("stdint.h", "stdio.h", "stdlib.h", "string.h", *includes))
    runners = []
    for index, (case, call) in enumerate(calls):
        inputs = len(case.inputs)
        text += wrapper(f"call_{index}", call, inputs)
        arguments = [f"b[{i}]" for i in range(inputs + len(call.constants))]
        arguments += ["out", *(["scratch"] if call.scratch_bytes else [])]
        runners.append(f"    case {index}: return call_{index}({', '.join(arguments)});\n")
    return (
        text
        + "static int32_t call(uint32_t index, void **b, void *out, void *scratch) {\n  (void)b;\n  (void)out;\n"
        + "  (void)scratch;\n  switch (index) {\n"
        + "".join(runners)
        + "    default: return -99;\n  }\n}\n"
        + _MAIN
    )


# cases file: count; per case: buffer count, output bytes, scratch bytes, the buffer that the output overwrites (or the
# buffer count), then each buffer as size and bytes
_MAIN = """
static uint32_t word(FILE *f) {
  uint32_t v = 0;
  if (fread(&v, 4, 1, f) != 1) exit(90);
  return v;
}

int main(int argc, char **argv) {
  FILE *cases = fopen(argc > 1 ? argv[1] : "", "rb"), *results = fopen(argc > 2 ? argv[2] : "", "wb");
  if (cases == 0 || results == 0) return 91;
  const uint32_t count = word(cases);
  for (uint32_t index = 0; index < count; index++) {
    const uint32_t buffers = word(cases), out_bytes = word(cases), scratch_bytes = word(cases);
    const uint32_t overwritten = word(cases);
    void *b[16] = {0}, *fresh = malloc(out_bytes), *scratch = malloc(scratch_bytes);
    for (uint32_t i = 0; i < buffers; i++) {
      const uint32_t size = word(cases);
      b[i] = malloc(size);
      if (fread(b[i], 1, size, cases) != size) return 92;
    }
    void *const out = overwritten < buffers ? b[overwritten] : fresh;
    memset(fresh, 0x5a, out_bytes);
    memset(scratch, 0xa5, scratch_bytes);
    const int32_t status = call(index, b, out, scratch);
    if (status != 0) {
      fprintf(stderr, "case %u returned %d\\n", (unsigned)index, (int)status);
      return 93;
    }
    fprintf(stderr, "case %u done\\n", (unsigned)index);
    if (fwrite(out, 1, out_bytes, results) != out_bytes) return 94;
    for (uint32_t i = 0; i < buffers; i++) free(b[i]);
    free(fresh);
    free(scratch);
  }
  return fclose(results) != 0;
}
"""


def case_data(calls: Sequence[tuple[Case, KernelCall]]) -> bytes:
    """The cases file of :func:`program`."""
    data = [struct.pack("<I", len(calls))]
    for case, call in calls:
        assert call.scratch_bytes == case.kernel.scratch_bytes(case.layer, case.config), str(case)
        inputs = [bits.pack(array, t.bits) for array, t in zip(case.inputs, case.layer.inputs, strict=True)]
        buffers = [np.ascontiguousarray(array).tobytes() for array in (*inputs, *call.constants)]
        stored = case.layer.stored
        output_bytes = stored.size * np.dtype(stored.dtype).itemsize * stored.bits // 8
        operand = in_place.operand_of(case.config)
        overwritten = len(buffers) if operand is None else operand
        data.append(struct.pack("<IIII", len(buffers), output_bytes, call.scratch_bytes, overwritten))
        data += [part for buffer in buffers for part in (struct.pack("<I", len(buffer)), buffer)]
    return b"".join(data)


def outputs_of(cases: Sequence[Case], raw: bytes) -> list[Array]:
    """The arrays in a results file of :func:`program`."""
    outputs: list[Array] = []
    offset = 0
    for case in cases:
        output = case.layer.stored
        values = np.frombuffer(raw, output.dtype, output.size * output.bits // 8, offset)
        outputs.append(bits.unpack(values, output.bits).reshape(output.shape))
        offset += values.nbytes
    return outputs


def _run_batch(cases: Sequence[Case]) -> list[Array]:
    calls = [(case, case.kernel.lower(case.layer, case.config)) for case in cases]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "calls.c").write_text(program(calls))
        (root / "cases.bin").write_bytes(case_data(calls))
        compile_host([root / "calls.c"], root / "calls")
        result = subprocess.run(
            [root / "calls", root / "cases.bin", root / "results.bin"], capture_output=True, text=True, check=False
        )
        if result.returncode != 0:
            finished = result.stderr.count(" done\n")
            raise AssertionError(f"{cases[min(finished, len(cases) - 1)]}:\n{result.stderr[-4000:]}")
        return outputs_of(cases, (root / "results.bin").read_bytes())


def compile_host(sources: Iterable[Path], program: Path, flags: Sequence[str] = FLAGS) -> None:
    """Compile and link C files with the host build of the kernel library."""
    include = ("-I", str(tflm_ops_dir() / "include"), "-I", str(tflm_ops_dir() / "src"))
    command = [
        "cc",
        *flags,
        *WARNINGS,
        *include,
        *map(str, sources),
        str(host_library(flags)),
        "-lm",
        "-o",
        str(program),
    ]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-4000:]


def host_library(flags: Sequence[str] = FLAGS) -> Path:
    """The kernel library built for the host with ``flags``; rebuilt when a source changes, shared by test processes."""
    return library("cc", "ar", (*flags, *WARNINGS))


def library(compiler: str, archiver: str, flags: Sequence[str]) -> Path:
    """The kernel library as an archive, built at most once for the same sources, compiler and flags."""
    root = tflm_ops_dir()
    sources = sorted((root / "src" / "kernels").glob("*.c"))
    inputs = [*sources, *sorted((root / "include").rglob("*.h")), *sorted((root / "src" / "kernels").glob("*.h"))]
    digest = hashlib.sha256(" ".join((compiler, *flags)).encode())
    for path in inputs:
        digest.update(path.read_bytes())
    folder = Path(tempfile.gettempdir()) / f"rqdkm-kernels-{os.getuid()}"
    archive = folder / f"{digest.hexdigest()[:16]}.a"
    if not archive.exists():
        folder.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as build:
            command = [compiler, *flags, "-I", str(root / "include"), "-I", str(root / "src"), "-c"]
            result = subprocess.run(
                [*command, *map(str, sources)], cwd=build, capture_output=True, text=True, check=False
            )
            assert result.returncode == 0, result.stderr[-4000:]
            objects = sorted(str(path) for path in Path(build).glob("*.o"))
            staged = Path(build) / "library.a"
            subprocess.run([archiver, "rcs", staged, *objects], check=True)
            staged.replace(archive)
    return archive
