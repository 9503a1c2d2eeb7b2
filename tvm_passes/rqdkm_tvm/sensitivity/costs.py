"""The cost table of a partitioned module, as the bit-width search takes it."""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from rqdkm_tvm import assign, memory
from rqdkm_tvm.assign import Prices
from rqdkm_tvm.bitwidths import Costs, LayerCosts
from rqdkm_tvm.graph import RESHAPES, composite_name, layer_name, op_name, outputs
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.layer import Layer
from rqdkm_tvm.lowbit import BITS, integer_range
from rqdkm_tvm.sites import read_sites

PACKING_CYCLES = 7.0  # per value, on the Cortex-M4: clipped, packed, and unpacked by one reader (docs/bands.md)

# cycles of a layer with weights of the first and an output of the second number of bits
Cycles = Callable[[Layer, int, int], float]
# bit-widths a kernel can store: (of the layer's weights, of its output)
Storable = Callable[[Layer], tuple[Sequence[int], Sequence[int]]]


def packable(layer: Layer) -> tuple[Sequence[int], Sequence[int]]:
    """Widths that end on a byte: for weights per output channel, for feature maps per pixel."""
    weights: Sequence[int] = ()
    if layer.weights is not None:
        channels = layer.output.shape[-1]
        weights = [b for b in BITS if layer.weights.size // channels * b % 8 == 0 or b == 8]
    return weights, [b for b in BITS if layer.output.shape[-1] * b % 8 == 0]


def estimated_cycles(
    kernel_set: KernelSet = "auto", *, room: Mapping[str, int] | None = None, flash_price: float = 0.0
) -> Cycles:
    """What the kernels' own estimates say of a layer at other bit-widths, by the one that will be chosen for it.

    That is the fastest of those whose scratch fits ``room`` and whose constants are worth ``flash_price``, see
    :func:`scratch_room`: the fastest of all often spends memory that the firmware will not have. A packed result adds
    :data:`PACKING_CYCLES` per value: packed by this layer, unpacked by one reader.

    Args:
        room: bytes of scratch by layer; no limit where it is not named.
        flash_price: cycles that a byte of constants must save.
    """

    known: dict[tuple[str, int], float] = {}

    def compute(layer: Layer, weights: int) -> float:
        narrowed = layer
        if weights != 8 and layer.weights is not None:
            values = np.clip(layer.weights, *integer_range(weights, weights=True))
            narrowed = dataclasses.replace(layer, weights=values, weight_bits=(weights,) * layer.output.shape[-1])
        able = [
            (k.estimate_cycles(narrowed, c), k.scratch_bytes(narrowed, c), k.constant_bytes(narrowed, c))
            for k, c in registry.candidates(narrowed, kernel_set)
        ]
        if not able:
            return 0.0
        limit = max((room or {}).get(layer.name, sys.maxsize), min(scratch for _, scratch, _ in able))
        fitting = [
            (cycles + flash_price * constants, cycles) for cycles, scratch, constants in able if scratch <= limit
        ]
        return min(fitting)[1]

    def cycles(layer: Layer, weights: int, output: int) -> float:
        key = (layer.name, weights)
        if key not in known:
            known[key] = compute(layer, weights)
        return known[key] + (0.0 if output == 8 else PACKING_CYCLES * layer.stored.size)

    return cycles


def scratch_room(
    function: Any, kernel_set: KernelSet = "auto", *, ram_budget: int | None = None, prices: Prices
) -> dict[str, int]:
    """Bytes of scratch that every layer of a partitioned 8-bit main function will have.

    Up to the RAM budget or, without one, to the peak of the kernels that ``prices`` choose for the network at 8 bits.
    """
    timeline = memory.timeline(function)
    live = dict(zip(timeline.steps, timeline.live(), strict=True))
    choices = {site.name: assign.options(site.layer, kernel_set) for site in read_sites(function)}
    if ram_budget is None:
        taken = assign.choose(timeline, choices, prices=prices)
        ram_budget = max((live[name] + option.ram_bytes for name, option in taken.items()), default=0)
    return {name: max(ram_budget - live[name], 0) for name in choices}


def other_constants(layer: Layer, kernel_set: KernelSet = "auto") -> int:
    """Bytes of flash that ``layer`` takes besides its weights, whatever their bits: biases, multipliers, tables.

    Of the kernel with the fewest constants, so no firmware has less.
    """
    weights = 0 if layer.weights is None else layer.weights.size
    constants = (k.constant_bytes(layer, k.configs(layer)[-1]) for k in registry.able(layer, kernel_set))
    return max(min(constants, default=0) - weights, 0)


def costs_of(
    function: Any,
    *,
    cycles: Cycles = lambda _layer, _weights, _output: 0.0,
    storable: Storable = packable,
    scratch: Mapping[str, int] | None = None,
    fixed_flash: float = 0.0,
) -> Costs:
    """Costs of a partitioned main function (types inferred), with fused epilogues or without.

    The model's inputs and outputs stay at 8 bits. Flash counts weights and ``fixed_flash``, RAM the timeline of
    :mod:`rqdkm_tvm.memory`, whose peak is a lower bound of the arena.

    Args:
        cycles: estimate; what an output's bits add is taken at 8-bit weights, so that the table stays a sum.
        storable: which widths the kernels of a layer take.
        scratch: bytes by layer that do not depend on bits.
        fixed_flash: what a flash budget has to hold besides weights, see :func:`other_constants`; code.
    """
    layers = {site.name: site.layer for site in read_sites(function)}
    timeline = memory.timeline(function)
    results = {layer_name(_source(expr)) for expr in outputs(function)}
    fixed = list(timeline.live())
    for step, name in enumerate(timeline.steps):
        fixed[step] += memory.aligned((scratch or {}).get(name, 0))
    rows = []
    fixed_cycles = 0.0
    for name, written in zip(timeline.steps, timeline.writes, strict=True):
        layer, interval = layers.get(name), timeline.tensors[written]
        if layer is None:
            continue
        weight_bits, output_bits = storable(layer)
        channels = layer.output.shape[-1]
        per_channel = 0 if layer.weights is None else layer.weights.size // channels
        weights = LayerCosts(
            name,
            channels,
            {b: per_channel * b / 8 for b in weight_bits},
            {b: cycles(layer, b, 8) for b in weight_bits},
        )
        at_8 = cycles(layer, 8, 8)
        owner = _decides(layer)
        if owner != name:
            output_bits = storable(layer.epilogue or layer)[1]
        steps = tuple(range(interval.first, interval.last + 1))
        ram: dict[int, int] = {}
        if name not in results:
            ram = {b: memory.aligned(-(-layer.stored.size * b // 8)) for b in output_bits}
            for step in steps:
                fixed[step] -= memory.aligned(interval.size)
        added = {b: cycles(layer, 8, b) - at_8 for b in ram}
        if not weight_bits:
            fixed_cycles += at_8
        if owner == name:
            rows.append(dataclasses.replace(weights, ram=ram, activation_cycles=added, steps=steps if ram else ()))
        else:
            rows.append(weights)
            rows.append(LayerCosts(owner, ram=ram, activation_cycles=added, steps=steps if ram else ()))
    return Costs(tuple(rows), tuple(fixed), fixed_flash, fixed_cycles)


def _decides(layer: Layer) -> str:
    """Name of the layer whose output's bit-width is that of what is stored.

    A fused max pool keeps the quantization of the layer it is part of; a fused add has one of its own, and what it adds
    to never reaches memory.
    """
    return layer.epilogue.name if layer.epilogue is not None and layer.epilogue.op == "add" else layer.name


def _source(expr: Any) -> Any:
    """The layer an output is, through reshapes."""
    while not composite_name(expr) and op_name(expr) in RESHAPES:
        expr = expr.args[0]
    return expr
