#!/usr/bin/env python3
"""Build the firmware of this folder, run traces through it on the virtual board, and compare governors.

python examples/aras/run.py --frames 60 > table.md
python examples/aras/run.py --kinds adversarial --governors aras --seed 101 --seeds 10 --frames 100

Deadlines are judged by the virtual board's time, energy is the time that it spent in each state times the currents of
the energy table. Frames are several inferences of a small network each, so that their demand can vary.
"""

from __future__ import annotations

import argparse
import csv
import functools
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from rqdkm import pipeline
from rqdkm.aras import comparison, energy, oracle, seeds, simulate, study, table, traces
from rqdkm.aras.chip import ASLEEP, INTERNAL, PLL, STATES, STOPPED
from rqdkm.aras.energy import Currents, Workload
from rqdkm.aras.library import FAULTS, IDLE_MODES
from rqdkm.aras.onboard import milliamperes
from rqdkm.aras.simulate import Outcome
from rqdkm.aras.traces import Trace
from rqdkm.board import virtual
from rqdkm.board.residency import State, Stay, energy_j, read
from rqdkm.export.project import cmake_build
from rqdkm.options import DeployOptions

HERE = Path(__file__).parent
MODEL = HERE.parent / "mnist" / "model.tflite"
GOVERNORS = ("aras", "always", "ondemand", "sleep", "stop")  # the firmware's numbers
WORST = 1.05  # declared, over the longest frame
URGENT = 3  # level of the rest's second class


@dataclass(frozen=True)
class Result:
    """A trace under one governor on the virtual board.

    Args:
        finish_us: of every frame, by the virtual board's time; None where it was too late to begin with it.
        cost: most cycles of a begin, an end, an idle, a deciding and an idle tick.
        control: share of the core's cycles that all calls of ARAS took, and ``ticks`` those of its tick.
        late_frames: by number.
        late: work of the rest that was not finished within its limit.
        states_mj: the energy by :data:`rqdkm.aras.chip.STATES`.
    """

    governor: str
    finish_us: tuple[float | None, ...]
    late_frames: tuple[int, ...]
    late: int
    served: int
    cost: tuple[int, ...]
    control: float
    ticks: float
    decisions: int
    switches: int
    idles: dict[str, int]
    faults: dict[str, int]
    stays: tuple[Stay, ...]
    points: tuple[int, ...]
    states_mj: tuple[float, ...]

    @property
    def missed(self) -> int:
        return len(self.late_frames)

    @property
    def energy_mj(self) -> float:
        return sum(self.states_mj)

    @property
    def energy_per_frame_mj(self) -> float:
        return self.energy_mj / len(self.finish_us)

    @property
    def calls_mj(self) -> float:
        """What ARAS's calls took: their share of the cycles that were run."""
        return self.control * (self.states_mj[PLL] + self.states_mj[INTERNAL])


@dataclass(frozen=True)
class Firmware:
    elf: Path
    workload: Workload  # of one inference
    currents: Currents


def build(folder: Path) -> Firmware:
    """The firmware with its network and its table; the network's cycles are measured clock by clock on the way."""
    options = DeployOptions(model=MODEL, out=folder / "model", board="none", samples=1)
    project = pipeline.build(options, lambda _text: None).project_dir
    currents = energy.read()
    first = energy.read_workload("machinery")  # any will do: the table is written again below
    workload = first
    for _ in range(2):
        constants = folder / "table.c"
        constants.write_text(table.to_c(table.build(currents, workload), "aras_table", "examples/aras"))
        target = folder / "build"
        cmake_build(HERE, target, [f"-DPROJECT={project}", f"-DTABLE={constants}"])
        elf = target / "aras.elf"
        if workload is first:
            workload = measure(elf)
    return Firmware(elf, workload, currents)


def measure(elf: Path) -> Workload:
    """Cycles of one inference by clock point."""
    output = start(elf, [f"m {point}" for point in range(len(energy.POINTS))])
    rows = [line.split() for line in output.lines if line.startswith("model")]
    if [row[2] for row in rows] != ["0"] * len(energy.POINTS):
        raise SystemExit(f"a clock was not reached: {output.lines}")
    return Workload("inference", tuple(int(row[3]) for row in rows))


@dataclass(frozen=True)
class Output:
    lines: list[str]
    markers: list[tuple[float, int, int]]  # time (us), port, value
    stats: dict[str, Any]


def start(elf: Path, commands: Sequence[str], *options: str, pins: str = "", code: int = 0) -> Output:
    """Run the firmware to its end, or to the limit of cycles for code 124."""
    with tempfile.TemporaryDirectory() as folder:
        stats, events, given, levels = (Path(folder) / name for name in ("s.json", "e.csv", "in", "pins"))
        given.write_text("".join(f"{command}\n" for command in [*commands, "x 0"]))
        levels.write_text(pins)
        command: list[str | Path] = [virtual.ensure_built(), "--strict-clock", "--stats", stats, "--events", events]
        command += [*options, *(["--pins", levels] if pins else []), elf]
        with given.open() as stdin:  # a file: no time passes while bytes are waited for
            done = subprocess.run(command, stdin=stdin, capture_output=True, text=True, check=False)
        if done.returncode != code:
            raise SystemExit(f"the firmware ended with {done.returncode}: {done.stderr}")
        with events.open() as file:
            rows = [row for row in csv.DictReader(file) if row["event"] == "marker"]
        markers = [(float(row["time_us"]), int(row["subject"]), int(row["value"])) for row in rows]
        return Output(done.stdout.splitlines(), markers, json.loads(stats.read_text()))


def quantized(trace: Trace, workload: Workload) -> Trace:
    """Frames as whole numbers of inferences."""
    one = workload.cycles[0]
    return tuple(replace(a, cycles=max(1, round(a.cycles / one)) * one) if a.frame else a for a in trace)


def commands(trace: Trace, workload: Workload, *, share: float, can_stop: bool) -> list[str]:
    """The trace in the firmware's words."""
    worst = max(a.cycles for a in trace if a.frame)
    lines = ["c", f"w {round(WORST * worst)}", f"s {round(1000 * share)}", f"n {int(can_stop)}"]
    for a in trace:
        if a.frame:
            lines.append(f"f {a.time_us} {a.cycles // workload.cycles[0]} {a.limit_us} {int(a.timed)}")
        else:
            lines.append(f"r {a.time_us} {a.cycles} {max(1, a.limit_us // 1000)} {int(a.level >= URGENT)}")
    return lines


def run(
    firmware: Firmware,
    trace: Trace,
    governor: str,
    *options: str,
    share: float = 0.2,
    can_stop: bool = True,
) -> Result:
    """
    Args:
        trace: of :func:`quantized` frames.
        options: of the virtual board, e.g. ``--pll-dead``.
    """
    told = commands(trace, firmware.workload, share=share, can_stop=can_stop)
    go = f"g {GOVERNORS.index(governor)}"
    idle = _without_a_trace(firmware.elf, tuple(told), options)
    pins = ""
    if not all(a.timed for a in trace if a.frame):
        # the sensor's edges come by the virtual board's time: when the trace starts there, a run cut short tells
        limit = str(int(idle.stats["cycles"]) + 1_000_000)
        begun = _begin_us(start(firmware.elf, [*told, go], *options, "--max-cycles", limit, code=virtual.EXIT_LIMIT))
        pins = "".join(
            f"{(begun + a.time_us) / 1e3:.4f} PA0 1\n{(begun + a.time_us + 50) / 1e3:.4f} PA0 0\n"
            for a in trace
            if a.frame and not a.timed
        )
    return _result(governor, trace, start(firmware.elf, [*told, go], *options, pins=pins), idle, firmware.currents)


@functools.cache
def _without_a_trace(elf: Path, told: tuple[str, ...], options: tuple[str, ...]) -> Output:
    """What comes before the trace starts is the same for all governors."""
    return start(elf, told, *options)


def _begin_us(output: Output) -> float:
    """When the trace starts, by the virtual board's time."""
    (at, _, now), (_, _, begin) = (next(m for m in output.markers if m[1] == port) for port in (0, 1))
    return at + (begin - now)


def _result(governor: str, trace: Trace, output: Output, idle: Output, currents: Currents) -> Result:
    frames = [a for a in trace if a.frame]
    begun = _begin_us(output)
    ends = {value: at - begun for at, port, value in output.markers if port == 2}
    finish = tuple(ends.get(k) for k in range(len(frames)))
    words = {line.split()[0]: [int(word) for word in line.split()[1:]] for line in output.lines}
    served, late, _ = words["rest"]
    cost, aras = words["cost"], words["aras"]
    stays = read(output.stats)

    def millijoules(found: list[Stay], which: int) -> float:
        chosen = [stay for stay in found if _state_of(stay.state) == which]
        return 1e3 * energy_j(chosen, lambda state: milliamperes(state, currents), currents.supply_v)

    return Result(
        governor=governor,
        finish_us=finish,
        late_frames=tuple(
            k for k, (at, a) in enumerate(zip(finish, frames, strict=True)) if at is None or at > a.time_us + a.limit_us
        ),
        late=late,
        served=served,
        cost=tuple(cost[:5]),
        control=cost[5] / max(1, cost[6]),
        ticks=cost[7] / max(1, cost[6]),
        decisions=aras[0],
        switches=aras[1],
        idles=dict(zip(IDLE_MODES, aras[2:6], strict=True)),
        faults=dict(zip(FAULTS, aras[6:], strict=True)),
        stays=tuple(stays),
        points=tuple(int(line.split()[3]) for line in output.lines if line.startswith("frame")),
        states_mj=tuple(millijoules(stays, k) - millijoules(read(idle.stats), k) for k in range(len(STATES))),
    )


def _state_of(state: State) -> int:
    if state.mode in ("sleep", "stop"):
        return ASLEEP if state.mode == "sleep" else STOPPED
    return PLL if state.mode == "run" and state.source == "PLL" else INTERNAL


class Compared(NamedTuple):
    """All governors on one kind of trace; ARAS simulated and the oracle, with the same cycles and currents.

    Args:
        hopeless: frames that nobody finishes in time who keeps the promise to the rest (:func:`oracle.hopeless`).
    """

    results: list[Result]
    simulated: Outcome
    best: oracle.Best
    hopeless: tuple[int, ...]


def compare(firmware: Firmware, kind: str, *, frames: int, seed: int, governors: Sequence[str] = GOVERNORS) -> Compared:
    made = traces.make(kind, seed, frames=frames, cycles=5 * firmware.workload.cycles[0])
    trace = quantized(made, firmware.workload)
    results = []
    for governor in governors:
        print(f"{kind}: {governor}", file=sys.stderr)
        results.append(run(firmware, trace, governor))
    task = table.Task(worst=WORST * study.worst_of(trace, firmware.workload))
    constants = table.build(firmware.currents, firmware.workload, task)
    simulated, best = simulate.run(trace, constants, "aras"), oracle.plan(trace, constants)
    return Compared(results, simulated, best, oracle.hopeless(trace, constants))


def markdown(kind: str, results: Sequence[Result], best: oracle.Best) -> str:
    """A line per governor."""
    mine = results[0].energy_mj
    lines = [
        f"| {kind} | {seeds.NAMES[r.governor]} | {len(r.finish_us)} | {r.missed} | {r.late} of {r.served} "
        f"| {r.energy_per_frame_mj:.3f} | {'' if r is results[0] else f'{1 - mine / r.energy_mj:.1%}'} |"
        for r in results
    ]
    lines.append(f"| {kind} | oracle | {best.frames} | {best.missed} | | {best.energy_per_frame_mj:.3f} | |")
    return "\n".join(lines)


def verdict(kind: str, compared: Compared) -> str:
    """By the targets of the comparison in simulation, met or not."""
    results, best = compared.results, compared.best
    mine, by_name = results[0], {r.governor: r for r in results}
    frames, near = len(mine.finish_us), comparison.NEAR_OPTIMUM
    above = mine.energy_mj / best.energy_mj - 1
    saved = {name: 1 - mine.energy_mj / by_name[name].energy_mj for name in ("sleep", "stop") if name in by_name}
    in_time = mine.missed <= best.missed + _allowed(kind, frames)
    hopeless = len(set(mine.late_frames) & set(compared.hopeless))
    share = f", {hopeless} of them hopeless for who keeps the rest's share" if hopeless else ""
    little = kind == "adversarial" or above <= near or saved.get("sleep", 0.0) >= comparison.LESS_ENERGY
    texts = "".join(f"{part:.1%} less energy than {seeds.NAMES[name]}, " for name, part in saved.items())
    met = "not judged" if kind == "adversarial" else "met" if little else "missed"
    return (
        f"- {kind}: deadlines {'met' if in_time else 'missed'} ({mine.missed} of {frames} frames late{share}; "
        f"the oracle {best.missed}); energy {met}: {texts}"
        f"{above:.1%} above the oracle (of {near:.0%}); of the rest {mine.late} of {mine.served} late"
    )


def _allowed(kind: str, frames: int) -> float:
    """Frames that may be late beside those of the oracle."""
    return comparison.MORE_MISSES * frames if kind == "adversarial" else 0.0


def total(kind: str, found: Sequence[Compared]) -> str:
    """All traces of a kind together: deadlines, and the range of what is above the oracle."""
    mine, frames = [c.results[0] for c in found], sum(c.best.frames for c in found)
    missed, best = sum(r.missed for r in mine), sum(c.best.missed for c in found)
    hopeless = sum(len(c.hopeless) for c in found)
    of_these = sum(len(set(c.results[0].late_frames) & set(c.hopeless)) for c in found)
    above = [r.energy_mj / c.best.energy_mj - 1 for r, c in zip(mine, found, strict=True)]
    late, served = sum(r.late for r in mine), sum(r.served for r in mine)
    return (
        f"- {kind}, {len(found)} traces: deadlines {'met' if missed <= best + _allowed(kind, frames) else 'missed'} "
        f"({missed} of {frames} frames late; the oracle {best}; who keeps the rest's share at least {hopeless}, among "
        f"them {of_these} of the {missed}); {min(above):.1%} to {max(above):.1%} above the oracle, mean "
        f"{sum(above) / len(above):.1%}; of the rest {late} of {served} late; "
        f"ticks {min(r.ticks for r in mine):.3%} to {max(r.ticks for r in mine):.3%} of the cycles"
    )


def states(kind: str, mine: Result, simulated: Outcome, best: oracle.Best) -> str:
    """In which state the energy goes: a line each for oracle, simulator and virtual board; mJ per frame."""
    frames = best.frames
    rows = (
        ("oracle", [x / 1e6 for x in best.state_nj], None),
        ("simulated", [x / 1e6 for x in simulated.tally.state_nj], simulated.tally.energy_nj["control"] / 1e6),
        ("virtual board", mine.states_mj, mine.calls_mj),
    )
    lines = []
    for name, found, calls in rows:
        figures = " | ".join(f"{x / frames:.3f}" for x in (*found, sum(found)))
        above = 1e6 * sum(found) / sum(best.state_nj) - 1
        shown = ("", "") if calls is None else (f"{calls / frames:.3f}", f"{above:.1%}")
        lines.append(f"| {kind} | {name} | {figures} | {' | '.join(shown)} |")
    return "\n".join(lines)


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if int(text) < least:
            raise argparse.ArgumentTypeError(f"a whole number from {least} on, not {text}")
        return int(text)

    return number


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--frames", type=_at_least(1), default=60)
    parser.add_argument("--seed", type=_at_least(0), default=1)
    parser.add_argument(
        "--seeds", type=_at_least(1), default=1, help="so many traces of each kind, of seeds from --seed on"
    )
    parser.add_argument("--kinds", nargs="+", choices=list(traces.KINDS), default=list(traces.KINDS))
    parser.add_argument("--governors", nargs="*", choices=GOVERNORS, default=list(GOVERNORS), help="ARAS is always run")
    arguments = parser.parse_args()
    governors = ["aras", *(name for name in arguments.governors if name != "aras")]
    several = arguments.seeds > 1
    print("| trace | governor | frames | missed | rest late | energy per frame, mJ | ARAS saves |")
    print("|---|---|--:|--:|--:|--:|--:|")
    costs, shares, where, verdicts = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        firmware = build(Path(folder))
        for kind in arguments.kinds:
            every: list[Compared] = []
            for seed in range(arguments.seed, arguments.seed + arguments.seeds):
                compared = compare(firmware, kind, frames=arguments.frames, seed=seed, governors=governors)
                every.append(compared)
                results, best = compared.results, compared.best
                name = f"{kind}, seed {seed}" if several else kind
                print(markdown(name, results, best), flush=True)
                verdicts.append(verdict(kind, compared).replace(kind, name, 1))
                where.append(states(name, results[0], compared.simulated, best))
                costs.append(results[0].cost)
                shares.append((results[0].ticks, results[0].control))
            if several:
                verdicts.append(total(kind, every))
    print("\n" + "\n".join(verdicts))
    print(f"\n| trace | ARAS | {' | '.join(STATES)} | sum, mJ | calls of ARAS | above the oracle |")
    print("|---|---|--:|--:|--:|--:|--:|--:|--:|")
    print("\n".join(where))
    most = [max(column) for column in zip(*costs, strict=True)]
    print("\n| call of ARAS | begin | end | idle | tick that decides | tick that does not |")
    print("|---|--:|--:|--:|--:|--:|")
    print("| most cycles | " + " | ".join(f"{x:,}" for x in most) + " |")
    ticks, calls = (max(column) for column in zip(*shares, strict=True))
    print(f"\nTicks take at most {ticks:.3%} of the cycles, all calls together {calls:.2%}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
