"""What networks draw at one common frame rate: the fastest that the slowest of them holds. Estimates, from the currents
of :mod:`rqdkm.aras.energy`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rqdkm.aras.energy import POINTS, Currents, read

_MHZ, _VCO = POINTS[0]


@dataclass(frozen=True)
class Power:
    """Of one network at a frame rate.

    Args:
        running_mw: while it computes.
        frame_mj: energy of computing one frame.
        mean_mw: over a period, waiting included.
    """

    running_mw: float
    frame_mj: float
    mean_mw: float


def at_rate(cycles: float, frames_per_second: float, currents: Currents | None = None) -> Power:
    """A frame of ``cycles`` at the fastest clock, then the cheapest wait until the next: asleep, or stopped where there
    is time for the way back (wake-up, and a lock of the PLL from the internal oscillator)."""
    found = read() if currents is None else currents
    volts, internal_ma = found.supply_v, found.at(found.run, 16) + found.pll
    running = volts * found.at(found.run, _MHZ)
    us, period = cycles / _MHZ, 1e6 / frames_per_second
    left = max(0.0, period - us)
    waits = [found.at(found.sleep, _MHZ) * left]
    lock = found.lock_us(_VCO, crystal=False)
    if left > found.stop_wake + lock:
        back = found.stop_wake_current * found.stop_wake + internal_ma * lock
        waits.append(back + found.stop * (left - found.stop_wake - lock))
    return Power(running, running * us / 1e6, (running * us + volts * min(waits)) / (us + left))


def of_all(cycles: Sequence[float]) -> tuple[float, list[Power]]:
    """The frame rate of the slowest, and all of them at it."""
    rate = _MHZ * 1e6 / max(cycles)
    currents = read()
    return rate, [at_rate(each, rate, currents) for each in cycles]


def header(rate: float) -> str:
    return f"power running, mW | energy, mJ | mean at {rate:.1f} frames/s, mW"


def cells(power: Power) -> str:
    return f"{power.running_mw:.0f} | {power.frame_mj:.2f} | {power.mean_mw:.1f}"


def note(rate: float) -> str:
    """What the figures are, for the page."""
    c = read()
    return (
        f"Power is *estimated* from typical supply currents of ST's datasheet DS8626 (25 °C, {c.supply_v:g} V, "
        "peripherals off; `plugin/rqdkm/aras/stm32f407.csv` names the table of each). *Running*: "
        f"{c.at(c.run, _MHZ):g} mA at {_MHZ} MHz (table 20). *Energy*: a frame at that. *Mean*: every configuration at "
        f"{rate:.1f} frames/s, the fastest that the slowest of them holds; it computes at {_MHZ} MHz and then stops "
        f"until the next frame ({c.stop:g} mA, low-power regulator), the way back counted ({c.stop_wake:g} us, and "
        f"{c.lock_us(_VCO, crystal=False):.0f} us until the PLL has locked); where there is no time for that, it "
        "sleeps.\n"
    )
