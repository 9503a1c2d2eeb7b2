"""What every rendering of a report shows: figures as text, shares, and how each figure was obtained."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rqdkm.board.describe import STM32F407
from rqdkm.report.schema import Function, Layer, Report

# Colour families of the charts, by operator; everything else is "other".
FAMILIES = {
    "conv2d": "conv",
    "depthwise_conv2d": "depthwise",
    "fully_connected": "dense",
    "add": "elementwise",
    "mul": "elementwise",
    "clip": "elementwise",
    "requantize": "elementwise",
    "avg_pool2d": "pool",
    "max_pool2d": "pool",
    "mean": "pool",
    "patch_stage": "conv",
}


@dataclass(frozen=True)
class Fact:
    """One headline figure; ``how`` is modelled, estimated, measured, planned or empty."""

    label: str
    value: str
    unit: str
    detail: str
    how: str


@dataclass(frozen=True)
class LayerRow:
    """One layer with its derived figures; ``share`` of the whole inference, 0 to 1."""

    layer: Layer
    family: str
    cycles_per_mac: float | None
    share: float
    shapes: str


def facts(report: Report) -> list[Fact]:
    """The headline: latency, efficiency, RAM, flash, energy."""
    totals, memory = report.totals, report.memory
    how = report.cycle_model.kind
    found: list[Fact] = []
    if totals.cycles is not None and totals.latency_ms is not None and totals.fps is not None:
        detail = f"{totals.fps:.1f} inferences/s at {clock(report.board.clock_hz)}"
        found.append(Fact("Latency", f"{totals.latency_ms:.1f}", "ms", detail, how))
        if totals.cycles_per_mac is not None:
            detail = f"{si(totals.cycles)} cycles for {si(totals.macs)} MACs"
            found.append(Fact("Efficiency", f"{totals.cycles_per_mac:.2f}", "cycles/MAC", detail, how))
    painted = memory.arena_measured_bytes is not None and memory.stack_bytes is not None
    arena = kib(memory.arena_measured_bytes if memory.arena_measured_bytes is not None else memory.arena_planned_bytes)
    stack = kib(memory.stack_bytes if memory.stack_bytes is not None else memory.stack_reserved_bytes)
    found.append(
        Fact(
            "Peak RAM",
            f"{totals.ram_peak_bytes / 1024:.1f}",
            "KiB",
            f"arena {arena}, stack {stack}, static {kib(memory.static_bytes)}",
            "measured" if painted else "planned",
        )
    )
    detail = f"weights {kib(totals.weights_bytes)}, code {kib(report.flash.code_bytes)}"
    found.append(Fact("Flash", f"{totals.flash_bytes / 1024:.1f}", "KiB", detail, "linked"))
    if totals.energy_mj is not None and totals.power_mw is not None:
        detail = f"{totals.power_mw:.0f} mW while running, by {STM32F407.source.partition(',')[0]}"
        found.append(Fact("Energy", f"{totals.energy_mj:.2f}", "mJ", detail, "estimated"))
    return found


def layer_rows(report: Report) -> list[LayerRow]:
    """The layers in order of execution, with shares of the total."""
    total = report.totals.cycles or 0
    return [
        LayerRow(
            layer=layer,
            family=FAMILIES.get(layer.op, "other"),
            cycles_per_mac=layer.cycles / layer.macs if layer.cycles is not None and layer.macs else None,
            share=(layer.cycles or 0) / total if total else 0.0,
            shapes=shapes(layer),
        )
        for layer in report.layers
    ]


def uncounted_cycles(report: Report) -> int:
    """Cycles of the inference outside every layer (dispatch, start and end); 0 if nothing counted."""
    return max(0, (report.totals.cycles or 0) - sum(layer.cycles or 0 for layer in report.layers))


def functions(report: Report) -> tuple[list[Function], list[Function]]:
    """The profile's functions that take at least 0.1 % of the cycles, and the others."""
    least = (report.totals.cycles or 0) / 1000
    return (
        [function for function in report.functions if function.cycles >= least],
        [function for function in report.functions if function.cycles < least],
    )


def cycle_source(report: Report) -> str:
    """One line on where the cycles come from; the word "modelled" belongs in it wherever it is true."""
    model = report.cycle_model
    if model.kind == "none":
        return "cycles not counted on this board"
    waits = "" if model.wait_states is None else f", {model.wait_states} wait states"
    source = f"flash model {model.name}" if model.kind == "modelled" else model.name
    return f"cycles {model.kind}: {source}{waits}"


def exactness_line(report: Report) -> tuple[bool, str] | None:
    """(equal, text) of the comparison with the reference, None if nothing ran."""
    exact = report.exactness
    if exact is None:
        return None
    what = f"{exact.samples} samples, {exact.compared_bytes:,} output bytes, against {exact.reference}"
    if exact.mismatches == 0:
        return True, f"every output byte equal: {what}"
    return False, f"{exact.mismatches:,} output bytes differ (by up to {exact.max_difference}): {what}"


def accuracy_line(report: Report) -> str | None:
    """The metric with its interval and its number of samples, None without labels."""
    accuracy = report.accuracy
    if accuracy is None:
        return None
    low, high = accuracy.ci95
    percent = accuracy.metric != "auc"
    values = [f"{100 * v:.2f} %" if percent else f"{v:.4f}" for v in (accuracy.value, low, high)]
    text = f"{accuracy.metric} {values[0]} (95 % interval {values[1]} to {values[2]}, n = {accuracy.n:,})"
    if accuracy.reference is not None:
        reference = f"{100 * accuracy.reference:.2f} %" if percent else f"{accuracy.reference:.4f}"
        text += f"; the model as given: {reference}"
    if accuracy.loss is not None and accuracy.loss_ci95 is not None:
        lowest, highest = accuracy.loss_ci95
        text += f", loss {100 * accuracy.loss:+.2f} points ({100 * lowest:+.2f} to {100 * highest:+.2f})"
    return text


def search_line(report: Report) -> str | None:
    """What the search for bit-widths found, None where there was none."""
    found = report.search
    if found is None:
        return None
    taken = [trial for trial in found.trials if trial.allowed][-1:] or list(found.trials)[-1:]
    kind = "accuracy" if found.labelled else "first classes"
    losses = "".join(f", loss {100 * t.loss:+.2f} (up to {100 * t.loss_upper:+.2f}) points of {kind}" for t in taken)
    return f"{len(found.trials)} plans run on {found.samples:,} calibration samples{losses}; {found.max_drop:g} allowed"


def shapes(layer: Layer) -> str:
    """``32x32x3 → 32x32x16``; empty if unknown."""
    return arrow([layer.input_shape], layer.output_shape) if layer.output_shape else ""


def arrow(sources: Sequence[Sequence[int]], target: Sequence[int]) -> str:
    """Shapes of the inputs and of the output, without the batch of one."""
    return f"{', '.join(map(_shape, sources))} → {_shape(target)}"


def _shape(shape: Sequence[int]) -> str:
    inner = shape[1:] if len(shape) > 1 and shape[0] == 1 else shape
    return "x".join(map(str, inner)) or "scalar"


def kib(count: int) -> str:
    """Bytes as ``812 B`` or ``53.7 KiB``."""
    return f"{count} B" if count < 1024 else f"{count / 1024:.1f} KiB"


def si(count: float) -> str:
    """``12.5 M``, ``3.2 k``: three significant digits with a decimal prefix."""
    for scale, prefix in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if count >= scale:
            value = count / scale
            return f"{value:.{0 if value >= 100 else 1 if value >= 10 else 2}f}{prefix}"
    return f"{count:g}"


def clock(hertz: int) -> str:
    return f"{hertz / 1e6:g} MHz"
