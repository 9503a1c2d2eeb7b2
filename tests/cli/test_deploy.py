"""A real deployment through the command line: what it leaves behind, and that it can be repeated."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rqdkm.models import zoo
from rqdkm.report import codec, document
from tests.cli import fakes

_TIMEOUT_S = 600
MODEL = "keyword_spotting"


def rqdkm(work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rqdkm.cli", *arguments]
    environment = {**os.environ, "TOPHUB_LOCATION": "NONE"}
    return subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment)


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str]]:
    """One deployment on the virtual board, three samples."""
    work = tmp_path_factory.mktemp("deploy")
    done = rqdkm(work, "deploy", str(zoo.path(MODEL)), "-o", "out", "--samples", "3", "--json")
    assert done.returncode == 0, done.stderr
    return work, done


def _lasting(text: str) -> dict[str, Any]:
    data: dict[str, Any] = json.loads(text)
    del data["run"]
    return data


def test_the_directory_holds_everything_and_nothing_else(
    deployed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    work, _ = deployed
    assert fakes.leftovers(work) == ["out"]
    found = fakes.leftovers(work / "out")
    assert found == [".rqdkm", "firmware.elf", "plan.json", "project", "report.html", "report.json"]
    assert (work / "out" / "project" / "CMakeLists.txt").is_file()


def test_stdout_is_the_report_that_was_written(deployed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    work, done = deployed
    assert codec.from_json(done.stdout) == codec.read(work / "out")


def test_every_output_byte_is_the_references(deployed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    work, _ = deployed
    exact = codec.read(work / "out").exactness
    assert exact is not None
    assert (exact.samples, exact.mismatches, exact.compared_bytes) == (3, 0, 36)


def test_the_report_has_every_part_and_fits_the_json_schema(
    deployed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    import jsonschema

    work, _ = deployed
    text = (work / "out" / "report.json").read_text()
    jsonschema.validate(json.loads(text), document.json_schema())
    made = codec.from_json(text)
    assert made.board.name == "virtual" and made.cycle_model.kind == "modelled"
    assert made.totals.macs == 2_656_768
    assert made.totals.cycles is not None and made.totals.cycles_per_mac is not None
    assert 0.5 < made.totals.cycles_per_mac < 10  # 0.5: the limit of SMLAD
    assert made.functions and made.offload and made.toolchain.flags and made.memory.timeline
    counted = sum(layer.cycles or 0 for layer in made.layers)
    assert 0.9 * made.totals.cycles < counted
    assert made.memory.stack_bytes and made.memory.arena_measured_bytes


def test_a_second_deployment_elsewhere_gives_the_same_figures(
    deployed: tuple[Path, subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    """Other directory, other time: the same report but for `run`, and no path of this machine in it."""
    work, _ = deployed
    done = rqdkm(tmp_path, "deploy", str(zoo.path(MODEL)), "-o", "elsewhere", "--samples", "3", "-q")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    first = _lasting((work / "out" / "report.json").read_text())
    assert _lasting((tmp_path / "elsewhere" / "report.json").read_text()) == first
    text = json.dumps(first)
    for machine in (str(work), str(tmp_path), str(Path.home()), str(Path(__file__).parents[2]), sys.prefix):
        assert machine not in text
    same = [(place / "plan.json").read_bytes() for place in (work / "out", tmp_path / "elsewhere")]
    assert same[0] == same[1]


def test_the_page_shows_the_same_figures(deployed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    work, _ = deployed
    page, made = (work / "out" / "report.html").read_text(), codec.read(work / "out")
    assert len(page.encode()) < 500_000
    for layer in made.layers:
        assert layer.name in page
    assert f"{made.totals.cycles:,}" in page


def test_the_image_runs_again_and_gives_the_same_outputs_twice(
    deployed: tuple[Path, subprocess.CompletedProcess[str]],
) -> None:
    work, _ = deployed
    runs = [rqdkm(work, "run", "out", "--seed", "5", "--samples", "2", "--json", "-q") for _ in range(2)]
    assert runs[0].returncode == 0, runs[0].stderr
    results = [json.loads(run.stdout) for run in runs]
    assert results[0] == results[1]
    assert len(results[0]["outputs"]) == 2 and len(results[0]["outputs"][0][0]) == 12
    assert rqdkm(work, "run", "report.json").returncode == 2


def test_inspect_agrees_with_the_deployment(deployed: tuple[Path, subprocess.CompletedProcess[str]]) -> None:
    work, _ = deployed
    done = rqdkm(work, "inspect", str(zoo.path(MODEL)), "--json", "-q")
    assert done.returncode == 0, done.stderr
    seen, made = json.loads(done.stdout), codec.read(work / "out")
    assert seen["macs"] == made.totals.macs
    assert seen["ram_peak_bytes"] <= made.memory.arena_planned_bytes
