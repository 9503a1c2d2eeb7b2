"""Which sensitivity finds the better bit-widths? REP against other rules at equal size, on data no search saw.

Weights alone get 8, 4 or 2 bits, per group of output channels; feature maps stay at 8, so that the size is one number
that every rule can meet: bytes of weights, as a share of what they are with all at 4 bits. REP is as it is shipped: the
recursion, whose rounds a measured error compares. The other rules know no recursion (their tables do not depend on
what is quantized already): the same exact search, once, by channel groups. The Hessian is that of the cross-entropy
from the network's own probabilities: with labels its trace is indefinite on as few samples, negative for most layers of
a trained network, and would be compared below its worth. The integer network that results is run on
all test samples, first with weights rounded plainly, so that only the choice differs, then repaired, as a deployment
has them.

A second table compares the three searches on REP's own table of the network.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rqdkm.experiment.statistics import PairedLoss, paired_loss, wilson_interval
from rqdkm.models import data as datasets
from rqdkm.models import load, reference
from rqdkm.planning import Planner
from rqdkm_tvm import repair
from rqdkm_tvm.bitwidths import Budgets, Costs, Method, exact, items_of, recurse, search, to_assignment, totals
from rqdkm_tvm.errors import DataError
from rqdkm_tvm.files import write_atomic
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.sensitivity.calibration import MetricName
from rqdkm_tvm.sensitivity.rep import Order
from rqdkm_tvm.sensitivity.table import Assignment

Progress = Callable[[str], None]
Correct = npt.NDArray[np.bool_]

SHARES = (1.0, 0.85, 0.7)  # of the weights' size at 4 bits throughout
METHODS: tuple[Method, ...] = ("greedy", "rule", "exact")
REP = "REP, order 1"
RULES: tuple[tuple[str, MetricName, Order], ...] = (
    (REP, "rep", 1),
    ("REP, order 2", "rep", 2),
    ("weight magnitude", "magnitude", 1),
    ("Hessian trace", "hessian_trace", 1),
)


@dataclass(frozen=True)
class Row:
    """One plan: its size, and what it gets right on the test samples, plainly rounded and repaired."""

    share: float
    rule: str
    weights: float
    plain: Correct
    repaired: Correct


@dataclass(frozen=True)
class SearchRow:
    """One search on REP's table. ``error`` is predicted and, ``measured``, that of the network quantized so; both
    relative to the logits' mean square."""

    share: float
    method: Method
    weights: float
    error: float
    measured: float
    seconds: float


@dataclass(frozen=True)
class Ablation:
    model: str
    calibration: int
    baseline: Correct
    rows: tuple[Row, ...]
    searches: tuple[SearchRow, ...]


def run(model_file: Path, calib: Path, test: Path, *, progress: Progress = lambda _text: None) -> Ablation:
    """Run the whole comparison.

    Args:
        model_file: int8 classifier.
        calib: calibration samples; no rule takes labels.
        test: labelled samples that nothing above sees.

    Raises:
        DataError: test data without labels.
    """
    model = load.load(model_file)
    evaluation, calibration = datasets.load_data(test, model), datasets.load_data(calib, model)
    if evaluation.labels is None:
        raise DataError("there are no labels to measure accuracy with", where=str(test))
    planner = Planner(model, calibration, progress=progress)
    planner.costs = weights_only(planner.costs)
    arena = _Arena(planner, datasets.quantize_inputs(evaluation, model), evaluation.labels)

    progress("ablation: the int8 network")
    baseline = arena.correct(planner.mod["main"])
    assignment, size = uniform(planner, 4)
    rows = [Row(1.0, "uniform, 4 bits", size, *arena.evaluate(assignment))]
    searches: list[SearchRow] = []
    for share in SHARES:
        budgets = Budgets(flash=share * size)
        for name, metric, order in RULES:
            progress(f"ablation: {name}, {share:.0%}")
            rule = dataclasses.replace(planner.calibration, metric=metric, order=order, _first=None)
            if metric == "rep":
                found = recurse(rule.derive, planner.costs, budgets, measure=planner.calibration.measure)
                best, weights = found.assignment, found.totals.flash
            else:
                items = items_of(rule.derive(Assignment()), planner.costs, level="group")
                selected = exact(items, planner.costs, budgets)
                best, weights = to_assignment(items, selected.picks), selected.totals.flash
            rows.append(Row(share, name, weights, *arena.evaluate(best)))
        searches += [_searched(planner, share, budgets, method) for method in METHODS]
    return Ablation(model_file.parent.name, len(calibration), baseline, tuple(rows), tuple(searches))


class _Arena:
    """Where plans compete: the planner that makes integers of them, and the test samples."""

    def __init__(self, planner: Planner, inputs: list[npt.NDArray[np.int8]], labels: npt.NDArray[np.int64]) -> None:
        self.planner, self.inputs, self.labels = planner, inputs, labels
        self.known: dict[str, tuple[Correct, Correct]] = {}

    def correct(self, function: object) -> Correct:
        scores = reference.run_function(function, self.inputs)[0].reshape(len(self.labels), -1)
        return np.asarray(scores.argmax(axis=1) == self.labels)

    def evaluate(self, assignment: Assignment) -> tuple[Correct, Correct]:
        """Plainly rounded, repaired; the same plan is run once."""
        key = repr(assignment)
        if key not in self.known:
            both = []
            for methods in ((), repair.METHODS):
                self.planner.methods = methods
                plan, parameters = self.planner.realise(assignment)
                both.append(self.correct(LowerMixedPrecision(plan, parameters)(self.planner.mod)["main"]))
            self.known[key] = (both[0], both[1])
        return self.known[key]


def weights_only(costs: Costs) -> Costs:
    """Feature maps are no decision, and nothing but weights has a size."""
    layers = tuple(dataclasses.replace(x, ram={}, activation_cycles={}, steps=()) for x in costs.layers)
    return Costs(layers, fixed_ram=(0,))


def uniform(planner: Planner, bits: int) -> tuple[Assignment, float]:
    """Every layer's weights that may at ``bits``, and their bytes."""
    items = items_of(planner.calibration.derive(Assignment()), planner.costs)
    picks = [next((i for i, c in enumerate(x.choices) if c.bits == bits), len(x.choices) - 1) for x in items]
    return to_assignment(items, picks), totals(items, picks, planner.costs).flash


def _searched(planner: Planner, share: float, budgets: Budgets, method: Method) -> SearchRow:
    table = planner.calibration.derive(Assignment())
    items = items_of(table, planner.costs, level="group")
    began = time.perf_counter()
    found = search(items, planner.costs, budgets, method=method)
    seconds = time.perf_counter() - began
    measured = planner.calibration.measure(to_assignment(items, found.picks))
    scale = table.reference or 1.0
    return SearchRow(share, method, found.totals.flash, found.totals.error / scale, measured / scale, seconds)


# ---- as Markdown


def markdown(results: Sequence[Ablation], command: str) -> str:
    """The page of docs/, complete."""
    parts = [
        "# REP against other sensitivities\n",
        f"Generated by `{command}`; do not edit. What is compared and how: the module's text,",
        "`plugin/rqdkm/experiment/ablation.py`. Size: weights, as a share of theirs at 4 bits; feature maps have 8.",
        "Loss: points of accuracy against the int8 network on the same test samples. Against REP: points that a rule",
        f"loses more than {REP}. Both with 95 % intervals (paired); negative is better than int8, or than REP.",
    ]
    for result in results:
        n = len(result.baseline)
        low, high = wilson_interval(int(result.baseline.sum()), n)
        reps = {row.share: row for row in result.rows if row.rule == REP}
        parts += [
            f"\n## {result.model}\n",
            f"{result.calibration} calibration samples; {n} test samples, of which the int8 network gets "
            f"{result.baseline.mean():.2%} right (95 %: {low:.1%} to {high:.1%}).\n",
            "| size | bit-widths by | weights, bytes | plain: loss | against REP | repaired: loss | against REP |",
            "|---|---|--:|--:|--:|--:|--:|",
            *(_row(row, result.baseline, reps[row.share]) for row in result.rows),
            f"\n{_verdict(result, reps)}",
            "\nSearches on one table, that of REP, order 1, on the unquantized network, by channel groups. Errors are "
            "squared ones of the logits on calibration samples, relative to the logits' mean square.\n",
            "| size | search | weights, bytes | predicted error | measured error | seconds |",
            "|---|---|--:|--:|--:|--:|",
            *(_search_row(row) for row in result.searches),
        ]
    return "\n".join(parts) + "\n"


def _row(row: Row, baseline: Correct, rep: Row) -> str:
    cells = []
    for correct, ours in ((row.plain, rep.plain), (row.repaired, rep.repaired)):
        cells += [_loss(paired_loss(baseline, correct)), "" if row is rep else _loss(paired_loss(ours, correct))]
    return f"| {row.share:.0%} | {row.rule} | {row.weights:,.0f} | {' | '.join(cells)} |"


def _search_row(row: SearchRow) -> str:
    figures = f"{row.weights:,.0f} | {row.error:.4f} | {row.measured:.4f} | {row.seconds:.2f}"
    return f"| {row.share:.0%} | {row.method} | {figures} |"


def _verdict(result: Ablation, reps: dict[float, Row]) -> str:
    """What the intervals allow to say."""
    others = [row for row in result.rows if not row.rule.startswith("REP")]
    sentences = []
    for kind in ("plain", "repaired"):
        worse: list[str] = []
        better: list[str] = []
        for row in others:
            low, high = paired_loss(getattr(reps[row.share], kind), getattr(row, kind)).interval()
            name = f"{row.rule} at {row.share:.0%}"
            if low > 0:
                worse.append(name)
            elif high < 0:
                better.append(name)
        sentences.append(
            f"{'Plainly rounded' if kind == 'plain' else 'Repaired'}: of {len(others)} comparisons with other rules, "
            f"{REP} is better beyond the interval in {len(worse)}{_listed(worse)}, worse in {len(better)}"
            f"{_listed(better)}; {len(others) - len(worse) - len(better)} are within it."
        )
    return " ".join(sentences)


def _listed(names: Sequence[str]) -> str:
    return f" ({', '.join(names)})" if names else ""


def _loss(found: PairedLoss) -> str:
    low, high = found.interval()
    return f"{100 * found.loss:+.2f} ({100 * low:+.2f} to {100 * high:+.2f})"


def write_markdown(results: Sequence[Ablation], path: Path, command: str) -> None:
    write_atomic(path, markdown(results, command))
