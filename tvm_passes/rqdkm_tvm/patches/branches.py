"""SearchBranchBitwidths: VDQS for the patches that VDPC leaves, and what it finds as branches of a plan."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from rqdkm_tvm.graph import module_pass
from rqdkm_tvm.layer import NDArray
from rqdkm_tvm.patches.classify import stage_of
from rqdkm_tvm.patches.search import LAMBDA, Branch, Progress, Searcher
from rqdkm_tvm.plan import OutputPlan, Plan
from rqdkm_tvm.plan_patches import PatchPlan


def groups(plan: PatchPlan) -> list[list[tuple[int, int]]]:
    """Positions outside branch 0 that get formats together: all of them where rows are kept from patch to patch, which
    only patches of one format can do; each for itself where halos are computed again."""
    rows, columns = plan.grid
    low = [(r, c) for r in range(rows) for c in range(columns) if plan.branch(r, c) != 0]
    if plan.halo == "lines" or plan.outliers is not None:
        return [low] if low else []
    return [[position] for position in low]


def searched(plan: PatchPlan, branches: Sequence[Branch]) -> PatchPlan:
    """``plan`` with the formats found; branches that are equal become one."""
    numbers: dict[tuple[tuple[str, OutputPlan], ...], int] = {(): 0}
    tables: list[Mapping[str, OutputPlan]] = [{}]
    rows, columns = plan.grid
    assignment = [[0] * columns for _ in range(rows)]
    for branch in branches:
        key = tuple(sorted(branch.outputs.items(), key=lambda item: item[0]))
        if key not in numbers:
            numbers[key] = len(tables)
            tables.append(branch.outputs)
        for r, c in branch.positions:
            assignment[r][c] = numbers[key]
    outliers = plan.outliers if len(tables) > 1 else None
    return dataclasses.replace(
        plan,
        branches=tuple(tables),
        assignment=tuple(map(tuple, assignment)) if len(tables) > 1 else (),
        outliers=outliers,
    )


def SearchBranchBitwidths(  # noqa: N802 (named like TVM's)
    plan: Plan,
    frames: Sequence[NDArray] | NDArray,
    *,
    weight: float = LAMBDA,
    ram: int | None = None,
    progress: Progress = lambda _text: None,
) -> Any:
    """Pass: VDQS. Writes formats of feature maps into the branches of ``plan.patches`` that VDPC has left for them;
    without classes (:func:`ClassifyPatches`) into a branch for all patches. The module stays what it is.

    Comes before :func:`SchedulePatches`.

    Args:
        plan: with ``patches``.
        frames: calibration samples, int8, (n, H, W, C).
        weight: lambda of the score.
        ram: bytes for kept rows and buffers of a patch; None: no limit.

    Raises:
        PlanError, BudgetError
    """

    def run(mod: Any) -> Any:
        stage = stage_of(mod, plan)
        assert plan.patches is not None
        classes = plan.patches
        if not classes.assignment:
            everywhere = tuple((1,) * classes.grid[1] for _ in range(classes.grid[0]))
            classes = dataclasses.replace(classes, branches=({}, {}), assignment=everywhere)
        searcher = Searcher(mod, stage, np.asarray(frames), ram=ram, progress=progress)
        sets = groups(classes)
        found = [searcher.search(positions, weight, renew=len(sets) == 1) for positions in sets]
        plan.patches = searched(classes, found)
        return mod

    return module_pass("SearchBranchBitwidths", run)
