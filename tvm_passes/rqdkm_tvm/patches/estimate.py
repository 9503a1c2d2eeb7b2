"""What a patch stage takes, estimated without kernels: bytes, multiplications and cycles of every split, grid and halo.

Windows along rows and along columns are independent, so the rows and columns of every part follow from one trace per
axis, and bytes and multiplications are products of both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from rqdkm_tvm import cost
from rqdkm_tvm.layer import Layer
from rqdkm_tvm.memory import aligned
from rqdkm_tvm.patches.geometry import COLUMNS, ROWS, Span, cut, reads
from rqdkm_tvm.patches.schedule import Split
from rqdkm_tvm.patches.stage import FRAME, WINDOWED, Node, fused_nodes
from rqdkm_tvm.plan_patches import Halo, Input, PatchPlan

SCRATCH = 1024  # least scratch of a part, roughly, besides what packed maps are unpacked to


@dataclass(frozen=True)
class Candidate:
    """A way to run the stage, as estimated.

    Args:
        bytes: of the arena while the stage runs, with :data:`SCRATCH` for the kernels.
        macs: of the stage, what is computed twice included.
        cycles: of the stage.
        fixed: bytes besides a patch's own: the frame, the result and kept rows.
        computed: pixels of every node's stored result, over all patches.
        total: cycles that compare with those of other splits: what a shorter stage leaves is counted, too.
    """

    plan: PatchPlan
    bytes: int
    macs: int
    cycles: float
    fixed: int
    computed: tuple[int, ...]
    total: float = 0.0


@dataclass(frozen=True)
class Axis:
    """Rows (or columns) of every node's result held by a patch at most, computed by all patches together, and kept
    from one patch for the next one."""

    held: tuple[int, ...]
    computed: tuple[int, ...]
    kept: tuple[int, ...]
    frame: int
    frame_kept: int


def trace_axis(nodes: Sequence[Node], axis: int, parts: int, keep: bool) -> Axis:
    """Trace ``parts`` parts of the result along one axis; with ``keep`` each goes on with what the one before has."""
    size = len(nodes)
    held_most, computed, kept_most = [0] * size, [0] * size, [0] * size
    frame_most = frame_kept = 0
    before: list[Span] | None = None
    frame_before: Span | None = None
    for out in cut(nodes[-1].layer.stored.shape[1 + axis], parts):
        held = [Span(0, 0)] * size
        held[-1] = out
        frame = Span(0, 0)
        for index in reversed(range(size)):
            span = held[index]
            if before is not None and span.size:
                span = held[index] = Span(span.start, max(span.stop, before[index].stop))
            start = span.start if before is None else min(max(span.start, before[index].stop), span.stop)
            new = Span(start, span.stop)
            computed[index] += new.size
            kept_most[index] = max(kept_most[index], start - span.start)
            held_most[index] = max(held_most[index], span.size)
            if new.size == 0:
                continue
            for operand, source in enumerate(nodes[index].inputs):
                wanted = reads(nodes[index].layer, operand, new, axis).span
                if source == FRAME:
                    frame = wanted.hull(frame)
                else:
                    held[source] = wanted.hull(held[source])
        frame_most = max(frame_most, frame.size)
        if keep:
            if frame_before is not None and frame.size:
                frame_kept = max(frame_kept, frame_before.stop - frame.start)
            before, frame_before = held, frame
    return Axis(tuple(held_most), tuple(computed), tuple(kept_most), frame_most, frame_kept)


class Estimator:
    """Estimates the patch plans of one split.

    Args:
        cycles: of a whole layer.
    """

    def __init__(self, split: Split, cycles: Callable[[Layer], float]) -> None:
        self.split = split
        self.nodes = fused_nodes(split.nodes)
        self.cycles = cycles
        self._axes: dict[tuple[int, int, bool], Axis] = {}

    @cached_property
    def last_reader(self) -> list[int]:
        last = list(range(len(self.nodes)))
        for index, node in enumerate(self.nodes):
            for source in node.inputs:
                if source != FRAME:
                    last[source] = index
        return last

    @cached_property
    def unpatched(self) -> float:
        """Cycles of the layers, each computed once."""
        return sum(self.cycles(node.layer) for node in self.nodes)

    def axis(self, axis: int, parts: int, keep: bool) -> Axis:
        key = (axis, parts, keep)
        if key not in self._axes:
            self._axes[key] = trace_axis(self.nodes, axis, parts, keep)
        return self._axes[key]

    def estimate(self, grid: tuple[int, int], halo: Halo, source: Input) -> Candidate:
        """See :class:`Candidate`."""
        rows = self.axis(ROWS, grid[0], halo == "lines")
        columns = self.axis(COLUMNS, grid[1], False)
        nodes = self.nodes
        frame = next(
            tensor for node in nodes for at, tensor in zip(node.inputs, node.layer.inputs, strict=True) if at == FRAME
        )
        pixel = [node.layer.stored.shape[3] * node.layer.stored.bits // 8 for node in nodes]
        size = [aligned(r * c * p) for r, c, p in zip(rows.held, columns.held, pixel, strict=True)]
        if grid[1] == 1:
            size[-1] = 0  # written where it stays
        kept = sum(aligned(r * c * p) for r, c, p in zip(rows.kept, columns.held, pixel, strict=True))
        of_frame = aligned(rows.frame * columns.frame * frame.shape[3])
        whole = 0
        if source == "callback":
            kept += aligned(rows.frame_kept * columns.frame * frame.shape[3])
        else:
            whole = aligned(math.prod(frame.packed_shape))
            of_frame = 0 if grid[1] == 1 else of_frame
        reader = max(index for index, node in enumerate(nodes) if FRAME in node.inputs)
        most, macs, cycles = 0, 0, 0.0
        for index, node in enumerate(nodes):
            live = sum(size[i] for i in range(index + 1) if self.last_reader[i] >= index)
            live += of_frame if index <= reader else 0
            live += _unpacked(node.layer, columns.held[index])
            most = max(most, live - (size[index] if _in_place(node) else 0))
            out = node.layer.stored
            share = rows.computed[index] * columns.computed[index] / (out.shape[1] * out.shape[2])
            macs += round(share * cost.macs(node.layer))
            cycles += share * self.cycles(node.layer)
        result = aligned(math.prod(nodes[-1].layer.stored.packed_shape))
        plan = PatchPlan(self.split.last, grid, halo, source)
        fixed = whole + result + kept
        computed = tuple(r * c for r, c in zip(rows.computed, columns.computed, strict=True))
        return Candidate(plan, fixed + most + SCRATCH, macs, cycles, fixed, computed)


def _unpacked(layer: Layer, columns: int) -> int:
    """Bytes of scratch for one band of a row: what is read of packed maps, and the result before it is packed."""
    source, output = layer.inputs[0], layer.output
    epilogue = layer.epilogue
    pool = int(epilogue.attrs["pool"][0]) if epilogue is not None and epilogue.op == "max_pool2d" else 1
    across = columns * output.shape[2] // layer.stored.shape[2]
    found = 0
    if layer.stored.bits != 8:
        found += aligned(pool * across * output.shape[3])
    if source.bits != 8:
        down, over = (_reach(layer, axis, n) for axis, n in ((ROWS, pool), (COLUMNS, across)))
        found += aligned(down * over * source.shape[3])
    return found


def _reach(layer: Layer, axis: int, outputs: int) -> int:
    """Rows (or columns) that so many of the result's read."""
    if layer.op not in WINDOWED:
        return outputs
    stride = int(layer.attrs["strides"][axis])
    if layer.weights is None:
        reach = int(layer.attrs["pool"][axis])
    else:
        reach = (int(layer.weights.shape[1 + axis]) - 1) * int(layer.attrs["dilation"][axis]) + 1
    return min(layer.inputs[0].shape[1 + axis], max(0, (outputs - 1) * stride + reach))


def _in_place(node: Node) -> bool:
    """Whether its result usually goes over its operand."""
    layer = node.layer
    source, stored = layer.inputs[0], layer.stored
    if source.shape[1:3] != stored.shape[1:3] or source.shape[3] < stored.shape[3] or layer.weights is None:
        return False
    return layer.op == "depthwise_conv2d" or layer.weights.shape[1:3] == (1, 1)
