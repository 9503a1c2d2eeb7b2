"""Calibration samples, and what the sensitivity metric works out from them for one network."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from rqdkm_tvm.layer import NDArray
from rqdkm_tvm.lowbit import BITS
from rqdkm_tvm.sensitivity import competitors
from rqdkm_tvm.sensitivity.float_twin import FloatTwin
from rqdkm_tvm.sensitivity.rep import Order, Quantizers, Samples, calibrate, objective, rep
from rqdkm_tvm.sensitivity.table import Assignment, Sensitivity

MetricName = Literal["rep", competitors.CompetitorName]
Progress = Callable[[str], None]
MEASURED_SAMPLES = 64


@dataclass
class Calibration:
    """Samples and how to measure sensitivity on them. Holds the float twin once a module is known.

    Args:
        samples: each one array per model input, int8 as the chip gets it, or real values.
        labels: class per sample; None measures against the network's own output.
        order: of the metric, see :mod:`rqdkm_tvm.sensitivity.rep`.
        metric: REP, or one of its competitors (for comparison).
        probes: random cotangents per sample where there are no labels.
        seed: of these.
    """

    samples: Samples
    labels: Sequence[int] | NDArray | None = None
    order: Order = 1
    metric: MetricName = "rep"
    probes: int = 4
    seed: int = 0
    progress: Progress = lambda _message: None
    _function: Any = field(default=None, repr=False)
    _twin: FloatTwin | None = field(default=None, repr=False)
    _quantizers: Quantizers | None = field(default=None, repr=False)
    _first: Sensitivity | None = field(default=None, repr=False)
    _unquantized: list[NDArray] | None = field(default=None, repr=False)

    def bind(self, function: Any) -> None:
        """Take up a partitioned main function (types inferred); the twin of the same one is built once.

        Raises:
            UnsupportedOperatorError: an operator without float counterpart.
        """
        if self._function is not None and self._function.same_as(function):
            return
        self.progress("building the float network")
        self._function, self._twin, self._first, self._unquantized = function, FloatTwin.of(function), None, None
        self.progress("calibrating feature maps")
        self._quantizers = calibrate(self._twin, self.samples, BITS)

    @property
    def twin(self) -> FloatTwin:
        assert self._twin is not None, "bind first"
        return self._twin

    @property
    def quantizers(self) -> Quantizers:
        assert self._quantizers is not None, "bind first"
        return self._quantizers

    def derive(self, at: Assignment) -> Sensitivity:
        """The table at an assignment; alphas are measured once, on the unquantized network."""
        if self.metric != "rep":
            return competitors.competitor(
                self.metric,
                self.twin,
                self.samples,
                self.labels,
                probes=self.probes,
                seed=self.seed,
                quantizers=self.quantizers,
            )
        if self._first is None:
            self._first = self._rep(Assignment(), None)
        return self._first if at == Assignment() else self._rep(at, self._first)

    def measure(self, at: Assignment) -> float:
        """Error of the network quantized by an assignment, on the first :data:`MEASURED_SAMPLES` samples.

        The same quantity for every metric: what REP predicts.
        """
        used = range(min(len(self.samples), MEASURED_SAMPLES))
        if self._unquantized is None:
            self.twin.reset()
            self._unquantized = [self.twin.logits(self.samples[i]) for i in used]
        self.quantizers.apply(self.twin, at)
        labels = self.labels
        errors = [
            objective(
                self._unquantized[i],
                self.twin.logits(self.samples[i]),
                None if labels is None else int(labels[i]),
                self.order,
            )
            for i in used
        ]
        self.twin.reset()
        return sum(errors) / len(errors)

    def _rep(self, at: Assignment, alphas: Sensitivity | None) -> Sensitivity:
        return rep(
            self.twin,
            self.samples,
            self.labels,
            order=self.order,
            probes=self.probes,
            seed=self.seed,
            at=at,
            quantizers=self.quantizers,
            alphas=alphas,
            progress=self.progress,
        )
