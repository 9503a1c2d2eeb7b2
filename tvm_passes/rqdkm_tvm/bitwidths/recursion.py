"""The recursion: derive the sensitivity anew on the partly quantized network until the plan repeats, and descend from
the network as a whole to layers to groups of output channels.

A round's error is predicted from a table of its own, so those of two rounds cannot be compared: the one whose table
says the least may be the one whose table is most wrong. What decides between the plans of all rounds is one measure for
all of them, the error of the network quantized by the plan on calibration samples.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rqdkm_tvm.bitwidths.items import Budgets, Costs, Level, Objective, Totals, items_of, predicted_error, to_assignment
from rqdkm_tvm.bitwidths.search import Method, search
from rqdkm_tvm.errors import BudgetError
from rqdkm_tvm.sensitivity.table import Assignment, Sensitivity


@dataclass(frozen=True)
class Round:
    """One derivation and search. ``measured``: error of the network quantized so, in the unit of the budget."""

    level: Level
    number: int
    assignment: Assignment
    totals: Totals
    proven: bool
    measured: float = 0.0


@dataclass(frozen=True)
class Found:
    """Result of :func:`recurse`. ``converged``: the last level's plan came out of its own sensitivity again.

    ``totals`` are as the round that found it predicted, ``measured`` is the error it has.
    """

    assignment: Assignment
    totals: Totals
    measured: float
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
    measure: Callable[[Assignment], float] | None = None,
    progress: Callable[[str], None] = lambda _message: None,
) -> Found:
    """Search, quantize by the result, derive the sensitivity of that network, search again; level by level.

    A level ends when its plan repeats, comes back to an older one, or after ``max_rounds``. The next level goes on from
    the best plan so far, and the best plan of all rounds is the result, see :func:`best_of`. A level above the last may
    be infeasible: two numbers cannot meet every budget that one per layer can.

    Args:
        derive: sensitivity of the network quantized by an assignment (empty: not at all).
        measure: error of that network, in the unit of ``derive``'s; None predicts all from the unquantized network's
            table.

    Raises:
        BudgetError: the last level cannot meet the budgets.
    """
    tables: dict[str, Sensitivity] = {}
    known: dict[str, float] = {}

    def derived(at: Assignment) -> Sensitivity:
        key = repr(at)
        if key not in tables:
            tables[key] = derive(at)
        return tables[key]

    unquantized = sensitivity = derived(Assignment())
    measure = measure or (lambda at: predicted_error(unquantized, at))
    rounds: list[Round] = []
    converged = False
    for level in levels:
        seen: list[Assignment] = []
        converged = False
        for number in range(1, max_rounds + 1):
            items = items_of(sensitivity, costs, level=level, group_size=group_size, max_bits=max_bits)
            try:
                found = search(items, costs, budgets, objective=objective, method=method)
            except BudgetError:
                if level == levels[-1] and not rounds:
                    raise
                break
            assignment = to_assignment(items, found.picks)
            key = repr(assignment)
            if key not in known:
                known[key] = measure(assignment)
            rounds.append(Round(level, number, assignment, found.totals, found.proven, known[key]))
            progress(
                f"bit-widths: {level}, round {number}, error {found.totals.error:.4g} predicted, "
                f"{known[key]:.4g} measured"
            )
            if assignment in seen:
                converged = seen[-1] == assignment
                break
            seen.append(assignment)
            if number < max_rounds:
                sensitivity = derived(assignment)
        if level != levels[-1] and rounds:
            sensitivity = derived(best_of(rounds, budgets, objective).assignment)
    best = best_of(rounds, budgets, objective)
    return Found(best.assignment, best.totals, best.measured, tuple(rounds), sensitivity, converged)


def best_of(rounds: Sequence[Round], budgets: Budgets, objective: Objective) -> Round:
    """The round of the least objective whose *measured* error holds; of equals, the later. None: of the least error.

    Costs do not depend on a table, so flash, RAM and cycles hold in all of them.
    """
    limit = float("inf") if budgets.error is None else budgets.error * (1 + 1e-9)
    holding = [r for r in rounds if r.measured <= limit]
    if objective == "error" or not holding:
        return min(reversed(rounds), key=lambda r: r.measured)
    return min(reversed(holding), key=lambda r: (r.totals.of(objective), r.measured))
