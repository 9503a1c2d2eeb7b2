"""Depthwise tables from packed weights: the kernels read weights as 16-bit lanes, scaled, next to their constants; a
table of a fraction of the size is filled into scratch before the kernel runs (``rqdkm_depthwise_table_unpack``)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.kernels.pack import pack_elements, round_up
from rqdkm_tvm.kernels.registry import Config
from rqdkm_tvm.layer import Layer

#: Cycles to unpack a word of two weights, and to copy a word, measured; and per row.
WORD_CYCLES, COPY_CYCLES, ROW_CYCLES = 9.0, 6.0, 27.0


#: Lines of a function body: the table and the scratch where nothing is unpacked.
IN_FLASH = "  const uint32_t *const table = (const uint32_t *)c0;\n  void *const rest = scratch;\n"


def with_packed(layer: Layer, configs: list[Config]) -> list[Config]:
    """The configurations, and where weights are narrow each with ``packed``: slower, more scratch, less flash."""
    if not layer.packs_weights:
        return configs
    return [*configs[:-1], *({**config, "packed": True} for config in configs), configs[-1]]


@dataclass(frozen=True)
class Table:
    """A kernel's table: rows of weight words, then constants that follow them.

    Args:
        words: (rows, weight words + constant words) int32.
        weight_words: words of two lanes, weights shifted left, at the start of each row.
        shifts: (rows, 2): of the low and of the high lane.
    """

    words: npt.NDArray[np.int32]
    weight_words: int
    shifts: npt.NDArray[np.int64]

    @property
    def scratch_bytes(self) -> int:
        """Of the unpacked table, so that what follows is 8-byte aligned."""
        return round_up(self.words.nbytes, 8)

    @property
    def unpack_cycles(self) -> float:
        rows, words = (int(size) for size in self.words.shape)
        copied = words - self.weight_words
        return rows * (self.weight_words * WORD_CYCLES + copied * COPY_CYCLES + ROW_CYCLES)

    def constants(self, bits: Sequence[int]) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int32]]:
        """(packed weights with a header per row, constant words), ``bits`` per row."""
        lanes = np.ascontiguousarray(self.words[:, : self.weight_words]).view("<i2").astype(np.int64)
        weights = lanes.reshape(len(lanes), -1, 2) >> self.shifts[:, None, :]
        rows = [
            np.concatenate([np.array([b, *shifts], np.uint8), pack_elements(row.ravel(), b).view(np.uint8)])
            for row, shifts, b in zip(weights, self.shifts, bits, strict=True)
        ]
        return np.concatenate(rows), np.ascontiguousarray(self.words[:, self.weight_words :])

    def unpack(self) -> str:
        """Lines of a function body that fill ``table`` and leave the rest of the scratch to ``rest``."""
        rows, words = self.words.shape
        return (
            "  uint32_t *const table = (uint32_t *)scratch;\n"
            f"  void *const rest = (uint8_t *)scratch + {self.scratch_bytes};\n"
            f"  rqdkm_depthwise_table_unpack(table, {rows}, {self.weight_words}, {words - self.weight_words}, "
            "(const uint8_t *)c0,\n                               (const uint32_t *)c1);\n"
        )
