"""Looking at the patches of a plan, and changing them."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rqdkm import plan_files
from rqdkm.options import OptionError, parse_grid
from rqdkm.plan_tools import parse_output
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.plan import PATCHED_KERNEL, UNDECIDED, OutputPlan, Plan, checked_object, read_output
from rqdkm_tvm.plan_patches import PatchPlan, read

STAGE = "patch_stage"  # operator of the stage's own entry in a plan


def render(plan: Plan) -> RenderableType:
    """How the first layers are cut, and the formats of every branch where they are not the layers' own.

    Args:
        plan: with ``patches``.
    """
    patches = plan.patches
    assert patches is not None
    rows, columns = patches.grid
    facts = Table.grid(padding=(0, 2))
    facts.add_row("patches", Text(f"{rows}x{columns} of the result of {patches.last}"))
    facts.add_row("halo", patches.halo)
    facts.add_row("input", patches.input)
    if patches.outliers is not None:
        o = patches.outliers
        facts.add_row("outliers", f"below {o.low} or above {o.high}; {o.count} of them: branch 0, whatever is assigned")
    if patches.assignment:
        facts.add_row("branches", "\n".join(" ".join(map(str, row)) for row in patches.assignment))
    parts: list[RenderableType] = [facts]
    if len(patches.branches) > 1:
        table = Table(box=None, pad_edge=False, header_style="bold")
        table.add_column("layer of the stage", overflow="fold")
        for index in range(len(patches.branches)):
            table.add_column(f"branch {index}")
        named = {name for branch in patches.branches for name in branch}
        for name in [x.name for x in plan.layers if x.name in named] or sorted(named):
            table.add_row(Text(name), *(Text(_format(branch.get(name))) for branch in patches.branches))
        parts += [Text(), table]
    return Group(*parts, Text())


def _format(output: OutputPlan | None) -> str:
    return "own" if output is None else f"{output.bits} bits, {output.scale:.6g}, {output.zero_point}"


def edit(
    path: Path,
    target: Path,
    *,
    grid: str | None = None,
    halo: str | None = None,
    source: str | None = None,
    branch: int | None = None,
    layer: str | None = None,
    output: str | None = None,
) -> tuple[str, ...]:
    """Write ``path`` with other patches to ``target``. The stage's memory is then planned anew.

    Args:
        grid: ``3x1``, or ``off``: the layers run whole again. Branches were made for the patches there were, so those
            of another grid are left out.
        halo, source: see :class:`rqdkm_tvm.plan_patches.PatchPlan` (``source`` is its ``input``).
        branch, layer, output: the format of a layer's result in a branch, ``bits:scale:zero_point``; ``own``: as the
            layer's entry says.

    Returns:
        What else had to change, in sentences.

    Raises:
        PlanError: the plan has no patches, or not that branch; or it would not be one that can be read.
        OptionError: a grid or a format that is none.
    """
    plan, parameters = plan_files.read(path)
    patches = plan.patches
    if patches is None:
        raise PlanError("the plan has no patches", where=str(path), hint="rqdkm deploy --patch makes one that has")
    remarks = []
    if grid == "off":
        plan.patches = None
        plan.layers = [x for x in plan.layers if x.op != STAGE]
        released = [x.name for x in plan.layers if x.kernel == PATCHED_KERNEL]
        remarks.append(f"kernels are to be chosen anew: {', '.join(released)}")
    else:
        changes: dict[str, Any] = {}
        if grid is not None:
            changes["grid"] = parse_grid(grid)
            if len(patches.branches) > 1 and changes["grid"] != patches.grid:
                changes |= {"branches": ({},), "assignment": (), "outliers": None}
                remarks.append("branches were made for other patches and were left out")
        if halo is not None:
            changes["halo"] = halo
        if source is not None:
            changes["input"] = source
        plan.patches = dataclasses.replace(patches, **changes)
        if branch is not None and layer is not None and output is not None:
            plan.patches = _reformatted(plan, plan.patches, branch, layer, output)
        read(plan.patches.to_json(), f"{target}: patches", checked_object, read_output)
        if plan.patches.outliers is not None and plan.patches.input == "callback":
            raise PlanError(
                "a patch can be looked at before it is run only if the frame is in memory",
                where="--input",
                hint="keep frame, or change the grid: classes go with the branches",
            )
        remarks.append("memory of the patch stage is to be planned anew")
    for x in plan.layers:
        if x.op == STAGE or (x.kernel == PATCHED_KERNEL and plan.patches is None):
            x.kernel, x.config = UNDECIDED, {}
    plan_files.write_to(target, plan, parameters)
    return tuple(remarks)


def _reformatted(plan: Plan, patches: PatchPlan, branch: int, layer: str, output: str) -> PatchPlan:
    if not 0 < branch < len(patches.branches):
        known = ", ".join(str(i) for i in range(1, len(patches.branches)))
        raise PlanError(
            f"branch {branch} has no formats of its own",
            where="--branch",
            hint=f"those that have: {known}"
            if known
            else "the plan has no other branch than 0: rqdkm deploy --patch auto --vdpc static makes some",
        )
    names = [x.name for x in plan.layers if x.kernel == PATCHED_KERNEL]
    if names and layer not in names:
        raise PlanError(f'"{layer}" is no layer of the stage', where="--layer", hint=f"its layers: {', '.join(names)}")
    if layer == patches.last:
        raise PlanError("all branches write the stage's result in one format", where="--layer")
    formats: dict[str, OutputPlan] = dict(patches.branches[branch])
    if output == "own":
        formats.pop(layer, None)
    else:
        made = parse_output(output)
        if made is None:
            raise OptionError(
                f'"{output}" is no format of a branch', where="--output", hint='write "own", or 4:0.05:-8'
            )
        formats[layer] = made
    branches: list[Mapping[str, OutputPlan]] = list(patches.branches)
    branches[branch] = formats
    return dataclasses.replace(patches, branches=tuple(branches))
