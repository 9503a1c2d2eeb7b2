"""Depthwise convolution of stride 1 or 2 along rows, on planar rows of 16-bit pixels:
``tflm_ops/include/rqdkm/kernels/depthwise_s8_plane_template.h``."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from rqdkm_tvm.kernels._c import constant, hwc
from rqdkm_tvm.kernels.ahead import strips_stay_ahead
from rqdkm_tvm.kernels.conv2d import bias_of
from rqdkm_tvm.kernels.depthwise_conv2d import depthwise_macs, reject_depthwise
from rqdkm_tvm.kernels.depthwise_direct import solve_floors
from rqdkm_tvm.kernels.depthwise_table import IN_FLASH, Table, with_packed
from rqdkm_tvm.kernels.exact_floor import Floor, Form
from rqdkm_tvm.kernels.keys import ByArithmetic
from rqdkm_tvm.kernels.pack import channel_bits
from rqdkm_tvm.kernels.registry import Config, Kernel, Rows, register
from rqdkm_tvm.layer import KernelCall, Layer

_WORDS = range(2, 5)  # of a kernel row, that the template knows


@dataclass(frozen=True)
class _Sizes:
    """As ``rqdkm_dwp_sizes``."""

    words: int
    sets: int
    columns: int

    @classmethod
    def of(cls, layer: Layer) -> _Sizes:
        assert layer.weights is not None
        sets = 2 if int(layer.attrs["strides"][1]) == 1 else 1
        words = (int(layer.weights.shape[2]) + sets) // 2
        width = hwc(layer.output)[1]
        return cls(words, sets, -(-width // 4) * 4 // sets + words - 1)


@dataclass(frozen=True)
class _Solved:
    form: Form
    right_shift: int  # the layer's; in form SHIFT each channel has its own
    table: Table


@lru_cache(maxsize=64)
def _solve(key: ByArithmetic, sets: int) -> _Solved | None:
    solved = solve_floors(key)
    if solved is None:
        return None
    form, floors = solved
    return _Solved(form, floors[0].right_shift, _table(key.layer, floors, sets))


def _table(layer: Layer, floors: list[Floor], sets: int) -> Table:
    assert layer.weights is not None
    count = layer.output.shape[3]
    k = np.array([floor.k for floor in floors], np.int64)
    weights = np.moveaxis(layer.weights[0].astype(np.int64), 2, 0)  # (C, KH, KW)
    folded = bias_of(layer, count).astype(np.int64) - layer.inputs[0].zero_point * weights.sum(axis=(1, 2))
    height, width = weights.shape[1:]
    lanes = np.zeros((count, height, sets, (width + sets) // 2 * 2), np.int64)
    for offset in range(sets):  # the second set begins in the middle of a word
        lanes[:, :, offset, offset : offset + width] = weights << k[:, None, None]
    lanes = lanes.reshape(count, -1, 2)
    table = [(lanes[..., 0] & 0xFFFF) | ((lanes[..., 1] & 0xFFFF) << 16)]
    table.append(((folded - np.array([floor.base for floor in floors])) << k)[:, None])
    table.append(np.array([(f.multiplier, f.offset, f.addend, f.right_shift) for f in floors], np.int64))
    # the folded bias alone may exceed 32 bits, the accumulator does not: modulo 2**32 it is the same
    words = (np.concatenate(table, axis=1) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    return Table(words, lanes.shape[1], np.stack([k] * 2, axis=1))


@register
class DepthwisePlane(Kernel):
    """Kernels of 3 to 8 columns (stride 2), of 2 to 7 (stride 1). Config ``rows``: output rows per strip; ``packed`` as
    for the strip kernel."""

    name = "depthwise_conv2d_s8_plane"
    ops = ("depthwise_conv2d",)
    packed_weights = True

    def reject(self, layer: Layer) -> str | None:
        reason = reject_depthwise(layer)
        if reason is not None:
            return reason
        attrs = layer.attrs
        if tuple(attrs["dilation"]) != (1, 1) or int(attrs["multiplier"]) != 1:
            return "only dilation 1 and channel multiplier 1"
        if layer.inputs[0].shape[3] % 4 != 0:
            return "channels must be a multiple of 4"
        assert layer.weights is not None
        if layer.weights.shape[1:3] == (3, 3) and tuple(attrs["strides"]) == (1, 1):
            return "the strip kernel does 3x3 with stride 1 in less time and scratch"  # fewer candidates to weigh
        if int(attrs["strides"][1]) not in (1, 2) or _Sizes.of(layer).words not in _WORDS:
            return "only stride 1 or 2 along rows, and kernels of a few columns"
        if _solve(ByArithmetic(layer), _Sizes.of(layer).sets) is None:
            return "requantization has no exact single floor"
        return None

    def parts(self, layer: Layer, config: Config) -> Rows:
        return Rows("params.input.h", "params.output.h", "params.pad_top")

    def configs(self, layer: Layer) -> list[Config]:
        height = hwc(layer.output)[0]
        rows: list[Config] = [{"rows": height}, *({"rows": rows} for rows in (8, 4, 2, 1) if rows < height)]
        return with_packed(layer, rows)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        strip = 16 * self._height(layer, int(config["rows"])) * _Sizes.of(layer).columns
        return strip + (self._solved(layer).table.scratch_bytes if config.get("packed") else 0)

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        """Four channels of a strip are laid out before the first of their results is written."""
        return (0,) if strips_stay_ahead(layer, int(config["rows"])) else ()

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        assert layer.weights is not None
        sizes, solved = _Sizes.of(layer), self._solved(layer)
        height, width, channels = hwc(layer.output)
        kernel_h, rows = int(layer.weights.shape[1]), int(config["rows"])
        strips = -(-height // rows)
        shared = max(0, kernel_h - int(layer.attrs["strides"][0])) * (strips - 1)
        finish = {Form.FLOOR: 0.0, Form.AWAY: 2.0, Form.SHIFT: 3.0}[solved.form]
        if self._in_registers(layer, sizes):
            blocks, block = -(-width // 4) * 1.0, kernel_h * 8.2 * sizes.words + 32.0
        else:
            blocks, block = width / 4, kernel_h * (10.3 * sizes.words + 8.3) + 43.0
        layout = sizes.columns * (15.0 * self._height(layer, height) + 19.0 * shared)
        unpack = solved.table.unpack_cycles if config.get("packed") else 0.0
        return unpack + channels / 4 * layout + channels * (height * (blocks * block + width * finish) + strips * 82.0)

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        solved = self._solved(layer)
        packed = bool(config.get("packed"))
        assert layer.weights is not None
        body = (
            constant(
                "rqdkm_depthwise_plane_params",
                "params",
                input=hwc(layer.inputs[0]),
                output=hwc(layer.output),
                kernel=(int(layer.weights.shape[1]), int(layer.weights.shape[2])),
                stride=layer.attrs["strides"],
                pad_top=int(layer.attrs["padding"][0]),
                pad_left=int(layer.attrs["padding"][1]),
                input_zero_point=layer.inputs[0].zero_point,
                rows=int(config["rows"]),
                form=int(solved.form),
                right_shift=solved.right_shift,
                clamp=layer.attrs["clamp"],
            )
            + (solved.table.unpack() if packed else IN_FLASH)
            + "  return rqdkm_depthwise_s8_plane_layer(&params, (const int8_t *)in0, table, (int8_t *)out, rest);\n"
        )
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=solved.table.constants(channel_bits(layer)) if packed else (solved.table.words,),
            scratch_bytes=self.scratch_bytes(layer, config),
            body=body,
            includes=("rqdkm/kernels/depthwise_s8_plane_template.h",),
            macs=depthwise_macs(layer),
        )

    @staticmethod
    def _in_registers(layer: Layer, sizes: _Sizes) -> bool:
        """Whether the block is asm, all weights in registers and offsets immediates; else it is C."""
        assert layer.weights is not None
        kernel_h, down, quads = int(layer.weights.shape[1]), int(layer.attrs["strides"][0]), hwc(layer.output)[1] // 4
        offsets = (16 * (kernel_h - 1) * sizes.columns + 20, 16 * (down * sizes.columns - quads), 16 * quads)
        in_asm = sizes.sets == 1 and sizes.words <= 3 and kernel_h <= 5
        return in_asm and max(*offsets, 4 * layer.output.shape[3]) <= 4095

    @staticmethod
    def _height(layer: Layer, rows: int) -> int:
        """Planar rows of a strip."""
        assert layer.weights is not None
        return (rows - 1) * int(layer.attrs["strides"][0]) + int(layer.weights.shape[1])

    @staticmethod
    def _solved(layer: Layer) -> _Solved:
        solved = _solve(ByArithmetic(layer), _Sizes.of(layer).sets)
        assert solved is not None
        return solved
