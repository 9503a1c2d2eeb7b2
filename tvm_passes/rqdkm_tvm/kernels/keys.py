"""Layers as keys of caches; those by identity are alive as long as the cache holds them."""

from __future__ import annotations

from typing import Any

from rqdkm_tvm.layer import Layer


class ByIdentity:
    """One layer object."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def __hash__(self) -> int:
        return id(self.layer)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByIdentity) and other.layer is self.layer


class ByArithmetic:
    """Everything of a layer with weights but the size of its maps: what requantization and constants depend on. Equal
    for all parts of a map."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        arrays = (layer.weights, layer.weight_scales, layer.bias)
        self._key: tuple[Any, ...] = (
            *(id(array) for array in arrays),
            *((t.scale, t.zero_point, t.span) for t in (layer.inputs[0], layer.output)),
            tuple(layer.attrs["clamp"]),
            layer.op,
            layer.weight_bits,
        )

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByArithmetic) and other._key == self._key


class ByValue:
    """Everything of a layer, whichever object it is: the same part of a map in two ways to cut it."""

    def __init__(self, layer: Layer) -> None:
        self.layer = layer
        self._key = _values(layer)

    def __hash__(self) -> int:
        return hash(self._key)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ByValue) and other._key == self._key


def _values(layer: Layer) -> tuple[Any, ...]:
    arrays = (layer.weights, layer.weight_scales, layer.bias)
    return (
        layer.name,
        layer.op,
        layer.inputs,
        layer.output,
        tuple(sorted((key, repr(value)) for key, value in layer.attrs.items())),
        *(None if array is None else (array.shape, str(array.dtype), array.tobytes()) for array in arrays),
        layer.weight_zero_point,
        layer.weight_bits,
        None if layer.epilogue is None else _values(layer.epilogue),
    )
