"""``rqdkm aras``: the clock and priority controller, simulated; its constants as C."""

from __future__ import annotations

import json as codec
import logging
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from rqdkm import log
from rqdkm.cli_options import JsonOpt, QuietOpt, VerboseOpt, one_of
from rqdkm.cli_output import print_hint
from rqdkm.options import OptionError

if TYPE_CHECKING:
    from rqdkm.aras.energy import Workload
    from rqdkm.aras.table import Task
    from rqdkm.aras.traces import Trace

KINDS = ("periodic", "bursty", "step", "adversarial")
_GENERATED = {"kind": "periodic", "frames": 300, "seed": 0}  # the trace that is simulated where none is given
#: Options that say a number of the task, and what to do when it cannot be used.
_TASK = {
    "worst": ("--worst", "it is a multiple of the workload's cycles; --workload says whose"),
    "share": ("--share", "0.2 grants the rest a fifth of the time"),
    "tick_us": ("--tick", "microseconds; 1000 suits a SysTick of 1 kHz"),
    "guard_us": ("--guard", "microseconds; 500 is the default"),
}
_LOG = logging.getLogger(__name__)

app = typer.Typer(help="Clock and priority control on the chip.", no_args_is_help=True, rich_markup_mode=None)

WorkloadOpt = Annotated[str, typer.Option(help="Frames' cycles by clock: a row of the workload table.")]
WorkloadsOpt = Annotated[Path | None, typer.Option(help="Another workload table, CSV.")]
CurrentsOpt = Annotated[Path | None, typer.Option(help="Another table of currents and times, CSV.")]
WorstOpt = Annotated[
    float | None, typer.Option(help="Longest frame over the workload's; by default the longest of the trace.")
]
ShareOpt = Annotated[float, typer.Option(help="Part of the time that the rest is granted at any priority.")]
CrystalOpt = Annotated[bool, typer.Option("--crystal", help="The PLL runs from the crystal: 2 ms more after a stop.")]
FramesOpt = Annotated[int, typer.Option(min=1, max=1_000_000, help="Frames of a generated trace.")]
TraceSeedOpt = Annotated[int, typer.Option("--seed", min=0, help="Of a generated trace.")]
NoStopOpt = Annotated[bool, typer.Option("--no-stop", help="Peripherals need their clock: sleep only.")]
MarkdownOpt = Annotated[Path | None, typer.Option(help="Write the page here.")]


@app.command()
def trace(
    kind: Annotated[str, typer.Argument(metavar=one_of(KINDS), help="What arrives, and how.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The CSV file to write.")],
    frames: FramesOpt = 300,
    seed: TraceSeedOpt = 0,
    workload: WorkloadOpt = "machinery",
    workloads: WorkloadsOpt = None,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Write a seeded trace of frames and other work as CSV (docs/aras.md)."""
    from rqdkm.aras import energy, traces

    _check_kind(kind)
    cycles = energy.read_workload(workload, workloads or energy.WORKLOADS).cycles[0]
    traces.write(traces.make(kind, seed, frames=frames, cycles=cycles), out)
    print_hint(f"trace    {out}", False)


@app.command()
def simulate(
    trace: Annotated[Path | None, typer.Option(help="A trace, CSV; else --kind.")] = None,
    kind: Annotated[
        str | None, typer.Option(metavar=one_of(KINDS), help="A generated trace.  [default: periodic]")
    ] = None,
    out: Annotated[Path | None, typer.Option("-o", "--out", help="Write an HTML page with plots here.")] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, max=1_000_000, help="Frames of a generated trace.  [default: 300]")
    ] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Of a generated trace.  [default: 0]")] = None,
    workload: WorkloadOpt = "machinery",
    workloads: WorkloadsOpt = None,
    currents: CurrentsOpt = None,
    worst: WorstOpt = None,
    share: ShareOpt = 0.2,
    crystal: CrystalOpt = False,
    no_stop: NoStopOpt = False,
    no_oracle: Annotated[bool, typer.Option("--no-oracle", help="Leave out the offline oracle (slow).")] = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """ARAS, four governors and an oracle on one trace: missed frames, energy, plots. Runs the C of the chip."""
    from rqdkm.aras import energy, page, study, table, traces

    made: dict[str, Any] = {"kind": kind, "frames": frames, "seed": seed}
    given = [f"--{name}" for name, value in made.items() if value is not None]
    if trace is not None and given:
        hint = f"leave out {' and '.join(given)}, or --trace"
        raise OptionError(f"goes with a generated trace, not with --trace {trace}", where=given[0], hint=hint)
    made = {name: _GENERATED[name] if value is None else value for name, value in made.items()}
    if trace is None:
        _check_kind(made["kind"])
    load = energy.read_workload(workload, workloads or energy.WORKLOADS)
    name = made["kind"] if trace is None else trace.name
    arrivals = (
        traces.read(trace)
        if trace
        else traces.make(made["kind"], made["seed"], frames=made["frames"], cycles=load.cycles[0])
    )
    task = _task(worst=_worst(worst, arrivals, load), share=share, crystal=crystal)
    constants = table.build(energy.read(currents or energy.DEFAULT), load, task)
    with log.Progress() as progress:
        found = study.compare(
            arrivals,
            constants,
            name,
            can_stop=not no_stop,
            with_oracle=not no_oracle,
            keep=out is not None,
            progress=progress,
        )
    if out is not None:
        facts = {
            "command": _command(),
            "workload": f"{load.name}, {load.cycles[0]:,} cycles at 168 MHz",
            "worst frame": f"{constants.worst_cycles:,} cycles",
            "share of the rest": f"{share:.0%}",
            "stop mode": "no" if no_stop else "where it pays",
            "PLL": "from the crystal" if crystal else "from the internal oscillator",
            "currents": str(currents or "ST DS8626, typical, 25 °C, 3.3 V (rqdkm/aras/stm32f407.csv)"),
        }
        page.write(found, constants, facts, out)
    if json:
        print(codec.dumps(study.as_mapping(found), indent=1))
    else:
        print(study.table_of([found]), end="")
    if out is not None:
        print_hint(f"page     {out}", json)


@app.command()
def compare(
    frames: FramesOpt = 300,
    seeds: Annotated[int, typer.Option(min=1, max=10_000, help="Traces of each kind.")] = 20,
    seed: Annotated[int, typer.Option(min=0, help="Of the first; what ARAS was built on has seeds below 2000.")] = 2001,
    workload: WorkloadOpt = "machinery",
    workloads: WorkloadsOpt = None,
    currents: CurrentsOpt = None,
    markdown: MarkdownOpt = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 unless ARAS misses no more frames than it may.")
    ] = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """All kinds of traces, periods and predictors: the page docs/aras-comparison.md."""
    from rqdkm.aras import comparison, energy

    load = energy.read_workload(workload, workloads or energy.WORKLOADS)
    with log.Progress() as progress:
        found = comparison.run(
            energy.read(currents or energy.DEFAULT), load, frames=frames, seed=seed, count=seeds, progress=progress
        )
    if markdown is not None:
        comparison.write(found, markdown, _command())
    print(comparison.text(found), end="")
    for verdict in comparison.verdicts(found):
        print_hint(f"{'met' if verdict.met else 'MISSED':<8} {verdict.text}", False)
    if check and not all(verdict.met for verdict in comparison.verdicts(found)):
        print("error: a target was missed", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def design(
    out: Annotated[Path, typer.Option("-o", "--out", help="The C file to write.")],
    name: Annotated[str, typer.Option(help="Of the constant in it.")] = "aras_table",
    workload: WorkloadOpt = "machinery",
    workloads: WorkloadsOpt = None,
    currents: CurrentsOpt = None,
    worst: Annotated[float, typer.Option(help="Longest frame over the workload's.")] = 1.1,
    share: ShareOpt = 0.2,
    tick_us: Annotated[int, typer.Option("--tick", metavar="US", help="Between two looks within a frame.")] = 1000,
    guard_us: Annotated[int, typer.Option("--guard", metavar="US", help="Frames end this much early.")] = 500,
    crystal: CrystalOpt = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """The table of constants of chip, network and task, as a C file for the firmware."""
    from rqdkm.aras import energy, table
    from rqdkm_tvm.files import write_atomic

    if not name.isidentifier():
        raise OptionError(f'"{name}" is no name in C', where="--name")
    load = energy.read_workload(workload, workloads or energy.WORKLOADS)
    task = _task(worst=worst, share=share, tick_us=tick_us, guard_us=guard_us, crystal=crystal)
    constants = table.build(energy.read(currents or energy.DEFAULT), load, task)
    write_atomic(out, table.to_c(constants, name, f"Written by {_command()}; currents mA, times us."))
    print_hint(f"table    {out}", json)


def _task(*, crystal: bool, **numbers: float) -> Task:
    """Errors name the option, not the field."""
    from rqdkm.aras.table import LIMITS, Task

    for name, value in numbers.items():
        (low, high), (option, hint) = LIMITS[name], _TASK[name]
        if not low <= value <= high:
            raise OptionError(f"must lie between {low:g} and {high:g}, got {value:g}", where=option, hint=hint)
    return Task(crystal=crystal, **numbers)  # type: ignore[arg-type]


def _worst(given: float | None, arrivals: Trace, load: Workload) -> float:
    """The longest frame, over the workload's."""
    from rqdkm.aras import study

    longest = study.worst_of(arrivals, load)
    if given is None:
        return longest
    if given < longest:
        _LOG.warning(
            "--worst %.4g is less than the longest frame of the trace, %.4g: deadlines are not promised", given, longest
        )
    return given


def _check_kind(kind: str) -> None:
    if kind not in KINDS:
        raise OptionError(f'there is no kind of trace "{kind}"', where="--kind", hint=f"one of {', '.join(KINDS)}")


def _command() -> str:
    return shlex.join(["rqdkm", *sys.argv[1:]])
