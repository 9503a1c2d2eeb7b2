"""``inspect``'s table says what the summary says, for a real model."""

from __future__ import annotations

import dataclasses
import json

import pytest
from rich.console import Console

from rqdkm.models import summary, zoo
from rqdkm.report import model_table


def _text(made: summary.ModelSummary, width: int) -> str:
    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(model_table.render(made, width=width))
    return capture.get()


@pytest.fixture(scope="module")
def keywords() -> summary.ModelSummary:
    return summary.summarize(zoo.path("keyword_spotting"))


def test_a_real_model_is_shown_with_its_figures(keywords: summary.ModelSummary) -> None:
    text = _text(keywords, 140)
    for wanted in ("int8 1x50x10x1, real = 0.881015 * (q + 128)", "2,656,768", "scales per channel in 9 of 10 layers"):
        assert wanted in text
    rows = [line.split() for line in text.splitlines()]
    row = next(row for row in rows if row[:2] == ["conv2d", "conv"])
    assert " ".join(row) == "conv2d conv 10x4 stride 2 same relu 50x10x1 → 25x5x64 320,000 2,816 8/8 8,500 kernel"
    assert sum(row[-1:] == ["kernel"] for row in rows) == len(keywords.layers) == 13


def test_a_narrow_terminal_still_shows_every_figure(keywords: summary.ModelSummary) -> None:
    lines = _text(keywords, 90).splitlines()
    assert max(map(len, lines)) <= 90
    assert any(all(word in line for word in ("25x5x64", "512,000", "4,352", "16,000")) for line in lines)


def test_unsupported_operators_are_called_so(keywords: summary.ModelSummary) -> None:
    layer = dataclasses.replace(keywords.layers[0], op="LSH_PROJECTION", runs_on="unsupported")
    text = _text(dataclasses.replace(keywords, layers=(layer, *keywords.layers[1:])), 140)
    assert "cannot be deployed: LSH_PROJECTION not supported" in text


def test_a_float_model_says_that_it_needs_calibration() -> None:
    assert "--calib" in _text(summary.summarize(zoo.path("image_example1.float32")), 140)


def test_json_holds_everything(keywords: summary.ModelSummary) -> None:
    data = json.loads(model_table.to_json(keywords))
    assert data["schema"] == "rqdkm.model/1"
    assert data["macs"] == keywords.macs == sum(layer["macs"] for layer in data["layers"])
    assert data["inputs"][0]["shape"] == [1, 50, 10, 1]
