"""Tensors of 4 or 2 bits an element as they lie in memory: the twin of ``tflm_ops/include/rqdkm/bits.h``."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


def pack(values: Array, bits: int) -> Array:
    """Flat bytes, low bits first ([1, 2, 3, -4] at 4 bits is 0x21 0xc3); the array itself where ``bits`` is 8."""
    if bits == 8:
        return values
    per_byte = 8 // bits
    fields = values.astype(np.uint8).ravel() & ((1 << bits) - 1)
    groups = np.pad(fields, (0, -fields.size % per_byte)).reshape(-1, per_byte)
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    packed: Array = np.bitwise_or.reduce(groups << shifts, axis=1).astype(np.uint8).view(np.int8)
    return packed


def unpack(packed: Array, bits: int) -> Array:
    """Flat int8 values of packed bytes; the array itself where ``bits`` is 8."""
    if bits == 8:
        return packed
    shifts = np.arange(0, 8, bits, dtype=np.uint8)
    fields = (packed.view(np.uint8).reshape(-1, 1) >> shifts).astype(np.int16) & ((1 << bits) - 1)
    half = 1 << (bits - 1)
    return ((fields ^ half) - half).astype(np.int8).ravel()
