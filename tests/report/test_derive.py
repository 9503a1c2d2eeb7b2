"""Totals follow from their parts."""

from __future__ import annotations

from rqdkm.report.derive import totals
from tests.report.factory import report


def test_totals_at_full_clock() -> None:
    base = report()
    found = totals(layers=base.layers, cycles=16_800_000, clock_hz=168_000_000, memory=base.memory, flash=base.flash)
    assert found.latency_ms == 100.0
    assert found.fps == 10.0
    assert found.power_mw == 132.0  # 3.3 V x 40 mA
    assert found.energy_mj == 13.2
    assert found.macs == sum(layer.macs for layer in base.layers)
    assert found.bitops == 64 * found.macs
    assert found.ram_peak_bytes == 2412 + 53760 + 1180
    assert found.ram_planned_bytes == 2412 + 53760 + 4096
    assert found.flash_bytes == 27392 + 7984 + 2300 + 164


def test_another_chip_has_no_energy_figure() -> None:
    base = report()
    found = totals(
        layers=base.layers, cycles=1000, clock_hz=120_000_000, memory=base.memory, flash=base.flash, energy=False
    )
    assert found.energy_mj is None and found.power_mw is None and found.latency_ms is not None
