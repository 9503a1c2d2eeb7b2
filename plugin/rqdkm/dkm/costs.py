"""What every kernel costs and gets right: measured once, read by the environment."""

from __future__ import annotations

import io
import json
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.errors import DataError
from rqdkm_tvm.files import write_atomic

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Costs:
    """Of a morphing network, with kernel k in all of its morphing layers.

    Args:
        names: of the kernels; their positions are what a dispatch function answers.
        safe: the kernel that is taken where nothing better is known.
        cycles: (kernels,) of a frame, measured on the virtual board.
        memory: (kernels,) share of the working memory that a frame needs.
        levels: (levels,) noise added to the input, in its own real unit.
        statistics: (levels, samples, 3) mean, variance and SNR of every sample, as the chip estimates them.
        right: (levels, samples, kernels) whether the class was right, or how probable it is.
        deciding: cycles of looking at the input and asking a policy, before every frame.
    """

    names: tuple[str, ...]
    safe: int
    cycles: Array
    memory: Array
    levels: Array
    statistics: Array
    right: Array
    deciding: float = 0.0

    def __post_init__(self) -> None:
        k, (levels, samples) = len(self.names), self.right.shape[:2]
        shapes = {
            "cycles": (self.cycles.shape, (k,)),
            "memory": (self.memory.shape, (k,)),
            "levels": (self.levels.shape, (levels,)),
            "statistics": (self.statistics.shape, (levels, samples, 3)),
            "right": (self.right.shape, (levels, samples, k)),
        }
        for name, (found, wanted) in shapes.items():
            if found != wanted:
                raise DataError(f'"{name}" has the shape {found}, expected {wanted}', where="costs of the kernels")
        if not (np.isfinite(self.deciding) and self.deciding >= 0):
            raise DataError(f'"deciding" is {self.deciding:g} cycles', where="costs of the kernels")
        if not (0 <= self.safe < k and samples and levels and (self.cycles > 0).all()):
            raise DataError("there are no samples, no cycles or no safe kernel", where="costs of the kernels")

    @property
    def frame(self) -> Array:
        """(kernels,) cycles of a frame with the decision before it."""
        taken: Array = self.cycles + self.deciding
        return taken

    @property
    def accuracy(self) -> Array:
        """(levels, kernels)"""
        mean: Array = self.right.mean(axis=1)
        return mean

    @property
    def estimated(self) -> Array:
        """(levels, kernels) how often a kernel will be right on other samples.

        That one kernel suits one level better than it does the others is mostly chance with some thousand samples: what
        is not the level's or the kernel's own effect is kept only as far as it exceeds its sampling variance (empirical
        Bayes; W. James, C. Stein, "Estimation with quadratic loss", 1961).
        """
        right = self.right.astype(np.float64)
        apart = right - right.mean(0, keepdims=True) - right.mean(2, keepdims=True)
        apart += right.mean((0, 2), keepdims=True)
        found = apart.mean(axis=1)
        chance = float(apart.var(axis=1).mean()) / max(right.shape[1] - 1, 1)
        seen = float((found**2).mean())
        kept = max(0.0, 1.0 - chance / seen) if seen > 0.0 else 0.0
        estimate: Array = self.accuracy - (1.0 - kept) * found
        return estimate

    def expected(self) -> Costs:
        """The same with every answer replaced by how often its kernel is expected to be right at that level of noise.

        The chance of single samples goes: what a policy learns from.
        """
        return replace(self, right=np.broadcast_to(self.estimated[:, None, :], self.right.shape))

    def save(self, path: Path) -> None:
        """As ``.npz``; written aside, then renamed."""
        buffer = io.BytesIO()
        head = json.dumps({"names": list(self.names), "safe": self.safe, "deciding": self.deciding})
        arrays = {name: getattr(self, name) for name in ("cycles", "memory", "levels", "statistics", "right")}
        np.savez_compressed(buffer, head=np.array(head), **arrays)
        write_atomic(path, buffer.getvalue())

    @staticmethod
    def load(path: Path) -> Costs:
        """
        Raises:
            DataError: no such file, or it holds something else.
        """
        try:
            with np.load(path, allow_pickle=False) as file:
                head = json.loads(str(file["head"]))
                arrays = {name: file[name] for name in ("cycles", "memory", "levels", "statistics", "right")}
            return Costs(tuple(head["names"]), int(head["safe"]), **arrays, deciding=float(head["deciding"]))
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            reason = getattr(error, "strerror", None) or "it is none, or of another version, or damaged"
            hint = "give a file that this version of rqdkm dkm costs wrote"
            raise DataError(f"cannot read the costs: {reason}", where=str(path), hint=hint) from error
