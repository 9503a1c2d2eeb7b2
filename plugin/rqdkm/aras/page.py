"""A comparison as one HTML file in the style of the report: opens offline, follows light and dark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from rqdkm.aras import charts
from rqdkm.aras.simulate import Outcome
from rqdkm.aras.study import Comparison
from rqdkm.aras.table import CTable
from rqdkm_tvm.files import write_atomic


def render(found: Comparison, table: CTable, facts: dict[str, str]) -> str:
    """The page; outcomes must have kept their stretches.

    Args:
        facts: what was simulated, name and text.
    """
    environment = Environment(
        loader=PackageLoader("rqdkm.aras"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    aras = found.aras
    mhz = [table.point[p].hz / 1e6 for p in range(table.points)]
    power = _milliwatts(table)
    seconds = aras.time_us / 1e6
    inference, rest = charts.bins(aras, ("inference",)), charts.bins(aras, ("rest",))
    other = charts.bins(aras, ("control", "switch", "wake", "wait"))
    zero = np.zeros_like(rest)
    curves = {key: charts.energy(o, power) for key, o in found.outcomes.items()}
    clocks = {key: charts.clock(o, mhz) for key, o in found.outcomes.items() if key in ("aras", "ondemand")}
    return environment.get_template("simulate.html.j2").render(
        found=found,
        aras=aras,
        facts=facts,
        rows=[_row(key, o, found) for key, o in found.outcomes.items()],
        load=Markup(
            charts.plot(
                [
                    charts.Line("inference", "c-aras", inference, zero),
                    charts.Line("the rest", "c-sleep", inference + rest, inference),
                    charts.Line(
                        "clock changes, wake-ups, ARAS itself", "c-stop", inference + rest + other, inference + rest
                    ),
                ],
                1.0,
                "",
                seconds,
                "Load",
            )
        ),
        clock=Markup(
            charts.plot(
                [charts.Line(found.outcomes[k].name, f"c-{k}", v) for k, v in clocks.items()],
                max(mhz),
                "",
                seconds,
                "Clock",
            )
        ),
        energy=Markup(
            charts.plot(
                [charts.Line(found.outcomes[k].name, f"c-{k}", v) for k, v in curves.items()],
                max(float(v[-1]) for v in curves.values()),
                "",
                seconds,
                "Energy",
            )
        ),
        missed=Markup(charts.missed(list(found.outcomes.items()))),
    )


def write(found: Comparison, table: CTable, facts: dict[str, str], path: Path) -> None:
    write_atomic(path, render(found, table, facts))


def _row(key: str, outcome: Outcome, found: Comparison) -> dict[str, Any]:
    tally, time = outcome.tally, outcome.time_us
    return {
        "key": key,
        "outcome": outcome,
        "saves": None if key == "aras" else 100 * found.saving(key),
        "awake": 100 * (1 - (tally.time_us["sleep"] + tally.time_us["stop"]) / time),
        "sleep": 100 * tally.time_us["sleep"] / time,
        "stop": 100 * tally.time_us["stop"] / time,
    }


def _milliwatts(table: CTable) -> dict[tuple[str, int], float]:
    """Power of every activity at every point, as the simulated chip charges it."""
    found: dict[tuple[str, int], float] = {}
    for p in range(table.points):
        run, sleep = table.point[p].run_ma, table.point[p].sleep_ma
        for name, ma in (
            *((name, run) for name in ("inference", "rest", "control", "wait")),
            ("sleep", sleep),
            ("stop", table.stop_ma),
            ("wake", table.wake_ma),
            ("switch", table.switch_ma),
        ):
            found[name, p] = table.volts * ma
    return found
