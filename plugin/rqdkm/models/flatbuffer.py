"""Reading FlatBuffers from files nobody vouches for: every access is checked against the buffer.

The generated readers of the ``tflite`` package trust their input; this one does not. It follows the published binary
layout (FlatBuffers "internals": a table starts with a signed offset back to its vtable; the vtable holds its own size,
the table's size and one 16-bit offset per field, 0 for an absent field; vectors and strings are a 32-bit count and
the elements; references are unsigned 32-bit offsets from their own position).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


class FlatbufferError(ValueError):
    """The buffer contradicts its own layout; the text says where."""


def root_table(data: bytes, identifier: bytes) -> Table:
    """The root table of ``data``; ``identifier`` is the 4-byte file type at offset 4."""
    if len(data) < 8:
        raise FlatbufferError(f"{len(data)} bytes are too few for a header")
    if data[4:8] != identifier:
        raise FlatbufferError(f"bytes 4 to 7 are {data[4:8]!r}, expected {identifier!r}")
    return _table(data, 0)


def _read(data: bytes, fmt: str, position: int) -> int | float:
    size = struct.calcsize(fmt)
    if position < 0 or position + size > len(data):
        raise FlatbufferError(f"offset {position} is outside the file of {len(data)} bytes")
    value: int | float = struct.unpack_from(fmt, data, position)[0]
    return value


def _table(data: bytes, reference: int) -> Table:
    position = reference + int(_read(data, "<I", reference))
    vtable = position - int(_read(data, "<i", position))
    vtable_size = int(_read(data, "<H", vtable))
    table_size = int(_read(data, "<H", vtable + 2))
    if vtable_size < 4 or vtable_size % 2 or vtable + vtable_size > len(data):
        raise FlatbufferError(f"the vtable at {vtable} has the impossible size {vtable_size}")
    if table_size < 4 or position + table_size > len(data):
        raise FlatbufferError(f"the table at {position} has the impossible size {table_size}")
    offsets = struct.unpack_from(f"<{(vtable_size - 4) // 2}H", data, vtable + 4)
    if any(offset >= table_size for offset in offsets):
        raise FlatbufferError(f"a field of the table at {position} lies outside it")
    return Table(data, position, table_size, offsets)


@dataclass(frozen=True)
class Table:
    """One table. Fields are named by their number in the schema; absent ones give the default."""

    data: bytes
    position: int
    size: int
    offsets: tuple[int, ...]

    def field(self, number: int) -> int:
        """Position of a field in the file, 0 if absent."""
        offset = self.offsets[number] if number < len(self.offsets) else 0
        return self.position + offset if offset else 0

    def _scalar(self, number: int, fmt: str, default: int | float) -> int | float:
        position = self.field(number)
        if not position:
            return default
        if position + struct.calcsize(fmt) > self.position + self.size:
            raise FlatbufferError(f"field {number} sticks out of the table at {self.position}")
        return _read(self.data, fmt, position)

    def integer(self, number: int, fmt: str = "<i", default: int = 0) -> int:
        return int(self._scalar(number, fmt, default))

    def real(self, number: int, default: float = 0.0) -> float:
        return float(self._scalar(number, "<f", default))

    def table(self, number: int) -> Table | None:
        position = self.field(number)
        return _table(self.data, position) if position else None

    def vector(self, number: int, item_size: int) -> tuple[int, int]:
        """(position of the first element, count); (0, 0) if absent."""
        reference = self.field(number)
        if not reference:
            return 0, 0
        position = reference + int(_read(self.data, "<I", reference))
        count = int(_read(self.data, "<I", position))
        if position + 4 + count * item_size > len(self.data):
            raise FlatbufferError(f"a vector of {count} elements at {position} ends outside the file")
        return position + 4, count

    def array(self, number: int, dtype: str) -> npt.NDArray[np.generic]:
        """A vector of scalars, as a read-only view; empty if absent."""
        position, count = self.vector(number, np.dtype(dtype).itemsize)
        return np.frombuffer(self.data, dtype=dtype, count=count, offset=position)

    def text(self, number: int) -> str:
        position, count = self.vector(number, 1)
        try:
            return self.data[position : position + count].decode("utf-8")
        except UnicodeDecodeError:
            raise FlatbufferError(f"the text at {position} is not UTF-8") from None

    def tables(self, number: int) -> list[Table]:
        position, count = self.vector(number, 4)
        return [_table(self.data, position + 4 * i) for i in range(count)]
