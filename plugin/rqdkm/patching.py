"""Patch-based inference as a deployment asks for it: where the network is cut, which patches are outliers, their bits.

The passes do the work (:mod:`rqdkm_tvm.patches`); here budgets, calibration data and the allowed loss come together.
"""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rqdkm.experiment.statistics import CONFIDENCE, PairedLoss, paired_loss
from rqdkm.models import data as datasets
from rqdkm.models import reference
from rqdkm.options import parse_grid
from rqdkm.planning import partition, spread
from rqdkm_tvm.errors import BudgetError, DataError
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.parameters import Parameters
from rqdkm_tvm.patches.classify import Classes, classified, classify, stage_of
from rqdkm_tvm.patches.find import Finder, Request, Worked
from rqdkm_tvm.patches.schedule import SchedulePatches
from rqdkm_tvm.patches.search import Branch, Searcher, groups, searched
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.plan_patches import PatchPlan

if TYPE_CHECKING:
    from rqdkm.models.load import LoadedModel
    from rqdkm.options import DeployOptions

Progress = Callable[[str], None]
Int8 = npt.NDArray[np.int8]

LAMBDAS = tuple(round(0.1 * k, 1) for k in range(1, 10))  # least to most weight on entropy
JUDGE_SAMPLES = 1500


@dataclass(frozen=True)
class Trial:
    """One lambda, and the loss of the integer network with the branches it gives, on calibration samples."""

    weight: float
    bitops: int
    bitops_8: int
    loss: PairedLoss
    allowed: bool


@dataclass(frozen=True)
class Branching:
    """VDPC and VDQS: what was found, and how.

    Args:
        weight: lambda of the branches taken; None: none was allowed, all patches stay at 8 bits.
        seconds: of classification and search, without measuring losses.
    """

    classes: Classes
    branches: tuple[Branch, ...]
    trials: tuple[Trial, ...]
    weight: float | None
    seconds: float


class Patcher:
    """The patch plan of one deployment.

    Args:
        options: the deployment.
        model: int8.
        plan, parameters: of the layers; a plan that has patches already is obeyed.
    """

    def __init__(
        self,
        options: DeployOptions,
        model: LoadedModel,
        plan: Plan | None,
        parameters: Parameters | None,
        progress: Progress,
    ) -> None:
        self.options, self.model, self.progress = options, model, progress
        self.given, self.parameters = plan or Plan(), parameters
        self.asked = self.given.patches is None and options.patch != "off"
        self.worked: Worked | None = None
        self.branching: Branching | None = None

    def plan(self, ram: int, flash: int | None) -> Plan | None:
        """The plan to compile, for an arena of ``ram`` bytes and constants of ``flash``.

        Raises:
            BudgetError, PlanError, DataError
        """
        if not self.asked:
            return self.given
        whole = partition(self.model)
        lowered = LowerMixedPrecision(self.given, self.parameters)(whole)
        finder = Finder(
            lowered,
            self.given,
            ram_budget=ram,
            flash_budget=flash,
            kernel_set=self.options.kernel_set,
            progress=self.progress,
        )
        self.worked = self._found(finder)
        found = copy.deepcopy(self.given)
        found.patches = self.worked.plan
        if found.patches is not None and self.options.vdpc != "off":
            found.patches = self._branched(lowered, found, found.patches)
        return found

    def _found(self, finder: Finder) -> Worked:
        if self.worked is not None and self.worked.plan is not None:  # asked again: the budget is a little smaller
            try:
                return finder.work_out(self.worked.plan)
            except BudgetError:
                pass
        wanted = request(self.options)
        finder.check(wanted)
        optional = self.options.patch == "auto" and self.options.vdpc == "off" and self.options.input == "frame"
        if optional:
            try:
                worked = finder.work_out(None)
            except BudgetError:
                pass
            else:
                self.progress("the network fits without patches")
                return worked
        return finder.find(wanted)

    # ---- VDPC and VDQS

    def _branched(self, lowered: Any, plan: Plan, patches: PatchPlan) -> PatchPlan:
        if self.options.calib is None:
            raise DataError(
                "patches are classified on calibration inputs",
                where="--vdpc",
                hint="pass --calib with typical inputs: an .npz or .npy file, or a folder of images",
            )
        dataset = datasets.load_data(self.options.calib, self.model)
        frames = datasets.quantize_inputs(dataset, self.model)[0]
        found, self.branching = branches(
            lowered,
            plan,
            patches,
            frames,
            dataset.labels,
            mode=self.options.vdpc,
            max_drop=self.options.allowed_drop,
            kernel_set=self.options.kernel_set,
            progress=self.progress,
        )
        return found


def request(options: DeployOptions) -> Request:
    """What the options ask of the patches."""
    grid = None if options.patch in ("auto", "off") else parse_grid(options.patch)
    halo = None if options.halo == "auto" else options.halo
    return Request(grid, options.split, halo, options.input)  # type: ignore[arg-type]


def branches(
    lowered: Any,
    plan: Plan,
    patches: PatchPlan,
    frames: Int8,
    labels: npt.NDArray[Any] | None,
    *,
    mode: str,
    max_drop: float,
    kernel_set: KernelSet = "auto",
    progress: Progress = lambda _text: None,
) -> tuple[PatchPlan, Branching]:
    """VDPC, then VDQS with the least lambda whose loss on the calibration samples is allowed.

    Args:
        lowered: partitioned module with the plan's bit-widths.
        patches: grid and halo.
        frames: (n, H, W, C) int8.
        labels: of the samples, or None: then loss is the share of samples whose first class changes.
        mode: ``static``, ``dynamic``, or ``all``: every patch is searched (for comparison).
    """
    began = time.monotonic()
    plan = copy.deepcopy(plan)
    plan.patches = patches
    stage = stage_of(lowered, plan)
    progress("classifying patches")
    classes = classify(stage, frames)
    split = classified(patches, classes, "dynamic" if mode == "dynamic" else "static")
    if mode == "all":
        everywhere = tuple((1,) * patches.grid[1] for _ in range(patches.grid[0]))
        split = dataclasses.replace(split, assignment=everywhere, outliers=None)
    sets = groups(split)
    searcher = Searcher(lowered, stage, frames)
    searched_for = time.monotonic() - began
    judged = spread(len(frames), JUDGE_SAMPLES, None if labels is None else np.asarray(labels))
    before = _classes(lowered["main"], frames[judged])
    trials: list[Trial] = []
    kept: dict[float, tuple[PatchPlan, tuple[Branch, ...]]] = {}

    def allowed(weight: float) -> bool:
        nonlocal searched_for
        start = time.monotonic()
        progress(f"searching bits of feature maps, lambda {weight}")
        found = tuple(searcher.search(positions, weight, renew=len(sets) == 1) for positions in sets)
        searched_for += time.monotonic() - start
        made = searched(split, found)
        kept[weight] = made, found
        trial_plan = copy.deepcopy(plan)
        trial_plan.patches = made
        after = _classes(SchedulePatches(trial_plan, kernel_set=kernel_set)(lowered)["main"], frames[judged])
        if labels is None:
            loss = paired_loss(np.ones(len(after), bool), after == before)
        else:
            wanted = np.asarray(labels)[judged]
            loss = paired_loss(before == wanted, after == wanted)
        bound = loss.upper(CONFIDENCE)
        trials.append(
            Trial(
                weight,
                sum(b.bitops for b in found),
                sum(b.bitops_8 for b in found),
                loss,
                bound <= max_drop / 100,
            )
        )
        progress(f"lambda {weight}: loss up to {100 * bound:.2f} points, {max_drop:g} allowed")
        return trials[-1].allowed

    weight = _least(LAMBDAS, allowed) if sets else None
    if weight is None:
        return patches, Branching(classes, (), tuple(trials), None, searched_for)
    made, found = kept[weight]
    return made, Branching(classes, found, tuple(trials), weight, searched_for)


def _least(values: Sequence[float], good: Callable[[float], bool]) -> float | None:
    """The least of ascending values that is good, if what is good stays so; None: none is."""
    low, high = -1, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        if good(values[middle]):
            high = middle
        else:
            low = middle
    return values[high] if high < len(values) else None


def _classes(function: Any, frames: Int8) -> npt.NDArray[np.int64]:
    outputs = reference.run_function(function, [frames])[0]
    return np.asarray(outputs.reshape(len(outputs), -1).argmax(axis=1))
