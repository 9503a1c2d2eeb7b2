"""The page of the four configurations: its columns, from figures that are given."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np

from rqdkm.experiment import morphing
from tests.report.factory import report


def row(name: str, cycles: list[float], shares: list[float]) -> Any:
    reference = SimpleNamespace(loss_ci95=(0.0, 0.0), frames_per_second=6.7, loss=0.0)
    outcome = SimpleNamespace(
        reference=reference,
        frames_per_second=13.4,
        accuracy=0.9,
        clean=0.9,
        missed=0.1,
        served=0.8,
        shares=np.array(shares),
    )
    costs = SimpleNamespace(frame=np.array(cycles))
    return morphing.Row(name, report(), costs, SimpleNamespace(policy=outcome), None, None)  # type: ignore[arg-type]


def test_power_is_that_of_the_mean_frame_at_the_rate_that_the_slowest_holds() -> None:
    """Half of the frames by a kernel of 8.4 million cycles, half by one of 2.8: as one of 5.6 million."""
    found = morphing.table([row("baseline", [16_800_000], [1.0]), row("dkm", [8_400_000, 2_800_000], [0.5, 0.5])])
    header, _, baseline, dkm = found.splitlines()
    assert header.endswith("power running, mW | energy, mJ | mean at 10.0 frames/s, mW |")
    assert baseline.endswith("| 132 | 13.20 | 132.0 |") and dkm.endswith("| 132 | 4.40 | 44.7 |")


def test_all_configurations_meet_the_limits_of_the_first_that_morphs() -> None:
    fixed, two = (SimpleNamespace(names=("fixed",), cycles=np.array([9.0]), safe=0) for _ in range(2))
    morph = SimpleNamespace(names=("a", "b"), cycles=np.array([3.0, 2.0]), safe=1)
    limit = morphing._limit_unit
    assert limit({"baseline": fixed, "dkm": morph, "rq": two}) == 2.0  # type: ignore[dict-item]
    assert limit({"baseline": fixed, "rq": two}) == 9.0  # type: ignore[dict-item]
