"""The report's section on a patch stage."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rqdkm.experiment.statistics import CONFIDENCE
from rqdkm.report.schema import PatchBranch, Patches, PatchTrial, TimelineStep
from rqdkm_tvm import memory
from rqdkm_tvm.assign import options
from rqdkm_tvm.fuse import FuseEpilogues
from rqdkm_tvm.patches.program import Patches as Geometry
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.sites import read_sites

if TYPE_CHECKING:
    from rqdkm.branching import Branching
    from rqdkm_tvm.compile import CompiledModel
    from rqdkm_tvm.patches.stage import Stage


def section(compiled: CompiledModel, branching: Branching | None, vdpc: str) -> Patches | None:
    """None where no layers run patch by patch."""
    stage = next((layer.layer.stage for layer in compiled.layers if layer.layer.stage is not None), None)
    if stage is None:
        return None
    plan, geometry = stage.plan, Geometry(stage)
    rows, columns = plan.grid
    assignment = tuple(tuple(plan.branch(r, c) for c in range(columns)) for r in range(rows))
    if plan.outliers is not None:
        vdpc = "dynamic"
    elif len(plan.branches) > 1 and vdpc == "off":
        vdpc = "static"  # by the plan that was given
    found = branching
    before, frame_steps = _before(compiled, stage)
    return Patches(
        last=plan.last,
        layers=tuple(node.layer.name for node in stage.nodes),
        grid=plan.grid,
        halo=plan.halo,
        input=plan.input,
        frame_bytes=stage.frame.size,
        macs=stage.macs,
        computed_macs=stage.computed_macs,
        kept_bytes=sum(geometry.kept_bytes.values()),
        vdpc=vdpc,
        assignment=assignment,
        branches=tuple(
            PatchBranch(
                bits={name: output.bits for name, output in sorted(branch.items())},
                patches=sum(row.count(index) for row in assignment),
                layer_bits=tuple(node.layer.output.value_bits for node in stage.branches[index]),
            )
            for index, branch in enumerate(plan.branches)
        ),
        thresholds=() if plan.outliers is None else (plan.outliers.low, plan.outliers.high, plan.outliers.count),
        outlier_share=() if found is None else tuple(tuple(map(float, row)) for row in found.classes.share),
        outlier_limit=found.share if found is not None and vdpc == "static" else None,
        weight=None if found is None else found.weight,
        trials=()
        if found is None
        else tuple(
            PatchTrial(
                weight=trial.weight,
                bitops_ratio=trial.bitops_8 / max(trial.bitops, 1),
                samples=trial.loss.n,
                loss=trial.loss.loss,
                loss_upper=trial.loss.upper(CONFIDENCE),
                allowed=trial.allowed,
            )
            for trial in found.trials
        ),
        timeline_before=before,
        frame_steps_before=frame_steps,
    )


def _before(compiled: CompiledModel, stage: Stage) -> tuple[tuple[TimelineStep, ...], int]:
    """The same network layer by layer, with the least scratch that a kernel takes; the steps that need the input."""
    function = FuseEpilogues(Plan())(compiled.unpatched)["main"]
    line = memory.timeline(function)
    scratch = {}
    for site in read_sites(function):
        scratch[site.name] = min((o.scratch_bytes for o in options(site.layer, stage.kernel_set)), default=0)
    steps = tuple(
        TimelineStep(layer=m.name, live_bytes=m.tensors_bytes, scratch_bytes=m.scratch_bytes)
        for m in line.moments(scratch)
    )
    return steps, line.tensors[0].last + 1
