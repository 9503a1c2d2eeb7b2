"""Measure kernels one by one: every candidate for every given layer, in one firmware image per batch.

An image is a "model" (rqdkm_model.h) whose layers are the candidates: its run function calls each of them on the
layer's input and counts the cycles, and its output holds a CRC-32 of every result. So it runs wherever firmware runs.
The figures are of the kernel alone: its input and output lie in RAM, its constants in flash. A configuration that says
so ("in_place") has the operand's own buffer as its output.
"""

from __future__ import annotations

import itertools
import logging
import subprocess
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import rqdkm_tvm.kernels  # noqa: F401  (registers all kernels)
from rqdkm.board.run import RunOptions, run_samples
from rqdkm.export.model_c import HEADER
from rqdkm_tvm import in_place
from rqdkm_tvm.errors import ToolError
from rqdkm_tvm.kernels import bits
from rqdkm_tvm.kernels.registry import Config, Kernel, candidates
from rqdkm_tvm.layer import KernelCall, Layer, Tensor
from rqdkm_tvm.sources import tflm_ops_dir

log = logging.getLogger(__name__)

NDArray = npt.NDArray[Any]

#: What one image may hold: flash for constants and inputs; RAM for the largest input, output and scratch.
FLASH_BYTES = 700 * 1024
RAM_BYTES = 118 * 1024
CANDIDATES_PER_IMAGE = 200


@dataclass(frozen=True)
class Candidate:
    """One way to compute one layer, on given int8 inputs."""

    layer: Layer
    inputs: tuple[NDArray, ...]
    kernel: Kernel
    config: Config

    def call(self) -> KernelCall:
        return self.kernel.lower(self.layer, self.config)


@dataclass(frozen=True)
class Measurement:
    """What one candidate cost.

    Args:
        cycles: of one call, modelled on the virtual board; None where the board cannot count.
        estimate: what the kernel's own cost model expected.
        crc: CRC-32 of the output bytes as they are stored.
    """

    candidate: Candidate
    cycles: int | None
    estimate: float
    macs: int
    scratch_bytes: int
    constant_bytes: int
    crc: int

    @property
    def cycles_per_mac(self) -> float | None:
        return self.cycles / self.macs if self.cycles is not None and self.macs else None


def candidates_for(
    layer: Layer,
    inputs: Sequence[NDArray],
    *,
    configs: int = 1,
    references: bool = False,
    accept: Callable[[Kernel, Config], bool] = lambda _kernel, _config: True,
) -> list[Candidate]:
    """The fastest expected ``configs`` configurations of every kernel that accepts ``layer`` and fits one image."""
    taken: dict[str, int] = {}
    found = []
    for kernel, config in candidates(layer):
        if (kernel.reference and not references) or not accept(kernel, config):
            continue
        if taken.get(kernel.name, 0) >= configs or _ram(layer, kernel.scratch_bytes(layer, config)) > RAM_BYTES:
            continue
        taken[kernel.name] = taken.get(kernel.name, 0) + 1
        found.append(Candidate(layer, tuple(inputs), kernel, config))
    return found


def measure(
    chosen: Sequence[Candidate],
    *,
    board: str = "virtual",
    options: RunOptions | None = None,
    flags: Sequence[str] = (),
    progress: Callable[[str], None] = lambda _line: None,
) -> list[Measurement]:
    """Build, run and read out; in the order given.

    Args:
        flags: extra compiler flags, e.g. ``-DRQDKM_PLAIN_BLOCKS`` for the C version of the inner loops.

    Raises:
        ToolError: the image does not build.
        BoardError: the board does not answer, or a kernel fails.
    """
    results: list[Measurement] = []
    for number, batch in enumerate(_batches(chosen), 1):
        progress(f"kernel bench: image {number}, {len(results)} of {len(chosen)} measured")
        with tempfile.TemporaryDirectory(prefix="rqdkm-kernelbench-") as folder:
            elf = _build(Path(folder), batch, flags)
            result = run_samples(elf, board, [[np.zeros((1, 4), np.int8)]], options)
            crcs = np.ascontiguousarray(result.outputs[0][0]).view(np.uint32).ravel()
            cycles = result.layer_cycles if result.cycles is not None else None
        for index, (candidate, call) in enumerate(batch):
            results.append(
                Measurement(
                    candidate,
                    None if cycles is None else round(cycles[index]),
                    candidate.kernel.estimate_cycles(candidate.layer, candidate.config),
                    call.macs,
                    call.scratch_bytes,
                    sum(array.nbytes for array in call.constants),
                    int(crcs[index]),
                )
            )
    return results


def table(results: Iterable[Measurement]) -> str:
    """Markdown: one line per measurement, layers in order, fastest first."""
    lines = [
        "| layer | kernel | configuration | scratch | cycles | cycles/MAC |",
        "|---|---|---|---:|---:|---:|",
    ]
    groups: dict[int, list[Measurement]] = {}
    for m in results:
        groups.setdefault(id(m.candidate.layer), []).append(m)
    for group in groups.values():
        for m in sorted(group, key=lambda item: item.cycles or 0):
            per_mac = "" if m.cycles_per_mac is None else f"{m.cycles_per_mac:.3f}"
            config = ", ".join(f"{key} {value}" for key, value in m.candidate.config.items())
            lines.append(
                f"| {m.candidate.layer.name} | {m.candidate.kernel.name} | {config} | {m.scratch_bytes} "
                f"| {m.cycles if m.cycles is not None else ''} | {per_mac} |"
            )
    return "\n".join(lines) + "\n"


# ---- the image ----------------------------------------------------------------------------------------------

_Batch = list[tuple[Candidate, KernelCall]]


def _ram(layer: Layer, scratch_bytes: int) -> int:
    return sum(_bytes(tensor) for tensor in (*layer.inputs, layer.stored)) + scratch_bytes + 64


def _bytes(tensor: Tensor) -> int:
    return tensor.size * int(np.dtype(tensor.dtype).itemsize) * tensor.bits // 8


def _stored_inputs(candidate: Candidate) -> list[NDArray]:
    return [bits.pack(array, t.bits) for array, t in zip(candidate.inputs, candidate.layer.inputs, strict=True)]


@dataclass(frozen=True)
class Place:
    """Offsets of what a candidate has in RAM."""

    inputs: tuple[int, ...]
    output: int
    scratch: int


def placed(candidate: Candidate) -> Place:
    """Tensors one after another, the result over an operand where the configuration says so; scratch last."""
    sizes = [array.nbytes for array in _stored_inputs(candidate)]
    *inputs, end = (0, *itertools.accumulate(-(-size // 16) * 16 for size in sizes))
    operand = in_place.operand_of(candidate.config)
    if operand is not None:
        return Place(tuple(inputs), inputs[operand], end)
    return Place(tuple(inputs), end, end + -(-_bytes(candidate.layer.stored) // 16) * 16)


def _batches(chosen: Sequence[Candidate]) -> list[_Batch]:
    batches: list[_Batch] = []
    room = 0
    for candidate in chosen:
        call = candidate.call()
        size = sum(a.nbytes for a in (*call.constants, *candidate.inputs)) + 2048
        if not batches or room < size or len(batches[-1]) == CANDIDATES_PER_IMAGE:
            batches.append([])
            room = FLASH_BYTES
        batches[-1].append((candidate, call))
        room -= size
    return batches


def _build(folder: Path, batch: _Batch, flags: Sequence[str]) -> Path:
    """Write the project, compile it with CMake, return the ELF."""
    data = _Data(folder)
    (folder / "rqdkm_model.h").write_text(HEADER)
    (folder / "rqdkm_model.c").write_text(_model(batch, data))
    (folder / "data.S").write_text(data.text())
    library = tflm_ops_dir()
    (folder / "CMakeLists.txt").write_text(
        "cmake_minimum_required(VERSION 3.20)\n"
        f'set(CMAKE_TOOLCHAIN_FILE "{library}/boards/stm32f407/toolchain.cmake")\n'
        "project(kernelbench C ASM)\n"
        "set(RQDKM_PROFILE_LAYERS ON)\n"
        f'include("{library}/boards/stm32f407/board.cmake")\n'
        "rqdkm_add_firmware(firmware)\n"
        f'file(GLOB kernels "{library}/src/kernels/*.c" "{library}/src/morph/*.c")\n'
        "target_sources(firmware PRIVATE rqdkm_model.c data.S ${kernels})\n"
        "target_include_directories(firmware PRIVATE ${CMAKE_CURRENT_SOURCE_DIR})\n"
        f"target_compile_options(firmware PRIVATE {' '.join(flags)})\n"
    )
    for command in (["cmake", "-S", ".", "-B", "build"], ["cmake", "--build", "build", "-j2"]):
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise ToolError("the kernel bench does not build", where=" ".join(command), hint=done.stderr[-3000:])
    return folder / "build" / "firmware.elf"


class _Data:
    """Arrays in flash, each content once."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._symbols: dict[bytes, str] = {}

    def symbol(self, array: NDArray) -> str:
        content = np.ascontiguousarray(array).tobytes()
        if content not in self._symbols:
            symbol = f"data_{len(self._symbols)}"
            (self._folder / f"{symbol}.bin").write_bytes(content)
            self._symbols[content] = symbol
        return self._symbols[content]

    def text(self) -> str:
        lines = ['.section .rodata.tvm, "a"']
        for symbol in self._symbols.values():
            lines.append(f'.balign 16\n.global {symbol}\n{symbol}: .incbin "{self._folder / symbol}.bin"')
        return "\n".join(lines) + "\n"

    def declarations(self) -> str:
        return "".join(f"extern const uint8_t {symbol}[];\n" for symbol in self._symbols.values())


def _model(batch: _Batch, data: _Data) -> str:
    functions, cases = "", ""
    for index, (candidate, call) in enumerate(batch):
        inputs = range(len(candidate.inputs))
        parameters = [f"const void *in{i}" for i in inputs]
        parameters += [f"const void *c{i}" for i in range(len(call.constants))]
        parameters += ["void *out", *(["void *scratch"] if call.scratch_bytes else [])]
        functions += (
            f"static __attribute__((noinline)) int32_t call_{index}({', '.join(parameters)}) {{\n{call.body}}}\n"
        )
        stored, place = _stored_inputs(candidate), placed(candidate)
        copies = "".join(
            f"      memcpy(ram + {offset}, {data.symbol(array)}, {array.nbytes});\n"
            for offset, array in zip(place.inputs, stored, strict=True)
        )
        arguments = [f"ram + {offset}" for offset in place.inputs]
        out, size = place.output, _bytes(candidate.layer.stored)
        arguments += [data.symbol(array) for array in call.constants]
        arguments += [f"ram + {out}", *([f"ram + {place.scratch}"] if call.scratch_bytes else [])]
        cases += (
            f"    case {index}:\n{copies}      start = rqdkm_port_cycles();\n"
            f"      status = call_{index}({', '.join(arguments)});\n"
            f"      rqdkm_layer_cycles[{index}] = rqdkm_port_cycles() - start;\n"
            f"      crcs[{index}] = rqdkm_crc32(0, ram + {out}, {size});\n      break;\n"
        )
    ram = max(placed(candidate).scratch + call.scratch_bytes for candidate, call in batch)
    includes = sorted({include for _, call in batch for include in call.includes})
    count = len(batch)
    return (
        '#include "rqdkm_model.h"\n#include <string.h>\n#include "port/crc32.h"\n#include "rqdkm/port.h"\n'
        + "".join(f'#include "{include}"\n' for include in includes)
        + data.declarations()
        + functions
        + 'const char rqdkm_model_name[] = "kernelbench";\nconst uint32_t rqdkm_model_id = 0;\n'
        + "const uint32_t rqdkm_model_input_count = 1, rqdkm_model_output_count = 1, "
        + f"rqdkm_model_layer_count = {count};\n"
        + 'const rqdkm_tensor_info rqdkm_model_inputs[] = {{"none", 4, 1.0f, 0, 0, 2, {1, 4}}};\n'
        + "const rqdkm_tensor_info rqdkm_model_outputs[] = "
        + f'{{{{"crc", {4 * count}, 1.0f, 0, 4, 2, {{1, {count}}}}}}};\n'
        + f'static uint8_t ram[{ram}] __attribute__((aligned(16), section(".workspace")));\n'
        + f"static uint8_t input[8] __attribute__((aligned(8)));\nstatic uint32_t crcs[{count}];\n"
        + f"uint32_t rqdkm_layer_cycles[{count}];\n"
        + "void *rqdkm_model_input(uint32_t index) { return index == 0 ? input : 0; }\n"
        + "const void *rqdkm_model_output(uint32_t index) { return index == 0 ? crcs : 0; }\n"
        + "uint8_t *rqdkm_model_arena(void) { return ram; }\n"
        + f"uint32_t rqdkm_model_arena_bytes(void) {{ return {ram}; }}\n"
        + "static int32_t run(uint32_t index) {\n  uint32_t start;\n  int32_t status = 0;\n  switch (index) {\n"
        + cases
        + "    default:\n      break;\n  }\n  return status;\n}\n"
        + "int32_t rqdkm_model_run(void) {\n"
        + f"  for (uint32_t i = 0; i < {count}; i++) {{\n    const int32_t status = run(i);\n"
        + "    if (status != 0) return status;\n  }\n  return 0;\n}\n"
    )
