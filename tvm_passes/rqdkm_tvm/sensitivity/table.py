"""Sensitivity tables: error per layer, output channel and bit-width. Plain data with a JSON form."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.errors import DataError

SCHEMA = "rqdkm.sensitivity"
VERSION = 1

PerChannel = Mapping[int, tuple[float, ...]]  # bits -> E(l, i; bits) for every output channel i


@dataclass(frozen=True)
class Assignment:
    """Bit-widths of a partly quantized network; what is not named stays as it is.

    ``weights`` has one entry per group of consecutive output channels (:func:`group_sizes`), ``activations`` one per
    layer output.
    """

    weights: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    activations: Mapping[str, int] = field(default_factory=dict)


def group_sizes(channels: int, groups: int) -> tuple[int, ...]:
    """Output channels of each group: equal, even (kernels work on pairs), the last one what is left."""
    if groups == 1:
        return (channels,)
    size = -(-channels // groups)
    size += size % 2
    return tuple(min(size, channels - start) for start in range(0, channels, size))


def channel_bits(groups: Sequence[int], channels: int) -> npt.NDArray[np.int64]:
    """Bits per output channel."""
    return np.repeat(np.asarray(groups, np.int64), group_sizes(channels, len(groups)))


@dataclass(frozen=True)
class LayerSensitivity:
    """One layer.

    Args:
        weights: E of quantizing the weights; empty for layers without.
        activations: E of quantizing the output; empty where it is tied to another tensor without error of its own.
        alpha_weights: correction factor of the weights' E, see :mod:`rqdkm_tvm.sensitivity.rep`.
        alpha_activations: likewise of the output's.
        tied_to: name of the layer whose output has the same bit-width; "" for none.
        fixed: the output cannot change its bit-width (tied to the model's input).
    """

    name: str
    op: str
    weights: PerChannel = field(default_factory=dict)
    activations: PerChannel = field(default_factory=dict)
    alpha_weights: float = 1.0
    alpha_activations: float = 1.0
    tied_to: str = ""
    fixed: bool = False

    def weight_error(self, bits: int) -> float:
        """``R(l; bits) = alpha_l * sum_i E(l, i; bits)`` of the weights."""
        return self.alpha_weights * sum(self.weights[bits]) if self.weights else 0.0

    def activation_error(self, bits: int) -> float:
        """R(l; bits) of the output."""
        return self.alpha_activations * sum(self.activations[bits]) if self.activations else 0.0

    def channel_error(self, bits: int, first: int, count: int) -> float:
        """The part of :meth:`weight_error` that output channels ``first`` to ``first + count - 1`` have."""
        return self.alpha_weights * sum(self.weights[bits][first : first + count])


@dataclass(frozen=True)
class Sensitivity:
    """Table of a network.

    Args:
        method: ``rep`` or the name of a competitor.
        objective: what the error is an error of, in words.
        reference: mean square of the objective's own value, to make errors relative; 0 if it has none.
        samples: calibration samples it was made from.
        layers: in execution order.
    """

    method: str
    objective: str
    reference: float
    samples: int
    layers: tuple[LayerSensitivity, ...]

    def __getitem__(self, name: str) -> LayerSensitivity:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise KeyError(name)

    def to_json(self) -> str:
        """Deterministic text; numbers keep every digit."""
        head = {"schema": SCHEMA, "version": VERSION, "method": self.method, "objective": self.objective}
        rows = [
            {
                "name": x.name,
                "op": x.op,
                "alpha_weights": x.alpha_weights,
                "alpha_activations": x.alpha_activations,
                "tied_to": x.tied_to,
                "fixed": x.fixed,
                "weights": {str(b): list(x.weights[b]) for b in sorted(x.weights)},
                "activations": {str(b): list(x.activations[b]) for b in sorted(x.activations)},
            }
            for x in self.layers
        ]
        body = {**head, "reference": self.reference, "samples": self.samples, "layers": rows}
        return json.dumps(body, indent=1) + "\n"

    @staticmethod
    def from_json(text: str, *, where: str = "sensitivity.json") -> Sensitivity:
        """Inverse of :meth:`to_json`.

        Raises:
            DataError: not such a file, or one of another version.
        """
        try:
            data = json.loads(text)
            if data["schema"] != SCHEMA or data["version"] != VERSION:
                raise DataError(f"schema {data['schema']} version {data['version']} is not known", where=where)
            layers = tuple(
                LayerSensitivity(
                    name=row["name"],
                    op=row["op"],
                    weights={int(b): tuple(float(e) for e in es) for b, es in row["weights"].items()},
                    activations={int(b): tuple(float(e) for e in es) for b, es in row["activations"].items()},
                    alpha_weights=float(row["alpha_weights"]),
                    alpha_activations=float(row["alpha_activations"]),
                    tied_to=row["tied_to"],
                    fixed=bool(row["fixed"]),
                )
                for row in data["layers"]
            )
            return Sensitivity(
                data["method"], data["objective"], float(data["reference"]), int(data["samples"]), layers
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise DataError(f"not a sensitivity table: {error!r}", where=where) from error
