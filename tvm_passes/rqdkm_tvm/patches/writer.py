"""Writes the program of a patch: the parts of feature maps it holds, where they lie, who computes them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.patches.geometry import COLUMNS, ROWS, Region, Span, computed, reads
from rqdkm_tvm.patches.stage import FRAME
from rqdkm_tvm.patches.steps import IN, KEPT, OUT, Buffer, Copy, Fetch, Place, Program, Run, Step

if TYPE_CHECKING:
    from rqdkm_tvm.patches.program import Patch, Patches


def row_bytes(tensor: Tensor, region: Region) -> int:
    return region.columns.size * tensor.shape[3] * tensor.bits // 8


def part(layer: Layer, out: Region) -> tuple[Layer, tuple[Region, ...]]:
    """``layer`` as it computes ``out`` only, and what it reads of each operand."""
    regions, inputs = [], []
    padding = [(0, 0), (0, 0)]
    for operand, tensor in enumerate(layer.inputs):
        rows, columns = (reads(layer, operand, span, axis) for axis, span in enumerate((out.rows, out.columns)))
        regions.append(Region(rows.span, columns.span))
        inputs.append(_sized(tensor, regions[-1]))
        if operand == 0:
            padding = [rows.padding, columns.padding]
    own = Region(computed(layer, out.rows, ROWS), computed(layer, out.columns, COLUMNS))
    attrs = layer.attrs
    if "padding" in attrs:
        (top, bottom), (left, right) = padding
        attrs = {**attrs, "padding": (top, left, bottom, right)}
    epilogue = layer.epilogue
    if epilogue is not None:
        operands = (_sized(layer.output, own), *inputs[len(layer.inputs) - len(epilogue.inputs) + 1 :])
        epilogue = replace(epilogue, inputs=operands, output=_sized(epilogue.output, out))
    output = _sized(layer.output, own)
    made = replace(layer, inputs=tuple(inputs), output=output, attrs=attrs, epilogue=epilogue)
    return made, tuple(regions)


def _sized(tensor: Tensor, region: Region) -> Tensor:
    return replace(tensor, shape=(1, region.rows.size, region.columns.size, tensor.shape[3]))


def write(patches: Patches, patch: Patch) -> Program:
    return _Writer(patches, patch).program()


@dataclass
class _Growing:
    size: int
    first: int
    last: int


@dataclass
class _Writer:
    """Writes the program of a patch."""

    patches: Patches
    patch: Patch
    steps: list[Step] = field(default_factory=list)
    buffers: list[_Growing] = field(default_factory=list)

    def program(self) -> Program:
        nodes, trace_ = self.patches.branches[self.patch.branch], self.patch.trace
        kept = self.patches.kept(self.patch)
        places: dict[int, Place] = {}
        strides: dict[int, int] = {}
        places[FRAME], strides[FRAME] = self._frame(kept)
        for index, node in enumerate(nodes):
            held, new = trace_.held[index], trace_.fresh[index]
            if held.pixels == 0:
                continue
            stored = node.layer.stored
            row = row_bytes(stored, held)
            direct = index == len(nodes) - 1 and len(self.patches.columns) == 1
            place = Place(OUT) if direct else self._buffer(held.rows.size * row)
            places[index], strides[index] = place, row
            above = Span(held.rows.start, new.rows.start)
            if above.size:
                self._restore(index, Region(above, held.columns), place)
            if new.pixels:
                self._run(index, node.layer, new, places, strides, above.size * row)
            if index in kept:
                start = (kept[index].start - held.rows.start) * row
                where = Place(place.buffer, start)
                self._copy(where, where, 1, kept[index].size * row, 0, 0, saves=index)
        if len(self.patches.columns) > 1:
            result, held = self.patches.result, trace_.held[-1]
            row = row_bytes(result, held)
            across = math.prod(result.packed_shape[2:])
            self._copy(places[len(nodes) - 1], Place(OUT), held.rows.size, row, row, across)
        buffers = tuple(Buffer(b.size, b.first, b.last) for b in self.buffers)
        return Program(tuple(self.steps), buffers)

    def _restore(self, index: int, rows: Region, place: Place) -> None:
        """Kept rows to the top of a node's buffer, in this branch's format."""
        branches, patch = self.patches.branches, self.patch
        assert patch.above is not None
        layer = branches[patch.branch][index].layer
        before, after = branches[patch.above][index].layer.stored, layer.stored
        if before == after:
            self._copy(place, place, 1, rows.rows.size * row_bytes(after, rows), 0, 0, restores=index)
            return
        least = -(1 << (after.value_bits - 1))
        attrs = {"clamp": (least, -least - 1)}
        made = Layer(layer.name, "requantize", (_sized(before, rows),), _sized(after, rows), attrs)
        problem = self.patches.problem(layer, ("kept", before, made.output.shape), made)
        self.steps.append(Run(index, problem, id(problem), (Place(KEPT),), place, restores=index))
        self._touch(place.buffer)

    def _frame(self, kept: dict[int, Span]) -> tuple[Place, int]:
        """Where the patch's region of the frame lies, and the bytes of one of its rows."""
        frame, region = self.patches.frame, self.patch.trace.frame
        row, across = row_bytes(frame, region), math.prod(frame.packed_shape[2:])
        if not self.patches.fetches:
            if row == across:
                return Place(IN), row
            place = self._buffer(region.rows.size * row)
            self._copy(Place(IN), place, region.rows.size, row, across, row)
            return place, row
        place = self._buffer(region.rows.size * row)
        fresh = self.patch.trace.frame_fresh
        above = fresh.rows.start - region.rows.start
        if above:
            self._copy(Place(place.buffer), place, 1, above * row, 0, 0, restores=FRAME)
        if fresh.pixels:
            first = Span(above, above + fresh.rows.size)
            self.steps.append(Fetch(Place(place.buffer, above * row), Region(first, region.columns)))
            self._touch(place.buffer)
        if FRAME in kept:
            where = Place(place.buffer, (kept[FRAME].start - region.rows.start) * row)
            self._copy(where, where, 1, kept[FRAME].size * row, 0, 0, saves=FRAME)
        return place, row

    def _run(
        self,
        index: int,
        layer: Layer,
        out: Region,
        places: dict[int, Place],
        strides: dict[int, int],
        offset: int,
    ) -> None:
        made, regions = part(layer, out)
        key = (*((t.shape) for t in made.inputs), made.stored.shape, made.attrs.get("padding"))
        problem = self.patches.problem(layer, key, made)
        node = self.patches.branches[self.patch.branch][index]
        operands = []
        for source, tensor, region in zip(node.inputs, problem.inputs, regions, strict=True):
            held = self.patch.trace.frame if source == FRAME else self.patch.trace.held[source]
            pixel = tensor.shape[3] * tensor.bits // 8
            start = (region.rows.start - held.rows.start) * strides[source]
            start += (region.columns.start - held.columns.start) * pixel
            place = Place(places[source].buffer, places[source].offset + start)
            if region.columns.size != held.columns.size:
                dense = self._buffer(math.prod(tensor.packed_shape))
                row = region.columns.size * pixel
                self._copy(place, dense, region.rows.size, row, strides[source], row)
                place = dense
            operands.append(place)
        target = Place(places[index].buffer, places[index].offset + offset)
        self.steps.append(Run(index, problem, id(problem), tuple(operands), target))
        for place in (*operands, target):
            self._touch(place.buffer)

    def _buffer(self, size: int) -> Place:
        """A new one, which the next step writes."""
        self.buffers.append(_Growing(size, len(self.steps), len(self.steps)))
        return Place(len(self.buffers) - 1)

    def _copy(
        self,
        source: Place,
        target: Place,
        rows: int,
        size: int,
        source_stride: int,
        target_stride: int,
        *,
        saves: int | None = None,
        restores: int | None = None,
    ) -> None:
        self.steps.append(Copy(source, target, rows, size, source_stride, target_stride, saves, restores))
        self._touch(source.buffer)
        self._touch(target.buffer)

    def _touch(self, buffer: int) -> None:
        if buffer >= 0:
            self.buffers[buffer].last = len(self.steps) - 1
