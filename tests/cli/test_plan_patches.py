"""rqdkm plan show, patch, check on plans with a patch stage."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rqdkm import plan_files
from rqdkm.cli import app
from rqdkm.models import zoo
from rqdkm_tvm.plan import LayerPlan, OutputPlan, Plan
from rqdkm_tvm.plan_patches import Outliers, PatchPlan

runner = CliRunner()
STAGE = ("a", "b", "c")


def patches(**changes: object) -> PatchPlan:
    given: dict[str, object] = {
        "halo": "lines",
        "branches": ({}, {"a": OutputPlan(4, 0.25, -8), "b": OutputPlan(2, 0.5, -2)}),
        "assignment": ((0, 1), (1, 1), (1, 0)),
        "outliers": Outliers(-90, 113, 7),
    }
    return PatchPlan("c", (3, 2), **{**given, **changes})  # type: ignore[arg-type]


def plan(found: PatchPlan | None) -> Plan:
    layers = [LayerPlan("patch_stage", "patch_stage", "patch_stage", {"arena": 4096})]
    layers += [LayerPlan(name, "conv2d", "patched") for name in STAGE]
    layers.append(LayerPlan("d", "conv2d", "conv2d_s8_direct", {"rows": 2}))
    return Plan(layers, patches=found)


@pytest.fixture()
def folder(tmp_path: Path) -> Path:
    plan_files.write(tmp_path, plan(patches()), None)
    return tmp_path


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = runner.invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def read(folder: Path) -> Plan:
    return plan_files.read(folder / "plan.json")[0]


def test_show_prints_grid_classes_branches_and_what_runs_the_layers(folder: Path) -> None:
    code, text, _ = invoke("plan", "show", folder)
    assert code == 0
    rows = [line.split() for line in text.splitlines()]
    for wanted in (
        ["patches", "3x2", "of", "the", "result", "of", "c"],
        ["halo", "lines"],
        ["branches", "0", "1"],
        ["1", "0"],
        ["a", "own", "4", "bits,", "0.25,", "-8"],
        ["b", "own", "2", "bits,", "0.5,", "-2"],
        ["patch_stage", "patch_stage", "-", "8", "patch_stage", "arena", "4096"],
        ["a", "conv2d", "8", "8", "patched"],
    ):
        assert wanted in rows
    assert "below -90 or above 113; 7 of them" in text
    assert invoke("plan", "show", folder, "--json")[1] == (folder / "plan.json").read_text()


def test_another_halo_and_input_keep_the_branches(folder: Path) -> None:
    plan_files.write(folder, plan(patches(outliers=None)), None)
    code, _, message = invoke("plan", "patch", folder, "--halo", "recompute", "--input", "callback")
    assert (code, "to be planned anew" in message) == (0, True)
    found = read(folder)
    assert found.patches == patches(halo="recompute", input="callback", outliers=None)
    assert found.layers[0] == LayerPlan("patch_stage", "patch_stage")
    assert found.layers[1:] == plan(None).layers[1:]


def test_another_grid_leaves_out_what_was_made_for_the_old_one(folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "mine.json"
    code, _, message = invoke("plan", "patch", folder, "--patch", "4x1", "-o", target)
    assert (code, "branches were made for other patches" in message) == (0, True)
    assert plan_files.read(target)[0].patches == PatchPlan("c", (4, 1), "lines")
    assert read(folder).patches == patches()  # the source is as it was


def test_the_same_grid_leaves_out_nothing(folder: Path) -> None:
    assert invoke("plan", "patch", folder, "--patch", "3x2")[0] == 0
    assert read(folder).patches == patches()


def test_a_format_of_a_branch_is_changed_and_given_up(folder: Path) -> None:
    edit = ("plan", "patch", folder, "--branch", "1", "--layer")
    assert invoke(*edit, "a", "--output", "2:0.75:1")[0] == 0
    assert invoke(*edit, "b", "--output", "own")[0] == 0
    found = read(folder).patches
    assert found is not None
    assert found.branches == ({}, {"a": OutputPlan(2, 0.75, 1)})


def test_off_runs_the_layers_whole_again(folder: Path) -> None:
    code, _, message = invoke("plan", "patch", folder, "--patch", "off")
    assert (code, "chosen anew: a, b, c" in message) == (0, True)
    found = read(folder)
    assert found.patches is None
    assert [(x.name, x.kernel) for x in found.layers] == [("a", ""), ("b", ""), ("c", ""), ("d", "conv2d_s8_direct")]
    assert json.loads((folder / "plan.json").read_text())["version"] == 2


WRONG = {
    "nothing": ((), "nothing to change"),
    "no grid": (("--patch", "3by2"), "no grid"),
    "too many patches": (("--patch", "257x1"), "expected [rows, columns]"),
    "an unknown halo": (("--halo", "mirror"), 'halo is "mirror"'),
    "an unknown input": (("--input", "camera"), 'input is "camera"'),
    "no frame to look at": (("--input", "callback"), "only if the frame is in memory"),
    "a branch without a layer": (("--branch", "1"), "belong together"),
    "branch 0": (("--branch", "0", "--layer", "a", "--output", "4:0.5:0"), "branch 0 has no formats of its own"),
    "an unknown branch": (("--branch", "2", "--layer", "a", "--output", "4:0.5:0"), "those that have: 1"),
    "a layer outside": (("--branch", "1", "--layer", "d", "--output", "4:0.5:0"), "its layers: a, b, c"),
    "the last layer": (("--branch", "1", "--layer", "c", "--output", "4:0.5:0"), "in one format"),
    "three bits": (("--branch", "1", "--layer", "a", "--output", "3:0.5:0"), "no quantization"),
    "the model's": (("--branch", "1", "--layer", "a", "--output", "model"), "no format of a branch"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_edits_are_one_message_and_change_nothing(folder: Path, name: str) -> None:
    arguments, reason = WRONG[name]
    before = (folder / "plan.json").read_bytes()
    code, _, message = invoke("plan", "patch", folder, *arguments)
    assert (code, reason in message) == (2, True), message
    assert (folder / "plan.json").read_bytes() == before


def test_a_plan_without_patches_has_none_to_change(tmp_path: Path) -> None:
    plan_files.write(tmp_path, Plan([LayerPlan("d", "conv2d")]), None)
    code, _, message = invoke("plan", "patch", tmp_path, "--halo", "lines")
    assert (code, "has no patches" in message) == (2, True)
    assert "patches" not in invoke("plan", "show", tmp_path)[1]


def test_check_compiles_what_was_edited_or_says_what_does_not_fit(tmp_path: Path) -> None:
    model = zoo.path("image_example1")
    path = tmp_path / "plan.json"
    whole = json.loads(invoke("plan", "check", _written(path, Plan()), model, "--json")[1])
    last = _second(model)
    code, text, message = invoke(
        "plan", "check", _written(path, Plan(patches=PatchPlan(last, (2, 1)))), model, "--json"
    )
    assert code == 0, message
    found = json.loads(text)
    assert found["kernels"] < whole["kernels"]  # layers became a stage
    assert found["macs"] == whole["macs"]
    assert invoke("plan", "patch", path, "--patch", "4x1", "--halo", "lines")[0] == 0
    assert invoke("plan", "check", path, model)[0] == 0
    assert invoke("plan", "patch", path, "--patch", "200x1")[0] == 0
    code, _, message = invoke("plan", "check", path, model)
    assert (code, "200 patches over" in message) == (2, True)
    code, _, message = invoke("plan", "check", _written(path, Plan(patches=PatchPlan("nobody", (2, 1)))), model)
    assert (code, "cannot be divided there" in message) == (2, True)


def _written(path: Path, made: Plan) -> Path:
    path.write_text(made.to_json())
    return path


def _second(model: Path) -> str:
    """The second layer after which the network may be divided."""
    from rqdkm.models import load
    from rqdkm.planning import partition
    from rqdkm_tvm.patches.schedule import splits

    return splits(partition(load.load(model))["main"])[1].last
