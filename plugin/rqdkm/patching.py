"""Patch-based inference as a deployment asks for it: where the network is cut, and what VDPC and VDQS make of that.

The passes do the work (:mod:`rqdkm_tvm.patches`); here budgets, calibration data and the allowed loss come together.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from rqdkm.branching import Brancher, Branching, with_packing
from rqdkm.models import data as datasets
from rqdkm.options import auto_columns, parse_grid
from rqdkm.planning import partition
from rqdkm_tvm.errors import BudgetError, DataError
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.morph.gather import GatherMorphs
from rqdkm_tvm.parameters import Parameters
from rqdkm_tvm.patches.find import Finder, Request, Worked
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.plan_patches import PatchPlan

if TYPE_CHECKING:
    from rqdkm.models.load import LoadedModel
    from rqdkm.options import DeployOptions

Progress = Callable[[str], None]

_log = logging.getLogger(__name__)


class Patcher:
    """The patch plan of one deployment.

    Args:
        options: the deployment.
        model: int8.
        plan, parameters: of the layers; a plan that has patches already is obeyed.

    ``seconds``: elapsed in each step of the search, ``find`` and those of :class:`rqdkm.branching.Brancher`.
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
        self.seconds: dict[str, float] = {"find": 0.0}

    def plan(self, ram: int, flash: int | None) -> Plan | None:
        """The plan to compile, for an arena of ``ram`` bytes and constants of ``flash``.

        Raises:
            BudgetError, PlanError, DataError
        """
        if not self.asked:
            return self.given
        whole = partition(self.model)
        lowered = GatherMorphs()(LowerMixedPrecision(self.given, self.parameters)(whole))
        finder = Finder(
            lowered,
            self.given,
            ram_budget=ram,
            flash_budget=flash,
            kernel_set=self.options.kernel_set,
            progress=self.progress,
        )
        if not self._still_fits(finder):
            self.worked = self._found(finder)
            if self.worked.plan is not None and self.options.vdpc != "off":
                self.worked = self._branched(lowered, finder, self.worked, self.worked.plan)
            if self.worked.slow:
                _log.warning("no fast kernel fits for parts of %s: slow, a larger budget helps", _listed(self.worked))
        assert self.worked is not None
        found = copy.deepcopy(self.given)
        found.patches = self.worked.plan
        return found

    def _still_fits(self, finder: Finder) -> bool:
        """Asked again, since the budget is a little smaller: whether what was found before fits it, too."""
        if self.worked is None or self.worked.plan is None:
            return False
        try:
            again = finder.work_out(self.worked.plan)
        except BudgetError:
            return False
        if again.slow and not self.worked.slow:
            return False
        self.worked = again
        return True

    def _found(self, finder: Finder) -> Worked:
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
        return self._find(finder, wanted)

    def _find(self, finder: Finder, wanted: Request) -> Worked:
        began = time.monotonic()
        try:
            return finder.find(wanted)
        finally:
            self.seconds["find"] += time.monotonic() - began

    # ---- VDPC and VDQS

    def _branched(self, lowered: Any, finder: Finder, plain: Worked, patches: PatchPlan) -> Worked:
        """Bits for the patches as they are cut for 8, then split and grid anew for these bits, if that is faster.

        Values below 8 bits are stored a byte each where that fits: it is faster, and they are packed where it does not.
        What needs reference kernels is not taken, unless that without branches does, too.
        """
        if self.options.calib is None:
            raise DataError(
                "patches are classified on calibration inputs",
                where="--vdpc",
                hint="pass --calib with typical inputs: an .npz or .npy file, or a folder of images",
            )
        dataset = datasets.load_data(self.options.calib, self.model)
        brancher = Brancher(
            lowered,
            self.given,
            datasets.quantize_inputs(dataset, self.model)[0],
            dataset.labels,
            mode=self.options.vdpc,
            max_drop=self.options.allowed_drop,
            kernel_set=self.options.kernel_set,
            progress=self.progress,
        )
        made, self.branching = brancher.find(patches)
        found: list[Worked] = []
        for packed in (False, True):
            with contextlib.suppress(BudgetError):
                found.append(finder.work_out(with_packing(made, packed=packed)))
        found.sort(key=lambda worked: worked.rank, reverse=True)
        for packed in (False, True):
            formats = brancher.formats(made, packed=packed)
            if formats is None:
                break
            how = "packed" if packed else "a byte each"
            self.progress(f"looking for split and grid with these bits, {how}")
            with contextlib.suppress(BudgetError):
                worked = self._find(finder, dataclasses.replace(request(self.options), formats=formats))
                assert worked.plan is not None
                again = None if found and worked.rank >= found[-1].rank else brancher.again(worked.plan, self.branching)
                if again is not None:
                    found.append(worked)
                    self.branching = again
        self.seconds |= brancher.seconds
        if found and (plain.slow or not found[-1].slow):
            return found[-1]
        slow = f"no fast kernel fits for parts of {_listed(found[-1])}" if found else "they do not fit"
        _log.warning("branches at this budget: %s; all patches stay as they were, a larger budget helps", slow)
        # classes of the cut that is kept: those found last may be of another one
        classes = brancher.classes(patches)
        self.branching = dataclasses.replace(self.branching, classes=classes, branches=(), weight=None)
        return plain


def request(options: DeployOptions) -> Request:
    """What the options ask of the patches."""
    columns = auto_columns(options.patch)
    grid = None if options.patch in ("auto", "off") or columns is not None else parse_grid(options.patch)
    halo = None if options.halo == "auto" else options.halo
    return Request(grid, options.split, halo, options.input, columns=columns)  # type: ignore[arg-type]


def _listed(worked: Worked) -> str:
    return ", ".join(f'"{name}"' for name in worked.slow)
