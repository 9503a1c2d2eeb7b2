"""RQ: from calibration data to a plan with bit-widths, and the loss of accuracy that was measured for it.

The search itself predicts errors (:mod:`rqdkm_tvm.bitwidths`); what a user allows is a loss of accuracy. So plans of
growing error budgets are made, repaired, and run as the integer network that the chip will compute, on calibration
samples: the one of least memory whose loss is allowed is taken. Flash, RAM and cycle budgets hold for all of them.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rqdkm.budget import LEAST_CODE
from rqdkm.experiment.statistics import CONFIDENCE, PairedLoss, paired_loss, samples_needed
from rqdkm.models import data as datasets
from rqdkm.models import reference
from rqdkm.options import MAX_DROP
from rqdkm_tvm.assign import MEMORY_PRICES
from rqdkm_tvm.bitwidths import Budgets, Costs, Found, exact, items_of, recurse
from rqdkm_tvm.bitwidths.passes import outputs_of, write
from rqdkm_tvm.errors import BudgetError, DataError
from rqdkm_tvm.fuse import FuseEpilogues
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.mixed import PRODUCERS, LowerMixedPrecision, storable
from rqdkm_tvm.parameters import Parameters
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.plan import OutputPlan, Plan
from rqdkm_tvm.repair import METHODS, repair
from rqdkm_tvm.sensitivity.calibration import Calibration, MetricName
from rqdkm_tvm.sensitivity.costs import costs_of, estimated_cycles, other_constants, scratch_room
from rqdkm_tvm.sensitivity.table import Assignment
from rqdkm_tvm.sites import read_sites

if TYPE_CHECKING:
    from rqdkm.models.load import LoadedModel

Progress = Callable[[str], None]
Int8 = npt.NDArray[np.int8]

GRADIENT_SAMPLES = 32
REPAIR_SAMPLES = 64
JUDGE_SAMPLES = 2048
LADDER = tuple(2.0**k for k in range(-12, 3))  # error budgets, relative to the mean square of the logits


@dataclass(frozen=True)
class Trial:
    """One plan that was run. ``loss`` is a share of the calibration samples (0.005: half a point)."""

    error: float  # predicted, in units of the sensitivity's objective
    weights: float
    ram: float
    loss: PairedLoss
    allowed: bool


@dataclass(frozen=True)
class Planned:
    """The plan, its weights, and how it was found. ``labelled``: losses are of accuracy, otherwise the share of samples
    whose first class changed."""

    plan: Plan
    parameters: Parameters
    found: Found
    trials: tuple[Trial, ...]
    chosen: Trial
    labelled: bool


@dataclass(frozen=True)
class Limits:
    """What the plan may cost. ``flash`` is of code and constants, ``ram`` of the arena, bytes; ``cycles`` of one
    inference as the kernels estimate them; ``max_drop`` in points."""

    max_drop: float = MAX_DROP
    flash: int | None = None
    ram: int | None = None
    cycles: float | None = None


def partition(model: LoadedModel) -> Any:
    """The model's module in layers."""
    return PartitionLayers()(prepare(model.module))


def mixed_costs(mod: Any, kernel_set: KernelSet = "auto", limits: Limits = Limits()) -> Costs:
    """Cost table of a partitioned module, as the firmware will be: fused epilogues, each layer's smallest scratch in
    RAM, and the cycles of the kernels that the RAM there will be and the price of flash allow.

    Flash besides weights is a lower bound: the least code, and of each layer the fewest other constants. So no budget
    is refused that some firmware meets; whether the chosen plan's meets it, the deployment checks on the linked image.
    """
    fused = FuseEpilogues(Plan(), kernel_set=kernel_set)(mod)["main"]
    layers = {site.name: site.layer for site in read_sites(fused)}
    scratch = {
        name: min((k.scratch_bytes(layer, c) for k, c in registry.candidates(layer, kernel_set)), default=0)
        for name, layer in layers.items()
    }
    return costs_of(
        fused,
        storable=storable(mod["main"]),
        cycles=estimated_cycles(
            kernel_set,
            room=scratch_room(fused, kernel_set, ram_budget=limits.ram, prices=MEMORY_PRICES),
            flash_price=MEMORY_PRICES.flash if limits.flash is None else 0.0,
        ),
        scratch=scratch,
        fixed_flash=LEAST_CODE + sum(other_constants(layer, kernel_set) for layer in layers.values()),
    )


class Planner:
    """Plans one model on one calibration set; keeps the float network and what the int8 network says.

    Args:
        model: int8.
        dataset: calibration samples; labels, if there are any, are for judging plans.
        kernel_set: of the firmware.
        metric: REP or, to compare with, another rule.
        methods: of repair.
        mod: what to plan instead of the model's module, partitioned.
        only: layers whose weights may change, and those whose results may; None: all.
    """

    def __init__(
        self,
        model: LoadedModel,
        dataset: datasets.Dataset,
        *,
        kernel_set: KernelSet = "auto",
        metric: MetricName = "rep",
        methods: tuple[Any, ...] = METHODS,
        progress: Progress = lambda _text: None,
        mod: Any = None,
        only: tuple[Collection[str], Collection[str]] | None = None,
    ) -> None:
        self.progress, self.methods, self.only = progress, methods, only
        self.mod = partition(model) if mod is None else mod
        self.labels = dataset.labels
        self.inputs = datasets.quantize_inputs(dataset, model)
        # without labels: the error of the logits tells more than the loss of a trained network, see docs/rep.md
        self.drawn = self._spread(GRADIENT_SAMPLES)
        self.calibration = Calibration(self._samples(self.drawn), metric=metric, progress=progress)
        self.calibration.bind(self.mod["main"])
        self.kernel_set: KernelSet = kernel_set
        self.costs = self._costs(Limits())
        self.judged = self._spread(JUDGE_SAMPLES)
        progress(f"running the int8 network on {len(self.judged)} samples")
        self.before = self._classes(self.mod["main"])

    def _costs(self, limits: Limits) -> Costs:
        found = mixed_costs(self.mod, self.kernel_set, limits)
        if self.only is None:
            return found
        weights, results = self.only
        layers = (
            dataclasses.replace(
                layer,
                flash_per_channel=layer.flash_per_channel if layer.name in weights else {},
                ram=layer.ram if layer.name in results else {},
            )
            for layer in found.layers
        )
        return dataclasses.replace(found, layers=tuple(layers))

    def _spread(self, wanted: int) -> npt.NDArray[np.int64]:
        return spread(len(self.inputs[0]), wanted, self.labels)

    def _samples(self, which: npt.NDArray[np.int64]) -> list[list[Int8]]:
        return [[array[i] for array in self.inputs] for i in which]

    def _classes(self, function: Any) -> npt.NDArray[np.int64]:
        outputs = reference.run_function(function, [array[self.judged] for array in self.inputs])[0]
        flat = outputs.reshape(len(outputs), -1)
        if flat.shape[1] < 2:
            raise DataError("the model's first output is no list of classes", where="--config rq")
        return np.asarray(flat.argmax(axis=1))

    def assign(self, budgets: Budgets, objective: Any = "memory") -> Found:
        """Bit-widths by the recursion: the network, layers, channel groups."""
        return recurse(
            self.calibration.derive,
            self.costs,
            budgets,
            objective=objective,
            measure=self.calibration.measure,
            progress=self.progress,
        )

    def realise(self, assignment: Assignment) -> tuple[Plan, Parameters]:
        """Plan and repaired integers of an assignment."""
        plan = Plan()
        write(plan, self.mod["main"], assignment, outputs_of(self.calibration))
        samples = self._samples(self._spread(REPAIR_SAMPLES))
        self.progress("repair")
        only = None if self.only is None else self.only[0]
        fixed = repair(
            self.calibration.twin, assignment, self.calibration.quantizers, samples, self.methods, self.progress, only
        )
        for entry in plan.layers:
            quantizer = fixed.activations.get(entry.name)
            if entry.name in fixed.equalised and entry.op in PRODUCERS and quantizer is not None:
                entry.output = OutputPlan(quantizer.bits, float(quantizer.scale), int(quantizer.zero_point))
        return plan, fixed.parameters

    def loss(self, plan: Plan, parameters: Parameters) -> PairedLoss:
        """Of the integer network, against the int8 one on the same samples."""
        self.progress(f"running the planned network on {len(self.judged)} samples")
        after = self._classes(LowerMixedPrecision(plan, parameters)(self.mod)["main"])
        if self.labels is None:
            return paired_loss(np.ones(len(after), bool), after == self.before)
        wanted = self.labels[self.judged]
        return paired_loss(self.before == wanted, after == wanted)

    def plan(self, limits: Limits) -> Planned:
        """The plan of least memory within ``limits``: bisection over :data:`LADDER`.

        Raises:
            DataError: too few samples to show so small a loss.
            BudgetError: no bit-widths meet the budgets, or those that do lose more than allowed.
        """
        check_samples(len(self.judged), limits.max_drop)
        self.costs = self._costs(limits)
        budgets = Budgets(flash=limits.flash, ram=limits.ram, cycles=limits.cycles)
        unquantized = self.calibration.derive(Assignment())
        items = items_of(unquantized, self.costs, level="group")
        least = exact(items, self.costs, budgets).totals.error
        scale = unquantized.reference or 1.0
        low, high = -1, len(LADDER)
        best: Planned | None = None
        trials: list[Trial] = []
        seen: dict[str, Planned] = {}
        while high - low > 1:
            middle = (low + high) // 2
            try:
                found = self.assign(dataclasses.replace(budgets, error=least + LADDER[middle] * scale))
            except BudgetError:  # derived anew, the errors leave no room within the budgets
                low = middle
                continue
            key = repr(found.assignment)
            if key not in seen:
                seen[key] = self._try(found, limits)
                trials.append(seen[key].chosen)
                self._say(seen[key].chosen)
            if seen[key].chosen.allowed:
                low, best = middle, seen[key]
            else:
                high = middle
        if best is None:  # the least error within the budgets
            best = self._try(self.assign(budgets, "error"), limits)
            trials.append(best.chosen)
            self._say(best.chosen)
            if not best.chosen.allowed:
                raise self._loses_too_much(best.chosen, limits)
        return dataclasses.replace(best, trials=tuple(trials))

    def _try(self, found: Found, limits: Limits) -> Planned:
        plan, parameters = self.realise(found.assignment)
        loss = self.loss(plan, parameters)
        allowed = loss.upper(CONFIDENCE) <= limits.max_drop / 100
        weights = found.totals.flash - self.costs.fixed_flash
        trial = Trial(found.totals.error, weights, found.totals.ram, loss, allowed)
        return Planned(plan, parameters, found, (trial,), trial, self.labels is not None)

    def _say(self, trial: Trial) -> None:
        self.progress(
            f"{trial.weights + trial.ram:,.0f} bytes of weights and RAM, loss {100 * trial.loss.loss:.2f} points, "
            f"up to {100 * trial.loss.upper(CONFIDENCE):.2f} with {CONFIDENCE:.0%} confidence: "
            f"{'allowed' if trial.allowed else 'too much'}"
        )

    @staticmethod
    def _loses_too_much(trial: Trial, limits: Limits) -> BudgetError:
        return BudgetError(
            f"the best bit-widths within the budgets lose {100 * trial.loss.loss:.2f} points "
            f"(up to {100 * trial.loss.upper(CONFIDENCE):.2f} on {trial.loss.n} calibration samples); "
            f"{limits.max_drop:g} are allowed",
            where="--max-drop",
            hint="raise --max-drop, --flash or --ram, give more (labelled) calibration samples, or fine-tune",
        )


def check_samples(judged: int, max_drop: float) -> None:
    """Whether a loss of at most ``max_drop`` points can be seen on ``judged`` samples.

    Raises:
        DataError: not even if no sample changed; says how many it takes.
    """
    needed = samples_needed(max_drop / 100, CONFIDENCE)
    if needed is not None and needed <= judged:
        return
    least = math.ceil(1e4 * PairedLoss(0, 0, judged).upper(CONFIDENCE)) / 100
    samples = f"{judged:,} calibration sample" + "s" * (judged != 1)
    takes = "no number of samples does" if needed is None else f"that takes {needed:,}"
    hint = f"allow {least:g} points or more"
    if needed is not None and needed <= JUDGE_SAMPLES:
        hint = f"give {needed:,} samples or more, or {hint}"
    raise DataError(
        f"{samples} cannot show with {CONFIDENCE:.0%} confidence that a plan loses at most {max_drop:g} points: "
        f"{takes}",
        where="--max-drop",
        hint=hint,
    )


def spread(
    count: int, wanted: int, labels: npt.NDArray[np.int64] | None = None, seed: int = 0
) -> npt.NDArray[np.int64]:
    """Up to ``wanted`` of ``count`` samples by a seeded permutation: files are often sorted, or periodic.

    With labels every class has its share of any first part of the result, as nearly as whole samples allow: the k-th
    of a class's n is put at (k + 1/2) / n.
    """
    order = np.random.default_rng(seed).permutation(count)
    if labels is not None:
        place = np.empty(count)
        for label in np.unique(labels):
            members = order[labels[order] == label]
            place[members] = (np.arange(len(members)) + 0.5) / len(members)
        order = order[np.argsort(place[order], kind="stable")]
    return np.asarray(order[:wanted], np.int64)
