"""``--config rq`` on a real model: planned, deployed, exact, repeatable; and what it says when it cannot."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rqdkm import budget, plan_files, planning
from rqdkm.cli import app
from rqdkm.experiment.statistics import PairedLoss
from rqdkm.models import data, load, zoo
from rqdkm.report import codec
from rqdkm.report.schema import Report
from rqdkm_tvm.bitwidths import Budgets
from rqdkm_tvm.errors import BudgetError, DataError

runner = CliRunner()
MODEL = "image_example1"


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Calibration and test inputs; labels are what the int8 network itself says."""
    folder = tmp_path_factory.mktemp("rq")
    model = load.load(zoo.path(MODEL))
    for name, seed, count in (("calib", 0, 96), ("test", 1, 40)):
        np.savez(folder / f"{name}.npz", x=data.structured_inputs(model, count, seed)[0])
    return folder


@pytest.fixture(scope="module")
def deployed(work: Path) -> Report:
    arguments = ["deploy", zoo.path(MODEL), "-o", work / "rq", "--config", "rq", "--max-drop", "25", "--samples", "2"]
    arguments += ["--ram", "56K"]  # the 8-bit network takes more: feature maps have to be packed
    result = runner.invoke(app, [str(a) for a in [*arguments, "--calib", work / "calib.npz", "-q"]])
    assert result.exit_code == 0, result.stderr
    return codec.read(work / "rq" / "report.json")


@pytest.fixture(scope="module")
def planner(work: Path) -> planning.Planner:
    model = load.load(zoo.path(MODEL))
    return planning.Planner(model, data.load_data(work / "calib.npz", model))


def test_bits_below_8_run_exactly_on_the_board(deployed: Report) -> None:
    assert deployed.config == "rq"
    assert deployed.exactness is not None
    assert (deployed.exactness.mismatches, deployed.exactness.samples) == (0, 2)
    assert "NumPy" in deployed.exactness.reference
    assert any(0 < layer.bits_weight < 8 for layer in deployed.layers)
    assert any(layer.bits_output < 8 for layer in deployed.layers)
    assert deployed.totals.bitops < 64 * deployed.totals.macs


def test_the_report_says_how_bits_were_found(deployed: Report) -> None:
    assert deployed.search is not None
    assert not deployed.search.labelled
    assert deployed.search.samples == 96
    assert 0 < deployed.run["search_seconds"] < deployed.run["seconds"]
    assert any(trial.allowed for trial in deployed.search.trials)
    for trial in deployed.search.trials:
        assert trial.allowed == (trial.loss_upper <= 0.25)


def test_it_takes_less_memory_than_int8(work: Path, deployed: Report) -> None:
    arguments = ["deploy", zoo.path(MODEL), "-o", work / "int8", "--samples", "1", "-q"]
    assert runner.invoke(app, [str(a) for a in arguments]).exit_code == 0
    int8 = codec.read(work / "int8" / "report.json").totals
    assert deployed.totals.ram_peak_bytes <= 56 * 1024 < int8.ram_peak_bytes
    assert deployed.totals.weights_bytes < int8.weights_bytes


def test_its_plan_gives_the_same_firmware_without_a_search(work: Path, deployed: Report) -> None:
    arguments = ["build", zoo.path(MODEL), "-o", work / "again", "--plan", work / "rq" / "plan.json", "-q"]
    result = runner.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.stderr
    for name in ("plan.json", "parameters.npz", "project/model/layers.c", "project/model/rqdkm_model.c"):
        assert (work / "again" / name).read_bytes() == (work / "rq" / name).read_bytes(), name


def test_the_same_question_has_the_same_plan(planner: planning.Planner, work: Path, deployed: Report) -> None:
    """Another planner than the deployment's: twin, sensitivities, search, repair, all again."""
    found = planner.plan(budget.limits(25, None, 56 * 1024, None))
    plan, _ = plan_files.read(work / "rq" / "plan.json")
    assert [(x.name, x.weights, x.output) for x in found.plan.layers] == [
        (x.name, x.weights, x.output) for x in plan.layers
    ]
    assert found.parameters.to_bytes() == (work / "rq" / "parameters.npz").read_bytes()


def test_budgets_hold_and_those_that_cannot_say_what_is_needed(
    planner: planning.Planner, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = planner.assign(Budgets(), "error").totals
    fixed = planner.costs.fixed_flash
    weights = free.flash - fixed
    limits = planning.Limits(100, flash=int(fixed + 0.6 * weights), ram=int(0.7 * free.ram))
    found = planner.plan(limits)
    assert found.chosen.weights <= 0.6 * weights
    assert found.chosen.ram <= 0.7 * free.ram
    with pytest.raises(BudgetError, match="flash budget is 100 bytes"):
        planner.plan(planning.Limits(100, flash=100))
    monkeypatch.setattr(planner, "loss", lambda _plan, _parameters: PairedLoss(lost=3, won=0, n=96))
    monkeypatch.setattr(planning, "LADDER", planning.LADDER[:1])
    with pytest.raises(
        BudgetError, match=r"lose 3\.12 points \(up to 5\.6\d on 96 calibration samples\); 5 are allowed"
    ):
        planner.plan(planning.Limits(5.0, flash=int(fixed + 0.3 * weights)))


def test_too_few_samples_for_the_loss_that_is_allowed_say_how_many_it_takes(planner: planning.Planner) -> None:
    with pytest.raises(DataError, match=r"96 calibration samples cannot show .* at most 0\.1 points: that takes 1,609"):
        planner.plan(planning.Limits(0.1))
    with pytest.raises(DataError, match="no number of samples does") as none:
        planner.plan(planning.Limits(0.0))
    assert none.value.hint == "allow 1.67 points or more"
    planning.check_samples(6, 23.6)
    with pytest.raises(DataError, match="that takes 7") as seven:
        planning.check_samples(6, 22.0)
    assert seven.value.hint == "give 7 samples or more, or allow 23.53 points or more"


def test_the_least_ram_is_named_as_the_option_takes_it(tmp_path: Path) -> None:
    """Stack and static data included: who passes what the message says gets a firmware."""
    np.savez(tmp_path / "calib.npz", x=data.structured_inputs(load.load(zoo.path(MODEL)), 24)[0])
    arguments = ["build", zoo.path(MODEL), "-o", tmp_path / "out", "--config", "rq", "--max-drop", "100", "-q"]
    arguments += ["--calib", tmp_path / "calib.npz", "--ram"]
    refused = runner.invoke(app, [str(a) for a in [*arguments, "3K"]])
    assert refused.exit_code == 2
    assert "the budget is 3,072" in refused.stderr
    needed = re.search(r"pass --ram (\d+) or more", refused.stderr)
    assert needed is not None and int(needed[1]) > 3072
    result = runner.invoke(app, [str(a) for a in [*arguments, needed[1]]])
    assert result.exit_code == 0, result.stderr


def test_the_flash_budget_of_the_search_is_for_code_and_all_constants(
    planner: planning.Planner, deployed: Report
) -> None:
    """A lower bound: the linked image has at least what the search counts besides weights, and that is not nothing."""
    assert deployed.search is not None
    linked = deployed.totals.flash_bytes - next(t for t in deployed.search.trials if t.allowed).weights_bytes
    biases = 4 * sum(x.channels for x in planner.costs.layers if x.flash_per_channel)
    assert budget.LEAST_CODE + biases < planner.costs.fixed_flash <= linked
    least = planner.assign(Budgets(), "flash").totals.flash
    with pytest.raises(BudgetError, match=f"can bring it down to {least:,.0f} bytes"):
        planner.plan(budget.limits(100, int(least) - 100, None, None))


def test_fewer_cycles_can_be_asked_for(planner: planning.Planner) -> None:
    free = planner.assign(Budgets(), "error").totals
    assert planner.assign(Budgets(cycles=free.cycles), "memory").totals.cycles <= free.cycles * (1 + 1e-6)
    with pytest.raises(BudgetError, match="cycles"):
        planner.plan(planning.Limits(100, cycles=1000))


def test_rq_without_calibration_data_says_what_to_pass(tmp_path: Path) -> None:
    arguments = ["deploy", zoo.path(MODEL), "-o", tmp_path / "out", "--config", "rq"]
    result = runner.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 2
    assert "--calib" in result.stderr
    assert not (tmp_path / "out").exists()


def test_an_edited_plan_is_obeyed_and_stays_exact(work: Path, deployed: Report, tmp_path: Path) -> None:
    plan = json.loads((work / "rq" / "plan.json").read_text())
    layer = next(x for x in plan["layers"] if x["op"] == "conv2d" and "weights" in x)
    edit = ["plan", "edit", work / "rq", "--layer", layer["name"], "--weights", "8", "-o", tmp_path / "mine.json"]
    assert runner.invoke(app, [str(a) for a in edit]).exit_code == 0
    arguments = ["deploy", zoo.path(MODEL), "-o", tmp_path / "out", "--plan", tmp_path / "mine.json", "--samples", "2"]
    result = runner.invoke(app, [str(a) for a in arguments])
    assert result.exit_code == 0, result.stderr
    found = codec.read(tmp_path / "out" / "report.json")
    assert next(x for x in found.layers if x.name == layer["name"]).bits_weight == 8
    assert found.exactness is not None
    assert found.exactness.mismatches == 0
