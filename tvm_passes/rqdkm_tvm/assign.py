"""AssignKernels: a kernel and a configuration for every layer, within the RAM there is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rqdkm_tvm.kernels  # noqa: F401 (registers every kernel)
from rqdkm_tvm import memory
from rqdkm_tvm.errors import BudgetError, PlanError
from rqdkm_tvm.graph import module_pass, with_main
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.layer import Layer
from rqdkm_tvm.partition import add_refusals
from rqdkm_tvm.plan import LayerPlan, Plan
from rqdkm_tvm.sites import Site, read_sites

# without a budget: scratch may raise the arena by this part of what the tensors alone need ...
SCRATCH_SHARE = 1 / 8
# ... and by more only if the estimated run would otherwise be slower than the fastest one by more than this factor
WORTH = 1.05
NEGLIGIBLE = 1.005  # bytes that buy less speed than this are given back


@dataclass(frozen=True)
class Option:
    """One way to run a layer."""

    kernel: registry.Kernel
    config: registry.Config
    cycles: float
    scratch_bytes: int


def options(layer: Layer, kernel_set: registry.KernelSet = "auto") -> list[Option]:
    """Every way to run ``layer``, fastest expected first, without those that are slower and need no less scratch."""
    kept: list[Option] = []
    for kernel, config in registry.candidates(layer, kernel_set):
        option = Option(kernel, config, kernel.estimate_cycles(layer, config), kernel.scratch_bytes(layer, config))
        if not kept or option.scratch_bytes < kept[-1].scratch_bytes:
            kept.append(option)
    return kept


def planned_option(layer: Layer, entry: LayerPlan) -> Option:
    """The option a plan asks for.

    Raises:
        PlanError: the kernel does not exist, is for another operator, refuses the layer or the configuration.
    """
    where = f'plan: layer "{layer.name}"'
    known = [k.name for k in registry.kernels_for(layer)]
    hint = f"kernels for {layer.op}: {', '.join(known) or 'none'}; or null for TVM's own code"
    if entry.op != layer.op:
        raise PlanError(f'the plan says "{entry.op}", the model has "{layer.op}"', where=where)
    if entry.kernel not in known:
        raise PlanError(f'no kernel "{entry.kernel}" for {layer.op}', where=where, hint=hint)
    kernel = registry.get(entry.kernel)
    reason = kernel.reject(layer)
    if reason is not None:
        raise PlanError(f"kernel {entry.kernel} cannot run it: {reason}", where=where, hint=hint)
    legal = [dict(config) for config in kernel.configs(layer)]
    if entry.config not in legal:
        shown = ", ".join(str(config) for config in legal[:6]) + (", ..." if len(legal) > 6 else "")
        raise PlanError(
            f"kernel {entry.kernel} has no configuration {entry.config} for it", where=where, hint=f"possible: {shown}"
        )
    return Option(
        kernel,
        entry.config,
        kernel.estimate_cycles(layer, entry.config),
        kernel.scratch_bytes(layer, entry.config),
    )


def _all_options(sites: Sequence[Site], plan: Plan, kernel_set: registry.KernelSet) -> dict[str, list[Option]]:
    """Options by layer; none where TVM compiles it."""
    names = {site.name for site in sites}
    for entry in plan.layers:
        if entry.name not in names:
            raise PlanError(
                f'the model has no layer "{entry.name}"',
                where="plan",
                hint="layer names are in the offload report; a plan belongs to one model",
            )
    found: dict[str, list[Option]] = {}
    for site in sites:
        planned = plan.get(site.name)
        if planned is None:
            found[site.name] = options(site.layer, kernel_set)
        elif planned.kernel is None:
            found[site.name] = []
        else:
            found[site.name] = [planned_option(site.layer, planned)]
    return found


def _under(cap: int, live: int, choices: Sequence[Option]) -> Option | None:
    """The first (fastest) option whose layer stays within ``cap`` bytes."""
    return next((o for o in choices if live + memory.aligned(o.scratch_bytes) <= cap), None)


def choose(
    timeline: memory.Timeline, choices: Mapping[str, Sequence[Option]], *, ram_budget: int | None
) -> dict[str, Option]:
    """One option per layer.

    For a cap on the bytes alive while a layer runs (tensors and scratch), each layer takes its fastest option under
    it. With a budget the largest cap is taken whose arena fits it: the fastest network the budget allows. Without one,
    the cap is what the tensors need and ``SCRATCH_SHARE`` of it for scratch; if that costs more than ``WORTH`` times
    the cycles of the fastest network, the smallest cap that does not. Bytes that buy no more than ``NEGLIGIBLE`` speed
    are given back.

    Raises:
        BudgetError: even the smallest options need more than ``ram_budget``.
    """
    live = dict(zip(timeline.steps, timeline.live(), strict=True))
    offloaded = {name: found for name, found in choices.items() if found}
    floor = max(live.values(), default=0)
    for name, found in offloaded.items():
        floor = max(floor, live[name] + memory.aligned(min(o.scratch_bytes for o in found)))
    caps = sorted(
        {floor}
        | {
            live[name] + memory.aligned(o.scratch_bytes)
            for name, found in offloaded.items()
            for o in found
            if live[name] + memory.aligned(o.scratch_bytes) > floor
        }
    )

    def under(cap: int) -> dict[str, Option]:
        taken = {name: _under(cap, live[name], found) for name, found in offloaded.items()}
        return {name: option for name, option in taken.items() if option is not None}

    if ram_budget is None:
        modest = (1 + SCRATCH_SHARE) * max(live.values(), default=0)
        cost = {cap: sum(option.cycles for option in under(cap).values()) for cap in caps}
        cap = max((cap for cap in caps if cap <= modest), default=caps[0])
        if cost[cap] > WORTH * cost[caps[-1]]:
            cap = min(cap for cap in caps if cost[cap] <= WORTH * cost[caps[-1]])
        return under(min(smaller for smaller in caps if cost[smaller] <= NEGLIGIBLE * cost[cap]))

    smallest = 0
    for cap in reversed(caps):
        if cap > ram_budget and cap != floor:
            continue
        taken = under(cap)
        smallest = timeline.pack({name: option.scratch_bytes for name, option in taken.items()})
        if smallest <= ram_budget:
            return taken
    raise budget_error(
        timeline, {n: min(o.scratch_bytes for o in f) for n, f in offloaded.items()}, smallest, ram_budget
    )


def budget_error(timeline: memory.Timeline, scratch: Mapping[str, int], needed: int, budget: int) -> BudgetError:
    peak = max(timeline.moments(scratch), key=lambda moment: moment.bytes)
    return BudgetError(
        f"the model needs at least {needed:,} bytes of working memory, the budget is {budget:,}",
        where=f'layer "{peak.name}" is the peak: {peak.tensors_bytes:,} bytes of tensors, '
        f"{peak.scratch_bytes:,} of scratch",
        hint=f"raise the RAM budget to {needed:,} bytes or more, or use a smaller input or model",
        needed_bytes=needed,
    )


def assign(function: Any, plan: Plan, *, ram_budget: int | None, kernel_set: registry.KernelSet) -> dict[str, str]:
    """Complete ``plan`` for a partitioned main function; returns why layers without a kernel have none."""
    sites = read_sites(function)
    choices = _all_options(sites, plan, kernel_set)
    chosen = choose(memory.timeline(function), choices, ram_budget=ram_budget)
    entries, reasons = [], {}
    for site in sites:
        planned = plan.get(site.name)
        option = chosen.get(site.name)
        if option is None:
            entries.append(LayerPlan(site.name, site.layer.op, None))
            reasons[site.name] = "the plan leaves it to TVM" if planned is not None else _why_none(site.layer)
        else:
            entries.append(LayerPlan(site.name, site.layer.op, option.kernel.name, dict(option.config)))
    plan.replace(entries)
    return reasons


def _why_none(layer: Layer) -> str:
    rejections = [f"{k.name}: {k.reject(layer)}" for k in registry.kernels_for(layer) if k.reject(layer) is not None]
    return "; ".join(rejections) or f"no kernel for {layer.op}"


def AssignKernels(  # noqa: N802 (passes are named like TVM's)
    plan: Plan, *, ram_budget: int | None = None, kernel_set: registry.KernelSet = "auto"
) -> Any:
    """Pass: completes and checks ``plan`` for a partitioned module; the module itself keeps its operators.

    What the plan says already is obeyed and never derived again.

    Args:
        plan: filled in place.
        ram_budget: bytes of the arena (tensors and scratch), None for the smallest that costs little speed.
        kernel_set: which kernels may be chosen.

    Raises:
        PlanError: the plan does not fit the model or its kernels.
        BudgetError: the budget cannot hold.
    """

    def run(mod: Any) -> Any:
        reasons = assign(mod["main"], plan, ram_budget=ram_budget, kernel_set=kernel_set)
        return with_main(mod, add_refusals(mod["main"], reasons))

    return module_pass("AssignKernels", run)
