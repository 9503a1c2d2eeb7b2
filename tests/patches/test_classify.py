"""VDPC: thresholds, counts and classes against what the normal distribution says."""

from __future__ import annotations

import math
from pathlib import Path
from statistics import NormalDist

import numpy as np
import pytest

from rqdkm.models import load, patched
from rqdkm.planning import partition
from rqdkm_tvm.errors import DataError, PlanError
from rqdkm_tvm.patches.classify import ClassifyPatches, classified, classify, least_count, stage_of, thresholds
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.plan_patches import PatchPlan

MODEL = Path(__file__).parents[2] / "examples/mnist/model.tflite"
LAST = "max_pooling2d_1"


@pytest.fixture(scope="module")
def mod() -> object:
    return partition(load.load(MODEL))


def plan(grid: tuple[int, int] = (2, 2)) -> Plan:
    found = Plan()
    found.patches = PatchPlan(LAST, grid)
    return found


def test_thresholds_leave_the_stated_tail_of_normal_values_outside() -> None:
    values = np.clip(np.rint(np.random.default_rng(0).normal(5, 20, 200_000)), -128, 127).astype(np.int8)
    low, high = thresholds(values, 0.05)
    outside = ((values < low) | (values > high)).mean()
    assert 0.04 < outside < 0.06
    assert low < 5 < high and abs((low + high) / 2 - 5) < 1


def test_the_count_is_three_deviations_beyond_chance() -> None:
    n, tail = 1000, 0.02
    least = least_count(n, tail)
    assert least - 1 <= n * tail + 3 * math.sqrt(n * tail * (1 - tail)) < least
    drawn = np.random.default_rng(1).binomial(n, tail, 100_000)
    assert (drawn >= least).mean() < 2 * (1 - NormalDist().cdf(3))


def test_only_the_corner_with_outliers_is_of_their_class(mod: object) -> None:
    rng = np.random.default_rng(2)
    frames = np.clip(np.rint(rng.normal(-100, 3, (40, 28, 28, 1))), -128, 127).astype(np.int8)
    frames[:30, 20:, 20:] = 120  # bright, in three of four samples
    wanted = plan((4, 4))
    ClassifyPatches(wanted, frames, mode="static")(mod)
    assert wanted.patches is not None
    assignment = np.array(wanted.patches.assignment)
    assert assignment[3, 3] == 0 and assignment[:2, :2].all()
    assert wanted.patches.outliers is None and len(wanted.patches.branches) == 2


def test_positions_are_outliers_from_the_stated_share_on(mod: object) -> None:
    frames = np.full((10, 28, 28, 1), -100, np.int8)
    frames[:, ::2, ::3] = -96
    frames[:3, 22:, 22:] = 127
    stage = stage_of(mod, plan((4, 4)))
    classes = classify(stage, frames)
    assert classes.share[3, 3] == pytest.approx(0.3)
    below = classified(stage.plan, classes, "static", share=0.31)
    above = classified(stage.plan, classes, "static", share=0.3)
    assert below.branch(3, 3) == 1 and above.branch(3, 3) == 0


def test_dynamic_classes_are_those_that_the_chip_finds(mod: object) -> None:
    rng = np.random.default_rng(3)
    frames = np.clip(np.rint(rng.normal(-90, 8, (30, 28, 28, 1))), -128, 127).astype(np.int8)
    frames[::3, 4:12, 4:12] = 110
    wanted = plan((3, 3))
    ClassifyPatches(wanted, frames, mode="dynamic")(mod)
    assert wanted.patches is not None and wanted.patches.outliers is not None
    stage = stage_of(mod, wanted)
    taken = patched.stage_branches(type(stage)(stage.nodes, wanted.patches), frames)
    share = classify(stage, frames).share
    assert np.allclose((taken == 0).mean(axis=0), share)
    assert share.max() > 0.3 and share.min() == 0


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, 28, 28, 1), np.int8),
        np.zeros((4, 28, 27, 1), np.int8),
        np.zeros((4, 28, 28, 1), np.float32),
        np.zeros((28, 28, 1), np.int8),
    ],
)
def test_samples_that_do_not_fit_are_refused(mod: object, frames: np.ndarray) -> None:
    with pytest.raises(DataError, match="do not fit the input"):
        ClassifyPatches(plan(), frames)(mod)


def test_a_plan_without_patches_is_refused(mod: object) -> None:
    with pytest.raises(PlanError, match="no patches"):
        ClassifyPatches(Plan(), np.zeros((4, 28, 28, 1), np.int8))(mod)
