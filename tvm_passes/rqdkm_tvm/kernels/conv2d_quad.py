"""Convolution with four products per multiplication: few-bit weights on inputs of few values.

Two inputs in one 32-bit operand, two weights in the other: SMLAL then adds four products to four fields of a 64-bit sum
(``tflm_ops/include/rqdkm/kernels/quad.h``). Exact where the greatest input times a channel's sum of absolute weights
stays within a field, which is proved here for every channel from its real weights.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.kernels.conv2d import (
    Geometry,
    PackedConv2d,
    bias_of,
    finish_cycles,
    geometry,
    panel_sizes,
    pareto,
    plan_finish,
)
from rqdkm_tvm.kernels.lanes import LANE_SHIFT, Form
from rqdkm_tvm.kernels.pack import (
    Int8Array,
    Int32Array,
    channel_bits,
    channel_fours,
    pack_groups,
    pack_pairs,
    round_up,
    widest,
    wrap_int32,
)
from rqdkm_tvm.kernels.registry import Config, register
from rqdkm_tvm.layer import Layer, NDArray

SECOND = 18  # RQDKM_QUAD_SECOND: where the second field of a word begins; the first begins at 4 or 5


@register
class Conv2dQuad(PackedConv2d):
    """Matrix product of taps gathered from the int8 input, two pixels by two output channels per multiplication."""

    name = "conv2d_s4_gemm"
    direct = False  # multiplies once for four products

    def reject(self, layer: Layer) -> str | None:
        reason = super().reject(layer)
        if reason is None and max(channel_bits(layer)) > 4:
            reason = "weights of all output channels must have 4 bits or less"
        return reason or self._reject_values(layer)

    def _reject_shape(self, g: Geometry) -> str | None:
        if g.groups != 1:
            return "it has groups"
        if g.input_c % 4:
            return "input channels must be a multiple of 4"
        return "there must be 4 output channels or more" if g.output_c < 4 else None

    def _reject_values(self, layer: Layer) -> str | None:
        finish, (low, high) = plan_finish(layer), layer.inputs[0].span
        if finish is not None and finish.form is Form.WIDE:
            return "its requantization takes 64 bits"
        if not low <= layer.inputs[0].zero_point <= high:
            return "its padding is not among the values of its input"
        worst, most = _greatest_field(layer), (1 << (SECOND - first_bit(layer))) - 1
        return None if worst <= most else f"greatest input times sum of absolute weights is {worst}, of {most}"

    def configs(self, layer: Layer) -> list[Config]:
        g = geometry(layer)
        configs: list[Config] = [
            {"pixels": pixels, "resident": resident}
            for pixels in dict.fromkeys(round_up(size, 4) for size in panel_sizes(g.positions))
            for resident in (False, True)
        ]
        return pareto((self.estimate_cycles(layer, c), self.scratch_bytes(layer, c), c) for c in configs)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        g = geometry(layer)
        weights = 8 * g.taps * (len(channel_fours(g.output_c)) if config["resident"] else 1)
        return round_up(weights + 2 * int(config["pixels"]) * g.taps + (g.input_c if g.pads else 0), 8)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        """Measured constants, see docs/kernels.md."""
        g = geometry(layer)
        fours, blocks = len(channel_fours(g.output_c)), -(-g.positions // 4)
        panels = -(-g.positions // int(config["pixels"]))
        pointwise = g.kernel_h * g.kernel_w == 1 and g.stride == (1, 1) and not g.pads
        gather = blocks * (11.9 * g.taps + (137 if pointwise else 260 + 170 * g.kernel_h * g.kernel_w))
        products = fours * (blocks * (9.35 * g.taps + 158 + 2 * finish_cycles(layer)) + panels * 210)
        expand = fours * (1 if config["resident"] else panels) * (12.3 * g.taps + 200)
        return gather + products + expand

    def _pack_weights(self, g: Geometry, weights: Int8Array) -> Int8Array:
        rows = weights.reshape(g.output_c, -1)
        return pack_pairs(rows[np.array(channel_fours(g.output_c)).ravel()])

    def _packed(self, layer: Layer) -> tuple[Form, tuple[NDArray, ...]]:
        """The form; weights, ``rqdkm_quad_quant`` of every four channels, and bits of every pair."""
        assert layer.weights is not None
        g = geometry(layer)
        bits = widest(channel_bits(layer), _pairs(layer))
        finish = plan_finish(layer)
        assert finish is not None
        weights, (low, high) = _rows(layer), layer.inputs[0].span
        below = (high - low) * np.maximum(-weights, 0).sum(axis=1)  # what makes a channel's field non-negative
        bias = bias_of(layer, g.output_c) + finish.bias_delta
        bias = (bias + (low - layer.inputs[0].zero_point) * weights.sum(axis=1) - below) << LANE_SHIFT
        channels = np.stack([wrap_int32(bias), finish.multiplier, finish.offset, finish.shift], axis=1)
        fours = np.array(channel_fours(g.output_c))
        even, odd = below[fours[:, ::2]], below[fours[:, 1::2]]
        first = first_bit(layer)
        lower = (even << first) + (even << SECOND)
        start = np.stack([lower, odd + (odd << (SECOND - first))], axis=2)  # (fours, pair, low and high word)
        table: Int32Array = np.concatenate(
            [wrap_int32(start).reshape(-1, 4), channels[fours].reshape(-1, 16)], axis=1
        ).astype(np.int32)
        packed = pack_groups(self._pack_weights(g, layer.weights), bits)
        return finish.form, (packed, table.ravel(), np.array(bits, np.uint8))

    def _quant(self, layer: Layer, form: Form) -> str:
        low, _ = layer.inputs[0].span
        return (
            f"  const rqdkm_quad_params quant = {{rqdkm_quad_row_{form.name.lower()}, (const rqdkm_quad_quant *)c1,\n"
            f"                                   (const uint8_t *)c2, {low}, {first_bit(layer)}}};\n"
        )

    def _includes(self) -> tuple[str, ...]:
        return ("rqdkm/convolution.h", "rqdkm/kernels/quad.h")


def first_bit(layer: Layer) -> int:
    """Where operands and fields of the first pixel begin: 4 where that serves, else 5, which takes weights of -8 beside
    negative ones, for half the sum."""
    first, second = _rows(layer)[np.array(_pairs(layer))].transpose(1, 0, 2)
    return 5 if ((second == -8) & (first < 0)).any() else 4


def _greatest_field(layer: Layer) -> int:
    low, high = layer.inputs[0].span
    return (high - low) * int(np.abs(_rows(layer)).sum(axis=1).max())


def _rows(layer: Layer) -> npt.NDArray[np.int64]:
    """Weights, (output channels, taps)."""
    assert layer.weights is not None
    return layer.weights.reshape(layer.weights.shape[0], -1).astype(np.int64)


def _pairs(layer: Layer) -> list[tuple[int, int]]:
    """Output channels that share operands, in the order in which they are stored."""
    fours = channel_fours(layer.output.shape[3])
    return [pair for a, b, c, d in fours for pair in ((a, b), (c, d))]
