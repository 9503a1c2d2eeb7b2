"""What is done for one patch, step by step: a program, the same for all patches of its shape.

Buffers live from the step that writes them to the last one that reads them; rows that the next patch below goes on with
(halo ``lines``) are saved to a place of their own.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from rqdkm_tvm.layer import Layer
from rqdkm_tvm.memory import aligned
from rqdkm_tvm.patches.geometry import Region

# places that are no buffers of a program
IN, OUT = -1, -2  # the frame and the stage's result, from the patch's own corner on
KEPT = -3  # rows that the patch above has left


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
    """A layer on a part of its maps; ``part`` identifies the problem. With ``restores`` not a layer of the stage: kept
    rows of that node's result, requantized from the format of another branch."""

    node: int
    problem: Layer = field(compare=False)
    part: int
    operands: tuple[Place, ...]
    result: Place
    restores: int | None = None


Step = Copy | Fetch | Run


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
