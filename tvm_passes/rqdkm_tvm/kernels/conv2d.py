"""Convolution, int8: geometry, requantization and packing that its kernels share, and the plain C reference."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from rqdkm_tvm.kernels._c import constant, dims, is_image
from rqdkm_tvm.kernels.keys import ByArithmetic
from rqdkm_tvm.kernels.lanes import Finish, Form, choose_finish
from rqdkm_tvm.kernels.pack import (
    Int8Array,
    Int32Array,
    channel_bits,
    channel_pairs,
    lane_bias,
    pack_channels,
    pack_groups,
    pack_pair_quant,
    round_up,
    widest,
)
from rqdkm_tvm.kernels.registry import Config, Kernel, Rows, register
from rqdkm_tvm.kernels.requantize import accumulator_bounds, convolution_multipliers
from rqdkm_tvm.layer import KernelCall, Layer, NDArray

#: Cycles to expand weights, by the bits they are stored in, relative to 8 bits; flash misses included.
EXPAND_COST = {8: 1.0, 4: 0.985, 2: 0.91}

_FINISH_CYCLES = {Form.FLOOR: 0.0, Form.SHIFT: 10.0, Form.AWAY: 18.0, Form.AWAY_SHIFT: 26.0, Form.WIDE: 400.0}
FORM_NAMES = {form: f"RQDKM_REQUANTIZE_{form.name}" for form in Form}


@dataclass(frozen=True)
class Geometry:
    """The integers of a convolution layer. Channels are per group where the name says so."""

    input_h: int
    input_w: int
    input_c: int
    kernel_h: int
    kernel_w: int
    group_c: int
    output_h: int
    output_w: int
    output_c: int
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]

    @property
    def groups(self) -> int:
        return self.input_c // self.group_c

    @property
    def group_outputs(self) -> int:
        return self.output_c // self.groups

    @property
    def group_pairs(self) -> int:
        return (self.group_outputs + 1) // 2

    @property
    def taps(self) -> int:
        return self.kernel_h * self.kernel_w * self.group_c

    @property
    def positions(self) -> int:
        return self.output_h * self.output_w

    @property
    def macs(self) -> int:
        return self.positions * self.output_c * self.taps

    @property
    def strip_columns(self) -> int:
        """Input columns that a row of a strip holds, padding included: all that some tap reads, and the input row."""
        reach = (self.output_w - 1) * self.stride[1] + (self.kernel_w - 1) * self.dilation[1] + 1
        return max(self.padding[1] + self.input_w, reach)

    @property
    def strip_row_lanes(self) -> int:
        """Lanes of a row of a strip in linear order, rounded up to whole words."""
        return round_up(self.strip_columns * self.input_c, 2)

    def strip_rows(self, rows: int) -> int:
        """Input rows that ``rows`` output rows read."""
        return (rows - 1) * self.stride[0] + (self.kernel_h - 1) * self.dilation[0] + 1

    @property
    def pads(self) -> bool:
        """Whether any tap of any output lies outside the input."""
        bottom = (self.output_h - 1) * self.stride[0] + (self.kernel_h - 1) * self.dilation[0]
        right = (self.output_w - 1) * self.stride[1] + (self.kernel_w - 1) * self.dilation[1]
        return self.padding[0] > 0 or self.padding[1] > 0 or bottom >= self.input_h or right >= self.input_w


def geometry(layer: Layer) -> Geometry:
    assert layer.weights is not None
    _, input_h, input_w, input_c = layer.inputs[0].shape
    _, output_h, output_w, output_c = layer.output.shape
    _, kernel_h, kernel_w, group_c = layer.weights.shape
    return Geometry(
        *(input_h, input_w, input_c, kernel_h, kernel_w, group_c, output_h, output_w, output_c),
        stride=tuple(layer.attrs["strides"]),
        dilation=tuple(layer.attrs["dilation"]),
        padding=tuple(layer.attrs["padding"]),
    )


def reject_convolution(layer: Layer) -> str | None:
    """What no int8 convolution kernel can do."""
    if not (is_image(layer.inputs[0]) and is_image(layer.output)):
        return "tensors must be int8 NHWC with N = 1"
    if layer.weights is None or layer.weights.dtype != np.int8 or layer.weights.ndim != 4:
        return "weights must be constant int8 OHWI"
    if layer.weight_zero_point != 0:
        return "weights must be symmetric (zero point 0)"
    groups = int(layer.attrs["groups"])
    g = geometry(layer)
    if g.group_c * groups != g.input_c or g.output_c % groups or layer.weights.shape[0] != g.output_c:
        return "weights must be (O, KH, KW, I / groups) with O a multiple of groups"
    return None


def bias_of(layer: Layer, channels: int) -> Int32Array:
    return np.zeros(channels, np.int32) if layer.bias is None else np.asarray(layer.bias, np.int32).reshape(channels)


def plan_finish(layer: Layer) -> Finish | None:
    """The cheapest exact form for a convolution; None where no fast kernel can hold the accumulator."""
    return _plan_finish(ByArithmetic(layer))


def finish_cycles(layer: Layer) -> float:
    """What the form of requantization costs a block of 4 pixels x 2 channels beyond FLOOR."""
    finish = plan_finish(layer)
    return 0.0 if finish is None else _FINISH_CYCLES[finish.form]


@lru_cache(maxsize=256)
def _plan_finish(key: ByArithmetic) -> Finish | None:
    layer = key.layer
    assert layer.weights is not None
    channels = layer.output.shape[3]
    return choose_finish(
        accumulator_bounds(layer.weights.reshape(channels, -1), bias_of(layer, channels), layer.inputs[0].zero_point),
        *convolution_multipliers(layer, channels),
        layer.output.zero_point,
        tuple(layer.attrs["clamp"]),
    )


def conv_params(layer: Layer) -> str:
    """The ``rqdkm_conv_params`` of a convolution, depthwise or not, as lines of a function body."""
    return constant(
        "rqdkm_conv_params",
        "params",
        input_offset=-layer.inputs[0].zero_point,
        output_offset=layer.output.zero_point,
        stride=layer.attrs["strides"],
        dilation=layer.attrs["dilation"],
        padding=layer.attrs["padding"],
        clamp=layer.attrs["clamp"],
    )


def conv_constants(layer: Layer) -> str:
    """The parameter structs that every convolution kernel takes, as lines of a function body."""
    assert layer.weights is not None
    _, kernel_h, kernel_w, group_c = layer.weights.shape
    return (
        conv_params(layer)
        + dims("input_dims", layer.inputs[0])
        + constant("rqdkm_dims", "filter_dims", h=int(kernel_h), w=int(kernel_w), c=int(group_c))
        + dims("output_dims", layer.output)
    )


#: of the structs that :func:`conv_constants` declares
CONV_ROWS = Rows("input_dims.h", "output_dims.h", "params.padding.top", "params.padding.bottom")


def pareto(candidates: Iterable[tuple[float, int, Config]]) -> list[Config]:
    """Of (cycles, scratch bytes, config): the configurations that nothing both faster and smaller beats, fastest first,
    hence the one with the least scratch last."""
    kept: list[Config] = []
    least: int | None = None
    for _, scratch, config in sorted(candidates, key=lambda item: (item[0], item[1])):
        if least is None or scratch < least:
            kept.append(config)
            least = scratch
    return kept


def panel_sizes(positions: int) -> list[int]:
    """Panel lengths that cut ``positions`` into equal parts: 1, 2, 3, 4, 6, 8, 12, ... of them, down to 8 pixels."""
    sizes: list[int] = []
    parts = 1
    while True:
        size = positions if parts == 1 else min(positions, round_up(-(-positions // parts), 4))
        if not sizes or size < sizes[-1]:
            sizes.append(size)
        if size <= 8:
            return sizes
        parts = parts * 3 // 2 if parts & (parts - 1) == 0 and parts > 1 else parts // 3 * 4 if parts % 3 == 0 else 2


@register
class Conv2dReference(Kernel):
    """Plain C: any kernel, stride, padding, dilation and groups."""

    name = "conv2d_s8_ref"
    ops = ("conv2d",)
    reference = True

    def parts(self, layer: Layer, config: Config) -> Rows:
        return CONV_ROWS

    def reject(self, layer: Layer) -> str | None:
        return reject_convolution(layer)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        g = geometry(layer)
        return 12.0 * g.macs + 60.0 * layer.output.size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        assert layer.weights is not None
        channels = layer.output.shape[3]
        multipliers, shifts = convolution_multipliers(layer, channels)
        body = (
            conv_constants(layer)
            + "  const rqdkm_channel_quant quant = {(const int32_t *)c2, (const int32_t *)c3};\n"
            + "  return rqdkm_conv2d_s8_ref(&params, &quant, &input_dims, (const int8_t *)in0, &filter_dims,\n"
            + "                             (const int8_t *)c0, (const int32_t *)c1, &output_dims, (int8_t *)out);\n"
        )
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=(layer.weights, bias_of(layer, channels), multipliers, shifts),
            scratch_bytes=0,
            body=body,
            includes=("rqdkm/convolution.h",),
            macs=geometry(layer).macs,
        )


@register
class Conv2dMixedReference(Kernel):
    """Plain C with tensors and weights of any width."""

    name = "conv2d_mixed_ref"
    ops = ("conv2d",)
    reference = True
    packed_weights = True
    packed_tensors = True

    def reject(self, layer: Layer) -> str | None:
        return reject_convolution(layer)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        g = geometry(layer)
        return 30.0 * g.macs + 100.0 * layer.output.size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        assert layer.weights is not None
        channels = layer.output.shape[3]
        bits = channel_bits(layer)
        multipliers, shifts = convolution_multipliers(layer, channels)
        body = (
            conv_constants(layer)
            + "  const rqdkm_channel_quant quant = {(const int32_t *)c2, (const int32_t *)c3};\n"
            + bits_constant(layer, "c4")
            + "  return rqdkm_conv2d_mixed_ref(&params, &quant, &bits, &input_dims, in0, &filter_dims, c0,\n"
            + "                                (const int32_t *)c1, &output_dims, out);\n"
        )
        weights = pack_channels(layer.weights.reshape(channels, -1), bits)
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=(weights, bias_of(layer, channels), multipliers, shifts, np.array(bits, np.uint8)),
            scratch_bytes=0,
            body=body,
            includes=("rqdkm/convolution.h",),
            macs=geometry(layer).macs,
        )


def bits_constant(layer: Layer, weights: str) -> str:
    """The ``rqdkm_bits`` of a layer, as a line of a function body."""
    return f"  const rqdkm_bits bits = {{{layer.inputs[0].bits}, {layer.output.bits}, (const uint8_t *){weights}}};\n"


@lru_cache(maxsize=64)
def _constant_bytes(kernel: PackedConv2d, key: ByArithmetic) -> int:
    """Of any configuration: they differ in none of the constants."""
    return sum(constant.nbytes for constant in kernel._packed(key.layer)[1])


class PackedConv2d(Kernel):
    """What the kernels with packed weights share. The last pair table and the weights are per group."""

    panels: ClassVar[bool] = False  # multiplies panels: the call names the function for its requantization
    ops = ("conv2d",)
    packed_weights = True

    def parts(self, layer: Layer, config: Config) -> Rows:
        return CONV_ROWS

    def reject(self, layer: Layer) -> str | None:
        reason = reject_convolution(layer) or self._reject_shape(geometry(layer))
        if reason is None and plan_finish(layer) is None:
            reason = "the accumulator may exceed 24 bits"
        return reason

    @abstractmethod
    def _reject_shape(self, g: Geometry) -> str | None:
        """Shapes that this kernel cannot run."""

    @abstractmethod
    def _pack_weights(self, g: Geometry, weights: Int8Array) -> Int8Array:
        """(group outputs, KH, KW, group_c) of one group -> packed at 8 bits, pairs one after the other."""

    @staticmethod
    def _pairs(g: Geometry) -> list[tuple[int, int]]:
        """Pairs of output channels, group after group."""
        return [
            (first + a, first + b)
            for first in range(0, g.output_c, g.group_outputs)
            for a, b in channel_pairs(g.group_outputs)
        ]

    def _pair_bits(self, layer: Layer) -> list[int]:
        return widest(channel_bits(layer), self._pairs(geometry(layer)))

    def _expand_cycles(self, layer: Layer, at_8_bits: float) -> float:
        """Expanding the weights of all pairs once; ``at_8_bits``: those of one pair."""
        g = geometry(layer)
        if not layer.packs_weights:
            return EXPAND_COST[8] * g.group_pairs * g.groups * at_8_bits
        return sum(EXPAND_COST[bits] for bits in self._pair_bits(layer)) * at_8_bits

    def _packed(self, layer: Layer) -> tuple[Form, tuple[NDArray, ...]]:
        """The form, and the constants: weights, pair table, and bits of every pair where not all have 8."""
        assert layer.weights is not None
        g = geometry(layer)
        finish = plan_finish(layer)
        assert finish is not None
        groups = np.split(layer.weights, g.groups)
        bits = self._pair_bits(layer)
        weights = pack_groups(np.concatenate([self._pack_weights(g, group) for group in groups]), bits)
        bias = lane_bias(
            layer.weights.reshape(g.output_c, -1),
            bias_of(layer, g.output_c) + finish.bias_delta,
            layer.inputs[0].zero_point,
        )
        table = pack_pair_quant(bias, finish, self._pairs(g))
        return finish.form, (weights, table, *([np.array(bits, np.uint8)] if layer.packs_weights else []))

    def constant_bytes(self, layer: Layer, config: Config) -> int:
        return _constant_bytes(self, ByArithmetic(layer))

    def _panel_cycles(self, layer: Layer, steps: int, pixels: int, resident: bool) -> float:
        """Products, requantization and weight expansion of a panel kernel; measured constants, see docs/kernels.md."""
        g = geometry(layer)
        pairs = g.group_pairs * g.groups
        blocks = g.positions / 4
        panels = -(-g.positions // pixels)
        products = blocks * (16.3 * steps + (51.0 if steps % 8 == 0 else 63.0) + finish_cycles(layer))
        # with resident weights a panel is multiplied with all of them in one go
        per_panel, expansions = (60.0, 1) if resident else (500.0, panels)
        return pairs * (products + panels * per_panel) + expansions * self._expand_cycles(layer, 3.7 * 2 * steps)

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        form, constants = self._packed(layer)
        body = (
            conv_constants(layer)
            + constant(
                "rqdkm_conv_tile",
                "tile",
                rows=int(config.get("rows", 1)),
                pixels=int(config.get("pixels", 1)),
                resident=int(config.get("resident", 0)),
            )
            + self._quant(layer, form)
            + self._invoke(geometry(layer), form, config)
        )
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=constants,
            scratch_bytes=self.scratch_bytes(layer, config),
            body=body,
            includes=self._includes(),
            macs=geometry(layer).macs,
        )

    def _quant(self, layer: Layer, form: Form) -> str:
        """The parameter ``quant`` of the call, as a line of the body."""
        bits = "(const uint8_t *)c2" if layer.packs_weights else "0"
        panel = f"rqdkm_panel_s8_{form.name.lower()}" if self.panels else "0"
        table = "(const rqdkm_pair_quant *)c1"
        return f"  const rqdkm_packed_quant quant = {{{FORM_NAMES[form]}, {table}, {bits}, {panel}}};\n"

    def _invoke(self, g: Geometry, form: Form, config: Config) -> str:
        """The call itself; may use params, input_dims, filter_dims, output_dims, tile and quant."""
        call = f"rqdkm_{self.name}"
        indent = " " * len(f"  return {call}(")
        return (
            f"  return {call}(&params, &quant, &input_dims, (const int8_t *)in0, &filter_dims, (const int8_t *)c0,\n"
            f"{indent}&output_dims, (int8_t *)out, &tile, scratch);\n"
        )

    def _includes(self) -> tuple[str, ...]:
        return ("rqdkm/convolution.h", *(("rqdkm/kernels/panel.h",) if self.panels else ()))
