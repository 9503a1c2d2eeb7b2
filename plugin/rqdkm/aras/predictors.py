"""The four predictors of the C library on what the traces hold: demand of frames, and load of the rest by window."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rqdkm.aras.library import Predictor
from rqdkm.aras.table import PREDICTORS
from rqdkm.aras.traces import KINDS, Trace, make


@dataclass(frozen=True)
class Score:
    """Of one predictor on one series.

    Args:
        error: mean absolute error over the mean of the series.
        covered: share of values at or below the upper bound that was given before them.
        width: mean upper bound over the mean of the series, less 1: what planning for it costs.
    """

    series: str
    trace: str
    predictor: str
    error: float
    covered: float
    width: float


def score(values: Sequence[float], kind: int, quantile: float, *, warm_up: int = 10) -> tuple[float, float, float]:
    """Error, coverage and width, see :class:`Score`; the first values only teach."""
    predictor = Predictor(kind, quantile)
    errors, below, uppers = [], [], []
    for index, value in enumerate(values):
        if index >= warm_up:
            errors.append(abs(value - predictor.expected))
            below.append(value <= predictor.upper)
            uppers.append(predictor.upper)
        predictor.update(value)
    mean = float(np.mean(values[warm_up:])) or 1.0
    return float(np.mean(errors)) / mean, float(np.mean(below)), float(np.mean(uppers)) / mean - 1.0


def series(trace: Trace, window_us: int) -> dict[str, npt.NDArray[np.float64]]:
    """Cycles of the frames, and cycles per microsecond of the rest in every window."""
    frames = np.array([a.cycles for a in trace if a.frame], np.float64)
    count = trace[-1].time_us // window_us + 1
    rest = np.zeros(count)
    for arrival in trace:
        if not arrival.frame:
            rest[arrival.time_us // window_us] += arrival.cycles / window_us
    return {"frames": frames, "rest": rest}


def patterns(count: int, seed: int = 1) -> dict[str, npt.NDArray[np.float64]]:
    """Series with something to find, noise of 2 %: a kernel that is taken every other frame, and a load that drifts."""
    noise = 1.0 + 0.02 * np.random.default_rng(seed).standard_normal((2, count))
    k = np.arange(count)
    return {"alternating": np.where(k % 2, 1.6, 1.0) * noise[0], "drifting": (1.0 + k % 40 / 20.0) * noise[1]}


def compare(
    *, frames: int, cycles: int, quantile: float = 0.95, window_us: int = 20_000, seed: int = 1
) -> tuple[Score, ...]:
    """Every predictor on every kind of trace, and on :func:`patterns`."""
    found = []
    for trace_kind in KINDS:
        for name, values in series(make(trace_kind, seed, frames=frames, cycles=cycles), window_us).items():
            for index, predictor in enumerate(PREDICTORS):
                found.append(Score(name, trace_kind, predictor, *score(values.tolist(), index, quantile)))
    for pattern, values in patterns(frames, seed).items():
        for index, predictor in enumerate(PREDICTORS):
            found.append(Score("frames", pattern, predictor, *score(values.tolist(), index, quantile)))
    return tuple(found)


def table(scores: Sequence[Score]) -> str:
    """Markdown."""
    lines = [
        "| series | trace | predictor | error | covered | planned above the mean |",
        "|---|---|---|--:|--:|--:|",
    ]
    for s in scores:
        lines.append(f"| {s.series} | {s.trace} | {s.predictor} | {s.error:.1%} | {s.covered:.1%} | {s.width:.1%} |")
    return "\n".join(lines) + "\n"
