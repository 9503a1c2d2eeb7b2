"""Looking at a plan, changing it, and checking it against a model."""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

import rqdkm_tvm.kernels
from rqdkm import plan_files
from rqdkm_tvm import in_place
from rqdkm_tvm.assign import DEFAULT_PRICES, MEMORY_PRICES
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.mixed import FOLLOWERS, PRODUCERS, LowerMixedPrecision
from rqdkm_tvm.parameters import Parameters, refit
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.plan import BITS, FUSED_KERNEL, MOST_CHANNELS, UNDECIDED, LayerPlan, OutputPlan, Plan, stored_scale
from rqdkm_tvm.sites import layer_ops, read_sites

_RUN = re.compile(r"([248])(?:x(\d+))?")
_WEIGHTED = ("conv2d", "depthwise_conv2d", "fully_connected")
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
    """``8``, ``4``, or runs: ``8x16 4x16``; ``-`` for a layer without weights."""
    if layer.op not in _WEIGHTED:
        return "-"
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
    model: Path | None = None,
) -> tuple[Plan, tuple[str, ...]]:
    """Write ``path`` with one layer changed to ``target``.

    Kernels were chosen for the bit-widths there were, so those that an edit concerns are to be chosen anew: the layer's
    own where its weights change, and where its result changes, those of the layers after it, which read it. Parameters
    stay: the layer's own are fitted to its new bits, the biases of layers that read another scale to that scale
    (:func:`rqdkm_tvm.parameters.refit`).

    Args:
        layer: its name in the plan.
        weights: ``4``, or runs of output channels ``8x16 4x16``; ``8`` as in the model.
        output: ``model``, or ``bits:scale:zero_point``.
        kernel: a kernel's name, ``auto`` (to be chosen) or ``tvm``.
        model: the int8 model of the plan; needed where parameters depend on a scale that changes.

    Returns:
        The plan, and what else had to change, in sentences.

    Raises:
        PlanError: no such layer, or values that cannot be.
    """
    plan, parameters = plan_files.read(path)
    before, network = copy.deepcopy(plan), None if model is None else _network(model)
    if network is not None:
        plan.check_layers(network.ops, joined=False)
    fused = fusions(plan)
    entry = _entry(plan, layer, fused, path)
    changed: list[LayerPlan] = []  # layers whose kernel is to be chosen anew
    if weights is not None:
        entry.weights = _weights(weights, entry, fused, _channels(entry, parameters, network))
        changed.append(entry)
    if output is not None:
        if output != "model":
            _check_output(entry, plan, fused)
        entry.output = parse_output(output)
        first = plan.get(fused.get(layer, layer))
        changed = plan.layers[plan.layers.index(first or entry) :]
    if kernel is not None:
        if layer in fused:
            changed += [x for x in plan.layers if x.name == fused[layer]]
        entry.kernel, entry.config = _kernel(kernel, entry), {}
        if entry.kernel is None:  # nobody writes over a result of TVM's code
            changed += [x for x in plan.layers[plan.layers.index(entry) :] if in_place.CONFIG in x.config]
        changed = [x for x in changed if x is not entry]
    remarks = []
    if network is not None:
        network.input_scales(plan)  # refuses what the model cannot
    released = [x for x in changed if x.kernel and x.kernel != FUSED_KERNEL]
    for x in released:
        x.kernel, x.config = UNDECIDED, {}
    if released:
        remarks.append(f"kernels are to be chosen anew: {', '.join(x.name for x in released)}")
    if parameters is not None:
        parameters = _refitted(parameters, before, plan, entry, network)
        if weights is not None and layer in parameters:
            remarks.append(f"parameters of {layer} were fitted to its new bits; nothing was trained anew")
    plan_files.write_to(target, plan, parameters)
    return plan, tuple(remarks)


def fusions(plan: Plan) -> dict[str, str]:
    """Layers that were fused, and the convolution that computes each: the entry before."""
    pairs = zip(plan.layers, plan.layers[1:], strict=False)
    return {second.name: first.name for first, second in pairs if second.kernel == FUSED_KERNEL}


@dataclass(frozen=True)
class _Network:
    """What a plan does not say of its model: layers it leaves out, channels, and who reads what."""

    module: Any
    ops: dict[str, str]
    channels: dict[str, int]

    def input_scales(self, plan: Plan) -> dict[str, float]:
        """By layer with weights, the scale of what it reads when the plan is followed.

        Raises:
            PlanError: the model cannot follow it.
        """
        sites = read_sites(LowerMixedPrecision(plan)(self.module)["main"])
        return {x.name: float(x.layer.inputs[0].scale) for x in sites if x.layer.weights is not None}


def _network(model: Path) -> _Network:
    sites = read_sites((module := PartitionLayers()(prepare(_int8(model).module)))["main"])
    return _Network(module, layer_ops(sites), {x.name: int(x.layer.output.shape[-1]) for x in sites})


def _int8(model: Path) -> Any:
    from rqdkm.models import load

    loaded = load.load(model)
    if not loaded.is_quantized:
        raise PlanError("the model computes in float, plans are for int8 models", where=str(model))
    return loaded


def _channels(entry: LayerPlan, parameters: Parameters | None, network: _Network | None) -> int:
    """Output channels of a layer, by whoever knows; 0 if nobody does."""
    if network is not None:
        return network.channels[entry.name]
    if parameters is not None and entry.name in parameters:
        return int(parameters[entry.name].scales.size)
    return sum(count for _, count in entry.weights)


def _refitted(
    parameters: Parameters, before: Plan, after: Plan, entry: LayerPlan, network: _Network | None
) -> Parameters:
    """Parameters for the plan ``after`` an edit of ``entry``.

    Raises:
        PlanError: a scale changes, and without the model nobody knows which layers read it.
    """
    found = dict(parameters)
    old = before.get(entry.name)
    scales = [None if x is None or x.output is None else x.output.scale for x in (old, entry)]
    ratios: dict[str, float] = {}
    if scales[0] != scales[1]:
        if network is None:
            raise PlanError(
                "the scale of the result changes, and with it the biases of the layers that read it; a plan does not "
                "say which these are",
                where="--output",
                hint="pass --model with the model of the plan, or keep the scale",
            )
        was, now = network.input_scales(before), network.input_scales(after)
        ratios = {name: was[name] / now[name] for name in now if was[name] != now[name]}
    ops = {entry.name: entry.op} if network is None else network.ops
    for name in found.keys() & {entry.name, *ratios}:
        x = after.get(name)
        found[name] = refit(found[name], ops[name], () if x is None else x.weight_bits, ratios.get(name, 1.0))
    return Parameters(found)


def _kernel(text: str, entry: LayerPlan) -> str | None:
    known = registry.names_for(entry.op)
    if text not in (*known, *_NAMED_KERNELS, FUSED_KERNEL):
        raise PlanError(
            f'no kernel "{text}" for {entry.op}',
            where="--kernel",
            hint=f"kernels: {', '.join(known) or 'none'}; or {', '.join(_NAMED_KERNELS)}",
        )
    return _NAMED_KERNELS.get(text, text)


def _entry(plan: Plan, layer: str, fused: Mapping[str, str], path: Path) -> LayerPlan:
    """The entry of that name; reports call two that were fused "convolution + follower"."""
    entry = plan.get(layer)
    if entry is not None:
        return entry
    host, _, follower = layer.partition(" + ")
    if fused.get(follower) == host:
        raise PlanError(
            f'"{follower}" was fused into "{host}", the plan has an entry for each',
            where=f'--layer "{layer}"',
            hint=f'edit weights and kernel of "{host}", the output of "{_stored(plan, host, follower)}"',
        )
    named = ", ".join(x.name for x in plan.layers)
    raise PlanError(f'the plan has no layer "{layer}"', where=str(path), hint=f"layers: {named}")


def _stored(plan: Plan, host: str, follower: str) -> str:
    """Of two fused layers the one whose output says how the result is stored: a pool has that of what it reads."""
    entry = plan.get(follower)
    return host if entry is not None and entry.op in FOLLOWERS else follower


def _weights(text: str, entry: LayerPlan, fused: Mapping[str, str], channels: int) -> tuple[tuple[int, int], ...]:
    if entry.op not in _WEIGHTED:
        host = fused.get(entry.name)
        raise PlanError(
            f"{entry.op} has no weights" + (f': "{entry.name}" was fused into "{host}"' if host else ""),
            where="--weights",
            hint=f'edit those of "{host}"' if host else f"operators that have some: {', '.join(_WEIGHTED)}",
        )
    found = [_RUN.fullmatch(part) for part in text.replace(",", " ").split()]
    if not found or not all(found):
        raise PlanError(f'"{text}" are no bit-widths', where="--weights", hint='write 4, or runs: "8x16 4x16"')
    runs = [(int(m[1]), int(m[2]) if m[2] else 0) for m in found if m]
    if len(runs) == 1 and runs[0][1] == 0:
        if runs[0][0] == 8:
            return ()
        if channels == 0:
            raise PlanError(
                "the plan does not say how many output channels the layer has",
                where="--weights",
                hint=f"pass --model, or write {runs[0][0]}xN, where N is the last number of its shape in "
                '"rqdkm inspect MODEL"',
            )
        return ((runs[0][0], channels),)
    if any(count > MOST_CHANNELS for _, count in runs):
        raise PlanError(f'"{text}": no layer has so many channels', where="--weights")
    if any(count == 0 for _, count in runs):
        raise PlanError(
            f'"{text}" leaves out how many channels', where="--weights", hint='runs are written "8x16 4x16"'
        )
    covered = sum(count for _, count in runs)
    if channels not in (0, covered):
        raise PlanError(f'"{text}" covers {covered} output channels, the layer has {channels}', where="--weights")
    return tuple(runs)


def parse_output(text: str) -> OutputPlan | None:
    """``bits:scale:zero_point``; None for ``model``.

    Raises:
        PlanError: neither.
    """
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


def _check_output(entry: LayerPlan, plan: Plan, fused: Mapping[str, str]) -> None:
    """Refuse a quantization of what is not stored, or not the layer's own."""
    host = fused.get(entry.name)
    follower = next((name for name, into in fused.items() if into == entry.name), None)
    if follower is not None and _stored(plan, entry.name, follower) == follower:
        raise PlanError(
            f'"{follower}" was fused into "{entry.name}", whose own result never reaches memory',
            where="--output",
            hint=f'edit the output of "{follower}", which is stored, or give "{follower}" a kernel of its own first',
        )
    if entry.op in FOLLOWERS:
        raise PlanError(
            f"the result of {entry.op} is quantized as what it reads"
            + (f': "{entry.name}" was fused into "{host}"' if host else ""),
            where="--output",
            hint=f'edit the output of "{host}"' if host else "edit the output of the layer that it reads",
        )
    if entry.op not in PRODUCERS:
        raise PlanError(
            f"the result of {entry.op} cannot be quantized anew",
            where="--output",
            hint=f"operators that can: {', '.join(PRODUCERS)}",
        )


def check(path: Path, model: Path) -> dict[str, Any]:
    """What a plan makes of a model: compiled as ``rqdkm build`` would, nothing written.

    Raises:
        PlanError: it does not fit.
    """
    plan, parameters = plan_files.read(path)
    prices = MEMORY_PRICES if plan.is_mixed else DEFAULT_PRICES  # as a deployment has it
    compiled = rqdkm_tvm.compile_model(_int8(model).module, plan=plan, parameters=parameters, prices=prices)
    return {
        "layers": len(compiled.plan.layers),
        "kernels": len(compiled.layers),
        "weights_bytes": sum(layer.lowered.constant_bytes for layer in compiled.layers),
        "arena_bytes": compiled.memory.arena_bytes,
        "bitops": sum(layer.bitops for layer in compiled.layers),
        "macs": compiled.macs,
    }
