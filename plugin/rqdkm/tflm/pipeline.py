"""The sequence of ``rqdkm tflm export``: load, plan, compile, write; and the check in TFLM's interpreter."""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm import __version__, budget, judge, morph_planning, pipeline, plan_files
from rqdkm.image import nothing_morphs
from rqdkm.models import oracle, reference
from rqdkm.models.graph import Graph
from rqdkm.models.load import LoadedModel
from rqdkm.models.tflite_write import write_graph
from rqdkm.options import DeployOptions
from rqdkm.patching import Patcher
from rqdkm.pipeline import BitWidths
from rqdkm.planning import partition
from rqdkm.tflm import arena, generated, host, portable, resolver
from rqdkm_tvm.assign import DEFAULT_PRICES, MEMORY_PRICES
from rqdkm_tvm.compile import CompiledModel, compile_model
from rqdkm_tvm.errors import FlashBudgetError, RqdkmError
from rqdkm_tvm.files import staged_directory
from rqdkm_tvm.graph import identifier
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.morph.gather import GatherMorphs
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.sites import IoTensor, read_io
from rqdkm_tvm.sources import tflm_ops_dir

Progress = Callable[[str], None]
Int8 = npt.NDArray[np.int8]

MODEL, LAYERS, DESCRIPTION = "model.tflite", "rqdkm_layers.c", "metadata.json"
HEADER, CMAKE = "rqdkm_ops.h", "rqdkm.cmake"
_REMEDY = "use a smaller input or model, or run the first layers in patches (--patch auto)"
SCHEMA, VERSION = "rqdkm.tflm", 1


@dataclass(frozen=True)
class Exported:
    """What ``export`` leaves behind.

    Args:
        arena_bytes: feature maps and scratch as TFLM places them; its own records come on top.
        compared: samples whose output bytes were those of the reference; 0: not checked.
    """

    path: Path
    model_bytes: int
    arena_bytes: int
    operators: tuple[str, ...]
    layers: int
    generated: bool
    compared: int = 0


@dataclass(frozen=True)
class _Made:
    converted: generated.Converted
    quantized: Any  # partitioned Relay of what is computed
    plan: Plan
    interface: tuple[list[IoTensor], list[IoTensor]]


def export(
    options: DeployOptions, *, portable_only: bool = False, check: bool = False, progress: Progress = lambda _text: None
) -> Exported:
    """Write the model for TFLM, its code and the operators' sources to ``options.out``, all of it or nothing.

    Args:
        options: as for a deployment; board and samples matter to ``check`` only.
        portable_only: parameters at run time, no generated code.
        check: build the operators for this computer and compare ``options.samples`` outputs with the reference.

    Raises:
        RqdkmError: whatever the user can put right; nothing is left behind then.
    """
    prepared = pipeline.prepare(options, progress)
    if options.morphs and not morph_planning.morphs(prepared.model):
        raise nothing_morphs(options)
    planned = pipeline.bit_widths(options, prepared.model, progress)
    options = pipeline.named(options, planned)
    make = _portable if portable_only else _generated
    made = make(options, prepared.model, planned, progress)
    name = prepared.model.name
    with staged_directory(options.out, replace=options.force) as staging:
        progress("export: writing")
        exported = _write(staging, made, name)
        plan_files.write(staging, made.plan, planned.parameters)
        if check:
            exported = dataclasses.replace(exported, compared=_check(staging, made, prepared.model, options, progress))
    return dataclasses.replace(exported, path=options.out)


def _portable(options: DeployOptions, model: LoadedModel, planned: BitWidths, progress: Progress) -> _Made:
    if options.patch != "off":
        raise RqdkmError("patch stages exist as generated code only", where="--patch", hint="leave out --portable")
    progress("compile: partitioning the graph into layers")
    plan = planned.plan or Plan()
    mod = GatherMorphs()(LowerMixedPrecision(plan, planned.parameters)(partition(model)))
    interface = read_io(mod["main"], list(model.output_names))
    if plan.patches is not None:
        raise RqdkmError(
            "its patch stage exists as generated code only",
            where=str(options.plan),
            hint="leave out --portable, or take the patches out: rqdkm plan patch --patch off",
        )
    return _Made(portable.convert(mod, model.name, interface), mod, plan, interface)


def _generated(options: DeployOptions, model: LoadedModel, planned: BitWidths, progress: Progress) -> _Made:
    compiled = _compiled(options, model, planned, progress)
    converted = generated.convert(compiled, model.name)
    return _Made(converted, compiled.quantized, compiled.plan, (list(compiled.inputs), list(compiled.outputs)))


def _compiled(options: DeployOptions, model: LoadedModel, planned: BitWidths, progress: Progress) -> CompiledModel:
    """As a deployment compiles it, before anything is linked: budgets leave room for the code around the model."""
    allowance, flash = budget.Ram(options.ram_bytes), budget.Flash(options.flash_bytes)
    patcher = Patcher(options, model, planned.plan, planned.parameters, lambda text: progress(f"patches: {text}"))
    try:
        with budget.explained(allowance, _REMEDY):
            return compile_model(
                model.module,
                plan=patcher.plan(allowance.room, flash.constants),
                parameters=planned.parameters,
                ram_budget=allowance.arena,
                flash_budget=flash.constants,
                kernel_set=options.kernel_set,
                prices=MEMORY_PRICES if options.plans_bits else DEFAULT_PRICES,
                output_names=list(model.output_names),
                progress=lambda text: progress(f"compile: {text}"),
            )
    except FlashBudgetError as error:
        raise budget.flash_error(error, flash) from error


# ---- files


def _write(out: Path, made: _Made, name: str) -> Exported:
    converted, base = made.converted, identifier(name)
    space, library, target = f"rqdkm_{base}", f"rqdkm_layers_{base}", f"rqdkm_{base}"
    placed = arena.plan(converted.graph, converted.needs)
    data = write_graph(converted.graph, f"written by rqdkm {__version__}", placed.metadata())
    (out / MODEL).write_bytes(data)
    if converted.codes:
        (out / LAYERS).write_text(generated.source(converted.codes, name, library))
    (out / HEADER).write_text(resolver.header(converted, name, space, library, placed.size))
    (out / CMAKE).write_text(resolver.cmake(name, target, [LAYERS] if converted.codes else []))
    copy_operators(out / "tflm_ops")
    operators = tuple(op for op, _ in resolver.operators(converted.graph))
    exported = Exported(out, len(data), placed.size, operators, len(converted.graph.operators), bool(converted.codes))
    (out / DESCRIPTION).write_text(json.dumps(_describe(made, name, exported), indent=2) + "\n")
    return exported


def copy_operators(target: Path) -> None:
    """The library's sources, for CMake's ``add_subdirectory``: kernels and operators, of the boards only flags."""
    root = tflm_ops_dir()
    target.mkdir()
    for folder in ("include", "src/kernels", "src/morph", "tflm"):
        shutil.copytree(root / folder, target / folder)
    flags = Path("boards/stm32f407/flags.cmake")
    (target / flags).parent.mkdir(parents=True)
    (target / "src" / "port").mkdir()
    for file in ("CMakeLists.txt", "src/port/crc32.c", "src/port/crc32.h", flags):
        shutil.copy(root / file, target / file)


def _describe(made: _Made, name: str, exported: Exported) -> dict[str, Any]:
    inputs, outputs = (
        [
            {
                "name": item.name,
                "shape": list(item.tensor.shape),
                "dtype": item.tensor.dtype,
                "scale": float(np.float32(item.tensor.scale)),
                "zero_point": item.tensor.zero_point,
                "quantized_by_host": item.stripped,
            }
            for item in side
        ]
        for side in made.interface
    )
    return {
        "schema": SCHEMA,
        "version": VERSION,
        "model_name": name,
        "generator": {"rqdkm": __version__},
        "inputs": inputs,
        "outputs": outputs,
        "arena_bytes": exported.arena_bytes,
        "model_bytes": exported.model_bytes,
        "generated_code": exported.generated,
        "operators": list(exported.operators),
        "input": "tensor" if made.converted.graph.inputs else "callback",
    }


# ---- check


def _check(staging: Path, made: _Made, model: LoadedModel, options: DeployOptions, progress: Progress) -> int:
    """Compare with TFLite's reference, or with the NumPy interpreter where a plan changed the network; the samples.

    Raises:
        RqdkmError: outputs differ.
    """
    progress("check: building the operators for this computer")
    layers = staging / LAYERS
    build = staging / "build-check"
    symbol = f"rqdkm_layers_{identifier(model.name)}"
    try:
        plugin = host.build_plugin(build, layers if layers.is_file() else None, symbol)
        progress("check: running TFLM's interpreter")
        inputs = judge.exactness_inputs(model, options.samples, options.seed)
        found = run(staging / MODEL, made.converted.graph, inputs, plugin)
    finally:
        shutil.rmtree(build, ignore_errors=True)
    if made.plan.is_mixed or not model.tflite:
        wanted = reference.run_function(made.quantized["main"], inputs)
    else:
        wanted = oracle.reference_outputs(model, inputs)
    different = sum(int(np.sum(a.reshape(-1) != b.reshape(-1))) for a, b in zip(found, wanted, strict=True))
    if different:
        raise RqdkmError(f"{different} output bytes differ from the reference: a bug of rqdkm", where="--check")
    return options.samples


def run(model: Path, graph: Graph, inputs: list[Int8], plugin: Path) -> list[Int8]:
    """Outputs of an exported model in the wheel's interpreter with our operators."""
    if graph.inputs:
        return oracle.run_interpreter(model.read_bytes(), graph, inputs, plugin)
    return oracle.run_interpreter(model.read_bytes(), graph, [], plugin, frames=inputs[0])
