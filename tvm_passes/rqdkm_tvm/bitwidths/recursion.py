"""The recursion: derive the sensitivity anew on the partly quantized network until the plan repeats, and descend from
the network as a whole to layers to groups of output channels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rqdkm_tvm.bitwidths.items import Budgets, Costs, Level, Objective, Totals, items_of, to_assignment
from rqdkm_tvm.bitwidths.search import Method, search
from rqdkm_tvm.errors import BudgetError
from rqdkm_tvm.sensitivity.table import Assignment, Sensitivity


@dataclass(frozen=True)
class Round:
    """One derivation and search."""

    level: Level
    number: int
    assignment: Assignment
    totals: Totals
    proven: bool


@dataclass(frozen=True)
class Found:
    """Result of :func:`recurse`. ``converged``: the last level's plan came out of its own sensitivity again."""

    assignment: Assignment
    totals: Totals
    rounds: tuple[Round, ...]
    sensitivity: Sensitivity
    converged: bool


def recurse(
    derive: Callable[[Assignment], Sensitivity],
    costs: Costs,
    budgets: Budgets,
    *,
    objective: Objective = "error",
    method: Method = "exact",
    levels: Sequence[Level] = ("network", "layer", "group"),
    group_size: int = 8,
    max_bits: int = 8,
    max_rounds: int = 4,
    progress: Callable[[str], None] = lambda _message: None,
) -> Found:
    """Search, quantize by the result, derive the sensitivity of that network, search again; level by level.

    A level ends when its plan repeats, or after ``max_rounds``. If it comes back to an older plan instead of settling,
    the one of the circle with the least objective counts. A level above the last may be infeasible: two numbers
    cannot meet every budget that one per layer can.

    Args:
        derive: sensitivity of the network quantized by an assignment (empty: not at all).

    Raises:
        BudgetError: the last level cannot meet the budgets.
    """
    sensitivity = derive(Assignment())
    rounds: list[Round] = []
    converged = False
    for level in levels:
        seen: list[Round] = []
        converged = False
        for number in range(1, max_rounds + 1):
            items = items_of(sensitivity, costs, level=level, group_size=group_size, max_bits=max_bits)
            try:
                found = search(items, costs, budgets, objective=objective, method=method)
            except BudgetError:
                if level == levels[-1]:
                    raise
                break
            this = Round(level, number, to_assignment(items, found.picks), found.totals, found.proven)
            rounds.append(this)
            progress(f"bit-widths: {level}, round {number}, error {found.totals.error:.4g}")
            earlier = [i for i, old in enumerate(seen) if old.assignment == this.assignment]
            seen.append(this)
            if earlier:
                converged = earlier[0] == len(seen) - 2
                if not converged:
                    best = min(seen[earlier[0] :], key=lambda r: r.totals.of(objective))
                    rounds.append(best)
                break
            if number < max_rounds or level != levels[-1]:
                sensitivity = derive(this.assignment)
    last = rounds[-1]
    return Found(last.assignment, last.totals, tuple(rounds), sensitivity, converged)
