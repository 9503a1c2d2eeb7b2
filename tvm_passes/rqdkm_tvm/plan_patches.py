"""The patch stage of a plan: where it ends, how it is cut, and the formats of each branch's feature maps.

As JSON, the key ``patches`` of a plan::

    {"last": "conv2d_4", "grid": [3, 1], "halo": "lines", "input": "frame",
     "branches": [{}, {"conv2d": {"bits": 4, "scale": 0.25, "zero_point": -8}}],
     "assignment": [[0], [1], [1]],
     "outliers": {"low": -90, "high": 113, "count": 3}}

Branch 0 has the formats that the layers' own entries give. A format with ``"packed": false`` takes a byte per value.
``assignment`` names the branch of each patch, by row and column. With ``outliers`` the chip looks at every patch of its
input, and a patch with at least ``count`` values below ``low`` or above ``high`` takes branch 0 whatever ``assignment``
says.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, get_args

from rqdkm_tvm.errors import PlanError

if TYPE_CHECKING:
    from rqdkm_tvm.plan import OutputPlan

Halo = Literal["recompute", "lines"]
Input = Literal["frame", "callback"]
MOST_PATCHES = 256  # rows or columns of a grid


@dataclass(frozen=True)
class Outliers:
    """When a patch of the (int8) input is an outlier patch."""

    low: int
    high: int
    count: int


@dataclass(frozen=True)
class PatchPlan:
    """How the first layers are run patch by patch.

    Args:
        last: name of the layer whose result the stage writes.
        grid: patches down and across that result.
        halo: what neighbours share is computed again (``recompute``), or rows are kept from one patch to the next one
            below it (``lines``).
        input: the frame lies in memory whole, or the application hands over regions of it (``callback``).
        branches: formats by layer name; the first is empty.
        assignment: branch of each patch, ``grid[0]`` rows of ``grid[1]``; empty: branch 0 throughout.
        outliers: None: decided by ``assignment`` alone.
    """

    last: str
    grid: tuple[int, int]
    halo: Halo = "recompute"
    input: Input = "frame"
    branches: tuple[Mapping[str, OutputPlan], ...] = field(default=({},))
    assignment: tuple[tuple[int, ...], ...] = ()
    outliers: Outliers | None = None

    def branch(self, row: int, column: int) -> int:
        """Of a patch, as far as the plan decides it."""
        return self.assignment[row][column] if self.assignment else 0

    def to_json(self) -> dict[str, Any]:
        found: dict[str, Any] = {
            "last": self.last,
            "grid": list(self.grid),
            "halo": self.halo,
            "input": self.input,
        }
        if len(self.branches) > 1:
            found["branches"] = [
                {name: output.to_json() for name, output in sorted(branch.items())} for branch in self.branches
            ]
            found["assignment"] = [list(row) for row in self.assignment]
        if self.outliers is not None:
            found["outliers"] = {
                "low": self.outliers.low,
                "high": self.outliers.high,
                "count": self.outliers.count,
            }
        return found


def read(value: Any, where: str, checked: Callable[..., None], output: Callable[[Any, str], OutputPlan]) -> PatchPlan:
    """Parse and validate the value of ``patches``.

    Args:
        checked: refuses an object with other keys or types than stated.
        output: reads a format.

    Raises:
        PlanError: says what is wrong, and where.
    """
    checked(
        value,
        where,
        required={"last": str, "grid": list, "halo": str, "input": str},
        optional={"branches": list, "assignment": list, "outliers": dict},
    )
    grid = value["grid"]
    if len(grid) != 2 or not all(type(n) is int and 1 <= n <= MOST_PATCHES for n in grid):
        raise PlanError(
            f"grid is {json.dumps(grid)[:40]}, expected [rows, columns] of 1 to {MOST_PATCHES}", where=where
        )
    for key, choices in (("halo", get_args(Halo)), ("input", get_args(Input))):
        if value[key] not in choices:
            raise PlanError(f'{key} is "{value[key]}", known are: {", ".join(choices)}', where=where)
    branches: list[dict[str, OutputPlan]] = []
    for index, branch in enumerate(value.get("branches", [{}])):
        at = f"{where}: branches[{index}]"
        if not isinstance(branch, dict):
            raise PlanError("expected an object of layer names", where=at)
        branches.append({name: output(entry, f'{at}: "{name}"') for name, entry in branch.items()})
    if not branches or branches[0]:
        raise PlanError(
            "the first branch has formats of its own",
            where=f"{where}: branches",
            hint="branch 0 is {}: the formats of the layers' own entries",
        )
    assignment = tuple(tuple(row) if isinstance(row, list) else () for row in value.get("assignment", []))
    if assignment or len(branches) > 1:
        good = len(assignment) == grid[0] and all(len(row) == grid[1] for row in assignment)
        if not good or not all(type(b) is int and 0 <= b < len(branches) for row in assignment for b in row):
            raise PlanError(
                f"assignment must name one of {len(branches)} branches for each of {grid[0]} x {grid[1]} patches",
                where=where,
            )
    if len(branches) == 1:
        assignment = ()  # there is nothing to choose
    outliers = None
    if "outliers" in value:
        at = f"{where}: outliers"
        checked(value["outliers"], at, required={"low": int, "high": int, "count": int})
        outliers = Outliers(**value["outliers"])
        if not (-129 <= outliers.low <= 128 and -129 <= outliers.high <= 128 and outliers.count >= 1):
            raise PlanError("low and high are int8 values, count at least 1", where=at)
    return PatchPlan(
        value["last"], (grid[0], grid[1]), value["halo"], value["input"], tuple(branches), assignment, outliers
    )
