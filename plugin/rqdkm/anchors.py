"""Figures of other stacks on the test models, and our own targets; all of them from data/anchors.json."""

from __future__ import annotations

import functools
import json
import math
from dataclasses import dataclass
from importlib import resources
from typing import Any

from rqdkm.report.schema import Layer


@dataclass(frozen=True)
class Stack:
    """What another stack needs for the same model; ``kind`` is modelled (virtual board) or measured (silicon)."""

    name: str
    kind: str
    cycles_per_mac: float
    arena_bytes: int | None = None
    flash_bytes: int | None = None


@dataclass(frozen=True)
class Anchor:
    """One test model: title, targets (config -> key of the report's totals -> largest value) and other stacks."""

    title: str
    targets: dict[str, dict[str, float]]
    stacks: tuple[Stack, ...]


def anchor(model: str) -> Anchor | None:
    """What is known of a test model, None if nothing is."""
    entry = _data()["models"].get(model)
    if entry is None:
        return None
    fields = ("name", "kind", "cycles_per_mac", "arena_bytes", "flash_bytes")
    stacks = tuple(Stack(**{f: stack[f] for f in fields if f in stack}) for stack in entry["stacks"])
    return Anchor(entry["title"], dict(entry["targets"]), stacks)


def default_models() -> list[str]:
    """The models that have targets."""
    return [name for name, entry in _data()["models"].items() if entry["targets"]]


def layer_anchor(layer: Layer) -> tuple[float, float] | None:
    """(least, most) cycles/MAC of TFLM + CMSIS-NN on layers of this kind; None where no figure is known."""
    if not layer.macs or not layer.input_shape or not layer.output_shape:
        return None
    channels = [layer.input_shape[-1], layer.output_shape[-1]]
    inner = 1 if layer.op == "depthwise_conv2d" else channels[0]
    taps = layer.macs // (math.prod(layer.output_shape) * inner)
    for figure in _data()["layers"]["figures"]:
        if (figure["op"], figure["taps"]) == (layer.op, taps) and figure["channels"] in (None, channels):
            least, most = figure["cycles_per_mac"]
            return float(least), float(most)
    return None


def sources() -> dict[str, str]:
    """Where the figures come from, by key."""
    return dict(_data()["sources"])


@functools.cache
def _data() -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads(resources.files("rqdkm").joinpath("data/anchors.json").read_text("utf-8"))
    return loaded
