"""Intervals and areas against published and hand-computed values."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rqdkm.experiment.statistics import (
    PairedLoss,
    auc,
    auc_interval,
    binomial_limits,
    paired_loss,
    samples_needed,
    top1,
    wilson_interval,
)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    [
        # R. G. Newcombe, "Two-sided confidence intervals for the single proportion", Statistics in Medicine 17 (1998),
        # table I, method 3 (score, no continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_newcombes_published_intervals(successes: int, n: int, low: float, high: float) -> None:
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=5e-5)


@given(st.integers(1, 10_000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_holds_the_proportion_and_mirrors(case: tuple[int, int]) -> None:
    successes, n = case
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    assert wilson_interval(n - successes, n) == pytest.approx((1 - high, 1 - low), abs=1e-12)


def test_wilson_covers_what_it_promises() -> None:
    """Exact coverage over the binomial distribution stays near 95 %, for the proportions that reports have."""
    n = 200
    for p in (0.5, 0.8, 0.9, 0.95):
        weights = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        covered = sum(
            weight for k, weight in enumerate(weights) if wilson_interval(k, n)[0] <= p <= wilson_interval(k, n)[1]
        )
        assert 0.93 <= covered <= 0.97


def test_more_confidence_is_a_wider_interval() -> None:
    wide, narrow = wilson_interval(90, 100, 0.99), wilson_interval(90, 100, 0.9)
    assert wide[0] < narrow[0] < 0.9 < narrow[1] < wide[1]


@pytest.mark.parametrize("arguments", [(1, 0), (-1, 5), (6, 5), (1, 5, 0.0), (1, 5, 1.0)])
def test_wilson_refuses_what_is_no_proportion(arguments: tuple[int, int]) -> None:
    with pytest.raises(ValueError):
        wilson_interval(*arguments)


def test_top1_counts_the_first_of_equal_outputs() -> None:
    outputs = np.array([[1, 5, 5], [9, 0, 0], [-128, -128, 127]], np.int8)
    assert top1(outputs, np.array([1, 0, 2])) == (3, 3)
    assert top1(outputs, np.array([2, 0, 2])) == (2, 3)
    with pytest.raises(ValueError):
        top1(outputs, np.array([1, 2]))


@given(
    st.lists(st.tuples(st.integers(-5, 5), st.booleans()), min_size=2, max_size=40).filter(
        lambda cases: len({positive for _, positive in cases}) == 2
    )
)
def test_auc_is_the_share_of_pairs_in_the_right_order(cases: list[tuple[int, bool]]) -> None:
    high = [score for score, positive in cases if positive]
    low = [score for score, positive in cases if not positive]
    pairs = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in itertools.product(high, low)]
    scores, positive = np.array([s for s, _ in cases]), np.array([p for _, p in cases])
    assert auc(scores, positive) == pytest.approx(sum(pairs) / len(pairs))


def test_auc_of_hanley_and_mcneils_ct_example() -> None:
    """Their table I: 109 CT images rated 1 to 5; area 0.893, standard error 0.032 (Radiology 143, 1982)."""
    normal, abnormal = [33, 6, 6, 11, 2], [3, 2, 2, 11, 33]
    scores = np.concatenate([np.repeat(np.arange(1, 6), normal), np.repeat(np.arange(1, 6), abnormal)])
    positive = np.repeat([False, True], [sum(normal), sum(abnormal)])
    area = auc(scores, positive)
    assert area == pytest.approx(0.893, abs=5e-4)
    low, high = auc_interval(area, 51, 58)
    assert (high - low) / 2 / 1.959964 == pytest.approx(0.032, abs=1e-3)


def test_auc_interval_stays_inside_zero_to_one() -> None:
    assert auc_interval(1.0, 5, 5) == (1.0, 1.0)
    low, high = auc_interval(0.97, 5, 5)
    assert low < 0.97 and high == 1.0


@pytest.mark.parametrize(
    ("scores", "positive"),
    [([1, 2], [True, True]), ([1, 2], [False, False]), ([1, math.nan], [True, False]), ([1, 2, 3], [True, False])],
)
def test_auc_refuses_what_has_none(scores: list[float], positive: list[bool]) -> None:
    with pytest.raises(ValueError):
        auc(np.array(scores), np.array(positive))


def test_the_paired_loss_counts_only_what_changed() -> None:
    before = np.array([True] * 6 + [False] * 4)
    after = np.array([True] * 3 + [False] * 3 + [True] + [False] * 3)
    found = paired_loss(before, after)
    assert found == PairedLoss(lost=3, won=1, n=10)
    assert found.loss == pytest.approx(0.2)
    low, high = found.interval()
    assert low < 0.2 < found.upper(0.8) < high < 1


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # Newcombe 1998 (see above), table I, method 5 (Clopper-Pearson)
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0000, 0.1684), (1, 29, 0.0009, 0.1776)],
)
def test_exact_limits_are_newcombes_published_ones(successes: int, n: int, low: float, high: float) -> None:
    assert binomial_limits(successes, n, 0.025) == pytest.approx((low, high), abs=5e-5)


def test_no_flips_on_few_samples_show_little() -> None:
    """A loss of 8 points leaves six samples as they are more often than not."""
    assert PairedLoss(0, 0, 6).upper(0.8) == pytest.approx(1 - 0.2 ** (1 / 6))
    assert PairedLoss(0, 0, 6).upper(0.8) > 0.2
    assert PairedLoss(0, 0, 1500).upper(0.8) < 0.0011
    assert PairedLoss(0, 0, 1500).interval() == pytest.approx((-0.00246, 0.00246), abs=5e-6)


@given(st.integers(1, 2000).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_samples_that_were_won_prove_no_more_than_samples_that_stayed(case: tuple[int, int]) -> None:
    won, n = case
    assert PairedLoss(0, won, n).upper(0.8) >= PairedLoss(0, 0, n).upper(0.8) > 0


@given(st.floats(1e-4, 0.99), st.sampled_from([0.5, 0.8, 0.95]))
def test_the_samples_needed_are_enough_and_one_less_is_not(loss: float, confidence: float) -> None:
    n = samples_needed(loss, confidence)
    assert n is not None
    assert PairedLoss(0, 0, n).upper(confidence) <= loss * (1 + 1e-9)
    assert n == 1 or PairedLoss(0, 0, n - 1).upper(confidence) > loss


def test_no_number_of_samples_shows_that_nothing_is_lost() -> None:
    assert samples_needed(0.0) is None


@pytest.mark.parametrize("lost", [0.1, 0.5, 1.0, 1.7, 4.0, 16.0])
@pytest.mark.parametrize("won", [0.0, 0.5, 2.0, 16.0])
def test_the_upper_bound_holds_as_often_as_it_says(lost: float, won: float) -> None:
    """Exact coverage over all outcomes, for networks that lose and win so many samples on average, few among them."""
    n, outcomes = 100_000, range(50)
    chance = [
        [math.exp(k * math.log(m) - m - math.lgamma(k + 1)) if m else float(k == 0) for k in outcomes]
        for m in (lost, won)
    ]
    covered = sum(
        chance[0][b] * chance[1][c]
        for b, c in itertools.product(outcomes, outcomes)
        if chance[0][b] * chance[1][c] > 1e-9 and n * PairedLoss(b, c, n).upper(0.8) >= lost - won
    )
    assert covered >= 0.8


def test_the_paired_interval_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    truth, hits = 0.02, 0
    for _ in range(400):
        draw = rng.random(800)
        before, after = draw >= 0.1, (draw >= 0.06) & (draw < 0.92) | (draw < 0.02)
        # lost: 8 %, won: 0 to 0.02 and 0.06 to 0.1, 6 %
        low, high = paired_loss(before, after).interval()
        hits += low <= truth <= high
    assert 0.92 <= hits / 400 <= 0.98


def test_unpaired_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="no paired samples"):
        paired_loss(np.array([True]), np.array([True, False]))
