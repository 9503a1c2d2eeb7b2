"""``rqdkm tune``: kernels chosen by measured cycles instead of estimated ones.

Every layer's most promising options are run, each on its own, in firmware images of many (:mod:`rqdkm.kernelbench`);
then kernels are assigned as ever, within the same budgets, by what was measured. The result is a plan, which
``rqdkm deploy --plan`` follows.
"""

from __future__ import annotations

import copy
import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rqdkm import budget, kernelbench, pipeline
from rqdkm.board.run import RunOptions
from rqdkm.kernelbench import Candidate
from rqdkm.options import DeployOptions
from rqdkm.planning import partition
from rqdkm_tvm import in_place
from rqdkm_tvm.assign import DEFAULT_PRICES, MEMORY_PRICES, AssignKernels, Measured, Option, layer_options
from rqdkm_tvm.fuse import FuseEpilogues
from rqdkm_tvm.kernels.registry import Config
from rqdkm_tvm.layer import Layer, NDArray
from rqdkm_tvm.lowbit import integer_range
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.parameters import Parameters
from rqdkm_tvm.patches.schedule import SchedulePatches
from rqdkm_tvm.plan import PATCH_STAGE, UNDECIDED, LayerPlan, Plan
from rqdkm_tvm.sites import Site, read_sites

Progress = Callable[[str], None]
Key = tuple[str, str, str]  # layer, kernel, configuration

CANDIDATES = 6  # options of a layer that are measured


@dataclass(frozen=True)
class Row:
    """One layer: what estimates choose and what measurements choose, within the same budgets.

    ``fastest`` is the least cycles measured for the layer, whatever the memory.
    """

    layer: str
    estimated: str
    estimated_cycles: int
    tuned: str
    tuned_cycles: int
    fastest: int


@dataclass(frozen=True)
class Tuned:
    """The plan, its weights' parameters, and layer by layer what measuring has changed."""

    plan: Plan
    parameters: Parameters | None
    rows: tuple[Row, ...]
    measured: int


def tune(options: DeployOptions, *, candidates: int = CANDIDATES, progress: Progress = lambda _text: None) -> Tuned:
    """Measure and choose.

    Args:
        options: model, plan, budgets, configuration and board; kernels that the plan names already are kept.
        candidates: options measured per layer.

    Raises:
        RqdkmError: as a deployment; or a kernel's result differs from that of another kernel of its layer.
    """
    prepared = pipeline.prepare(options, progress)
    planned = pipeline.bit_widths(options, prepared.model, progress)
    given = planned.plan or Plan()
    mod = LowerMixedPrecision(given, planned.parameters)(partition(prepared.model))
    scheduled = copy.deepcopy(given)
    mod = SchedulePatches(scheduled, kernel_set=options.kernel_set)(mod)
    mod = FuseEpilogues(scheduled, kernel_set=options.kernel_set)(mod)
    sites = read_sites(mod["main"])
    before = _assigned(mod, scheduled, options, None)
    chosen = _candidates(mod, sites, scheduled, before, options, candidates)
    progress(f"measuring {len(chosen)} candidates of {len(sites)} layers")
    results = kernelbench.measure(
        [candidate for _, candidate in chosen],
        board=options.board,
        options=RunOptions(flash_model=options.flash_model),
        progress=progress,
    )
    cycles = {key: float(m.cycles or 0) for (key, _), m in zip(chosen, results, strict=True)}
    ratios = _ratios(chosen, cycles)

    def measured(layer: str, option: Option) -> Option:
        """What was not measured is as far from its estimate as the layer's other options are."""
        found = cycles.get(_key(layer, option.kernel.name, option.config))
        return dataclasses.replace(option, cycles=option.cycles * ratios.get(layer, 1.0) if found is None else found)

    after = _assigned(mod, scheduled, options, measured)
    rows = [_row(site, before, after, cycles) for site in sites]
    return Tuned(after, planned.parameters, tuple(row for row in rows if row is not None), len(chosen))


def _assigned(mod: Any, plan: Plan, options: DeployOptions, measured: Measured | None) -> Plan:
    """``plan`` completed within the budgets."""
    plan = copy.deepcopy(plan)
    AssignKernels(
        plan,
        ram_budget=budget.Ram(options.ram_bytes).arena,
        flash_budget=budget.Flash(options.flash_bytes).constants,
        kernel_set=options.kernel_set,
        prices=MEMORY_PRICES if plan.is_mixed else DEFAULT_PRICES,
        measured=measured,
    )(mod)
    return plan


def _candidates(
    mod: Any, sites: Sequence[Site], plan: Plan, before: Plan, options: DeployOptions, count: int
) -> list[tuple[Key, Candidate]]:
    """The fastest expected options of every layer, those like the one that ``before`` takes, and the one with the least
    memory; all of them fit a bench image."""
    rng = np.random.default_rng(options.seed)
    every = layer_options(mod["main"], sites, plan, options.kernel_set)
    found = []
    for site in sites:
        if site.layer.op == PATCH_STAGE:
            continue  # not a kernel of one layer; its parts are chosen by estimates
        inputs = _inputs(site.layer, rng)
        own = [o for o in every[site.name] if not o.kernel.reference]
        entry = before.get(site.name)
        at = next((i for i, o in enumerate(own) if entry is not None and _is(o, entry)), 0)
        around = range(max(at - count // 2, 0), at + count // 2 + 1)
        least = min(range(len(own)), key=lambda i: own[i].ram_bytes, default=0)
        taken = [o for i, o in enumerate(own) if i < count or i in around or i == least]
        for option in taken:
            candidate = Candidate(site.layer, inputs, option.kernel, option.config)
            room = kernelbench.placed(candidate).scratch + option.scratch_bytes
            if room <= kernelbench.RAM_BYTES:
                found.append((_key(site.name, option.kernel.name, option.config), candidate))
    return found


def _is(option: Option, entry: LayerPlan) -> bool:
    return option.kernel.name == entry.kernel and in_place.without(option.config) == in_place.without(entry.config)


def _inputs(layer: Layer, rng: np.random.Generator) -> tuple[NDArray, ...]:
    found = []
    for tensor in layer.inputs:
        if tensor.dtype == "float32":
            found.append(rng.normal(size=tensor.shape).astype(np.float32))
        else:
            low, high = integer_range(tensor.bits)
            found.append(rng.integers(low, high + 1, tensor.shape).astype(np.int8))
    return tuple(found)


def _key(layer: str, kernel: str, config: Config) -> Key:
    return layer, kernel, json.dumps(in_place.without(config), sort_keys=True)


def _ratios(chosen: Sequence[tuple[Key, Candidate]], cycles: Mapping[Key, float]) -> dict[str, float]:
    """Measured over estimated cycles, by layer: mean over its candidates."""
    found: dict[str, list[float]] = {}
    for key, candidate in chosen:
        estimate = candidate.kernel.estimate_cycles(candidate.layer, candidate.config)
        found.setdefault(key[0], []).append(cycles[key] / max(estimate, 1.0))
    return {layer: float(np.mean(ratios)) for layer, ratios in found.items()}


def _row(site: Site, before: Plan, after: Plan, cycles: Mapping[Key, float]) -> Row | None:
    old, new = before.get(site.name), after.get(site.name)
    if old is None or new is None or not old.kernel or not new.kernel:
        return None
    keys = [_key(site.name, entry.kernel or UNDECIDED, entry.config) for entry in (old, new)]
    if any(key not in cycles for key in keys):
        return None
    fastest = min(value for key, value in cycles.items() if key[0] == site.name)
    return Row(
        site.layer.title, _shown(old), round(cycles[keys[0]]), _shown(new), round(cycles[keys[1]]), round(fastest)
    )


def _shown(entry: LayerPlan) -> str:
    config = ", ".join(f"{key} {value}" for key, value in sorted(in_place.without(entry.config).items()))
    return f"{entry.kernel} ({config})" if config else str(entry.kernel)


def table(tuned: Tuned) -> str:
    """Markdown: the layers whose kernel or configuration changed, and the sums."""
    changed = [row for row in tuned.rows if row.estimated != row.tuned]
    lines = [
        "| layer | by estimate | cycles | by measurement | cycles | saved |",
        "|---|---|--:|---|--:|--:|",
    ]
    for row in changed:
        lines.append(
            f"| {row.layer} | {row.estimated} | {row.estimated_cycles:,} | {row.tuned} | {row.tuned_cycles:,} "
            f"| {1 - row.tuned_cycles / max(row.estimated_cycles, 1):.1%} |"
        )
    before, after = (sum(getattr(row, name) for row in tuned.rows) for name in ("estimated_cycles", "tuned_cycles"))
    lines.append(
        f"| all {len(tuned.rows)} layers measured | {len(changed)} changed | {before:,} | | {after:,} "
        f"| {1 - after / max(before, 1):.1%} |"
    )
    return "\n".join(lines) + "\n"
