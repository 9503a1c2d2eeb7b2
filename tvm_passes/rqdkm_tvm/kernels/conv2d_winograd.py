"""Exact integer Winograd convolutions, int8, 3x3: F(4x4, 3x3), F(2x2, 3x3) and the one-dimensional F(4, 3) for stride
1, F(4x4, 2x2) by phases for stride 2.

Not imported by the package: import this module to register them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import numpy as np

from rqdkm_tvm.kernels import winograd_pack as pack
from rqdkm_tvm.kernels._c import braces, constant, hwc, is_image
from rqdkm_tvm.kernels.add import AddLinear, add_params, solve_linear
from rqdkm_tvm.kernels.pack import channel_bits, pack_groups, packed_bytes, widest
from rqdkm_tvm.kernels.registry import Config, Kernel, Rows, get, register
from rqdkm_tvm.kernels.requantize import Int64Array, accumulator_bounds, convolution_multipliers
from rqdkm_tvm.layer import KernelCall, Layer, NDArray

INT8_CLAMP = (-128, 127)
CALL_GROUPS = 7  # of four tiles: how many are multiplied before they are finished (RQDKM_WINOGRAD_CALL_TILES)
UNPACK_CYCLES = {8: 0.0, 4: 110.0, 2: 98.0}  # four input channels of a pair of output channels to int8


@dataclass(frozen=True)
class Cost:
    """Cortex-M4 cycles of a kernel's parts, fitted to runs on the virtual board (5 wait states, flash accelerator on).

    Within 4 % of every measured configuration of six shapes; docs/winograd.md has the table.

    Args:
        input: transforming four input channels, per input column of a tile row (2-D) or per tile of a row (f4x1).
        weights: transforming four input channels of one output channel on line.
        group: finishing a group of four tiles for two output channels, whatever the group holds.
        tile: finishing one tile of one output channel; ``forms`` is what a form costs more than FLOOR.
        strip: starting a strip.
        few: what finishing a tile costs more in groups of two.
        pool, add: what an epilogue costs more than storing the tile; ``pooled_forms`` as ``forms`` where it pools.
        cut: finishing one tile of one output channel, more, where the tiles do not divide the map.
    """

    input: float
    weights: float
    group: float
    tile: float
    forms: Mapping[str, float]
    strip: float
    pool: float = 0.0
    add: float = 0.0
    few: float = 0.0
    pooled_forms: Mapping[str, float] = field(default_factory=dict)
    cut: float = 0.0


def _product_cycles(form: pack.Algorithm, channels: int, online: bool) -> float:
    """The products of four tiles and two output channels; transformed weights in flash wait for the flash."""
    blocks = form.kernel_rows * _ceil(channels, pack.BLOCK)
    if form.kernel_rows == 1 and channels <= pack.BLOCK // 2:
        return form.positions * (78.0 if online else 90.0)
    ram = 142 if blocks == 1 else 135 * blocks + 15
    return form.positions * (ram + (0 if online else 23.0 * blocks))


def _bias(layer: Layer) -> Int64Array:
    channels = layer.output.shape[3]
    return np.zeros(channels, np.int64) if layer.bias is None else np.asarray(layer.bias, np.int64).reshape(channels)


def _bounds(layer: Layer) -> tuple[Int64Array, Int64Array]:
    assert layer.weights is not None
    taps = layer.weights.reshape(layer.weights.shape[0], -1)
    return accumulator_bounds(taps, _bias(layer), layer.inputs[0].zero_point)


def _ceil(a: int, b: int) -> int:
    return -(-a // b)


def _reject_epilogue(layer: Layer) -> str | None:
    """Why the output stage cannot compute the layer's epilogue."""
    epilogue = layer.epilogue
    if epilogue is None:
        return None
    if epilogue.op == "add":
        if any(tensor.shape != layer.output.shape for tensor in (*epilogue.inputs, epilogue.output)):
            return "an added tensor that repeats"
        return None if _linear_add(layer) else "no linear form of the addition is exact for all operand pairs"
    height, width, _ = hwc(layer.output)
    attrs = epilogue.attrs
    if tuple(attrs["pool"]) != (2, 2) or tuple(attrs["strides"]) != (2, 2) or any(attrs["padding"]):
        return "only 2x2 pooling with stride 2 and without padding is fused"
    if hwc(epilogue.output)[:2] != (height // 2, width // 2) or height < 2 or width < 2:
        return "pooling must leave half of the map"
    if not (attrs["clamp"][0] <= layer.attrs["clamp"][0] and layer.attrs["clamp"][1] <= attrs["clamp"][1]):
        return "pooling clamps more than the convolution"
    return get("max_pool2d_s8").reject(epilogue)


def _linear_add(layer: Layer) -> AddLinear | None:
    """Constants of the addition in the epilogue: input 1 is the convolution's result."""
    epilogue = layer.epilogue
    assert epilogue is not None
    clamp = int(epilogue.attrs["clamp"][0]), int(epilogue.attrs["clamp"][1])
    convolved, residual = epilogue.inputs
    return solve_linear(add_params(convolved, residual, epilogue.output), clamp)


def _pools(layer: Layer) -> bool:
    return layer.epilogue is not None and layer.epilogue.op == "max_pool2d"


def _computed(layer: Layer) -> tuple[int, int]:
    """Height and width of what is computed: pooling drops an odd last row or column."""
    height, width, _ = hwc(layer.output)
    return (height // 2 * 2, width // 2 * 2) if _pools(layer) else (height, width)


class WinogradConv2d(Kernel):
    """What the three algorithms share."""

    direct = False
    ops = ("conv2d",)
    packed_weights = True
    algorithm: ClassVar[str] = "winograd"  # the `baseline` configuration keeps to direct convolutions
    form: ClassVar[pack.Algorithm]
    stride: ClassVar[int] = 1
    cost: ClassVar[Cost]

    # ---- applicability ---------------------------------------------------------------------------------

    def reject(self, layer: Layer) -> str | None:
        if not (is_image(layer.inputs[0]) and is_image(layer.output)):
            return "tensors must be int8 NHWC with N = 1"
        weights = layer.weights
        if weights is None or weights.dtype != np.int8 or layer.weight_zero_point != 0:
            return "weights must be constant, int8, symmetric"
        if weights.shape[1:3] != (3, 3) or int(layer.attrs["groups"]) != 1:
            return f"the kernel is {weights.shape[1]}x{weights.shape[2]}, groups {layer.attrs['groups']}: 3x3 only"
        if tuple(layer.attrs["strides"]) != (self.stride, self.stride) or tuple(layer.attrs["dilation"]) != (1, 1):
            return f"stride must be {self.stride} and dilation 1"
        if weights.shape[3] % 4 != 0:
            return f"{weights.shape[3]} input channels: not a multiple of 4, transforming them costs more than it saves"
        return _reject_epilogue(layer) or self._unproven(layer)

    def _unproven(self, layer: Layer) -> str | None:
        """The first output channel whose accumulator could leave the range in which the arithmetic is exact."""
        low, high = _bounds(layer)
        reach = np.maximum(np.abs(low), np.abs(high))
        limit = 1 << (31 - self.form.power)
        if (reach < limit).all():
            return None
        channel = int(np.argmax(reach >= limit))
        return (
            f"output channel {channel}: the accumulator can reach {int(reach[channel])} with these weights, "
            f"exact below 2^{31 - self.form.power} = {limit} only"
        )

    @staticmethod
    def _pair_bits(layer: Layer) -> list[int]:
        """Bits of the weights of every pair of output channels; an added last one has any."""
        bits = channel_bits(layer)
        return widest(bits, [range(first, min(first + 2, len(bits))) for first in range(0, len(bits), 2)])

    def _unpack_cycles(self, layer: Layer) -> float:
        """Four input channels of all pairs of output channels to int8."""
        return sum(UNPACK_CYCLES[bits] for bits in self._pair_bits(layer)) if layer.packs_weights else 0.0

    def _unpacked_words(self, layer: Layer, config: Config) -> int:
        """Words of scratch for a pair of output channels as int8; M can lie there too."""
        return 18 * (hwc(layer.inputs[0])[2] // 4) if layer.packs_weights and config["weights"] == "online" else 0

    # ---- configurations --------------------------------------------------------------------------------

    def _strips(self, layer: Layer) -> list[int]:
        """Legal strip heights, largest first."""
        raise NotImplementedError

    def configs(self, layer: Layer) -> list[Config]:
        every: list[Config] = [
            {"strip": strip, "weights": weights} for weights in ("online", "flash") for strip in self._strips(layer)
        ]
        every.sort(key=lambda config: self.estimate_cycles(layer, config))
        smallest = min(every, key=lambda config: self.scratch_bytes(layer, config))
        return [config for config in every if config is not smallest] + [smallest]

    def _group(self, layer: Layer, config: Config) -> tuple[int, int]:
        """Tiles and output channels of one product."""
        return 4, 2

    def _estimate(self, layer: Layer, config: Config, *, inputs: int, strips: int, products: int, tiles: int) -> float:
        """Cycles, from how often each part runs: ``inputs`` units of input per four channels, and so on."""
        channels, outputs = hwc(layer.inputs[0])[2], hwc(layer.output)[2]
        quads = channels // 4
        online = config["weights"] == "online"
        table = self.table(layer)
        fast = self._fast_form(layer, table)
        wide = int(table.words[:, 5].sum())
        forms, tile = self.cost.forms, self.cost.tile
        if _pools(layer):
            forms, tile = self.cost.pooled_forms, tile + self.cost.pool
        elif layer.epilogue is not None:
            tile += self.cost.add
        if any(size % of for size, of in zip(_computed(layer), self.form.tile, strict=True)):
            tile += self.cost.cut
        if self._group(layer, config) == (2, 4):
            tile += self.cost.few
        finishing = tiles * (outputs * tile + wide * forms["wide"] + (outputs - wide) * forms[fast])
        return (
            inputs * quads * self.cost.input
            + (strips * quads * (outputs * self.cost.weights + self._unpack_cycles(layer)) if online else 0.0)
            + products * (_product_cycles(self.form, channels, online) + self.cost.group)
            + finishing
            + strips * self.cost.strip
        )

    def constant_bytes(self, layer: Layer, config: Config) -> int:
        """Flash that the constants of ``lower(layer, config)`` take, without packing them."""
        channels, outputs = hwc(layer.inputs[0])[2], hwc(layer.output)[2]
        if config["weights"] == "online":
            weights = sum(packed_bytes(2 * 9 * channels, bits) for bits in self._pair_bits(layer))
            weights += len(self._pair_bits(layer)) if layer.packs_weights else 0
        else:
            blocks = self.form.kernel_rows * _ceil(channels, pack.BLOCK)
            weights = _ceil(outputs, 2) * blocks * self.form.positions * 64
        return weights + 24 * outputs

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        return (len(layer.inputs) - 1,) if layer.epilogue is not None and layer.epilogue.op == "add" else ()

    def parts(self, layer: Layer, config: Config) -> Rows:
        return Rows("params.input.h", "params.output.h", "params.pad_top")

    # ---- code ------------------------------------------------------------------------------------------

    def _fast_form(self, layer: Layer, table: pack.ChannelTable) -> str:
        if tuple(layer.attrs["clamp"]) != INT8_CLAMP:
            return "clamp"
        return "floor" if table.ties_up else "away"

    def _forms(self, layer: Layer, table: pack.ChannelTable) -> tuple[str, str]:
        """C functions for the fast channels and for the wide ones."""
        stage = "pool" if _pools(layer) else "output"
        prefix = f"rqdkm_winograd_{self.form.name}_{stage}_"
        wide = prefix + "wide"
        return (prefix + self._fast_form(layer, table) if table.fast else wide), (wide if table.wide else "0")

    def table(self, layer: Layer) -> pack.ChannelTable:
        """The channel constants of ``layer``."""
        assert layer.weights is not None
        clamp = tuple(layer.attrs["clamp"])
        return pack.channel_table(
            self.form,
            layer.weights.astype(np.int64).sum(axis=(1, 2, 3)),
            _bias(layer),
            _bounds(layer),
            *convolution_multipliers(layer, layer.output.shape[3]),
            layer.inputs[0].zero_point,
            layer.output.zero_point,
            clamp[0] if clamp == INT8_CLAMP else -129,  # the clamp form takes ties down
            compared=_pools(layer),
        )

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        assert layer.weights is not None
        table = self.table(layer)
        fast, wide = self._forms(layer, table)
        online = config["weights"] == "online"
        packed = online and layer.packs_weights
        pair_bits = self._pair_bits(layer)
        weights: NDArray = (
            pack_groups(pack.pack_weights_online(layer.weights), pair_bits)
            if online
            else pack.pack_weights(self.form, layer.weights)
        )
        top, left, *_ = layer.attrs["padding"]
        variant = "_few" if self._group(layer, config) == (2, 4) else ""
        transform = f"rqdkm_winograd_{self.form.name}{variant}_weights" if online else "0"
        input_dims, output_dims = braces(hwc(layer.inputs[0])), braces(hwc(layer.stored))
        bits = "(const uint8_t *)c2" if packed else "0"
        add, residual = "", "0"
        if layer.epilogue is not None and layer.epilogue.op == "add":
            linear = _linear_add(layer)
            assert linear is not None
            add = constant("rqdkm_add_linear_params", "add", **asdict(linear), clamp=layer.epilogue.attrs["clamp"])
            residual = f"(const int8_t *)in{len(layer.inputs) - 1}"
        images = f"(const int8_t *)in0, {residual}" if self.epilogues else "(const int8_t *)in0"
        body = (
            f"{add}  {'' if packed else 'static '}const rqdkm_winograd_params params = {{\n"
            f"      {input_dims}, {output_dims}, {top}, {left}, {layer.inputs[0].zero_point}, {config['strip']},\n"
            f"      {braces(layer.attrs['clamp'])}, {transform}, {fast}, {wide}, {bits},\n"
            f"      {2 if _pools(layer) else 1}, {'&add' if add else '0'}}};\n"
            f"  return rqdkm_{self.name}{variant}(&params, {images}, c0, (const rqdkm_winograd_channel *)c1,\n"
            "      (int8_t *)out, scratch);\n"
        )
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=(weights, table.words, *([np.array(pair_bits, np.uint8)] if packed else [])),
            scratch_bytes=self.scratch_bytes(layer, config),
            body=body,
            includes=("rqdkm/winograd.h",),
            macs=layer.output.size * int(np.prod(layer.weights.shape[1:])),
        )


class WinogradConv2d2d(WinogradConv2d):
    """Both axes transformed. ``strip``: groups of four tiles, in reading order, that are in RAM at once."""

    epilogues = frozenset({"add", "max_pool2d"})

    def _tiles(self, layer: Layer) -> tuple[int, int]:
        height, width = _computed(layer)
        return _ceil(height, self.form.tile[0]), _ceil(width, self.form.tile[1])

    def _strips(self, layer: Layer) -> list[int]:
        """Equal parts of the map: 1, 2, 3, 4, 6, 8, 12, ... of them."""
        rows, columns = self._tiles(layer)
        groups = _ceil(rows * columns, 4)
        parts = {k * 2**n for k in (1, 3) for n in range(groups.bit_length() + 1)}
        return sorted({_ceil(groups, n) for n in parts}, reverse=True)

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        """Over the residual; over the input where no strip writes rows that a later one reads."""
        return ((0,) if self._writes_behind(layer, config) else ()) + super().in_place(layer, config)

    def _writes_behind(self, layer: Layer, config: Config) -> bool:
        """A strip's input is transformed before its first result is written, so only later strips matter."""
        if layer.stored.size > layer.inputs[0].size:
            return False
        rows, columns = self._tiles(layer)
        _, width, channels = hwc(layer.inputs[0])
        height_out, width_out, channels_out = hwc(layer.stored)
        tile_rows = self.form.tile[0] // (2 if _pools(layer) else 1)
        _, advance = self._edge_and_advance()
        for end in range(4 * int(config["strip"]), rows * columns, 4 * int(config["strip"])):
            written = min(((end - 1) // columns + 1) * tile_rows, height_out) * width_out * channels_out
            needed = max(end // columns * advance - int(layer.attrs["padding"][0]), 0) * width * channels
            if written > needed:
                return False
        return True

    def _edge_and_advance(self) -> tuple[int, int]:
        """Inputs of a tile along an axis, and from one tile to the next."""
        advance = self.form.tile[0] * self.stride
        return advance + 3 - self.stride, advance

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        _, width, channels = hwc(layer.inputs[0])
        rows, columns = self._tiles(layer)
        blocks, positions = _ceil(channels, pack.BLOCK), self.form.positions
        edge, advance = self._edge_and_advance()
        tiles = min(4 * int(config["strip"]), rows * columns)
        lanes, outputs = self._group(layer, config)
        groups = min(_ceil(tiles, 4), CALL_GROUPS) if lanes == 4 else 1
        transformed = _ceil(tiles, lanes) * lanes * blocks * positions * 8
        products = (blocks * positions * 8 * outputs if config["weights"] == "online" else 0) + max(
            groups * 8 * positions, self._unpacked_words(layer, config)
        )
        run = min(tiles, columns) * advance + edge - advance
        columns_kept = run * 2 * edge + min(run, width) * channels // 4
        return 4 * (transformed + 2 * tiles + max(products, columns_kept))

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        rows, columns = self._tiles(layer)
        tiles, step = rows * columns, 4 * int(config["strip"])
        edge, advance = self._edge_and_advance()
        lanes, outputs = self._group(layer, config)
        inputs = products = 0
        starts = range(0, tiles, step)
        for start in starts:
            end = min(start + step, tiles)
            tile_rows = (end - 1) // columns - start // columns + 1  # each is a run of columns of its own
            inputs += advance * (end - start) + (edge - advance) * tile_rows
            products += _ceil(end - start, lanes) * _ceil(hwc(layer.output)[2], outputs)
        return self._estimate(layer, config, inputs=inputs, strips=len(starts), products=products, tiles=tiles)


@register
class WinogradF4x4(WinogradConv2d2d):
    """36 products for 16 outputs of 9 taps."""

    name = "conv2d_s8_winograd_f4x4"
    form = pack.F4X4
    cost = Cost(
        181,
        319,
        1402,
        214,
        {"floor": 0, "away": 48, "clamp": 265, "wide": 805},
        1333,
        pool=-30,
        add=160,
        few=250,
        pooled_forms={"floor": 0, "away": 18, "clamp": 300, "wide": 1300},
        cut=130,
    )

    def _group(self, layer: Layer, config: Config) -> tuple[int, int]:
        """2 x 4 instead of 4 x 2 where few tiles would leave lanes empty: with weights on line and a single strip."""
        rows, columns = self._tiles(layer)
        tiles, outputs, channels = rows * columns, hwc(layer.output)[2], hwc(layer.inputs[0])[2]
        if config["weights"] != "online" or 4 * int(config["strip"]) < tiles:
            return 4, 2
        saved = _ceil(tiles, 4) * _ceil(outputs, 2) - _ceil(tiles, 2) * _ceil(outputs, 4)
        pays = saved * (_product_cycles(self.form, channels, True) + self.cost.group) > tiles * outputs * self.cost.few
        return (2, 4) if pays else (4, 2)


@register
class WinogradF4x4Stride2(WinogradConv2d2d):
    """Stride 2 by phases: 81 products for 16 outputs of 9 taps."""

    name = "conv2d_s8_winograd_f4x4s2"
    epilogues = frozenset({"add"})
    form = pack.F4X4S2
    stride = 2
    cost = Cost(231, 702, 2654, 202, {"floor": 0, "away": 48, "clamp": 265, "wide": 805}, 3878, add=174, cut=130)


@register
class WinogradF2x2(WinogradConv2d2d):
    """16 products for 4 outputs of 9 taps: for maps so small that tiles of four would mostly be padding."""

    name = "conv2d_s8_winograd_f2x2"
    form = pack.F2X2
    cost = Cost(
        131,
        186,
        0,
        151,
        {"floor": 0, "away": 27, "clamp": 61, "wide": 205},
        1563,
        pool=-10,
        add=60,
        pooled_forms={"floor": 0, "away": 7, "clamp": 20, "wide": 205},
    )


@register
class WinogradF4x1(WinogradConv2d):
    """18 products for 4 outputs of 9 taps, with little scratch. ``strip``: output rows in RAM at once."""

    name = "conv2d_s8_winograd_f4x1"
    form = pack.F4X1
    cost = Cost(140, 175, 0, 121, {"floor": 0, "away": 12, "clamp": 39, "wide": 158}, 73)

    def _lanes(self, layer: Layer) -> tuple[int, int, int]:
        """Tiles of a row in a group of four lanes, bands of rows, groups side by side."""
        tiles = _ceil(hwc(layer.output)[1], 4)
        lanes = tiles if tiles < 3 else 4
        return lanes, 4 // lanes, _ceil(tiles, lanes)

    def _strips(self, layer: Layer) -> list[int]:
        height = hwc(layer.output)[0]
        _, bands, _ = self._lanes(layer)
        sizes = {height}
        while (size := max(_ceil(min(sizes), 2), min(bands, height))) < min(sizes):
            sizes.add(size)
        return sorted(sizes, reverse=True)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        height, width, _ = hwc(layer.output)
        channels = hwc(layer.inputs[0])[2]
        _, bands, columns = self._lanes(layer)
        blocks, positions = _ceil(channels, pack.BLOCK), self.form.positions
        rows = _ceil(min(int(config["strip"]), height), bands)
        transformed = columns * (rows + 2) * blocks * positions * 32
        products = (3 * blocks * positions * 16 if config["weights"] == "online" else 0) + max(
            8 * positions, self._unpacked_words(layer, config)
        )
        padded_row = (_ceil(width, 4) * 4 + 2) * channels
        return 4 * (transformed + columns * rows * 4 * 2) + max(4 * products, padded_row)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        height, width, _ = hwc(layer.output)
        _, bands, columns = self._lanes(layer)
        strip = min(int(config["strip"]), height)
        rows, strips = _ceil(strip, bands), _ceil(height, strip)
        groups = strips * columns * rows
        inputs = strips * bands * (rows + 2) * _ceil(width, 4)
        products = groups * _ceil(hwc(layer.output)[2], 2)
        return self._estimate(layer, config, inputs=inputs, strips=strips, products=products, tiles=4 * groups)
