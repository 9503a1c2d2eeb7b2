"""Verbs about a model file alone: nothing is compiled."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rqdkm import log
from rqdkm.cli_options import JsonOpt, MethodOpt, ModelArg, QuietOpt, VerboseOpt, found_model
from rqdkm.cli_output import console, print_hint, print_mapping


def inspect(
    model: ModelArg,
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """A model's layers, shapes, MACs, quantization and the RAM of its feature maps. Builds nothing."""
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


def quantize(
    model: ModelArg,
    calib: Annotated[Path, typer.Option(help="Typical inputs: .npz, .npy or a folder of images.")],
    out: Annotated[
        Path | None, typer.Option("-o", "--out", help="The file; by default <model>.int8.tflite here.")
    ] = None,
    calib_method: MethodOpt = "minmax",
    json: JsonOpt = False,
    verbose: VerboseOpt = 0,
    quiet: QuietOpt = False,
) -> None:
    """A float model as int8 .tflite, by TFLite's specification: what deploy does first with --calib."""
    from rqdkm.models import data, load
    from rqdkm.models import quantize as quantization
    from rqdkm.options import CALIBRATION_METHODS, OptionError
    from rqdkm_tvm.errors import ModelError
    from rqdkm_tvm.files import write_atomic

    model = found_model(model)
    out = out or Path(f"{model.name.split('.')[0]}.int8.tflite")
    if calib_method not in CALIBRATION_METHODS:
        available = ", ".join(CALIBRATION_METHODS)
        raise OptionError(f"{calib_method!r} does not exist", where="--calib-method", hint=f"available: {available}")
    if out.exists() and out.samefile(model):
        raise OptionError("it would replace the float model", where=f"-o {out}", hint="name another file")
    with log.Progress() as progress:
        progress(f"load: {model.name}")
        loaded = load.load(model)
        if loaded.is_quantized:
            raise ModelError("it computes in int8 already", where=str(model), hint="deploy it as it is")
        found = quantization.quantize_and_compare(loaded, data.load_data(calib, loaded), calib_method, progress)
    content = found.model.file()
    write_atomic(out, content)
    worst = min(found.layers, key=lambda layer: layer.sqnr_db)
    figures: dict[str, object] = {
        "file": str(out),
        "bytes": len(content),
        "calibrated": f"{found.method}, {found.samples} samples",
        "output": f"{found.output_sqnr_db:.1f} dB above its quantization noise",
        "worst layer": f"{worst.name}: {worst.sqnr_db:.1f} dB",
        "same class": f"{found.agreement:.1%} of {found.compared}",
    }
    if found.kernels:
        figures["same class, by kernel"] = ", ".join(f"{share:.1%}" for share in found.kernels)
    print_mapping(figures, json)
    print_hint(f"next     rqdkm deploy {out}", json)
