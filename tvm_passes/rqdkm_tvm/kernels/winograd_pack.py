"""Constants of the Winograd kernels: transformed weights and what each output channel needs to become int8.

Layouts and formulas: ``tflm_ops/include/rqdkm/winograd.h`` and docs/winograd.md. Pure functions of numpy arrays.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.kernels.requantize import INT32_MAX, INT32_MIN, Int64Array, multiply_by_quantized_multiplier

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]

BLOCK = 16  # input channels per block of the layouts

# Rows of G scaled to integers: by (4, -6, -6, 24, 24, 1) for F(4, 3), by (1, 2, 2, 1) for F(2, 3).
G4 = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [1, 2, 4], [1, -2, 4], [0, 0, 1]], dtype=np.int64)
G2 = np.array([[1, 0, 0], [1, 1, 1], [1, -1, 1], [0, 0, 1]], dtype=np.int64)
# Stride 2: F(4, 2) of taps 0 and 2, rows by (3, 3, -1, 1, 6), and tap 1 times 6 at four positions.
G4_BY_PHASE = np.array([[3, 0, 0], [3, 0, 3], [-1, 0, 1], [1, 0, 2], [0, 0, 6], *([[0, 6, 0]] * 4)], dtype=np.int64)


@dataclass(frozen=True)
class Algorithm:
    """One Winograd algorithm: what a sum in its domain is worth.

    The transformed sum is ``odd * 2**s * accumulator`` modulo 2**32 with s <= ``power``, the largest over the tile.

    Args:
        name: as in the kernel's name.
        tile: (rows, columns) of outputs per tile.
        transforms: G of the vertical and of the horizontal axis; the identity for an axis that is not transformed.
        odd: see above.
        power: see above.
        bias: how often a constant added at position (1, 1), or (any, 1), appears in the sum; ``odd * 2**power``
            divided by that position's weight.
    """

    name: str
    tile: tuple[int, int]
    transforms: tuple[Int64Array, Int64Array]
    odd: int
    power: int
    bias: int

    @property
    def positions(self) -> int:
        """P: products per tile, channel and (for f4x1) kernel row."""
        return len(self.transforms[1]) if self.tile[0] == 1 else len(self.transforms[0]) * len(self.transforms[1])

    @property
    def kernel_rows(self) -> int:
        """Products of different kernel rows that are added up: 3 where the vertical axis is direct."""
        return 3 if self.tile[0] == 1 else 1


F4X4 = Algorithm("f4x4", (4, 4), (G4, G4), odd=9, power=6, bias=36)
F4X4S2 = Algorithm("f4x4s2", (4, 4), (G4_BY_PHASE, G4_BY_PHASE), odd=9, power=2, bias=36)
F2X2 = Algorithm("f2x2", (2, 2), (G2, G2), odd=1, power=2, bias=4)
F4X1 = Algorithm("f4x1", (1, 4), (np.eye(3, dtype=np.int64), G4), odd=3, power=3, bias=-6)


def transform_weights(algorithm: Algorithm, weights: npt.ArrayLike) -> Int64Array:
    """U = G g G^T.

    Args:
        weights: (channels out, 3, 3, channels in).

    Returns:
        (channels out, vertical positions, horizontal positions, channels in); vertical positions are kernel rows
        for f4x1.
    """
    vertical, horizontal = algorithm.transforms
    g = np.asarray(weights, dtype=np.int64)
    result: Int64Array = np.einsum("ia,oabc,jb->oijc", vertical, g, horizontal)
    return result


def pack_weights(algorithm: Algorithm, weights: Int8Array) -> Int32Array:
    """U of every pair of output channels in the kernels' layout, for flash.

    Returns:
        int32 words (pairs, kernel rows * blocks, P, 8, 2): [..., k, co] holds two input channels of output channel
        ``2 * pair + co``; zero for channels that only pad.
    """
    u = transform_weights(algorithm, weights)
    if np.abs(u).max(initial=0) > 0x7FFF:
        raise ValueError("transformed weights do not fit int16")  # |U| <= 49 * 128 for any int8 weights
    out, channels = u.shape[0], u.shape[3]
    rows = algorithm.kernel_rows
    padded = np.zeros((-(-out // 2) * 2, u.shape[1] * u.shape[2], -(-channels // BLOCK) * BLOCK), dtype=np.int64)
    padded[:out, :, :channels] = u.reshape(out, -1, channels)
    # [pair, co, row, p, block, quad, pair of the quad's lanes (0, 2) | (1, 3)]
    split = padded.reshape(-1, 2, rows, algorithm.positions, padded.shape[2] // BLOCK, BLOCK // 4, 2, 2)
    pairs = split.transpose(0, 2, 4, 3, 5, 7, 1, 6)  # pair, row, block, p, quad, odd, co, lane
    lanes = np.ascontiguousarray(pairs).astype("<i2")
    return lanes.view("<i4").reshape(len(padded) // 2, rows * (padded.shape[2] // BLOCK), algorithm.positions, 8, 2)


def pack_weights_online(weights: Int8Array) -> Int8Array:
    """Weights for the transform on line: int8 (channels out, channels in / 4, 3, 3, 4), channels out made even.

    Four channels' kernel lies in one piece because the flash has only eight lines of data cache.
    """
    out, height, width, channels = weights.shape
    even = np.concatenate([weights, np.zeros_like(weights[: out % 2])])
    split = even.reshape(len(even), height, width, channels // 4, 4)
    return np.ascontiguousarray(split.transpose(0, 3, 1, 2, 4))


@dataclass(frozen=True)
class ChannelTable:
    """``rqdkm_winograd_channel`` per output channel.

    Args:
        words: int32 (channels, 6): bias, scale, multiplier, offset, away, wide.
        ties_up: every fast channel may use FLOOR; else AWAY.
        wide: some channel needs the WIDE form.
        fast: some channel uses the fast form.
    """

    words: Int32Array
    ties_up: bool
    wide: bool
    fast: bool


def channel_table(
    algorithm: Algorithm,
    weight_sums: Int64Array,
    bias: npt.ArrayLike,
    bounds: tuple[Int64Array, Int64Array],
    multipliers: npt.ArrayLike,
    shifts: npt.ArrayLike,
    input_zero_point: int,
    output_zero_point: int,
    clamp_min: int,
    compared: bool = False,
) -> ChannelTable:
    """Constants that turn a transformed sum into int8, per channel the fastest form that is provably exact.

    The fast forms compute ``acc << k`` with k = 17 - right shift by one product, so they need k >= power,
    ``acc << k`` and the sum with the offset in 32 bits for every accumulator within ``bounds``. A channel whose
    output is the zero point at both bounds (the output is monotonous in acc) is given multiplier 0 and any k.
    ``compared``: a pooled form takes the maximum of transformed sums as they are, so these must fit 32 bits as well.
    """
    multiplier = np.array(multipliers, dtype=np.int64)
    shift = np.array(shifts, dtype=np.int64)
    low, high = bounds
    always_zero = (multiply_by_quantized_multiplier(low, multiplier, shift) == 0) & (
        multiply_by_quantized_multiplier(high, multiplier, shift) == 0
    )
    multiplier = np.where(always_zero, 0, multiplier)
    k = np.where(always_zero, algorithm.power, 17 + shift)
    usable = (k >= max(algorithm.power, 2)) & (k <= 16)
    k = np.where(usable, k, algorithm.power)
    offset = (np.int64(1) << np.maximum(k - 2, 0)) + (1 << 15) + (output_zero_point << 16)
    for bound in bounds:
        shifted = bound << k
        result = (shifted * multiplier >> 32) + offset
        for value in (shifted, result, result - (np.int64(1) << (k - 1))):
            usable &= (value >= INT32_MIN) & (value <= INT32_MAX)
        if compared:
            usable &= np.abs(bound) * (algorithm.odd << algorithm.power) <= INT32_MAX

    ties_up = clamp_min >= output_zero_point
    inverse = pow(algorithm.odd, -1, 1 << 32)
    total = (np.asarray(bias, dtype=np.int64) - (input_zero_point + 128) * weight_sums) * algorithm.bias
    words = np.stack(
        [
            total,
            np.where(usable, inverse << (k - algorithm.power), inverse),
            np.where(usable, multiplier, np.array(multipliers, dtype=np.int64)),
            np.where(usable, offset, output_zero_point),
            np.where(usable, 0 if ties_up else np.int64(1) << (k - 1), shift),
            np.where(usable, 0, 1),
        ],
        axis=1,
    )
    wrapped = (words & 0xFFFFFFFF).astype(np.uint32).view(np.int32)
    return ChannelTable(wrapped, ties_up, bool((~usable).any()), bool(usable.any()))
