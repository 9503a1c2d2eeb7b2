"""A layer cut into bands, as numbers: its own int8 problem, the problems of its bands, and its epilogue."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.keys import ByIdentity
from rqdkm_tvm.kernels.registry import Elements, Kernel, Rows
from rqdkm_tvm.layer import OPS, Layer, Tensor
from rqdkm_tvm.lowbit import integer_range

INT8 = (-128, 127)


@dataclass(frozen=True)
class Window:
    """How output rows of a layer read its input."""

    stride: int
    reach: int
    top: int
    input_h: int

    @staticmethod
    def of(layer: Layer) -> Window:
        attrs = layer.attrs
        if layer.weights is None:
            reach = int(attrs["pool"][0])
        else:
            reach = (int(layer.weights.shape[1]) - 1) * int(attrs["dilation"][0]) + 1
        return Window(int(attrs["strides"][0]), reach, int(attrs["padding"][0]), layer.inputs[0].shape[1])

    def rows(self, outputs: int) -> int:
        """Input rows that a band of ``outputs`` rows reads at most."""
        return min(self.input_h, (outputs - 1) * self.stride + self.reach)

    def band(self, first: int, outputs: int) -> tuple[int, int, int]:
        """(input rows, padding above, padding below) of output rows from ``first`` on, as ``rqdkm_band_rows``."""
        start = first * self.stride - self.top
        end = start + (outputs - 1) * self.stride + self.reach
        low, high = max(start, 0), min(end, self.input_h)
        return high - low, low - start, end - high

    def meets(self, outputs: int) -> bool:
        """Whether every window of ``outputs`` rows meets the input."""
        return self.top < self.reach and (outputs - 1) * self.stride - self.top < self.input_h


@dataclass(frozen=True)
class Part:
    """A layer cut into bands, as numbers.

    Args:
        kernel_layer: the int8 problem of the largest band.
        lvalues: what a call is told for each band; None: one call computes the layer as it stands.
        band: stored rows (elements) per band, of ``total``.
        row: values of a stored row; 1 for elements.
        pooled: rows of the result that make one stored row.
    """

    kernel_layer: Layer
    lvalues: Rows | Elements | None
    band: int
    total: int
    row: int
    pooled: int

    @property
    def bands(self) -> int:
        return -(-self.total // self.band)

    @property
    def values(self) -> int:
        """Stored values of a band."""
        return self.band * self.row


def own_inputs(layer: Layer) -> tuple[Tensor, ...]:
    """What the layer itself reads, without the residual of its epilogue."""
    return layer.inputs[:-1] if adds(layer) else layer.inputs


def _in_bytes(tensor: Tensor) -> Tensor:
    return tensor if tensor.bits == 8 else replace(tensor, bits=8, span=integer_range(tensor.bits))


def plain_layer(layer: Layer, own_clamp: bool) -> Layer:
    """The layer's own int8 problem: no epilogue, every tensor in bytes; with ``own_clamp`` its results are within the
    range of their bits, without they are within int8."""
    return _plain(ByIdentity(layer), own_clamp)


@lru_cache(maxsize=512)
def _plain(key: ByIdentity, own_clamp: bool) -> Layer:
    layer = key.layer
    return replace(
        layer,
        inputs=tuple(_in_bytes(tensor) for tensor in own_inputs(layer)),
        output=_in_bytes(layer.output) if own_clamp else replace(layer.output, bits=8),
        attrs=clamped(layer, layer.output.bits) if own_clamp or not clamps(layer) else {**layer.attrs, "clamp": INT8},
        epilogue=None,
    )


def clamps(layer: Layer) -> bool:
    return "clamp" in OPS[layer.op]


def clamped(layer: Layer, bits: int) -> Mapping[str, Any]:
    """The layer's attributes, with a clamp that keeps results within ``bits``."""
    if bits == 8 or not clamps(layer):
        return layer.attrs
    low, high = integer_range(bits)
    least, greatest = (int(bound) for bound in layer.attrs["clamp"])
    return {**layer.attrs, "clamp": (min(max(least, low), high), max(min(greatest, high), low))}


@lru_cache(maxsize=1024)
def band_layers(plain_key: ByIdentity, key: ByIdentity, parts: Rows | Elements | None, band: int) -> tuple[Layer, ...]:
    """The int8 problems of all bands, as far as they differ; first the one that the call is written for, which has
    as many rows as the largest band and all of the padding."""
    layer, plain = key.layer, plain_key.layer
    total = units(layer, parts)
    if parts is None or band >= total:
        return (plain,)
    if isinstance(parts, Elements):
        return tuple(_elements(plain, size) for size in dict.fromkeys((band, total % band or band)))
    window, pooled, (top, left, bottom, right) = Window.of(layer), pooled_rows(layer), plain.attrs["padding"]
    problems = [(band * pooled, window.rows(band * pooled), top, bottom)]
    for at in range(0, total, band):
        outputs = min(band, total - at) * pooled
        problems.append((outputs, *window.band(at * pooled, outputs)))
    return tuple(
        _some_rows(plain, inputs, outputs, (above, left, below, right))
        for outputs, inputs, above, below in dict.fromkeys(problems)
    )


def _elements(plain: Layer, size: int) -> Layer:
    *inputs, output = (replace(tensor, shape=(size,)) for tensor in (*plain.inputs, plain.output))
    return replace(plain, inputs=tuple(inputs), output=output)


def _some_rows(plain: Layer, inputs: int, outputs: int, padding: tuple[int, int, int, int]) -> Layer:
    source, result = plain.inputs[0], plain.output
    return replace(
        plain,
        inputs=(replace(source, shape=(1, inputs, *source.shape[2:])),),
        output=replace(result, shape=(1, outputs, *result.shape[2:])),
        attrs={**plain.attrs, "padding": padding},
    )


def units(layer: Layer, parts: Rows | Elements | None) -> int:
    """What there is to divide: stored rows or elements; 1 for a layer that is computed whole."""
    if parts is None:
        return 1
    return layer.stored.shape[1] if isinstance(parts, Rows) else layer.stored.size


def pooled_rows(layer: Layer) -> int:
    epilogue = layer.epilogue
    return int(epilogue.attrs["pool"][0]) if epilogue is not None and epilogue.op == "max_pool2d" else 1


def pools(layer: Layer) -> bool:
    return layer.epilogue is not None and layer.epilogue.op == "max_pool2d"


def adds(layer: Layer) -> bool:
    return layer.epilogue is not None and layer.epilogue.op == "add"


def reject_epilogue(epilogue: Layer) -> str | None:
    if epilogue.op == "add":
        same = all(tensor.shape == epilogue.output.shape for tensor in epilogue.inputs)
        return None if same else "the operands of its epilogue differ in shape"
    if epilogue.attrs["pool"] != epilogue.attrs["strides"] or any(epilogue.attrs["padding"]):
        return "the windows of its epilogue overlap or are padded"
    return None


def epilogue_layer(layer: Layer, rows: int) -> Layer:
    """The epilogue as an int8 layer that writes ``rows`` rows."""
    return _epilogue_rows(ByIdentity(layer), rows)


@lru_cache(maxsize=1024)
def _epilogue_rows(key: ByIdentity, rows: int) -> Layer:
    layer, epilogue = key.layer, key.layer.epilogue
    assert epilogue is not None
    pooled = pooled_rows(layer)
    inputs = [replace(_in_bytes(x), shape=(1, rows * pooled, *x.shape[2:])) for x in epilogue.inputs]
    output = replace(_in_bytes(epilogue.output), shape=(1, rows, *epilogue.output.shape[2:]))
    return replace(epilogue, inputs=tuple(inputs), output=output, attrs=clamped(epilogue, epilogue.output.bits))


@lru_cache(maxsize=256)
def epilogue_kernel(key: ByIdentity) -> Kernel:
    """The fastest kernel of the epilogue; none of them has configurations or scratch."""
    return registry.candidates(epilogue_layer(key.layer, key.layer.stored.shape[1]))[0][0]


@lru_cache(maxsize=256)
def epilogue_cycles(key: ByIdentity) -> float:
    return epilogue_kernel(key).estimate_cycles(epilogue_layer(key.layer, key.layer.stored.shape[1]), {})
