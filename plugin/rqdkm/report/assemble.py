"""From the results of a deployment to its :class:`Report`. Pure: no files but the model's, no tools."""

from __future__ import annotations

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rqdkm import __version__
from rqdkm.board.describe import STM32F407
from rqdkm.experiment.statistics import CONFIDENCE
from rqdkm.report import derive, patched
from rqdkm.report.schema import (
    Accuracy,
    Board,
    CycleModel,
    Exactness,
    Flash,
    Function,
    Layer,
    Memory,
    Model,
    Operator,
    Pool,
    Report,
    Search,
    SearchTrial,
    Tensor,
    TimelineStep,
    Toolchain,
)

if TYPE_CHECKING:
    from rqdkm.board.run import RunResult
    from rqdkm.branching import Branching
    from rqdkm.export.size import Size
    from rqdkm.models.load import LoadedModel
    from rqdkm.options import DeployOptions
    from rqdkm.planning import Planned
    from rqdkm_tvm.compile import CompiledLayer, CompiledModel
    from rqdkm_tvm.sites import IoTensor

_MODELLED = (
    "Cycle counts come from a model of the Cortex-M4 and the flash accelerator, not from silicon; bus contention and "
    "the write buffer are not modelled."
)
_FUNCTIONS_SHOWN = 40
_ENTRY = "rqdkm_model_run"


@dataclass(frozen=True)
class Pieces:
    """Everything a report is made of.

    Args:
        layer_cycles: per offloaded layer, of the image that counts them.
        folded: cycles per call path of a run with one inference, or empty.
        ran: None when nothing ran.
    """

    options: DeployOptions
    model: LoadedModel
    quantized_by_us: bool
    compiled: CompiledModel
    sizes: Size
    toolchain: Toolchain
    ran: RunResult | None = None
    layer_cycles: Sequence[float] | None = None
    folded: Mapping[str, int] = field(default_factory=dict)
    exactness: Exactness | None = None
    accuracy: Accuracy | None = None
    search: Planned | None = None
    branching: Branching | None = None


def report(pieces: Pieces) -> Report:
    """The report, without its volatile ``run`` part."""
    options, ran = pieces.options, pieces.ran
    clock_hz = ran.clock_hz if ran is not None else STM32F407.max_hclk_hz
    cycles = None
    if ran is not None and ran.cycles:
        cycles = round(sum(ran.cycles) / len(ran.cycles))
    layers, memory, flash = _layers(pieces), _memory(pieces), _flash(pieces.sizes)
    return Report(
        created_by=f"rqdkm {__version__}",
        config=options.config,
        model=_model(pieces),
        board=Board(name=options.board, clock_hz=clock_hz),
        cycle_model=_cycle_model(options, cycles, clock_hz),
        totals=derive.totals(
            layers=layers,
            cycles=cycles,
            clock_hz=clock_hz,
            memory=memory,
            flash=flash,
            energy=options.board != "virtual" or options.flash_model == "f407",
        ),
        accuracy=pieces.accuracy,
        search=_search(pieces),
        patches=patched.section(pieces.compiled, pieces.branching, pieces.options.vdpc),
        exactness=pieces.exactness,
        layers=layers,
        memory=memory,
        flash=flash,
        offload=tuple(
            Operator(operator=row.op, layer=row.layer, offloaded=row.offloaded, kernel=row.kernel, reason=row.reason)
            for row in pieces.compiled.report.rows
        ),
        functions=_functions(pieces.folded),
        toolchain=pieces.toolchain,
        notes=_notes(pieces),
    )


def _model(pieces: Pieces) -> Model:
    content = pieces.options.model.read_bytes()
    return Model(
        name=pieces.options.model.stem,
        sha256=hashlib.sha256(content).hexdigest(),
        file_bytes=len(content),
        inputs=tuple(_tensor(io) for io in pieces.compiled.inputs),
        outputs=tuple(_tensor(io) for io in pieces.compiled.outputs),
    )


def _tensor(io: IoTensor) -> Tensor:
    tensor = io.tensor
    return Tensor(
        name=io.name, shape=tensor.shape, dtype=tensor.dtype, scale=tensor.scale, zero_point=tensor.zero_point
    )


def _cycle_model(options: DeployOptions, cycles: int | None, clock_hz: int) -> CycleModel:
    if cycles is None:
        return CycleModel(kind="none", name="none")
    if options.board == "virtual":
        return CycleModel(
            kind="modelled", name=options.flash_model, wait_states=STM32F407.wait_states(clock_hz), note=_MODELLED
        )
    return CycleModel(kind="measured", name="DWT CYCCNT", wait_states=STM32F407.wait_states(clock_hz))


def _layers(pieces: Pieces) -> tuple[Layer, ...]:
    """Every step of the executor in order: our layers, and what TVM compiled."""
    compiled = pieces.compiled
    index = {layer.name: position for position, layer in enumerate(compiled.layers)}
    cycles = pieces.layer_cycles
    made = []
    for moment in compiled.memory.moments:
        position = index.get(moment.name)
        if position is None:
            made.append(_fallback(moment.name, compiled))
        else:
            counted = round(cycles[position]) if cycles is not None else None
            made.append(_layer(compiled.layers[position], counted))
    return _with_unique_names(made)


def _layer(compiled: CompiledLayer, cycles: int | None) -> Layer:
    layer, lowered = compiled.layer, compiled.lowered
    return Layer(
        name=layer.title,
        op=layer.op,
        kernel=lowered.kernel,
        bits_weight=compiled.bits_weight,
        bits_activation=layer.inputs[0].value_bits,
        bits_output=layer.stored.bits,
        macs=compiled.macs,
        cycles=cycles,
        scratch_bytes=lowered.scratch_bytes,
        config=dict(lowered.config),
        input_shape=layer.inputs[0].shape,
        output_shape=layer.stored.shape,
        weights_bytes=lowered.constant_bytes,
        bitops=compiled.bitops if layer.stage is not None else None,
    )


def _search(pieces: Pieces) -> Search | None:
    found = pieces.search
    if found is None:
        return None
    return Search(
        objective=found.found.sensitivity.objective,
        samples=found.chosen.loss.n,
        labelled=found.labelled,
        max_drop=pieces.options.allowed_drop,
        rounds=len(found.found.rounds),
        trials=tuple(
            SearchTrial(
                error=trial.error,
                weights_bytes=trial.weights,
                ram_bytes=trial.ram,
                loss=trial.loss.loss,
                loss_upper=trial.loss.upper(CONFIDENCE),
                allowed=trial.allowed,
            )
            for trial in found.trials
        ),
    )


def _fallback(name: str, compiled: CompiledModel) -> Layer:
    op = next((row.op for row in compiled.report.rows if row.layer == name), name)
    return Layer(
        name=name,
        op=op,
        kernel="tvm",
        bits_weight=0,
        bits_activation=8,
        macs=0,
        cycles=None,
        scratch_bytes=0,
    )


def _with_unique_names(layers: Sequence[Layer]) -> tuple[Layer, ...]:
    """TVM's operators may share a name: later ones get a number, as the timeline's steps do."""
    names = _unique([layer.name for layer in layers])
    return tuple(dataclasses.replace(layer, name=name) for layer, name in zip(layers, names, strict=True))


def _unique(names: Sequence[str]) -> list[str]:
    seen: dict[str, int] = {}
    result = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        result.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return result


def _memory(pieces: Pieces) -> Memory:
    sizes, ran, plan = pieces.sizes, pieces.ran, pieces.compiled.memory
    titles = {layer.name: layer.layer.title for layer in pieces.compiled.layers}
    names = _unique([titles.get(moment.name, moment.name) for moment in plan.moments])
    sram = sizes.ram_bytes - sizes.ccm_bytes
    return Memory(
        static_bytes=sizes.static_bytes,
        arena_planned_bytes=plan.arena_bytes,
        arena_measured_bytes=ran.arena_bytes if ran is not None else None,
        stack_reserved_bytes=sizes.stack_bytes,
        stack_bytes=ran.stack_bytes if ran is not None else None,
        pools=(
            Pool(name="sram", size_bytes=STM32F407.memory("sram").bytes, used_bytes=sram),
            Pool(name="ccm", size_bytes=STM32F407.memory("ccm").bytes, used_bytes=sizes.ccm_bytes),
            Pool(name="flash", size_bytes=STM32F407.memory("flash").bytes, used_bytes=sizes.flash_bytes),
        ),
        timeline=tuple(
            TimelineStep(layer=name, live_bytes=moment.tensors_bytes, scratch_bytes=moment.scratch_bytes)
            for name, moment in zip(names, plan.moments, strict=True)
        ),
    )


def _flash(sizes: Size) -> Flash:
    return Flash(
        code_bytes=sizes.code_bytes,
        weights_bytes=sizes.weights_bytes,
        rodata_bytes=sizes.rodata_bytes,
        data_bytes=sizes.data_bytes,
    )


def _functions(folded: Mapping[str, int]) -> tuple[Function, ...]:
    """Self cycles of every function below the inference entry point, largest first."""
    cycles: dict[str, int] = {}
    for stack, count in folded.items():
        names = stack.split(";")
        if _ENTRY in names:
            cycles[names[-1]] = cycles.get(names[-1], 0) + count
    rows = sorted(cycles.items(), key=lambda row: (-row[1], row[0]))
    return tuple(Function(name=name, cycles=count) for name, count in rows[:_FUNCTIONS_SHOWN])


def _notes(pieces: Pieces) -> tuple[str, ...]:
    notes = []
    if pieces.quantized_by_us:
        notes.append(f"The model was quantized to int8 by calibration ({pieces.options.calib_method}).")
    if any(io.stripped for io in (*pieces.compiled.inputs, *pieces.compiled.outputs)):
        notes.append("The model's float inputs or outputs are int8 on the chip; the host converts with their scale.")
    fallbacks = pieces.compiled.report.fallbacks
    if fallbacks:
        notes.append(f"{len(fallbacks)} operators run as TVM's own C code: {', '.join(row.op for row in fallbacks)}.")
    if pieces.ran is not None and pieces.ran.violations:
        notes.append(f"The virtual board saw {len(pieces.ran.violations)} clock violations.")
    notes += _kernels_run(pieces)
    return tuple(notes)


def _kernels_run(pieces: Pieces) -> list[str]:
    """Which kernels the policy of a morphing model chose for the samples; without one, which kernel ran."""
    libraries = [layer.layer.library for layer in pieces.compiled.layers if layer.layer.library is not None]
    if not libraries or pieces.ran is None:
        return []
    library = max(libraries, key=lambda found: len(found.paths))
    names = [path.name for path in library.paths]
    safe = names[library.safe]
    chosen = Counter(names[selection.selected] for selection in pieces.ran.selections)
    if not chosen:
        return [f"No policy: all {len(pieces.ran.outputs)} frames ran the safe kernel, {safe}."]
    counts = ", ".join(f"{name} {chosen[name]}" for name in names if chosen[name])
    return [
        f"Kernels that the policy chose for {chosen.total()} frames, nothing else running and without a time limit: "
        f"{counts}. Cycles are their mean, MACs those of the safe kernel, {safe}."
    ]
