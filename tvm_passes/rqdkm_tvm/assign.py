"""AssignKernels: a kernel and a configuration for every layer, within the RAM there is."""

from __future__ import annotations

import bisect
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import rqdkm_tvm.kernels  # noqa: F401 (registers every kernel)
from rqdkm_tvm import in_place, knapsack, memory
from rqdkm_tvm.bitwidths.items import CYCLES_PER_BYTE
from rqdkm_tvm.errors import FlashBudgetError, PlanError, RamBudgetError
from rqdkm_tvm.graph import module_pass, with_main
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.keys import ByIdentity
from rqdkm_tvm.layer import Layer
from rqdkm_tvm.partition import add_refusals
from rqdkm_tvm.plan import FUSED_KERNEL, MORPHED_KERNEL, PATCHED_KERNEL, UNDECIDED, LayerPlan, Plan
from rqdkm_tvm.sites import Site, layer_ops, read_sites

# without a RAM budget: scratch may raise the arena by this part of what the tensors alone need ...
SCRATCH_SHARE = 1 / 8
# ... and by more only if the estimated run would otherwise be slower than the fastest one by more than this factor
WORTH = 1.05
NEGLIGIBLE = 1.005  # bytes that buy less speed than this are given back
# without a flash budget: a byte of constants must save this many cycles per inference
FLASH_PRICE = 2.0


@dataclass(frozen=True)
class Prices:
    """What memory is worth where no budget limits it, in cycles per inference and byte.

    Args:
        flash: of constants.
        ram: of the arena; None for the rule of :data:`SCRATCH_SHARE` and :data:`WORTH`.
    """

    flash: float = FLASH_PRICE
    ram: float | None = None


# for networks whose memory is what matters: a byte is worth what it is worth to the bit-width search, of either kind
MEMORY_PRICES = Prices(CYCLES_PER_BYTE, CYCLES_PER_BYTE)
DEFAULT_PRICES = Prices()


@dataclass(frozen=True)
class Option:
    """One way to run a layer."""

    kernel: registry.Kernel
    config: registry.Config
    cycles: float
    scratch_bytes: int
    constant_bytes: int
    shared_bytes: int = 0  # of the result, where it is written over an operand

    @property
    def ram_bytes(self) -> int:
        """What the layer adds to the tensors that are alive while it runs."""
        return memory.aligned(self.scratch_bytes) - memory.aligned(self.shared_bytes)


Measured = Callable[[str, Option], Option]
Known = dict[tuple[ByIdentity, tuple[int, ...]], list[Option]]  # options by layer, and operands to be written over


def option(layer: Layer, kernel: registry.Kernel, config: registry.Config, overwritable: Sequence[int] = ()) -> Option:
    """The option of a kernel and its configuration; in place where kernel and graph allow it.

    Args:
        overwritable: operands that the graph allows to overwrite, see :func:`in_place.overwritable`.
    """
    operand = next((i for i in kernel.in_place(layer, config) if i in overwritable), None)
    return Option(
        kernel,
        config if operand is None else {**config, in_place.CONFIG: operand},
        kernel.estimate_cycles(layer, config),
        kernel.scratch_bytes(layer, config),
        kernel.constant_bytes(layer, config),
        0 if operand is None else math.prod(layer.stored.packed_shape),
    )


def options(layer: Layer, kernel_set: registry.KernelSet = "auto", overwritable: Sequence[int] = ()) -> list[Option]:
    """Every way to run ``layer``, fastest expected first, without those that are slower and need no less memory."""
    kept: list[Option] = []
    for kernel, config in registry.candidates(layer, kernel_set):
        found = option(layer, kernel, config, overwritable)
        if not any(o.ram_bytes <= found.ram_bytes and o.constant_bytes <= found.constant_bytes for o in kept):
            kept.append(found)
    return kept


def planned_options(layer: Layer, entry: LayerPlan, overwritable: Sequence[int] = ()) -> list[Option]:
    """The option a plan asks for, or all of its kernel's where it leaves the configuration open.

    Args:
        overwritable: operands that the graph allows to overwrite.

    Raises:
        PlanError: the kernel does not exist, is for another operator, refuses the layer or the configuration.
    """
    where = f'plan: layer "{layer.name}"'
    known = {kernel: registry.rejection(kernel, layer) for kernel in registry.kernels_for(layer)}
    able = dict.fromkeys(kernel.name for kernel, reason in known.items() if reason is None)
    hint = f"kernels that can: {', '.join(able) or 'none'}; or null for TVM's own code"
    if entry.op != layer.op:
        raise PlanError(f'the plan says "{entry.op}", the model has "{layer.op}"', where=where)
    reasons = {kernel: reason for kernel, reason in known.items() if kernel.name == entry.kernel}
    if not reasons:
        raise PlanError(f'no kernel "{entry.kernel}" for {layer.op}', where=where, hint=hint)
    if entry.kernel not in able:
        why = list(reasons.values())[-1]  # of the banded form, where there is one
        raise PlanError(f"kernel {entry.kernel} cannot run it: {why}", where=where, hint=hint)
    legal = [
        (kernel, dict(config)) for kernel, why in reasons.items() if why is None for config in kernel.configs(layer)
    ]
    if not entry.config:
        return [option(layer, kernel, config, overwritable) for kernel, config in legal]
    asked, operand = in_place.without(entry.config), in_place.operand_of(entry.config)
    chosen = [(kernel, config) for kernel, config in legal if config == asked]
    if not chosen:
        shown = ", ".join(str(config) for _, config in legal[:6]) + (", ..." if len(legal) > 6 else "")
        raise PlanError(
            f"kernel {entry.kernel} has no configuration {entry.config} for it", where=where, hint=f"possible: {shown}"
        )
    if operand is None:
        return [option(layer, kernel, config) for kernel, config in chosen]
    if not any(operand in kernel.in_place(layer, config) for kernel, config in chosen):
        raise PlanError(f"kernel {entry.kernel} cannot write its result over operand {operand}", where=where)
    if operand not in overwritable:
        raise PlanError(
            f"its result may not be written over operand {operand}: that or the result is an input or output of the "
            "model, or it is read later, or TVM's own code writes it",
            where=where,
            hint=f'leave "{in_place.CONFIG}" out',
        )
    return [option(layer, kernel, config, (operand,)) for kernel, config in chosen]


def layer_options(
    function: Any,
    sites: Sequence[Site],
    plan: Plan,
    kernel_set: registry.KernelSet = "auto",
    known: Known | None = None,
) -> dict[str, list[Option]]:
    """Every way to run each layer that ``plan`` leaves open, by layer; none where TVM compiles it.

    Args:
        known: what was worked out before, for the same kernel set; filled.
    """
    known = {} if known is None else known
    plan.check_layers(layer_ops(sites))
    planned = {entry.name: entry for entry in plan.layers if entry.kernel != UNDECIDED}
    overwritable = in_place.overwritable(
        function,
        {
            site.name
            for site in sites
            if (planned[site.name].kernel if site.name in planned else registry.able(site.layer, kernel_set))
        },
    )
    found: dict[str, list[Option]] = {}
    for site in sites:
        allowed = overwritable.get(site.name, ())
        if site.name not in planned:
            key = ByIdentity(site.layer), tuple(allowed)
            found[site.name] = known[key] if key in known else options(site.layer, kernel_set, allowed)
            if site.layer.stage is None:  # one of many ways to cut it: seen once
                known[key] = found[site.name]
        elif planned[site.name].kernel is None:
            found[site.name] = []
        else:
            found[site.name] = planned_options(site.layer, planned[site.name], allowed)
    return found


def choose(
    timeline: memory.Timeline,
    choices: Mapping[str, Sequence[Option]],
    *,
    ram_budget: int | None = None,
    flash_budget: int | None = None,
    prices: Prices = DEFAULT_PRICES,
) -> dict[str, Option]:
    """One option per layer.

    For a cap on the bytes alive while a layer runs (tensors and scratch), :func:`fastest` chooses among the options
    under it. With a RAM budget the largest cap is taken whose arena fits it: the fastest network the budget allows.
    Without one, the cap is what the tensors would need if none were in place, and ``SCRATCH_SHARE`` of it for scratch:
    what in-place layers save, scratch may take. If that costs more than ``WORTH`` times what the fastest network does,
    it is the smallest cap that does not. Bytes that buy no more than ``NEGLIGIBLE`` speed are given back.

    Args:
        ram_budget: bytes of tensors and scratch together.
        flash_budget: bytes of all constants together; None: every byte at ``prices.flash``.
        prices: of memory that no budget limits; with ``prices.ram`` the cap is the one of least total price.

    Raises:
        BudgetError: even the smallest options need more.
    """
    live = dict(zip(timeline.steps, timeline.live(), strict=True))
    offloaded = {name: found for name, found in choices.items() if found}
    needs = {name: [live[name] + option.ram_bytes for option in found] for name, found in offloaded.items()}
    others = [size for name, size in live.items() if name not in needs]
    floor = max([*others, *(min(found) for found in needs.values())], default=0)
    caps = sorted({floor} | {need for found in needs.values() for need in found if need > floor})

    @functools.cache
    def under(cap: int) -> dict[str, Option] | None:
        return knapsack.fastest(
            {
                name: [option for option, need in zip(found, needs[name], strict=True) if need <= cap]
                for name, found in offloaded.items()
            },
            flash_budget,
            prices.flash,
        )

    everything = under(caps[-1])
    if everything is None:
        raise flash_error(offloaded, flash_budget or 0)
    if ram_budget is None:
        flash_price = prices.flash if flash_budget is None else 0.0

        def cost(cap: int) -> float:
            taken = under(cap)
            return math.inf if taken is None else sum(o.cycles + flash_price * o.constant_bytes for o in taken.values())

        if prices.ram is not None:
            ram_price = prices.ram
            return under(min(caps, key=lambda cap: cost(cap) + ram_price * cap)) or everything
        return _modest(under, caps, cost, modest=(1 + SCRATCH_SHARE) * max(live.values(), default=0)) or everything

    for cap in reversed(caps):
        if cap > ram_budget and cap != floor:
            continue
        taken = under(cap)
        if taken is None:  # the options under smaller caps are fewer: no less flash either
            break
        if arena_bytes(timeline, taken) <= ram_budget:
            return taken
    smallest = {name: min(found, key=lambda option: option.ram_bytes) for name, found in offloaded.items()}
    raise budget_error(timeline, smallest, _least_ram(timeline, under, caps), ram_budget)


def arena_bytes(timeline: memory.Timeline, taken: Mapping[str, Option]) -> int:
    """Bytes of tensors and scratch with these options."""
    return timeline.pack(*_needs(taken))


def _needs(taken: Mapping[str, Option]) -> tuple[dict[str, int], dict[str, int]]:
    """(scratch bytes, operand that is overwritten) by layer."""
    operands = {name: in_place.operand_of(option.config) for name, option in taken.items()}
    return (
        {name: option.scratch_bytes for name, option in taken.items()},
        {name: operand for name, operand in operands.items() if operand is not None},
    )


Under = Callable[[int], "dict[str, Option] | None"]


def _modest(
    under: Under, caps: Sequence[int], cost: Callable[[int], float], *, modest: float
) -> dict[str, Option] | None:
    """The network at the cap that needs no RAM budget, see :func:`choose`."""

    def smallest(limit: float) -> int:
        """The smallest cap that costs no more than ``limit``: costs fall as caps rise."""
        return caps[bisect.bisect_left(caps, True, hi=len(caps) - 1, key=lambda cap: cost(cap) <= limit)]

    least = cost(caps[-1])
    cap = max((cap for cap in caps if cap <= modest), default=caps[0])
    if cost(cap) > WORTH * least:
        cap = smallest(WORTH * least)
    return under(smallest(NEGLIGIBLE * cost(cap)))


def _least_ram(timeline: memory.Timeline, under: Under, caps: Sequence[int]) -> int:
    """Bytes of the arena at the smallest cap that the flash allows."""
    taken = next(found for cap in caps if (found := under(cap)) is not None)
    return arena_bytes(timeline, taken)


def flash_error(choices: Mapping[str, Sequence[Option]], budget: int) -> FlashBudgetError:
    least = {name: min(option.constant_bytes for option in found) for name, found in choices.items()}
    needed, largest = sum(least.values()), max(least, key=lambda name: least[name])
    return FlashBudgetError(
        f"the constants need at least {needed:,} bytes of flash, the budget leaves {budget:,} for them",
        where=f'layer "{largest}" is the largest: {least[largest]:,} bytes of constants',
        hint="raise the flash budget or use a smaller model",
        needed_bytes=needed,
    )


def budget_error(timeline: memory.Timeline, taken: Mapping[str, Option], needed: int, budget: int) -> RamBudgetError:
    peak = max(timeline.moments(*_needs(taken)), key=lambda moment: moment.bytes)
    return RamBudgetError(
        f"the model needs at least {needed:,} bytes of working memory, the budget is {budget:,}",
        where=f'layer "{peak.name}" is the peak: {peak.tensors_bytes:,} bytes of tensors, '
        f"{peak.scratch_bytes:,} of scratch",
        hint=f"raise the RAM budget to {needed:,} bytes or more, or use a smaller input or model",
        needed_bytes=needed,
    )


def assign(
    function: Any,
    plan: Plan,
    *,
    ram_budget: int | None,
    flash_budget: int | None,
    kernel_set: registry.KernelSet,
    prices: Prices,
    measured: Measured | None = None,
    known: Known | None = None,
) -> dict[str, str]:
    """Complete ``plan`` for a partitioned main function; returns why layers without a kernel have none."""
    sites = read_sites(function)
    choices = layer_options(function, sites, plan, kernel_set, known)
    if measured is not None:
        choices = {
            name: sorted((measured(name, o) for o in found), key=lambda o: (o.kernel.reference, o.cycles))
            for name, found in choices.items()
        }
    chosen = choose(memory.timeline(function), choices, ram_budget=ram_budget, flash_budget=flash_budget, prices=prices)
    entries, reasons = [], {}
    for site in sites:
        planned = plan.get(site.name)
        option = chosen.get(site.name)
        entry = planned or LayerPlan(site.name, site.layer.op)
        if option is None:
            entries.append(dataclasses.replace(entry, kernel=None, config={}))
            left = planned is not None and planned.kernel is None
            reasons[site.name] = "the plan leaves it to TVM" if left else _why_none(site.layer)
        else:
            entries.append(dataclasses.replace(entry, kernel=option.kernel.name, config=dict(option.config)))
        inside = PATCHED_KERNEL if site.layer.stage is not None else MORPHED_KERNEL
        for part in site.layer.parts:
            entry = plan.get(part.name) or LayerPlan(part.name, part.op)
            entries.append(dataclasses.replace(entry, kernel=inside, config={}))
        if site.layer.epilogue is not None:
            follower = site.layer.epilogue
            entry = plan.get(follower.name) or LayerPlan(follower.name, follower.op)
            entries.append(dataclasses.replace(entry, kernel=FUSED_KERNEL, config={}))
    plan.replace(entries)
    return reasons


def _why_none(layer: Layer) -> str:
    reasons = {k.name: registry.rejection(k, layer) for k in registry.kernels_for(layer)}
    return "; ".join(f"{name}: {reason}" for name, reason in reasons.items() if reason) or f"no kernel for {layer.op}"


def AssignKernels(  # noqa: N802 (passes are named like TVM's)
    plan: Plan,
    *,
    ram_budget: int | None = None,
    flash_budget: int | None = None,
    kernel_set: registry.KernelSet = "auto",
    prices: Prices = DEFAULT_PRICES,
    measured: Measured | None = None,
    known: Known | None = None,
) -> Any:
    """Pass: completes and checks ``plan`` for a partitioned module; the module itself keeps its operators.

    What the plan says already is obeyed and never derived again.

    Args:
        plan: filled in place.
        ram_budget: bytes of the arena (tensors and scratch), None for the smallest that costs little speed.
        flash_budget: bytes of all constants; None: as many as pay, see :func:`choose`.
        kernel_set: which kernels may be chosen.
        prices: of memory that no budget limits.
        measured: layer and option -> the option with the cycles that were measured; None: estimates decide.
        known: see :func:`layer_options`.

    Raises:
        PlanError: the plan does not fit the model or its kernels.
        BudgetError: the budget cannot hold.
    """

    def run(mod: Any) -> Any:
        reasons = assign(
            mod["main"],
            plan,
            ram_budget=ram_budget,
            flash_budget=flash_budget,
            kernel_set=kernel_set,
            prices=prices,
            measured=measured,
            known=known,
        )
        return with_main(mod, add_refusals(mod["main"], reasons))

    return module_pass("AssignKernels", run)
