"""Whether a convolution may write its result over its input: nothing that a later part reads has been overwritten.

For kernels that copy all that one part of the result reads before they write any of that part, parts in order.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rqdkm_tvm.kernels._c import hwc
from rqdkm_tvm.layer import Layer


def strips_stay_ahead(layer: Layer, rows: int) -> bool:
    """A part is ``rows`` rows of the result, all channels of them."""
    height, width, channels = hwc(layer.output)
    ends = range(rows, height, rows)
    return _ahead(layer, ((end * width * channels, _first_read(layer, end, 0)) for end in ends))


def panels_stay_ahead(layer: Layer, pixels: int) -> bool:
    """A part is ``pixels`` pixels of the result in order, all channels of them."""
    height, width, channels = hwc(layer.output)

    def written_and_needed() -> Iterator[tuple[int, int]]:
        for end in range(pixels, height * width, pixels):
            row, column = divmod(end, width)
            needed = _first_read(layer, row, column)
            if row + 1 < height:  # within the padding a row may begin where the one before does
                needed = min(needed, _first_read(layer, row + 1, 0))
            yield end * channels, needed

    return _ahead(layer, written_and_needed())


def _first_read(layer: Layer, row: int, column: int) -> int:
    """Offset of the first byte of the input that the result's pixel reads."""
    _, width, channels = hwc(layer.inputs[0])
    (down, right), (top, left) = layer.attrs["strides"], layer.attrs["padding"][:2]
    return (max(row * int(down) - int(top), 0) * width + max(column * int(right) - int(left), 0)) * channels


def _ahead(layer: Layer, parts: Iterable[tuple[int, int]]) -> bool:
    if layer.output.size > layer.inputs[0].size or layer.epilogue is not None:
        return False
    return all(written <= needed for written, needed in parts)
