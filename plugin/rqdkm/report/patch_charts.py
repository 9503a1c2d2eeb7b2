"""Inline SVG of a patch stage: the arena before and after, and the map of the patches."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

from rqdkm.report import charts, patch_view, view
from rqdkm.report.patch_view import Peak
from rqdkm.report.schema import Patches, Report, TimelineStep

_WIDTH, _LEFT, _RIGHT = 960, 64, 12
_PANEL, _TITLE, _NUMBERS = 170, 26, 28  # heights of a chart, of what is above it and below it

_MAP_SIDE = 400  # about; cells grow where their text needs it
_CELL_WIDTH, _CELL_HEIGHT, _LINE = 64, 26, 15
_ONE_LINE = 190  # width that holds everything side by side


def memory_before_after(report: Report) -> str:
    """Both timelines to one scale, the stage below the layers that it replaces; empty text without both."""
    patches = report.patches
    if patches is None or not patches.timeline_before or not report.memory.timeline:
        return ""
    before, after = patches.timeline_before, report.memory.timeline
    peaks = patch_view.peaks(report)
    top = max(step.live_bytes + step.scratch_bytes for step in (*before, *after)) or 1
    inside = set(patches.layers)
    replaced = sum(step.layer in inside for step in before)
    stage = next((i for i, step in enumerate(after) if step.layer in _stages(report)), None)
    height = 2 * (_TITLE + _PANEL + _NUMBERS)
    parts = [
        f'<svg class="patch-memory" viewBox="0 0 {_WIDTH} {height}" role="img" aria-label="Arena before and after">'
    ]
    without = " without the input" if patches.input == "callback" else ""
    titles = ("before: layer by layer", f"after: {len(patches.layers)} layers patch by patch")
    each = (_WIDTH - _LEFT - _RIGHT) / len(before)
    even = [each] * len(before)
    widths = _widths(len(after), stage, replaced, each, len(before))
    aparts = [patch_view.apart(patches, index) for index in range(len(before))]
    for index, (title, steps, sizes, apart, peak) in enumerate(
        ((titles[0], before, even, aparts, peaks[0]), (titles[1], after, widths, [0] * len(after), peaks[1]))
    ):
        parts += _panel(index * (height / 2), title, steps, sizes, apart, peak, top, without)
    return "".join([*parts, "</svg>"])


def _stages(report: Report) -> set[str]:
    return {layer.name for layer in report.layers if layer.op == "patch_stage"}


def _widths(count: int, stage: int | None, replaced: int, each: float, before: int) -> list[float]:
    """Of the columns after: the stage as wide as what it replaces, the others share what is left."""
    if stage is None or not 0 < replaced < before or count < 2:
        return [each * before / count] * count
    other = each * (before - replaced) / (count - 1)
    return [each * replaced if index == stage else other for index in range(count)]


def _panel(
    y: float,
    title: str,
    steps: Sequence[TimelineStep],
    widths: Sequence[float],
    apart: Sequence[int],
    peak: Peak | None,
    top: int,
    without: str,
) -> list[str]:
    scale = _PANEL / (top * 1.04)
    ceiling, base = y + _TITLE, y + _TITLE + _PANEL
    parts = [f'<g><text class="panel" x="{_LEFT}" y="{y + 16:.1f}">{escape(title)}</text>']
    parts += charts.grid_lines(top, scale, base, _LEFT, _WIDTH - _RIGHT)
    x, last = float(_LEFT), -100.0
    for index, (step, width, less) in enumerate(zip(steps, widths, apart, strict=True)):
        gap = min(2.0, width * 0.15)
        parts.append(charts.bar(step, x + gap / 2, width - gap, base, ceiling, scale, less))
        middle = x + width / 2
        if middle - last >= 26:
            parts.append(
                f'<text class="axis" x="{middle:.1f}" y="{base + 18:.1f}" text-anchor="middle">{index + 1}</text>'
            )
            last = middle
        x += width
    if peak is not None:
        at = base - peak.bytes * scale
        parts.append(f'<line class="planned" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>')
        text = f"peak{without} {peak.bytes:,} B ({view.kib(peak.bytes)}) in {peak.layer}"
        parts.append(
            f'<text class="peak" x="{_WIDTH - _RIGHT}" y="{max(at - 5, ceiling + 8):.1f}"'
            f' text-anchor="end">{escape(text)}</text>'
        )
    return [*parts, "</g>"]


def patch_map(report: Report) -> str:
    """The stage's result and how it is divided: class, branch, bits and share of outliers of every patch."""
    patches = report.patches
    if patches is None:
        return ""
    rows, columns = patches.grid
    height, width = patch_view.result_shape(report) or (rows, columns)
    down, across = _edges(height, rows), _edges(width, columns)
    scale = max(
        min(_MAP_SIDE / height, _MAP_SIDE / width),
        _CELL_HEIGHT / min(b - a for a, b in pairwise(down)),
        _CELL_WIDTH / min(b - a for a, b in pairwise(across)),
    )
    w, h = width * scale + 2, height * scale + 2
    parts = [
        f'<svg class="map" viewBox="0 0 {w:.0f} {h:.0f}" width="{w:.0f}" height="{h:.0f}" role="img"'
        f' aria-label="Patches of {escape(patches.last, quote=True)}">'
    ]
    for r, (y0, y1) in enumerate(pairwise(down)):
        for c, (x0, x1) in enumerate(pairwise(across)):
            box = (1 + x0 * scale, 1 + y0 * scale, (x1 - x0) * scale, (y1 - y0) * scale)
            parts.append(_cell(patches, r, c, box, f"rows {y0} to {y1 - 1}, columns {x0} to {x1 - 1}"))
    return "".join([*parts, "</svg>"])


def _edges(extent: int, parts: int) -> list[int]:
    return [extent * i // parts for i in range(parts + 1)]


def _cell(patches: Patches, row: int, column: int, box: tuple[float, float, float, float], where: str) -> str:
    branch = patches.assignment[row][column]
    name = patch_view.kind(patches, row, column)
    mark, meaning = patch_view.KINDS[name]
    bits = f"{patch_view.inner_span(patches, branch)} bits"
    share = patches.outlier_share[row][column] if patches.outlier_share else None
    words = [f"{mark} {branch}", bits] + ([] if share is None else [f"{100 * share:.0f} %"])
    tip = f"patch {row}, {column}: {where}\n{meaning}\nbranch {branch}"
    for layer, count in zip(patches.layers, patch_view.layer_bits(patches, branch), strict=True):
        tip += f"\n{layer}: {count} bits"
    tip += "" if share is None else f"\noutliers in {100 * share:.1f} % of the calibration samples"
    x, y, width, height = box
    parts = [
        f'<g class="patch {name}" data-row="{row}" data-column="{column}" data-branch="{branch}">'
        f"<title>{escape(tip)}</title>"
        f'<rect class="{name}" x="{x + 1:.1f}" y="{y + 1:.1f}" width="{width - 2:.1f}"'
        f' height="{height - 2:.1f}" rx="3"/>'
    ]
    if share:
        length = (width - 8) * share
        parts.append(f'<rect class="share" x="{x + 4:.1f}" y="{y + height - 6:.1f}" width="{length:.1f}" height="3"/>')
    lines = _lines(words, width, height)
    first = y + height / 2 + 4 - (len(lines) - 1) * _LINE / 2
    for index, text in enumerate(lines):
        parts.append(
            f'<text x="{x + width / 2:.1f}" y="{first + index * _LINE:.1f}" text-anchor="middle">{escape(text)}</text>'
        )
    return "".join([*parts, "</g>"])


def _lines(words: Sequence[str], width: float, height: float) -> list[str]:
    """The words side by side, below each other, or as many as there is room for."""
    if width >= _ONE_LINE:
        return [" · ".join([f"{words[0]}:", *words[1:]]).replace(": ·", ":")]
    if height >= _LINE * len(words) + 8:
        return list(words)
    return [words[0] if len(words) < 3 else f"{words[0]} · {words[2]}"]
