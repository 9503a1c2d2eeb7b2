"""From a model file to firmware that chooses its kernels: deploy, dkm costs, train, compare, and deploy again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rqdkm import pipeline
from rqdkm.cli import app
from rqdkm.dkm import measure
from rqdkm.dkm.costs import Costs
from rqdkm.dkm.policy_file import PolicyFile
from rqdkm.models import morph_file, oracle, tflite_write
from rqdkm.models.data import quantize_inputs
from rqdkm.models.graph import compact
from tests.dkm.test_decisions import random_policy
from tests.models import morphs

PLAIN = Path(__file__).parents[2] / "examples" / "machinery" / "model.tflite"
runner = CliRunner()


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = runner.invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


def well(*arguments: object) -> str:
    code, text, error = invoke(*arguments, "-q")
    assert code == 0, error
    return text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The model, samples that its kernels label in part as it is labelled here, a deployment without a policy."""
    root = tmp_path_factory.mktemp("dkm")
    (root / "morph.tflite").write_bytes(morphs.int8_file())
    model, data = morphs.int8_model(), morphs.samples(60)
    labels = oracle.reference_outputs(model, quantize_inputs(data, model))[0].reshape(60, -1).argmax(axis=1)
    np.savez(root / "data.npz", x=data.inputs[0], y=labels)
    np.savez(root / "unlabelled.npz", x=data.inputs[0])
    well("deploy", root / "morph.tflite", "--config", "dkm", "-o", root / "out", "--board", "none")
    return root


@pytest.fixture(scope="module")
def measured(folder: Path) -> Path:
    text = well(
        "dkm", "costs", folder / "out", "--data", folder / "data.npz", "--levels", "0,0.5", "-o", folder / "c.npz"
    )
    assert all(name in text for name in ("separable 3x3", "5x5", "cycles"))
    return folder / "c.npz"


@pytest.fixture(scope="module")
def policy(folder: Path, measured: Path) -> Path:
    well("dkm", "train", measured, "--steps", 3000, "--wrong", 3, "-o", folder / "policy.json")
    return folder / "policy.json"


def test_deciding_takes_about_the_same_time_whatever_the_policy_has_learned(
    folder: Path, measured: Path, policy: Path
) -> None:
    project = pipeline.find_project(folder / "out")
    metadata = pipeline.read_metadata(project)
    taken, ram = measure.decision(project, metadata, folder / "data.npz", PolicyFile.load(policy))
    assert 5_000 < ram < 100_000
    assert taken == pytest.approx(Costs.load(measured).deciding, rel=0.05)
    assert 1_000 < taken < 10_000


def test_costs_are_the_boards_cycles_and_the_networks_answers(measured: Path, folder: Path) -> None:
    costs = Costs.load(measured)
    assert costs.names == ("3x3", "5x5", "separable 3x3", "3x3 in 2 groups", "3x3 dilated")
    assert costs.right.shape == (2, 60, 5) and costs.levels.tolist() == [0.0, 0.5]
    assert costs.cycles[0] < costs.cycles[1] and (costs.memory > 0).all() and costs.memory.max() < 0.3
    model = morphs.int8_model()
    data, labels = quantize_inputs(morphs.samples(60), model), np.load(folder / "data.npz")["y"]
    for kernel in range(5):
        fixed = replace(
            model, tflite=tflite_write.write_graph(compact(morph_file.without_selects(model.graph, kernel)))
        )
        found = oracle.reference_outputs(fixed, data)[0].reshape(60, -1).argmax(axis=1)
        assert np.array_equal(costs.right[0, :, kernel], found == labels)
    assert not np.array_equal(costs.right[1], costs.right[0])


def test_the_policy_is_compared_on_traces_it_has_not_seen(policy: Path, measured: Path, folder: Path) -> None:
    page = folder / "page.md"
    arguments = ("dkm", "compare", policy, measured, "--wrong", 3, "--frames", 200, "--markdown", page)
    text = well(*arguments)
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")]
    assert rows[1:] == [
        "dqn",
        *(f"always {n}" for n in Costs.load(measured).names),
        "rule",
        "random",
        "oracle of the noise",
        "oracle of the class",
    ]
    assert text in page.read_text() and "Safe: 3x3." in page.read_text()
    assert well(*arguments) == text


def test_firmware_with_the_policy_is_exact_whatever_it_selects(policy: Path, folder: Path) -> None:
    out = folder / "with_policy"
    data = folder / "data.npz"
    well(
        "deploy",
        folder / "morph.tflite",
        "--config",
        "dkm",
        "--policy",
        policy,
        "-o",
        out,
        "--data",
        data,
        "--samples",
        8,
    )
    report = json.loads((out / "report.json").read_text())
    assert report["exactness"]["mismatches"] == 0 and report["exactness"]["samples"] == 8
    assert report["accuracy"]["n"] == 60
    note = next(note for note in report["notes"] if note.startswith("Kernels that the policy chose for 8 frames"))
    counts = note.partition(": ")[2].partition(". ")[0].split(", ")
    assert sum(int(count.rpartition(" ")[2]) for count in counts) == 8
    assert {count.rpartition(" ")[0] for count in counts} <= set(PolicyFile.load(policy).names)
    blob = PolicyFile.load(policy).policy.to_bytes()
    assert f"rqdkm_model_policy_bytes = {len(blob)};" in (out / "project" / "model" / "policy.c").read_text()
    code, _, error = invoke("dkm", "costs", out, "--data", folder / "data.npz", "-o", out / "c.npz", "-q")
    assert code == 2 and "its firmware has a policy" in error and not (out / "c.npz").exists()


def test_what_does_not_fit_is_one_error(folder: Path, tmp_path: Path) -> None:
    policy, measured = tmp_path / "policy.json", tmp_path / "costs.npz"
    names = ("3x3", "5x5", "separable 3x3", "3x3 in 2 groups", "3x3 dilated")
    PolicyFile(names, 0, (1,) * 5, random_policy(0)).save(policy)
    PolicyFile(("a", *names[1:]), 0, (1,) * 5, random_policy(0)).save(tmp_path / "other.json")
    ones = np.ones(5)
    Costs(names, 0, ones, ones, np.zeros(1), np.zeros((1, 2, 3)), np.ones((1, 2, 5), bool)).save(measured)
    morph, out = folder / "morph.tflite", tmp_path / "o"
    for arguments, reason in (
        (("deploy", PLAIN, "--config", "dkm", "-o", out), "no layer of it morphs"),
        (("deploy", morph, "--policy", policy, "-o", out), "selects kernels of a morphing model"),
        (("deploy", morph, "--config", "dkm", "--policy", tmp_path / "other.json", "-o", out), "it selects among a"),
        (("deploy", morph, "--config", "dkm", "--policy", measured, "-o", out), "it is no policy"),
        (("dkm", "costs", folder / "out", "--data", folder / "unlabelled.npz"), "no labels to learn with"),
        (("dkm", "costs", folder / "out", "--data", folder / "data.npz", "--levels", "0,x"), "no list of numbers"),
        (("dkm", "costs", folder, "--data", folder / "data.npz"), "not a project of rqdkm"),
        (("dkm", "train", policy), "cannot read the costs"),
        (("dkm", "compare", tmp_path / "other.json", measured), "it chooses among a"),
    ):
        code, _, error = invoke(*arguments, "-q")
        assert code == 2 and reason in error and "Traceback" not in error, error
        assert not out.exists()
