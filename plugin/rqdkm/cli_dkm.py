"""``rqdkm dkm``: what the kernels of a morphing network cost, the policy that chooses, and what it is worth."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Annotated

import typer

from rqdkm import log
from rqdkm.cli_options import ProjectArg, QuietOpt, VerboseOpt
from rqdkm.cli_output import print_hint, print_mapping
from rqdkm.options import OptionError

app = typer.Typer(help="Which kernel runs when.", no_args_is_help=True, rich_markup_mode=None)

CostsArg = Annotated[Path, typer.Argument(metavar="COSTS", help="What rqdkm dkm costs wrote.")]
PenaltyOpt = Annotated[float, typer.Option(min=0.0, help="Of the reward: throughput - penalty * violation.")]
WrongOpt = Annotated[float, typer.Option(min=0.0, help="What a wrong class counts in the violation.")]


@app.command()
def costs(
    project: ProjectArg,
    data: Annotated[Path, typer.Option(help="Labelled inputs: .npz with x and y.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="The file to write.")] = Path("costs.npz"),
    levels: Annotated[
        str, typer.Option(metavar="A,B,...", help="Standard deviations of noise added to the inputs.")
    ] = "0,0.05,0.1,0.15",
    samples: Annotated[int | None, typer.Option(min=1, help="How many inputs; by default all.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the noise.")] = 0,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Measure every kernel: cycles and memory on the virtual board, classes with a host build of the same C."""
    from rqdkm import pipeline
    from rqdkm.dkm import measure

    with log.Progress() as progress:
        directory = pipeline.find_project(project)
        found = measure.measure(
            directory,
            pipeline.read_metadata(directory),
            data,
            levels=_levels(levels),
            samples=samples,
            seed=seed,
            progress=progress,
        )
    found.save(out)
    accuracy = found.accuracy
    for k, name in enumerate(found.names):
        shown = ", ".join(f"{100 * value:.2f} %" for value in accuracy[:, k])
        print(f"{name}: {found.cycles[k]:,.0f} cycles, {found.memory[k]:.0%} of the SRAM, right: {shown}")
    print_hint(f"costs    {out}", False)


@app.command()
def train(
    costs: CostsArg,
    out: Annotated[Path, typer.Option("-o", "--out", help="The policy to write.")] = Path("policy.json"),
    penalty: PenaltyOpt = 1.0,
    wrong: WrongOpt = 1.0,
    steps: Annotated[int, typer.Option(min=2000, help="Frames to learn from.")] = 60_000,
    attempts: Annotated[int, typer.Option(min=1, help="Networks to train; the best on other traces is taken.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the first network's weights and of what it sees.")] = 0,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Train the DQN on seeded traces of load, clock, time limits and noise."""
    from rqdkm.dkm import dqn, study
    from rqdkm.dkm.costs import Costs
    from rqdkm.dkm.environment import Weights
    from rqdkm.dkm.policy_file import PolicyFile

    found = Costs.load(costs)
    settings = dqn.Training(steps=steps, seed=seed)
    with log.Progress() as progress:
        policy = study.train(found, Weights(penalty, wrong), settings, progress, attempts=attempts)
    cycles = tuple(round(float(n)) for n in found.cycles)
    PolicyFile(found.names, found.safe, cycles, policy).save(out)
    figures = {"policy": str(out), "bytes on the chip": len(policy.to_bytes()), "kernels": ", ".join(found.names)}
    print_mapping(figures, False)


@app.command()
def compare(
    policy: Annotated[Path, typer.Argument(metavar="POLICY", help="What rqdkm dkm train wrote.")],
    costs: CostsArg,
    baseline: Annotated[
        Path | None, typer.Option(help="Costs of a network with fixed kernels on the same samples.")
    ] = None,
    penalty: PenaltyOpt = 1.0,
    wrong: WrongOpt = 1.0,
    frames: Annotated[int, typer.Option(min=100, help="Of every trace.")] = 2000,
    markdown: Annotated[Path | None, typer.Option(help="Write the page here.")] = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Kernel morphing",
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 unless the policy beats fixed kernels, rule and chance.")
    ] = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """The policy on traces it has not seen, beside every fixed kernel, a rule, chance and an oracle."""
    from rqdkm.dkm import study
    from rqdkm.dkm.costs import Costs
    from rqdkm.dkm.environment import Weights
    from rqdkm.dkm.policy_file import PolicyFile
    from rqdkm_tvm.errors import DataError
    from rqdkm_tvm.files import write_atomic

    found, chosen = Costs.load(costs), PolicyFile.load(policy)
    if chosen.names != found.names:
        raise DataError(
            f"it chooses among {', '.join(chosen.names)}; {costs} is of {', '.join(found.names)}",
            where=str(policy),
            hint="train it on the costs of this network",
        )
    reference = Costs.load(baseline) if baseline is not None else None
    with log.Progress() as progress:
        result = study.compare(
            chosen.policy, found, reference, Weights(penalty, wrong), frames=frames, progress=progress
        )
    if markdown is not None:
        write_atomic(markdown, study.markdown(title, result, _command()))
    print(study.table(result), end="")
    if check and not study.passed(result):
        print("error: a fixed kernel, the rule or chance does as well on held-out traces", file=sys.stderr)
        raise typer.Exit(1)


def _levels(text: str) -> tuple[float, ...]:
    try:
        found = tuple(float(part) for part in text.split(","))
    except ValueError:
        found = (-1.0,)
    if not all(0 <= level < float("inf") for level in found):
        raise OptionError(f"{text!r} is no list of numbers", where="--levels", hint="write 0,0.1,0.2")
    return found


def _command() -> str:
    return shlex.join(["rqdkm", *sys.argv[1:]])
