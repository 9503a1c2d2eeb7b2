"""Derived figures: totals from layers, memory and cycles; energy from the datasheet's run current."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rqdkm.report.schema import Flash, Layer, Memory, Totals

SUPPLY_V = 3.3
# ST DS8626 Rev 12, table 20: typical run-mode supply current, ART on, peripherals off, 25 C, 3.3 V. HCLK MHz -> mA.
RUN_CURRENT_MA = {8: 3.0, 16: 5.0, 25: 6.0, 30: 8.0, 60: 14.0, 90: 20.0, 120: 26.0, 144: 31.0, 168: 40.0}


def run_current_ma(clock_hz: int) -> float:
    """Typical supply current while running, mA; between the datasheet's clocks interpolated linearly.

    Raises:
        ValueError: a clock outside the datasheet's 8 to 168 MHz.
    """
    clock = clock_hz / 1e6
    points = sorted(RUN_CURRENT_MA.items())
    if not points[0][0] <= clock <= points[-1][0]:
        raise ValueError(f"no current known at {clock:g} MHz")
    for (low, at_low), (high, at_high) in itertools.pairwise(points):
        if clock <= high:
            return at_low + (at_high - at_low) * (clock - low) / (high - low)
    raise AssertionError("unreachable")


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
    power = SUPPLY_V * run_current_ma(clock_hz) if cycles is not None and energy else None
    return Totals(
        macs=macs,
        bitops=sum(layer.macs * layer.bits_weight * layer.bits_activation for layer in layers),
        cycles=cycles,
        cycles_per_mac=_digits(cycles / macs) if cycles is not None and macs else None,
        latency_ms=None if latency is None else _digits(latency),
        fps=_digits(1e3 / latency) if latency else None,
        ram_peak_bytes=memory.static_bytes + arena + stack,
        ram_planned_bytes=memory.static_bytes + memory.arena_planned_bytes + memory.stack_reserved_bytes,
        flash_bytes=flash.code_bytes + flash.weights_bytes + flash.rodata_bytes + flash.data_bytes,
        weights_bytes=flash.weights_bytes,
        energy_mj=_digits(power * latency / 1e3) if power is not None and latency is not None else None,
        power_mw=None if power is None else _digits(power),
    )


def _digits(value: float) -> float:
    """Six significant digits: more would be noise in a file that people compare."""
    return float(f"{value:.6g}")
