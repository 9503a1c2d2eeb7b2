"""The verbs: parse, call, print. What they do is in pipeline.py; imports are late to keep --help quick."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from rqdkm import __version__, cli_aras, cli_dkm, cli_experiment, cli_model, cli_plan, cli_tflm, log
from rqdkm.cli_options import (
    BoardOpt,
    CalibOpt,
    ConfigOpt,
    CyclesOpt,
    DataOpt,
    FlashModelOpt,
    FlashOpt,
    ForceOpt,
    HaloOpt,
    InputOpt,
    JsonOpt,
    KernelDropOpt,
    KernelsOpt,
    MaxDropOpt,
    MethodOpt,
    ModelArg,
    OutOpt,
    PatchOpt,
    PlanOpt,
    PolicyOpt,
    ProjectArg,
    QuietOpt,
    RamOpt,
    RunBoardOpt,
    SamplesOpt,
    SeedOpt,
    SplitOpt,
    VdpcOpt,
    VerboseOpt,
    found_model,
    one_of,
)
from rqdkm.cli_output import as_mapping, console, print_hint, print_mapping, print_report
from rqdkm.frame import Commands
from rqdkm.options import (
    CONFIGS,
    DeployOptions,
    FinetuneOptions,
    OptionError,
    parse_drops,
    parse_size,
)

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
app.add_typer(cli_tflm.app, name="tflm")
app.add_typer(cli_dkm.app, name="dkm")
app.add_typer(cli_aras.app, name="aras")
app.command()(cli_model.inspect)
app.command()(cli_model.quantize)


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
    kernel_drop: KernelDropOpt = None,
    cycles: CyclesOpt = None,
    kernels: KernelsOpt = "auto",
    plan: PlanOpt = None,
    policy: PolicyOpt = None,
    patch: PatchOpt = "off",
    split: SplitOpt = None,
    halo: HaloOpt = "auto",
    input: InputOpt = "frame",
    vdpc: VdpcOpt = "off",
    force: ForceOpt = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Model to firmware: import, quantize, compile, run, compare with the reference, report."""
    model = found_model(model)
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
        kernel_drop=parse_drops(kernel_drop),
        cycles=cycles,
        kernels=kernels,
        plan=plan,
        policy=policy,
        force=force,
        patch=patch,
        split=split,
        halo=halo,
        input=input,
        vdpc=vdpc,
    )
    from rqdkm import pipeline

    with log.Progress() as progress:
        report = pipeline.deploy(options, progress)
    print_report(report, json=json, details=verbose > 0)
    print_hint(f"report   {options.out / 'report.html'}", json)
    print_hint(f"firmware {options.out / pipeline.ELF}", json)
    if report.exactness is not None and report.exactness.mismatches:
        print("error: the outputs differ from the reference", file=sys.stderr)
        raise typer.Exit(1)


@app.command()
def tune(
    model: ModelArg,
    out: Annotated[Path, typer.Option("-o", "--out", help="The plan to write.")] = Path("tuned.json"),
    ram: RamOpt = None,
    flash: FlashOpt = None,
    config: ConfigOpt = "int8",
    plan: PlanOpt = None,
    calib: CalibOpt = None,
    board: BoardOpt = "virtual",
    flash_model: FlashModelOpt = "f407",
    candidates: Annotated[int, typer.Option(min=1, help="Kernels and configurations measured per layer.")] = 6,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Choose kernels by measured cycles: a plan for rqdkm deploy --plan."""
    from rqdkm import plan_files
    from rqdkm import tune as tuning

    model = found_model(model)
    options = DeployOptions(
        model=model,
        out=Path(f"{out}.unused"),
        calib=calib,
        board=board,
        flash_model=flash_model,
        ram_bytes=parse_size(ram, "--ram") if ram else None,
        flash_bytes=parse_size(flash, "--flash") if flash else None,
        config=config,
        plan=plan,
    )
    with log.Progress() as progress:
        tuned = tuning.tune(options, candidates=candidates, progress=progress)
    plan_files.write_to(out, tuned.plan, tuned.parameters)
    print(tuning.table(tuned), end="")
    print_hint(f"plan     {out}", False)


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
    kernel_drop: KernelDropOpt = None,
    cycles: CyclesOpt = None,
    kernels: KernelsOpt = "auto",
    plan: PlanOpt = None,
    policy: PolicyOpt = None,
    patch: PatchOpt = "off",
    split: SplitOpt = None,
    halo: HaloOpt = "auto",
    input: InputOpt = "frame",
    vdpc: VdpcOpt = "off",
    board: BoardOpt = "virtual",
    force: ForceOpt = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Model to a project directory and its ELF file; nothing is run."""
    model = found_model(model)
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
        kernel_drop=parse_drops(kernel_drop),
        cycles=cycles,
        kernels=kernels,
        plan=plan,
        policy=policy,
        force=force,
        patch=patch,
        split=split,
        halo=halo,
        input=input,
        vdpc=vdpc,
    )
    from rqdkm import pipeline

    with log.Progress() as progress:
        result = pipeline.build(options, progress)
    print_mapping({"elf": str(result.elf), "project": str(result.project_dir), **as_mapping(result.sizes)}, json)


@app.command()
def run(
    project: ProjectArg,
    inputs: Annotated[Path | None, typer.Option(help="Inputs: .npz or .npy; else seeded noise.")] = None,
    outputs: Annotated[Path | None, typer.Option(help="Write the outputs to this .npz file.")] = None,
    board: RunBoardOpt = "virtual",
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
    print_hint(f"next     rqdkm deploy {model} --plan {result.plan}", json)


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
        list[str] | None, typer.Option(metavar=one_of(CONFIGS), help="Configurations; may be repeated.")
    ] = None,
    flash_model: FlashModelOpt = "f407",
    samples: SamplesOpt = 1,
    repeat_plan: Annotated[
        bool, typer.Option("--repeat-plan", help="Search bit-widths twice and compare the plans byte for byte.")
    ] = False,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 if a target is missed.")] = False,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """Deploy the test models on the virtual board and print them beside published figures."""
    from rqdkm import bench as benchmark

    with log.Progress() as progress:
        result = benchmark.run(
            models or [],
            out,
            configs=config or [],
            flash_model=flash_model,
            samples=samples,
            repeat_plan=repeat_plan,
            progress=progress,
        )
    if markdown is not None:
        benchmark.write_markdown(result, markdown)
    if json:
        print(benchmark.to_json(result), end="")
    else:
        screen = console()
        screen.print(benchmark.render(result, width=screen.width))
        print_hint(f"bench    {out / 'bench.json'}", json)
    if check and not (result.passed and result.in_time):
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
        print_report(found[0], json=json, details=verbose > 0)
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


def _default_out(model: Path) -> Path:
    return Path(f"{model.stem or 'model'}_stm32f407")


if __name__ == "__main__":
    main()
