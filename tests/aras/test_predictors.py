"""Predictors of the C library: what they find, how often the bound holds, and what they survive."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rqdkm.aras.library import Predictor
from rqdkm.aras.predictors import compare, patterns, score, table
from rqdkm.aras.table import PREDICTORS

KINDS = range(len(PREDICTORS))
LAST, AVERAGE, HOLT, RLS = KINDS


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unit", [1e-3, 1.0, 5e6])
def test_a_constant_is_found_and_bounded_closely(kind: int, unit: float) -> None:
    predictor = Predictor(kind, 0.95)
    for _ in range(400):
        predictor.update(3.0 * unit)
    assert predictor.expected == pytest.approx(3.0 * unit, rel=1e-3)
    assert 3.0 * unit <= predictor.upper <= 3.02 * unit


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("quantile", [0.8, 0.95, 0.99])
@pytest.mark.parametrize("shape", ["normal", "exponential", "two values"])
def test_the_bound_holds_as_often_as_asked_whatever_the_distribution(kind: int, quantile: float, shape: str) -> None:
    rng = np.random.default_rng(7)
    noise = {
        "normal": rng.normal(10, 1, 4000),
        "exponential": rng.exponential(5, 4000),
        "two values": rng.choice([1.0, 8.0], 4000, p=[0.7, 0.3]),
    }[shape]
    _, covered, _ = score(np.abs(noise).tolist(), kind, quantile, warm_up=200)
    assert covered == pytest.approx(quantile, abs=0.04)


def test_patterns_are_found_by_those_that_can() -> None:
    found = patterns(600)
    error = {
        (name, kind): score(values.tolist(), kind, 0.95, warm_up=50)[0]
        for name, values in found.items()
        for kind in KINDS
    }
    assert error["alternating", RLS] < 0.1 * error["alternating", LAST]
    assert error["alternating", RLS] < 0.2 * error["alternating", AVERAGE]
    assert error["drifting", RLS] < 0.5 * error["drifting", AVERAGE]
    assert error["drifting", HOLT] < 0.7 * error["drifting", AVERAGE]


@pytest.mark.parametrize("kind", KINDS)
def test_values_that_are_none_are_dropped(kind: int) -> None:
    predictor = Predictor(kind, 0.9)
    for value in (5.0, 6.0, 5.5):
        predictor.update(value)
    before = bytes(predictor.state)
    for value in (math.nan, math.inf, -math.inf, -1.0, 2e9):
        predictor.update(value)
    assert bytes(predictor.state) == before


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_runs_away(kind: int) -> None:
    """Zeros, jumps over twelve decades, long constants: undefined behaviour would end the process."""
    rng = np.random.default_rng(kind)
    predictor = Predictor(kind, 0.95)
    values = np.concatenate(
        [
            np.zeros(50),
            10 ** rng.uniform(-6, 9, 2000),
            np.full(3000, 1e-6),
            [1e9] * 5,
            np.zeros(100),
            [1e9],
            np.zeros(20),
        ]
    )
    for value in values:
        predictor.update(float(value))
        assert math.isfinite(predictor.expected) and 0 <= predictor.expected <= 1e9
        assert predictor.expected <= predictor.upper <= 1e9


def test_an_unknown_kind_and_quantile_become_ones_that_exist() -> None:
    predictor = Predictor(17, math.nan)
    predictor.update(4.0)
    predictor.update(9.0)
    assert predictor.state.kind == LAST and predictor.expected == 9.0 and predictor.state.quantile == 0.5


def test_the_comparison_has_every_predictor_on_every_trace() -> None:
    scores = compare(frames=60, cycles=1_000_000)
    assert {s.predictor for s in scores} == set(PREDICTORS)
    assert len(scores) == len(PREDICTORS) * (2 * 4 + 2)
    assert table(scores).count("\n") == len(scores) + 2
