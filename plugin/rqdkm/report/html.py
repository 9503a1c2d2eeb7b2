"""A report as one HTML file: no scripts or styles from elsewhere, opens offline, follows light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rqdkm.board.describe import STM32F407
from rqdkm.report import charts, patch_charts, patch_view, view
from rqdkm.report.schema import Patches, Report
from rqdkm_tvm.files import write_atomic


def render(report: Report) -> str:
    """The page; the same report gives the same text."""
    environment = Environment(
        loader=PackageLoader("rqdkm.report"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(kib=view.kib, si=view.si, clock=view.clock)
    rows = view.layer_rows(report)
    return environment.get_template("report.html.j2").render(
        report=report,
        energy_source=STM32F407.source,
        facts=view.facts(report),
        rows=rows,
        top_share=max((row.share for row in rows), default=0.0) or 1.0,
        families=[family for family in _FAMILY_NAMES.items() if any(row.family == family[0] for row in rows)],
        rest=view.uncounted_cycles(report),
        cycle_source=view.cycle_source(report),
        exactness=view.exactness_line(report),
        accuracy=view.accuracy_line(report),
        timeline=Markup(charts.memory_timeline(report)),
        patched=None if report.patches is None else _patched(report, report.patches),
        flash_parts=_flash_parts(report),
        functions=view.functions(report),
    )


def write(report: Report, path: Path) -> None:
    """Render to ``path`` atomically."""
    write_atomic(path, render(report))


_FAMILY_NAMES = {
    "conv": "convolution",
    "depthwise": "depthwise",
    "dense": "fully connected",
    "elementwise": "elementwise",
    "pool": "pooling, mean",
    "other": "other",
}


def _patched(report: Report, patches: Patches) -> dict[str, Any]:
    """What the section on the patch stage shows."""
    branches = range(len(patches.branches))
    bits = [patch_view.layer_bits(patches, branch) for branch in branches]
    return {
        "line": patch_view.line(report),
        "memory": Markup(patch_charts.memory_before_after(report)),
        "map": Markup(patch_charts.patch_map(report)),
        "kinds": [(name, *patch_view.KINDS[name]) for name in patch_view.kinds(patches)],
        "figures": patch_view.figures(report),
        "layers": list(zip(patches.layers, zip(*bits, strict=True), strict=True)),
    }


def _flash_parts(report: Report) -> list[tuple[str, str, int]]:
    """(CSS class, name, bytes) of what occupies flash."""
    flash = report.flash
    return [
        ("code", "code", flash.code_bytes),
        ("weights", "weights and tables", flash.weights_bytes),
        ("rodata", "other constants", flash.rodata_bytes),
        ("data", "initial values", flash.data_bytes),
    ]
