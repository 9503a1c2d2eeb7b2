"""The bit-width search: exact against brute force, budgets, ties, recursion. No network needed: tables are enough."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable

import numpy as np
import pytest

from rqdkm_tvm.bitwidths import (
    Budgets,
    Choice,
    Costs,
    Found,
    Item,
    LayerCosts,
    exact,
    greedy,
    holds,
    items_of,
    recurse,
    rule,
    search,
    to_assignment,
    totals,
)
from rqdkm_tvm.errors import BudgetError
from rqdkm_tvm.sensitivity.table import (
    Assignment,
    LayerSensitivity,
    Sensitivity,
    channel_bits,
    group_sizes,
)

BITS = (2, 4, 8)


def table(layers: int, seed: int = 0, channels: int = 16) -> Sensitivity:
    """Errors fall by about 16 and 256 from 2 to 4 to 8 bits, and span some orders of magnitude between layers."""
    rng = np.random.default_rng(seed)

    def errors(count: int) -> dict[int, tuple[float, ...]]:
        size = 10.0 ** rng.uniform(-3, 1)
        return {b: tuple(float(e) for e in size * 4.0**-b * rng.uniform(0.5, 2, count)) for b in BITS}

    rows = [
        LayerSensitivity(f"layer{i}", "conv2d", errors(channels), errors(channels), float(rng.uniform(0.5, 2)))
        for i in range(layers)
    ]
    return Sensitivity("rep", "test", 1.0, 1, tuple(rows))


def costs(layers: int, seed: int = 0, channels: int = 16) -> Costs:
    rng = np.random.default_rng(seed + 1000)
    rows = []
    for i in range(layers):
        size, map_size = int(rng.integers(9, 600)), int(rng.integers(100, 3000)) * 8
        rows.append(
            LayerCosts(
                f"layer{i}",
                channels,
                {b: size * b / 8 for b in BITS},
                {b: channels * size * (1 + 2 / b) for b in BITS},
                {b: map_size * b // 8 for b in BITS},
                {8: 0.0, 4: map_size / 4, 2: map_size / 3},
                (i, i + 1) if i + 1 < layers else (i,),
            )
        )
    return Costs(tuple(rows), tuple(int(v) for v in rng.integers(0, 4000, layers)), 500.0, 1000.0)


def everything_at(items: list[Item], bits: int, cost: Costs) -> Budgets:
    picks = [next(i for i, c in enumerate(x.choices) if c.bits == bits) for x in items]
    found = totals(items, picks, cost)
    return Budgets(found.flash, found.ram, found.cycles, found.error)


def between(items: list[Item], cost: Costs, share: float) -> Budgets:
    """Flash and RAM budgets between what 2 and 8 bits need."""
    low, high = everything_at(items, 2, cost), everything_at(items, 8, cost)
    assert low.flash is not None and high.flash is not None and low.ram is not None and high.ram is not None
    return Budgets(flash=low.flash + share * (high.flash - low.flash), ram=low.ram + share * (high.ram - low.ram))


def brute_force(items: list[Item], cost: Costs, budgets: Budgets, objective: str = "error") -> float:
    found = (totals(items, picks, cost) for picks in itertools.product(*(range(len(x.choices)) for x in items)))
    return min((t.of(objective) for t in found if holds(t, budgets)), default=float("inf"))


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("objective", ["error", "flash", "ram", "cycles", "memory"])
def test_exact_equals_brute_force(seed: int, objective: str) -> None:
    cost, rng = costs(3, seed), np.random.default_rng(seed)
    items = items_of(table(3, seed), cost)
    budgets = between(items, cost, float(rng.uniform(0.1, 0.9)))
    if objective != "error":
        middle = everything_at(items, 4, cost).error
        budgets = Budgets(flash=None, ram=None, error=middle)
    found = exact(items, cost, budgets, objective)  # type: ignore[arg-type]
    assert found.proven
    assert holds(found.totals, budgets)
    assert found.totals.of(objective) == pytest.approx(brute_force(items, cost, budgets, objective), rel=1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_exact_is_no_worse_than_greedy_and_the_rule(seed: int) -> None:
    cost = costs(8, seed)
    items = items_of(table(8, seed), cost, level="group", group_size=8)
    budgets = between(items, cost, 0.45)
    best = exact(items, cost, budgets)
    assert holds(best.totals, budgets)
    for other in (greedy(items, cost, budgets), rule(items, cost, budgets)):
        assert holds(other.totals, budgets)
        assert best.totals.error <= other.totals.error * (1 + 1e-6)


def test_exact_beats_greedy_somewhere() -> None:
    """Otherwise one of them would do."""
    gains = []
    for seed in range(10):
        cost = costs(8, seed)
        items = items_of(table(8, seed), cost)
        budgets = between(items, cost, 0.4)
        gains.append(greedy(items, cost, budgets).totals.error / exact(items, cost, budgets).totals.error)
    assert max(gains) > 1.01


@pytest.mark.parametrize("method", ["exact", "greedy", "rule"])
def test_without_budgets_nothing_is_lost(method: str) -> None:
    cost = costs(5)
    items = items_of(table(5), cost)
    found = search(items, cost, Budgets(), method=method)  # type: ignore[arg-type]
    assert all(x.choices[p].bits == 8 for x, p in zip(items, found.picks, strict=True))


@pytest.mark.parametrize("method", ["exact", "greedy", "rule"])
def test_among_equal_errors_the_fewest_bits_win(method: str) -> None:
    choices = (Choice(2, 1.0), Choice(4, 0.25), Choice(8, 0.25))
    items = [Item((("a", "weights", -1),), choices), Item((("b", "weights", -1),), choices)]
    found = search(items, Costs((), ()), Budgets(), method=method)  # type: ignore[arg-type]
    assert found.picks == (1, 1)


def test_where_memory_is_the_objective_bits_that_save_none_are_kept() -> None:
    """A feature map beside the peak keeps its 8 bits; ties are broken by the error."""
    cost = Costs(
        (
            LayerCosts("a", ram={8: 1000, 4: 500}, steps=(0,)),
            LayerCosts("b", ram={8: 100, 4: 50}, steps=(1,)),
        ),
        (0, 0),
    )
    rows = tuple(LayerSensitivity(n, "add", activations={8: (0.0,), 4: (1.0,)}) for n in "ab")
    items = items_of(Sensitivity("rep", "", 1.0, 1, rows), cost)
    found = to_assignment(items, exact(items, cost, Budgets(error=5.0), "memory").picks)
    assert found.activations == {"a": 4, "b": 8}


def test_bmax_holds() -> None:
    cost = costs(4)
    items = items_of(table(4), cost, max_bits=4)
    found = rule(items, cost, Budgets())
    assert {x.choices[p].bits for x, p in zip(items, found.picks, strict=True)} == {4}


@pytest.mark.parametrize("method", ["exact", "greedy", "rule"])
@pytest.mark.parametrize("resource", ["flash", "ram"])
def test_what_cannot_fit_says_what_would(method: str, resource: str) -> None:
    cost = costs(5)
    items = items_of(table(5), cost)
    least = everything_at(items, 2, cost)
    needed = least.flash if resource == "flash" else least.ram
    assert needed is not None
    budgets = Budgets(**{resource: needed * 0.99})
    with pytest.raises(BudgetError, match="(?i)" + resource) as caught:
        search(items, cost, budgets, method=method)  # type: ignore[arg-type]
    assert caught.value.needed_bytes == int(np.ceil(needed))
    search(items, cost, Budgets(**{resource: caught.value.needed_bytes}), method=method)  # type: ignore[arg-type]


def test_budgets_that_fit_one_by_one_but_not_together() -> None:
    cost = costs(5)
    items = items_of(table(5), cost)
    tight = everything_at(items, 8, cost).error
    half = between(items, cost, 0.3)
    assert tight is not None
    with pytest.raises(BudgetError, match="other budgets") as caught:
        exact(items, cost, Budgets(flash=half.flash, error=tight * 1.0001))
    exact(items, cost, Budgets(flash=caught.value.needed_bytes, error=tight * 1.0001))


def test_a_network_of_resnet8s_size_takes_less_than_a_second() -> None:
    cost = costs(14)
    items = items_of(table(14), cost)
    assert len(items) == 28
    budgets = between(items, cost, 0.5)
    exact(items, cost, budgets)
    began = time.process_time()
    found = exact(items, cost, budgets)
    assert time.process_time() - began < 1.0
    assert found.proven


def test_the_same_question_has_the_same_answer() -> None:
    cost = costs(10)
    items = items_of(table(10), cost, level="group", group_size=4)
    budgets = between(items, cost, 0.5)
    assert exact(items, cost, budgets) == exact(items, cost, budgets)


def test_tied_feature_maps_share_their_bits_and_both_take_ram() -> None:
    rows = (
        LayerSensitivity("conv", "conv2d", {b: (4.0**-b,) for b in BITS}, {b: (4.0**-b,) for b in BITS}),
        LayerSensitivity("pool", "max_pool2d", tied_to="conv"),
        LayerSensitivity("first", "max_pool2d", fixed=True),
    )
    cost = Costs(
        (
            LayerCosts("conv", 1, {b: b for b in BITS}, {}, {b: 100 * b for b in BITS}, {}, (0, 1)),
            LayerCosts("pool", 1, {}, {}, {b: 25 * b for b in BITS}, {}, (1, 2)),
            LayerCosts("first", 1, {}, {}, {b: 25 * b for b in BITS}, {}, (0,)),
        ),
        (0, 0, 0),
    )
    items = items_of(Sensitivity("rep", "", 1.0, 1, rows), cost)
    assert [x.members for x in items] == [
        (("conv", "weights", -1),),
        (("conv", "activations", -1), ("pool", "activations", -1)),
    ]
    found = exact(items, cost, Budgets(ram=600))
    assert found.totals.ram == 500
    assert to_assignment(items, found.picks).activations == {"conv": 4, "pool": 4}


def test_groups_get_bits_of_their_own() -> None:
    errors = {b: tuple([4.0**-b * 100] * 8 + [4.0**-b * 0.001] * 8) for b in BITS}
    sensitivity = Sensitivity("rep", "", 1.0, 1, (LayerSensitivity("conv", "conv2d", errors),))
    cost = Costs((LayerCosts("conv", 16, {b: 9 * b / 8 for b in BITS}),), ())
    items = items_of(sensitivity, cost, level="group", group_size=8)
    found = exact(items, cost, Budgets(flash=9 * 8 + 9 * 2))
    assert to_assignment(items, found.picks).weights == {"conv": (8, 2)}


@pytest.mark.parametrize("size", [4, 8])
def test_groups_cover_every_channel_once_in_even_parts(size: int) -> None:
    for channels in range(1, 300):
        groups = -(-channels // size)
        found = group_sizes(channels, groups)
        assert (len(found), sum(found)) == (groups, channels)
        assert all(count % 2 == 0 for count in found[:-1])
        assert channel_bits(range(groups), channels).tolist() == [g for g, n in enumerate(found) for _ in range(n)]


class TestRecursion:
    cost = costs(6, seed=3)
    budgets = between(items_of(table(6, seed=3), cost), cost, 0.5)

    def test_settles_where_the_sensitivity_does_not_change(self) -> None:
        asked: list[Assignment] = []

        def derive(at: Assignment) -> Sensitivity:
            asked.append(at)
            return table(6, seed=3)

        found = recurse(derive, self.cost, self.budgets, levels=("layer",))
        assert found.converged
        assert [r.number for r in found.rounds] == [1, 2]
        assert asked == [Assignment(), found.assignment]

    def test_descends_and_never_gets_worse(self) -> None:
        found = recurse(lambda _at: table(6, seed=3), self.cost, self.budgets, group_size=8)
        by_level = {r.level: r.totals.error for r in found.rounds}
        assert list(by_level) == ["network", "layer", "group"]
        assert by_level["network"] >= by_level["layer"] >= by_level["group"]
        assert all(len(groups) == 2 for groups in found.assignment.weights.values())

    def test_derives_on_the_partly_quantized_network(self) -> None:
        """The error of a layer that was cut doubles: the second plan spares it."""
        plain = table(6, seed=3)

        def derive(at: Assignment) -> Sensitivity:
            rows = [
                LayerSensitivity(
                    r.name,
                    r.op,
                    r.weights,
                    r.activations,
                    r.alpha_weights * (50 if at.weights.get(r.name) == (2,) else 1),
                )
                for r in plain.layers
            ]
            return Sensitivity("rep", "", 1.0, 1, tuple(rows))

        found = recurse(derive, self.cost, Budgets(flash=self.budgets.flash), levels=("layer",), max_rounds=6)
        assert found.rounds[0].assignment != found.rounds[1].assignment

    def test_a_circle_ends_with_the_plan_that_measures_best(self) -> None:
        """Each plan's own table sends the search to another; the one whose table promises least is the worst."""
        promises, plans, found = self.circle(max_rounds=8)
        assert not found.converged
        assert len(plans) == 2
        promised_least = min(promises, key=lambda key: promises[key])
        measured = {key: 1.0 if key == promised_least else 0.5 for key in plans}
        _, _, again = self.circle(max_rounds=8, measure=lambda at: measured[repr(at)])
        assert repr(again.assignment) != promised_least
        assert again.measured == 0.5

    @pytest.mark.parametrize("best", [0, 1, 2])
    def test_what_does_not_settle_ends_with_the_best_round_and_not_the_last(self, best: int) -> None:
        asked = iter(range(3, 100))
        measured: dict[str, float] = {}

        def measure(at: Assignment) -> float:
            measured[repr(at)] = 0.5 if len(measured) == best else 1.0 + len(measured)
            return measured[repr(at)]

        found = recurse(
            lambda _at: table(6, seed=next(asked)),
            self.cost,
            self.budgets,
            levels=("layer",),
            max_rounds=3,
            measure=measure,
        )
        assert not found.converged
        assert len(measured) == 3
        assert found.assignment == found.rounds[best].assignment
        assert found.totals == found.rounds[best].totals

    def test_the_error_budget_is_for_what_is_measured(self) -> None:
        """Least flash among those whose measured error holds, however little a table predicts of the others."""
        asked = iter(range(3, 100))
        order: list[Assignment] = []

        def measure(at: Assignment) -> float:
            order.append(at)
            return 0.4 if len(order) == 2 else 7.0

        budgets = Budgets(error=5.0)
        found = recurse(
            lambda _at: table(6, seed=next(asked)),
            self.cost,
            budgets,
            objective="flash",
            levels=("layer",),
            max_rounds=3,
            measure=measure,
        )
        assert found.assignment == order[1]

    def test_without_a_measure_one_table_predicts_all(self) -> None:
        first = table(6, seed=3)
        tables = iter([first, table(6, seed=4), table(6, seed=5)])
        found = recurse(lambda _at: next(tables), self.cost, self.budgets, levels=("layer",), max_rounds=3)
        assert found.assignment == found.rounds[0].assignment  # exact by that table
        assert found.measured == pytest.approx(found.rounds[0].totals.error)
        assert all(r.measured >= found.measured for r in found.rounds)

    def circle(
        self, max_rounds: int, measure: Callable[[Assignment], float] | None = None
    ) -> tuple[dict[str, float], list[str], Found]:
        """Two plans, each what the other's table asks for."""
        first = exact(items_of(table(6, seed=3), self.cost), self.cost, self.budgets)
        plan = to_assignment(items_of(table(6, seed=3), self.cost), first.picks)

        def derive(at: Assignment) -> Sensitivity:
            return table(6, seed=4 if at == plan else 3)

        found = recurse(derive, self.cost, self.budgets, levels=("layer",), max_rounds=max_rounds, measure=measure)
        promises = {repr(r.assignment): r.totals.error for r in found.rounds}
        return promises, list(promises), found

    def test_the_last_level_must_fit(self) -> None:
        with pytest.raises(BudgetError):
            recurse(lambda _at: table(6, seed=3), self.cost, Budgets(flash=1.0))
