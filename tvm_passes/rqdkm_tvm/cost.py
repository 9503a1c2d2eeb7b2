"""Arithmetic cost of a layer: multiply-accumulates and bit operations."""

from __future__ import annotations

from math import prod

from rqdkm_tvm.layer import Layer


def macs(layer: Layer) -> int:
    """Multiply-accumulates of the direct algorithm, padding taps included; 0 for layers without weights.

    convolution: OH * OW * O * KH * KW * I / groups; depthwise: OH * OW * C * M * KH * KW; fully connected: B * O * I.
    Of a morphing layer: its safe kernel's. Everyone quotes these, so that cycles per MAC compare; an algorithm with
    fewer multiplications does not lower them.
    """
    if layer.stage is not None:
        return layer.stage.macs
    if layer.library is not None:
        return layer.library.paths[layer.library.safe].macs
    if layer.weights is None:
        return 0
    if layer.op == "fully_connected":
        batch = layer.output.size // layer.weights.shape[0]
        return int(batch * layer.weights.size)
    if layer.op == "conv2d":
        return int(prod(layer.output.shape[:3]) * layer.weights.size)
    if layer.op == "depthwise_conv2d":
        return int(prod(layer.output.shape[:3]) * layer.weights.size)
    return 0


def bitops(layer: Layer) -> int:
    """BitOPs = MACs * weight bits * activation bits (HAQ, QuantMCU), summed over output channels."""
    if layer.stage is not None:
        return layer.stage.bitops
    if layer.library is not None:
        return layer.library.paths[layer.library.safe].bitops
    total = macs(layer)
    if not layer.weight_bits:
        return total * 8 * layer.inputs[0].value_bits
    return total // len(layer.weight_bits) * sum(layer.weight_bits) * layer.inputs[0].value_bits
