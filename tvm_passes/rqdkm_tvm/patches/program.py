"""What is done for one patch, step by step: the parts of feature maps it holds, where they lie, who computes them.

A program is one patch's list of steps, the same for all patches of its shape. Buffers live from the step that writes
them to the last one that reads them; rows that the next patch below goes on with (halo ``lines``) are saved to a place
of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

from rqdkm_tvm import cost
from rqdkm_tvm.kernels.keys import ByIdentity
from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.memory import aligned
from rqdkm_tvm.patches.geometry import COLUMNS, ROWS, Region, Span, computed, cut, reads
from rqdkm_tvm.patches.stage import FRAME, Node, Stage, fused_nodes

# places that are no buffers of a program
IN, OUT = -1, -2  # the frame and the stage's result, from the patch's own corner on


@dataclass(frozen=True)
class Place:
    """A byte position: in a buffer, or in the frame or the result."""

    buffer: int
    offset: int = 0


@dataclass(frozen=True)
class Copy:
    """``rows`` runs of ``bytes``; strides in bytes. ``kept`` marks what comes from or goes to the rows kept between
    patches: the node."""

    source: Place
    target: Place
    rows: int
    bytes: int
    source_stride: int
    target_stride: int
    saves: int | None = None  # to the kept rows of a node
    restores: int | None = None  # from them

    @property
    def total(self) -> int:
        return self.rows * self.bytes


@dataclass(frozen=True)
class Fetch:
    """A region of the frame from the application; rows are relative to the patch's frame region."""

    target: Place
    region: Region


@dataclass(frozen=True)
class Run:
    """A layer on a part of its maps; ``part`` identifies the problem."""

    node: int
    problem: Layer = field(compare=False)
    part: int
    operands: tuple[Place, ...]
    result: Place


Step = Copy | Fetch | Run


@dataclass(frozen=True)
class Trace:
    """What a patch holds of the frame and of every node's result, and which of it is computed for it."""

    frame: Region
    frame_fresh: Region
    held: tuple[Region, ...]
    fresh: tuple[Region, ...]


@dataclass(frozen=True)
class Patch:
    """One patch in one of the ways it may be run; ``continued``: it goes on with rows of the patch above it."""

    row: int
    column: int
    branch: int
    continued: bool
    trace: Trace


@dataclass(frozen=True)
class Buffer:
    """Bytes, and the first and last step at which it must exist."""

    size: int
    first: int
    last: int


@dataclass(frozen=True)
class Program:
    """The steps of a patch."""

    steps: tuple[Step, ...]
    buffers: tuple[Buffer, ...]

    def live(self) -> list[int]:
        """Bytes of buffers during each step."""
        totals = [0] * len(self.steps)
        for buffer in self.buffers:
            for step in range(buffer.first, buffer.last + 1):
                totals[step] += aligned(buffer.size)
        return totals

    @property
    def runs(self) -> Iterator[tuple[int, Run]]:
        return ((index, step) for index, step in enumerate(self.steps) if isinstance(step, Run))


def trace(nodes: Sequence[Node], frame: Tensor, out: Region, above: Trace | None) -> Trace:
    """Windows traced back from the result's region ``out``; ``above``: the patch whose rows are gone on with."""
    columns = _columns(nodes, out.columns)
    none = Region(Span(0, 0), Span(0, 0))
    held = [none] * len(nodes)
    fresh = [none] * len(nodes)
    of_frame = none
    held[-1] = out
    for index in reversed(range(len(nodes))):
        node, region = nodes[index], held[index]
        done = region.rows.start if above is None else max(region.rows.start, above.held[index].rows.stop)
        new = Region(Span(min(done, region.rows.stop), region.rows.stop), region.columns)
        fresh[index] = new
        if new.pixels == 0:
            continue
        for operand, source in enumerate(node.inputs):
            wanted = Region(reads(node.layer, operand, new.rows, ROWS).span, columns[source])
            if source == FRAME:
                of_frame = wanted.hull(of_frame)
            else:
                held[source] = wanted.hull(held[source])
    start = of_frame.rows.start if above is None else max(of_frame.rows.start, above.frame.rows.stop)
    rows = Span(min(start, of_frame.rows.stop), of_frame.rows.stop)
    return Trace(of_frame, Region(rows, of_frame.columns), tuple(held), tuple(fresh))


def _columns(nodes: Sequence[Node], out: Span) -> dict[int, Span]:
    """Columns of every result and of the frame, whoever reads them: the same for all patches of a column of the grid,
    so that rows of one patch are rows of the next."""
    found = dict.fromkeys(range(FRAME, len(nodes)), Span(0, 0))
    found[len(nodes) - 1] = out
    for index in reversed(range(len(nodes))):
        for operand, source in enumerate(nodes[index].inputs):
            read = reads(nodes[index].layer, operand, found[index], COLUMNS).span
            found[source] = found[source].hull(read)
    return found


class Patches:
    """All patches of a stage and their programs.

    Args:
        stage: its nodes are joined here, where one is computed on the result of another.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage, self.plan = stage, stage.plan
        self.branches = [fused_nodes(nodes) for nodes in stage.branches]
        self.frame = stage.frame
        result = self.branches[0][-1].layer.stored
        self.result = result
        self.rows = cut(result.shape[1], self.plan.grid[0])
        self.columns = cut(result.shape[2], self.plan.grid[1])
        self._problems: dict[object, Layer] = {}
        self._programs: dict[Patch, Program] = {}

    @property
    def lines(self) -> bool:
        return self.plan.halo == "lines"

    @property
    def fetches(self) -> bool:
        return self.plan.input == "callback"

    def chosen(self, row: int, column: int) -> tuple[int, ...]:
        """Branches that may be taken at a position."""
        planned = self.plan.branch(row, column)
        return (planned,) if self.plan.outliers is None or planned == 0 else (0, planned)

    def fresh(self, row: int, column: int, branch: int) -> Patch:
        """A patch of which everything is computed."""
        region = Region(self.rows[row], self.columns[column])
        return Patch(row, column, branch, False, trace(self.branches[branch], self.frame, region, None))

    def below(self, patch: Patch, branch: int) -> Patch:
        """The patch under ``patch``."""
        if not self.lines or branch != patch.branch:
            return self.fresh(patch.row + 1, patch.column, branch)
        region = Region(self.rows[patch.row + 1], self.columns[patch.column])
        traced = trace(self.branches[branch], self.frame, region, patch.trace)
        if self.fetches and len(self.branches) > 1:  # the frame is there for a patch that does not go on, too
            whole = trace(self.branches[branch], self.frame, region, None).frame
            traced = replace(traced, frame=whole.hull(traced.frame))
        return Patch(patch.row + 1, patch.column, branch, True, traced)

    @cached_property
    def every(self) -> tuple[Patch, ...]:
        """Every patch in every way in which it may be run, column by column."""
        found: dict[tuple[int, int, int, bool], Patch] = {}
        for column in range(len(self.columns)):
            above: list[Patch] = []
            for row in range(len(self.rows)):
                here = {}
                for branch in self.chosen(row, column):
                    candidates = [self.below(patch, branch) for patch in above] or [self.fresh(row, column, branch)]
                    for patch in candidates:
                        here[(row, column, branch, patch.continued)] = patch
                found.update(here)
                above = list(here.values())
        return tuple(found.values())

    @cached_property
    def planned(self) -> tuple[Patch, ...]:
        """The patches as ``assignment`` has them, in the order in which they are run."""
        found = []
        for column in range(len(self.columns)):
            above: Patch | None = None
            for row in range(len(self.rows)):
                branch = self.plan.branch(row, column)
                above = self.fresh(row, column, branch) if above is None else self.below(above, branch)
                found.append(above)
        return tuple(found)

    # ---- rows that are kept

    def kept(self, patch: Patch) -> dict[int, Span]:
        """Rows of each node's result (and of the frame) that a patch leaves for the one below."""
        if not self.lines or patch.row + 1 == len(self.rows):
            return {}
        found = {}
        if patch.branch in self.chosen(patch.row + 1, patch.column):
            following = self.below(patch, patch.branch).trace
            for index, (now, then) in enumerate(zip(patch.trace.held, following.held, strict=True)):
                if then.pixels and then.rows.start < now.rows.stop:
                    found[index] = Span(then.rows.start, min(now.rows.stop, then.rows.stop))
        if self.fetches:
            following = self.below(patch, self.plan.branch(patch.row + 1, patch.column)).trace
            now, then = patch.trace.frame, following.frame
            if then.pixels and then.rows.start < now.rows.stop:
                found[FRAME] = Span(then.rows.start, min(now.rows.stop, then.rows.stop))
        return found

    @cached_property
    def kept_bytes(self) -> dict[int, int]:
        """Most bytes kept of each node's result, by node."""
        most: dict[int, int] = {}
        for patch in self.every:
            for index, rows in self.kept(patch).items():
                tensor, region = self._tensor(patch, index), self._held(patch, index)
                size = aligned(rows.size * _row_bytes(tensor, region))
                most[index] = max(most.get(index, 0), size)
        return dict(sorted(most.items()))

    def _tensor(self, patch: Patch, index: int) -> Tensor:
        return self.frame if index == FRAME else self.branches[patch.branch][index].layer.stored

    def _held(self, patch: Patch, index: int) -> Region:
        return patch.trace.frame if index == FRAME else patch.trace.held[index]

    # ---- programs

    def program(self, patch: Patch) -> Program:
        if patch not in self._programs:
            self._programs[patch] = _Writer(self, patch).program()
        return self._programs[patch]

    def macs(self, patch: Patch) -> int:
        """Multiply-accumulates of a patch, what it shares with others included."""
        return sum(cost.macs(run.problem) for _, run in self.program(patch).runs)

    def bitops(self, patch: Patch) -> int:
        """MACs times bits of weights times bits of what is read."""
        return sum(cost.bitops(run.problem) for _, run in self.program(patch).runs)

    def origin(self, patch: Patch) -> tuple[Span, Span]:
        """Rows and columns of the frame that a patch looks at."""
        return patch.trace.frame.rows, patch.trace.frame.columns

    def problem(self, layer: Layer, key: tuple[object, ...], make: Layer) -> Layer:
        """The same object for the same part of a layer, so that kernels may remember it."""
        return self._problems.setdefault((ByIdentity(layer), *key), make)


def _row_bytes(tensor: Tensor, region: Region) -> int:
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
            row = _row_bytes(stored, held)
            direct = index == len(nodes) - 1 and len(self.patches.columns) == 1
            place = Place(OUT) if direct else self._buffer(held.rows.size * row)
            places[index], strides[index] = place, row
            above = Span(held.rows.start, new.rows.start if new.pixels else held.rows.stop)
            if above.size:
                self._copy(Place(place.buffer), place, 1, above.size * row, 0, 0, restores=index)
            if new.pixels:
                self._run(index, node.layer, new, places, strides, above.size * row)
            if index in kept:
                start = (kept[index].start - held.rows.start) * row
                where = Place(place.buffer, start)
                self._copy(where, where, 1, kept[index].size * row, 0, 0, saves=index)
        if len(self.patches.columns) > 1:
            result, held = self.patches.result, trace_.held[-1]
            row = _row_bytes(result, held)
            across = math.prod(result.packed_shape[2:])
            self._copy(places[len(nodes) - 1], Place(OUT), held.rows.size, row, row, across)
        buffers = tuple(Buffer(b.size, b.first, b.last) for b in self.buffers)
        return Program(tuple(self.steps), buffers)

    def _frame(self, kept: dict[int, Span]) -> tuple[Place, int]:
        """Where the patch's region of the frame lies, and the bytes of one of its rows."""
        frame, region = self.patches.frame, self.patch.trace.frame
        row, across = _row_bytes(frame, region), math.prod(frame.packed_shape[2:])
        if not self.patches.fetches:
            if row == across:
                return Place(IN), row
            place = self._buffer(region.rows.size * row)
            self._copy(Place(IN), place, region.rows.size, row, across, row)
            return place, row
        place = self._buffer(region.rows.size * row)
        fresh = self._fresh_frame()
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

    def _fresh_frame(self) -> Region:
        """Rows to ask for: with ``lines`` those that were asked for before are kept, whatever branch comes next."""
        region = self.patch.trace.frame
        if not self.patches.lines or self.patch.row == 0:
            return region
        above = self.patches.rows[self.patch.row - 1]
        out = Region(above, self.patches.columns[self.patch.column])
        done = trace(self.patches.branches[self.patch.branch], self.patches.frame, out, None).frame.rows.stop
        start = min(max(region.rows.start, done), region.rows.stop)
        return Region(Span(start, region.rows.stop), region.columns)

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
