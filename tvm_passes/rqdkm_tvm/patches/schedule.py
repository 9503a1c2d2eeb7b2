"""SchedulePatches: the first layers of a network become one layer that runs them patch by patch.

In Relay it is a composite of composites: the layers are in it as they were, so that a patch stage can be evaluated,
parsed and compared like anything else; how it is cut stands in an attribute.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import rqdkm_tvm.patches.kernel  # noqa: F401 (registers the stage's kernel)
from rqdkm_tvm import plan_patches
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.graph import (
    BITS_ATTR,
    COMPOSITE_ATTR,
    LAYER_ATTR,
    PATCHED,
    PATCHES_ATTR,
    Rewriter,
    bits_of,
    calls,
    module_pass,
    outputs,
    rebuild,
    users,
    with_main,
)
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.layer import Tensor
from rqdkm_tvm.mixed import PRODUCERS
from rqdkm_tvm.offload.base import Draft, Quantization
from rqdkm_tvm.patches.stage import FRAME, Node, Stage, local
from rqdkm_tvm.plan import PATCHED_KERNEL, Plan, checked_object, read_output
from rqdkm_tvm.plan_patches import PatchPlan
from rqdkm_tvm.sites import Site, read_sites
from rqdkm_tvm.tvm_import import relay

Expr = Any
NAME = "patch_stage"  # of the layer, in plans and reports


@dataclass(frozen=True)
class Split:
    """A place where a network may be divided into a patch stage and the rest: after layer ``nodes[-1]``."""

    call: Expr
    nodes: tuple[Node, ...]

    @property
    def last(self) -> str:
        return self.nodes[-1].layer.name

    @property
    def result(self) -> Tensor:
        return self.nodes[-1].layer.output


def splits(function: Expr) -> list[Split]:
    """Every legal split of a partitioned main function (types inferred), in execution order.

    Before it there are only local operators, they read the model's one input and each other, and nothing but the
    split's own result is read after it.
    """
    if len(function.params) != 1:
        return []
    sites: dict[Expr, Site] = {site.call: site for site in read_sites(function)}
    readers = users(function)
    frame = function.params[0]
    found = []
    for call in calls(function):
        order = _ancestors(call)
        if not all(x in sites and local(sites[x].layer) and sites[x].layer.stage is None for x in order):
            continue
        inside = set(order)
        alone = all(reader in inside for x in (frame, *order[:-1]) for reader in readers.get(x, []))
        if not alone or call in outputs(function):
            continue
        position: dict[Expr, int] = {frame: FRAME} | {x: i for i, x in enumerate(order)}
        if all(arg in position for x in order for arg in x.args):
            nodes = tuple(Node(sites[x].layer, tuple(position[arg] for arg in x.args)) for x in order)
            found.append(Split(call, nodes))
    return found


def _ancestors(call: Expr) -> list[Expr]:
    """``call`` and the calls it depends on, in execution order."""
    return list(calls(relay.Function([], call)))


def split_at(function: Expr, last: str) -> Split:
    """The split after layer ``last``.

    Raises:
        PlanError: there is no such layer, or the network cannot be divided there.
    """
    legal = splits(function)
    for split in legal:
        if split.last == last:
            return split
    names = [split.last for split in legal]
    shown = ", ".join(f'"{name}"' for name in names[-8:]) or "none: the input is read by more than local operators"
    raise PlanError(
        "the network cannot be divided there",
        where=f'plan: patches after "{last}"',
        hint=f"it can after: {', ... ' if len(names) > 8 else ''}{shown}",
    )


def schedule(mod: Any, plan: Plan, kernel_set: KernelSet) -> Any:
    """See :func:`SchedulePatches`."""
    patches = plan.patches
    if patches is None:
        return mod
    if kernel_set == "reference":
        raise PlanError("the reference kernels do not run patches", where="plan: patches", hint="use --kernels auto")
    function = mod["main"]
    split = split_at(function, patches.last)
    check(split.nodes, patches)
    frame = function.params[0]
    inside = relay.Var("frame", frame.checked_type)
    stage = relay.Function([inside], relay.bind(split.call, {frame: inside}))
    stage = stage.with_attr(COMPOSITE_ATTR, PATCHED).with_attr(LAYER_ATTR, NAME)
    stage = stage.with_attr(PATCHES_ATTR, json.dumps({"plan": patches.to_json(), "kernels": kernel_set}))
    stage = stage.with_attr(BITS_ATTR, json.dumps({"output": bits_of(split.call)[0], "weights": []}))
    names = {node.layer.name for node in split.nodes}
    plan.replace(
        dataclasses.replace(entry, kernel=PATCHED_KERNEL, config={}) if entry.name in names else entry
        for entry in plan.layers
    )

    class Staging(Rewriter):
        def rewrite(self, call: Expr, original: Expr) -> Expr:
            return relay.Call(stage, [frame], None, None, split.call.span) if original.same_as(split.call) else call

    return with_main(mod, rebuild(function, Staging().run(function)))


def check(nodes: Sequence[Node], patches: PatchPlan) -> None:
    """Refuse a plan that does not fit the stage.

    Raises:
        PlanError: too many patches, or a branch that formats what is not there.
    """
    where = "plan: patches"
    result = nodes[-1].layer.output
    for extent, parts, what in zip(result.shape[1:3], patches.grid, ("rows", "columns"), strict=True):
        if parts > extent:
            raise PlanError(
                f"{parts} patches over {extent} {what}",
                where=where,
                hint=f'the result of "{patches.last}" is {result.shape[1]} x {result.shape[2]}',
            )
    if patches.outliers is not None and patches.input == "callback":
        raise PlanError(
            "a patch can be looked at before it is run only if the frame is in memory",
            where=where,
            hint='use "input": "frame", or leave out "outliers"',
        )
    names = {node.layer.name: node.layer for node in nodes}
    for index, branch in enumerate(patches.branches):
        for name, output in branch.items():
            at = f'{where}: branches[{index}]: "{name}"'
            if name not in names:
                raise PlanError("it is no layer of the stage", where=at)
            if name == patches.last:
                raise PlanError("all branches write the stage's result in one format", where=at)
            if names[name].op not in PRODUCERS:
                raise PlanError(
                    f"the result of {names[name].op} cannot be quantized anew",
                    where=at,
                    hint=f"operators that can: {', '.join(PRODUCERS)}",
                )
            if names[name].output.shape[-1] * output.stored % 8:
                raise PlanError(f"pixels of {output.bits} bits do not end on a byte", where=at)
    try:
        stage = Stage(tuple(nodes), patches)
        results = {branch[-1].layer.output for branch in stage.branches}
    except (KeyError, StopIteration) as error:
        raise PlanError(f"the branches cannot be made: {error}", where=where) from error
    if len(results) != 1:
        raise PlanError(
            "all branches write the stage's result in one format",
            where=where,
            hint=f'"{patches.last}" keeps the format of what it reads: end the stage after another layer',
        )


def parse_stage(function: Expr) -> Draft:
    """A stage's composite function as a layer."""
    attribute = json.loads(str(function.attrs[PATCHES_ATTR]))
    plan = plan_patches.read(attribute["plan"], "patches", checked_object, read_output)
    position: dict[Expr, int] = {function.params[0]: FRAME}
    nodes = []
    for site in read_sites(function):
        nodes.append(Node(site.layer, tuple(position[arg] for arg in site.call.args)))
        position[site.call] = len(position) - 1
    stage = Stage(tuple(nodes), plan, attribute["kernels"])
    frame, result = stage.frame, nodes[-1].layer.output
    return Draft(
        op=NAME,
        inputs=(Quantization(frame.scale, frame.zero_point),),
        output=Quantization(result.scale, result.zero_point),
        stage=stage,
    )


def SchedulePatches(plan: Plan, *, kernel_set: KernelSet = "auto") -> Any:  # noqa: N802 (named like TVM's)
    """Pass: the layers up to ``plan.patches.last`` become one, run patch by patch as ``plan.patches`` says.

    Comes after :func:`LowerMixedPrecision` and before :func:`FuseEpilogues`. Without ``plan.patches`` the module stays
    what it is; :func:`rqdkm_tvm.patches.plan.plan_patches` finds them.

    Raises:
        PlanError: the network cannot be divided there, or the plan does not fit.
    """
    return module_pass("SchedulePatches", lambda mod: schedule(mod, plan, kernel_set))
