"""Inline SVG of a report: arena use over time. Colours come from the page's CSS variables."""

from __future__ import annotations

from html import escape

from rqdkm.report import view
from rqdkm.report.schema import Report, TimelineStep

_WIDTH, _HEIGHT = 960, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 14, 34


def memory_timeline(report: Report) -> str:
    """Live feature maps and scratch, one column per layer; empty text without a timeline.

    The dashed line is the arena as planned: its distance from the tallest column is fragmentation.
    """
    steps = report.memory.timeline
    if not steps:
        return ""
    planned = report.memory.arena_planned_bytes
    top = max([planned, *(step.live_bytes + step.scratch_bytes for step in steps)]) or 1
    scale = (_HEIGHT - _TOP - _BOTTOM) / (top * 1.04)
    base = _HEIGHT - _BOTTOM
    column = (_WIDTH - _LEFT - _RIGHT) / len(steps)
    gap = min(2.0, column * 0.15)
    parts = [f'<svg class="timeline" viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="Arena use per layer">']
    parts += grid_lines(top, scale, base, _LEFT, _WIDTH - _RIGHT)
    for index, step in enumerate(steps):
        parts.append(bar(step, _LEFT + index * column + gap / 2, column - gap, base, _TOP, scale))
    y = base - planned * scale
    parts.append(f'<line class="planned" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts += _layer_numbers(len(steps), column, base)
    parts.append("</svg>")
    return "".join(parts)


def bar(step: TimelineStep, x: float, width: float, base: float, top: float, scale: float, apart: int = 0) -> str:
    """One column: live feature maps, scratch on them, and on both, outlined, ``apart`` bytes of what is live."""
    tip = f"{step.layer}\nlive {step.live_bytes:,} B\nscratch {step.scratch_bytes:,} B"
    tip += f"\ntogether {step.live_bytes + step.scratch_bytes:,} B"
    tip += f"\nof which the input {apart:,} B" if apart else ""
    parts = [f"<g><title>{escape(tip)}</title>"]
    y = base
    for kind, count in (("live", step.live_bytes - apart), ("scratch", step.scratch_bytes), ("frame", apart)):
        height = count * scale
        if height > 0:
            y -= height
            parts.append(f'<rect class="{kind}" x="{x:.2f}" y="{y:.2f}" width="{width:.2f}" height="{height:.2f}"/>')
    parts.append(f'<rect class="hit" x="{x:.2f}" y="{top}" width="{width:.2f}" height="{base - top}"/></g>')
    return "".join(parts)


def grid_lines(top: int, scale: float, base: float, left: float, right: float) -> list[str]:
    """Horizontal lines at round numbers of bytes, with their labels."""
    parts = []
    for value in range(0, int(top * 1.04) + 1, _tick(top)):
        y = base - value * scale
        parts.append(f'<line class="grid" x1="{left}" x2="{right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text class="axis" x="{left - 8}" y="{y + 4:.1f}" text-anchor="end">{view.kib(value)}</text>')
    return parts


def _layer_numbers(count: int, column: float, base: float) -> list[str]:
    """Layer numbers under the columns, as many as fit."""
    every = max(1, -(-count * 26 // (_WIDTH - _LEFT - _RIGHT)))
    found = []
    for index in range(0, count, every):
        x = _LEFT + (index + 0.5) * column
        found.append(f'<text class="axis" x="{x:.1f}" y="{base + 18}" text-anchor="middle">{index + 1}</text>')
    return found


def _tick(top: int) -> int:
    """A round number of bytes that gives three to six grid lines."""
    tick = 64
    while top / tick > 6:
        tick *= 2
    return tick
