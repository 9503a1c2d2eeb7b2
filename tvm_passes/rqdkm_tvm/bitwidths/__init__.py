"""The bit-width search: which weights and feature maps get 8, 4 or 2 bits."""

from __future__ import annotations

from rqdkm_tvm.bitwidths.items import (
    Budgets,
    Choice,
    Costs,
    Item,
    LayerCosts,
    Level,
    Objective,
    Selection,
    Totals,
    holds,
    items_of,
    merge,
    predicted_error,
    ram_of,
    to_assignment,
    totals,
)
from rqdkm_tvm.bitwidths.recursion import (
    Found,
    Round,
    recurse,
)
from rqdkm_tvm.bitwidths.search import (
    Method,
    exact,
    explain,
    greedy,
    rule,
    search,
)

__all__ = [
    "Budgets",
    "Choice",
    "Costs",
    "Found",
    "Item",
    "LayerCosts",
    "Level",
    "Method",
    "Objective",
    "Round",
    "Selection",
    "Totals",
    "exact",
    "explain",
    "greedy",
    "holds",
    "items_of",
    "merge",
    "predicted_error",
    "ram_of",
    "recurse",
    "rule",
    "search",
    "to_assignment",
    "totals",
]
