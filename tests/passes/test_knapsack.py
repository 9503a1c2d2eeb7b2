"""The knapsack against trying everything."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

from hypothesis import given, settings
from hypothesis import strategies as st

from rqdkm_tvm import knapsack


@dataclass(frozen=True)
class Item:
    cycles: float
    constant_bytes: int

    @property
    def cost(self) -> float:
        return self.cycles + 2 * self.constant_bytes


ITEMS = st.builds(Item, st.integers(0, 1000).map(float), st.integers(0, 300))
LAYERS = st.lists(st.lists(ITEMS, min_size=1, max_size=4), max_size=5).map(
    lambda found: {str(index): items for index, items in enumerate(found)}
)


@given(LAYERS, st.integers(0, 1200))
@settings(max_examples=300, deadline=None)
def test_no_combination_within_the_budget_is_faster(layers: dict[str, list[Item]], budget: int) -> None:
    combinations = list(itertools.product(*layers.values()))
    fitting = [c for c in combinations if sum(item.constant_bytes for item in c) <= budget]
    taken = knapsack.fastest(layers, budget, 2.0)
    if not fitting:
        assert taken is None
        return
    assert taken is not None and list(taken) == list(layers)
    assert all(taken[name] in layers[name] for name in layers)
    assert sum(item.constant_bytes for item in taken.values()) <= budget
    assert sum(item.cycles for item in taken.values()) == min(sum(item.cycles for item in c) for c in fitting)


@given(LAYERS)
def test_without_a_budget_every_byte_has_its_price(layers: dict[str, list[Item]]) -> None:
    taken = knapsack.fastest(layers, None, 2.0)
    assert taken is not None
    for name, item in taken.items():
        assert item.cost == min(other.cost for other in layers[name])


def test_thinned_sums_still_fit_and_still_find_the_smallest() -> None:
    """Thousands of different sums: the least bytes stay possible, and more of them never cost speed."""
    layers = {str(i): [Item(1000.0 - 7 * k - i, 97 * k * k + 13 * i * k) for k in range(6)] for i in range(14)}
    least = sum(items[0].constant_bytes for items in layers.values())
    most = sum(items[-1].constant_bytes for items in layers.values())
    smallest, largest = knapsack.fastest(layers, least, 2.0), knapsack.fastest(layers, most, 2.0)
    assert smallest is not None and [i.constant_bytes for i in smallest.values()] == [0] * 14
    assert largest is not None and [i.cycles for i in largest.values()] == [v[-1].cycles for v in layers.values()]
    middle = knapsack.fastest(layers, most // 2, 2.0)
    assert middle is not None and sum(i.constant_bytes for i in middle.values()) <= most // 2
