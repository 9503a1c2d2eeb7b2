"""Residency of the virtual board as Python sees it."""

from __future__ import annotations

import pytest

from rqdkm.board.residency import State, Stay, energy_j, read
from rqdkm_tvm.errors import DataError

ROWS = [
    {"mode": "run", "time_ms": 10.0, "cycles": 1_680_000, "entries": 3, "scale": 1, "hclk_hz": 168_000_000,
     "source": "PLL", "vco_hz": 336_000_000, "hse": True, "art": True, "wait_states": 5, "ahb1": "0x00100002",
     "apb1": "0x10000008", "apb2": "0x00000010"},
    {"mode": "stop", "time_ms": 80.0, "cycles": 0, "entries": 1, "scale": 1, "regulator": "low-power",
     "flash": "deep power-down"},
    {"mode": "wait", "time_ms": 5000.0, "cycles": 80_000_000, "entries": 9, "scale": 1, "hclk_hz": 16_000_000,
     "source": "HSI", "vco_hz": 0, "hse": False, "art": False, "wait_states": 0, "ahb1": "0x0", "apb1": "0x0",
     "apb2": "0x0"},
]  # fmt: skip


def test_rows_become_states() -> None:
    run, stop, _wait = read({"residency": ROWS})
    enabled = (0x00100002, 0x10000008, 0x10)
    state = State("run", 1, 168_000_000, "PLL", 336_000_000, True, True, 5, enabled=enabled)
    assert run == Stay(state, 0.010, 1_680_000, 3)
    assert stop == Stay(State("stop", 1, low_power=True, deep=True), 0.080, 0, 1)


def test_energy_is_volts_times_current_times_time_without_waiting() -> None:
    # 40 mA for 10 ms and 0.28 mA for 80 ms at 3.3 V
    energy = energy_j(read({"residency": ROWS}), lambda state: 40.0 if state.mode == "run" else 0.28, 3.3)
    assert energy == pytest.approx(3.3 * (40e-3 * 10e-3 + 0.28e-3 * 80e-3))


@pytest.mark.parametrize("stats", [{}, {"residency": None}, {"residency": [{"mode": "run"}]}, {"residency": [7]}])
def test_other_files_are_refused(stats: dict[str, object]) -> None:
    with pytest.raises(DataError, match="no residency"):
        read(stats)
