"""What a patch leaves for the one below it lies within what it holds, and only what is read again is kept."""

from __future__ import annotations

from typing import Any

import pytest

from rqdkm.models import load, zoo
from rqdkm.planning import partition
from rqdkm_tvm.patches.estimate import Estimator
from rqdkm_tvm.patches.program import Patches
from rqdkm_tvm.patches.schedule import Split, split_at
from rqdkm_tvm.patches.stage import FRAME, Stage
from rqdkm_tvm.patches.steps import Fetch
from rqdkm_tvm.plan_patches import PatchPlan

LAST = "depthwise_conv2d_3"  # 12 rows of a frame of 96


@pytest.fixture(scope="module")
def split() -> Split:
    module: Any = partition(load.load(zoo.path("visual_wake_words")))
    return split_at(module["main"], LAST)


@pytest.mark.parametrize("grid", [(2, 1), (6, 1), (7, 2), (11, 1), (12, 1), (12, 3)])
def test_kept_rows_are_held_rows_and_no_more_than_estimated(split: Split, grid: tuple[int, int]) -> None:
    plan = PatchPlan(LAST, grid, "lines", "callback")
    patches = Patches(Stage(split.nodes, plan))
    for patch in patches.planned:
        for index, rows in patches.kept(patch).items():
            held = patch.trace.frame if index == FRAME else patch.trace.held[index]
            assert held.rows.holds(rows) and rows.size > 0
    row = 96 * 3
    assert patches.kept_bytes[FRAME] <= 2 * row  # of a 3x3 convolution with stride 2
    estimate = Estimator(split, lambda layer: 0.0).estimate(grid, "lines", "callback")
    whole = sum(patches.kept_bytes.values()) + max(max(patches.program(p).live()) for p in patches.planned)
    assert estimate.bytes <= 2 * (whole + 4608 + 1024)  # the result, and scratch


@pytest.mark.parametrize("rows", [6, 11, 12])
def test_one_column_asks_for_every_row_of_the_frame_once_in_order(split: Split, rows: int) -> None:
    patches = Patches(Stage(split.nodes, PatchPlan(LAST, (rows, 1), "lines", "callback")))
    asked = []
    for patch in patches.planned:
        first = patches.origin(patch)[0].start
        for step in patches.program(patch).steps:
            if isinstance(step, Fetch):
                asked += [first + step.region.rows.start + i for i in range(step.region.rows.size)]
    assert asked == list(range(96))
