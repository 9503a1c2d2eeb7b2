"""``rqdkm experiment``: configurations side by side, and what the sensitivity metric is worth."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from rqdkm import log
from rqdkm.options import OptionError, parse_grid, parse_size

app = typer.Typer(help="Comparisons that make tables.", no_args_is_help=True, rich_markup_mode=None)

ModelArg = Annotated[Path, typer.Argument(metavar="MODEL", help="An int8 classifier, .tflite.")]
CalibOpt = Annotated[Path, typer.Option(help="Calibration samples, labelled if possible.")]
DataOpt = Annotated[Path, typer.Option(help="Labelled test samples that nothing else sees.")]
MarkdownOpt = Annotated[Path | None, typer.Option(help="Write the page here.")]


@app.command()
def configurations(
    model: ModelArg,
    calib: CalibOpt,
    data: DataOpt,
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory of the deployments.")] = Path("configurations"),
    plan: Annotated[Path | None, typer.Option(help="One more row: rq by this plan.json.")] = None,
    markdown: MarkdownOpt = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Configurations",
    samples: Annotated[int, typer.Option(min=1, help="Samples that also run on the virtual board.")] = 20,
    max_drop: Annotated[float, typer.Option(metavar="POINTS", help="Loss of accuracy that rq may cause.")] = 0.5,
    ram: Annotated[str | None, typer.Option(metavar="SIZE", help="RAM budget of all but baseline.")] = None,
    flash: Annotated[str | None, typer.Option(metavar="SIZE", help="Flash budget of all but baseline.")] = None,
    check: Annotated[
        bool, typer.Option("--check", help="Exit with 1 unless rq reaches speed, memory and accuracy.")
    ] = False,
) -> None:
    """Deploy as baseline, int8 and rq, and print speed, memory and accuracy beside each other."""
    from rqdkm.experiment import configurations as experiment

    with log.Progress() as progress:
        reports = experiment.run(
            model,
            calib,
            data,
            out,
            plan=plan,
            samples=samples,
            max_drop=max_drop,
            ram_bytes=parse_size(ram, "--ram") if ram else None,
            flash_bytes=parse_size(flash, "--flash") if flash else None,
            progress=progress,
        )
    if markdown is not None:
        experiment.write_markdown(title, reports, markdown, _command())
    print(experiment.table(reports), end="")
    for label, found in experiment.verdicts(reports).items():
        for verdict in found:
            print(f"{'✓' if verdict.met else '✗'} {label}: {verdict.text}")
    if check and not experiment.passed(reports):
        print("error: no configuration with planned bits meets every target", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def ablation(
    model: Annotated[list[Path], typer.Argument(metavar="MODEL...", help="int8 classifiers.")],
    calib: Annotated[list[Path], typer.Option(help="Calibration data, once per model, in their order.")],
    data: Annotated[list[Path], typer.Option(help="Labelled test data, once per model, likewise.")],
    markdown: MarkdownOpt = None,
) -> None:
    """REP against uniform bits, weight magnitude and Hessian trace at equal size."""
    from rqdkm.experiment import ablation as experiment

    if not len(model) == len(calib) == len(data):
        raise OptionError(
            f"{len(model)} models, {len(calib)} --calib and {len(data)} --data",
            where="experiment ablation",
            hint="give --calib and --data once for every model",
        )
    with log.Progress() as progress:
        results = [experiment.run(*files, progress=progress) for files in zip(model, calib, data, strict=True)]
    if markdown is not None:
        experiment.write_markdown(results, markdown, _command())
    print(experiment.markdown(results, _command()), end="")


@app.command()
def patches(
    model: ModelArg,
    calib: CalibOpt,
    data: DataOpt,
    ram: Annotated[str, typer.Option(metavar="SIZE", help="RAM budget of every variant.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory of the deployments.")] = Path("patches"),
    plan: Annotated[Path | None, typer.Option(help="One more row: weights by this plan.json.")] = None,
    samples: Annotated[int, typer.Option(min=1, help="Samples that also run on the virtual board.")] = 10,
    max_drop: Annotated[float, typer.Option(metavar="POINTS", help="Loss of accuracy that VDQS may cause.")] = 0.5,
    markdown: MarkdownOpt = None,
) -> None:
    """Patch-based inference at one RAM budget: 8 bits and halos computed again, rows kept, VDPC and VDQS."""
    from rqdkm.experiment import patches as experiment

    with log.Progress() as progress:
        result = experiment.run(
            model,
            calib,
            data,
            out,
            ram_bytes=parse_size(ram, "--ram"),
            plan=plan,
            samples=samples,
            max_drop=max_drop,
            progress=progress,
        )
    if markdown is not None:
        experiment.write_markdown([result], markdown, [_command()])
    print(experiment.table(result), end="")


@app.command()
def morphing(
    deployment: Annotated[
        list[str], typer.Argument(metavar="NAME=DIR...", help="Deployments by configuration, the baseline first.")
    ],
    learn: Annotated[Path, typer.Option(help="Labelled samples that policies learn on.")],
    data: DataOpt,
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory of costs and policies.")] = Path("morphing"),
    penalty: Annotated[float, typer.Option(min=0.0, help="Of the reward: throughput - penalty * violation.")] = 1.0,
    wrong: Annotated[
        str, typer.Option(metavar="N|NAME=N,...", help="What a wrong class counts in the violation, by configuration.")
    ] = "1",
    steps: Annotated[int, typer.Option(min=2000, help="Frames that a policy learns from.")] = 60_000,
    frames: Annotated[int, typer.Option(min=100, help="Of every trace.")] = 2000,
    markdown: MarkdownOpt = None,
    title: Annotated[str, typer.Option(help="Of the page.")] = "Kernel morphing",
    keep: Annotated[bool, typer.Option("--keep", help="Use costs that were measured into --out before.")] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a target is missed.")] = False,
) -> None:
    """Networks with fixed and with morphing kernels over one mixed trace of loads, clocks, limits and noise."""
    from rqdkm.dkm import dqn
    from rqdkm.dkm.environment import Weights
    from rqdkm.experiment import morphing as experiment

    deployments = {}
    for text in deployment:
        name, given, directory = text.partition("=")
        if not (name and given and directory):
            raise OptionError(f"{text!r} is no deployment", where="NAME=DIR", hint="write baseline=out/baseline")
        deployments[name] = Path(directory)
    with log.Progress() as progress:
        rows = experiment.run(
            deployments,
            learn,
            data,
            out,
            weights={name: Weights(penalty, value) for name, value in _by_name(wrong, deployments).items()},
            training=dqn.Training(steps=steps),
            frames=frames,
            keep=keep,
            progress=progress,
        )
    if markdown is not None:
        experiment.write_markdown(title, rows, markdown, _command())
    print(experiment.table(rows), end="")
    found = experiment.verdicts(rows)
    for name, judged in found.items():
        for verdict in judged:
            print(f"{'✓' if verdict.met else '✗'} {name}: {verdict.text}")
    if check and not all(verdict.met for judged in found.values() for verdict in judged):
        print("error: a target was missed", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def cuts(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="An int8 network, .tflite.")],
    ram: Annotated[list[str], typer.Option(metavar="SIZE", help="RAM budget; once for each.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory of the deployments.")] = Path("cuts"),
    samples: Annotated[int, typer.Option(min=1, help="Samples that run on the virtual board.")] = 4,
    markdown: MarkdownOpt = None,
) -> None:
    """What patches save and cost at several RAM budgets, at 8 bits, without the frame in memory."""
    from rqdkm.experiment import cuts as experiment

    budgets = [parse_size(text, "--ram") for text in ram]
    with log.Progress() as progress:
        rows = experiment.run(model, out, budgets=budgets, samples=samples, progress=progress)
    if markdown is not None:
        experiment.write_markdown(model.stem, rows, markdown, _command())
    print(experiment.table(rows), end="")


@app.command()
def vdqs(
    model: ModelArg,
    calib: CalibOpt,
    split: Annotated[str, typer.Option(metavar="LAYER", help="The last layer of the patch stage.")],
    patch: Annotated[str, typer.Option(metavar="RxC", help="Rows and columns of patches.")] = "2x2",
    markdown: MarkdownOpt = None,
) -> None:
    """The sweep of VDQS's lambda beside every other choice of bit-widths."""
    from rqdkm.experiment import vdqs as experiment

    grid = parse_grid(patch)
    with log.Progress() as progress:
        result = experiment.run(model, calib, last=split, grid=grid, progress=progress)
    if markdown is not None:
        experiment.write_markdown([result], markdown, [_command()])
    print(experiment.markdown([result], [_command()]), end="")


def _by_name(text: str, names: Iterable[str]) -> dict[str, float]:
    """``30``: for all names; ``dkm=80,rq-dkm=55``: for those."""
    found = dict.fromkeys(names, 1.0)
    try:
        for part in text.split(","):
            name, given, value = part.rpartition("=")
            if given and name not in found:
                raise OptionError(f"there is no configuration {name!r}", where="--wrong")
            number = float(value)
            if not 0 <= number < float("inf"):
                raise ValueError
            found.update({name: number} if given else dict.fromkeys(found, number))
    except ValueError:
        raise OptionError(
            f"{text!r} is no number of 0 or more", where="--wrong", hint="write 30, or dkm=80,rq-dkm=55"
        ) from None
    return found


def _command() -> str:
    return shlex.join(["rqdkm", *sys.argv[1:]])
