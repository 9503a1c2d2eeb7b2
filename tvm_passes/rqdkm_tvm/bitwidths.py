"""The bit-width search: which weights and feature maps get 8, 4 or 2 bits. Pure functions of two tables.

What must be decided is a list of :class:`Item`, each with a few :class:`Choice`; errors, flash and cycles of the
choices add up, RAM adds up per step of the network and its peak counts. Three ways to decide:

* :func:`rule`: ``b(l) = min(Bmax, smallest b that minimises R(l; b))``, every item for itself. "Minimises" means:
  within a tolerance of the least; the tolerance is the smallest with which the budgets hold.
* :func:`greedy`: from the least error, again and again the step that relieves the budgets most per error.
* :func:`exact`: a mixed-integer program (HiGHS, through scipy): the least error any choice within the budgets has.

:func:`recurse` derives the sensitivity anew on the partly quantized network until the plan repeats, and descends from
the network as a whole to layers to groups of output channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy import optimize, sparse  # type: ignore[import-untyped]

from rqdkm_tvm.errors import BudgetError
from rqdkm_tvm.sensitivity.table import Assignment, Sensitivity

Level = Literal["network", "layer", "group"]
Objective = Literal["error", "flash", "ram", "cycles"]
Method = Literal["exact", "greedy", "rule"]
NODE_LIMIT = 50_000  # of the branch and bound; a limit on time would make the plan depend on the machine
TIE = 1e-7  # errors that differ by less than this part count as equal: then fewer bits win


@dataclass(frozen=True)
class LayerCosts:
    """What one layer costs at the bit-widths its kernels can store; others are absent.

    Args:
        name: the layer.
        channels: output channels.
        flash_per_channel: bits of the weights -> bytes of one output channel's weights.
        weight_cycles: bits of the weights -> cycles of the layer, all channels at that width.
        ram: bits of the output -> bytes, aligned.
        activation_cycles: bits of the output -> cycles it adds (packing, unpacking).
        steps: at which steps the output lives.
    """

    name: str
    channels: int = 0
    flash_per_channel: Mapping[int, float] = field(default_factory=dict)
    weight_cycles: Mapping[int, float] = field(default_factory=dict)
    ram: Mapping[int, int] = field(default_factory=dict)
    activation_cycles: Mapping[int, float] = field(default_factory=dict)
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Costs:
    """All layers, and what does not depend on bit-widths: RAM by step (inputs, scratch, ...), flash, cycles."""

    layers: tuple[LayerCosts, ...]
    fixed_ram: tuple[int, ...]
    fixed_flash: float = 0.0
    fixed_cycles: float = 0.0


@dataclass(frozen=True)
class Budgets:
    """Upper limits; None for none. ``error`` is in units of the sensitivity's objective."""

    flash: float | None = None
    ram: float | None = None
    cycles: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class Choice:
    """One bit-width of an item; ``ram`` is bytes at each of the item's steps."""

    bits: int
    error: float
    flash: float = 0.0
    cycles: float = 0.0
    ram: tuple[int, ...] = ()


@dataclass(frozen=True)
class Item:
    """One decision, for all of ``members``: (layer, "weights" or "activations", channel group; -1 for all groups)."""

    members: tuple[tuple[str, str, int], ...]
    choices: tuple[Choice, ...]
    steps: tuple[int, ...] = ()


@dataclass(frozen=True)
class Totals:
    error: float
    flash: float
    ram: float
    cycles: float

    def of(self, resource: str) -> float:
        return float(getattr(self, resource))


@dataclass(frozen=True)
class Selection:
    """Index of the choice of every item. ``proven``: no other selection is better."""

    picks: tuple[int, ...]
    totals: Totals
    proven: bool = False


# ---- the decisions


def items_of(
    sensitivity: Sensitivity, costs: Costs, *, level: Level = "layer", group_size: int = 8, max_bits: int = 8
) -> list[Item]:
    """Everything there is to decide, in execution order, weights before feature maps.

    Args:
        level: one decision for all weights and one for all feature maps, one per layer, or one per channel group.
        group_size: output channels per group, 4 or 8.
        max_bits: Bmax.
    """
    found: list[Item] = []
    tied: dict[str, list[Item]] = {}
    for cost in costs.layers:
        row = next((x for x in sensitivity.layers if x.name == cost.name), None)
        if row is None:
            continue
        if row.weights and cost.flash_per_channel:
            groups = -(-cost.channels // group_size) if level == "group" else 1
            for group in range(groups):
                first = group * group_size if level == "group" else 0
                count = min(group_size, cost.channels - first) if level == "group" else cost.channels
                share = count / cost.channels
                choices = [
                    Choice(
                        b,
                        row.channel_error(b, first, count),
                        flash * count,
                        cost.weight_cycles.get(b, 0.0) * share,
                    )
                    for b, flash in sorted(cost.flash_per_channel.items())
                    if b in row.weights and b <= max_bits
                ]
                member = (cost.name, "weights", group if level == "group" else -1)
                found.append(Item((member,), tuple(choices)))
        if cost.ram and not row.fixed:
            choices = [
                Choice(
                    b,
                    row.activation_error(b) if row.activations else 0.0,
                    0.0,
                    cost.activation_cycles.get(b, 0.0),
                    (size,) * len(cost.steps),
                )
                for b, size in sorted(cost.ram.items())
                if b <= max_bits and (not row.activations or b in row.activations)
            ]
            item = Item(((cost.name, "activations", -1),), tuple(choices), cost.steps)
            tied.setdefault(row.tied_to or row.name, []).append(item)
    found += [merge(together) for together in tied.values()]
    if level == "network":
        by_kind = [[x for x in found if x.members[0][1] == kind] for kind in ("weights", "activations")]
        found = [merge(together) for together in by_kind if together]
    return found


def merge(items: Sequence[Item]) -> Item:
    """One decision instead of several: the bit-widths all of them have."""
    common = sorted(set.intersection(*({c.bits for c in item.choices} for item in items)))
    choices = []
    for bits in common:
        parts = [next(c for c in item.choices if c.bits == bits) for item in items]
        choices.append(
            Choice(
                bits,
                sum(c.error for c in parts),
                sum(c.flash for c in parts),
                sum(c.cycles for c in parts),
                tuple(r for c in parts for r in c.ram),
            )
        )
    members = tuple(m for item in items for m in item.members)
    return Item(members, tuple(choices), tuple(s for item in items for s in item.steps))


def to_assignment(items: Sequence[Item], picks: Sequence[int]) -> Assignment:
    """Bit-widths by layer."""
    weights: dict[str, list[int]] = {}
    activations: dict[str, int] = {}
    for item, pick in zip(items, picks, strict=True):
        for name, kind, _group in item.members:
            bits = item.choices[pick].bits
            if kind == "weights":
                weights.setdefault(name, []).append(bits)
            else:
                activations[name] = bits
    return Assignment({name: tuple(bits) for name, bits in weights.items()}, activations)


def ram_of(items: Sequence[Item], picks: Sequence[int], costs: Costs) -> npt.NDArray[np.float64]:
    """Bytes alive at each step."""
    ram: npt.NDArray[np.float64] = np.array(costs.fixed_ram, np.float64)
    for item, pick in zip(items, picks, strict=True):
        for step, size in zip(item.steps, item.choices[pick].ram, strict=True):
            ram[step] += size
    return ram


def totals(items: Sequence[Item], picks: Sequence[int], costs: Costs) -> Totals:
    chosen = [item.choices[pick] for item, pick in zip(items, picks, strict=True)]
    return Totals(
        error=sum(c.error for c in chosen),
        flash=costs.fixed_flash + sum(c.flash for c in chosen),
        ram=float(ram_of(items, picks, costs).max(initial=0)),
        cycles=costs.fixed_cycles + sum(c.cycles for c in chosen),
    )


def holds(found: Totals, budgets: Budgets) -> bool:
    return all(found.of(r) <= limit * (1 + 1e-9) for r, limit in _limits(budgets).items())


def _limits(budgets: Budgets) -> dict[str, float]:
    named = {"flash": budgets.flash, "ram": budgets.ram, "cycles": budgets.cycles, "error": budgets.error}
    return {name: float(limit) for name, limit in named.items() if limit is not None}


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
    limits = _limits(budgets)
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
    """The best selection within the budgets; among equally good ones the one with the fewest bits.

    Raises:
        BudgetError: there is none; says what would be needed.
    """
    solved = _solve(items, costs, budgets, objective)
    if solved is None:
        raise explain(items, costs, budgets)
    found = totals(items, solved[0], costs)
    if not holds(found, budgets):  # by less than the solver's tolerance of 1e-6: ask for that much more
        tighter = Budgets(**{name: limit * (1 - 3e-6) for name, limit in _limits(budgets).items()})
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
    # fewest bits among the equals makes the result independent of the solver's path
    bits = np.array([c.bits for item in items for c in item.choices] + [0.0])
    second = program.minimise(bits, extra=(goal, value + TIE * max(abs(value), 1e-9)))
    return (picks, proven) if second is None else (second[0], proven)


class _Program:
    """Binary x per item and choice, then the peak of RAM. Rows are scaled so that limits are about 1."""

    def __init__(self, items: Sequence[Item], costs: Costs, budgets: Budgets) -> None:
        self.items, self.costs, self.budgets = items, costs, budgets
        self.choices = [(i, c) for i, item in enumerate(items) for c in item.choices]
        self.size = len(self.choices) + 1
        self.peak = self.size - 1
        limits = _limits(budgets)
        flat = [c for _, c in self.choices]
        self.columns = {
            "error": np.array([*(c.error for c in flat), 0.0]),
            "flash": np.array([*(c.flash for c in flat), 0.0]),
            "cycles": np.array([*(c.cycles for c in flat), 0.0]),
            "ram": np.array([*(0.0 for _ in flat), 1.0]),
        }
        fixed = {"error": 0.0, "flash": costs.fixed_flash, "cycles": costs.fixed_cycles, "ram": 0.0}
        rows: list[npt.NDArray[np.float64]] = []
        low: list[float] = []
        high: list[float] = []
        for i in range(len(items)):
            row = np.zeros(self.size)
            row[[n for n, (owner, _) in enumerate(self.choices) if owner == i]] = 1
            rows, low, high = [*rows, row], [*low, 1.0], [*high, 1.0]
        self.ram_unit = max([*costs.fixed_ram, *(r for c in flat for r in c.ram), 1])
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
    limits = _limits(budgets)
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
    return BudgetError(
        f"the {name} budget is {given}{unit}, bit-widths can bring it down to {shown}{unit} {condition}",
        where="bit-width search",
        hint=f"raise the {name} budget to {shown}{unit} or more, or allow fewer bits",
        needed_bytes=int(np.ceil(least)) if resource in ("flash", "ram") else 0,
    )


# ---- the recursion


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
