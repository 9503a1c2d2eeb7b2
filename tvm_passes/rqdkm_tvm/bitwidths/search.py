"""Three ways to decide bit-widths within budgets.

* :func:`rule`: ``b(l) = min(Bmax, smallest b that minimises R(l; b))``, every item for itself. "Minimises" means:
  within a tolerance of the least; the tolerance is the smallest with which the budgets hold.
* :func:`greedy`: from the least error, again and again the step that relieves the budgets most per error.
* :func:`exact`: a mixed-integer program (HiGHS, through scipy): the least error any choice within the budgets has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse  # type: ignore[import-untyped]

from rqdkm_tvm.bitwidths.items import (
    CYCLES_PER_BYTE,
    Budgets,
    Costs,
    Item,
    Objective,
    Selection,
    holds,
    limits_of,
    ram_of,
    totals,
)
from rqdkm_tvm.errors import BudgetError, RamBudgetError
from rqdkm_tvm.quiet import native_silence

Method = Literal["exact", "greedy", "rule"]
NODE_LIMIT = 50_000  # of the branch and bound; a limit on time would make the plan depend on the machine
TIE = 1e-7  # errors that differ by less than this part count as equal: then fewer bits win


def search(
    items: Sequence[Item], costs: Costs, budgets: Budgets, *, objective: Objective = "error", method: Method = "exact"
) -> Selection:
    """One of the three ways; the rule knows the error as its objective only."""
    if method == "exact":
        return exact(items, costs, budgets, objective)
    if method == "greedy":
        return greedy(items, costs, budgets, objective)
    if objective != "error":
        raise ValueError("the rule minimises the error only")
    return rule(items, costs, budgets)


# ---- the rule


def rule(items: Sequence[Item], costs: Costs, budgets: Budgets) -> Selection:
    """``b = min(Bmax, smallest b that minimises R)`` with the least tolerance that meets the budgets.

    Raises:
        BudgetError: no tolerance does.
    """
    tolerances = {0.0}
    for item in items:
        least = min(c.error for c in item.choices)
        tolerances |= {c.error - least for c in item.choices}
    for tolerance in sorted(tolerances):
        picks = []
        for item in items:
            least = min(c.error for c in item.choices)
            allowed = [i for i, c in enumerate(item.choices) if c.error - least <= tolerance]
            picks.append(min(allowed, key=lambda i: item.choices[i].bits))
        found = totals(items, picks, costs)
        if holds(found, budgets):
            return Selection(tuple(picks), found)
    raise explain(items, costs, budgets)


# ---- greedy


def greedy(items: Sequence[Item], costs: Costs, budgets: Budgets, objective: Objective = "error") -> Selection:
    """From the least error downwards; then whatever room is left is given back.

    Raises:
        BudgetError: it found no selection within the budgets (:func:`exact` may).
    """
    picks = [min(range(len(x.choices)), key=lambda i: (x.choices[i].error, x.choices[i].bits)) for x in items]
    limits = limits_of(budgets)
    while True:
        current = totals(items, picks, costs)
        before = _excess(items, picks, costs, limits)
        if before == 0 and objective == "error":
            break
        best: tuple[float, int, int] | None = None
        for index, item in enumerate(items):
            for pick, choice in enumerate(item.choices):
                if pick == picks[index]:
                    continue
                moved = [*picks[:index], pick, *picks[index + 1 :]]
                price = choice.error - item.choices[picks[index]].error
                if before > 0:
                    gain = before - _excess(items, moved, costs, limits)
                else:
                    after = totals(items, moved, costs)
                    gain = current.of(objective) - after.of(objective) if holds(after, budgets) else 0.0
                if gain > 1e-12 and (best is None or (max(price, 0.0) / gain, index, pick) < best):
                    best = (max(price, 0.0) / gain, index, pick)
        if best is None:
            if before > 0:
                raise explain(items, costs, budgets)
            break
        picks[best[1]] = best[2]
    if objective == "error":
        picks = _give_back(items, picks, costs, budgets)
    return Selection(tuple(picks), totals(items, picks, costs))


def _excess(items: Sequence[Item], picks: Sequence[int], costs: Costs, limits: Mapping[str, float]) -> float:
    """How far beyond the budgets, each relative to its limit; RAM is summed over steps, so that every step counts."""
    found = totals(items, picks, costs)
    over = 0.0
    for resource, limit in limits.items():
        scale = max(limit, 1e-30)
        if resource == "ram":
            over += float(np.maximum(ram_of(items, picks, costs) - limit, 0).sum()) / scale
        else:
            over += max(found.of(resource) - limit * (1 + 1e-12), 0.0) / scale
    return over


def _give_back(items: Sequence[Item], picks: list[int], costs: Costs, budgets: Budgets) -> list[int]:
    """Single changes that lower the error within the budgets, the largest first."""
    while True:
        best: tuple[float, int, int] | None = None
        for index, item in enumerate(items):
            for pick, choice in enumerate(item.choices):
                gain = item.choices[picks[index]].error - choice.error
                if gain <= 0 or (best is not None and (-gain, index, pick) >= best):
                    continue
                if holds(totals(items, [*picks[:index], pick, *picks[index + 1 :]], costs), budgets):
                    best = (-gain, index, pick)
        if best is None:
            return picks
        picks[best[1]] = best[2]


# ---- exact


def exact(items: Sequence[Item], costs: Costs, budgets: Budgets, objective: Objective = "error") -> Selection:
    """The best selection within the budgets; among equally good ones the one with the fewest bits, or, where the
    objective is a resource, with the least error.

    Raises:
        BudgetError: there is none; says what would be needed.
    """
    solved = _solve(items, costs, budgets, objective)
    if solved is None:
        raise explain(items, costs, budgets)
    found = totals(items, solved[0], costs)
    if not holds(found, budgets):  # by less than the solver's tolerance of 1e-6: ask for that much more
        tighter = Budgets(**{name: limit * (1 - 3e-6) for name, limit in limits_of(budgets).items()})
        solved = _solve(items, costs, tighter, objective)
        if solved is None:
            raise explain(items, costs, tighter)
        found = totals(items, solved[0], costs)
    return Selection(tuple(solved[0]), found, solved[1])


def _solve(
    items: Sequence[Item], costs: Costs, budgets: Budgets, objective: Objective
) -> tuple[list[int], bool] | None:
    program = _Program(items, costs, budgets)
    goal = program.goal(objective)
    first = program.minimise(goal)
    if first is None:
        return None
    picks, value, proven = first
    # what decides among the equals makes the result independent of the solver's path
    bits = np.array([c.bits for item in items for c in item.choices] + [0.0])
    errors = program.columns["error"]
    tie = bits if objective == "error" else errors / max(float(errors.max()), 1e-30)
    second = program.minimise(tie, extra=(goal, value + TIE * max(abs(value), 1e-9)))
    return (picks, proven) if second is None else (second[0], proven)


class _Program:
    """Binary x per item and choice, then the peak of RAM. Rows are scaled so that limits are about 1."""

    def __init__(self, items: Sequence[Item], costs: Costs, budgets: Budgets) -> None:
        self.items, self.costs, self.budgets = items, costs, budgets
        self.choices = [(i, c) for i, item in enumerate(items) for c in item.choices]
        self.size = len(self.choices) + 1
        self.peak = self.size - 1
        limits = limits_of(budgets)
        flat = [c for _, c in self.choices]
        self.columns = {
            "error": np.array([*(c.error for c in flat), 0.0]),
            "flash": np.array([*(c.flash for c in flat), 0.0]),
            "cycles": np.array([*(c.cycles for c in flat), 0.0]),
            "ram": np.array([*(0.0 for _ in flat), 1.0]),
        }
        peak_bytes = float(max([*costs.fixed_ram, *(r for c in flat for r in c.ram), 1]))
        weighted = self.columns["flash"] + self.columns["cycles"] / CYCLES_PER_BYTE
        self.columns["memory"] = weighted + peak_bytes * self.columns["ram"]
        fixed = {"error": 0.0, "flash": costs.fixed_flash, "cycles": costs.fixed_cycles, "ram": 0.0}
        rows: list[npt.NDArray[np.float64]] = []
        low: list[float] = []
        high: list[float] = []
        for i in range(len(items)):
            row = np.zeros(self.size)
            row[[n for n, (owner, _) in enumerate(self.choices) if owner == i]] = 1
            rows, low, high = [*rows, row], [*low, 1.0], [*high, 1.0]
        self.ram_unit = peak_bytes
        for step, base in enumerate(costs.fixed_ram):
            row = np.zeros(self.size)
            for n, (owner, choice) in enumerate(self.choices):
                row[n] = sum(size for s, size in zip(items[owner].steps, choice.ram, strict=True) if s == step)
            row /= self.ram_unit
            row[self.peak] = -1
            rows, low, high = [*rows, row], [*low, -np.inf], [*high, -base / self.ram_unit]
        for resource, limit in limits.items():
            if resource == "ram":
                continue
            scale = max(limit - fixed[resource], float(self.columns[resource].max()) * 1e-6, 1e-30)
            rows.append(self.columns[resource] / scale)
            low.append(-np.inf)
            high.append((limit - fixed[resource]) / scale)
        self.constraint = optimize.LinearConstraint(sparse.csr_array(np.array(rows)), low, high)
        ram_limit = limits.get("ram", np.inf) / self.ram_unit
        self.bounds = optimize.Bounds(np.zeros(self.size), np.array([1.0] * len(flat) + [ram_limit]))
        self.integrality = np.array([1] * len(flat) + [0])

    def goal(self, objective: Objective) -> npt.NDArray[np.float64]:
        """Coefficients, scaled: errors span many orders of magnitude, and the solver's tolerances are absolute."""
        column = self.columns[objective]
        if objective != "error":
            return np.asarray(column / max(float(column.max()), 1e-30))
        scale = float(column.max())
        try:
            bound = greedy(self.items, self.costs, self.budgets).totals.error
        except BudgetError:
            bound = scale
        # what alone is worse than a known selection is in no best one
        worse = column > bound * (1 + 1e-9)
        self.bounds = optimize.Bounds(self.bounds.lb, np.where(worse, 0.0, self.bounds.ub))
        return np.asarray(np.where(worse, 0.0, column) / max(bound, 1e-30))

    def minimise(
        self, goal: npt.NDArray[np.float64], extra: tuple[npt.NDArray[np.float64], float] | None = None
    ) -> tuple[list[int], float, bool] | None:
        constraints = [self.constraint]
        if extra is not None:
            constraints.append(optimize.LinearConstraint(extra[0][None], -np.inf, extra[1]))
        with native_silence(1):  # HiGHS prints debugging lines now and then, whatever its options say
            result = optimize.milp(
                goal,
                constraints=constraints,
                bounds=self.bounds,
                integrality=self.integrality,
                options={"mip_rel_gap": 0.0, "node_limit": NODE_LIMIT},
            )
        if result.x is None:
            return None
        picks = []
        position = 0
        for item in self.items:
            part = result.x[position : position + len(item.choices)]
            picks.append(int(np.argmax(part)))
            position += len(item.choices)
        return picks, float(goal @ result.x), result.status == 0


# ---- when nothing fits


def explain(items: Sequence[Item], costs: Costs, budgets: Budgets) -> BudgetError:
    """Which budget cannot hold, and the least that would do with the others as they are."""
    limits = limits_of(budgets)
    for resource, limit in limits.items():
        least = _least(items, costs, Budgets(), resource)
        if least is not None and least > limit * (1 + 1e-9):
            return _error(resource, limit, least, "even with every other budget lifted")
    for resource, limit in limits.items():
        others = Budgets(**{name: value for name, value in limits.items() if name != resource})
        least = _least(items, costs, others, resource)
        if least is not None:
            return _error(resource, limit, least, "with the other budgets as they are")
    named = ", ".join(f"{name} {limit:g}" for name, limit in limits.items())
    return BudgetError(
        f"no bit-widths meet these budgets together: {named}",
        where="bit-width search",
        hint="each alone can hold; lift two or more of them",
    )


def _least(items: Sequence[Item], costs: Costs, budgets: Budgets, resource: str) -> float | None:
    objective: Objective = resource  # type: ignore[assignment]
    solved = _solve(items, costs, budgets, objective)
    return None if solved is None else totals(items, solved[0], costs).of(resource)


def _error(resource: str, limit: float, least: float, condition: str) -> BudgetError:
    unit = {"flash": " bytes", "ram": " bytes", "cycles": " cycles", "error": ""}[resource]
    shown = f"{least:,.6g}" if resource == "error" else f"{np.ceil(least):,.0f}"
    given = f"{limit:,.6g}" if resource == "error" else f"{limit:,.0f}"
    name = "RAM" if resource == "ram" else resource
    kind = RamBudgetError if resource == "ram" else BudgetError
    return kind(
        f"the {name} budget is {given}{unit}, bit-widths can bring it down to {shown}{unit} {condition}",
        where="bit-width search",
        hint=f"raise the {name} budget to {shown}{unit} or more, or allow fewer bits",
        needed_bytes=int(np.ceil(least)) if resource in ("flash", "ram") else 0,
    )
