"""A report on the terminal."""

from __future__ import annotations

from rich import box
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from rqdkm.report import patch_view, view
from rqdkm.report.schema import Report


def render(report: Report, *, details: bool = False, width: int = 140) -> RenderableType:
    """Totals, layers and memory; with ``details`` also the function profile and the offload report.

    Below ``width`` 120 the layer table leaves out shapes and bars.
    """
    layers = layer_table(report, compact=width < 120)
    parts: list[RenderableType] = [_title(report), _summary(report), Text(), layers, Text()]
    parts.append(_memory_table(report))
    if details:
        parts += [Text(), _function_table(report), Text(), _offload_table(report)]
    parts += [Text(f"note: {note}", style="dim") for note in report.notes]
    return Group(*parts)


def to_text(report: Report, *, width: int = 140, details: bool = False) -> str:
    """The same as plain text, for files and tests."""
    console = Console(width=width, no_color=True, highlight=False)
    with console.capture() as capture:
        console.print(render(report, details=details, width=width))
    return capture.get()


def layer_table(report: Report, *, compact: bool = False) -> Table:
    """Layer by layer: kernel (its name tells the operator), work, cycles and their share, scratch."""
    counted = report.totals.cycles is not None
    table = _table("Layers")
    table.add_column("layer", min_width=14, overflow="fold")
    for name in ("kernel",) if compact else ("kernel", "shape"):
        table.add_column(name, no_wrap=True)
    table.add_column("MACs", justify="right", no_wrap=True)
    if counted:
        for name in ("cycles", "cyc/MAC", "%"):
            table.add_column(name, justify="right", no_wrap=True)
        if not compact:
            table.add_column("", no_wrap=True, min_width=12)
    table.add_column("scratch", justify="right", no_wrap=True)
    rows = view.layer_rows(report)
    top = max((row.share for row in rows), default=0.0)
    for row in rows:
        layer = row.layer
        kernel = f"{layer.kernel}: {layer.op}" if layer.kernel == "tvm" else layer.kernel
        cells = [Text(layer.name), Text(kernel), Text(f"{layer.macs:,}" if layer.macs else "-")]
        if not compact:
            cells.insert(2, Text(row.shapes))
        if counted:
            cells.append(Text("-" if layer.cycles is None else f"{layer.cycles:,}"))
            cells.append(Text("-" if row.cycles_per_mac is None else f"{row.cycles_per_mac:.2f}"))
            cells.append(Text(f"{100 * row.share:.1f}"))
            if not compact:
                cells.append(Text(_bar(row.share, top), style="cyan"))
        cells.append(Text(f"{layer.scratch_bytes:,}" if layer.scratch_bytes else "-"))
        table.add_row(*cells)
    if counted:
        totals = report.totals
        blank = [""] if compact else ["", ""]
        rest = view.uncounted_cycles(report)
        share = rest / totals.cycles if totals.cycles else 0.0
        table.add_row("(between layers)", *blank, "", f"{rest:,}", "", f"{100 * share:.1f}", style="dim")
        per_mac = "-" if totals.cycles_per_mac is None else f"{totals.cycles_per_mac:.2f}"
        table.add_section()
        total = ("network", *blank, f"{totals.macs:,}", f"{totals.cycles:,}", per_mac, "100.0")
        table.add_row(*total, style="bold")
    return table


def _title(report: Report) -> Text:
    title = Text.assemble((report.model.name, "bold"), "  ", (report.board.chip, "cyan"))
    title.append(f" at {view.clock(report.board.clock_hz)}, {report.board.name} board, config {report.config}")
    title.append(f"\n{view.cycle_source(report)}", style="dim")
    return title


def _summary(report: Report) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim")
    table.add_column(justify="right", style="bold")
    table.add_column()
    table.add_column()
    table.add_column(style="dim")
    for fact in view.facts(report):
        table.add_row(fact.label, fact.value, fact.unit, fact.detail, fact.how)
    lines = Table.grid(padding=(0, 2))
    lines.add_column(style="dim", no_wrap=True)
    lines.add_column()
    exact = view.exactness_line(report)
    if exact is not None:
        lines.add_row("Exactness", Text(exact[1], style="green" if exact[0] else "bold red"))
    accuracy = view.accuracy_line(report)
    if accuracy is not None:
        lines.add_row("Accuracy", Text(accuracy))
    search = view.search_line(report)
    if search is not None:
        lines.add_row("Bit-widths", Text(search))
    patches = patch_view.line(report)
    if patches is not None:
        lines.add_row("Patches", Text(patches))
    outer = Table.grid()
    outer.add_row(table)
    outer.add_row(lines)
    return outer


def _memory_table(report: Report) -> Table:
    memory, flash = report.memory, report.flash
    table = _table("Memory, bytes")
    for name, right in (("what", False), ("planned", True), ("measured", True), ("note", False)):
        table.add_column(name, justify="right" if right else "left")
    peak = max(memory.timeline, key=lambda step: step.live_bytes + step.scratch_bytes, default=None)
    note = "" if peak is None else f"peak in {peak.layer}: {peak.live_bytes:,} live + {peak.scratch_bytes:,} scratch"
    table.add_row("arena", f"{memory.arena_planned_bytes:,}", _count(memory.arena_measured_bytes), Text(note))
    table.add_row("stack", f"{memory.stack_reserved_bytes:,}", _count(memory.stack_bytes), "planned = reserved")
    table.add_row("static data", f"{memory.static_bytes:,}", "", "")
    totals = report.totals
    table.add_row("RAM", f"{totals.ram_planned_bytes:,}", f"{totals.ram_peak_bytes:,}", "peak", style="bold")
    table.add_section()
    note = f"code {flash.code_bytes:,}, weights {flash.weights_bytes:,}, other constants {flash.rodata_bytes:,}"
    note += f", initial values {flash.data_bytes:,}"
    table.add_row("flash", "", f"{totals.flash_bytes:,}", note, style="bold")
    for pool in memory.pools:
        share = 100 * pool.used_bytes / pool.size_bytes if pool.size_bytes else 0.0
        table.add_row(f"  {pool.name}", "", f"{pool.used_bytes:,}", f"{share:.1f} % of {pool.size_bytes:,}")
    return table


def _function_table(report: Report) -> Table:
    table = _table("Functions, self cycles of one inference")
    table.add_column("function")
    table.add_column("cycles", justify="right")
    table.add_column("%", justify="right")
    total = report.totals.cycles or 0
    shown, small = view.functions(report)
    for function in shown:
        share = f"{100 * function.cycles / total:.1f}" if total else ""
        table.add_row(Text(function.name), f"{function.cycles:,}", share)
    if small:
        table.add_row(f"({len(small)} more below 0.1 %)", f"{sum(f.cycles for f in small):,}", "", style="dim")
    return table


def _offload_table(report: Report) -> Table:
    table = _table("Operators")
    for name in ("operator", "layer", "runs in", "why"):
        table.add_column(name, overflow="fold")
    for operator in report.offload:
        where = Text(operator.kernel) if operator.offloaded else Text("TVM's C", style="yellow")
        table.add_row(Text(operator.operator), Text(operator.layer), where, Text(operator.reason))
    return table


def _table(title: str) -> Table:
    return Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )


def _bar(share: float, top: float, width: int = 12) -> str:
    """A bar in eighths of a character, the largest share filling ``width``."""
    eighths = round(8 * width * share / top) if top else 0
    return "█" * (eighths // 8) + ("" if eighths % 8 == 0 else "▏▎▍▌▋▊▉"[eighths % 8 - 1])


def _count(value: int | None) -> str:
    return "-" if value is None else f"{value:,}"
