"""Which part of every feature map a patch needs: windows traced backwards, clipped at the borders of the maps.

Half-open spans of rows or columns. What a window reads beyond a border is padding there, and only there, so that a
patch computes exactly what the whole layer does.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from rqdkm_tvm.layer import Layer
from rqdkm_tvm.patches.stage import WINDOWED

ROWS, COLUMNS = 0, 1


@dataclass(frozen=True)
class Span:
    """``start <= i < stop``; empty where they are equal."""

    start: int
    stop: int

    @property
    def size(self) -> int:
        return self.stop - self.start

    def hull(self, other: Span | None) -> Span:
        """The least span that holds both; an empty one adds nothing."""
        if other is None or other.size == 0:
            return self
        return other if self.size == 0 else Span(min(self.start, other.start), max(self.stop, other.stop))

    def holds(self, other: Span) -> bool:
        return other.size == 0 or (self.start <= other.start and other.stop <= self.stop)


@dataclass(frozen=True)
class Region:
    """A rectangle of a feature map."""

    rows: Span
    columns: Span

    @property
    def pixels(self) -> int:
        return self.rows.size * self.columns.size

    def hull(self, other: Region | None) -> Region:
        if other is None or other.pixels == 0:
            return self
        if self.pixels == 0:
            return other
        return Region(self.rows.hull(other.rows), self.columns.hull(other.columns))


@dataclass(frozen=True)
class Reads:
    """What an operand's part is, and the padding beyond it (before, after)."""

    span: Span
    padding: tuple[int, int]


def cut(extent: int, parts: int) -> list[Span]:
    """``extent`` rows or columns in ``parts`` parts whose sizes differ by one at most."""
    edges = [extent * i // parts for i in range(parts + 1)]
    return [Span(low, high) for low, high in pairwise(edges)]


def computed(layer: Layer, out: Span, axis: int) -> Span:
    """The part of the layer's own result of which its epilogue makes ``out``."""
    epilogue = layer.epilogue
    if epilogue is None or epilogue.op != "max_pool2d":
        return out
    pool = int(epilogue.attrs["pool"][axis])
    return Span(out.start * pool, out.stop * pool)


def reads(layer: Layer, operand: int, out: Span, axis: int) -> Reads:
    """What ``operand`` contributes to the part ``out`` of the stored result, along one axis."""
    own = computed(layer, out, axis)
    if layer.epilogue is not None and layer.epilogue.op == "add" and operand == len(layer.inputs) - 1:
        return Reads(out, (0, 0))
    if layer.op not in WINDOWED:
        return Reads(own, (0, 0))
    stride, before = int(layer.attrs["strides"][axis]), int(layer.attrs["padding"][axis])
    if layer.weights is None:
        reach = int(layer.attrs["pool"][axis])
    else:
        reach = (int(layer.weights.shape[1 + axis]) - 1) * int(layer.attrs["dilation"][axis]) + 1
    if own.size == 0:
        return Reads(Span(0, 0), (0, 0))
    start = own.start * stride - before
    stop = (own.stop - 1) * stride - before + reach
    extent = layer.inputs[operand].shape[1 + axis]
    inside = Span(min(max(start, 0), extent), max(min(stop, extent), 0))
    return Reads(inside, (inside.start - start, stop - inside.stop))
