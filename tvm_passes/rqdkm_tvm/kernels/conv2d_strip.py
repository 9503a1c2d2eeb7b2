"""Convolutions that read blocks of pixels straight from strips of expanded rows, instantiated per layer."""

from __future__ import annotations

from abc import abstractmethod

from rqdkm_tvm.kernels.ahead import strips_stay_ahead
from rqdkm_tvm.kernels.conv2d import FORM_NAMES, Geometry, PackedConv2d, finish_cycles, geometry, pareto, plan_finish
from rqdkm_tvm.kernels.lanes import Form
from rqdkm_tvm.kernels.pack import Int8Array, linear_to_crossed, pack_pairs, pad_taps, round_up
from rqdkm_tvm.kernels.registry import Config, register
from rqdkm_tvm.layer import Layer


class StripConv2d(PackedConv2d):
    """Kernels that are instantiated for the layer and read blocks of pixels straight from strips of expanded rows.

    Configurations: ``rows`` output rows per strip, ``resident`` weights, and ``vertical`` lines of blocks.
    """

    def reject(self, layer: Layer) -> str | None:
        reason = super().reject(layer)
        if reason is None:
            finish = plan_finish(layer)
            if finish is not None and finish.form is Form.WIDE:
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

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        """A strip is expanded before its first result is written."""
        return (0,) if strips_stay_ahead(layer, int(config["rows"])) else ()

    @abstractmethod
    def _fits(self, g: Geometry, vertical: bool) -> bool:
        """Whether all offsets within a turn of the inner loop are immediates."""

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
            f"  return {call}(&params, &quant, &input_dims, (const int8_t *)in0, &filter_dims,\n"
            f"{indent}(const int8_t *)c0, &output_dims, (int8_t *)out, &tile, scratch,\n"
            f"{indent}{', '.join(map(str, self._constants(g, form, config)))}, {FORM_NAMES[form]});\n"
        )

    def _includes(self) -> tuple[str, ...]:
        return (f"rqdkm/kernels/{self.name}_template.h",)


@register
class Conv2dDirect(StripConv2d):
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
        return 2 * g.input_c * (g.stride[0] * g.strip_columns if vertical else g.stride[1])

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
        return g.strip_rows(rows) * g.strip_columns * g.input_c

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
        weights = self._expand_cycles(layer, 3.5 * g.taps) * (1 if config["resident"] else len(strips))
        return expand + g.group_pairs * self._block_cycles(g, config, products, 50 + finish_cycles(layer)) + weights

    def _pack_weights(self, g: Geometry, weights: Int8Array) -> Int8Array:
        return pack_pairs(weights.reshape(g.group_outputs, -1))

    def _constants(self, g: Geometry, form: Form, config: Config) -> tuple[int, ...]:
        vertical = bool(config["vertical"])
        return self._pitch(g, vertical), self._unroll(g), int(vertical)


@register
class Conv2dNarrow(StripConv2d):
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
        return 2 * g.strip_row_lanes * (1 + cls._pixel_lanes(g) % 2)

    @classmethod
    def _turn_rows(cls, g: Geometry, vertical: bool, most_steps: int = 12) -> int:
        """Kernel rows per turn: at most ``most_steps`` steps, and all offsets immediate; 0 if not even one row fits."""
        shifted = 2 * g.strip_row_lanes * (cls._pixel_lanes(g) % 2)
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
        strip = g.strip_rows(int(config["rows"])) * self._row_bytes(g) + 4  # a last run reads one lane more
        return round_up(4 * self._weight_words(g) * (g.group_pairs if config["resident"] else 1) + strip, 8)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        g = geometry(layer)
        strips = self._strips(g, int(config["rows"]))
        turns = g.kernel_h // max(1, self._turn_rows(g, bool(config["vertical"]), 15))
        products = 16.0 * g.kernel_h * self._steps(g) + (5 * turns if turns > 1 else 1)
        lane = 3.4 + 2.0 * (self._pixel_lanes(g) % 2)
        expand = sum(g.strip_rows(rows) for rows in strips) * (lane * g.strip_row_lanes + 60)
        weights = self._expand_cycles(layer, 1.75 * self._weight_words(g)) * (1 if config["resident"] else len(strips))
        return expand + g.group_pairs * self._block_cycles(g, config, products, 50 + finish_cycles(layer)) + weights

    def _pack_weights(self, g: Geometry, weights: Int8Array) -> Int8Array:
        runs = pad_taps(weights.reshape(g.group_outputs * g.kernel_h, -1), 2)
        return pack_pairs(linear_to_crossed(pad_taps(runs.reshape(g.group_outputs, -1), 4)))

    def _constants(self, g: Geometry, form: Form, config: Config) -> tuple[int, ...]:
        vertical = bool(config["vertical"])
        # the block loop must stay below 1 KB of code
        turn_rows = self._turn_rows(g, vertical, 15 if form is Form.FLOOR else 12)
        lanes = (self._pixel_lanes(g), self._steps(g), g.strip_row_lanes)
        return (*lanes, g.stride[0], g.kernel_h, turn_rows, int(vertical))
