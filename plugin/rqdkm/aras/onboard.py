"""Currents of the states that the virtual board was in: its residency times the energy table."""

from __future__ import annotations

from rqdkm.aras.energy import Currents
from rqdkm.board.residency import State


def milliamperes(state: State, currents: Currents) -> float:
    """Supply current, typical.

    Waking up is charged as running on the internal oscillator, a PLL that runs without driving the core with what the
    datasheet gives for one; the run and sleep rows contain the PLL that their clock needs.
    """
    if state.mode == "stop":
        if state.deep:
            return currents.stop_deep
        return currents.stop if state.low_power else currents.stop_main
    if state.mode == "wake-up":
        return currents.stop_wake_current
    table = currents.sleep if state.mode == "sleep" else currents.run
    idle_pll = currents.pll if state.vco_hz and state.source != "PLL" else 0.0
    return currents.at(table, state.hclk_hz / 1e6) + idle_pll
