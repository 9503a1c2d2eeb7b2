"""Memory of the arena: which tensors live when, the least any plan can need, and where everything goes.

The timeline follows TVM's executor: operators run one after the other in the order of :func:`rqdkm_tvm.graph.calls`;
a tensor lives from the operator that writes it to the last one that reads it, the model's inputs from the start, its
outputs to the end. Scratch lives during its layer only. A result that is written in place begins where the operand
that it overwrites begins, and takes no bytes of its own while its layer runs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from rqdkm_tvm.graph import (
    RESHAPES,
    bits_of,
    calls,
    composite_name,
    fetches_input,
    layer_name,
    op_name,
    outputs,
    source_name,
)
from rqdkm_tvm.offload.base import ints
from rqdkm_tvm.tvm_import import relay, tvm

Expr = Any
ALIGNMENT = 8
NOWHERE: Mapping[str, int] = {}  # no layer in place
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


def stored_bytes(expr: Any) -> int:
    """Bytes that an expression's value takes in memory, at the bits it is stored with."""
    return -(-tensor_bytes(expr.checked_type) * bits_of(expr)[0] // 8)


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
    """The steps, and the tensors that live across them."""

    steps: tuple[str, ...]
    tensors: tuple[Interval, ...]
    reads: tuple[tuple[int, ...], ...]  # by step, the index in `tensors` of each operand; -1 for a constant
    writes: tuple[int, ...]  # by step, the index of its result

    def live(self) -> list[int]:
        """Bytes of tensors during each step, every one aligned."""
        totals = [0] * len(self.steps)
        for tensor in self.tensors:
            for step in range(tensor.first, tensor.last + 1):
                totals[step] += aligned(tensor.size)
        return totals

    def moments(self, scratch: Mapping[str, int], in_place: Mapping[str, int] = NOWHERE) -> list[Moment]:
        """What is in memory step by step.

        Args:
            scratch: bytes by layer.
            in_place: layer -> operand that its result is written over.
        """
        return [
            Moment(
                name,
                live - (aligned(self.tensors[result].size) if name in in_place else 0),
                aligned(scratch.get(name, 0)),
            )
            for name, live, result in zip(self.steps, self.live(), self.writes, strict=True)
        ]

    def pack(self, scratch: Mapping[str, int], in_place: Mapping[str, int] = NOWHERE) -> int:
        """Bytes of an arena that holds everything, as :func:`pack` arranges it; arguments as for :meth:`moments`."""
        intervals = list(self.tensors)
        intervals += [Interval(scratch[n], i, i) for i, n in enumerate(self.steps) if scratch.get(n, 0) > 0]
        conflicts = [
            [j for j, b in enumerate(intervals) if j != i and a.first <= b.last and b.first <= a.last]
            for i, a in enumerate(intervals)
        ]
        shared = {self.writes[i]: self.reads[i][in_place[n]] for i, n in enumerate(self.steps) if n in in_place}
        bound = max((m.bytes for m in self.moments(scratch, in_place)), default=0)
        return pack([aligned(i.size) for i in intervals], conflicts, bound, shared)[1]


def timeline(function: Expr) -> Timeline:
    """Read a main function (types inferred), partitioned or lowered; reshapes are free."""
    steps: list[str] = []
    step_of: dict[Expr, int] = {}
    root: dict[Expr, Expr] = {}
    last: dict[Expr, int] = {}
    operands: list[list[Expr]] = []
    for call in calls(function):
        sources = [_root(arg, root) for arg in _leaves(call.args)]
        if op_name(call) in RESHAPES:
            root[call] = sources[0]
            continue
        step = len(steps)
        step_of[call] = step
        steps.append(layer_name(call) or source_name(call) or op_name(call) or composite_name(call))
        operands.append(sources)
        for source in sources:
            last[source] = step
    end = max(len(steps) - 1, 0)
    for output in outputs(function):
        last[_root(output, root)] = end
    fetched = {arg for call in step_of if fetches_input(call) for arg in call.args}
    living = [v for v in function.params if v in last and v not in fetched]
    tensors = [Interval(tensor_bytes(v.checked_type), 0, last[v]) for v in living]
    tensors += [Interval(stored_bytes(c), s, last.get(c, s)) for c, s in step_of.items()]
    index_of = {value: index for index, value in enumerate([*living, *step_of])}
    return Timeline(
        tuple(steps),
        tuple(tensors),
        tuple(tuple(index_of.get(source, -1) for source in sources) for sources in operands),
        tuple(index_of[call] for call in step_of),
    )


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


def pack(
    sizes: Sequence[int], conflicts: Sequence[Sequence[int]], bound: int, shared: Mapping[int, int] | None = None
) -> tuple[list[int], int]:
    """Offsets for buffers of which conflicting ones must not overlap, and the bytes they need together.

    First fit, largest first; then a deterministic local search that brings the buffers at the top forward, until
    ``bound`` (the least that is possible) is met or nothing better is found for a while.

    Args:
        sizes: bytes per buffer, aligned already.
        conflicts: for each buffer the indices of those that live at the same time.
        bound: a lower bound of the result, e.g. the most that lives at once.
        shared: buffer -> buffer that it begins with, whatever their conflicts; chains are possible.
    """
    if not sizes:
        return [], 0
    groups = _groups(len(sizes), shared or {})
    weight = [max(sizes[i] for i in group) for group in groups]
    degree = [len({j for i in group for j in conflicts[i]}) for group in groups]
    group_of = {i: g for g, group in enumerate(groups) for i in group}
    rivals = [[(j, group_of[j]) for j in conflicts[i] if group_of[j] != group_of[i]] for i in range(len(sizes))]
    orders = [
        sorted(range(len(groups)), key=lambda g: (-weight[g], g)),
        sorted(range(len(groups)), key=lambda g: (-weight[g] * (1 + degree[g]), g)),
        sorted(range(len(groups)), key=lambda g: (-degree[g], -weight[g], g)),
    ]
    found = [_first_fit(order, groups, sizes, rivals) for order in orders]
    best, peak = min(found, key=lambda fit: fit[1])
    order = orders[found.index((best, peak))]
    offsets, height = best, peak
    rng = random.Random(0)
    patience = 0
    while peak > bound and patience < 400:
        top = rng.choice([g for g in order if offsets[g] + weight[g] == height])
        # swap a buffer that reaches the top with one placed before it
        position = order.index(top)
        other = rng.randrange(position) if position else rng.randrange(len(order))
        candidate = list(order)
        candidate[position], candidate[other] = candidate[other], candidate[position]
        moved, reached = _first_fit(candidate, groups, sizes, rivals)
        patience += 1
        if reached <= height or rng.random() < 0.1:
            order, offsets, height = candidate, moved, reached
        if reached < peak:
            best, peak, patience = moved, reached, 0
    return [best[group_of[i]] for i in range(len(sizes))], peak


def _groups(count: int, shared: Mapping[int, int]) -> list[list[int]]:
    """Buffers that begin at the same place, each in one group, in the order of their first members."""
    first = list(range(count))
    for i in range(count):
        while first[i] in shared:
            first[i] = shared[first[i]]
    members: dict[int, list[int]] = {}
    for i in range(count):
        members.setdefault(first[i], []).append(i)
    return list(members.values())


def _first_fit(
    order: Sequence[int],
    groups: Sequence[Sequence[int]],
    sizes: Sequence[int],
    rivals: Sequence[Sequence[tuple[int, int]]],
) -> tuple[list[int], int]:
    """(offset of each group, bytes in all); ``rivals``: for each buffer the conflicting (buffer, its group)."""
    offsets = [-1] * len(groups)
    peak = 0
    for g in order:
        # offsets strictly between the two would make a member overlap one that is placed already
        forbidden = sorted(
            (offsets[other] - sizes[i], offsets[other] + sizes[j])
            for i in groups[g]
            for j, other in rivals[i]
            if offsets[other] >= 0
        )
        offset = 0
        for low, high in forbidden:
            if offset <= low:
                break
            offset = max(offset, high)
        offsets[g] = offset
        peak = max(peak, offset + max(sizes[i] for i in groups[g]))
    return offsets, peak


_shared_buffers: dict[str, str] = {}


@contextmanager
def sharing() -> Iterator[dict[str, str]]:
    """While TVM plans memory: result -> operand whose place it takes, by the names of TVM's buffers; fill it in."""
    _shared_buffers.clear()
    try:
        yield _shared_buffers
    finally:
        _shared_buffers.clear()


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
        place = {str(found[i].name_hint): local[i] for i in members}
        shared = {place[a]: place[b] for a, b in _shared_buffers.items() if a in place and b in place}
        offsets, _ = pack(sizes, conflicts, _clique_bound(sizes, conflicts, shared), shared)
        for i, offset in zip(members, offsets, strict=True):
            placed[found[i]] = allocation(found[i].pool_candidates[0], offset)
    return placed


def _clique_bound(sizes: Sequence[int], conflicts: Sequence[Sequence[int]], shared: Mapping[int, int]) -> int:
    """A lower bound: a buffer and those of its conflicts that all conflict with each other, greedily, largest first."""
    sets = [set(c) for c in conflicts]
    for group in _groups(len(sizes), shared):
        for i in group:
            sets[i] -= set(group)
    best = 0
    for i in range(len(sizes)):
        clique = [i]
        for j in sorted(sets[i], key=lambda j: -sizes[j]):
            if all(j in sets[k] for k in clique):
                clique.append(j)
        best = max(best, sum(sizes[k] for k in clique))
    return best
