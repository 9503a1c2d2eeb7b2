"""What each verb passes on and prints; the pipeline behind it is a stand-in."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rqdkm.cli import app
from rqdkm.options import DeployOptions
from rqdkm.report import codec, derive
from rqdkm_tvm.errors import ModelError
from tests.cli import fakes
from tests.report.factory import report

runner = CliRunner()


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_help_lists_every_verb() -> None:
    text = runner.invoke(app, ["--help"]).stdout
    for verb in ("deploy", "inspect", "build", "run", "flash", "bench", "doctor", "report", "board"):
        assert f"\n  {verb} " in text


@pytest.mark.parametrize("verb", ["deploy", "inspect", "build", "run", "flash", "bench", "doctor", "report"])
def test_every_verb_has_help(verb: str) -> None:
    result = runner.invoke(app, [verb, "--help"])
    assert result.exit_code == 0
    assert "Usage:" in result.stdout


def test_version() -> None:
    import rqdkm

    assert runner.invoke(app, ["--version"]).stdout == f"rqdkm {rqdkm.__version__}\n"


def test_deploy_passes_every_option_on(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[DeployOptions] = []
    fakes.install(monkeypatch, deploy=lambda options, progress: seen.append(options) or report())
    arguments = (
        "deploy m.tflite -o out --calib c.npz --data d.npz --calib-method mse --board qemu --flash-model l4r5"
        " --samples 7 --seed 3 --ram 48K --flash 1M --config baseline --kernels reference --plan p.json --force"
    )
    assert runner.invoke(app, arguments.split()).exit_code == 0
    assert seen == [
        DeployOptions(
            model=Path("m.tflite"),
            out=Path("out"),
            calib=Path("c.npz"),
            data=Path("d.npz"),
            calib_method="mse",
            board="qemu",
            flash_model="l4r5",
            samples=7,
            seed=3,
            ram_bytes=49152,
            flash_bytes=1048576,
            config="baseline",
            kernels="reference",
            plan=Path("p.json"),
            force=True,
        )
    ]


def test_deploy_has_the_documented_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[DeployOptions] = []
    fakes.install(monkeypatch, deploy=lambda options, progress: seen.append(options) or report())
    assert runner.invoke(app, ["deploy", "some/net.tflite"]).exit_code == 0
    assert seen == [DeployOptions(model=Path("some/net.tflite"), out=Path("net_stm32f407"))]


def test_deploy_prints_the_table_and_where_the_page_is(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, deploy=lambda options, progress: report())
    result = runner.invoke(app, ["deploy", "m.tflite", "-o", "out"])
    assert "every output byte equal" in result.stdout
    assert "block1_a" in result.stdout
    assert "out/report.html" in result.stdout


def test_json_on_stdout_is_the_report_and_nothing_else(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, deploy=lambda options, progress: progress("compiling") or report())
    result = runner.invoke(app, ["deploy", "m.tflite", "--json"])
    assert codec.from_json(result.stdout) == report()
    assert "compiling" in result.stderr and "report.html" in result.stderr


def test_quiet_says_nothing_about_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    fakes.install(monkeypatch, deploy=lambda options, progress: progress("compiling") or report())
    assert "compiling" not in runner.invoke(app, ["deploy", "m.tflite", "-q", "--json"]).stderr


def test_outputs_that_differ_end_with_1(monkeypatch: pytest.MonkeyPatch) -> None:
    exact = report().exactness
    assert exact is not None
    wrong = report(exactness=replace(exact, mismatches=1, max_difference=1))
    fakes.install(monkeypatch, deploy=lambda options, progress: wrong)
    result = runner.invoke(app, ["deploy", "m.tflite"])
    assert result.exit_code == 1
    assert "1 output bytes differ" in result.stdout
    assert "differ from the reference" in result.stderr


def test_a_user_error_is_one_message_and_2(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(options: DeployOptions, progress: Any) -> None:
        raise ModelError("the file is empty", where="m.tflite", hint="export it again")

    fakes.install(monkeypatch, deploy=fail)
    result = runner.invoke(app, ["deploy", "m.tflite"])
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "error: m.tflite: the file is empty\n  -> export it again\n"


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ("deploy", "MODEL"),
        ("deploy m.tflite --no-such-option", "--no-such-option"),
        ("deploy m.tflite --samples many", "--samples"),
        ("deploy m.tflite --samples 0", "--samples"),
        ("deploy m.tflite --ram 0", "--ram"),
        ("deploy m.tflite --flash huge", "--flash"),
        ("deploy m.tflite --config morph", "available: int8, baseline"),
        ("deploy m.tflite --board nucleo", "virtual, qemu, openocd, none"),
        ("deploy m.tflite -o .", "would replace"),
        ("deploy m.tflite extra.tflite", "extra"),
        ("destroy", "destroy"),
        ("board destroy", "destroy"),
        ("report nowhere.json", "nowhere.json"),
    ],
)
def test_wrong_usage_is_one_message_and_2(arguments: str, named: str) -> None:
    result = runner.invoke(app, arguments.split())
    assert result.exit_code == 2
    assert result.stdout == ""
    assert named in result.stderr
    assert result.stderr.startswith("error: ") and result.stderr.count("error:") == 1
    assert len(result.stderr.splitlines()) <= 3


def test_build_prints_where_the_image_is(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {"flash_bytes": 1234, "ram_bytes": 567}
    built = SimpleNamespace(elf=Path("out/firmware.elf"), project_dir=Path("out/project"), sizes=sizes)
    fakes.install(monkeypatch, build=lambda options, progress: built)
    result = runner.invoke(app, ["build", "m.tflite", "-o", "out", "--json"])
    assert json.loads(result.stdout) == {"elf": "out/firmware.elf", "project": "out/project", **sizes}


def test_run_passes_on_and_prints_outputs_and_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def run(project: Path, **options: Any) -> Any:
        seen.update(options, project=project)
        outputs = [[np.array([[1, -2]], np.int8)]]
        return SimpleNamespace(board="qemu", outputs=outputs, cycles=None, stack_bytes=100, arena_bytes=200)

    fakes.install(monkeypatch, run=run)
    result = runner.invoke(app, ["run", "out", "--board", "qemu", "--inputs", "x.npz", "--seed", "4", "--json"])
    assert json.loads(result.stdout)["outputs"] == [[[1, -2]]]
    seen.pop("progress")
    assert seen == {
        "project": Path("out"), "board": "qemu", "inputs": Path("x.npz"), "outputs": None, "samples": None, "seed": 4,
        "flash_model": "f407",
    }  # fmt: skip


def test_flash_flashes(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Path] = []
    fakes.install(monkeypatch, flash=lambda project, progress: seen.append(project))
    assert runner.invoke(app, ["flash", "out"]).exit_code == 0
    assert seen == [Path("out")]


def test_report_checks_and_renders_again() -> None:
    codec.write(report(), Path("out/report.json"))
    result = runner.invoke(app, ["report", "out", "--html", "page.html", "--picture", "net.svg"])
    assert result.exit_code == 0
    assert "block1_a" in result.stdout
    assert "<!doctype html>" in Path("page.html").read_text()
    assert "<svg" in Path("net.svg").read_text()


def test_report_refuses_a_damaged_file() -> None:
    Path("report.json").write_text(codec.to_json(report()).replace('"fps": ', '"fps": 9'))
    result = runner.invoke(app, ["report", "report.json"])
    assert result.exit_code == 2
    assert "totals.fps" in result.stderr


def test_board_info_names_memories_and_source() -> None:
    text = runner.invoke(app, ["board", "info"]).stdout
    assert "name sram" in text and "DS8626" in text
    memories = json.loads(runner.invoke(app, ["board", "info", "--json"]).stdout)["memories"]
    assert [memory["name"] for memory in memories] == ["flash", "sram", "ccm"]


def test_board_list_names_every_board() -> None:
    listed = json.loads(runner.invoke(app, ["board", "list", "--json"]).stdout)["checks"]
    assert [check["name"] for check in listed] == ["virtual", "qemu", "openocd"]


def test_reports_are_compared_with_the_first() -> None:
    base = report()
    layers = tuple(replace(layer, cycles=(layer.cycles or 0) // 2) for layer in base.layers)
    half = derive.totals(
        layers=layers, cycles=3_446_500, clock_hz=base.board.clock_hz, memory=base.memory, flash=base.flash
    )
    codec.write(base, Path("a/report.json"))
    codec.write(replace(base, layers=layers, totals=half), Path("b/report.json"))
    text = runner.invoke(app, ["report", "a", "b"]).stdout
    row = next(line.split() for line in text.splitlines() if line.lstrip().startswith("cycles/MAC"))
    assert row == ["cycles/MAC", "1.29", "1.00x", "0.65", "0.50x"]
    compared = json.loads(runner.invoke(app, ["report", "a", "b", "--json"]).stdout)
    assert compared[1]["ratios"]["latency_ms"] == pytest.approx(0.5, rel=1e-4)
    assert compared[1]["ratios"]["flash_bytes"] == 1.0
    assert runner.invoke(app, ["report", "a", "b", "--html", "x.html"]).exit_code == 2
