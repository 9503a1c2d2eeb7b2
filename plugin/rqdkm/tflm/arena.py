"""The arena of a model in TFLM: rqdkm plans it, results in place included, and the file carries the plan.

TFLM reads offsets of tensors from the metadata ``OfflineMemoryAllocation`` (32-bit: version, subgraph, number of
tensors, then one offset each, -1 for those without). Scratch it places itself, first fit at the time a node runs: the
gap that the plan left for it is one that fits, so the arena becomes no larger than planned.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rqdkm.models.graph import Graph
from rqdkm.tflm.nodes import Need
from rqdkm_tvm.memory import pack

METADATA = "OfflineMemoryAllocation"
ALIGNMENT = 16  # TFLM's
NOWHERE = -1


@dataclass(frozen=True)
class Arena:
    """Offsets by tensor of the graph, and the bytes that tensors and scratch take. TFLM's own records come on top."""

    offsets: tuple[int, ...]
    size: int

    def metadata(self) -> dict[str, bytes]:
        """For the file."""
        return {METADATA: np.array([1, 0, len(self.offsets), *self.offsets], "<i4").tobytes()}


def plan(graph: Graph, needs: Sequence[Need]) -> Arena:
    """Place the tensors of ``graph`` for operators that run one after the other.

    Args:
        needs: of every operator.
    """
    last = len(graph.operators) - 1
    lives: dict[int, list[int]] = {index: [0, 0] for index in graph.inputs}
    for step, operator in enumerate(graph.operators):
        for index in (*operator.inputs, *operator.outputs):
            if index >= 0 and not graph.tensors[index].is_constant:
                lives.setdefault(index, [step, step])[1] = step
    for index in graph.outputs:
        lives[index][1] = last
    tensors = list(lives)
    place = {index: position for position, index in enumerate(tensors)}
    spans = [(lives[index][0], lives[index][1]) for index in tensors]
    sizes = [_aligned(graph.tensors[index].bytes) for index in tensors]
    shared: dict[int, int] = {}
    for step, (operator, need) in enumerate(zip(graph.operators, needs, strict=True)):
        if need.in_place is not None:
            shared[place[operator.outputs[0]]] = place[operator.inputs[need.in_place]]
        if need.scratch:
            spans.append((step, step))
            sizes.append(_aligned(need.scratch))
    conflicts = [
        [j for j, b in enumerate(spans) if j != i and a[0] <= b[1] and b[0] <= a[1]] for i, a in enumerate(spans)
    ]
    offsets, height = pack(sizes, conflicts, _least(spans, sizes, shared, last), shared)
    found = [offsets[place[i]] if i in place else NOWHERE for i in range(len(graph.tensors))]
    return Arena(tuple(found), height)


def _least(spans: Sequence[tuple[int, int]], sizes: Sequence[int], shared: dict[int, int], last: int) -> int:
    """What lives at once; a result in place takes nothing while its operand is there."""
    best = 0
    for step in range(last + 1):
        alive = {i for i, (first, end) in enumerate(spans) if first <= step <= end}
        best = max(best, sum(sizes[i] for i in alive if shared.get(i) not in alive))
    return best


def _aligned(size: int) -> int:
    return -(-size // ALIGNMENT) * ALIGNMENT
