"""Ahead-of-time layouts of weights and per-channel constants; docs/kernels.md shows them.

All functions are pure and return arrays ready to be placed in flash.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.kernels.lanes import LANE_SHIFT, Finish
from rqdkm_tvm.kernels.requantize import Int64Array
from rqdkm_tvm.layer import Layer

Int8Array = npt.NDArray[np.int8]
Int32Array = npt.NDArray[np.int32]


def round_up(value: int, multiple: int) -> int:
    return -(-value // multiple) * multiple


def wrap_int32(values: npt.ArrayLike) -> Int32Array:
    """Modulo 2**32 into int32, as the C arithmetic does."""
    return (np.asarray(values, dtype=np.int64) & 0xFFFFFFFF).astype(np.uint32).view(np.int32)


def channel_pairs(channels: int) -> list[tuple[int, int]]:
    """Output channels two by two. The last pair of an odd number overlaps the one before, so that both of its results
    are real; a single channel is paired with itself."""
    if channels == 1:
        return [(0, 0)]
    firsts = [min(first, channels - 2) for first in range(0, channels, 2)]
    return [(first, first + 1) for first in firsts]


def pad_taps(weights: npt.NDArray[Any], multiple: int) -> npt.NDArray[Any]:
    """(channels, taps) with taps filled up with zeros to a multiple."""
    return np.pad(weights, ((0, 0), (0, round_up(weights.shape[1], multiple) - weights.shape[1])))


def linear_to_crossed(weights: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Reorder each four taps e0..e3 to (e0, e2, e1, e3).

    The C side always unpacks bytes (0, 2) and (1, 3) of a word, so that the lanes become (e0, e1), (e2, e3).
    """
    channels, taps = weights.shape
    return weights.reshape(channels, taps // 4, 4)[:, :, [0, 2, 1, 3]].reshape(channels, taps)


def pack_pairs(weights: npt.NDArray[Any]) -> Int8Array:
    """(channels, taps), taps a multiple of 4 -> flat int8: per pair, per four taps, 4 bytes of each of the two."""
    channels, taps = weights.shape
    chosen = weights[np.array(channel_pairs(channels))]  # (pairs, 2, taps)
    return np.ascontiguousarray(chosen.reshape(-1, 2, taps // 4, 4).transpose(0, 2, 1, 3), dtype=np.int8).ravel()


def pack_fours(weights: npt.NDArray[Any]) -> Int8Array:
    """(channels, taps), taps a multiple of 4 -> flat int8: per four channels (filled up with zero channels), per four
    taps, 4 bytes of each of the four."""
    channels, taps = weights.shape
    filled = np.pad(weights, ((0, round_up(channels, 4) - channels), (0, 0)))
    return np.ascontiguousarray(filled.reshape(-1, 4, taps // 4, 4).transpose(0, 2, 1, 3), dtype=np.int8).ravel()


def lane_bias(
    weights: npt.NDArray[Any], bias: npt.ArrayLike | None, input_zero_point: int, lane_shift: int = LANE_SHIFT
) -> Int64Array:
    """The bias shifted as the lanes are, with the input offset folded in: the kernels read the input as x + 128, so the
    zero point's share ``(zero_point + 128) * sum(weights)`` moves into the bias. (channels, taps) weights."""
    total = weights.astype(np.int64).sum(axis=1)
    base = np.zeros_like(total) if bias is None else np.asarray(bias, dtype=np.int64).ravel()
    folded: Int64Array = (base - (input_zero_point + 128) * total) << lane_shift
    return folded


def channel_fours(channels: int) -> list[tuple[int, int, int, int]]:
    """Output channels four by four, at least 4 of them; the last four overlap those before if they must."""
    firsts = [min(first, channels - 4) for first in range(0, channels, 4)]
    return [(first, first + 1, first + 2, first + 3) for first in firsts]


def pack_pair_quant(bias: Int64Array, finish: Finish, pairs: list[tuple[int, int]]) -> Int32Array:
    """Array of ``rqdkm_pair_quant``, (pairs, 8) words flattened: both biases, then multiplier, offset, shift."""
    chosen = np.array(pairs)
    rows = np.stack([finish.multiplier, finish.offset, finish.shift], axis=1).astype(np.int32)
    return np.concatenate([wrap_int32(bias)[chosen], rows[chosen].reshape(-1, 6)], axis=1).ravel()


# ---- weights below 8 bits --------------------------------------------------------------------------------------------


def channel_bits(layer: Layer) -> tuple[int, ...]:
    """Bits of every output channel's weights.

    Raises:
        ValueError: an entry too few or too many, or a width that does not exist.
    """
    assert layer.weights is not None
    channels = int(layer.weights.shape[3 if layer.op == "depthwise_conv2d" else 0])
    bits = layer.weight_bits or (8,) * channels
    if len(bits) != channels or not set(bits) <= {8, 4, 2}:
        raise ValueError(f"{layer.name}: weight_bits must be 8, 4 or 2 for each of {channels} output channels")
    return bits


def _check_range(values: npt.NDArray[Any], bits: int) -> None:
    half = 1 << (bits - 1)
    if values.size and (values.min() < -half or values.max() >= half):
        raise ValueError(f"weights in [{values.min()}, {values.max()}] do not fit {bits} bits")


def widest(bits: Sequence[int], groups: Iterable[Sequence[int]]) -> list[int]:
    """Bits that channels stored together have: those of the widest, which is exact for all."""
    return [max(bits[channel] for channel in group) for group in groups]


def packed_bytes(weights: int, bits: int) -> int:
    """Bytes that :func:`pack_words` makes of this many weights."""
    return round_up(weights * bits // 4, 8) // 8 * 4


def pack_words(words: npt.NDArray[Any], bits: int) -> Int8Array:
    """Weights in the order of the kernel, four to a word, at fewer bits: ``include/rqdkm/kernels/weights.h``.

    8 / bits words become one: byte i of it holds byte i of each, the first in the lowest bits, plus 2^(bits - 1).
    """
    if bits == 8:
        return np.ascontiguousarray(words, dtype=np.int8).ravel()
    _check_range(words, bits)
    together = 8 // bits
    values = words.reshape(-1, 4).astype(np.uint8)  # modulo 256, as the sum with the offset is
    filled = np.pad(values, ((0, round_up(len(values), together) - len(values)), (0, 0)))
    codes = (filled + np.uint8(1 << (bits - 1))).reshape(-1, together, 4)
    packed = np.zeros((len(codes), 4), np.uint8)
    for position in range(together):
        packed |= codes[:, position] << np.uint8(position * bits)
    return packed.view(np.int8).ravel()


def pack_groups(weights: npt.NDArray[Any], bits: Sequence[int]) -> Int8Array:
    """Weights of ``len(bits)`` groups of channels of equal size, one after the other, each at its own width."""
    return np.concatenate([pack_words(group, b) for group, b in zip(weights.reshape(len(bits), -1), bits, strict=True)])


def pack_elements(values: npt.ArrayLike, bits: int) -> Int8Array:
    """int8 values in flat order, low bits first, in whole bytes: [1, 2, 3, 4] at 4 bits is 0x21 0x43."""
    flat = np.asarray(values, np.int8).ravel()
    if bits == 8:
        return flat
    _check_range(flat, bits)
    together = 8 // bits
    codes = flat.astype(np.uint8) & np.uint8((1 << bits) - 1)
    filled = np.pad(codes, (0, -len(codes) % together)).reshape(-1, together)
    packed = np.zeros(len(filled), np.uint8)
    for position in range(together):
        packed |= filled[:, position] << np.uint8(position * bits)
    return packed.view(np.int8)


def pack_channels(rows: npt.NDArray[Any], bits: Sequence[int]) -> Int8Array:
    """(channels, taps) as ``rqdkm_bits`` has it: every channel's taps from a byte of their own on."""
    return np.concatenate([pack_elements(row, b) for row, b in zip(rows, bits, strict=True)])
