"""Bench compares like with like, and a missed target is a failure."""

from __future__ import annotations

import importlib
import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rqdkm import anchors
from rqdkm.cli import app
from rqdkm.models import zoo
from rqdkm.options import DeployOptions
from rqdkm.report.schema import Layer, Report, Search
from tests.cli import fakes
from tests.report.factory import report

runner = CliRunner()


def _fake(monkeypatch: pytest.MonkeyPatch, made: Report) -> list[str]:
    seen: list[str] = []

    def deploy(options: DeployOptions, progress: object) -> Report:
        seen.append("/".join(options.out.parts[-2:]))
        return replace(made, config=options.config)

    fakes.install(monkeypatch, deploy=deploy)
    monkeypatch.setattr(zoo, "path", lambda name, progress: Path(f"models/{name}.tflite"))
    monkeypatch.setattr(importlib.import_module("rqdkm.bench"), "_planned", lambda options: options)
    return seen


def _fitting(made: Report) -> Report:
    """The synthetic report, small and fast enough for every target."""
    totals = replace(made.totals, cycles_per_mac=0.65, ram_peak_bytes=24000)
    return replace(made, memory=replace(made.memory, arena_planned_bytes=20000), totals=totals)


def test_bench_deploys_the_three_models_and_writes_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _fake(monkeypatch, _fitting(report()))
    result = runner.invoke(app, ["bench", "-o", str(tmp_path / "b"), "--markdown", str(tmp_path / "b.md"), "--check"])
    assert result.exit_code == 0, result.output
    models = ["image_classification", "visual_wake_words", "keyword_spotting"]
    both = [f"{model}/{config}" for model in models for config in ("baseline", "int8")]
    assert seen == [*both[:2], "image_classification/rq", *both[2:]]
    written = json.loads((tmp_path / "b" / "bench.json").read_text())
    assert written["schema"] == "rqdkm.bench/1" and written["passed"] is True
    assert written["models"]["keyword_spotting"]["configs"]["int8"]["totals"]["cycles"] == 6_893_000
    page = (tmp_path / "b.md").read_text()
    for text in (page, result.stdout):
        assert "block1_a" in text and "TFLM + CMSIS-NN" in text and "X-CUBE-AI 9.0" in text
    assert "modelled" in page and "| **rqdkm baseline** | 0.65 | modelled |" in page


@pytest.mark.parametrize("key", ["cycles_per_mac", "arena_planned_bytes"])
def test_a_missed_target_fails_the_check_and_is_named(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = _fitting(report())
    part = "memory" if key.startswith("arena") else "totals"
    _fake(monkeypatch, replace(made, **{part: replace(getattr(made, part), **{key: 10**6})}))
    result = runner.invoke(app, ["bench", "-o", str(tmp_path), "keyword_spotting", "--check"])
    assert result.exit_code == 1
    assert f"✗ baseline: {key}" in result.stdout
    assert runner.invoke(app, ["bench", "-o", str(tmp_path), "keyword_spotting"]).exit_code == 0


def test_a_figure_nobody_counted_meets_no_target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _fitting(report())
    _fake(monkeypatch, replace(made, totals=replace(made.totals, cycles=None, cycles_per_mac=None, latency_ms=None)))
    result = runner.invoke(app, ["bench", "-o", str(tmp_path), "keyword_spotting", "--check", "--json"])
    assert result.exit_code == 1
    assert json.loads(result.stdout)["models"]["keyword_spotting"]["configs"]["baseline"]["targets"][0]["value"] is None


def test_inexact_outputs_fail_the_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = _fitting(report())
    assert made.exactness is not None
    _fake(monkeypatch, replace(made, exactness=replace(made.exactness, mismatches=1)))
    assert runner.invoke(app, ["bench", "-o", str(tmp_path), "keyword_spotting", "--check"]).exit_code == 1


@pytest.mark.parametrize(("seconds", "code"), [(170.0, 0), (190.0, 1)])
def test_a_slow_search_fails_the_check_and_is_on_the_screen_only(
    seconds: float, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fake(monkeypatch, replace(_fitting(report()), run={"search_seconds": seconds}))
    arguments = ["bench", "-o", str(tmp_path), "keyword_spotting", "--config", "rq", "--check"]
    result = runner.invoke(app, [*arguments, "--markdown", str(tmp_path / "b.md")])
    assert result.exit_code == code
    assert f"{'✓' if code == 0 else '✗'} rq: bit-widths searched in {seconds:.3f} s" in result.stdout
    for name in ("b.md", "bench.json"):
        assert "search_seconds" not in (tmp_path / name).read_text()
        assert f"{seconds:.0f}" not in (tmp_path / name).read_text()
    assert "not reproducible byte for byte" in (tmp_path / "b.md").read_text()


@pytest.mark.parametrize("second", ["plan.json", "parameters.npz", None])
def test_a_second_search_must_give_the_same_bytes(
    second: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``second``: the file that comes out otherwise."""
    made = replace(_fitting(report()), search=Search(
        objective="rep", samples=1, labelled=False, max_drop=5.0, rounds=1, trials=()
    ))  # fmt: skip

    def write(options: DeployOptions, progress: object) -> Report:
        options.out.mkdir(parents=True)
        for name in ("plan.json", "parameters.npz"):
            changed = options.out.name.endswith("again") and name == second
            (options.out / name).write_text("other" if changed else "same")
        return replace(made, config=options.config)

    fakes.install(monkeypatch, deploy=write, build=write)
    monkeypatch.setattr(zoo, "path", lambda name, progress: Path(f"models/{name}.tflite"))
    monkeypatch.setattr(importlib.import_module("rqdkm.bench"), "_planned", lambda options: options)
    arguments = ["bench", "-o", str(tmp_path / "b"), "keyword_spotting", "--config", "rq", "--repeat-plan", "--check"]
    result = runner.invoke(app, arguments)
    assert result.exit_code == (0 if second is None else 1), result.output
    assert ("✓ rq: a second search gave the same plan" in result.stdout) == (second is None)


def test_other_models_can_be_measured_without_targets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _fake(monkeypatch, report())
    result = runner.invoke(app, ["bench", "-o", str(tmp_path), "rock_paper_scissors", "--check"])
    assert result.exit_code == 0
    assert "rock_paper_scissors" in result.stdout


def test_configurations_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = _fake(monkeypatch, report())
    arguments = ["bench", "-o", str(tmp_path), "keyword_spotting", "--config", "int8"]
    assert runner.invoke(app, arguments).exit_code == 0
    assert seen == ["keyword_spotting/int8"]
    assert runner.invoke(app, [*arguments, "--config", "none"]).exit_code == 2


def test_every_anchor_is_a_test_model_with_sane_figures() -> None:
    for model in ("image_classification", "visual_wake_words", "keyword_spotting", "anomaly_detection"):
        assert model in zoo.names()
        anchor = anchors.anchor(model)
        assert anchor is not None and anchor.stacks
        assert all(0.5 < stack.cycles_per_mac < 30 for stack in anchor.stacks)  # 0.5: the limit of SMLAD
        assert {stack.kind for stack in anchor.stacks} <= {"modelled", "measured"}
    assert anchors.anchor("other") is None


@pytest.mark.parametrize(
    ("op", "source", "target", "macs", "expected"),
    [
        ("conv2d", (1, 32, 32, 16), (1, 32, 32, 16), 32 * 32 * 16 * 16 * 9, (2.78, 2.78)),
        ("conv2d", (1, 16, 16, 16), (1, 16, 16, 32), 16 * 16 * 32 * 16 * 9, None),
        ("conv2d", (1, 6, 6, 128), (1, 6, 6, 128), 36 * 128 * 128, (2.1, 2.1)),
        ("depthwise_conv2d", (1, 24, 24, 32), (1, 24, 24, 32), 24 * 24 * 32 * 9, (7.8, 10.1)),
        ("fully_connected", (1, 640), (1, 128), 640 * 128, (2.4, 2.9)),
        ("softmax", (1, 10), (1, 10), 0, None),
    ],
)
def test_layers_are_compared_with_layers_of_their_kind(
    op: str, source: tuple[int, ...], target: tuple[int, ...], macs: int, expected: tuple[float, float] | None
) -> None:
    layer = Layer(
        name="l", op=op, kernel="k", bits_weight=8, bits_activation=8, macs=macs, cycles=1, scratch_bytes=0,
        input_shape=source, output_shape=target,
    )  # fmt: skip
    assert anchors.layer_anchor(layer) == expected
