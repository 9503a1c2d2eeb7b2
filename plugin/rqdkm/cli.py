"""The verbs: parse, call, print. What they do is in pipeline.py; imports are late to keep --help quick."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from rqdkm import __version__, cli_experiment, cli_plan, log
from rqdkm.frame import Commands
from rqdkm.options import (
    BOARDS,
    CALIBRATION_METHODS,
    CONFIGS,
    FLASH_MODELS,
    KERNEL_SETS,
    MAX_DROP,
    DeployOptions,
    FinetuneOptions,
    OptionError,
    parse_size,
)

if TYPE_CHECKING:
    from rqdkm.report.schema import Report

app = typer.Typer(
    cls=Commands,
    name="rqdkm",
    help="Trained CNN in, measured STM32F407 firmware out.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
board_app = typer.Typer(help="What can run an image.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(board_app, name="board")
app.add_typer(cli_plan.app, name="plan")
app.add_typer(cli_experiment.app, name="experiment")


def _one_of(choices: tuple[str, ...]) -> str:
    return "|".join(choices)


def _set_verbose(value: int) -> int:
    if value:
        log.configure(value)
    return value


def _set_quiet(value: bool) -> bool:
    if value:
        log.configure(-1)
    return value


ModelArg = Annotated[Path, typer.Argument(metavar="MODEL", help="Model file: .tflite or .onnx.")]
ProjectArg = Annotated[Path, typer.Argument(metavar="PROJECT", help="Directory that deploy or build has written.")]
OutOpt = Annotated[
    Path | None, typer.Option("-o", "--out", help="Output directory; by default <model>_stm32f407 here.")
]
CalibOpt = Annotated[Path | None, typer.Option(help="Calibration inputs: .npz, .npy or a folder of images.")]
DataOpt = Annotated[Path | None, typer.Option(help="Evaluation inputs, with labels if accuracy is wanted.")]
MethodOpt = Annotated[str, typer.Option(metavar=_one_of(CALIBRATION_METHODS), help="How ranges are calibrated.")]
BoardOpt = Annotated[str, typer.Option(metavar=_one_of(BOARDS), help="What runs the image; none only builds it.")]
FlashModelOpt = Annotated[
    str, typer.Option(metavar=_one_of(FLASH_MODELS), help="Flash accelerator of the virtual board.")
]
SamplesOpt = Annotated[int, typer.Option(min=1, help="Inputs compared byte for byte with the reference.")]
SeedOpt = Annotated[int, typer.Option(min=0, help="Seed of those inputs when no --data is given.")]
RamOpt = Annotated[str | None, typer.Option(metavar="SIZE", help="RAM budget, e.g. 48K.")]
FlashOpt = Annotated[str | None, typer.Option(metavar="SIZE", help="Flash budget, e.g. 256K or 1M.")]
ConfigOpt = Annotated[str, typer.Option(metavar=_one_of(CONFIGS), help="What is done to the model.")]
MaxDropOpt = Annotated[
    float | None,
    typer.Option(metavar="POINTS", help=f"Loss of accuracy that rq may cause; {MAX_DROP} by default."),
]
CyclesOpt = Annotated[int | None, typer.Option(metavar="N", help="Cycle budget of rq's bit-widths, estimated.")]
KernelsOpt = Annotated[str, typer.Option(metavar=_one_of(KERNEL_SETS), help="Fastest kernels, or the plain C ones.")]
PlanOpt = Annotated[Path | None, typer.Option(help="A plan.json to follow.")]
ForceOpt = Annotated[bool, typer.Option("--force", help="Replace the output directory even if it is not ours.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]
VerboseOpt = Annotated[
    int,
    typer.Option(
        "-v", "--verbose", count=True, callback=_set_verbose, show_default=False, help="More messages, tracebacks."
    ),
]
QuietOpt = Annotated[bool, typer.Option("-q", "--quiet", callback=_set_quiet, help="No progress.")]


@app.callback(invoke_without_command=True)
def _start(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    log.configure(0)
    if version:
        print(f"rqdkm {__version__}")
        raise typer.Exit


@app.command()
def deploy(
    model: ModelArg,
    out: OutOpt = None,
    calib: CalibOpt = None,
    data: DataOpt = None,
    calib_method: MethodOpt = "minmax",
    board: BoardOpt = "virtual",
    flash_model: FlashModelOpt = "f407",
    samples: SamplesOpt = 20,
    seed: SeedOpt = 0,
    ram: RamOpt = None,
    flash: FlashOpt = None,
    config: ConfigOpt = "int8",
    max_drop: MaxDropOpt = None,
    cycles: CyclesOpt = None,
    kernels: KernelsOpt = "auto",
    plan: PlanOpt = None,
    force: ForceOpt = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Model to firmware: import, quantize, compile, run, compare with the reference, report."""
    model = _found(model)
    options = DeployOptions(
        model=model,
        out=out or _default_out(model),
        calib=calib,
        data=data,
        calib_method=calib_method,
        board=board,
        flash_model=flash_model,
        samples=samples,
        seed=seed,
        ram_bytes=parse_size(ram, "--ram") if ram else None,
        flash_bytes=parse_size(flash, "--flash") if flash else None,
        config=config,
        max_drop=max_drop,
        cycles=cycles,
        kernels=kernels,
        plan=plan,
        force=force,
    )
    from rqdkm import pipeline

    with log.Progress() as progress:
        report = pipeline.deploy(options, progress)
    _print_report(report, json=json, details=verbose > 0)
    _print_hint(f"report   {options.out / 'report.html'}", json)
    _print_hint(f"firmware {options.out / pipeline.ELF}", json)
    if report.exactness is not None and report.exactness.mismatches:
        print("error: the outputs differ from the reference", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def inspect(
    model: ModelArg,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """A model's layers, shapes, MACs, quantization and the RAM it would need. Builds nothing."""
    from rqdkm import pipeline
    from rqdkm.report import model_table

    with log.Progress() as progress:
        progress("reading the model")
        summary = pipeline.inspect(model)
    if json:
        print(model_table.to_json(summary), end="")
    else:
        screen = console()
        screen.print(model_table.render(summary, width=screen.width))


@app.command()
def build(
    model: ModelArg,
    out: OutOpt = None,
    calib: CalibOpt = None,
    calib_method: MethodOpt = "minmax",
    ram: RamOpt = None,
    flash: FlashOpt = None,
    config: ConfigOpt = "int8",
    max_drop: MaxDropOpt = None,
    cycles: CyclesOpt = None,
    kernels: KernelsOpt = "auto",
    plan: PlanOpt = None,
    board: BoardOpt = "virtual",
    force: ForceOpt = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Model to a project directory and its ELF file; nothing is run."""
    model = _found(model)
    options = DeployOptions(
        model=model,
        out=out or _default_out(model),
        calib=calib,
        calib_method=calib_method,
        board=board,
        ram_bytes=parse_size(ram, "--ram") if ram else None,
        flash_bytes=parse_size(flash, "--flash") if flash else None,
        config=config,
        max_drop=max_drop,
        cycles=cycles,
        kernels=kernels,
        plan=plan,
        force=force,
    )
    from rqdkm import pipeline

    with log.Progress() as progress:
        result = pipeline.build(options, progress)
    print_mapping({"elf": str(result.elf), "project": str(result.project_dir), **_as_mapping(result.sizes)}, json)


@app.command()
def run(
    project: ProjectArg,
    inputs: Annotated[Path | None, typer.Option(help="Inputs: .npz or .npy; else seeded noise.")] = None,
    outputs: Annotated[Path | None, typer.Option(help="Write the outputs to this .npz file.")] = None,
    board: BoardOpt = "virtual",
    flash_model: FlashModelOpt = "f407",
    samples: Annotated[int | None, typer.Option(help="How many; by default all of --inputs, or one of noise.")] = None,
    seed: SeedOpt = 0,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Run the image of a project on a board and print what came out and what it cost."""
    from rqdkm import pipeline

    with log.Progress() as progress:
        result = pipeline.run(
            project,
            board=board,
            inputs=inputs,
            outputs=outputs,
            samples=samples,
            seed=seed,
            flash_model=flash_model,
            progress=progress,
        )
    print_mapping(
        {
            "board": result.board,
            "samples": len(result.outputs),
            "cycles": result.cycles,
            "stack_bytes": result.stack_bytes,
            "arena_bytes": result.arena_bytes,
            "outputs": [[tensor.ravel().tolist() for tensor in sample] for sample in result.outputs],
        },
        json,
    )


@app.command()
def flash(
    project: ProjectArg,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Write the image of a project to a real board through OpenOCD."""
    from rqdkm import pipeline

    with log.Progress() as progress:
        pipeline.flash(project, progress=progress)
    console().print("flashed", highlight=False)


@app.command()
def finetune(
    model: ModelArg,
    plan: Annotated[Path, typer.Option(help="The plan.json whose bit-widths to train for.")],
    data: Annotated[Path, typer.Option(help="Training inputs, with labels if there are any.")],
    out: Annotated[Path, typer.Option("-o", "--out", help="Output directory: plan.json and parameters.npz.")],
    weights: Annotated[
        Path | None, typer.Option(help="Float model to start from: .keras or .tflite; else MODEL's own weights.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training inputs.")] = 10,
    seed: Annotated[int, typer.Option(help="Seed of the order of the inputs.")] = 0,
    rate: Annotated[float, typer.Option(help="Learning rate at the start.")] = 1e-3,
    batch: Annotated[int, typer.Option(help="Inputs per step.")] = 64,
    force: ForceOpt = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Train an int8 model's weights for the bit-widths of a plan (needs TensorFlow, in a process of its own)."""
    options = FinetuneOptions(model, plan, data, out, weights, epochs, seed, rate, batch, force)
    from rqdkm.train import finetune as training

    with log.Progress() as progress:
        result = training.finetune(options, progress)
    files: dict[str, Any] = {"plan": str(result.plan), "parameters": str(result.parameters)}
    if json:
        print_mapping({**dataclasses.asdict(result), **files}, json)
        return
    best = min(result.history, key=lambda epoch: epoch.loss)
    figures = {
        "epoch": best.epoch,
        "loss": f"{result.history[0].loss:.4f} -> {best.loss:.4f}",
        "accuracy": "-" if best.accuracy is None else f"{100 * best.accuracy:.1f} % of the held-out inputs",
        "agreement": f"{result.agreeing} of {result.checked} inputs decided as in training by the exported integers",
    }
    print_mapping(files | figures, json)
    _print_hint(f"next     rqdkm deploy {model} --plan {result.plan}", json)


@app.command()
def bench(
    models: Annotated[
        list[str] | None, typer.Argument(help="Test models by name; by default the three of the table.")
    ] = None,
    out: Annotated[Path, typer.Option("-o", "--out", help="Directory of bench.json and the deployments.")] = Path(
        "bench_stm32f407"
    ),
    markdown: Annotated[Path | None, typer.Option(help="Also write the table as a Markdown page.")] = None,
    config: Annotated[
        list[str] | None, typer.Option(metavar=_one_of(CONFIGS), help="Configurations; may be repeated.")
    ] = None,
    flash_model: FlashModelOpt = "f407",
    samples: SamplesOpt = 1,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a target is missed.")] = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Deploy the test models on the virtual board and print them beside published figures."""
    from rqdkm import bench as benchmark

    with log.Progress() as progress:
        result = benchmark.run(
            models or [], out, configs=config or [], flash_model=flash_model, samples=samples, progress=progress
        )
    if markdown is not None:
        benchmark.write_markdown(result, markdown)
    if json:
        print(benchmark.to_json(result), end="")
    else:
        screen = console()
        screen.print(benchmark.render(result, width=screen.width))
        _print_hint(f"bench    {out / 'bench.json'}", json)
    if check and not result.passed:
        print("error: a target was missed", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def doctor(
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Check every tool and say how to get what is missing."""
    from rqdkm import doctor as checks

    with log.Progress() as progress:
        found = checks.examine(progress)
    if json:
        print(checks.to_json(found), end="")
    else:
        console().print(checks.render(found))
    if not checks.ready(found):
        raise typer.Exit(1)


@app.command()
def report(
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="report.json, or the directory of a deploy.")],
    html: Annotated[Path | None, typer.Option(help="Write the HTML report here (one PATH).")] = None,
    picture: Annotated[Path | None, typer.Option(help="Write one SVG picture here (one PATH).")] = None,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Check a report.json and render it again; several are compared with the first."""
    from rqdkm.report import codec, compare
    from rqdkm.report import html as page
    from rqdkm.report import picture as drawing

    found = [codec.read(path) for path in paths]
    if len(found) > 1 and (html or picture):
        raise OptionError("render one report at a time", where="--html, --picture")
    if html is not None:
        page.write(found[0], html)
    if picture is not None:
        drawing.write(found[0], picture)
    if len(found) == 1:
        _print_report(found[0], json=json, details=verbose > 0)
    elif json:
        print(compare.to_json(found), end="")
    else:
        console().print(compare.render(found))


@board_app.command("list")
def board_list(json: JsonOpt = False) -> None:
    """The boards, and whether this machine can use them."""
    from rqdkm import doctor as checks

    found = checks.boards()
    if json:
        print(checks.to_json(found), end="")
    else:
        console().print(checks.render(found))


@board_app.command("info")
def board_info(json: JsonOpt = False) -> None:
    """The chip in figures: memories, clocks, currents, and where they come from."""
    from rqdkm.board.describe import STM32F407

    print_mapping(dataclasses.asdict(STM32F407), json)


def main() -> None:
    """Entry point of the ``rqdkm`` program."""
    app()


def _found(model: Path) -> Path:
    """``model``, or the model file of that name without its suffix."""
    if model.suffix or model.exists():
        return model
    return next((file for suffix in (".tflite", ".onnx") if (file := model.with_suffix(suffix)).is_file()), model)


def _default_out(model: Path) -> Path:
    return Path(f"{model.stem or 'model'}_stm32f407")


def console() -> Console:
    """stdout; wide enough for the tables when it is not a terminal."""
    screen = Console(highlight=False)
    return screen if screen.is_terminal else Console(highlight=False, width=140)


def _print_report(found: Report, *, json: bool, details: bool) -> None:
    from rqdkm.report import codec, table

    if json:
        print(codec.to_json(found), end="")
    else:
        screen = console()
        screen.print(table.render(found, details=details, width=screen.width))


def _print_hint(text: str, json: bool) -> None:
    """A line for people: on stdout below the tables, but never beside JSON."""
    print(text, file=sys.stderr if json else sys.stdout)


def _as_mapping(values: Any) -> dict[str, Any]:
    return dataclasses.asdict(values) if dataclasses.is_dataclass(values) else dict(values)  # type: ignore[arg-type]


def print_mapping(values: dict[str, Any], json: bool) -> None:
    import json as codec

    if json:
        print(codec.dumps(values, indent=1))
        return
    for name, value in values.items():
        print(f"{name:<18}{_as_text(value)}")


def _as_text(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_as_text(item)}" for name, item in value.items())
    if isinstance(value, (list, tuple)):
        apart = "\n" + " " * 18 if value and isinstance(value[0], (dict, list)) else " "
        return apart.join(map(_as_text, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "-" if value is None else str(value)


if __name__ == "__main__":
    main()
