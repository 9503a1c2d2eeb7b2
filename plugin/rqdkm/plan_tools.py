"""Looking at a plan, changing it, and checking it against a model."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from rqdkm import plan_files
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.mixed import FOLLOWERS
from rqdkm_tvm.plan import BITS, MOST_CHANNELS, UNDECIDED, LayerPlan, OutputPlan, Plan, stored_scale

_RUN = re.compile(r"([248])(?:x(\d+))?")
_NAMED_KERNELS: dict[str, str | None] = {"auto": UNDECIDED, "tvm": None}


def render(plan: Plan) -> Table:
    """One row per layer: bit-widths, quantization of the result, kernel and configuration."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for name in (
        "layer",
        "operator",
        "weights, bits",
        "result, bits",
        "scale",
        "zero point",
        "kernel",
        "configuration",
    ):
        table.add_column(name, overflow="fold")
    for x in plan.layers:
        out = x.output
        as_model = ("as read" if x.op in FOLLOWERS else "8", "", "")
        quantization = as_model if out is None else (str(out.bits), f"{out.scale:.6g}", str(out.zero_point))
        kernel = "TVM" if x.kernel is None else x.kernel or "to be chosen"
        config = ", ".join(f"{key} {value}" for key, value in sorted(x.config.items()))
        cells = (x.name, x.op, bits_text(x), *quantization, kernel, config)
        table.add_row(*(Text(cell) for cell in cells))
    return table


def bits_text(layer: LayerPlan) -> str:
    """``8``, ``4``, or runs: ``8x16 4x16``."""
    if not layer.weights:
        return "8"
    if len(layer.weights) == 1:
        return str(layer.weights[0][0])
    return " ".join(f"{bits}x{channels}" for bits, channels in layer.weights)


def edit(
    path: Path,
    target: Path,
    layer: str,
    *,
    weights: str | None = None,
    output: str | None = None,
    kernel: str | None = None,
) -> tuple[Plan, bool]:
    """Write ``path`` with one layer changed to ``target``.

    Args:
        layer: its name in the plan.
        weights: ``4``, or runs of output channels ``8x16 4x16``; ``8`` as in the model.
        output: ``model``, or ``bits:scale:zero_point``.
        kernel: a kernel's name, ``auto`` (to be chosen) or ``tvm``.

    Returns:
        The plan, and whether its parameters file no longer fits and was left out.

    Raises:
        PlanError: no such layer, or values that cannot be.
    """
    plan, parameters = plan_files.read(path)
    entry = plan.get(layer)
    if entry is None:
        named = ", ".join(x.name for x in plan.layers)
        raise PlanError(f'the plan has no layer "{layer}"', where=str(path), hint=f"layers: {named}")
    if weights is not None:
        entry.weights = _weights(weights, entry)
    if output is not None:
        entry.output = _output(output)
    if kernel is not None:
        entry.kernel, entry.config = _NAMED_KERNELS.get(kernel, kernel), {}
    stale = parameters is not None and (weights is not None or output is not None)
    if stale:
        plan, parameters = dataclasses.replace(plan, parameters=None), None
    plan_files.write_to(target, plan, parameters)
    return plan, stale


def _weights(text: str, entry: LayerPlan) -> tuple[tuple[int, int], ...]:
    found = [_RUN.fullmatch(part) for part in text.replace(",", " ").split()]
    if not found or not all(found):
        raise PlanError(f'"{text}" are no bit-widths', where="--weights", hint='write 4, or runs: "8x16 4x16"')
    runs = [(int(m[1]), int(m[2]) if m[2] else 0) for m in found if m]
    channels = sum(count for _, count in entry.weights)
    if len(runs) == 1 and runs[0][1] == 0:
        if runs[0][0] == 8:
            return ()
        if channels == 0:
            raise PlanError(
                "the plan does not say how many output channels the layer has",
                where="--weights",
                hint=f"give them: {runs[0][0]}x32",
            )
        return ((runs[0][0], channels),)
    if any(count > MOST_CHANNELS for _, count in runs):
        raise PlanError(f'"{text}": no layer has so many channels', where="--weights")
    if any(count == 0 for _, count in runs):
        raise PlanError(
            f'"{text}" leaves out how many channels', where="--weights", hint='runs are written "8x16 4x16"'
        )
    return tuple(runs)


def _output(text: str) -> OutputPlan | None:
    if text == "model":
        return None
    parts = text.split(":")
    try:
        bits, scale, zero_point = int(parts[0]), stored_scale(float(parts[1]), "--output"), int(parts[2])
        good = len(parts) == 3 and bits in BITS
    except (ValueError, IndexError, PlanError):
        good = False
    if not good:
        raise PlanError(
            f'"{text}" is no quantization', where="--output", hint='write "model", or bits:scale:zero_point, 4:0.05:-8'
        )
    half = 1 << (bits - 1)
    if not -half <= zero_point < half:
        raise PlanError(f"zero point {zero_point} is outside the range of {bits} bits", where="--output")
    return OutputPlan(bits, scale, zero_point)


def check(path: Path, model: Path) -> dict[str, Any]:
    """What a plan makes of a model: compiled as ``rqdkm build`` would, nothing written.

    Raises:
        PlanError: it does not fit.
    """
    import rqdkm_tvm
    from rqdkm.models import load

    plan, parameters = plan_files.read(path)
    loaded = load.load(model)
    if not loaded.is_quantized:
        raise PlanError("the model computes in float, plans are for int8 models", where=str(model))
    compiled = rqdkm_tvm.compile_model(loaded.module, plan=plan, parameters=parameters)
    return {
        "layers": len(compiled.plan.layers),
        "kernels": len(compiled.layers),
        "weights_bytes": sum(layer.lowered.constant_bytes for layer in compiled.layers),
        "arena_bytes": compiled.memory.arena_bytes,
        "bitops": sum(layer.bitops for layer in compiled.layers),
        "macs": compiled.macs,
    }
