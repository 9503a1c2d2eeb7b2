"""Constants that several functions of one layer share."""

from __future__ import annotations

from rqdkm_tvm.layer import NDArray


class Constants:
    """Arrays by their bytes, numbered in the order of their first use."""

    def __init__(self) -> None:
        self.arrays: list[NDArray] = []
        self._known: dict[tuple[str, bytes], int] = {}

    def number(self, array: NDArray) -> int:
        key = (str(array.dtype), array.tobytes())
        if key not in self._known:
            self._known[key] = len(self.arrays)
            self.arrays.append(array)
        return self._known[key]
