"""``rqdkm tune``: kernels by measured cycles."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest

from rqdkm import tune
from rqdkm.models import load, zoo
from rqdkm.options import DeployOptions
from rqdkm.planning import partition
from rqdkm_tvm.assign import AssignKernels, Option, layer_options
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.sites import read_sites


def rqdkm(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rqdkm.cli", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)


@pytest.fixture(scope="module")
def mod() -> object:
    return partition(load.load(zoo.path("image_example1")))


def test_what_was_measured_decides(mod: object) -> None:
    """The option that needs the least memory wins where it measures best, whatever its estimate."""
    estimated = Plan()
    AssignKernels(estimated)(mod)
    sites = read_sites(mod["main"])  # type: ignore[index]
    every = layer_options(mod["main"], sites, Plan())  # type: ignore[index]
    name = next(site.name for site in sites if len([o for o in every[site.name] if not o.kernel.reference]) > 2)
    wanted = min(every[name], key=lambda o: (o.ram_bytes, o.constant_bytes))

    def measured(layer: str, option: Option) -> Option:
        same = layer == name and (option.kernel, option.config) == (wanted.kernel, wanted.config)
        return dataclasses.replace(option, cycles=1.0) if same else option

    tuned = Plan()
    AssignKernels(tuned, measured=measured)(mod)
    entry = tuned.get(name)
    assert entry is not None and entry.kernel == wanted.kernel.name and entry.config == dict(wanted.config)
    before = estimated.get(name)
    assert before is not None and (before.kernel, before.config) != (entry.kernel, entry.config)


def test_measured_plans_are_obeyed_and_no_slower(tmp_path: Path) -> None:
    model = zoo.path("image_example1")
    plan = tmp_path / "tuned.json"
    done = rqdkm("tune", model, "-o", plan, "--candidates", "2")
    assert done.returncode == 0, done.stderr
    assert "layers measured" in done.stdout
    found = Plan.from_json(plan.read_text())
    assert all(entry.kernel for entry in found.layers)
    deployed = rqdkm("deploy", model, "--plan", plan, "--board", "none", "-o", tmp_path / "out")
    assert deployed.returncode == 0, deployed.stderr
    assert (tmp_path / "out/plan.json").read_text() == plan.read_text()


def test_rows_compare_within_the_same_budgets(tmp_path: Path) -> None:
    options = DeployOptions(model=zoo.path("image_example1"), out=tmp_path / "x")
    tuned = tune.tune(options, candidates=2)
    assert tuned.rows and tuned.measured >= 2 * len(tuned.rows) - 4
    assert all(row.fastest <= min(row.estimated_cycles, row.tuned_cycles) for row in tuned.rows)
    assert sum(r.tuned_cycles for r in tuned.rows) <= 1.01 * sum(r.estimated_cycles for r in tuned.rows)
