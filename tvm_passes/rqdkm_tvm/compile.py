"""compile_model: passes, kernel choice, memory planning and C generation as one call."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from rqdkm_tvm import aot, cost, in_place, layers_c, memory
from rqdkm_tvm.assign import DEFAULT_PRICES, AssignKernels, Prices, budget_error
from rqdkm_tvm.boundary import StripBoundaryQuantize
from rqdkm_tvm.fuse import FuseEpilogues
from rqdkm_tvm.graph import calls, fetches_input, outputs
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.layer import Layer
from rqdkm_tvm.legalize import LegalizeQnn
from rqdkm_tvm.lower import LowerKernels
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.morph.gather import GatherMorphs
from rqdkm_tvm.operators import LoweredLayer, is_layer_call, lowered_layers
from rqdkm_tvm.parameters import Parameters
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.patches.schedule import SchedulePatches
from rqdkm_tvm.plan import FUSED_KERNEL, MORPHED_KERNEL, PATCHED_KERNEL, Plan
from rqdkm_tvm.reporter import OffloadReport, report
from rqdkm_tvm.sites import IoTensor, read_io, read_sites
from rqdkm_tvm.tvm_import import relay, tvm

Progress = Callable[[str], None]


@dataclass(frozen=True)
class CompiledLayer:
    """One offloaded layer, in execution order; index equals that of ``rqdkm_layer_cycles``."""

    layer: Layer
    lowered: LoweredLayer
    macs: int
    bitops: int

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def bits_weight(self) -> float:
        """Mean over output channels; 0 without weights."""
        bits = self.layer.weight_bits
        return 0 if self.layer.weights is None else sum(bits) / len(bits) if bits else 8


@dataclass(frozen=True)
class MemoryPlan:
    """Working memory: its size, the least any arrangement could need, and what is alive step by step."""

    arena_bytes: int
    lower_bound_bytes: int
    moments: tuple[memory.Moment, ...]

    @property
    def peak(self) -> memory.Moment:
        return max(self.moments, key=lambda moment: moment.bytes)


@dataclass(frozen=True)
class CompiledModel:
    """Everything the exporter and the reports need."""

    module: Any  # lowered Relay, as relay.build got it
    unpatched: Any  # partitioned Relay with the plan's bit-widths, layer by layer
    quantized: Any  # the same with the patch stage: what the firmware computes
    plan: Plan
    report: OffloadReport
    layers: tuple[CompiledLayer, ...]
    inputs: tuple[IoTensor, ...]
    outputs: tuple[IoTensor, ...]
    aot: aot.Aot
    layers_source: str
    memory: MemoryPlan
    fetched: bool = False  # the application hands over the input, region by region: it lies in no memory of the model

    @property
    def calls(self) -> dict[str, LoweredLayer]:
        """C symbol -> layer call."""
        return {layer.lowered.symbol: layer.lowered for layer in self.layers}

    @property
    def macs(self) -> int:
        return sum(layer.macs for layer in self.layers)


def compile_model(
    mod: Any,
    *,
    plan: Plan | None = None,
    parameters: Parameters | None = None,
    ram_budget: int | None = None,
    flash_budget: int | None = None,
    kernel_set: KernelSet = "auto",
    prices: Prices = DEFAULT_PRICES,
    output_names: list[str] | None = None,
    progress: Progress = lambda _message: None,
) -> CompiledModel:
    """Compile an int8 Relay module to C.

    Args:
        mod: module with constants bound (see :func:`rqdkm_tvm.passes.prepare`).
        plan: obeyed where it says something; the result carries the completed copy.
        parameters: the plan's weights, where they are not simply those nearest to the model's.
        ram_budget: bytes for tensors and scratch together (not stack, not static data); None: smallest arena that
            costs at most a few per cent of speed, see :func:`rqdkm_tvm.assign.choose`.
        flash_budget: bytes for the constants of all layers (not code); None: constants beyond the smallest must pay.
        kernel_set: which kernels may be chosen, see :data:`rqdkm_tvm.kernels.registry.KernelSet`.
        prices: of memory that no budget limits, see :class:`rqdkm_tvm.assign.Prices`.
        output_names: names of the outputs for the metadata.

    Raises:
        PlanError, BudgetError, UnsupportedOperatorError, ModelError
    """
    progress("partitioning the graph into layers")
    mod = tvm.transform.Sequential(
        [relay.transform.InferType(), StripBoundaryQuantize(), LegalizeQnn(), PartitionLayers()]
    )(mod)
    given = plan or Plan()
    unpatched = LowerMixedPrecision(given, parameters)(mod)
    quantized = SchedulePatches(given, kernel_set=kernel_set)(GatherMorphs()(unpatched))
    mod = FuseEpilogues(given, kernel_set=kernel_set)(quantized)
    budget = ram_budget
    for _attempt in range(4):
        completed = copy.deepcopy(given)
        progress("choosing kernels and planning memory")
        partitioned = AssignKernels(
            completed, ram_budget=budget, flash_budget=flash_budget, kernel_set=kernel_set, prices=prices
        )(mod)
        lowered = LowerKernels(completed)(partitioned)
        progress("generating C")
        fetched = any(map(fetches_input, calls(partitioned["main"])))
        generated = aot.build(lowered, io_in_arena=not fetched)
        needed = _working_memory(lowered["main"], generated, fetched)
        excess = 0 if ram_budget is None else needed - ram_budget
        if budget is None or excess <= 0:
            break
        # operators left to TVM take workspaces of their own: what they need is missing for our scratch
        budget -= excess
    else:
        raise budget_error(memory.timeline(partitioned["main"]), {}, needed, ram_budget or 0)
    names = output_names or _output_names(mod["main"])
    return _result(unpatched, quantized, partitioned, lowered, completed, generated, names, fetched)


def _result(
    unpatched: Any,
    quantized: Any,
    partitioned: Any,
    lowered: Any,
    plan: Plan,
    generated: aot.Aot,
    output_names: list[str],
    fetched: bool,
) -> CompiledModel:
    function = partitioned["main"]
    layer_of = {site.name: site.layer for site in read_sites(function)}
    layers = []
    for call in lowered_layers(lowered["main"]):
        layer = layer_of[call.name]
        macs = cost.macs(layer)
        layers.append(CompiledLayer(layer, call, macs, cost.bitops(layer)))
    _assert_offloaded(lowered["main"], plan)
    scratch = {layer.name: layer.lowered.scratch_bytes for layer in layers}
    operands = {layer.name: in_place.operand_of(layer.lowered.config) for layer in layers}
    moments = tuple(memory.timeline(function).moments(scratch, {n: i for n, i in operands.items() if i is not None}))
    arena = _working_memory(lowered["main"], generated, fetched)
    ins, outs = read_io(function, output_names)
    return CompiledModel(
        module=lowered,
        unpatched=unpatched,
        quantized=quantized,
        plan=plan,
        report=report(function, plan),
        layers=tuple(layers),
        inputs=tuple(ins),
        outputs=tuple(outs),
        aot=generated,
        layers_source=layers_c.source([layer.lowered for layer in layers]),
        memory=MemoryPlan(arena, min(arena, max(moment.bytes for moment in moments)), moments),
        fetched=fetched,
    )


def _working_memory(function: Any, generated: aot.Aot, fetched: bool) -> int:
    """Bytes of the arena, and of inputs and outputs that TVM could not place in it."""
    if fetched:
        return generated.arena_bytes + sum(memory.tensor_bytes(x.checked_type) for x in outputs(function))
    tensors = [*function.params, *outputs(function)]
    own = [
        memory.tensor_bytes(tensor.checked_type)
        for tensor, placement in zip(tensors, (*generated.inputs, *generated.outputs), strict=True)
        if placement.offset is None
    ]
    return generated.arena_bytes + sum(own)


def _assert_offloaded(function: Any, plan: Plan) -> None:
    """A layer that was planned for a kernel but went elsewhere would still compute right numbers, slowly."""
    expected = sum(entry.kernel not in (None, FUSED_KERNEL, PATCHED_KERNEL, MORPHED_KERNEL) for entry in plan.layers)
    found = sum(is_layer_call(call) for call in calls(function))
    if expected != found:
        raise AssertionError(f"{expected} layers have a kernel, {found} were lowered")


def _output_names(function: Any) -> list[str]:
    attrs = function.attrs
    if attrs is None or "output_tensor_names" not in attrs.keys():  # noqa: SIM118
        return []
    return [str(name) for name in attrs["output_tensor_names"]]
