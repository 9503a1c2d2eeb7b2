"""What the ablation's page says of given results, and that its sizes are of weights alone."""

from __future__ import annotations

import numpy as np
import pytest
from typer.testing import CliRunner

from rqdkm.cli import app
from rqdkm.experiment.ablation import Ablation, Row, SearchRow, markdown, weights_only
from rqdkm_tvm.bitwidths import Costs, LayerCosts


def right(count: int) -> np.ndarray:
    return np.arange(1000) < count


def page(rep: int, magnitude: int, repaired: int = 950) -> str:
    rows = (
        Row(1.0, "uniform, 4 bits", 100.0, right(960), right(repaired)),
        Row(1.0, "REP, order 1", 99.0, right(rep), right(950)),
        Row(1.0, "weight magnitude", 98.0, right(magnitude), right(repaired)),
    )
    searches = (SearchRow(1.0, "greedy", 99.0, 0.25, 0.5, 0.125),)
    return markdown([Ablation("net", 32, right(970), rows, searches)], "rqdkm experiment ablation")


def test_rows_are_judged_with_paired_intervals() -> None:
    text = page(rep=960, magnitude=900)
    row = next(line for line in text.splitlines() if "weight magnitude |" in line)
    assert "| +7.00 (" in row and "| +6.00 (" in row
    assert "better beyond the interval in 1 (weight magnitude at 100%), worse in 0; 1 are within it" in text
    assert "| 100% | greedy | 99 | 0.2500 | 0.5000 | 0.12 |" in text


def test_it_says_where_rep_is_worse() -> None:
    assert "better beyond the interval in 0, worse in 2 (uniform, 4 bits at 100%, weight magnitude at 100%)" in page(
        rep=900, magnitude=960
    )


@pytest.mark.parametrize("difference", [0, 1, 2])
def test_a_difference_within_the_interval_is_no_victory(difference: int) -> None:
    text = page(rep=960, magnitude=960 - difference, repaired=950 - difference)
    assert text.count("is better beyond the interval in 0, worse in 0; 2 are within it.") == 2


def test_only_weights_have_a_size() -> None:
    layer = LayerCosts("a", 8, {2: 1.0, 8: 4.0}, {2: 5.0, 8: 5.0}, {4: 64, 8: 128}, {4: 7.0, 8: 0.0}, (0, 1))
    costs = weights_only(Costs((layer,), (500, 600), fixed_flash=20_000, fixed_cycles=3.0))
    assert costs.layers[0].ram == {}
    assert costs.layers[0].flash_per_channel == layer.flash_per_channel
    assert (costs.fixed_flash, max(costs.fixed_ram)) == (0.0, 0)


def test_every_model_needs_its_own_data() -> None:
    result = CliRunner().invoke(app, ["experiment", "ablation", "a.tflite", "b.tflite", "--calib", "c", "--data", "d"])
    assert result.exit_code == 2
    assert "2 models, 1 --calib and 1 --data" in result.stderr
