"""Depthwise convolution of any kernel straight from HWC: ``tflm_ops/include/rqdkm/depthwise_direct.h``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rqdkm_tvm.kernels._c import constant, hwc
from rqdkm_tvm.kernels.ahead import strips_stay_ahead
from rqdkm_tvm.kernels.conv2d import bias_of
from rqdkm_tvm.kernels.depthwise_conv2d import depthwise_macs, reject_depthwise
from rqdkm_tvm.kernels.depthwise_strip import depthwise_channels
from rqdkm_tvm.kernels.depthwise_table import IN_FLASH, Table, with_packed
from rqdkm_tvm.kernels.exact_floor import Floor, Form, solve_layer
from rqdkm_tvm.kernels.keys import ByArithmetic
from rqdkm_tvm.kernels.pack import channel_bits, widest
from rqdkm_tvm.kernels.registry import Config, Kernel, Rows, register
from rqdkm_tvm.layer import KernelCall, Layer

_REGISTER_TAPS = 9  # weights that the FPU's registers hold
_MIN_K, _MAX_K = 2, 8  # weights are scaled by 2**k within 16 bits


@dataclass(frozen=True)
class Geometry:
    """The layer's spatial parameters; a map of width 1 lies on its side, so that pixels run along a row."""

    input_h: int
    input_w: int
    output_h: int
    output_w: int
    kernel: tuple[int, int]
    stride: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, int, int, int]

    @property
    def padded(self) -> bool:
        return any(self.padding)

    def extent(self, rows: int, axis: int) -> int:
        """Input rows (axis 0) or columns (axis 1) that ``rows`` outputs read."""
        return (rows - 1) * self.stride[axis] + (self.kernel[axis] - 1) * self.dilation[axis] + 1


def geometry(layer: Layer) -> Geometry:
    assert layer.weights is not None
    (ih, iw, _), (oh, ow, _) = hwc(layer.inputs[0]), hwc(layer.output)
    kernel = (int(layer.weights.shape[1]), int(layer.weights.shape[2]))
    stride = _pair(layer.attrs["strides"])
    dilation = _pair(layer.attrs["dilation"])
    top, left, bottom, right = (int(value) for value in layer.attrs["padding"])
    if iw == 1 and ow == 1 and kernel[1] == 1:
        return Geometry(1, ih, 1, oh, (1, kernel[0]), stride[::-1], dilation[::-1], (left, top, right, bottom))
    return Geometry(ih, iw, oh, ow, kernel, stride, dilation, (top, left, bottom, right))


def _pair(values: tuple[int, int]) -> tuple[int, int]:
    return int(values[0]), int(values[1])


@dataclass(frozen=True)
class _Solved:
    form: Form
    right_shift: int  # the layer's; in form SHIFT each channel has its own
    table: Table


@lru_cache(maxsize=64)
def solve_floors(key: ByArithmetic) -> tuple[Form, list[Floor]] | None:
    """For weights that are scaled by 2**k within 16 bits, on inputs as they are; None: not exact."""
    return solve_layer(depthwise_channels(key.layer), min_k=_MIN_K, max_k=_MAX_K)


@lru_cache(maxsize=64)
def _solve(key: ByArithmetic) -> _Solved | None:
    solved = solve_floors(key)
    if solved is None:
        return None
    form, floors = solved
    return _Solved(form, floors[0].right_shift, _table(key.layer, floors))


def _row_channels(count: int) -> list[tuple[int, int]]:
    """Channels of every row of the table: pairs, then single channels, paired with themselves."""
    quads = count // 4 * 4
    return [(c + o, c + o + 2) for c in range(0, quads, 4) for o in (0, 1)] + [(c, c) for c in range(quads, count)]


def _table(layer: Layer, floors: list[Floor]) -> Table:
    """Rows of the C table: pairs (c, c + 2), (c + 1, c + 3) of every four channels, then single channels."""
    assert layer.weights is not None
    count = layer.output.shape[3]
    weights = layer.weights.reshape(-1, count).astype(np.int64)
    taps = weights.shape[0]
    k = np.array([floor.k for floor in floors], np.int64)
    scaled = weights << k
    folded = bias_of(layer, count).astype(np.int64) - layer.inputs[0].zero_point * weights.sum(axis=0)
    bias = (folded - np.array([floor.base for floor in floors])) << k
    held = max(taps, _REGISTER_TAPS)
    pairs = _row_channels(count)
    table = np.zeros((len(pairs), held + 10), np.int64)
    for row, (first, second) in zip(table, pairs, strict=True):
        row[:taps] = scaled[:, first] & 0xFFFF
        row[[held, held + 2, held + 3, held + 6, held + 8]] = bias[first], *_constants(floors[first])
        if second != first:
            row[:taps] |= (scaled[:, second] & 0xFFFF) << 16
            row[[held + 1, held + 4, held + 5, held + 7, held + 9]] = bias[second], *_constants(floors[second])
    # biases may exceed 32 bits where the accumulators do not: modulo 2**32 they are the same
    return Table((table & 0xFFFFFFFF).astype(np.uint32).view(np.int32), held, k[np.array(pairs)])


def _constants(floor: Floor) -> tuple[int, int, int, int]:
    return floor.multiplier, floor.offset, floor.addend, floor.right_shift


@register
class DepthwiseDirect(Kernel):
    """Any kernel, stride, padding and dilation; channel multiplier 1. Config ``rows``: output rows per padded strip;
    ``packed`` as for the strip kernel."""

    name = "depthwise_conv2d_s8_direct"
    ops = ("depthwise_conv2d",)
    packed_weights = True

    def reject(self, layer: Layer) -> str | None:
        reason = reject_depthwise(layer)
        if reason is not None:
            return reason
        if int(layer.attrs["multiplier"]) != 1:
            return "only channel multiplier 1"
        if _solve(ByArithmetic(layer)) is None:
            return "requantization has no exact single floor"
        return None

    def parts(self, layer: Layer, config: Config) -> Rows:
        lies = geometry(layer).input_w != layer.inputs[0].shape[2]  # on its side: rows are columns
        if lies:
            return Rows("params.input.w", "params.output.w", "params.padding.left", "params.padding.right")
        return Rows("params.input.h", "params.output.h", "params.padding.top", "params.padding.bottom")

    def configs(self, layer: Layer) -> list[Config]:
        shape = geometry(layer)
        if not shape.padded:
            return with_packed(layer, [{"rows": shape.output_h}])
        rows: list[Config] = [
            {"rows": shape.output_h},
            *({"rows": rows} for rows in (8, 4, 2, 1) if rows < shape.output_h),
        ]
        return with_packed(layer, rows)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        shape = geometry(layer)
        table = self._solved(layer).table.scratch_bytes if config.get("packed") else 0
        if not shape.padded:
            return table
        return table + shape.extent(int(config["rows"]), 0) * shape.extent(shape.output_w, 1) * layer.inputs[0].shape[3]

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        """A strip is padded, hence copied, before its first result is written."""
        copied = geometry(layer).padded
        return (0,) if copied and strips_stay_ahead(layer, int(config["rows"])) else ()

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        shape, channels = geometry(layer), layer.output.shape[3]
        taps = shape.kernel[0] * shape.kernel[1]
        rows = int(config["rows"])
        strips = -(-shape.output_h // rows)
        pairs, singles = channels // 4 * 2, channels % 4
        width = shape.output_w
        if self._in_registers(layer, shape):
            four = taps * 18.0 + 38.0
            row = min(-(-width // 4) * four, -(-width // 3) * four * 0.75) if width >= 3 else width * four * 0.35
        else:
            row = width // 4 * (taps * 34.0 + 90.0) + width % 4 * (taps * 12.0 + 54.0)
        solved = _solve(ByArithmetic(layer))
        finish = {Form.FLOOR: 0.0, Form.AWAY: 2.0, Form.SHIFT: 3.0}[solved.form if solved else Form.SHIFT]
        copied = shape.extent(rows, 0) * shape.extent(shape.output_w, 1) * channels * strips if shape.padded else 0
        single = shape.output_h * shape.output_w * (taps * 7.0 + 20.0)
        unpack = self._solved(layer).table.unpack_cycles if config.get("packed") else 0.0
        return (
            unpack
            + finish * layer.output.size
            + shape.output_h * pairs * (row + 40.0)
            + strips * pairs * 60.0
            + copied * 0.9
            + singles * single
        )

    @staticmethod
    def _in_registers(layer: Layer, shape: Geometry) -> bool:
        """Whether the block is asm, all weights in registers and offsets immediates; else it is C, in a loop."""
        pixel = layer.inputs[0].shape[3]
        row = pixel * (shape.extent(shape.output_w, 1) if shape.padded else shape.input_w)
        (kernel_h, kernel_w), (down, right) = shape.kernel, shape.stride
        last = (kernel_h - 1) * shape.dilation[0] * row + (kernel_w - 1) * shape.dilation[1] * pixel
        return (
            kernel_h * kernel_w <= _REGISTER_TAPS
            and last + 3 * right * pixel <= 4095
            and 4 * pixel <= 4095
            and right * pixel * shape.output_w <= 65535
            and down * row - right * pixel * shape.output_w + 3 * right * pixel <= 65535
        )

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        solved = self._solved(layer)
        packed = bool(config.get("packed"))
        shape, channels = geometry(layer), layer.output.shape[3]
        scratch = self.scratch_bytes(layer, config)
        body = (
            constant(
                "rqdkm_depthwise_direct_params",
                "params",
                input=(shape.input_h, shape.input_w, channels),
                output=(shape.output_h, shape.output_w, channels),
                kernel=shape.kernel,
                stride=shape.stride,
                dilation=shape.dilation,
                padding=shape.padding,
                input_zero_point=layer.inputs[0].zero_point,
                rows=int(config["rows"]),
                right_shift=solved.right_shift,
                form=int(solved.form),
                clamp=layer.attrs["clamp"],
            )
            + (solved.table.unpack() if packed else IN_FLASH if scratch else IN_FLASH.replace("scratch", "0"))
            + "  return rqdkm_depthwise_direct_layer(&params, (const int8_t *)in0, table, (int8_t *)out, rest);\n"
        )
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=(
                solved.table.constants(widest(channel_bits(layer), _row_channels(channels)))
                if packed
                else (solved.table.words,)
            ),
            scratch_bytes=scratch,
            body=body,
            includes=("rqdkm/depthwise_direct.h",),
            macs=depthwise_macs(layer),
        )

    @staticmethod
    def _solved(layer: Layer) -> _Solved:
        solved = _solve(ByArithmetic(layer))
        assert solved is not None
        return solved
