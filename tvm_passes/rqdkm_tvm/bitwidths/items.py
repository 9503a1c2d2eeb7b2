"""What the bit-width search decides: items, their choices, and what a selection costs. Pure functions of two tables.

What must be decided is a list of :class:`Item`, each with a few :class:`Choice`; errors, flash and cycles of the
choices add up, RAM adds up per step of the network and its peak counts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.sensitivity.table import Assignment, Sensitivity, group_sizes

Level = Literal["network", "layer", "group"]
Objective = Literal["error", "flash", "ram", "cycles", "memory"]
CYCLES_PER_BYTE = 6.5  # of memory: what a byte must be worth for packing to pay


@dataclass(frozen=True)
class LayerCosts:
    """What one layer costs at the bit-widths its kernels can store; others are absent.

    Args:
        name: the layer.
        channels: output channels.
        flash_per_channel: bits of the weights -> bytes of one output channel's weights.
        weight_cycles: bits of the weights -> cycles of the layer, all channels at that width.
        ram: bits of the output -> bytes, aligned.
        activation_cycles: bits of the output -> cycles it adds (packing, unpacking).
        steps: at which steps the output lives.
    """

    name: str
    channels: int = 0
    flash_per_channel: Mapping[int, float] = field(default_factory=dict)
    weight_cycles: Mapping[int, float] = field(default_factory=dict)
    ram: Mapping[int, int] = field(default_factory=dict)
    activation_cycles: Mapping[int, float] = field(default_factory=dict)
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Costs:
    """All layers, and what does not depend on bit-widths: RAM by step (inputs, scratch, ...), flash, cycles."""

    layers: tuple[LayerCosts, ...]
    fixed_ram: tuple[int, ...]
    fixed_flash: float = 0.0
    fixed_cycles: float = 0.0


@dataclass(frozen=True)
class Budgets:
    """Upper limits; None for none. ``error`` is in units of the sensitivity's objective."""

    flash: float | None = None
    ram: float | None = None
    cycles: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Choice:
    """One bit-width of an item; ``ram`` is bytes at each of the item's steps."""

    bits: int
    error: float
    flash: float = 0.0
    cycles: float = 0.0
    ram: tuple[int, ...] = ()


@dataclass(frozen=True)
class Item:
    """One decision, for all of ``members``: (layer, "weights" or "activations", channel group; -1 for all groups)."""

    members: tuple[tuple[str, str, int], ...]
    choices: tuple[Choice, ...]
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Totals:
    error: float
    flash: float
    ram: float
    cycles: float

    @property
    def memory(self) -> float:
        """Flash and peak RAM together, cycles at :data:`CYCLES_PER_BYTE`."""
        return self.flash + self.ram + self.cycles / CYCLES_PER_BYTE

    def of(self, resource: str) -> float:
        return float(getattr(self, resource))


@dataclass(frozen=True)
class Selection:
    """Index of the choice of every item. ``proven``: no other selection is better."""

    picks: tuple[int, ...]
    totals: Totals
    proven: bool = False


# ---- the decisions


def items_of(
    sensitivity: Sensitivity, costs: Costs, *, level: Level = "layer", group_size: int = 8, max_bits: int = 8
) -> list[Item]:
    """Everything there is to decide, in execution order, weights before feature maps.

    Args:
        level: one decision for all weights and one for all feature maps, one per layer, or one per channel group.
        group_size: output channels per group, 4 or 8.
        max_bits: Bmax.
    """
    found: list[Item] = []
    tied: dict[str, list[Item]] = {}
    for cost in costs.layers:
        row = next((x for x in sensitivity.layers if x.name == cost.name), None)
        if row is None:
            continue
        if row.weights and cost.flash_per_channel:
            sizes = group_sizes(cost.channels, -(-cost.channels // group_size) if level == "group" else 1)
            for group, count in enumerate(sizes):
                first = sum(sizes[:group])
                share = count / cost.channels
                choices = [
                    Choice(
                        b,
                        row.channel_error(b, first, count),
                        flash * count,
                        cost.weight_cycles.get(b, 0.0) * share,
                    )
                    for b, flash in sorted(cost.flash_per_channel.items())
                    if b in row.weights and b <= max_bits
                ]
                member = (cost.name, "weights", group if level == "group" else -1)
                found.append(Item((member,), tuple(choices)))
        if cost.ram and not row.fixed:
            choices = [
                Choice(
                    b,
                    row.activation_error(b) if row.activations else 0.0,
                    0.0,
                    cost.activation_cycles.get(b, 0.0),
                    (size,) * len(cost.steps),
                )
                for b, size in sorted(cost.ram.items())
                if b <= max_bits and (not row.activations or b in row.activations)
            ]
            item = Item(((cost.name, "activations", -1),), tuple(choices), cost.steps)
            tied.setdefault(row.tied_to or row.name, []).append(item)
    found += [merge(together) for together in tied.values()]
    if level == "network":
        by_kind = [[x for x in found if x.members[0][1] == kind] for kind in ("weights", "activations")]
        found = [merge(together) for together in by_kind if together]
    return found


def merge(items: Sequence[Item]) -> Item:
    """One decision instead of several: the bit-widths all of them have."""
    common = sorted(set.intersection(*({c.bits for c in item.choices} for item in items)))
    choices = []
    for bits in common:
        parts = [next(c for c in item.choices if c.bits == bits) for item in items]
        choices.append(
            Choice(
                bits,
                sum(c.error for c in parts),
                sum(c.flash for c in parts),
                sum(c.cycles for c in parts),
                tuple(r for c in parts for r in c.ram),
            )
        )
    members = tuple(m for item in items for m in item.members)
    return Item(members, tuple(choices), tuple(s for item in items for s in item.steps))


def to_assignment(items: Sequence[Item], picks: Sequence[int]) -> Assignment:
    """Bit-widths by layer."""
    weights: dict[str, list[int]] = {}
    activations: dict[str, int] = {}
    for item, pick in zip(items, picks, strict=True):
        for name, kind, _group in item.members:
            bits = item.choices[pick].bits
            if kind == "weights":
                weights.setdefault(name, []).append(bits)
            else:
                activations[name] = bits
    return Assignment({name: tuple(bits) for name, bits in weights.items()}, activations)


def predicted_error(sensitivity: Sensitivity, assignment: Assignment) -> float:
    """Sum of R over all tensors that ``assignment`` names."""
    error = 0.0
    for row in sensitivity.layers:
        groups = assignment.weights.get(row.name, ()) if row.weights else ()
        sizes = group_sizes(len(next(iter(row.weights.values()))), len(groups)) if groups else ()
        for group, (bits, count) in enumerate(zip(groups, sizes, strict=True)):
            error += row.channel_error(bits, sum(sizes[:group]), count)
        width = assignment.activations.get(row.tied_to or row.name)
        if width is not None:
            error += row.activation_error(width)
    return error


def ram_of(items: Sequence[Item], picks: Sequence[int], costs: Costs) -> npt.NDArray[np.float64]:
    """Bytes alive at each step."""
    ram: npt.NDArray[np.float64] = np.array(costs.fixed_ram, np.float64)
    for item, pick in zip(items, picks, strict=True):
        for step, size in zip(item.steps, item.choices[pick].ram, strict=True):
            ram[step] += size
    return ram


def totals(items: Sequence[Item], picks: Sequence[int], costs: Costs) -> Totals:
    chosen = [item.choices[pick] for item, pick in zip(items, picks, strict=True)]
    return Totals(
        error=sum(c.error for c in chosen),
        flash=costs.fixed_flash + sum(c.flash for c in chosen),
        ram=float(ram_of(items, picks, costs).max(initial=0)),
        cycles=costs.fixed_cycles + sum(c.cycles for c in chosen),
    )


def holds(found: Totals, budgets: Budgets) -> bool:
    return all(found.of(r) <= limit * (1 + 1e-9) for r, limit in limits_of(budgets).items())


def limits_of(budgets: Budgets) -> dict[str, float]:
    named = {"flash": budgets.flash, "ram": budgets.ram, "cycles": budgets.cycles, "error": budgets.error}
    return {name: float(limit) for name, limit in named.items() if limit is not None}
