"""Do the figures of a report agree with each other? Pure arithmetic, no files."""

from __future__ import annotations

import math

from rqdkm.report import derive
from rqdkm.report.errors import ReportError
from rqdkm.report.schema import Patches, Report

_RELATIVE = 1e-4  # derived figures are stored with six significant digits
_LAYER_OVERRUN = 1.05  # per-layer counting reads the cycle counter around every layer, which costs a little


def check(report: Report) -> None:
    """Compare every derived figure with what it is derived from.

    Raises:
        ReportError: naming the first key that contradicts another.
    """
    _check_work(report)
    _check_cycles(report)
    _check_memory(report)
    _check_quality(report)
    if report.patches is not None:
        _check_patches(report.patches)


def _check_work(report: Report) -> None:
    names = [layer.name for layer in report.layers]
    if len(set(names)) != len(names):
        raise ReportError("layer names repeat", where="layers")
    _equal("totals.macs", report.totals.macs, sum(layer.macs for layer in report.layers))
    _equal("totals.bitops", report.totals.bitops, derive.bitops(report.layers))
    unknown = {step.layer for step in report.memory.timeline} - set(names)
    if unknown:
        raise ReportError(f"names no layer: {sorted(unknown)[0]!r}", where="memory.timeline")


def _check_cycles(report: Report) -> None:
    totals, clock = report.totals, report.board.clock_hz
    if (totals.cycles is None) != (report.cycle_model.kind == "none"):
        raise ReportError(f"cycle_model.kind is {report.cycle_model.kind!r}", where="totals.cycles")
    if totals.cycles is None:
        for name in ("cycles_per_mac", "latency_ms", "fps", "energy_mj", "power_mw"):
            if getattr(totals, name) is not None:
                raise ReportError("given, although nothing counted cycles", where=f"totals.{name}")
        return
    latency = totals.cycles / clock * 1e3
    _close("totals.latency_ms", totals.latency_ms, latency)
    _close("totals.fps", totals.fps, 1e3 / latency if latency else None)
    _close("totals.cycles_per_mac", totals.cycles_per_mac, totals.cycles / totals.macs if totals.macs else None)
    if totals.power_mw is not None:
        _close("totals.energy_mj", totals.energy_mj, totals.power_mw * latency / 1e3)
    counted = sum(layer.cycles or 0 for layer in report.layers)
    if counted > totals.cycles * _LAYER_OVERRUN:
        raise ReportError(f"the layers sum to {counted}, more than the total {totals.cycles}", where="layers")


def _check_memory(report: Report) -> None:
    memory, flash, totals = report.memory, report.flash, report.totals
    arena = memory.arena_planned_bytes if memory.arena_measured_bytes is None else memory.arena_measured_bytes
    stack = memory.stack_reserved_bytes if memory.stack_bytes is None else memory.stack_bytes
    _equal("totals.ram_peak_bytes", totals.ram_peak_bytes, memory.static_bytes + arena + stack)
    planned = memory.static_bytes + memory.arena_planned_bytes + memory.stack_reserved_bytes
    _equal("totals.ram_planned_bytes", totals.ram_planned_bytes, planned)
    total = flash.code_bytes + flash.weights_bytes + flash.rodata_bytes + flash.data_bytes
    _equal("totals.flash_bytes", totals.flash_bytes, total)
    _equal("totals.weights_bytes", totals.weights_bytes, flash.weights_bytes)
    for pool in memory.pools:
        if pool.used_bytes > pool.size_bytes:
            raise ReportError(f"{pool.used_bytes} of {pool.size_bytes} bytes used", where=f"memory.pools {pool.name}")


def _check_quality(report: Report) -> None:
    if report.accuracy is not None:
        low, high = report.accuracy.ci95
        if not 0 <= low <= report.accuracy.value <= high <= 1:
            raise ReportError(f"{report.accuracy.value} is not inside {low} to {high}", where="accuracy.ci95")
    if report.exactness is not None and report.exactness.mismatches > report.exactness.compared_bytes:
        raise ReportError("more mismatches than bytes compared", where="exactness.mismatches")


def _check_patches(patches: Patches) -> None:
    rows, columns = patches.grid if len(patches.grid) == 2 else (0, 0)
    tables = {"assignment": patches.assignment, "outlier_share": patches.outlier_share}
    for name, table in tables.items():
        shape = [len(row) for row in table]
        if shape != [columns] * rows and (shape or name == "assignment"):
            raise ReportError(f"is no table of the grid {list(patches.grid)}", where=f"patches.{name}")
    taken = [branch for row in patches.assignment for branch in row]
    if not all(0 <= branch < len(patches.branches) for branch in taken):
        raise ReportError(f"names a branch that is not there: {max(taken)}", where="patches.assignment")
    for index, branch in enumerate(patches.branches):
        where = f"patches.branches[{index}]"
        _equal(f"{where}.patches", branch.patches, taken.count(index))
        if branch.layer_bits and len(branch.layer_bits) != len(patches.layers):
            raise ReportError(f"has not one entry per layer of {len(patches.layers)}", where=f"{where}.layer_bits")
        unknown = sorted(set(branch.bits) - set(patches.layers))
        if unknown:
            raise ReportError(f"names no layer of the stage: {unknown[0]!r}", where=f"{where}.bits")
    if any(not 0 <= share <= 1 for row in patches.outlier_share for share in row):
        raise ReportError("holds shares outside 0 to 1", where="patches.outlier_share")


def _equal(where: str, got: int, expected: int) -> None:
    if got != expected:
        raise ReportError(f"is {got}, but its parts give {expected}", where=where)


def _close(where: str, got: float | None, expected: float | None) -> None:
    if got is None or expected is None:
        if got is not expected:
            raise ReportError(f"is {got}, but the other figures give {expected}", where=where)
    elif not math.isclose(got, expected, rel_tol=_RELATIVE, abs_tol=1e-9):
        raise ReportError(f"is {got:.6g}, but the other figures give {expected:.6g}", where=where)
