"""What a patch holds of every feature map: windows traced backwards from its part of the stage's result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rqdkm_tvm.layer import Tensor
from rqdkm_tvm.patches.geometry import COLUMNS, ROWS, Region, Span, reads
from rqdkm_tvm.patches.stage import FRAME, Node


@dataclass(frozen=True)
class Trace:
    """What a patch holds of the frame and of every node's result, and which of it is computed (fetched) for it."""

    frame: Region
    frame_fresh: Region
    held: tuple[Region, ...]
    fresh: tuple[Region, ...]


def trace(nodes: Sequence[Node], frame: Tensor, out: Region, above: Trace | None) -> Trace:
    """Windows traced back from the result's region ``out``; ``above``: the patch whose rows are gone on with."""
    columns = _columns(nodes, out.columns)
    none = Region(Span(0, 0), Span(0, 0))
    held = [none] * len(nodes)
    fresh = [none] * len(nodes)
    of_frame = none
    held[-1] = out
    for index in reversed(range(len(nodes))):
        node = nodes[index]
        held[index], new = _goes_on(held[index], None if above is None else above.held[index])
        fresh[index] = new
        if new.pixels == 0:
            continue
        for operand, source in enumerate(node.inputs):
            wanted = Region(reads(node.layer, operand, new.rows, ROWS).span, columns[source])
            if source == FRAME:
                of_frame = wanted.hull(of_frame)
            else:
                held[source] = wanted.hull(held[source])
    of_frame, new = _goes_on(of_frame, None if above is None else above.frame)
    return Trace(of_frame, new, tuple(held), tuple(fresh))


def _goes_on(wanted: Region, above: Region | None) -> tuple[Region, Region]:
    """What is held of a map, and what is new of that. Rows that the patch above has beyond those that are read here
    go on to the next one, which may read them: at the lower border a residual's way round falls behind."""
    if above is None or wanted.pixels == 0:
        return wanted, wanted
    rows = Span(wanted.rows.start, max(wanted.rows.stop, above.rows.stop))
    return Region(rows, wanted.columns), Region(Span(max(rows.start, above.rows.stop), rows.stop), wanted.columns)


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
