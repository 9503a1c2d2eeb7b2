"""The kernels of a morphing layer: paths of ordinary layers from one input to one output, any of which may be run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rqdkm_tvm import cost
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.layer import Layer

OP = "morph_conv2d"
MOST_PATHS = 5  # RQDKM_MORPH_KERNELS


@dataclass(frozen=True)
class Path:
    """One kernel: layers one after the other, the first of which reads the morphing layer's input."""

    name: str
    layers: tuple[Layer, ...]

    @property
    def macs(self) -> int:
        return sum(cost.macs(layer) for layer in self.layers)

    @property
    def bitops(self) -> int:
        return sum(cost.bitops(layer) for layer in self.layers)


@dataclass(frozen=True)
class Library:
    """What a morphing layer chooses from.

    Args:
        paths: all with the same input and output, 1 to :data:`MOST_PATHS`.
        safe: the path that runs where nothing or nonsense was chosen.
    """

    paths: tuple[Path, ...]
    safe: int

    @property
    def layers(self) -> tuple[Layer, ...]:
        return tuple(layer for path in self.paths for layer in path.layers)


def library(chains: Sequence[Sequence[Layer]], safe: int, *, where: str) -> Library:
    """Name the paths and check that one can stand for the other.

    Raises:
        PlanError: too many of them, or they read or write different tensors.
    """
    if not 1 <= len(chains) <= MOST_PATHS or not 0 <= safe < len(chains):
        raise PlanError(f"it has {len(chains)} kernels, kernel {safe} being safe", where=where, hint="1 to 5 kernels")
    first = chains[0]
    for chain in chains:
        if chain[0].inputs != first[0].inputs or chain[-1].stored != first[-1].stored:
            raise PlanError(
                "its kernels differ in the shape or quantization of input or output",
                where=where,
                hint="quantize all of them alike",
            )
    named = zip(path_names(chains), chains, strict=True)
    return Library(tuple(Path(name, tuple(chain)) for name, chain in named), safe)


def path_names(chains: Sequence[Sequence[Layer]]) -> list[str]:
    """What the paths of one morphing layer are called; each differently."""
    names: list[str] = []
    for chain in chains:
        name = path_name(chain)
        names.append(name if name not in names else f"{name} ({len(names)})")
    return names


def network_names(layers: Sequence[Sequence[str]]) -> list[str]:
    """What the kernels of a network are called, whose morphing layers have paths of these names.

    Kernel ``k`` of the network is path ``k`` of every layer, the last one where a layer has fewer.
    """
    found = []
    for number in range(max(map(len, layers), default=0)):
        found.append(" / ".join(dict.fromkeys(names[min(number, len(names) - 1)] for names in layers)))
    return found


def path_name(layers: Sequence[Layer]) -> str:
    """What a path is called: ``3x3``, ``separable 3x3``, ``1x1``, ``3x3 dilated``, ``3x3 in 4 groups``."""
    if [layer.op for layer in layers] == ["depthwise_conv2d", "conv2d"] and _size(layers[1]) == "1x1":
        return f"separable {_size(layers[0])}"
    return " + ".join(map(_layer_name, layers))


def _size(layer: Layer) -> str:
    assert layer.weights is not None
    return f"{layer.weights.shape[1]}x{layer.weights.shape[2]}"


def _layer_name(layer: Layer) -> str:
    if layer.weights is None:
        return layer.op
    name = f"depthwise {_size(layer)}" if layer.op == "depthwise_conv2d" else _size(layer)
    if tuple(layer.attrs["dilation"]) != (1, 1):
        name += " dilated"
    groups = int(layer.attrs.get("groups", 1))
    return f"{name} in {groups} groups" if groups > 1 else name
