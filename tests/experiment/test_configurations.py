"""What rq must reach against the baseline is checked, and the page says what of it has nothing to do with bits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rqdkm.cli import app
from rqdkm.experiment import configurations
from rqdkm.report.schema import Report, Search
from tests.report.factory import report

SEARCH = Search(objective="rep", samples=500, labelled=True, max_drop=0.5, rounds=2, trials=())


def made(config: str, *, n: int = 2500, loss: float = 0.001, search: Search | None = None, **totals: Any) -> Report:
    base = report()
    assert base.accuracy is not None
    accuracy = replace(base.accuracy, n=n, loss=loss, loss_ci95=(-0.002, 0.004))
    return replace(base, config=config, accuracy=accuracy, search=search, totals=replace(base.totals, **totals))


def rows(**rq: Any) -> list[Report]:
    """Baseline, int8 and an rq that meets everything, but for what ``rq`` says."""
    figures = {"fps": 21.0, "ram_peak_bytes": 50_000, "weights_bytes": 20_000, "search": SEARCH, **rq}
    return [
        made("baseline", fps=10.0, ram_peak_bytes=60_000, weights_bytes=40_000),
        made("int8", fps=20.0, ram_peak_bytes=50_000, weights_bytes=60_000),
        made("rq", **figures),
    ]


def test_what_meets_every_target_passes() -> None:
    (found,) = configurations.verdicts(rows()).values()
    assert [x.met for x in found] == [True] * 4
    assert configurations.passed(rows())


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"fps": 19.9}, "1.990 times the frames per second"),
        ({"ram_peak_bytes": 50_001}, "0.700 of the memory"),
        ({"loss": 0.0051}, "loss +0.51 points"),
        ({"n": 1999}, "1,999 test samples"),
    ],
)
def test_each_missed_target_is_named_and_fails(change: dict[str, Any], text: str) -> None:
    reports = rows(**change)
    missed = [x.text for x in configurations.verdicts(reports)["rq"] if not x.met]
    assert len(missed) == 1 and missed[0].startswith(text)
    assert not configurations.passed(reports)
    assert f"- rq: **missed**: {text}" in configurations.markdown("Title", reports, "command")


def test_one_plan_that_meets_everything_is_enough_and_targets_do_not_add_up() -> None:
    slow, large = rows(fps=19.0)[2], rows(ram_peak_bytes=60_000, search=None)[2]
    assert not configurations.passed([*rows()[:2], slow, large])
    assert configurations.passed([*rows()[:2], slow, rows(search=None)[2]])


def test_an_inexact_output_of_any_configuration_fails() -> None:
    reports = rows()
    assert reports[1].exactness is not None
    reports[1] = replace(reports[1], exactness=replace(reports[1].exactness, mismatches=1))
    assert not configurations.passed(reports)


def test_the_page_shows_int8_beside_rq_and_what_fusion_saves() -> None:
    head = configurations.markdown("Title", rows(), "command").split("| config |")[0]
    assert "baseline 58.6 + 39.1 KiB, int8 48.8 + 58.6 KiB, rq 48.8 + 19.5 KiB" in head
    assert "nothing to do with bits" in head and "fused" in head and "`int8` has both" in head


def test_power_is_compared_at_the_frame_rate_that_all_of_them_hold() -> None:
    reports = [
        replace(x, totals=replace(x.totals, cycles=c))
        for x, c in zip(rows(), (16_800_000, 8_400_000, 4_200_000), strict=True)
    ]
    header, _, *lines = configurations.table(reports).splitlines()
    assert header.endswith("| power running, mW | energy, mJ | mean at 10.0 frames/s, mW |")
    assert lines[0].split("|")[-3:-1] == [" 13.20 ", " 132.0 "]
    means = [float(line.split("|")[-2]) for line in lines]
    assert means[0] > 1.9 * means[1] > 3.5 * means[2]


def test_the_command_fails_when_asked_to_check(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    arguments = ["experiment", "configurations", "m.tflite", "--calib", "c.npz", "--data", "d.npz"]
    for fps, code in ((21.0, 0), (19.0, 1)):
        monkeypatch.setattr(configurations, "run", lambda *_args, fps=fps, **_options: rows(fps=fps))
        assert CliRunner().invoke(app, arguments).exit_code == 0
        result = CliRunner().invoke(app, [*arguments, "--check"])
        assert result.exit_code == code
        assert f"{'✓' if code == 0 else '✗'} rq: {fps / 10:.3f} times" in result.stdout
