"""The plan: bit-widths of every tensor, and which kernel runs each layer, and how. Passes write it, people read and
edit it, passes obey it.

As JSON (``plan.json``)::

    {"schema": "rqdkm.plan", "version": 2,
     "parameters": {"file": "parameters.npz", "sha256": "..."},
     "layers": [{"name": "conv2d", "op": "conv2d", "kernel": "conv2d_s8_direct", "config": {"rows": 4},
                 "weights": [[8, 16], [4, 16]], "output": {"bits": 4, "scale": 0.0625, "zero_point": -8}}]}

``kernel`` null leaves a layer to TVM's own C code, "fused" has it computed by the layer that it reads, a layer without
``kernel`` gets one. ``weights`` are runs of (bits,
output channels); absent: 8 bits. ``output`` is how the layer's result is quantized; absent: as in the model file.
``parameters`` names the file beside the plan that holds the integers of the weights, where they are not simply those
nearest to the model's (:mod:`rqdkm_tvm.parameters`). Layers that a plan does not mention are as in the model file and
get a kernel. A reader refuses versions and keys it does not know, so that nothing is ignored; version 1 is a plan
without bit-widths.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rqdkm_tvm import plan_patches
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.plan_patches import PatchPlan

SCHEMA = "rqdkm.plan"
VERSION = 3
UNPATCHED_VERSION = 2  # of a plan without a patch stage
BITS = (2, 4, 8)
INT8_RANGE = (-128, 127)

Value = int | str | bool
MOST_CHANNELS = 1 << 20  # of a layer; runs are expanded to one entry each
UNDECIDED = ""  # LayerPlan.kernel: to be chosen
FUSED_KERNEL = "fused"  # LayerPlan.kernel: computed by the layer that it reads (fuse.py)
MORPH_LAYER = "morph_conv2d"  # operator of a layer that stands for several kernels
PATCH_STAGE = "patch_stage"  # operator of the layer that stands for the patch stage
MORPHED_KERNEL = "morphed"  # LayerPlan.kernel: one of the kernels of a morphing layer (morph/)
PATCHED_KERNEL = "patched"  # LayerPlan.kernel: computed by the patch stage (patches/)


@dataclass(frozen=True)
class OutputPlan:
    """A result's quantization: ``real = scale * (q - zero_point)``, values of ``bits`` bits.

    They lie in memory packed, or a byte each: that costs memory, and saves packing and unpacking them.
    """

    bits: int
    scale: float  # a float32 value
    zero_point: int
    packed: bool = True

    @property
    def stored(self) -> int:
        """Bits of an element in memory."""
        return self.bits if self.packed else 8

    @property
    def span(self) -> tuple[int, int]:
        """Least and greatest value of a byte in memory, see :class:`rqdkm_tvm.layer.Tensor`."""
        return INT8_RANGE if self.packed else (-(1 << (self.bits - 1)), (1 << (self.bits - 1)) - 1)

    def to_json(self) -> dict[str, Any]:
        found = {"bits": self.bits, "scale": self.scale, "zero_point": self.zero_point}
        return found if self.packed else {**found, "packed": False}


@dataclass
class LayerPlan:
    """What happens to one layer. ``kernel`` is None when TVM compiles it, ``UNDECIDED`` when nobody has chosen one.

    ``weights`` are runs of (bits, output channels), empty for 8 bits throughout.
    """

    name: str
    op: str
    kernel: str | None = UNDECIDED
    config: dict[str, Value] = field(default_factory=dict)
    weights: tuple[tuple[int, int], ...] = ()
    output: OutputPlan | None = None

    @property
    def weight_bits(self) -> tuple[int, ...]:
        """Bits of each output channel's weights; empty for 8 throughout."""
        return tuple(bits for bits, channels in self.weights for _ in range(channels))


@dataclass(frozen=True)
class ParametersFile:
    """A file of weights beside the plan."""

    file: str
    sha256: str


@dataclass
class Plan:
    """One entry per layer, in execution order."""

    layers: list[LayerPlan] = field(default_factory=list)
    parameters: ParametersFile | None = None
    patches: PatchPlan | None = None

    def get(self, name: str) -> LayerPlan | None:
        return next((layer for layer in self.layers if layer.name == name), None)

    def replace(self, layers: Iterable[LayerPlan]) -> None:
        """Take over completed entries (the plan object itself stays the caller's)."""
        self.layers = list(layers)

    def check_layers(self, ops: Mapping[str, str], *, joined: bool = True) -> None:
        """That every entry is a layer of the model, with its operator.

        Args:
            ops: operator by layer of the model, fused ones included.
            joined: whether layers that are made of several are among them already.

        Raises:
            PlanError: names the first that is not.
        """
        for entry in self.layers:
            later = entry.op == MORPH_LAYER or (entry.op == PATCH_STAGE and self.patches is not None)
            if later and not joined and entry.name not in ops:
                continue
            if entry.name not in ops:
                raise PlanError(
                    f'the model has no layer "{entry.name}"',
                    where="plan",
                    hint="layer names are in the offload report; a plan belongs to one model",
                )
            if entry.op != ops[entry.name]:
                raise PlanError(
                    f'the plan says "{entry.op}", the model has "{ops[entry.name]}"',
                    where=f'plan: layer "{entry.name}"',
                    hint="a plan belongs to one model",
                )

    @property
    def is_mixed(self) -> bool:
        """Whether it changes any bit-width or quantization of the model."""
        branches = self.patches is not None and len(self.patches.branches) > 1
        return branches or self.parameters is not None or any(x.weights or x.output for x in self.layers)

    # ---- JSON

    def to_json(self) -> str:
        """Deterministic text: the same plan gives the same bytes."""
        version = UNPATCHED_VERSION if self.patches is None else VERSION
        head = f'{{\n  "schema": "{SCHEMA}",\n  "version": {version},\n'
        if self.parameters is not None:
            names = {"file": self.parameters.file, "sha256": self.parameters.sha256}
            head += f'  "parameters": {json.dumps(names)},\n'
        if self.patches is not None:
            head += f'  "patches": {json.dumps(self.patches.to_json())},\n'
        rows = ",".join(f"\n    {json.dumps(_layer_json(layer))}" for layer in self.layers)
        return f'{head}  "layers": [{rows}\n  ]\n}}\n'

    @staticmethod
    def from_json(text: str, *, where: str = "plan.json") -> Plan:
        """Parse and validate.

        Raises:
            PlanError: not JSON, another schema or version, a missing, unknown or wrongly typed key.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise PlanError(
                f"not JSON: {error}",
                where=where,
                hint="a plan is the plan.json that deploy wrote; check your edit of it",
            ) from error
        optional = {"parameters": dict}
        if isinstance(data, dict) and data.get("version") not in range(1, UNPATCHED_VERSION + 1):
            optional["patches"] = dict
        checked_object(data, where, required={"schema": str, "version": int, "layers": list}, optional=optional)
        if data["schema"] != SCHEMA:
            raise PlanError(f'schema is "{data["schema"]}", expected "{SCHEMA}"', where=where)
        if not 1 <= data["version"] <= VERSION:
            raise PlanError(
                f"version {data['version']} is not known",
                where=where,
                hint=f"this release reads versions up to {VERSION}; write the plan anew or use the matching release",
            )
        plan = Plan()
        if "parameters" in data:
            checked_object(data["parameters"], f"{where}: parameters", required={"file": str, "sha256": str})
            name = data["parameters"]["file"]
            if not name or any(character in name for character in "/\\\0") or name in (".", ".."):
                raise PlanError("names a file outside the plan's folder", where=f"{where}: parameters")
            plan.parameters = ParametersFile(data["parameters"]["file"], data["parameters"]["sha256"])
        if "patches" in data:
            plan.patches = plan_patches.read(data["patches"], f"{where}: patches", checked_object, read_output)
        names: set[str] = set()
        for index, entry in enumerate(data["layers"]):
            layer = _read_layer(entry, f"{where}: layers[{index}]")
            if layer.name in names:
                raise PlanError(f'layer "{layer.name}" is listed twice', where=f"{where}: layers[{index}]")
            names.add(layer.name)
            plan.layers.append(layer)
        return plan


def runs(bits: Iterable[int]) -> tuple[tuple[int, int], ...]:
    """Bits per output channel as runs of (bits, channels); 8 throughout is ()."""
    found: list[list[int]] = []
    for b in bits:
        if found and found[-1][0] == b:
            found[-1][1] += 1
        else:
            found.append([int(b), 1])
    return () if [b for b, _ in found] in ([8], []) else tuple((b, count) for b, count in found)


def _layer_json(layer: LayerPlan) -> dict[str, Any]:
    found: dict[str, Any] = {"name": layer.name, "op": layer.op}
    if layer.kernel != UNDECIDED:
        found |= {"kernel": layer.kernel, "config": dict(sorted(layer.config.items()))}
    if layer.weights:
        found["weights"] = [list(run) for run in layer.weights]
    if layer.output is not None:
        found["output"] = layer.output.to_json()
    return found


def _read_layer(entry: Any, at: str) -> LayerPlan:
    checked_object(
        entry,
        at,
        required={"name": str, "op": str},
        optional={"kernel": (str, type(None)), "config": dict, "weights": list, "output": dict},
    )
    config = entry.get("config", {})
    for key, value in config.items():
        if not isinstance(value, (int, str)):
            raise PlanError(f'config "{key}" is {json.dumps(value)}, expected a number, text or bool', where=at)
    weights: list[tuple[int, int]] = []
    for run in entry.get("weights", []):
        good = isinstance(run, list) and len(run) == 2 and all(type(x) is int for x in run)
        if not good or run[0] not in BITS or not 1 <= run[1] <= MOST_CHANNELS:
            raise PlanError(
                f'"weights" holds {json.dumps(run)}, expected [bits, channels]', where=at, hint="bits: 2, 4, 8"
            )
        weights.append((run[0], run[1]))
    output = None
    if "output" in entry:
        output = read_output(entry["output"], f"{at}: output")
        if not output.packed:
            raise PlanError(
                "only the branches of patches may store a byte per value",
                where=f"{at}: output",
                hint='leave "packed" out',
            )
    return LayerPlan(entry["name"], entry["op"], entry.get("kernel", UNDECIDED), dict(config), tuple(weights), output)


def read_output(entry: Any, at: str) -> OutputPlan:
    checked_object(
        entry, at, required={"bits": int, "scale": (float, int), "zero_point": int}, optional={"packed": bool}
    )
    bits, zero_point = entry["bits"], entry["zero_point"]
    scale = stored_scale(entry["scale"], at)
    if bits not in BITS:
        raise PlanError(f"{bits} bits cannot be stored", where=at, hint="bits: 2, 4, 8")
    if not -(1 << (bits - 1)) <= zero_point < 1 << (bits - 1):
        raise PlanError(f"zero point {zero_point} is outside the range of {bits} bits", where=at)
    return OutputPlan(bits, scale, zero_point, entry.get("packed", True))


def stored_scale(value: float, at: str) -> float:
    """``value`` as float32 holds it.

    Raises:
        PlanError: not a positive number there.
    """
    try:
        scale = struct.unpack("f", struct.pack("f", value))[0]
    except (OverflowError, struct.error):
        scale = math.inf
    if isinstance(value, bool) or not (math.isfinite(scale) and scale > 0):
        raise PlanError(f"scale is {str(value)[:40]}, expected a positive number", where=at)
    return float(scale)


def checked_object(
    value: Any, where: str, *, required: Mapping[str, Any], optional: Mapping[str, Any] | None = None
) -> None:
    """Check that ``value`` is an object with exactly these keys and types."""
    if not isinstance(value, dict):
        raise PlanError(f"expected an object, found {type(value).__name__}", where=where)
    known = {**required, **(optional or {})}
    for key in required:
        if key not in value:
            raise PlanError(f'"{key}" is missing', where=where)
    for key, found in value.items():
        if key not in known:
            raise PlanError(f'"{key}" is not a known key', where=where, hint=f"known are: {', '.join(known)}")
        wrong_bool = isinstance(found, bool) and known[key] is int
        if not isinstance(found, known[key]) or wrong_bool:
            raise PlanError(f'"{key}" has the wrong type ({type(found).__name__})', where=where)
