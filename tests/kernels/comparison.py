"""Layer by layer: the fastest direct kernel, what Winograd makes of it, and what fewer bits do to both.

:func:`candidates` and :func:`table` are used by :mod:`tests.kernels.measure`, which runs everything and checks it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from rqdkm import kernelbench
from rqdkm_tvm.kernels.registry import Config, Kernel
from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.lowbit import channel_axis, quantize_weights
from tests.kernels import random_elementwise
from tests.kernels.random_layers import Array

#: (size, channels, stride): of wake words and keyword spotting.
DEPTHWISE = [
    ((48, 48), 8, 1),
    ((48, 48), 16, 2),
    ((25, 5), 64, 1),
    ((12, 12), 64, 1),
    ((6, 6), 128, 1),
    ((3, 3), 256, 1),
]

#: Columns of the table: what is measured beside the fastest direct kernel with 8-bit weights. At most one kernel of a
#: column takes a layer, which has one stride.
WINOGRAD = {"F(4x4,3x3)": ("f4x4", "f4x4s2"), "F(2x2,3x3)": ("f2x2",), "F(4,3)": ("f4x1",)}
#: Weights and both maps at 4 bits, with unpacking and packing of the maps: by direct kernels, and four products per
#: multiplication.
PACKED_MAPS = ("direct, 4-bit maps", "four products, 4-bit maps")
TWO_BITS = "four products, 2 bits"  # between 8-bit maps


@dataclass(frozen=True)
class Variant:
    """One column for one layer: of its candidates the fastest one measured counts."""

    layer: Layer
    column: str
    candidates: tuple[kernelbench.Candidate, ...]


def depthwise(index: int) -> tuple[Layer, Array]:
    """A 3x3 layer with ordinary numbers and a relu."""
    size, channels, stride = DEPTHWISE[index]
    rng = np.random.default_rng(200 + index)
    case = random_elementwise.depthwise(rng, size=size, channels=channels, kernel=(3, 3), stride=stride)
    layer = replace(
        case.layer,
        name=f"{size[0]}x{size[1]}x{channels} depthwise, 3x3" + (f" s{stride}" if stride > 1 else "") + ", relu",
        inputs=(Tensor(case.layer.inputs[0].shape, "int8", 0.05, -128),),
        output=Tensor(case.layer.output.shape, "int8", 0.05, -128),
        attrs={**case.layer.attrs, "clamp": (-128, 127)},
        weights=rng.integers(-127, 128, (1, 3, 3, channels), dtype=np.int8),
        weight_scales=(rng.uniform(0.4, 1.6, channels) / (137 * 3)).astype(np.float32),
        bias=rng.integers(-2000, 2000, channels).astype(np.int32),
    )
    return layer, rng.integers(-128, 128, layer.inputs[0].shape, dtype=np.int8)


def narrow(layer: Layer, bits: int) -> Layer:
    """The layer with all weights at ``bits`` bits: what our quantizer makes of normally distributed ones."""
    assert layer.weights is not None and layer.weight_scales is not None
    channels = layer.output.shape[-1]
    real = np.random.default_rng(bits).normal(0.0, 1.0, (channels, layer.weights.size // channels))
    values, _ = quantize_weights(real, (bits,) * channels)
    axis = channel_axis(layer.op)
    moved = np.moveaxis(layer.weights, axis, 0).shape
    return replace(
        layer,
        weights=np.ascontiguousarray(np.moveaxis(values.reshape(moved), 0, axis)),
        weight_scales=(layer.weight_scales * 2.0 ** (8 - bits)).astype(np.float32),
        weight_bits=(bits,) * channels,
    )


def packed_maps(layer: Layer) -> Layer:
    """A layer with packed weights, and both maps packed at 4 bits: the same reals, 16 times as coarse."""

    def coarse(tensor: Tensor) -> Tensor:
        return replace(tensor, bits=4, scale=tensor.scale * 16, zero_point=tensor.zero_point >> 4)

    return replace(layer, inputs=tuple(map(coarse, layer.inputs)), output=coarse(layer.output))


def four_products(kernel: Kernel, _config: Config) -> bool:
    return kernel.name == "conv2d_s4_gemm"


def variants(layer: Layer, x: Array) -> list[Variant]:
    """Everything to measure for one layer; ``x`` its input."""

    def find(column: str, of: Layer, winograd: tuple[str, ...] | None) -> Variant:
        def wanted(kernel: Kernel, config: Config) -> bool:
            unpacks = of.op != "depthwise_conv2d" or not of.packs_weights or bool(config.get("packed"))
            online = config.get("weights") != "flash"  # transformed ahead, bits make no difference
            return unpacks and online and (kernel.direct if winograd is None else kernel.name.endswith(winograd))

        every = kernelbench.candidates_for(of, [x], configs=1, accept=wanted)
        if not every and winograd is None:  # no fast kernel is exact: the reference is what runs
            every = kernelbench.candidates_for(of, [x], configs=1, accept=wanted, references=True)[:1]
        return Variant(layer, column, tuple(every))

    found = [find("direct", layer, None)]
    found += [find(column, layer, kernel) for column, kernel in WINOGRAD.items()]
    for bits in (4, 2):
        low = narrow(layer, bits)
        found += [
            find(f"direct, {bits} bits", low, None),
            find(f"F(4x4,3x3), {bits} bits", low, WINOGRAD["F(4x4,3x3)"]),
        ]
    every = kernelbench.candidates_for(narrow(layer, 2), [x], configs=1, accept=four_products)
    found.append(Variant(layer, TWO_BITS, tuple(every)))
    if layer.op == "conv2d" and layer.inputs[0].shape[3] % 2 == 0:  # whole bytes
        low = packed_maps(narrow(layer, 4))
        for column, wanted in zip(PACKED_MAPS, (lambda kernel, _: kernel.direct, four_products), strict=True):
            every = kernelbench.candidates_for(low, [x >> 4], configs=1, accept=wanted)
            found.append(Variant(layer, column, tuple(every)))
    return [variant for variant in found if variant.candidates]  # Winograd takes few layers


def table(chosen: Sequence[Variant], results: Sequence[kernelbench.Measurement]) -> str:
    """Markdown: a line per layer, every column as a fraction of the first. ``results``: of all candidates, in order."""
    remaining = iter(results)
    fastest: dict[int, dict[str, kernelbench.Measurement]] = {}
    for variant in chosen:
        measured = [next(remaining) for _ in variant.candidates]
        fastest.setdefault(id(variant.layer), {})[variant.column] = min(measured, key=lambda m: m.cycles or 0)
    ratios = [*WINOGRAD, *(f"{kind}, {bits} bits" for bits in (4, 2) for kind in ("direct", "F(4x4,3x3)"))]
    ratios += (TWO_BITS, *PACKED_MAPS)
    lines = [
        f"| layer | direct | cycles | {' | '.join(ratios)} | flash: 8 / 4 / 2 bits |",
        f"|---|---|---:|{'---:|' * (len(ratios) + 1)}",
    ]
    for columns in fastest.values():
        direct = columns["direct"]
        assert direct.cycles
        cells = [f"{(columns[name].cycles or 0) / direct.cycles:.3f}" if name in columns else "" for name in ratios]
        flash = [columns[name].constant_bytes for name in ("direct", "direct, 4 bits", "direct, 2 bits")]
        kernel = direct.candidate.kernel.name.rpartition("_")[2]
        lines.append(
            f"| {direct.candidate.layer.name} | {kernel} | {direct.cycles} | {' | '.join(cells)} "
            f"| {' / '.join(map(str, flash))} |"
        )
    return "\n".join(lines) + "\n"
