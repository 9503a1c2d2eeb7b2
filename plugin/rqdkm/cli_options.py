"""Arguments and options that several verbs take, as typer sees them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rqdkm import log
from rqdkm.options import (
    BOARDS,
    CALIBRATION_METHODS,
    CONFIGS,
    FLASH_MODELS,
    HALOS,
    INPUTS,
    KERNEL_SETS,
    MAX_DROP,
    VDPC,
)


def one_of(choices: tuple[str, ...]) -> str:
    return "|".join(choices)


def found_model(model: Path) -> Path:
    """``model``, or the model file of that name without its suffix."""
    if model.suffix or model.exists():
        return model
    return next((file for suffix in (".tflite", ".onnx") if (file := model.with_suffix(suffix)).is_file()), model)


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
MethodOpt = Annotated[str, typer.Option(metavar=one_of(CALIBRATION_METHODS), help="How ranges are calibrated.")]
BoardOpt = Annotated[str, typer.Option(metavar=one_of(BOARDS), help="What runs the image; none only builds it.")]
RunBoardOpt = Annotated[str, typer.Option("--board", metavar=one_of(BOARDS[:-1]), help="What runs the image.")]
FlashModelOpt = Annotated[
    str, typer.Option(metavar=one_of(FLASH_MODELS), help="Flash accelerator of the virtual board.")
]
SamplesOpt = Annotated[int, typer.Option(min=1, help="Inputs compared byte for byte with the reference.")]
SeedOpt = Annotated[int, typer.Option(min=0, help="Seed of those inputs when no data is given.")]
RamOpt = Annotated[str | None, typer.Option(metavar="SIZE", help="RAM budget, e.g. 48K.")]
FlashOpt = Annotated[str | None, typer.Option(metavar="SIZE", help="Flash budget, e.g. 256K or 1M.")]
ConfigOpt = Annotated[str, typer.Option(metavar=one_of(CONFIGS), help="What is done to the model.")]
MaxDropOpt = Annotated[
    float | None,
    typer.Option(metavar="POINTS", help=f"Loss of accuracy that rq may cause; {MAX_DROP} by default."),
]
KernelDropOpt = Annotated[
    str | None,
    typer.Option(metavar="NAME=POINTS,...", help="Of rq-dkm, instead of --max-drop: by kernel; others keep 8 bits."),
]
CyclesOpt = Annotated[int | None, typer.Option(metavar="N", help="Cycle budget of rq's bit-widths, estimated.")]
KernelsOpt = Annotated[str, typer.Option(metavar=one_of(KERNEL_SETS), help="Fastest kernels, or the plain C ones.")]
PolicyOpt = Annotated[
    Path | None, typer.Option(help="A policy.json that selects kernels of a morphing model (--config dkm, rq-dkm).")
]
PlanOpt = Annotated[Path | None, typer.Option(help="A plan.json to follow.")]
PatchOpt = Annotated[
    str, typer.Option(metavar="auto|off|RxC|autoxC", help="First layers patch by patch: rows and columns of patches.")
]
SplitOpt = Annotated[str | None, typer.Option(metavar="LAYER", help="The last layer that is run patch by patch.")]
HaloOpt = Annotated[
    str, typer.Option(metavar=one_of(HALOS), help="What neighbouring patches share: computed again, or rows kept.")
]
InputOpt = Annotated[
    str, typer.Option(metavar=one_of(INPUTS), help="The frame in memory, or handed over region by region.")
]
VdpcOpt = Annotated[
    str,
    typer.Option(metavar=one_of(VDPC), help="Outlier patches keep 8 bits, the others are searched (needs --calib)."),
]
ForceOpt = Annotated[bool, typer.Option("--force", help="Replace the output directory even if it is not ours.")]
JsonOpt = Annotated[bool, typer.Option("--json", help="Print JSON on stdout instead of tables.")]
VerboseOpt = Annotated[
    int,
    typer.Option(
        "-v", "--verbose", count=True, callback=_set_verbose, show_default=False, help="More messages, tracebacks."
    ),
]
QuietOpt = Annotated[bool, typer.Option("-q", "--quiet", callback=_set_quiet, help="No progress.")]
