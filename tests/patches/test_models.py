"""Trained third-party networks cut into patches, against TFLite's reference kernels: a sample of all splits and grids.

``python -m tests.patches.sweep`` goes through all of them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rqdkm import judge
from rqdkm.export import host as export_host
from rqdkm.export import project
from rqdkm.models import load, oracle, zoo
from rqdkm_tvm.compile import compile_model
from rqdkm_tvm.patches.stage import Stage
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.plan_patches import PatchPlan
from tests.patches import host, sweep
from tests.patches.sweep import NETWORKS

SAMPLED = {"image_classification": 3, "visual_wake_words": 6}


@pytest.mark.parametrize("name", NETWORKS)
def test_sampled_splits_and_grids_equal_tflite(name: str) -> None:
    """Under sanitizers; some grid at the first split, some at the last, others between."""
    net = sweep.network(name)
    rng = np.random.default_rng(len(name))
    inner = rng.choice(len(net.splits) - 2, SAMPLED[name] - 2, replace=False) + 1
    cases, expected = [], []
    for index in (0, *sorted(int(i) for i in inner), len(net.splits) - 1):
        split = net.splits[index]
        plans = sweep.ways(split)
        chosen = [plans[int(i)] for i in rng.choice(len(plans), min(2, len(plans)), replace=False)]
        cases += sweep.cases(net, split, chosen, "direct")
        expected += [net.expected(split)] * len(chosen)
    host.check(cases, expected)


def test_winograd_in_patches_equals_tflite() -> None:
    net = sweep.network("image_classification")
    plan = PatchPlan(net.splits[1].last, (2, 1), "lines")
    cases = host.cases_of(Stage(net.splits[1].nodes, plan), net.frames, most=2)
    results = host.check(cases, [net.expected(net.splits[1])] * len(cases))
    assert len(results) == len(cases)
    assert any("winograd" in host.lowered(case).prelude for case in cases)


def test_the_sweep_goes_through_every_grid() -> None:
    _, *_, last = sweep.network("visual_wake_words").splits
    grids = {plan.grid for plan in sweep.ways(sweep.network("visual_wake_words").splits[0])}
    assert grids == {(r, c) for r in range(1, 6) for c in range(1, 6)}
    assert {plan.grid for plan in sweep.ways(last)} == {(1, 1)}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "last", "grid", "halo", "input_"),
    [
        ("image_classification", "add_1", (4, 2), "recompute", "frame"),
        ("visual_wake_words", "conv2d_4", (4, 1), "lines", "callback"),
    ],
)
def test_a_whole_network_equals_tflite(
    name: str, last: str, grid: tuple[int, int], halo: str, input_: str, tmp_path: Path
) -> None:
    model = load.load(zoo.path(name))
    plan = Plan(patches=PatchPlan(last, grid, halo, input_))  # type: ignore[arg-type]
    compiled = compile_model(model.module, plan=plan, output_names=list(model.output_names), kernel_set="direct")
    path = project.write_project(compiled, tmp_path / "p", name=name).path
    inputs = judge.exactness_inputs(model, 4, seed=3)
    found = export_host.run(export_host.build_host_runner(path), inputs)
    for got, wanted in zip(found, oracle.reference_outputs(model, inputs), strict=True):
        assert np.array_equal(got.reshape(wanted.shape), wanted)
