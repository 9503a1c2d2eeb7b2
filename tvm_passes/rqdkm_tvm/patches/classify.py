"""VDPC, value-driven patch classification: which patches keep 8-bit feature maps because their values have outliers.

Assumption, as in QuantMCU: the values of the stage's input follow a normal distribution N(mu, sigma^2), both estimated
over all calibration samples. A value is an outlier beyond ``mu +- k sigma``, with ``k`` from the tail probability
``tail`` that the normal distribution leaves outside: ``tail = 2 (1 - Phi(k))``. Of ``n`` values about ``n tail`` are
outside by chance; a patch is an outlier patch if it has more than ``n tail + 3 sqrt(n tail (1 - tail))``, three
standard deviations of that (binomial) count beyond its mean. ``n`` is the patch's region of the input, halo included:
what its branch sees.

Static: a position is of the outlier class if it is an outlier patch in at least ``share`` of the samples. Dynamic: the
chip counts for every patch of every input (:func:`rqdkm_is_outlier_patch`); both branches are compiled and share their
weights.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.errors import DataError, PlanError
from rqdkm_tvm.graph import module_pass
from rqdkm_tvm.layer import NDArray
from rqdkm_tvm.patches.program import Patches
from rqdkm_tvm.patches.schedule import split_at
from rqdkm_tvm.patches.stage import Stage
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.plan_patches import Outliers, PatchPlan

TAIL, SHARE = 0.02, 0.25
Mode = Literal["off", "static", "dynamic"]


@dataclass(frozen=True)
class Classes:
    """What was found on the calibration samples.

    Args:
        outliers: thresholds in int8 and the count that makes an outlier patch.
        share: (rows, columns) part of the samples in which the patch there is one.
    """

    outliers: Outliers
    share: npt.NDArray[np.float64]


def thresholds(frames: NDArray, tail: float) -> tuple[int, int]:
    """Least and greatest int8 value that is no outlier, from (n, ...) int8 samples."""
    values = np.arange(-128, 128)
    shares = np.bincount(frames.reshape(-1).view(np.uint8), minlength=256)[values.astype(np.uint8)] / frames.size
    mean = float(shares @ values)
    deviation = math.sqrt(float(shares @ (values - mean) ** 2))
    k = NormalDist().inv_cdf(1 - tail / 2)
    return math.ceil(max(mean - k * deviation, -129)), math.floor(min(mean + k * deviation, 128))


def least_count(values: int, tail: float) -> int:
    """Outliers that make a patch of so many values an outlier patch."""
    return math.floor(values * tail + 3 * math.sqrt(values * tail * (1 - tail))) + 1


def classify(stage: Stage, frames: NDArray, *, tail: float = TAIL) -> Classes:
    """Classes of the patches of ``stage`` on calibration samples.

    Args:
        frames: (n, H, W, C) int8, the stage's input.

    Raises:
        DataError: the samples do not fit.
    """
    if not 0 < tail < 1:
        raise ValueError(f"a tail probability of {tail}")
    _check(stage, frames)
    low, high = thresholds(frames, tail)
    patches = Patches(stage)
    beyond = (frames < low) | (frames > high)
    grid = stage.plan.grid
    seen = [[patches.fresh(r, c, 0).trace.frame for c in range(grid[1])] for r in range(grid[0])]
    count = least_count(max(region.pixels for row in seen for region in row) * frames.shape[3], tail)
    share = np.zeros(grid)
    for r, row in enumerate(seen):
        for c, region in enumerate(row):
            part = beyond[:, region.rows.start : region.rows.stop, region.columns.start : region.columns.stop]
            share[r, c] = float((part.sum(axis=(1, 2, 3)) >= count).mean())
    return Classes(Outliers(low, high, count), share)


def _check(stage: Stage, frames: NDArray) -> None:
    shape = stage.frame.shape[1:]
    if frames.ndim != 4 or frames.shape[1:] != shape or frames.dtype != np.int8 or not len(frames):
        raise DataError(
            f"samples of {frames.dtype} {list(frames.shape)} do not fit the input, int8 {['n', *shape]}",
            where="patch classification",
        )


def classified(plan: PatchPlan, classes: Classes, mode: Mode, share: float = SHARE) -> PatchPlan:
    """``plan`` with branch 0 for outlier patches and branch 1, in the same formats so far, for the others."""
    rows, columns = plan.grid
    if mode == "static":
        assignment = tuple(tuple(int(classes.share[r, c] < share) for c in range(columns)) for r in range(rows))
    else:
        assignment = tuple((1,) * columns for _ in range(rows))
    outliers = classes.outliers if mode == "dynamic" else None
    return dataclasses.replace(plan, branches=({}, {}), assignment=assignment, outliers=outliers)


def stage_of(mod: Any, plan: Plan) -> Stage:
    """The stage that a plan cuts out of a partitioned module.

    Raises:
        PlanError: the plan has none, or the network cannot be divided there.
    """
    if plan.patches is None:
        raise PlanError("it has no patches", where="plan", hint="set plan.patches, or find them (patches.find.Finder)")
    split = split_at(mod["main"], plan.patches.last)
    return Stage(split.nodes, dataclasses.replace(plan.patches, branches=({},), assignment=(), outliers=None))


def ClassifyPatches(  # noqa: N802 (named like TVM's)
    plan: Plan,
    frames: Sequence[NDArray] | NDArray,
    *,
    mode: Literal["static", "dynamic"] = "static",
    tail: float = TAIL,
    share: float = SHARE,
) -> Any:
    """Pass: VDPC. Writes into ``plan.patches`` which patches keep branch 0; the module stays what it is.

    Comes after :func:`PartitionLayers` (and :func:`LowerMixedPrecision`), before :func:`SchedulePatches`.

    Args:
        plan: with ``patches``.
        frames: calibration samples, int8, (n, H, W, C).
        mode: decided here for every position, or on the chip for every patch.
        tail: probability outside the thresholds under the normal distribution.
        share: part of the samples that makes a position an outlier position (static).

    Raises:
        PlanError, DataError
    """

    def run(mod: Any) -> Any:
        stage = stage_of(mod, plan)
        classes = classify(stage, np.asarray(frames), tail=tail)
        assert plan.patches is not None
        plan.patches = classified(plan.patches, classes, mode, share)
        return mod

    return module_pass("ClassifyPatches", run)
