"""The board's description agrees with the datasheet, and energy is what current, voltage and time say."""

from __future__ import annotations

import pytest

from rqdkm.board.describe import STM32F407, estimate_energy
from rqdkm_tvm.errors import RqdkmError


@pytest.mark.parametrize(
    ("mhz", "states"), [(168, 5), (150, 4), (144, 4), (121, 4), (120, 3), (31, 1), (30, 0), (16, 0)]
)
def test_wait_states_are_one_per_started_30_mhz(mhz: int, states: int) -> None:
    assert STM32F407.wait_states(mhz * 1_000_000) == states


def test_energy_at_a_row_of_the_datasheet() -> None:
    # 168 MHz: 40 mA at 3.3 V = 132 mW; one second of it = 132 mJ
    energy = estimate_energy(168e6, 168_000_000)
    assert energy.power_mw == pytest.approx(132.0)
    assert energy.energy_mj == pytest.approx(132.0)
    assert not energy.interpolated


def test_energy_between_rows_is_linear_and_says_so() -> None:
    # 84 MHz: between 60 (14 mA) and 90 (20 mA): 18.8 mA; 42 MHz: between 30 (8) and 60 (14): 10.4 mA
    assert estimate_energy(1, 84_000_000).power_mw == pytest.approx(3.3 * 18.8)
    energy = estimate_energy(42e6 / 2, 42_000_000)
    assert energy.power_mw == pytest.approx(3.3 * 10.4)
    assert energy.energy_mj == pytest.approx(3.3 * 10.4 / 2)
    assert energy.interpolated


@pytest.mark.parametrize("mhz", [7, 169])
def test_clocks_outside_the_table_are_refused(mhz: int) -> None:
    with pytest.raises(RqdkmError, match="no current"):
        estimate_energy(1, mhz * 1_000_000)


def test_energy_per_cycle_matches_the_derived_row() -> None:
    # STM32F407: nJ per cycle as 3.3 V x mA / MHz, rounded to 0.01
    for mhz, nanojoule in {
        168: 0.79,
        144: 0.71,
        120: 0.72,
        90: 0.73,
        60: 0.77,
        30: 0.88,
        25: 0.79,
        16: 1.03,
        8: 1.24,
    }.items():
        assert estimate_energy(1, mhz * 1_000_000).energy_mj * 1e6 == pytest.approx(nanojoule, abs=0.006)
