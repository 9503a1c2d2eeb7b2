"""The patches of a stage, and their programs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from rqdkm_tvm import cost
from rqdkm_tvm.kernels.keys import ByIdentity
from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.memory import aligned
from rqdkm_tvm.patches.geometry import Region, Span, cut
from rqdkm_tvm.patches.stage import FRAME, Stage, fused_nodes
from rqdkm_tvm.patches.steps import Program
from rqdkm_tvm.patches.trace import Trace, trace
from rqdkm_tvm.patches.writer import row_bytes, write


@dataclass(frozen=True)
class Patch:
    """One patch in one of the ways it may be run; ``above``: the branch of the patch above it, whose rows it goes on
    with, None: it goes on with none."""

    row: int
    column: int
    branch: int
    above: int | None
    trace: Trace


class Patches:
    """All patches of a stage and their programs.

    Args:
        stage: its nodes are joined here, where one is computed on the result of another.
    """

    def __init__(self, stage: Stage) -> None:
        self.stage, self.plan = stage, stage.plan
        self.branches = [fused_nodes(nodes) for nodes in stage.branches]
        self.frame = stage.frame
        result = self.branches[0][-1].layer.stored
        self.result = result
        self.rows = cut(result.shape[1], self.plan.grid[0])
        self.columns = cut(result.shape[2], self.plan.grid[1])
        self._problems: dict[object, Layer] = {}
        self._programs: dict[Patch, Program] = {}

    @property
    def lines(self) -> bool:
        return self.plan.halo == "lines"

    @property
    def fetches(self) -> bool:
        return self.plan.input == "callback"

    def chosen(self, row: int, column: int) -> tuple[int, ...]:
        """Branches that may be taken at a position."""
        planned = self.plan.branch(row, column)
        return (planned,) if self.plan.outliers is None or planned == 0 else (0, planned)

    def fresh(self, row: int, column: int, branch: int) -> Patch:
        """A patch of which everything is computed."""
        region = Region(self.rows[row], self.columns[column])
        return Patch(row, column, branch, None, trace(self.branches[branch], self.frame, region, None))

    def below(self, patch: Patch, branch: int) -> Patch:
        """The patch under ``patch``. Rows that it goes on with may be those of another branch: branches differ in
        formats, not in what is read of which map."""
        if not self.lines:
            return self.fresh(patch.row + 1, patch.column, branch)
        region = Region(self.rows[patch.row + 1], self.columns[patch.column])
        traced = trace(self.branches[branch], self.frame, region, patch.trace)
        return Patch(patch.row + 1, patch.column, branch, patch.branch, traced)

    @cached_property
    def every(self) -> tuple[Patch, ...]:
        """Every patch in every way in which it may be run, column by column."""
        found: dict[tuple[int, int, int, int | None], Patch] = {}
        for column in range(len(self.columns)):
            above: list[Patch] = []
            for row in range(len(self.rows)):
                here = {}
                for branch in self.chosen(row, column):
                    candidates = [self.below(patch, branch) for patch in above] or [self.fresh(row, column, branch)]
                    for patch in candidates:
                        here[(row, column, branch, patch.above)] = patch
                found.update(here)
                above = list({patch.branch: patch for patch in here.values()}.values())
        return tuple(found.values())

    @cached_property
    def planned(self) -> tuple[Patch, ...]:
        """The patches as ``assignment`` has them, in the order in which they are run."""
        found = []
        for column in range(len(self.columns)):
            above: Patch | None = None
            for row in range(len(self.rows)):
                branch = self.plan.branch(row, column)
                above = self.fresh(row, column, branch) if above is None else self.below(above, branch)
                found.append(above)
        return tuple(found)

    # ---- rows that are kept

    def kept(self, patch: Patch) -> dict[int, Span]:
        """Rows of each node's result (and of the frame) that a patch leaves for the one below."""
        if not self.lines or patch.row + 1 == len(self.rows):
            return {}
        following = self.below(patch, patch.branch).trace
        pairs = list(enumerate(zip(patch.trace.held, following.held, strict=True)))
        if self.fetches:
            pairs.append((FRAME, (patch.trace.frame, following.frame)))
        return {
            index: Span(then.rows.start, min(now.rows.stop, then.rows.stop))
            for index, (now, then) in pairs
            if then.pixels and then.rows.start < now.rows.stop
        }

    @cached_property
    def kept_bytes(self) -> dict[int, int]:
        """Most bytes kept of each node's result, by node."""
        most: dict[int, int] = {}
        for patch in self.every:
            for index, rows in self.kept(patch).items():
                tensor, region = self._tensor(patch, index), self._held(patch, index)
                size = aligned(rows.size * row_bytes(tensor, region))
                most[index] = max(most.get(index, 0), size)
        return dict(sorted(most.items()))

    def _tensor(self, patch: Patch, index: int) -> Tensor:
        return self.frame if index == FRAME else self.branches[patch.branch][index].layer.stored

    def _held(self, patch: Patch, index: int) -> Region:
        return patch.trace.frame if index == FRAME else patch.trace.held[index]

    # ---- programs

    def program(self, patch: Patch) -> Program:
        if patch not in self._programs:
            self._programs[patch] = write(self, patch)
        return self._programs[patch]

    def macs(self, patch: Patch) -> int:
        """Multiply-accumulates of a patch, what it shares with others included."""
        return sum(cost.macs(run.problem) for _, run in self.program(patch).runs)

    def bitops(self, patch: Patch) -> int:
        """MACs times bits of weights times bits of what is read."""
        return sum(cost.bitops(run.problem) for _, run in self.program(patch).runs)

    def origin(self, patch: Patch) -> tuple[Span, Span]:
        """Rows and columns of the frame that a patch looks at."""
        return patch.trace.frame.rows, patch.trace.frame.columns

    def problem(self, layer: Layer, key: tuple[object, ...], make: Layer) -> Layer:
        """The same object for the same part of a layer, so that kernels may remember it."""
        return self._problems.setdefault((ByIdentity(layer), *key), make)
