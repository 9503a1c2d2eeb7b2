"""Mean power at a common frame rate: run, then wait; worked out by hand from the table of currents."""

from __future__ import annotations

import pytest

from rqdkm.experiment import power


def test_a_network_that_just_holds_the_rate_draws_its_running_power() -> None:
    rate, (slow, fast) = power.of_all([16_800_000, 8_400_000])
    assert rate == pytest.approx(10.0)
    assert slow.running_mw == fast.running_mw == pytest.approx(3.3 * 40)
    assert slow.mean_mw == pytest.approx(3.3 * 40)
    assert (slow.frame_mj, fast.frame_mj) == (pytest.approx(13.2), pytest.approx(6.6))


def test_the_other_one_stops_meanwhile_and_pays_for_the_way_back() -> None:
    """50 ms of 100 at 40 mA; 17 us at 5 mA and a lock (336 MHz: 271 us) at 6.6 mA; the rest at 0.31 mA."""
    _, (_, fast) = power.of_all([16_800_000, 8_400_000])
    lock = 200 + (336 - 100) / (432 - 100) * 100
    charge = 40 * 50_000 + 5 * 17 + 6.6 * lock + 0.31 * (50_000 - 17 - lock)
    assert fast.mean_mw == pytest.approx(3.3 * charge / 100_000)


def test_a_gap_that_is_too_short_is_slept() -> None:
    """100 us of 100 ms at 12 mA: a lock alone takes 271."""
    found = power.at_rate(0.999 * 16_800_000, 10.0)
    assert found.mean_mw == pytest.approx(3.3 * (40 * 0.999 + 12 * 0.001))


def test_the_note_says_what_and_from_where() -> None:
    note = power.note(16.75)
    assert "DS8626" in note and "16.8 frames/s" in note and "40 mA at 168 MHz (table 20)" in note and "0.31 mA" in note
