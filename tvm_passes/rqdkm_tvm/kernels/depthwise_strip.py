"""Depthwise 3x3, stride 1, on a planar strip of row pairs: ``tflm_ops/include/rqdkm/depthwise_strip.h``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.kernels._c import constant, hwc
from rqdkm_tvm.kernels.conv2d import bias_of
from rqdkm_tvm.kernels.depthwise_conv2d import depthwise_macs, reject_depthwise
from rqdkm_tvm.kernels.depthwise_table import IN_FLASH, Table, with_packed
from rqdkm_tvm.kernels.exact_floor import Channel, Form, solve_layer
from rqdkm_tvm.kernels.keys import ByArithmetic
from rqdkm_tvm.kernels.pack import channel_bits
from rqdkm_tvm.kernels.registry import Config, Kernel, Rows, register
from rqdkm_tvm.kernels.requantize import accumulator_bounds, convolution_multipliers
from rqdkm_tvm.layer import KernelCall, Layer

_LANE_SHIFT = 8  # activations stand in their lanes as x << 8
TABLE_WORDS = 11


def depthwise_channels(layer: Layer) -> list[Channel]:
    """TFLite's requantization of every output channel, with the interval its accumulator can reach."""
    assert layer.weights is not None
    count = layer.output.shape[3]
    multipliers, shifts = convolution_multipliers(layer, count)
    weights = layer.weights.reshape(-1, count).T
    low, high = accumulator_bounds(weights, bias_of(layer, count), layer.inputs[0].zero_point)
    clamp = (int(layer.attrs["clamp"][0]), int(layer.attrs["clamp"][1]))
    return [
        Channel(int(m), int(s), layer.output.zero_point, clamp, int(lo), int(hi))
        for m, s, lo, hi in zip(multipliers, shifts, low, high, strict=True)
    ]


@dataclass(frozen=True)
class _Solved:
    form: Form
    right_shift: int  # the layer's; in form SHIFT each channel has its own
    table: Table


@lru_cache(maxsize=64)
def _solve(key: ByArithmetic) -> _Solved | None:
    layer = key.layer
    assert layer.weights is not None
    solved = solve_layer(depthwise_channels(layer), min_k=_LANE_SHIFT, max_k=_LANE_SHIFT + 8)
    if solved is None:
        return None
    form, floors = solved
    count = layer.output.shape[3]
    weights = layer.weights.reshape(3, 3, count).astype(np.int64)
    k = np.array([floor.k for floor in floors], np.int64)
    scaled = weights << (k - _LANE_SHIFT)
    folded = bias_of(layer, count).astype(np.int64) - layer.inputs[0].zero_point * weights.sum(axis=(0, 1))
    table = np.zeros((count, TABLE_WORDS), np.int64)
    for column in range(3):
        table[:, column] = _pair(scaled[0, column], scaled[1, column])
        table[:, 3 + column] = _pair(scaled[1, column], scaled[2, column])
    table[:, 6] = (folded - np.array([floor.base for floor in floors])) << k
    table[:, 7] = [floor.multiplier for floor in floors]
    table[:, 8] = [floor.offset for floor in floors]
    table[:, 9] = [floor.addend for floor in floors]
    table[:, 10] = [floor.right_shift for floor in floors]
    # the folded bias alone may exceed 32 bits, the accumulator does not: modulo 2**32 it is the same
    words = (table & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    return _Solved(form, floors[0].right_shift, Table(words, 6, np.stack([k - _LANE_SHIFT] * 2, axis=1)))


def _pair(low: npt.NDArray[np.int64], high: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return (low & 0xFFFF) | ((high & 0xFFFF) << 16)


@register
class DepthwiseStrip(Kernel):
    """3x3, stride 1, C a multiple of 4. Config ``pairs``: pairs of output rows per strip; ``packed``: weights below
    8 bits are unpacked into scratch first, else flash holds the whole table."""

    name = "depthwise_conv2d_s8_strip"
    ops = ("depthwise_conv2d",)
    packed_weights = True

    def reject(self, layer: Layer) -> str | None:
        reason = reject_depthwise(layer)
        if reason is not None:
            return reason
        assert layer.weights is not None
        attrs = layer.attrs
        if layer.weights.shape[1:3] != (3, 3) or tuple(attrs["strides"]) != (1, 1):
            return "only 3x3 with stride 1"
        if tuple(attrs["dilation"]) != (1, 1) or int(attrs["multiplier"]) != 1:
            return "only dilation 1 and channel multiplier 1"
        if layer.inputs[0].shape[3] % 4 != 0:
            return "channels must be a multiple of 4"
        if self._solved(layer) is None:
            return "requantization has no exact single floor"
        return None

    def parts(self, layer: Layer, config: Config) -> Rows:
        return Rows("params.input.h", "params.output.h", "params.pad_top")

    def configs(self, layer: Layer) -> list[Config]:
        whole = (hwc(layer.output)[0] + 1) // 2
        return with_packed(layer, [{"pairs": whole}, *({"pairs": pairs} for pairs in (8, 4, 2, 1) if pairs < whole)])

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        strip = (int(config["pairs"]) + 1) * 16 * (hwc(layer.output)[1] + 2)
        return strip + (self._table(layer).scratch_bytes if config.get("packed") else 0)

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        """One strip for the whole map: four channels are laid out before the first of their results is written."""
        whole = 2 * int(config["pairs"]) >= hwc(layer.output)[0]
        return (0,) if whole and hwc(layer.inputs[0]) == hwc(layer.output) else ()

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        h, w, c = hwc(layer.output)
        pairs, (double, single) = int(config["pairs"]), divmod(h, 2)
        strips = -(-(double + single) // pairs)
        solved = self._solved(layer)
        form = solved.form if solved else Form.SHIFT
        finish = {Form.FLOOR: 0.0, Form.AWAY: 2.5, Form.SHIFT: 3.5}[form]
        quads, rest = divmod(w, 4)
        double_row = quads * 106.0 + (16.0 + 22.0 * rest if rest else 0.0) + 10.0
        single_row = quads * 58.0 + (13.0 + 12.0 * rest if rest else 0.0) + 5.0
        layout = c / 4 * ((double + single + 1) * (w * 17.5 + 25.0) + (strips - 1) * (4.0 * w + 30.0) * 6.0)
        rows = double * double_row + single * single_row + strips * 60.0
        unpack = self._table(layer).unpack_cycles if config.get("packed") else 0.0
        return unpack + layout + c * (rows + finish * h * w)

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        solved = self._solved(layer)
        assert solved is not None
        packed = bool(config.get("packed"))
        body = (
            constant(
                "rqdkm_depthwise_strip_params",
                "params",
                input=hwc(layer.inputs[0]),
                output=hwc(layer.output),
                pad_top=int(layer.attrs["padding"][0]),
                pad_left=int(layer.attrs["padding"][1]),
                input_zero_point=layer.inputs[0].zero_point,
                pairs=int(config["pairs"]),
                right_shift=solved.right_shift,
                form=int(solved.form),
                clamp=layer.attrs["clamp"],
            )
            + (solved.table.unpack() if packed else IN_FLASH)
            + "  return rqdkm_depthwise_strip_layer(&params, (const int8_t *)in0, table, (int8_t *)out, rest);\n"
        )
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=solved.table.constants(channel_bits(layer)) if packed else (solved.table.words,),
            scratch_bytes=self.scratch_bytes(layer, config),
            body=body,
            includes=("rqdkm/depthwise_strip.h",),
            macs=depthwise_macs(layer),
        )

    def _table(self, layer: Layer) -> Table:
        solved = self._solved(layer)
        assert solved is not None
        return solved.table

    def _solved(self, layer: Layer) -> _Solved | None:
        return _solve(ByArithmetic(layer))
