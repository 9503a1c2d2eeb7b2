"""Layers with packed tensors and epilogues, made of random int8 layers, and what they must give.

The reference is put together from the numpy references of the parts: each operator alone on int8 values, saturated to
the range of its result's bits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from rqdkm_tvm import in_place
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.layer import Layer, Tensor
from tests.kernels import harness, tflite_arithmetic, tflite_elementwise
from tests.kernels.random_layers import Array

Rng = np.random.Generator
REFERENCES: dict[str, Callable[..., Array]] = {
    **tflite_elementwise.REFERENCES,
    "conv2d": tflite_arithmetic.conv2d,
    "fully_connected": tflite_arithmetic.fully_connected,
}
#: operators whose result keeps the quantization of their input
_FOLLOWERS = ("avg_pool2d", "max_pool2d", "pad", "clip", "concatenate", "reshape")


def limits(bits: int) -> tuple[int, int]:
    return -(1 << (bits - 1)), (1 << (bits - 1)) - 1


def saturate(values: Array, bits: int) -> Array:
    return np.clip(values, *limits(bits)).astype(np.int8)


def bit_width(rng: Rng, tensor: Tensor) -> int:
    """Any that lets a row of channels end on a byte."""
    fits = [bits for bits in (8, 4, 4, 2) if tensor.dtype == "int8" and tensor.shape[-1] % (8 // bits) == 0]
    return int(rng.choice(fits or [8]))


def requantized(rng: Rng, tensor: Tensor, bits: int) -> Tensor:
    """The tensor in ``bits``: a coarser scale over the same reals, any zero point."""
    if bits == 8:
        return tensor
    scale = float(np.float32(tensor.scale * 2 ** (8 - bits)))
    return replace(tensor, scale=scale, zero_point=int(rng.integers(*limits(bits), endpoint=True)), bits=bits)


def packed(rng: Rng, layer: Layer) -> Layer:
    """The layer with tensors of random bit-widths."""
    return with_bits(rng, layer, [bit_width(rng, t) for t in layer.inputs], bit_width(rng, layer.output))


def with_bits(rng: Rng, layer: Layer, widths: Sequence[int], output_bits: int) -> Layer:
    """The layer with tensors of these bit-widths."""
    inputs = [requantized(rng, t, bits) for t, bits in zip(layer.inputs, widths, strict=True)]
    if layer.op in _FOLLOWERS:  # one quantization throughout, bits as they come
        first = inputs[0]
        inputs = [replace(first, shape=t.shape, bits=bits) for t, bits in zip(layer.inputs, widths, strict=True)]
        output = replace(layer.output, scale=first.scale, zero_point=first.zero_point, bits=output_bits)
    else:
        output = requantized(rng, layer.output, output_bits)
    return replace(layer, inputs=tuple(inputs), output=output, attrs=_attrs(rng, layer, output))


def _attrs(rng: Rng, layer: Layer, output: Tensor) -> dict[str, object]:
    """With a clamp among the values of the output's bits: none, a relu, or any."""
    attrs = dict(layer.attrs)
    low, high = limits(output.bits)
    if "clamp" in attrs:
        any_two = sorted(int(v) for v in rng.integers(low, high, 2, endpoint=True))
        attrs["clamp"] = [(-128, 127), (output.zero_point, 127), tuple(any_two)][int(rng.integers(3))]
    if layer.op == "pad":
        attrs["value"] = int(rng.integers(low, high, endpoint=True))
    return attrs


def with_add(rng: Rng, layer: Layer) -> Layer:
    """The layer with an addition on its result."""
    residual = requantized(rng, replace(layer.output, bits=8), bit_width(rng, layer.output))
    stored = requantized(rng, replace(layer.output, bits=8), bit_width(rng, layer.output))
    stored = replace(stored, scale=float(np.float32(stored.scale * rng.uniform(0.8, 1.6))))
    residual = replace(residual, scale=float(np.float32(residual.scale * rng.uniform(0.3, 3))))
    epilogue = Layer(f"{layer.name} add", "add", (layer.output, residual), stored, {"clamp": (-128, 127)})
    epilogue = replace(epilogue, attrs=_attrs(rng, epilogue, stored))
    return replace(layer, inputs=(*layer.inputs, residual), epilogue=epilogue)


def with_pool(rng: Rng, layer: Layer, pool: tuple[int, int]) -> Layer:
    """The layer with a maximum pooling on its result, which it fills at least once."""
    _, height, width, channels = layer.output.shape
    shape = (1, height // pool[0], width // pool[1], channels)
    stored = replace(layer.output, shape=shape, bits=bit_width(rng, layer.output))
    attrs = {"pool": pool, "strides": pool, "padding": (0, 0, 0, 0), "clamp": (-128, 127)}
    epilogue = Layer(f"{layer.name} pool", "max_pool2d", (layer.output,), stored, attrs)
    return replace(layer, epilogue=replace(epilogue, attrs=_attrs(rng, epilogue, stored)))


def with_epilogue(rng: Rng, layer: Layer) -> Layer:
    """The layer, possibly with an epilogue."""
    kind = rng.integers(3)
    pool = (int(rng.integers(1, 4)), int(rng.integers(1, 4)))
    if kind == 0 and layer.output.shape[1] >= pool[0] and layer.output.shape[2] >= pool[1] and pool != (1, 1):
        return with_pool(rng, layer, pool)
    return with_add(rng, layer) if kind == 1 else layer


def values_for(rng: Rng, layer: Layer) -> tuple[Array, ...]:
    """Inputs within the range of their bits."""
    return tuple(
        rng.integers(*limits(t.bits), t.shape, endpoint=True).astype(np.int8)
        if t.dtype == "int8"
        else rng.normal(0, 2, t.shape).astype(t.dtype)
        for t in layer.inputs
    )


def expected(layer: Layer, inputs: tuple[Array, ...]) -> Array:
    """Each part alone, on int8 values."""
    own = inputs if layer.epilogue is None or layer.epilogue.op != "add" else inputs[:-1]
    alone = replace(layer, inputs=layer.inputs[: len(own)], epilogue=None)
    result = saturate(REFERENCES[layer.op](alone, *own), layer.output.bits)
    if layer.epilogue is None:
        return result
    after = REFERENCES[layer.epilogue.op](layer.epilogue, result, *inputs[len(own) :])
    return saturate(after, layer.stored.bits)


def cases_for(rng: Rng, layer: Layer, inputs: tuple[Array, ...], most: int = 3) -> list[harness.Case]:
    """Of every kernel that accepts the layer up to ``most`` configurations, of different band heights first; each also
    over the operands that it may overwrite."""
    by_kernel: dict[str, list[harness.Case]] = {}
    for kernel, config in registry.candidates(layer):
        by_kernel.setdefault(kernel.name, []).append(harness.Case(layer, inputs, kernel, config))
    chosen = []
    for found in by_kernel.values():
        order = [found[i] for i in rng.permutation(len(found))]
        heights: dict[object, harness.Case] = {}
        for case in order:
            heights.setdefault(case.config.get(registry.BAND), case)
        first = list(heights.values())
        chosen += (first + [case for case in order if case not in first])[:most]
    over = [
        harness.Case(layer, inputs, case.kernel, {**case.config, in_place.CONFIG: operand})
        for case in chosen
        for operand in case.kernel.in_place(layer, case.config)
    ]
    return chosen + over


def is_mixed(layer: Layer) -> bool:
    return layer.packs_tensors or layer.epilogue is not None
