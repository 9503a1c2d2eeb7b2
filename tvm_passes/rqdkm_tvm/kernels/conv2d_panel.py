"""Convolutions as matrix products of panels: gathered from the input (gemm) or copied from strips (im2row)."""

from __future__ import annotations

from rqdkm_tvm.kernels.ahead import panels_stay_ahead, strips_stay_ahead
from rqdkm_tvm.kernels.conv2d import Geometry, PackedConv2d, geometry, panel_sizes, pareto
from rqdkm_tvm.kernels.pack import Int8Array, linear_to_crossed, pack_pairs, pad_taps, round_up
from rqdkm_tvm.kernels.registry import Config, register
from rqdkm_tvm.layer import Layer


@register
class Conv2dGemm(PackedConv2d):
    """Matrix product of taps gathered from the int8 input: 1x1, and any shape with 4 n input channels per group."""

    name = "conv2d_s8_gemm"
    panels = True

    def _reject_shape(self, g: Geometry) -> str | None:
        return "input channels per group must be a multiple of 4" if g.group_c % 4 else None

    def configs(self, layer: Layer) -> list[Config]:
        g = geometry(layer)
        configs: list[Config] = [
            {"pixels": pixels, "resident": resident}
            for pixels in panel_sizes(g.positions)
            for resident in (False, True)
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
        return gather + self._panel_cycles(layer, g.taps // 2, int(config["pixels"]), bool(config["resident"]))

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        """A panel is expanded before its first result is written."""
        one = geometry(layer).groups == 1
        return (0,) if one and panels_stay_ahead(layer, int(config["pixels"])) else ()

    def _pack_weights(self, g: Geometry, weights: Int8Array) -> Int8Array:
        return pack_pairs(weights.reshape(g.group_outputs, -1))


@register
class Conv2dIm2row(PackedConv2d):
    """Matrix product of patches copied from expanded rows: any shape; made for first layers."""

    name = "conv2d_s8_im2row"
    panels = True

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

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        g = geometry(layer)
        steps, pixels = self._steps(g), int(config["pixels"])
        weights = 4 * (-(-steps // 2)) * (g.group_pairs if config["resident"] else 1)
        strip = g.strip_rows(int(config["rows"])) * g.strip_row_lanes // 2 + 1
        return round_up(4 * (weights + pixels * steps + strip) + (2 * pixels if g.group_outputs == 1 else 0), 8)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        g = geometry(layer)
        rows, pixels = int(config["rows"]), int(config["pixels"])
        runs, words = self._runs(g)
        strips = -(-g.output_h // rows)
        expand = g.groups * strips * g.strip_rows(rows) * (2.6 * g.strip_row_lanes + 60)
        gather = g.groups * g.positions * runs * (50 + 6.0 * words)
        panel_pixels = min(pixels, rows * g.output_w)
        return expand + gather + self._panel_cycles(layer, runs * words, panel_pixels, bool(config["resident"]))

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        """A strip is expanded before its first panel is multiplied."""
        one = geometry(layer).groups == 1
        return (0,) if one and strips_stay_ahead(layer, int(config["rows"])) else ()

    def _pack_weights(self, g: Geometry, weights: Int8Array) -> Int8Array:
        runs, words = self._runs(g)
        per_run = pad_taps(weights.reshape(g.group_outputs * runs, -1), 2)
        taps = pad_taps(per_run.reshape(g.group_outputs, runs * 2 * words), 4)
        return pack_pairs(linear_to_crossed(taps))
