"""AnnotateREP and AssignBitwidths: the metric and the search as passes.

The first leaves the sensitivity table on the module, the second reads it (or derives its own, again and again) and
writes bit-widths into a plan; :class:`rqdkm_tvm.mixed.LowerMixedPrecision` then obeys the plan.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from rqdkm_tvm.bitwidths.items import Budgets, Costs, Level, Objective
from rqdkm_tvm.bitwidths.recursion import Found, recurse
from rqdkm_tvm.bitwidths.search import Method
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.graph import module_pass, with_main
from rqdkm_tvm.mixed import PRODUCERS, storable
from rqdkm_tvm.plan import LayerPlan, OutputPlan, Plan, runs
from rqdkm_tvm.sensitivity.calibration import Calibration
from rqdkm_tvm.sensitivity.costs import costs_of
from rqdkm_tvm.sensitivity.table import Assignment, Sensitivity, channel_bits
from rqdkm_tvm.sites import read_sites

REP_ATTR = "rqdkm_rep"  # on main: JSON {"sensitivity": table, "outputs": {layer: {bits: [scale, zero point]}}}
LEVELS: tuple[Level, ...] = ("network", "layer", "group")
Outputs = dict[str, dict[int, tuple[float, int]]]


@dataclass(frozen=True)
class Annotation:
    """What AnnotateREP leaves: the table, and how each feature map is stored at each bit-width."""

    sensitivity: Sensitivity
    outputs: Outputs


def AnnotateREP(calibration: Calibration) -> Any:  # noqa: N802 (passes are named like TVM's)
    """Pass: the sensitivity of every layer of a partitioned module, left on its main function (see :data:`REP_ATTR`).

    Raises:
        UnsupportedOperatorError: an operator without float counterpart.
        DataError: samples or labels that do not fit.
    """

    def run(mod: Any) -> Any:
        calibration.bind(mod["main"])
        table = calibration.derive(Assignment())
        text = json.dumps(
            {
                "sensitivity": json.loads(table.to_json()),
                "outputs": {
                    name: {str(bits): list(found) for bits, found in sorted(per_bits.items())}
                    for name, per_bits in outputs_of(calibration).items()
                },
            }
        )
        return with_main(mod, mod["main"].with_attr(REP_ATTR, text))

    return module_pass("AnnotateREP", run)


def annotation(function: Any) -> Annotation:
    """What :func:`AnnotateREP` left on a main function.

    Raises:
        PlanError: nothing.
    """
    attrs = function.attrs
    if attrs is None or REP_ATTR not in attrs.keys():  # noqa: SIM118
        raise PlanError("the module carries no sensitivities", where="AssignBitwidths", hint="run AnnotateREP first")
    data = json.loads(str(attrs[REP_ATTR]))
    return Annotation(
        Sensitivity.from_json(json.dumps(data["sensitivity"])),
        {
            name: {int(bits): (float(scale), int(zero)) for bits, (scale, zero) in per_bits.items()}
            for name, per_bits in data["outputs"].items()
        },
    )


def outputs_of(calibration: Calibration) -> Outputs:
    """Scale and zero point of every feature map at every bit-width."""
    return {
        name: {bits: (q.scale, q.zero_point) for bits, q in per_bits.items()}
        for name, per_bits in calibration.quantizers.activations.items()
    }


def AssignBitwidths(  # noqa: N802 (passes are named like TVM's)
    plan: Plan,
    budgets: Budgets,
    *,
    objective: Objective = "error",
    method: Method = "exact",
    levels: Sequence[Level] = LEVELS,
    group_size: int = 8,
    max_bits: int = 8,
    calibration: Calibration | None = None,
    costs: Costs | None = None,
    found: Callable[[Found], None] = lambda _found: None,
) -> Any:
    """Pass: bit-widths within budgets, written into ``plan``; the module itself stays as it is.

    Args:
        plan: layers get ``weights`` and ``output``; what it says of kernels stays.
        budgets: flash and RAM in bytes, as ``costs`` counts them.
        calibration: derives the sensitivity anew on each partly quantized network (the recursion); None takes the
            table that AnnotateREP left, once.
        costs: None: bytes of weights, and of feature maps along the timeline.
        found: gets what the search found: totals, rounds, whether it settled.

    Raises:
        BudgetError: no bit-widths meet the budgets.
        PlanError: no sensitivities.
    """

    def run(mod: Any) -> Any:
        function = mod["main"]
        table = costs or costs_of(function, storable=storable(function))
        if calibration is not None:
            calibration.bind(function)
            stored, order = outputs_of(calibration), levels
        else:
            noted = annotation(function)
            stored, order = noted.outputs, levels[-1:]
        result = recurse(
            lambda at: noted.sensitivity if calibration is None else calibration.derive(at),
            table,
            budgets,
            objective=objective,
            method=method,
            levels=order,
            group_size=group_size,
            max_bits=max_bits,
            measure=None if calibration is None else calibration.measure,
        )
        write(plan, function, result.assignment, stored)
        found(result)
        return mod

    return module_pass("AssignBitwidths", run)


def write(plan: Plan, function: Any, assignment: Assignment, stored: Outputs) -> None:
    """Put an assignment's bit-widths into ``plan``, an entry for every layer."""
    entries = []
    for site in read_sites(function):
        layer = site.layer
        entry = plan.get(layer.name) or LayerPlan(layer.name, layer.op)
        entry.weights, entry.output = (), None
        groups = assignment.weights.get(layer.name)
        if groups is not None:
            entry.weights = runs(channel_bits(groups, layer.output.shape[-1]))
        bits = assignment.activations.get(layer.name, 8)
        if bits != 8 and layer.op in PRODUCERS:  # a follower is quantized as what it reads
            scale, zero_point = stored[layer.name][bits]
            entry.output = OutputPlan(bits, scale, zero_point)
        entries.append(entry)
    plan.replace(entries)
    plan.parameters = None
