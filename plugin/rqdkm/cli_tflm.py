"""``rqdkm tflm``: models for TensorFlow Lite Micro with rqdkm's operators."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rqdkm import log
from rqdkm.cli_options import (
    CalibOpt,
    ConfigOpt,
    CyclesOpt,
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
    PatchOpt,
    PlanOpt,
    QuietOpt,
    RamOpt,
    SamplesOpt,
    SeedOpt,
    SplitOpt,
    VdpcOpt,
    VerboseOpt,
    found_model,
)
from rqdkm.cli_output import print_hint, print_mapping
from rqdkm.options import DeployOptions, parse_drops, parse_size

app = typer.Typer(help="Models for TensorFlow Lite Micro.", no_args_is_help=True, rich_markup_mode=None)


@app.callback()
def _group() -> None:
    """Keeps ``export`` a command of its own."""


@app.command()
def export(
    model: ModelArg,
    out: Annotated[Path, typer.Option("-o", "--out", help="Output directory.")],
    portable: Annotated[
        bool, typer.Option("--portable", help="Parameters at run time: no generated code, slower kernels, more RAM.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Run it in TFLM's interpreter here and compare with the reference.")
    ] = False,
    calib: CalibOpt = None,
    calib_method: MethodOpt = "minmax",
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
    """A .tflite with rqdkm's operators, the code of its layers, what registers them, and a CMake snippet."""
    from rqdkm.tflm import pipeline as sequence

    options = DeployOptions(
        model=found_model(model),
        out=out,
        calib=calib,
        calib_method=calib_method,
        board="none",
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
        force=force,
        patch=patch,
        split=split,
        halo=halo,
        input=input,
        vdpc=vdpc,
    )
    with log.Progress() as progress:
        result = sequence.export(options, portable_only=portable, check=check, progress=progress)
    print_mapping(
        {
            "model": str(result.path / sequence.MODEL),
            "model_bytes": result.model_bytes,
            "arena_bytes": result.arena_bytes,
            "layers": result.layers,
            "operators": list(result.operators),
            "generated_code": result.generated,
            "compared": f"{result.compared} samples, every byte equal" if result.compared else None,
        },
        json,
    )
    print_hint(f"next     include({result.path / sequence.CMAKE}) in CMake; docs/tflm.md", json)
