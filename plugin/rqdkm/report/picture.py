"""A report as one SVG picture, for a README: headline figures and cycles per layer; follows light and dark."""

from __future__ import annotations

from html import escape
from pathlib import Path

from rqdkm.report import view
from rqdkm.report.schema import Report
from rqdkm_tvm.files import write_atomic

_WIDTH = 900
_MARGIN = 28
_ROW = 20
_TOP = 190
_NAMES_END, _BARS_START, _BARS_END = 250, 262, 700
_MAX_ROWS = 16

_STYLE = """
.page{fill:#fff;stroke:#e2e6ec}.ink{fill:#16202c}.soft{fill:#5b6878}.good{fill:#12805c}.bad{fill:#b42318}
.conv{fill:#2f6fde}.depthwise{fill:#0f9d8a}.dense{fill:#8a5cd6}.elementwise{fill:#e08a1e}.pool{fill:#c94f7c}
.other{fill:#8c96a3}
@media (prefers-color-scheme:dark){.page{fill:#171e27;stroke:#28323e}.ink{fill:#e8edf3}.soft{fill:#97a4b4}
.good{fill:#58d3a4}.bad{fill:#ff8f84}.conv{fill:#5b94f5}.depthwise{fill:#2bc0ab}.dense{fill:#a883ee}
.elementwise{fill:#f0a848}.pool{fill:#e57aa2}.other{fill:#7d8897}}
text{font-family:system-ui,-apple-system,"Segoe UI",Roboto,Helvetica,Arial,sans-serif}
"""


def render(report: Report) -> str:
    """The picture; at most the sixteen most expensive layers, in order of execution."""
    rows = view.layer_rows(report)
    kept = sorted(rows, key=lambda row: row.share, reverse=True)[:_MAX_ROWS]
    shown = [row for row in rows if row in kept] if report.totals.cycles is not None else []
    height = (_TOP + _ROW * len(shown) + 48) if shown else _TOP + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {height}" width="{_WIDTH}" height="{height}"'
        f' role="img" aria-label="{escape(report.model.name)} on {escape(report.board.chip)}">',
        f"<style>{_STYLE}</style>",
        f'<rect class="page" x=".5" y=".5" width="{_WIDTH - 1}" height="{height - 1}" rx="12"/>',
        _text(_MARGIN, 44, report.model.name, "ink", 22, weight=650),
        _text(_MARGIN, 66, f"{report.board.chip}, {view.clock(report.board.clock_hz)}, {view.cycle_source(report)}"),
    ]
    facts = view.facts(report)
    for index, fact in enumerate(facts):
        x = _MARGIN + index * (_WIDTH - 2 * _MARGIN) / len(facts)
        parts.append(_text(x, 100, fact.label))
        parts.append(_text(x, 130, fact.value, "ink", 27, weight=650, unit=fact.unit))
        parts.append(_text(x, 148, fact.how, size=11))
    exact = view.exactness_line(report)
    if exact is not None:
        parts.append(_text(_MARGIN, 174, exact[1], "good" if exact[0] else "bad"))
    top = max((row.share for row in shown), default=1.0) or 1.0
    for index, row in enumerate(shown):
        y = _TOP + index * _ROW
        width = (_BARS_END - _BARS_START) * row.share / top
        name = row.layer.name if len(row.layer.name) <= 36 else row.layer.name[:35] + "…"
        per_mac = "" if row.cycles_per_mac is None else f"{row.cycles_per_mac:.2f} cycles/MAC"
        parts.append(_text(_NAMES_END, y + 13, name, "ink", 12, anchor="end"))
        parts.append(
            f'<rect class="{row.family}" x="{_BARS_START}" y="{y + 2}" width="{max(width, 1):.1f}"'
            f' height="{_ROW - 6}" rx="3"/>'
        )
        parts.append(_text(_BARS_START + width + 8, y + 13, f"{100 * row.share:.1f} %", "ink", 12))
        parts.append(_text(_WIDTH - _MARGIN, y + 13, per_mac, size=12, anchor="end"))
    if shown:
        note = "share of the cycles of one inference"
        note += f", the {_MAX_ROWS} largest of {len(rows)} layers" if len(rows) > len(shown) else ", layer by layer"
        parts.append(_text(_BARS_START, height - 20, note, size=12))
    parts.append("</svg>\n")
    return "\n".join(parts)


def write(report: Report, path: Path) -> None:
    """Render to ``path`` atomically."""
    write_atomic(path, render(report))


def _text(
    x: float, y: float, text: str, kind: str = "soft", size: int = 13, *, weight: int = 400, anchor: str = "start",
    unit: str = "",
) -> str:  # fmt: skip
    extra = f' <tspan class="soft" font-size="13" font-weight="400">{escape(unit)}</tspan>' if unit else ""
    return (
        f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" font-size="{size}" font-weight="{weight}"'
        f' text-anchor="{anchor}">{escape(text)}{extra}</text>'
    )
