"""``rqdkm aras``: what it writes and prints, and what it says to bad input."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest


def aras(*arguments: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rqdkm.cli", "aras", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_trace_is_written_simulated_and_drawn(tmp_path: Path) -> None:
    trace, page = tmp_path / "t.csv", tmp_path / "t.html"
    assert aras("trace", "step", "-o", trace, "--frames", 30, "--seed", 4, "-q").returncode == 0
    done = aras("simulate", "--trace", trace, "-o", page, "--json", "-q")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert set(found["governors"]) == {"always", "ondemand", "sleep", "stop", "aras"}
    mine = found["governors"]["aras"]
    assert mine["missed"] == 0 and mine["frames"] == 30 and mine["faults"] == {}
    assert found["floor_mj"] <= found["oracle"]["energy_per_frame_mj"] <= mine["energy_per_frame_mj"] * 1.0001
    assert sum(mine["time_share"].values()) == pytest.approx(1.0, abs=1e-4)
    text = page.read_text()
    assert "http" not in text.replace("http-equiv", "") and "race to sleep" in text
    for drawing in text.split("<svg")[1:]:
        ElementTree.fromstring("<svg" + drawing.split("</svg>")[0] + "</svg>")
    assert text.count("<svg") == 4


def test_the_same_command_gives_the_same_page(tmp_path: Path) -> None:
    pages = []
    for name in ("a", "b"):
        folder = tmp_path / name
        folder.mkdir()
        done = subprocess.run(
            [
                sys.executable,
                "-m",
                "rqdkm.cli",
                "aras",
                "simulate",
                "--frames",
                "10",
                "--no-oracle",
                "-o",
                "t.html",
                "-q",
            ],
            cwd=folder,
            check=False,
        )
        assert done.returncode == 0
        pages.append((folder / "t.html").read_bytes())
    assert pages[0] == pages[1]


def test_the_table_is_exported(tmp_path: Path) -> None:
    out = tmp_path / "aras_table.c"
    assert aras("design", "-o", out, "--name", "mine", "--share", 0.3, "-q").returncode == 0
    assert "const rqdkm_aras_table mine = {" in out.read_text() and ".share = 0.3" in out.read_text()


def test_a_longest_frame_that_is_none_is_said() -> None:
    done = aras("simulate", "--frames", 5, "--worst", 0.9, "--no-oracle")
    assert done.returncode == 0 and "--worst 0.9 is less than the longest frame of the trace, 1.0" in done.stderr
    assert "longest" not in aras("simulate", "--frames", 5, "--worst", 1.1, "--no-oracle").stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("simulate", "--trace", "none.csv"), "none.csv: cannot read the trace"),
        (("simulate", "--kind", "wild"), 'there is no kind of trace "wild"'),
        (("simulate", "--workload", "none"), 'there is no workload "none"'),
        (("simulate", "--share", "0.95"), "--share: must lie between 0 and 0.9, got 0.95"),
        (("simulate", "--worst", "0"), "--worst: must lie between 0.01 and 100, got 0"),
        (
            ("simulate", "--trace", "t.csv", "--seed", "3"),
            "--seed: goes with a generated trace, not with --trace t.csv",
        ),
        (("simulate", "--trace", "t.csv", "--kind", "step", "--frames", "9"), "leave out --kind and --frames, or --tr"),
        (("simulate", "--currents", "none.csv"), "none.csv: cannot read the currents"),
        (("trace", "wild", "-o", "t.csv"), 'there is no kind of trace "wild"'),
        (("trace", "step", "-o", "t.csv", "--frames", "0"), "--frames"),
        (("design", "-o", "t.c", "--name", "2x"), '"2x" is no name in C'),
        (("design", "-o", "t.c", "--tick", "0"), "--tick: must lie between"),
        (("design", "-o", "t.c", "--worst", "1000"), "--workload says whose"),
        (("design", "-o", "/proc/none/t.c"), "cannot write"),
    ],
)
def test_bad_input_is_one_error(arguments: tuple[str, ...], message: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "rqdkm.cli", "aras", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert message in done.stderr and "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []
