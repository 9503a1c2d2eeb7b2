"""Derived figures: the totals of a report from its layers, memory and cycles."""

from __future__ import annotations

from collections.abc import Sequence

from rqdkm.board.describe import estimate_energy
from rqdkm.report.schema import Flash, Layer, Memory, Totals


def totals(
    *, layers: Sequence[Layer], cycles: int | None, clock_hz: int, memory: Memory, flash: Flash, energy: bool = True
) -> Totals:
    """The totals of one inference; the inverse of what :mod:`rqdkm.report.check` verifies.

    Args:
        cycles: whole inference, or None where nothing counted them (QEMU, no run).
        energy: False where the STM32F407's datasheet does not apply (another flash model stands for another chip).
    """
    macs = sum(layer.macs for layer in layers)
    arena = memory.arena_planned_bytes if memory.arena_measured_bytes is None else memory.arena_measured_bytes
    stack = memory.stack_reserved_bytes if memory.stack_bytes is None else memory.stack_bytes
    latency = None if cycles is None else cycles / clock_hz * 1e3
    estimate = estimate_energy(cycles, clock_hz) if cycles is not None and energy else None
    return Totals(
        macs=macs,
        bitops=bitops(layers),
        cycles=cycles,
        cycles_per_mac=_digits(cycles / macs) if cycles is not None and macs else None,
        latency_ms=None if latency is None else _digits(latency),
        fps=_digits(1e3 / latency) if latency else None,
        ram_peak_bytes=memory.static_bytes + arena + stack,
        ram_planned_bytes=memory.static_bytes + memory.arena_planned_bytes + memory.stack_reserved_bytes,
        flash_bytes=flash.code_bytes + flash.weights_bytes + flash.rodata_bytes + flash.data_bytes,
        weights_bytes=flash.weights_bytes,
        energy_mj=None if estimate is None else _digits(estimate.energy_mj),
        power_mw=None if estimate is None else _digits(estimate.power_mw),
    )


def _digits(value: float) -> float:
    """Six significant digits: more would be noise in a file that people compare."""
    return float(f"{value:.6g}")


def bitops(layers: Sequence[Layer]) -> int:
    """Sum over layers; a patch stage states its own."""
    stated = sum(layer.bitops for layer in layers if layer.bitops is not None)
    others = [layer for layer in layers if layer.bitops is None]
    return stated + round(sum(layer.macs * layer.bits_weight * layer.bits_activation for layer in others))
