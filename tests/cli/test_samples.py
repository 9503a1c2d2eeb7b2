"""Which calibration samples are taken: some of every class, whatever order the file has."""

from __future__ import annotations

import numpy as np
import pytest

from rqdkm.planning import spread


@pytest.mark.parametrize("wanted", [20, 32, 64])
@pytest.mark.parametrize("order", ["periodic", "sorted", "shuffled"])
def test_every_class_has_its_share(wanted: int, order: str) -> None:
    """Of a periodic file, evenly spaced samples are of few classes: every 50th of 1,500 is one of only one in ten."""
    labels = np.tile(np.arange(10), 150)
    if order == "sorted":
        labels = np.sort(labels)
    elif order == "shuffled":
        labels = np.random.default_rng(1).permutation(labels)
    counts = np.bincount(labels[spread(1500, wanted, labels)], minlength=10)
    assert counts.sum() == wanted
    assert counts.max() - counts.min() <= 1


def test_classes_that_are_rare_stay_rare() -> None:
    labels = np.array([0] * 900 + [1] * 100)
    assert np.bincount(labels[spread(1000, 50, labels)]).tolist() == [45, 5]


def test_without_labels_a_periodic_file_is_covered_too() -> None:
    kinds = np.arange(1600) % 50
    assert len(np.unique(kinds[spread(1600, 32)])) >= 20


def test_all_samples_once_where_there_are_few_and_always_the_same() -> None:
    assert sorted(spread(7, 32)) == list(range(7))
    assert spread(100, 10).tolist() == spread(100, 10).tolist()
    assert len(set(spread(100, 60, np.arange(100) % 3).tolist())) == 60
