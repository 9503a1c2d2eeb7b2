"""What a patch stage computes, in NumPy: part of :mod:`rqdkm.models.reference`.

Where halos are computed again, or all patches have one format, a patch is a part of what its branch computes on whole
maps. Where rows are kept and branches meet, a patch goes on with rows that the one above computed in its own formats,
requantized: then the patches of a column are computed from top to bottom, as on the chip, each operator on the rows and
columns that it needs.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from rqdkm.models.reference import run_layer
from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.patches.geometry import Region, cut
from rqdkm_tvm.patches.program import Patches
from rqdkm_tvm.patches.stage import FRAME, Node, Stage
from rqdkm_tvm.patches.trace import Trace, trace
from rqdkm_tvm.patches.writer import part

Int8 = npt.NDArray[np.int8]
Branches = npt.NDArray[np.int64]


def run_nodes(nodes: Sequence[Node], frame: Int8) -> list[Int8]:
    """Every result of a stage's nodes, whole maps: n samples (n, H, W, C) in, a list of the like out."""
    values: list[Int8] = []
    for node in nodes:
        values.append(run_layer(node.layer, [frame if i == FRAME else values[i] for i in node.inputs]))
    return values


def run_stage(stage: Stage, frame: Int8) -> Int8:
    """The stage's result (n, H, W, C) for frames (n, H, W, C)."""
    taken = stage_branches(stage, frame)
    present = np.unique(taken)
    if len(present) == 1:
        return run_nodes(stage.branches[int(present[0])], frame)[-1]
    rows, columns = (cut(n, p) for n, p in zip(stage.result.shape[1:3], stage.plan.grid, strict=True))
    found: Int8 = np.empty((len(frame), *stage.result.shape[1:]), np.int8)
    if stage.plan.halo == "lines":
        for c, across in enumerate(columns):
            column = _Column(stage, frame)
            for r, down in enumerate(rows):
                made = column.next(Region(down, across), taken[:, r, c])
                found[:, down.start : down.stop, across.start : across.stop] = made
        return found
    for branch in present:
        result = run_nodes(stage.branches[int(branch)], frame)[-1]
        for r, down in enumerate(rows):
            for c, across in enumerate(columns):
                chosen = (taken[:, r, c] == branch, slice(down.start, down.stop), slice(across.start, across.stop))
                found[chosen] = result[chosen]
    return found


class _Column:
    """The patches of one column, one below the other, for n samples at once."""

    def __init__(self, stage: Stage, frame: Int8) -> None:
        self.stage, self.frame = stage, frame
        self.above: Trace | None = None
        self.branches: Branches = np.zeros(len(frame), np.int64)
        self.held: list[Int8] = []  # of every node's result, in the format of the sample's branch

    def next(self, out: Region, branches: Branches) -> Int8:
        """The part ``out`` of the result, (n, rows, columns, C); ``branches`` (n): of the patch in every sample."""
        nodes, n = self.stage.nodes, len(self.frame)
        traced = trace(nodes, self.stage.frame, out, self.above)
        held: list[Int8] = []
        for index, node in enumerate(nodes):
            region, new = traced.held[index], traced.fresh[index]
            values: Int8 = np.zeros((n, region.rows.size, region.columns.size, node.layer.output.shape[3]), np.int8)
            held.append(values)
            if new.rows.start > region.rows.start:
                values[:, : new.rows.start - region.rows.start] = self._restored(index, region, new, branches)
            for branch in np.unique(branches) if new.pixels else ():
                own = self.stage.branches[int(branch)][index]
                samples = np.flatnonzero(branches == branch)
                made, regions = part(own.layer, new)
                operands = [
                    self._read(held, traced, source, wanted)[samples]
                    for source, wanted in zip(own.inputs, regions, strict=True)
                ]
                values[samples, new.rows.start - region.rows.start :] = run_layer(made, operands)
        self.above, self.held, self.branches = traced, held, branches
        return held[-1]

    def _read(self, held: Sequence[Int8], traced: Trace, source: int, wanted: Region) -> Int8:
        if source == FRAME:
            values, rows, columns = self.frame, wanted.rows, wanted.columns
            return values[:, rows.start : rows.stop, columns.start : columns.stop]
        region = traced.held[source]
        down, across = wanted.rows.start - region.rows.start, wanted.columns.start - region.columns.start
        return held[source][:, down : down + wanted.rows.size, across : across + wanted.columns.size]

    def _restored(self, index: int, region: Region, new: Region, branches: Branches) -> Int8:
        """Rows of the patch above, in the formats of ``branches``."""
        assert self.above is not None
        first = region.rows.start - self.above.held[index].rows.start
        rows: Int8 = self.held[index][:, first : first + new.rows.start - region.rows.start].copy()
        for before in np.unique(self.branches):
            for after in np.unique(branches):
                samples = np.flatnonzero((self.branches == before) & (branches == after))
                pair = [self.stage.branches[int(b)][index].layer.output for b in (before, after)]
                if len(samples) and pair[0] != pair[1]:
                    rows[samples] = requantized(rows[samples], *pair)
        return rows


def requantized(values: Int8, before: Tensor, after: Tensor) -> Int8:
    """(n, H, W, C) in another format: TFLite's QUANTIZE, within the range of the bits."""
    shape = (1, *values.shape[1:])
    least = -(1 << (after.value_bits - 1))
    tensors = (Tensor(shape, "int8", t.scale, t.zero_point) for t in (before, after))
    source, target = tensors
    return run_layer(Layer("", "requantize", (source,), target, {"clamp": (least, -least - 1)}), [values])


def stage_branches(stage: Stage, frame: Int8) -> Branches:
    """The branch of every patch: (n, rows, columns) for frames (n, H, W, C)."""
    plan = stage.plan
    planned = np.array([[plan.branch(r, c) for c in range(plan.grid[1])] for r in range(plan.grid[0])], np.int64)
    found: Branches = np.broadcast_to(planned, (len(frame), *plan.grid)).copy()
    if plan.outliers is not None:
        beyond = ((frame < plan.outliers.low) | (frame > plan.outliers.high)).sum(axis=3)
        sums = np.pad(beyond, ((0, 0), (1, 0), (1, 0))).cumsum(axis=1).cumsum(axis=2)
        patches = Patches(stage)
        for r in range(plan.grid[0]):
            for c in range(plan.grid[1]):
                seen = patches.fresh(r, c, 0).trace.frame
                (top, bottom), (left, right) = ((s.start, s.stop) for s in (seen.rows, seen.columns))
                count = sums[:, bottom, right] - sums[:, top, right] - sums[:, bottom, left] + sums[:, top, left]
                found[count >= plan.outliers.count, r, c] = 0
    return found
