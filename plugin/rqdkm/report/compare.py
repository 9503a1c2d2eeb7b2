"""Several reports side by side: what one deployment costs against another of the same model."""

from __future__ import annotations

import json
from collections.abc import Sequence

from rich import box
from rich.table import Table
from rich.text import Text

from rqdkm.report import view
from rqdkm.report.schema import Report

# key of totals -> (label, decimals); less is better in all of them
_ROWS: dict[str, tuple[str, int]] = {
    "cycles": ("cycles", 0),
    "cycles_per_mac": ("cycles/MAC", 2),
    "latency_ms": ("latency, ms", 1),
    "bitops": ("BitOPs", 0),
    "ram_peak_bytes": ("peak RAM, bytes", 0),
    "flash_bytes": ("flash, bytes", 0),
    "weights_bytes": ("weights, bytes", 0),
    "energy_mj": ("energy (estimated), mJ", 2),
}


def render(reports: Sequence[Report]) -> Table:
    """Totals, accuracy and exactness, a column per report; ratios are to the first."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    table.add_column("", no_wrap=True)
    for made in reports:
        table.add_column(Text(f"{made.model.name}\n{made.config}, {made.board.name}"), justify="right")
    for key, (label, decimals) in _ROWS.items():
        values = [getattr(made.totals, key) for made in reports]
        table.add_row(label, *(_cell(value, values[0], decimals) for value in values))
    table.add_row("cycles are", *(made.cycle_model.kind for made in reports))
    if any(made.patches is not None for made in reports):
        table.add_row("patches", *(Text(_patches(made)) for made in reports))
    table.add_row("accuracy", *(Text(_accuracy(made)) for made in reports))
    table.add_row("outputs", *(_exactness(made) for made in reports))
    return table


def to_json(reports: Sequence[Report]) -> str:
    """The totals as JSON, in order, and their ratios to the first report's."""
    rows = []
    for made in reports:
        totals = {key: getattr(made.totals, key) for key in _ROWS}
        ratios = {key: _ratio(value, getattr(reports[0].totals, key)) for key, value in totals.items()}
        accuracy = made.accuracy.value if made.accuracy else None
        rows.append(
            {
                "model": made.model.name,
                "config": made.config,
                "board": made.board.name,
                "totals": totals,
                "ratios": ratios,
                "accuracy": accuracy,
            }
        )
    return json.dumps(rows, indent=1, ensure_ascii=False) + "\n"


def _cell(value: float | None, first: float | None, decimals: int) -> str:
    if value is None:
        return "-"
    ratio = _ratio(value, first)
    return f"{value:,.{decimals}f}" + ("" if ratio is None else f"  {ratio:.2f}x")


def _ratio(value: float | None, first: float | None) -> float | None:
    return None if value is None or not first else float(f"{value / first:.6g}")


def _patches(made: Report) -> str:
    found = made.patches
    return "-" if found is None else f"{found.grid[0]}x{found.grid[1]}, {found.halo}, VDPC {found.vdpc}"


def _accuracy(made: Report) -> str:
    if made.accuracy is None:
        return "-"
    low, high = made.accuracy.ci95
    return f"{made.accuracy.value:.4f} ({low:.4f} to {high:.4f})"


def _exactness(made: Report) -> Text:
    line = view.exactness_line(made)
    if line is None:
        return Text("-")
    return Text("exact", style="green") if line[0] else Text("differ", style="bold red")
