"""How long the virtual board was in which state, read from its statistics.

Energy is this table times a table of currents. No current stands here: they belong to the chip and its datasheet, or to
a measurement of yours, and come as a function.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from rqdkm_tvm.errors import DataError

Mode = Literal["run", "sleep", "stop", "wake-up", "wait"]


@dataclass(frozen=True)
class State:
    """Everything that the supply current depends on. In ``stop`` and ``wake-up`` no clock runs: those fields are 0.

    Args:
        mode: ``run``; ``sleep`` (core asleep, the rest clocked); ``stop``; ``wake-up`` (from stop to the first
            instruction); ``wait`` (running, but polling a host that has nothing to say: not the firmware's time).
        scale: of the regulator, 1 or 2.
        hclk_hz: core clock.
        source: ``HSI``, ``HSE`` or ``PLL``; empty in stop.
        vco_hz: of the PLL; 0 when it is off. It may run although the core does not use it, or not yet.
        hse: the crystal is on.
        art: prefetch and both caches of the flash are on.
        wait_states: of the flash.
        low_power: in stop: the low-power regulator.
        deep: in stop: flash in deep power-down.
        enabled: the clock enable registers AHB1, APB1 and APB2; in sleep, those that sleep leaves on.
    """

    mode: Mode
    scale: int
    hclk_hz: int = 0
    source: str = ""
    vco_hz: int = 0
    hse: bool = False
    art: bool = False
    wait_states: int = 0
    low_power: bool = False
    deep: bool = False
    enabled: tuple[int, int, int] = (0, 0, 0)


@dataclass(frozen=True)
class Stay:
    """Time and core cycles spent in one state, over all visits."""

    state: State
    seconds: float
    cycles: int
    visits: int


def read(stats: Mapping[str, Any]) -> list[Stay]:
    """The stays of ``--stats``, in order of their first visit.

    Raises:
        DataError: these are no statistics of the virtual board, or of an older one.
    """
    try:
        return [_stay(row) for row in stats["residency"]]
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"no residency in these statistics ({type(error).__name__}: {error})",
            where="--stats",
            hint="run the firmware on the virtual board of this version",
        ) from error


def _stay(row: Mapping[str, Any]) -> Stay:
    mode: Mode = row["mode"]
    if mode in ("stop", "wake-up"):
        state = State(
            mode,
            int(row["scale"]),
            low_power=row["regulator"] == "low-power",
            deep=row["flash"] == "deep power-down",
        )
    else:
        state = State(
            mode,
            int(row["scale"]),
            hclk_hz=int(row["hclk_hz"]),
            source=str(row["source"]),
            vco_hz=int(row["vco_hz"]),
            hse=bool(row["hse"]),
            art=bool(row["art"]),
            wait_states=int(row["wait_states"]),
            enabled=(int(row["ahb1"], 16), int(row["apb1"], 16), int(row["apb2"], 16)),
        )
    return Stay(state, float(row["time_ms"]) / 1000, int(row["cycles"]), int(row["entries"]))


def energy_j(stays: Iterable[Stay], milliamperes: Callable[[State], float], volts: float) -> float:
    """Energy from the supply: volts times the sum of current times time. ``wait`` counts as nothing."""
    counted = (stay for stay in stays if stay.state.mode != "wait")
    return volts * sum(milliamperes(stay.state) / 1000 * stay.seconds for stay in counted)
