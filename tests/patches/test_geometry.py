"""Regions of patches against an oracle that lists, element by element, what every window reads."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from rqdkm_tvm import cost
from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.patches.geometry import COLUMNS, ROWS, Region, Span, cut, reads
from rqdkm_tvm.patches.program import Patch, Patches
from rqdkm_tvm.patches.stage import FRAME, WINDOWED, Node, Stage
from rqdkm_tvm.patches.steps import Fetch, Run
from rqdkm_tvm.patches.writer import part
from rqdkm_tvm.plan_patches import PatchPlan

_FAST = settings(max_examples=120, deadline=None)
Element = tuple[int, int]


# ---- the oracle


def window(layer: Layer, axis: int) -> list[int]:
    """Offsets that a window's taps have from its first one."""
    if layer.weights is None:
        return list(range(layer.attrs["pool"][axis]))
    dilation = layer.attrs.get("dilation", (1, 1))[axis]
    return [tap * dilation for tap in range(layer.weights.shape[1 + axis])]


def positions(layer: Layer, operand: int, out: int, axis: int) -> set[int]:
    """Rows (columns) of ``operand`` that row (column) ``out`` of the stored result is made from, padding included."""
    epilogue = layer.epilogue
    if epilogue is not None and epilogue.op == "add" and operand == len(layer.inputs) - 1:
        return {out}
    own = [out]
    if epilogue is not None and epilogue.op == "max_pool2d":
        pool = epilogue.attrs["pool"][axis]
        own = [out * pool + i for i in range(pool)]
    if layer.op not in WINDOWED:
        return set(own)
    stride, before = layer.attrs["strides"][axis], layer.attrs["padding"][axis]
    return {i * stride - before + offset for i in own for offset in window(layer, axis)}


def read_along(layer: Layer, operand: int, out: Span, axis: int) -> set[int]:
    """Those of all of ``out`` that exist."""
    found: set[int] = set()
    for i in range(out.start, out.stop):
        found |= positions(layer, operand, i, axis)
    return {i for i in found if 0 <= i < layer.inputs[operand].shape[1 + axis]}


def hull(elements: set[int]) -> Span:
    return Span(min(elements), max(elements) + 1) if elements else Span(0, 0)


# ---- networks: shapes only


@st.composite
def windows(draw: st.DrawFn, extents: tuple[int, int], channels: int) -> tuple[dict[str, object], list[int], str]:
    """Attributes, output extents and operator of a layer with a window."""
    op = draw(st.sampled_from(["conv2d", "conv2d", "depthwise_conv2d", "max_pool2d", "avg_pool2d"]))
    kernel = [draw(st.integers(1, 5)) for _ in extents]
    strides = [draw(st.integers(1, 3)) for _ in extents]
    dilation = [draw(st.integers(1, 2)) if "conv" in op else 1 for _ in extents]
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilation, strict=True)]
    padding = [(draw(st.integers(0, r - 1)), draw(st.integers(0, r - 1))) for r in reach]
    if op == "max_pool2d" and draw(st.booleans()):  # what a convolution takes over
        strides, padding = kernel, [(0, 0), (0, 0)]
    out = [(n + sum(p) - r) // s + 1 for n, p, r, s in zip(extents, padding, reach, strides, strict=True)]
    assume(min(out) >= 1)
    attrs: dict[str, object] = {
        "strides": tuple(strides),
        "padding": (padding[0][0], padding[1][0], padding[0][1], padding[1][1]),
        "clamp": (-128, 127),
    }
    if "conv" in op:
        attrs |= {"dilation": tuple(dilation), "groups": 1, "multiplier": 1, "kernel": tuple(kernel)}
    else:
        attrs["pool"] = tuple(kernel)
    return attrs, out, op


@st.composite
def networks(draw: st.DrawFn) -> tuple[Node, ...]:
    """Chains with residual additions, two channels."""
    frame = Tensor((1, draw(st.integers(1, 14)), draw(st.integers(1, 14)), 2))
    tensors, nodes = {FRAME: frame}, []

    def append(layer: Layer, *sources: int) -> int:
        index = len(nodes)
        nodes.append(Node(replace(layer, name=f"{layer.op}_{index}"), sources))
        tensors[index] = layer.output
        return index

    def windowed(source: int) -> int:
        x = tensors[source]
        attrs, extents, op = draw(windows((x.shape[1], x.shape[2]), x.shape[3]))
        kernel = attrs.pop("kernel", None)
        shape = (2, *kernel, 2) if op == "conv2d" else (1, *(kernel or ()), 2)
        weights = None if kernel is None else np.zeros(shape, np.int8)
        return append(Layer("", op, (x,), replace(x, shape=(1, *extents, 2)), attrs, weights), source)

    def conv(source: int, size: int, stride: int) -> int:
        x = tensors[source]
        attrs = {"padding": (size // 2,) * 4, "dilation": (1, 1), "groups": 1, "clamp": (-128, 127)}
        extents = [(n + size // 2 * 2 - size) // stride + 1 for n in x.shape[1:3]]
        output = replace(x, shape=(1, *extents, 2))
        weights = np.zeros((2, size, size, 2), np.int8)
        return append(Layer("", "conv2d", (x,), output, {**attrs, "strides": (stride, stride)}, weights), source)

    def joined(source: int) -> int:
        """A residual block; with a stride its other way has a convolution of one tap."""
        size, stride = draw(st.sampled_from([1, 3, 5])), draw(st.integers(1, 2))
        inner = conv(source, size, stride)
        if draw(st.booleans()):
            inner = conv(inner, 3, 1)
        other = source if stride == 1 and draw(st.booleans()) else conv(source, 1, stride)
        operands = (other, inner) if draw(st.booleans()) else (inner, other)
        x = tensors[inner]
        return append(Layer("", "add", (x, x), x, {"clamp": (-128, 127)}), *operands)

    last = windowed(FRAME) if draw(st.booleans()) else joined(FRAME)
    for _ in range(draw(st.integers(0, 4))):
        kind = draw(st.sampled_from(["window", "window", "add", "clip"]))
        x = tensors[last]
        if kind == "window":
            last = windowed(last)
        elif kind == "clip":
            last = append(Layer("", "clip", (x,), x, {"clamp": (-5, 5)}), last)
        else:
            last = joined(last)
    return tuple(nodes)


@st.composite
def stages(draw: st.DrawFn, *, halo: str | None = None, column: bool = False) -> Patches:
    nodes = draw(networks())
    _, height, width, _ = nodes[-1].layer.output.shape
    grid = (draw(st.integers(1, min(height, 6))), 1 if column else draw(st.integers(1, min(width, 6))))
    return Patches(Stage(nodes, PatchPlan("", grid, halo or draw(st.sampled_from(["recompute", "lines"])))))


def above(patches: Patches, patch: Patch) -> Patch:
    """The patch whose rows a continued one goes on with."""
    return next(p for p in patches.every if (p.row, p.column) == (patch.row - 1, patch.column))


# ---- claims


@given(st.integers(1, 60), st.integers(1, 20))
def test_parts_cover_the_extent_in_order_and_differ_by_one_at_most(extent: int, parts: int) -> None:
    assume(parts <= extent)
    spans = cut(extent, parts)
    assert [i for span in spans for i in range(span.start, span.stop)] == list(range(extent))
    assert max(s.size for s in spans) - min(s.size for s in spans) <= 1


@_FAST
@given(networks(), st.data())
def test_reads_are_exactly_the_hull_of_what_windows_read(nodes: Sequence[Node], data: st.DataObject) -> None:
    node = data.draw(st.sampled_from(nodes))
    for axis in (ROWS, COLUMNS):
        start = data.draw(st.integers(0, node.layer.output.shape[1 + axis] - 1))
        out = Span(start, data.draw(st.integers(start + 1, node.layer.output.shape[1 + axis])))
        for operand in range(len(node.inputs)):
            found = reads(node.layer, operand, out, axis)
            wanted = read_along(node.layer, operand, out, axis)
            assert (found.span.size == 0 and not wanted) or found.span == hull(wanted) or _dilated(node.layer)
            assert all(found.span.start <= i < found.span.stop for i in wanted)
            reached = set().union(*(positions(node.layer, operand, i, axis) for i in range(out.start, out.stop)))
            assert found.padding[0] == found.span.start - min(reached)
            assert found.padding[1] == max(reached) + 1 - found.span.stop


def _dilated(layer: Layer) -> bool:
    """Gaps between the taps may lie at a border: what is handed over is a little more than what is read."""
    return layer.attrs.get("dilation", (1, 1)) != (1, 1)


@_FAST
@given(stages())
def test_a_patch_holds_all_that_its_fresh_parts_read(patches: Patches) -> None:
    for patch in patches.every:
        trace, nodes = patch.trace, patches.branches[patch.branch]
        for node, fresh in zip(nodes, trace.fresh, strict=True):
            for operand, source in enumerate(node.inputs):
                held = trace.frame if source == FRAME else trace.held[source]
                for axis, out, span in ((ROWS, fresh.rows, held.rows), (COLUMNS, fresh.columns, held.columns)):
                    if fresh.pixels:
                        assert span.holds(hull(read_along(node.layer, operand, out, axis)))


@_FAST
@given(stages())
def test_what_is_not_fresh_was_kept_by_the_patch_above(patches: Patches) -> None:
    for patch in patches.every:
        kept = patches.kept(above(patches, patch)) if patch.above is not None else {}
        for index, (held, fresh) in enumerate(zip(patch.trace.held, patch.trace.fresh, strict=True)):
            assert (held.columns, held.rows.stop) == (fresh.columns, fresh.rows.stop) or not held.pixels
            old = Span(held.rows.start, fresh.rows.start)
            if held.pixels and old.size:
                assert patch.above is not None
                assert kept[index] == old
                before = above(patches, patch).trace.held[index]
                assert before.rows.holds(old)
                assert before.columns == held.columns


@_FAST
@given(stages())
def test_what_is_not_fetched_of_the_frame_was_kept_by_the_patch_above(patches: Patches) -> None:
    fetching = Patches(replace(patches.stage, plan=replace(patches.plan, input="callback")))
    for patch in fetching.every:
        fetched = [step.region for step in fetching.program(patch).steps if isinstance(step, Fetch)]
        held = patch.trace.frame
        missing = held.rows.size - sum(region.rows.size for region in fetched)
        if held.pixels and missing:
            assert patch.above is not None
            before = above(fetching, patch)
            assert fetching.kept(before)[FRAME] == Span(held.rows.start, held.rows.start + missing)
            assert before.trace.frame.rows.holds(fetching.kept(before)[FRAME])
            assert before.trace.frame.columns == held.columns


@_FAST
@given(stages())
def test_patches_tile_the_result(patches: Patches) -> None:
    _, height, width, _ = patches.result.shape
    times = np.zeros((height, width), int)
    for patch in patches.planned:
        region = patch.trace.fresh[-1]
        times[region.rows.start : region.rows.stop, region.columns.start : region.columns.stop] += 1
    assert (times == 1).all()


@_FAST
@given(stages(halo="recompute"))
def test_with_recomputed_halos_a_patch_holds_no_more_than_the_hull_of_what_is_read(patches: Patches) -> None:
    assume(not any(_dilated(node.layer) for node in patches.branches[0]))
    for patch in patches.every:
        nodes, trace = patches.branches[0], patch.trace
        for source in (FRAME, *range(len(nodes) - 1)):
            held = trace.frame if source == FRAME else trace.held[source]
            for axis, span in ((ROWS, held.rows), (COLUMNS, held.columns)):
                read: set[int] = set()
                for node, fresh in zip(nodes, trace.fresh, strict=True):
                    out = (fresh.rows, fresh.columns)[axis]
                    for operand, where in enumerate(node.inputs):
                        if where == source and fresh.pixels:
                            read |= read_along(node.layer, operand, out, axis)
                assert held.pixels == 0 or span == hull(read)


@_FAST
@given(stages(halo="lines", column=True))
def test_with_lines_and_one_column_no_row_is_computed_twice(patches: Patches) -> None:
    for index in range(len(patches.branches[0])):
        rows = [i for p in patches.planned for i in _rows(p.trace.fresh[index])]
        assert rows == sorted(set(rows))
    runs = [run.problem for patch in patches.planned for _, run in patches.program(patch).runs]
    assert sum(map(cost.macs, runs)) <= patches.stage.macs


def test_with_lines_and_one_column_the_macs_are_those_of_the_layers() -> None:
    """Where every row is read, and there is no tap that only the padding of inner borders would have."""
    layer = Layer(
        "",
        "conv2d",
        (Tensor((1, 16, 9, 2)),),
        Tensor((1, 16, 9, 2)),
        {"strides": (1, 1), "padding": (1, 1, 1, 1), "dilation": (1, 1), "groups": 1, "clamp": (-128, 127)},
        np.zeros((2, 3, 3, 2), np.int8),
    )
    nodes = tuple(Node(replace(layer, name=str(i)), (i - 1,)) for i in range(4))
    for rows in range(1, 17):
        for halo, redundant in (("lines", False), ("recompute", rows > 1)):
            patches = Patches(Stage(nodes, PatchPlan("3", (rows, 1), halo)))  # type: ignore[arg-type]
            runs = [run.problem for patch in patches.planned for _, run in patches.program(patch).runs]
            assert (sum(map(cost.macs, runs)) > patches.stage.macs) == redundant


def _rows(region: Region) -> list[int]:
    return list(range(region.rows.start, region.rows.stop)) if region.pixels else []


@_FAST
@given(stages(halo="lines", column=True))
def test_with_lines_and_one_column_rows_of_the_frame_are_fetched_once_and_in_order(patches: Patches) -> None:
    fetching = Patches(replace(patches.stage, plan=replace(patches.plan, input="callback")))
    rows = []
    for patch in fetching.planned:
        down, across = fetching.origin(patch)
        for step in fetching.program(patch).steps:
            if isinstance(step, Fetch):
                assert step.region.columns == across
                rows += [down.start + i for i in range(step.region.rows.start, step.region.rows.stop)]
    assert rows == sorted(set(rows))
    needed = set().union(*(_frame_rows(fetching, patch) for patch in fetching.planned))
    assert needed <= set(rows) <= set(range(fetching.frame.shape[1]))
    if not any(_dilated(node.layer) for node in fetching.branches[0]):  # nor rows that only lie between those read
        assert not needed or (min(rows), max(rows)) == (min(needed), max(needed))


def _frame_rows(patches: Patches, patch: Patch) -> set[int]:
    """Rows of the frame that windows of the patch's fresh parts read."""
    found: set[int] = set()
    for node, fresh in zip(patches.branches[0], patch.trace.fresh, strict=True):
        for operand, source in enumerate(node.inputs):
            if source == FRAME and fresh.pixels:
                found |= read_along(node.layer, operand, fresh.rows, ROWS)
    return found


@_FAST
@given(stages())
def test_the_parts_of_layers_fit_together(patches: Patches) -> None:
    """A run's operands have the extents that its window needs, and lie within their buffers."""
    for patch in patches.every:
        program = patches.program(patch)
        for step, run in program.runs:
            layer = run.problem
            _check_extents(layer)
            for place, tensor in itertools.chain(
                zip(run.operands, layer.inputs, strict=True), [(run.result, layer.stored)]
            ):
                if place.buffer >= 0:
                    buffer = program.buffers[place.buffer]
                    assert place.offset >= 0 and place.offset + tensor.size <= buffer.size
                    assert buffer.first <= step <= buffer.last


def _check_extents(layer: Layer) -> None:
    if layer.op not in WINDOWED:
        assert all(t.shape == layer.output.shape for t in layer.inputs)
        return
    for axis in (ROWS, COLUMNS):
        before, after = layer.attrs["padding"][axis], layer.attrs["padding"][axis + 2]
        reach = window(layer, axis)[-1] + 1
        covered = before + layer.inputs[0].shape[1 + axis] + after
        assert covered == (layer.output.shape[1 + axis] - 1) * layer.attrs["strides"][axis] + reach


@pytest.mark.parametrize("operand", [0, 1])
def test_a_part_of_an_addition_reads_that_part_of_both(operand: int) -> None:
    x = Tensor((1, 6, 5, 2))
    made, regions = part(Layer("", "add", (x, x), x, {}), Region(Span(2, 4), Span(1, 5)))
    assert regions[operand] == Region(Span(2, 4), Span(1, 5))
    assert made.inputs[operand].shape == made.output.shape == (1, 2, 4, 2)


def test_a_run_knows_its_part_by_its_problem() -> None:
    """Patches of one shape share programs and problems, so that kernels are chosen once."""
    layer = Layer("", "clip", (Tensor((1, 8, 8, 2)),), Tensor((1, 8, 8, 2)), {"clamp": (0, 5)})
    patches = Patches(Stage((Node(layer, (FRAME,)),), PatchPlan("", (4, 2))))
    programs = {patches.program(patch) for patch in patches.every}
    assert len(programs) == 1
    assert len({step.part for p in programs for step in p.steps if isinstance(step, Run)}) == 1


@pytest.mark.parametrize("source", ["frame", "callback"])
def test_at_the_lower_border_the_way_round_a_residual_falls_behind_and_no_row_is_computed_twice(source: str) -> None:
    """Four rows ahead, the convolutions need nothing new of the last patches, which still read rows for the sum."""
    x = Tensor((1, 12, 9, 2))
    attrs = {"strides": (1, 1), "padding": (2, 2, 2, 2), "dilation": (1, 1), "groups": 1, "clamp": (-128, 127)}
    conv = Layer("", "conv2d", (x,), x, attrs, np.zeros((2, 5, 5, 2), np.int8))
    add = Layer("", "add", (x, x), x, {"clamp": (-128, 127)})
    names = {
        "first": (conv, (FRAME,)),
        "a": (conv, (0,)),
        "b": (conv, (1,)),
        "join": (add, (2, 0)),
        "end": (add, (3, FRAME)),
    }
    nodes = tuple(Node(replace(layer, name=name), inputs) for name, (layer, inputs) in names.items())
    patches = Patches(Stage(nodes, PatchPlan("end", (12, 1), "lines", source)))  # type: ignore[arg-type]
    for index in range(len(patches.branches[0])):
        assert [i for p in patches.planned for i in _rows(p.trace.fresh[index])] == list(range(12))
    if source == "callback":
        fetched = []
        for patch in patches.planned:
            first = patches.origin(patch)[0].start
            steps = [step for step in patches.program(patch).steps if isinstance(step, Fetch)]
            fetched += [first + i for step in steps for i in range(step.region.rows.start, step.region.rows.stop)]
        assert fetched == list(range(12))
