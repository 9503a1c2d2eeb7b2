"""Convolution, int8: any kernel, stride, padding, dilation and groups; 1x1 included."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from rqdkm_tvm.kernels._c import constant, dims, is_image
from rqdkm_tvm.kernels.pack import (
    Int8Array,
    Int32Array,
    channel_pairs,
    doubled_bias,
    linear_to_crossed,
    pack_pair_quant,
    pack_pairs,
    pad_taps,
    round_up,
)
from rqdkm_tvm.kernels.registry import Config, Kernel, register
from rqdkm_tvm.kernels.requantize import (
    INT32_MAX,
    INT32_MIN,
    Form,
    Int64Array,
    Requantize,
    accumulator_bounds,
    choose_requantize,
    convolution_multipliers,
)
from rqdkm_tvm.layer import KernelCall, Layer

#: Forms that the panel and direct kernels implement.
FORMS = (Form.UP, Form.AWAY, Form.WIDE)
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


def plan_requantize(layer: Layer, forms: Iterable[Form] = FORMS) -> Requantize | None:
    """The cheapest exact form for a convolution; None where no fast kernel can hold the accumulator."""
    assert layer.weights is not None
    channels = layer.output.shape[3]
    return doubled_requantize(
        accumulator_bounds(layer.weights.reshape(channels, -1), bias_of(layer, channels), layer.inputs[0].zero_point),
        *convolution_multipliers(layer, channels),
        layer.output.zero_point,
        tuple(layer.attrs["clamp"]),
        forms,
    )


def doubled_requantize(
    bounds: tuple[Int64Array, Int64Array],
    multipliers: Int32Array,
    shifts: Int32Array,
    zero_point: int,
    clamp: tuple[int, int],
    forms: Iterable[Form] = FORMS,
) -> Requantize | None:
    """:func:`choose_requantize` for kernels whose accumulator arrives doubled and whose bias is free to move.

    None where only WIDE is exact and twice the accumulator does not fit 32 bits.
    """
    chosen = choose_requantize(bounds, multipliers, shifts, zero_point, clamp, forms, may_move_bias=True)
    if chosen.form is Form.WIDE and ((2 * bounds[0] < INT32_MIN).any() or (2 * bounds[1] > INT32_MAX).any()):
        return None
    return chosen


def conv_constants(layer: Layer) -> str:
    """The parameter structs that every convolution kernel takes, as lines of a function body."""
    assert layer.weights is not None
    _, kernel_h, kernel_w, group_c = layer.weights.shape
    return (
        constant(
            "rqdkm_conv_params",
            "params",
            input_offset=-layer.inputs[0].zero_point,
            output_offset=layer.output.zero_point,
            stride=layer.attrs["strides"],
            dilation=layer.attrs["dilation"],
            padding=layer.attrs["padding"],
            clamp=layer.attrs["clamp"],
        )
        + dims("input_dims", layer.inputs[0])
        + constant("rqdkm_dims", "filter_dims", h=int(kernel_h), w=int(kernel_w), c=int(group_c))
        + dims("output_dims", layer.output)
    )


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


class _PackedConv2d(Kernel):
    """What the kernels with packed weights share. The last pair table and the weights are per group."""

    ops = ("conv2d",)

    def reject(self, layer: Layer) -> str | None:
        reason = reject_convolution(layer) or self._reject_shape(geometry(layer))
        if reason is None and plan_requantize(layer) is None:
            reason = "twice the accumulator may exceed 32 bits"
        return reason

    @abstractmethod
    def _reject_shape(self, g: Geometry) -> str | None:
        """Shapes that this kernel cannot run."""

    @abstractmethod
    def _pack_weights(self, g: Geometry, weights: Int8Array) -> Int8Array:
        """(group outputs, KH, KW, group_c) of one group -> packed."""

    def _packed(self, layer: Layer) -> tuple[Form, Int8Array, Int32Array]:
        assert layer.weights is not None
        g = geometry(layer)
        requantize = plan_requantize(layer)
        assert requantize is not None
        groups = np.split(layer.weights, g.groups)
        weights = np.concatenate([self._pack_weights(g, group) for group in groups])
        bias = doubled_bias(
            layer.weights.reshape(g.output_c, -1),
            bias_of(layer, g.output_c) + requantize.bias_delta,
            layer.inputs[0].zero_point,
        )
        pairs = [
            (first + a, first + b)
            for first in range(0, g.output_c, g.group_outputs)
            for a, b in channel_pairs(g.group_outputs)
        ]
        return requantize.form, weights, pack_pair_quant(bias, requantize, pairs)

    def _panel_cycles(self, g: Geometry, steps: int, pixels: int, resident: bool) -> float:
        """Products, requantization and weight expansion of a panel kernel; measured constants, see docs/kernels.md."""
        pairs = g.group_pairs * g.groups
        blocks = g.positions / 4
        panels = 1 if resident else -(-g.positions // pixels)
        return pairs * (blocks * (16.3 * steps + 72) + panels * 3.7 * 2 * steps + -(-g.positions // pixels) * 60)

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        form, weights, pairs = self._packed(layer)
        body = (
            conv_constants(layer)
            + constant(
                "rqdkm_conv_tile",
                "tile",
                rows=int(config.get("rows", 1)),
                pixels=int(config.get("pixels", 1)),
                resident=int(config.get("resident", 0)),
            )
            + f"  const rqdkm_packed_quant quant = {{{FORM_NAMES[form]}, (const rqdkm_pair_quant *)c1}};\n"
            + self._invoke(geometry(layer), form, config)
        )
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=(weights, pairs),
            scratch_bytes=self.scratch_bytes(layer, config),
            body=body,
            includes=self._includes(),
            macs=geometry(layer).macs,
        )

    def _invoke(self, g: Geometry, form: Form, config: Config) -> str:
        """The call itself; may use params, input_dims, filter_dims, output_dims, tile and quant."""
        call = f"rqdkm_{self.name}"
        indent = " " * len(f"  return {call}(")
        return (
            f"  return {call}(&params, &quant, &input_dims, (const int8_t *)in0, &filter_dims, (const int8_t *)c0,\n"
            f"{indent}&output_dims, (int8_t *)out, &tile, scratch);\n"
        )

    def _includes(self) -> tuple[str, ...]:
        return ("rqdkm/convolution.h",)


@register
class Conv2dGemm(_PackedConv2d):
    """Matrix product of taps gathered from the int8 input: 1x1, and any shape with 4 n input channels per group."""

    name = "conv2d_s8_gemm"

    def _reject_shape(self, g: Geometry) -> str | None:
        return "input channels per group must be a multiple of 4" if g.group_c % 4 else None

    def configs(self, layer: Layer) -> list[Config]:
        g = geometry(layer)
        configs: list[Config] = [
            {"pixels": pixels, "resident": resident}
            for pixels in panel_sizes(g.positions)
            for resident in ((False, True) if pixels < g.positions else (False,))
        ]
        return pareto((self.estimate_cycles(layer, c), self.scratch_bytes(layer, c), c) for c in configs)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        g = geometry(layer)
        pixels = int(config["pixels"])
        expanded = 2 * g.taps * (g.group_pairs if config["resident"] else 1)
        words = expanded // 2 + pixels * g.taps // 2
        return round_up(4 * words + (g.group_c if g.pads else 0) + (2 * pixels if g.group_outputs == 1 else 0), 8)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        g = geometry(layer)
        tap = 12 if g.kernel_h * g.kernel_w == 1 and not g.pads else 85
        gather = g.groups * g.positions * (2.1 * g.taps + tap * g.kernel_h * g.kernel_w)
        return gather + self._panel_cycles(g, g.taps // 2, int(config["pixels"]), bool(config["resident"]))

    def _pack_weights(self, g: Geometry, weights: Int8Array) -> Int8Array:
        return pack_pairs(weights.reshape(g.group_outputs, -1))


@register
class Conv2dIm2row(_PackedConv2d):
    """Matrix product of patches copied from expanded rows: any shape; made for first layers."""

    name = "conv2d_s8_im2row"

    def _reject_shape(self, g: Geometry) -> str | None:
        return None

    def configs(self, layer: Layer) -> list[Config]:
        g = geometry(layer)
        configs: list[Config] = []
        for rows in sorted({min(g.output_h, n) for n in (1, 2, 3, 4, 6, 8, 12, 16, 25, 32)}):
            for pixels in panel_sizes(rows * g.output_w):
                configs += [{"rows": rows, "pixels": pixels, "resident": resident} for resident in (False, True)]
        return pareto((self.estimate_cycles(layer, c), self.scratch_bytes(layer, c), c) for c in configs)

    @staticmethod
    def _runs(g: Geometry) -> tuple[int, int]:
        """(runs of a patch, words of a run)"""
        whole_row = g.groups == 1 and g.dilation[1] == 1
        taps = g.kernel_w * g.group_c if whole_row else g.group_c
        return g.kernel_h * (1 if whole_row else g.kernel_w), -(-taps // 2)

    def _steps(self, g: Geometry) -> int:
        runs, words = self._runs(g)
        return runs * words

    @staticmethod
    def _columns(g: Geometry) -> int:
        """Input columns that a strip row holds, padding included."""
        reach = (g.output_w - 1) * g.stride[1] + (g.kernel_w - 1) * g.dilation[1] + 1
        return max(g.padding[1] + g.input_w, reach)

    @classmethod
    def _row_lanes(cls, g: Geometry) -> int:
        return round_up(cls._columns(g) * g.input_c, 2)

    @staticmethod
    def _strip_rows(g: Geometry, rows: int) -> int:
        return (rows - 1) * g.stride[0] + (g.kernel_h - 1) * g.dilation[0] + 1

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        g = geometry(layer)
        steps, pixels = self._steps(g), int(config["pixels"])
        weights = 4 * (-(-steps // 2)) * (g.group_pairs if config["resident"] else 1)
        strip = self._strip_rows(g, int(config["rows"])) * self._row_lanes(g) // 2 + 1
        return round_up(4 * (weights + pixels * steps + strip) + (2 * pixels if g.group_outputs == 1 else 0), 8)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        g = geometry(layer)
        rows, pixels = int(config["rows"]), int(config["pixels"])
        runs, words = self._runs(g)
        strips = -(-g.output_h // rows)
        expand = g.groups * strips * self._strip_rows(g, rows) * (2.6 * self._row_lanes(g) + 60)
        gather = g.groups * g.positions * runs * (50 + 6.0 * words)
        panel_pixels = min(pixels, rows * g.output_w)
        return expand + gather + self._panel_cycles(g, runs * words, panel_pixels, bool(config["resident"]))

    def _pack_weights(self, g: Geometry, weights: Int8Array) -> Int8Array:
        runs, words = self._runs(g)
        per_run = pad_taps(weights.reshape(g.group_outputs * runs, -1), 2)
        taps = pad_taps(per_run.reshape(g.group_outputs, runs * 2 * words), 4)
        return pack_pairs(linear_to_crossed(taps))


class _StripConv2d(_PackedConv2d):
    """Kernels that are instantiated for the layer and read blocks of pixels straight from strips of expanded rows.

    Configurations: ``rows`` output rows per strip, ``resident`` weights, and ``vertical`` lines of blocks.
    """

    def reject(self, layer: Layer) -> str | None:
        reason = super().reject(layer)
        if reason is None:
            requantize = plan_requantize(layer)
            if requantize is not None and requantize.form is Form.WIDE:
                reason = "multipliers need the 64-bit requantization"
            elif not self.configs(layer):
                reason = "pixels lie too far apart for immediate offsets"
        return reason

    def configs(self, layer: Layer) -> list[Config]:
        g = geometry(layer)
        configs: list[Config] = [
            {"rows": rows, "resident": resident, "vertical": vertical}
            for rows in sorted({min(g.output_h, n) for n in (1, 2, 3, 4, 6, 8, 12, 16, 25, 32)})
            for resident in ((False, True) if rows < g.output_h else (False,))
            for vertical in (False, True)
            if self._fits(g, vertical) and not (vertical and rows < 3)
        ]
        return pareto((self.estimate_cycles(layer, c), self.scratch_bytes(layer, c), c) for c in configs)

    @abstractmethod
    def _fits(self, g: Geometry, vertical: bool) -> bool:
        """Whether all offsets within a turn of the inner loop are immediates."""

    @staticmethod
    def _strip_rows(g: Geometry, rows: int) -> int:
        """Input rows that ``rows`` output rows read."""
        return Conv2dIm2row._strip_rows(g, rows)

    @staticmethod
    def _strips(g: Geometry, rows: int) -> list[int]:
        """Output rows of every strip."""
        return [min(rows, g.output_h - y) for y in range(0, g.output_h, rows)]

    def _block_cycles(self, g: Geometry, config: Config, four: float, fixed: float) -> float:
        """All blocks of one pair of channels.

        Args:
            four: cycles of the products of four pixels.
            fixed: cycles of a block beside them: start, requantization of four pixels, stores.
        """
        total = 0.0
        for rows in self._strips(g, int(config["rows"])):
            lines, length = (g.output_w, rows) if config["vertical"] else (rows, g.output_w)
            threes = -length % 4 if 3 * (-length % 4) <= length else length // 3
            fours = (length - 3 * threes) // 4
            rest = length - 3 * threes - 4 * fours
            line = fours * (four + fixed) + threes * (0.75 * four + 0.8 * fixed)
            line += {0: 0.0, 1: 0.9 * four + fixed, 2: 0.56 * four + 0.6 * fixed}[rest]
            total += lines * (line + 75 * (bool(fours) + bool(threes) + bool(rest)) + 20)
        return total

    def _constants(self, g: Geometry, form: Form, config: Config) -> tuple[int, ...]:
        """The template's compile-time constants but the form."""
        raise NotImplementedError

    def _invoke(self, g: Geometry, form: Form, config: Config) -> str:
        call = f"rqdkm_{self.name}_template"
        indent = " " * len(f"  return {call}(")
        return (
            f"  return {call}(&params, quant.pairs, &input_dims, (const int8_t *)in0, &filter_dims,\n"
            f"{indent}(const int8_t *)c0, &output_dims, (int8_t *)out, &tile, scratch,\n"
            f"{indent}{', '.join(map(str, self._constants(g, form, config)))}, {FORM_NAMES[form]});\n"
        )

    def _includes(self) -> tuple[str, ...]:
        return (f"rqdkm/kernels/{self.name}_template.h",)


@register
class Conv2dDirect(_StripConv2d):
    """A multiple of 4 input channels; several turns of the inner loop per kernel row."""

    name = "conv2d_s8_direct"

    def _reject_shape(self, g: Geometry) -> str | None:
        if g.groups != 1 or g.dilation[1] != 1:
            return "groups and column dilation are not supported"
        if g.group_c % 4:
            return "input channels must be a multiple of 4"
        return "needs 2 output channels" if g.output_c < 2 else None

    def _fits(self, g: Geometry, vertical: bool) -> bool:
        return 3 * self._pitch(g, vertical) + 4 * self._unroll(g) <= 4095

    @staticmethod
    def _pitch(g: Geometry, vertical: bool) -> int:
        """Bytes from one pixel of a block to the next."""
        return 2 * g.input_c * (g.stride[0] * Conv2dIm2row._columns(g) if vertical else g.stride[1])

    @staticmethod
    def _steps(g: Geometry) -> int:
        """Pairs of taps in one kernel row."""
        return g.kernel_w * g.input_c // 2

    @classmethod
    def _unroll(cls, g: Geometry) -> int:
        """Steps per turn of the inner loop: at most 12, or the loop outgrows the instruction cache."""
        return next(n for n in (12, 10, 8, 6, 4, 2) if cls._steps(g) % n == 0)

    def _strip(self, g: Geometry, rows: int) -> int:
        """Lanes of a strip."""
        return self._strip_rows(g, rows) * Conv2dIm2row._columns(g) * g.input_c

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        g = geometry(layer)
        weights = 4 * g.taps * (g.group_pairs if config["resident"] else 1)
        return round_up(weights + 2 * self._strip(g, int(config["rows"])), 8)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        g = geometry(layer)
        strips = self._strips(g, int(config["rows"]))
        turns = self._steps(g) // self._unroll(g)
        products = g.kernel_h * (16.0 * self._steps(g) + 4 * turns + 10)
        expand = 1.9 * sum(self._strip(g, rows) for rows in strips)
        weights = 3.5 * g.taps * (1 if config["resident"] else len(strips))
        return expand + g.group_pairs * (self._block_cycles(g, config, products, 60) + weights)

    def _pack_weights(self, g: Geometry, weights: Int8Array) -> Int8Array:
        return pack_pairs(weights.reshape(g.group_outputs, -1))

    def _constants(self, g: Geometry, form: Form, config: Config) -> tuple[int, ...]:
        vertical = bool(config["vertical"])
        return self._pitch(g, vertical), self._unroll(g), int(vertical)


@register
class Conv2dNarrow(_StripConv2d):
    """Few input channels: several short kernel rows per turn of the inner loop."""

    name = "conv2d_s8_narrow"

    def _reject_shape(self, g: Geometry) -> str | None:
        if g.groups != 1 or g.dilation != (1, 1):
            return "groups and dilation are not supported"
        if self._steps(g) > 12:
            return "kernel rows are too long"
        return "needs 2 output channels" if g.output_c < 2 else None

    def _fits(self, g: Geometry, vertical: bool) -> bool:
        return self._turn_rows(g, vertical) > 0

    @staticmethod
    def _steps(g: Geometry) -> int:
        """Words of a kernel row."""
        return -(-g.kernel_w * g.group_c // 2)

    @staticmethod
    def _pixel_lanes(g: Geometry) -> int:
        return g.stride[1] * g.input_c

    @classmethod
    def _row_bytes(cls, g: Geometry) -> int:
        """Of a strip row, the shifted copy included."""
        return 2 * Conv2dIm2row._row_lanes(g) * (1 + cls._pixel_lanes(g) % 2)

    @classmethod
    def _turn_rows(cls, g: Geometry, vertical: bool, most_steps: int = 12) -> int:
        """Kernel rows per turn: at most ``most_steps`` steps, and all offsets immediate; 0 if not even one row fits."""
        shifted = 2 * Conv2dIm2row._row_lanes(g) * (cls._pixel_lanes(g) % 2)
        last_pixel = 3 * g.stride[0] * cls._row_bytes(g) if vertical else 6 * cls._pixel_lanes(g) + shifted
        best = 0
        for rows in range(1, g.kernel_h + 1):
            reach = (rows - 1) * cls._row_bytes(g) + 4 * cls._steps(g) + last_pixel
            fits = rows * cls._steps(g) <= most_steps and max(reach, rows * cls._row_bytes(g)) <= 4095
            if g.kernel_h % rows == 0 and fits:
                best = rows
        return best

    def _weight_words(self, g: Geometry) -> int:
        return round_up(2 * g.kernel_h * self._steps(g), 4)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        g = geometry(layer)
        strip = self._strip_rows(g, int(config["rows"])) * self._row_bytes(g) + 4  # a last run reads one lane more
        return round_up(4 * self._weight_words(g) * (g.group_pairs if config["resident"] else 1) + strip, 8)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        g = geometry(layer)
        strips = self._strips(g, int(config["rows"]))
        turns = g.kernel_h // max(1, self._turn_rows(g, bool(config["vertical"]), 15))
        products = 16.0 * g.kernel_h * self._steps(g) + (5 * turns if turns > 1 else 1)
        lane = 3.4 + 2.0 * (self._pixel_lanes(g) % 2)
        expand = sum(self._strip_rows(g, rows) for rows in strips) * (lane * Conv2dIm2row._row_lanes(g) + 60)
        weights = 1.75 * self._weight_words(g) * (1 if config["resident"] else len(strips))
        return expand + g.group_pairs * (self._block_cycles(g, config, products, 60) + weights)

    def _pack_weights(self, g: Geometry, weights: Int8Array) -> Int8Array:
        runs = pad_taps(weights.reshape(g.group_outputs * g.kernel_h, -1), 2)
        return pack_pairs(linear_to_crossed(pad_taps(runs.reshape(g.group_outputs, -1), 4)))

    def _constants(self, g: Geometry, form: Form, config: Config) -> tuple[int, ...]:
        vertical = bool(config["vertical"])
        # the block loop must stay below 1 KB of code: 15 steps with UP (994 bytes), fewer with the longer AWAY
        turn_rows = self._turn_rows(g, vertical, 15 if form is Form.UP else 12)
        lanes = (self._pixel_lanes(g), self._steps(g), Conv2dIm2row._row_lanes(g))
        return (*lanes, g.stride[0], g.kernel_h, turn_rows, int(vertical))
