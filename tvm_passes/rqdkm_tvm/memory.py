"""Memory of the arena: which tensors live when, the least any plan can need, and where everything goes.

The timeline follows TVM's executor: operators run one after the other in the order of :func:`rqdkm_tvm.graph.calls`;
a tensor lives from the operator that writes it to the last one that reads it, the model's inputs from the start, its
outputs to the end. Scratch lives during its layer only.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rqdkm_tvm.graph import RESHAPES, bits_of, calls, composite_name, layer_name, op_name, outputs, source_name
from rqdkm_tvm.offload.base import ints
from rqdkm_tvm.tvm_import import relay, tvm

Expr = Any
ALIGNMENT = 8
_BYTES = {"float32": 4, "int32": 4, "int64": 8, "int16": 2, "uint16": 2, "float64": 8, "float16": 2, "uint32": 4}


def aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT


def tensor_bytes(checked_type: Any) -> int:
    """Bytes of a tensor type, or of all fields of a tuple type."""
    if isinstance(checked_type, relay.TupleType):
        return sum(tensor_bytes(field) for field in checked_type.fields)
    size = 1
    for extent in ints(checked_type.shape):
        size *= extent
    return size * _BYTES.get(str(checked_type.dtype), 1)


def stored_bytes(call: Expr) -> int:
    """Bytes of a call's result: several elements share one where a layer packs them."""
    return tensor_bytes(call.checked_type) * bits_of(call)[0] // 8


@dataclass(frozen=True)
class Interval:
    """One tensor: bytes, first and last step at which it must exist."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Moment:
    """What is in memory while one operator runs."""

    name: str
    tensors_bytes: int
    scratch_bytes: int

    @property
    def bytes(self) -> int:
        return self.tensors_bytes + self.scratch_bytes


@dataclass(frozen=True)
class Timeline:
    """Steps by name, in order, and the tensors that live across them."""

    steps: tuple[str, ...]
    tensors: tuple[Interval, ...]

    def live(self) -> list[int]:
        """Bytes of tensors during each step, every one aligned."""
        totals = [0] * len(self.steps)
        for tensor in self.tensors:
            for step in range(tensor.first, tensor.last + 1):
                totals[step] += aligned(tensor.size)
        return totals

    def moments(self, scratch: Mapping[str, int]) -> list[Moment]:
        return [
            Moment(name, live, aligned(scratch.get(name, 0)))
            for name, live in zip(self.steps, self.live(), strict=True)
        ]

    def pack(self, scratch: Mapping[str, int]) -> int:
        """Bytes of an arena that holds everything, as :func:`pack` arranges it."""
        intervals = list(self.tensors)
        intervals += [Interval(scratch[n], i, i) for i, n in enumerate(self.steps) if scratch.get(n, 0) > 0]
        conflicts = [
            [j for j, b in enumerate(intervals) if j != i and a.first <= b.last and b.first <= a.last]
            for i, a in enumerate(intervals)
        ]
        bound = max((m.bytes for m in self.moments(scratch)), default=0)
        return pack([aligned(i.size) for i in intervals], conflicts, bound)[1]


def timeline(function: Expr) -> Timeline:
    """Read a main function (types inferred), partitioned or lowered; reshapes are free."""
    steps: list[str] = []
    step_of: dict[Expr, int] = {}
    root: dict[Expr, Expr] = {}
    last: dict[Expr, int] = {}
    for call in calls(function):
        sources = [_root(arg, root) for arg in _leaves(call.args)]
        if op_name(call) in RESHAPES:
            root[call] = sources[0]
            continue
        step = len(steps)
        step_of[call] = step
        steps.append(layer_name(call) or source_name(call) or op_name(call) or composite_name(call))
        for source in sources:
            last[source] = step
    end = max(len(steps) - 1, 0)
    for output in outputs(function):
        last[_root(output, root)] = end
    tensors = [Interval(tensor_bytes(v.checked_type), 0, last[v]) for v in function.params if v in last]
    tensors += [Interval(stored_bytes(c), s, last.get(c, s)) for c, s in step_of.items()]
    return Timeline(tuple(steps), tuple(tensors))


def _leaves(args: Sequence[Expr]) -> list[Expr]:
    found: list[Expr] = []
    for arg in args:
        found.extend(_leaves(arg.fields) if isinstance(arg, relay.Tuple) else [arg])
    return found


def _root(expr: Expr, root: Mapping[Expr, Expr]) -> Expr:
    while isinstance(expr, relay.TupleGetItem):
        expr = expr.tuple_value
    return root.get(expr, expr)


# ---- placing buffers


def pack(sizes: Sequence[int], conflicts: Sequence[Sequence[int]], bound: int) -> tuple[list[int], int]:
    """Offsets for buffers of which conflicting ones must not overlap, and the bytes they need together.

    First fit, largest first; then a deterministic local search that brings the buffers at the top forward, until
    ``bound`` (the least that is possible) is met or nothing better is found for a while.

    Args:
        sizes: bytes per buffer, aligned already.
        conflicts: for each buffer the indices of those that live at the same time.
        bound: a lower bound of the result, e.g. the most that lives at once.
    """
    if not sizes:
        return [], 0
    orders = [
        sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)),
        sorted(range(len(sizes)), key=lambda i: (-sizes[i] * (1 + len(conflicts[i])), i)),
        sorted(range(len(sizes)), key=lambda i: (-len(conflicts[i]), -sizes[i], i)),
    ]
    best, peak = min((_first_fit(order, sizes, conflicts) for order in orders), key=lambda found: found[1])
    order = min(orders, key=lambda o: _first_fit(o, sizes, conflicts)[1])
    rng = random.Random(0)
    patience = 0
    while peak > bound and patience < 400:
        offsets, height = _first_fit(order, sizes, conflicts)
        top = rng.choice([i for i in order if offsets[i] + sizes[i] == height])
        # swap a buffer that reaches the top with one placed before it
        position = order.index(top)
        other = rng.randrange(position) if position else rng.randrange(len(order))
        candidate = list(order)
        candidate[position], candidate[other] = candidate[other], candidate[position]
        offsets, found = _first_fit(candidate, sizes, conflicts)
        patience += 1
        if found <= height or rng.random() < 0.1:
            order = candidate
        if found < peak:
            best, peak, patience = offsets, found, 0
    return best, peak


def _first_fit(order: Sequence[int], sizes: Sequence[int], conflicts: Sequence[Sequence[int]]) -> tuple[list[int], int]:
    offsets = [-1] * len(sizes)
    peak = 0
    for i in order:
        offset = 0
        for start, end in sorted((offsets[j], offsets[j] + sizes[j]) for j in conflicts[i] if offsets[j] >= 0):
            if offset + sizes[i] <= start:
                break
            offset = max(offset, end)
        offsets[i] = offset
        peak = max(peak, offset + sizes[i])
    return offsets, peak


@tvm.register_func("tir.usmp.algo.rqdkm", override=True)  # type: ignore[untyped-decorator]
def _usmp_algorithm(buffers: Any, _pressure: Any) -> Any:
    """:func:`pack` as an algorithm of TVM's unified static memory planner (``tir.usmp.custom_algorithm``)."""
    # TVM hands them over in the order of their addresses; names make the plan reproducible
    found = sorted(buffers, key=lambda buffer: str(buffer.name_hint))
    index_of = {buffer: index for index, buffer in enumerate(found)}
    by_pool: dict[str, list[int]] = {}
    for index, buffer in enumerate(found):
        by_pool.setdefault(str(buffer.pool_candidates[0].pool_name), []).append(index)
    allocation = tvm.get_global_func("tir.usmp.PoolAllocation")
    placed = {}
    for members in by_pool.values():
        local = {index: position for position, index in enumerate(members)}
        # conflicts in other pools do not matter here
        conflicts = [[local[index_of[c]] for c in found[i].conflicts if index_of.get(c) in local] for i in members]
        sizes = [aligned(int(found[i].size_bytes)) for i in members]
        offsets, _ = pack(sizes, conflicts, _clique_bound(sizes, conflicts))
        for i, offset in zip(members, offsets, strict=True):
            placed[found[i]] = allocation(found[i].pool_candidates[0], offset)
    return placed


def _clique_bound(sizes: Sequence[int], conflicts: Sequence[Sequence[int]]) -> int:
    """A lower bound: a buffer and those of its conflicts that all conflict with each other, greedily, largest first."""
    sets = [set(c) for c in conflicts]
    best = 0
    for i in range(len(sizes)):
        clique = [i]
        for j in sorted(sets[i], key=lambda j: -sizes[j]):
            if all(j in sets[k] for k in clique):
                clique.append(j)
        best = max(best, sum(sizes[k] for k in clique))
    return best
