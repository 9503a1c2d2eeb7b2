"""Who runs what: one row per operator of the model, offloaded or not, and why not."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from rqdkm_tvm.graph import RESHAPES, calls, composite_name, layer_name, op_name, source_name
from rqdkm_tvm.offload.base import shape_of
from rqdkm_tvm.partition import refusals
from rqdkm_tvm.plan import FUSED_KERNEL, Plan
from rqdkm_tvm.sites import read_sites


@dataclass(frozen=True)
class OffloadRow:
    """One operator. ``kernel`` and ``config`` are empty and ``reason`` says why when TVM's C code runs it."""

    layer: str
    op: str
    offloaded: bool
    kernel: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    reason: str = ""


@dataclass(frozen=True)
class OffloadReport:
    rows: tuple[OffloadRow, ...]

    @property
    def offloaded(self) -> int:
        return sum(row.offloaded for row in self.rows)

    @property
    def fallbacks(self) -> tuple[OffloadRow, ...]:
        return tuple(row for row in self.rows if not row.offloaded)


def report(function: Any, plan: Plan) -> OffloadReport:
    """Rows for a partitioned main function (types inferred) after AssignKernels, in execution order."""
    reasons = refusals(function)
    layers = {site.name: site.layer for site in read_sites(function)}
    fused = {name: layer.epilogue for name, layer in layers.items() if layer.epilogue is not None}
    rows = []
    for call in calls(function):
        name = layer_name(call)
        if name:
            entry = plan.get(name)
            kernel = entry.kernel if entry is not None else None
            if entry is not None and kernel:
                rows.append(OffloadRow(name, layers[name].op, True, kernel, dict(entry.config)))
            else:
                rows.append(OffloadRow(name, layers[name].op, False, reason=reasons.get(name, "not in the plan")))
            if name in fused:
                rows.append(OffloadRow(fused[name].name, fused[name].op, True, FUSED_KERNEL, reason=f"part of {name}"))
        elif op_name(call) in RESHAPES:
            source = f"{list(shape_of(call.args[0]))} to {list(shape_of(call))}"
            rows.append(
                OffloadRow(source_name(call) or op_name(call), op_name(call), True, "none, free", reason=source)
            )
        else:
            op = op_name(call) or composite_name(call) or "function"
            where = source_name(call) or op
            rows.append(OffloadRow(where, op, False, reason=reasons.get(where, f"no pattern takes this {op}")))
    return OffloadReport(tuple(rows))
