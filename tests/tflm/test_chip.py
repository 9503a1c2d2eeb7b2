"""The operators as Cortex-M4 code: a stand-in for the interpreter on the virtual board and on QEMU."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rqdkm.board import run as board_run
from rqdkm.export import model_c, project
from rqdkm.export.library import kernel_sources
from rqdkm.models import reference
from rqdkm.models.graph import CUSTOM, Graph
from rqdkm.tflm import arena, generated, host
from rqdkm.tflm.nodes import TYPES, Need, Nodes
from rqdkm_tvm.sources import tflm_ops_dir
from tests.tflm import cases, paths

SYMBOL = "rqdkm_layers_chip"
UNUSED = ("fully_connected", "mean", "mul", "pad", "table")  # operators that the model does not have
_PROJECT = """\
cmake_minimum_required(VERSION 3.20)
set(CMAKE_TOOLCHAIN_FILE {root}/boards/stm32f407/toolchain.cmake)
project(chip C CXX)
include({root}/boards/stm32f407/board.cmake)
rqdkm_add_firmware(firmware)
set_target_properties(firmware PROPERTIES CXX_STANDARD 17)
target_compile_options(firmware PRIVATE $<$<COMPILE_LANGUAGE:CXX>:-fno-rtti -fno-exceptions -fno-threadsafe-statics>)
target_compile_definitions(firmware PRIVATE RQDKM_LAYERS={symbol})
target_include_directories(firmware PRIVATE ${{CMAKE_CURRENT_SOURCE_DIR}} {root}/tflm {root}/tflm/interface)
target_sources(firmware PRIVATE {sources})
"""


def side_by_side(graphs: Sequence[Graph]) -> Graph:
    """One graph that runs all of them, one after the other."""
    tensors, operators, inputs, outputs = [], [], [], []
    for graph in graphs:
        shift = len(tensors)
        tensors += graph.tensors
        moved = [
            replace(op, inputs=tuple(i + shift for i in op.inputs), outputs=tuple(i + shift for i in op.outputs))
            for op in graph.operators
        ]
        operators += moved
        inputs += [i + shift for i in graph.inputs]
        outputs += [i + shift for i in graph.outputs]
    return Graph("chip", tuple(tensors), tuple(operators), tuple(inputs), tuple(outputs))


def tables(graph: Graph, needs: Sequence[Need]) -> str:
    """nodes.h of chip.cc."""
    placed = arena.plan(graph, needs)
    text = '#pragma once\n#include <stdint.h>\n#include "rqdkm_tflm.h"\n'
    text += "struct TensorTable { uint32_t bytes; int type; const void *data; int32_t offset; };\n"
    text += "struct NodeTable { TFLMRegistration *(*registration)(); const int32_t *inputs, *outputs;"
    text += " const void *options; int option_bytes; };\n"
    rows = []
    for index, tensor in enumerate(graph.tensors):
        data = "nullptr"
        if tensor.data is not None:
            data = f"constant_{index}"
            raw = np.ascontiguousarray(tensor.data).tobytes()
            text += f"alignas(8) static const uint8_t {data}[] = {{{', '.join(map(str, raw))}}};\n"
        rows.append(f"{{{tensor.bytes}u, {TYPES[tensor.dtype]}, {data}, {placed.offsets[index]}}}")
    nodes = []
    for index, operator in enumerate(graph.operators):
        options = operator.attrs[CUSTOM]
        text += f"static const uint8_t options_{index}[] = {{{', '.join(map(str, options))}}};\n"
        for side in ("inputs", "outputs"):
            numbers = getattr(operator, side)
            text += f"static const int32_t {side}_{index}[] = {{{', '.join(map(str, (len(numbers), *numbers)))}}};\n"
        call = f"tflite::Register_{operator.op}"
        nodes.append(f"{{{call}, inputs_{index}, outputs_{index}, options_{index}, {len(options)}}}")
    text += f"static const TensorTable kTensors[] = {{{', '.join(rows)}}};\n"
    text += f"static const NodeTable kNodes[] = {{{', '.join(nodes)}}};\n"
    text += f"static const int kInputs[] = {{{', '.join(map(str, graph.inputs))}}};\n"
    text += f"static const int kOutputs[] = {{{', '.join(map(str, graph.outputs))}}};\n"
    text += f"constexpr int kTensorCount = {len(rows)}, kNodeCount = {len(nodes)};\n"
    scratch = max(need.scratch for need in needs)
    return f"{text}constexpr uint32_t kArenaBytes = {placed.size}, kScratchBytes = {scratch};\n"


def interface(graph: Graph) -> str:
    """The rest of rqdkm_model.h, in C."""
    text = '#include "rqdkm_model.h"\nconst char rqdkm_model_name[] = "chip";\nconst uint32_t rqdkm_model_id = 1;\n'
    for side in ("input", "output"):
        rows = []
        for index in getattr(graph, f"{side}s"):
            tensor = graph.tensors[index]
            shape = ", ".join(map(str, tensor.shape))
            rows.append(f'{{"{side}", {tensor.bytes}u, 1.0f, 0, 0, {len(tensor.shape)}, {{{shape}}}}}')
        text += f"const rqdkm_tensor_info rqdkm_model_{side}s[] = {{{', '.join(rows)}}};\n"
        text += f"const uint32_t rqdkm_model_{side}_count = {len(rows)};\n"
    return f"{text}const uint32_t rqdkm_model_layer_count = 0;\n"


def morphing() -> tuple[paths.Model, list[Need]]:
    """The morphing layers of the portable model, and what they need."""
    whole = paths.model("portable")
    chosen = [i for i, path in enumerate(whole.paths) if path.layer.op == "morph_conv2d"]
    nodes = Nodes(whole.nodes.tensors, [whole.nodes.operators[i] for i in chosen])
    return paths.Model(nodes, [whole.paths[i] for i in chosen], {}), [whole.nodes.needs[i] for i in chosen]


@pytest.fixture(scope="module")
def firmware(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The random model, generated and portable, and portable morphing layers, in one image."""
    folder, root = tmp_path_factory.mktemp("chip"), tflm_ops_dir()
    case = cases.case("random")
    both = (case.generated(), case.portable())
    morphs, needs = morphing()
    graph = side_by_side([*(one.graph for one in both), morphs.graph])
    layers = generated.source(both[0].codes, "the tests", SYMBOL)
    files = {
        "rqdkm_layers.c": layers,
        "nodes.h": tables(graph, [*(need for one in both for need in one.needs), *needs]),
        "interface.c": interface(graph),
        "rqdkm_model.h": model_c.HEADER,
    }
    for name, text in files.items():
        (folder / name).write_text(text)
    operators = [path for path in host.operator_sources() if path.stem not in UNUSED]
    kernels = kernel_sources(root, [layers, *(path.read_text() for path in operators)])
    sources = [str(root / kernel) for kernel in kernels] + [str(path) for path in operators]
    sources += ["rqdkm_layers.c", "interface.c", str(Path(__file__).parent / "chip.cc")]
    listed = _PROJECT.format(root=root, symbol=SYMBOL, sources=" ".join(sources))
    (folder / "CMakeLists.txt").write_text(listed)
    return project.build(folder)


@pytest.mark.parametrize("board", ["virtual", "qemu"])
def test_operators_give_the_same_bytes_on_the_chip(firmware: Path, board: str) -> None:
    case = cases.case("random")
    inputs = case.inputs()
    morphs, _ = morphing()
    count = len(morphs.inputs[0])
    samples = [[inputs[0][[i]], inputs[0][[i]], *(x[[i]] for x in morphs.inputs)] for i in range(count)]
    ran = board_run.run_samples(firmware, board, samples)
    (expected,) = reference.run_function(case.compiled().quantized["main"], inputs)
    for sample, outputs in enumerate(ran.outputs):
        for found in outputs[:2]:  # generated, portable
            assert np.array_equal(found.reshape(-1), expected[sample].reshape(-1))
        for found, path in zip(outputs[2:], morphs.paths, strict=True):
            assert np.array_equal(found.reshape(-1), path.expected[sample].reshape(-1)), path.name


def test_the_image_is_of_the_toolchain_that_firmware_has(firmware: Path) -> None:
    listed = subprocess.run(["arm-none-eabi-nm", "-C", str(firmware)], capture_output=True, text=True, check=True)
    assert "rqdkm_conv2d_s8_gemm" in listed.stdout
    assert "malloc" not in listed.stdout
