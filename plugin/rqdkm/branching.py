"""VDPC and VDQS as a deployment asks for them: classes, bits of the other patches, and whether the loss is allowed."""

from __future__ import annotations

import copy
import dataclasses
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm.experiment.statistics import CONFIDENCE, PairedLoss, paired_loss
from rqdkm.models import reference
from rqdkm.planning import spread
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.patches.branches import groups, searched
from rqdkm_tvm.patches.classify import SHARE, Classes, Mode, classified, classify, stage_of
from rqdkm_tvm.patches.find import Formats
from rqdkm_tvm.patches.schedule import SchedulePatches
from rqdkm_tvm.patches.search import Branch, Searcher
from rqdkm_tvm.plan import OutputPlan, Plan
from rqdkm_tvm.plan_patches import PatchPlan

Progress = Callable[[str], None]
Int8 = npt.NDArray[np.int8]

LAMBDAS = tuple(round(0.1 * k, 1) for k in range(1, 10))  # least to most weight on entropy
# rules for outlier patches, from the one that finds most: share of the samples (static), times the count (dynamic)
RULES = ((SHARE, 1), (0.5, 2), (0.75, 4))
JUDGE_SAMPLES = 1500
JUDGE_FIRST = 500  # while a lambda is sought; what is taken is measured on all
JUDGE_AT_ONCE = 250  # after as many samples a loss that is too great already is measured no further


@dataclass(frozen=True)
class Trial:
    """One lambda, and the loss of the integer network with the branches it gives, on calibration samples.

    Args:
        allowed: the loss, where it was measured on the first samples only; its upper bound, where on all.
    """

    weight: float
    bitops: int
    bitops_8: int
    loss: PairedLoss
    allowed: bool


@dataclass
class _Measured:
    """A loss as far as it is measured."""

    lost: int = 0
    won: int = 0
    n: int = 0

    @property
    def loss(self) -> PairedLoss:
        return PairedLoss(self.lost, self.won, self.n)

    def best(self, samples: int) -> PairedLoss:
        """What it would be with no more lost among so many samples."""
        return PairedLoss(self.lost, self.won, samples)


@dataclass(frozen=True)
class Branching:
    """VDPC and VDQS for one way to cut the stage: what was found, and how.

    Args:
        weight: lambda of the branches taken; None: none was allowed, all patches stay at 8 bits.
        share: part of the samples that makes a position an outlier position.
    """

    classes: Classes
    branches: tuple[Branch, ...]
    trials: tuple[Trial, ...]
    weight: float | None
    share: float = SHARE


class Brancher:
    """VDPC, then VDQS with the least lambda whose loss on the calibration samples is allowed.

    Args:
        lowered: partitioned module with the plan's bit-widths: what losses are measured against.
        plan: of the layers.
        frames: (n, H, W, C) int8.
        labels: of the samples, or None: then loss is the share of samples whose first class changes.
        mode: ``static``, ``dynamic``, or ``all``: every patch is searched (for comparison).
        max_drop: points of accuracy that the branches may cost.

    ``seconds`` holds the time elapsed in each step so far: ``classify``, ``search``, ``bound``.
    """

    def __init__(
        self,
        lowered: Any,
        plan: Plan,
        frames: Int8,
        labels: npt.NDArray[Any] | None,
        *,
        mode: str,
        max_drop: float,
        kernel_set: KernelSet = "auto",
        progress: Progress = lambda _text: None,
    ) -> None:
        self.lowered, self.plan, self.frames, self.labels = lowered, plan, frames, labels
        self.mode, self.max_drop, self.kernel_set, self.progress = mode, max_drop, kernel_set, progress
        self.rule = RULES[0]
        self.seconds = {"classify": 0.0, "search": 0.0, "bound": 0.0}
        self.judged = spread(len(frames), JUDGE_SAMPLES, None if labels is None else np.asarray(labels))
        self._before: dict[int, npt.NDArray[np.int64]] = {}
        self._losses: dict[str, _Measured] = {}
        self._classes: dict[str, Classes] = {}

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds[step] += time.monotonic() - began

    # ---- classes

    def classes(self, patches: PatchPlan) -> Classes:
        """Which patches are outlier patches, for this way to cut the stage."""
        key = repr((patches.last, patches.grid))
        if key not in self._classes:
            with self._timed("classify"):
                self._classes[key] = classify(stage_of(self.lowered, self._planned(patches)), self.frames)
        return self._classes[key]

    def split(self, patches: PatchPlan) -> PatchPlan:
        """``patches`` with a branch 1 for those that are to be searched, without formats of its own so far."""
        if self.mode == "all":
            everywhere = tuple((1,) * patches.grid[1] for _ in range(patches.grid[0]))
            return dataclasses.replace(patches, branches=({}, {}), assignment=everywhere, outliers=None)
        classes, (share, times) = self.classes(patches), self.rule
        outliers = dataclasses.replace(classes.outliers, count=times * classes.outliers.count)
        mode: Mode = "dynamic" if self.mode == "dynamic" else "static"
        return classified(patches, dataclasses.replace(classes, outliers=outliers), mode, share)

    def _planned(self, patches: PatchPlan) -> Plan:
        plan = copy.deepcopy(self.plan)
        plan.patches = patches
        return plan

    # ---- bits

    def find(self, patches: PatchPlan) -> tuple[PatchPlan, Branching]:
        """Branches for a split, grid and halo."""
        self.progress("classifying patches")
        classes, split = self.classes(patches), self.split(patches)
        sets = groups(split)
        trials: list[Trial] = []
        kept: dict[float, tuple[PatchPlan, tuple[Branch, ...]]] = {}
        with self._timed("search"):
            searcher = Searcher(self.lowered, stage_of(self.lowered, self._planned(patches)), self.frames)

        def allowed(weight: float) -> bool:
            self.progress(f"searching bits of feature maps, lambda {weight:g}")
            with self._timed("search"):
                found = tuple(searcher.search(positions, weight, renew=len(sets) == 1) for positions in sets)
            kept[weight] = searched(split, found), found
            return judged(weight, first=True)

        def judged(weight: float, *, first: bool) -> bool:
            made, found = kept[weight]
            loss = self.loss(made, first=first)
            bound = loss.upper(CONFIDENCE)
            bitops = sum(b.bitops for b in found), sum(b.bitops_8 for b in found)
            trials[:] = [t for t in trials if t.weight != weight]
            trials.append(Trial(weight, *bitops, loss, self._allowed(loss, first=first)))
            self.progress(f"lambda {weight:g}: loss {100 * loss.loss:.2f}, up to {100 * bound:.2f} points")
            return trials[-1].allowed

        weight = least(LAMBDAS, allowed) if sets else None
        while weight is not None and not judged(weight, first=False):
            weight = next((w for w in LAMBDAS if w > weight and (w in kept or allowed(w))), None)
        made, branches = (patches, ()) if weight is None else kept[weight]
        if weight is not None and len(sets) == 1 and self.mode != "all":
            made = self._fewer(patches, made)
        return made, Branching(classes, branches, tuple(trials), weight, self.rule[0])

    def _fewer(self, patches: PatchPlan, made: PatchPlan) -> PatchPlan:
        """``made`` with as few outlier patches as the allowed loss permits, by the rules that find fewer."""
        for rule in RULES[1:]:
            before, self.rule = self.rule, rule
            stricter = dataclasses.replace(self.split(patches), branches=made.branches)
            if stricter == made or len(made.branches) < 2:
                continue
            loss = self.loss(stricter)
            self.progress(f"fewer outlier patches: loss {100 * loss.loss:.2f} points")
            if not self._allowed(loss, first=False):
                self.rule = before
                break
            made = stricter
        return made

    def loss(self, patches: PatchPlan, *, first: bool = False) -> PairedLoss:
        """Of the integer network with these branches, against the one without; on fewer samples if the loss would be
        too great even with no more on the others.

        Args:
            first: on a first part of the samples, as an estimate.
        """
        alone = self.mode == "all" and len(patches.branches) <= 2  # one format everywhere: the cut changes nothing
        if not alone:
            patches = with_packing(patches, packed=True)  # how values are stored changes none of them
        key = repr([_stored(table, packed=True) for table in patches.branches[1:]] if alone else patches)
        found = self._losses.setdefault(key, _Measured())
        with self._timed("bound"):
            self._measure(found, patches, first=first)
        return found.loss

    def _allowed(self, loss: PairedLoss, *, first: bool) -> bool:
        """An estimate decides what is measured on; a bound, what is taken."""
        return (loss.loss if first else loss.upper(CONFIDENCE)) <= self.max_drop / 100

    def _measure(self, found: _Measured, patches: PatchPlan, *, first: bool) -> None:
        samples = min(JUDGE_FIRST if first else JUDGE_SAMPLES, len(self.judged))
        scheduled = None
        while found.n < samples and self._allowed(found.best(samples), first=first):
            start = found.n
            chosen = self.judged[start : min(start + JUDGE_AT_ONCE, samples)]
            if scheduled is None:
                scheduled = SchedulePatches(self._planned(patches), kernel_set=self.kernel_set)(self.lowered)
            if start not in self._before:
                self._before[start] = _first_classes(self.lowered["main"], self.frames[chosen])
            before, after = self._before[start], _first_classes(scheduled["main"], self.frames[chosen])
            wanted = before if self.labels is None else np.asarray(self.labels)[chosen]
            more = paired_loss(before == wanted, after == wanted)
            found.lost, found.won, found.n = found.lost + more.lost, found.won + more.won, start + len(chosen)

    # ---- for another cut

    def again(self, patches: PatchPlan, before: Branching) -> Branching | None:
        """The same formats for another cut (see :meth:`formats`): None if their loss is not allowed there."""
        loss = self.loss(patches)
        allowed = self._allowed(loss, first=False)
        return dataclasses.replace(before, classes=self.classes(patches)) if allowed else None

    def formats(self, found: PatchPlan, *, packed: bool) -> Formats | None:
        """What a search for another split and grid has to know; None: all patches are in the layers' own formats.

        Args:
            packed: whether values below 8 bits are to be stored packed, or a byte each.
        """
        count = [sum(row.count(branch) for row in found.assignment) for branch in range(len(found.branches))]
        if len(count) < 2:
            return None
        outputs = found.branches[max(range(1, len(count)), key=lambda branch: count[branch])]
        low = _stored({name: output for name, output in outputs.items() if output.bits != 8}, packed=packed)
        return Formats(low, self.mode != "all", lambda patches: self._with(patches, low)) if low else None

    def _with(self, patches: PatchPlan, outputs: dict[str, OutputPlan]) -> PatchPlan:
        split = self.split(patches)
        if not any(branch for row in split.assignment for branch in row):
            return patches
        return dataclasses.replace(split, branches=({}, outputs))


def with_packing(patches: PatchPlan, *, packed: bool) -> PatchPlan:
    """``patches`` with all values below 8 bits packed, or a byte each."""
    return dataclasses.replace(patches, branches=tuple(_stored(table, packed=packed) for table in patches.branches))


def _stored(outputs: Mapping[str, OutputPlan], *, packed: bool) -> dict[str, OutputPlan]:
    return {
        name: dataclasses.replace(output, packed=packed or output.bits == 8) for name, output in sorted(outputs.items())
    }


def least(values: Sequence[float], good: Callable[[float], bool]) -> float | None:
    """The least of ascending values that is good, if what is good stays so; None: none is."""
    low, high = -1, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        if good(values[middle]):
            high = middle
        else:
            low = middle
    return values[high] if high < len(values) else None


def _first_classes(function: Any, frames: Int8) -> npt.NDArray[np.int64]:
    outputs = reference.run_function(function, [frames])[0]
    return np.asarray(outputs.reshape(len(outputs), -1).argmax(axis=1))
