"""One option per layer, fewest cycles for the flash there is: a multiple-choice knapsack."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, TypeVar

# partial sums kept; beyond it those are dropped that differ by less than this part of the budget, cheapest kept
STATES = 2048


class Item(Protocol):
    """What the choice is about."""

    @property
    def cycles(self) -> float: ...
    @property
    def constant_bytes(self) -> int: ...


Chosen = TypeVar("Chosen", bound=Item)
State = tuple[int, float, Any]  # bytes, cycles, and (index of the last choice, those before it)


def fastest(
    choices: Mapping[str, Sequence[Chosen]], flash_budget: int | None, price: float
) -> dict[str, Chosen] | None:
    """Without a budget the option of least cycles and price for each layer; with one, the fewest cycles that fit it.

    Dynamic programming over the layers: after each one the sums (bytes, cycles) that no other sum beats in both.
    Exact up to ``STATES`` of them; then sums are thinned evenly, by up to ``flash_budget / STATES`` bytes.

    Args:
        price: of a byte of constants, in cycles, where there is no budget.

    Returns:
        None if a layer has no option, or if the smallest options exceed the budget.
    """
    if not all(choices.values()):
        return None
    if flash_budget is None:
        return {
            name: min(found, key=lambda option: option.cycles + price * option.constant_bytes)
            for name, found in choices.items()
        }
    states: list[State] = [(0, 0.0, None)]
    rest = sum(min(option.constant_bytes for option in found) for found in choices.values())
    for found in choices.values():
        rest -= min(option.constant_bytes for option in found)
        sums: list[State] = [
            (used + option.constant_bytes, cycles + option.cycles, (index, chain))
            for used, cycles, chain in states
            for index, option in enumerate(found)
            if used + option.constant_bytes + rest <= flash_budget
        ]
        states = _front(sums, flash_budget)
    if not states:
        return None
    chain = min(states, key=lambda state: state[1])[2]
    picked: list[int] = []
    while chain is not None:
        index, chain = chain
        picked.append(index)
    return {name: found[i] for (name, found), i in zip(choices.items(), reversed(picked), strict=True)}


def _front(sums: list[State], budget: int) -> list[State]:
    """The sums that need fewer bytes or fewer cycles than every other, by rising bytes, thinned to ``STATES``."""
    kept: list[State] = []
    for state in sorted(sums, key=lambda state: state[:2]):
        if not kept or state[1] < kept[-1][1]:
            kept.append(state)
    if len(kept) <= STATES:
        return kept
    thinned = kept[:1]  # the least bytes: whatever fits must stay possible
    for state in kept[1:]:
        if state[0] * STATES // budget > thinned[-1][0] * STATES // budget:
            thinned.append(state)
    return thinned
