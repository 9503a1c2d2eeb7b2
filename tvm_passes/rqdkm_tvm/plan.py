"""The plan: which kernel runs each layer, and how. Passes write it, people read and edit it, passes obey it.

As JSON (``plan.json``)::

    {"schema": "rqdkm.plan", "version": 1,
     "layers": [{"name": "model/conv2d/Relu", "op": "conv2d", "kernel": "conv2d_s8_direct", "config": {"strip": 4}}]}

``kernel`` null leaves a layer to TVM's own C code. Layers that a plan does not mention are chosen automatically.
A later version adds keys; a reader refuses versions and keys it does not know, so that nothing is ignored.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from rqdkm_tvm.errors import PlanError

SCHEMA = "rqdkm.plan"
VERSION = 1

Value = int | str | bool


@dataclass
class LayerPlan:
    """What happens to one layer. ``kernel`` is None when TVM compiles it."""

    name: str
    op: str
    kernel: str | None
    config: dict[str, Value] = field(default_factory=dict)


@dataclass
class Plan:
    """One entry per layer, in execution order."""

    layers: list[LayerPlan] = field(default_factory=list)

    def get(self, name: str) -> LayerPlan | None:
        return next((layer for layer in self.layers if layer.name == name), None)

    def replace(self, layers: Iterable[LayerPlan]) -> None:
        """Take over completed entries (the plan object itself stays the caller's)."""
        self.layers = list(layers)

    # ---- JSON

    def to_json(self) -> str:
        """Deterministic text: the same plan gives the same bytes."""
        layers = [
            {"name": x.name, "op": x.op, "kernel": x.kernel, "config": dict(sorted(x.config.items()))}
            for x in self.layers
        ]
        head = f'{{\n  "schema": "{SCHEMA}",\n  "version": {VERSION},\n  "layers": ['
        rows = ",".join(f"\n    {json.dumps(layer)}" for layer in layers)
        return f"{head}{rows}\n  ]\n}}\n"

    @staticmethod
    def from_json(text: str, *, where: str = "plan.json") -> Plan:
        """Parse and validate.

        Raises:
            PlanError: not JSON, another schema or version, a missing, unknown or wrongly typed key.
        """
        try:
            data = json.loads(text)
        except ValueError as error:
            raise PlanError(f"not JSON: {error}", where=where) from error
        _object(data, where, required={"schema": str, "version": int, "layers": list})
        if data["schema"] != SCHEMA:
            raise PlanError(f'schema is "{data["schema"]}", expected "{SCHEMA}"', where=where)
        if data["version"] != VERSION:
            raise PlanError(
                f"version {data['version']} is not known",
                where=where,
                hint=f"this release reads version {VERSION}; write the plan anew or use the matching release",
            )
        layers: list[LayerPlan] = []
        names: set[str] = set()
        for index, entry in enumerate(data["layers"]):
            at = f"{where}: layers[{index}]"
            _object(
                entry, at, required={"name": str, "op": str, "kernel": (str, type(None))}, optional={"config": dict}
            )
            if entry["name"] in names:
                raise PlanError(f'layer "{entry["name"]}" is listed twice', where=at)
            names.add(entry["name"])
            config = entry.get("config", {})
            for key, value in config.items():
                if not isinstance(value, (int, str)):
                    raise PlanError(f'config "{key}" is {json.dumps(value)}, expected a number, text or bool', where=at)
            layers.append(LayerPlan(entry["name"], entry["op"], entry["kernel"], dict(config)))
        return Plan(layers)


def _object(value: Any, where: str, *, required: Mapping[str, Any], optional: Mapping[str, Any] | None = None) -> None:
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
