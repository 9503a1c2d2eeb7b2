"""Inline SVG of simulated time: load, clock, energy so far, missed frames. Colours come from the page's variables."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import numpy.typing as npt

from rqdkm.aras.simulate import Outcome

Array = npt.NDArray[np.float64]

_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 960, 220, 56, 12, 12, 28
BINS = 320


@dataclass(frozen=True)
class Line:
    """One curve; ``area`` is filled down to ``base``."""

    name: str
    css: str
    values: Array
    base: Array | None = None


def bins(outcome: Outcome, activities: Sequence[str], count: int = BINS) -> Array:
    """Share of time spent on some activities, by bin."""
    edges = np.linspace(0.0, outcome.time_us, count + 1)
    found = np.zeros(count)
    for s in outcome.stretches:
        if s.activity in activities:
            _spread(found, edges, s.start_us, s.end_us, 1.0)
    share: Array = found / (edges[1] - edges[0])
    return share


def clock(outcome: Outcome, mhz: Sequence[float], count: int = BINS) -> Array:
    """Mean clock of the time awake, MHz, by bin; 0 where it slept or stopped throughout."""
    edges = np.linspace(0.0, outcome.time_us, count + 1)
    total, time = np.zeros(count), np.zeros(count)
    for s in outcome.stretches:
        if s.activity not in ("sleep", "stop"):
            _spread(total, edges, s.start_us, s.end_us, mhz[s.point])
            _spread(time, edges, s.start_us, s.end_us, 1.0)
    mean: Array = np.divide(total, time, out=np.zeros(count), where=time > 0)
    return mean


def energy(outcome: Outcome, milliwatts: dict[tuple[str, int], float], count: int = BINS) -> Array:
    """Energy up to the end of each bin, mJ. milliwatts: by activity and clock point."""
    edges = np.linspace(0.0, outcome.time_us, count + 1)
    found = np.zeros(count)
    for s in outcome.stretches:
        _spread(found, edges, s.start_us, s.end_us, milliwatts[s.activity, s.point] * 1e-6)
    return np.cumsum(found)


def _spread(into: Array, edges: Array, start: float, end: float, weight: float) -> None:
    """Adds weight times the time that [start, end) has in common with each bin."""
    width = edges[1] - edges[0]
    first, last = int(start // width), min(int(end // width), len(into) - 1)
    for k in range(first, last + 1):
        into[k] += weight * max(0.0, min(end, edges[k + 1]) - max(start, edges[k]))


def plot(lines: Sequence[Line], top: float, unit: str, seconds: float, label: str) -> str:
    """Curves over time, areas where a line has a base."""
    count = len(lines[0].values)
    x = _LEFT + (np.arange(count) + 0.5) * (_WIDTH - _LEFT - _RIGHT) / count
    base, scale = _HEIGHT - _BOTTOM, (_HEIGHT - _TOP - _BOTTOM) / (top or 1.0)
    parts = [f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(label)}">']
    for value in _ticks(top):
        y = base - value * scale
        parts.append(f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:g}{unit}</text>')
    parts.append(_time_axis(seconds, base))
    for line in lines:
        top_y = base - line.values * scale
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, top_y, strict=True))
        if line.base is None:
            parts.append(
                f'<polyline class="line {line.css}" points="{path}"><title>{escape(line.name)}</title></polyline>'
            )
        else:
            below = base - line.base * scale
            back = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x[::-1], below[::-1], strict=True))
            parts.append(
                f'<polygon class="area {line.css}" points="{path} {back}"><title>{escape(line.name)}</title></polygon>'
            )
    parts.append("</svg>")
    return "".join(parts)


def missed(outcomes: Sequence[tuple[str, Outcome]]) -> str:
    """A row per governor, a mark per missed frame."""
    height = _TOP + 24 * len(outcomes) + _BOTTOM
    longest = max(o.time_us for _, o in outcomes)
    scale = (_WIDTH - 150 - _RIGHT) / longest
    parts = [f'<svg viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Missed frames">']
    for row, (_, outcome) in enumerate(outcomes):
        y = _TOP + 24 * row + 12
        parts.append(f'<text class="axis" x="0" y="{y + 4}">{escape(outcome.name)}: {outcome.missed}</text>')
        parts.append(f'<line class="grid" x1="150" x2="{_WIDTH - _RIGHT}" y1="{y}" y2="{y}"/>')
        for k, frame in enumerate(outcome.frames):
            if frame.missed:
                x = 150 + frame.deadline_us * scale
                parts.append(
                    f'<line class="missed" x1="{x:.1f}" x2="{x:.1f}" y1="{y - 8}" y2="{y + 8}">'
                    f"<title>frame {k}, due at {frame.deadline_us / 1e6:.3f} s</title></line>"
                )
    parts.append(_time_axis(longest / 1e6, height - _BOTTOM, 150))
    parts.append("</svg>")
    return "".join(parts)


def _time_axis(seconds: float, base: float, left: float = _LEFT) -> str:
    scale = (_WIDTH - left - _RIGHT) / (seconds or 1.0)
    return "".join(
        f'<text class="axis" x="{left + value * scale:.1f}" y="{base + 18}" text-anchor="middle">{value:g} s</text>'
        for value in _ticks(seconds)
    )


def _ticks(top: float) -> list[float]:
    """Zero and round numbers up to ``top``, three to seven of them."""
    if top <= 0.0:
        return [0.0]
    step = 10.0 ** np.floor(np.log10(top))
    while top / step < 3:
        step /= 2 if f"{step:e}"[0] != "5" else 2.5
    while top / step > 7:
        step *= 2
    return [float(f"{k * step:.6g}") for k in range(int(top / step + 1e-9) + 1)]
