"""The embedded DQN in integers: what the chip computes, and the blob it reads.

Twin of ``tflm_ops/src/morph/policy.c``. Three layers; inputs are :func:`rqdkm.dkm.state.normalise`'s, hidden values are
``min(127, max(0, (bias + w x) >> shift))``, Q values are plain sums in a unit of their own.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.errors import DataError

Array = npt.NDArray[Any]
Weights = tuple[Array, Array]  # weights (outputs, inputs), biases (outputs,)

MAGIC, VERSION = 0x50445152, 2
STATES, MOST_KERNELS, MOST_HIDDEN, MOST_BIAS = 7, 5, 32, 1 << 28
_HEAD = struct.Struct("<IBB2B2B2B")


@dataclass(frozen=True)
class Policy:
    """int8 weights, int32 biases of three layers, and the right shifts of the first two layers' sums."""

    layers: tuple[Weights, Weights, Weights]
    shifts: tuple[int, int]

    @property
    def kernels(self) -> int:
        return len(self.layers[2][1])

    def values(self, inputs: Array) -> npt.NDArray[np.int32]:
        """Q values of all kernels, (n, kernels); ``inputs`` int8 (n, 7)."""
        x = np.asarray(inputs, np.int64)
        for (weights, bias), shift in zip(self.layers[:2], self.shifts, strict=True):
            sums = x @ weights.T.astype(np.int64) + bias
            x = np.minimum(np.maximum(sums, 0) >> shift, 127)
        weights, bias = self.layers[2]
        values: npt.NDArray[np.int32] = (x @ weights.T.astype(np.int64) + bias).astype(np.int32)
        return values

    def decide(self, inputs: Array) -> npt.NDArray[np.int64]:
        """The kernel of each state: the greatest Q value, the first of equals."""
        kernels: npt.NDArray[np.int64] = self.values(inputs).argmax(axis=1)
        return kernels

    def to_bytes(self) -> bytes:
        """The blob, little-endian, with its checksum."""
        (first, _), (second, _), (third, _) = self.layers
        blob = _HEAD.pack(MAGIC, VERSION, len(third), len(first), len(second), *self.shifts, 0, 0)
        for weights, bias in self.layers:
            rows = np.pad(np.asarray(weights, np.int8), ((0, 0), (0, -weights.shape[1] % 4)))
            blob += np.asarray(bias, "<i4").tobytes() + rows.tobytes()
        return blob + struct.pack("<I", zlib.crc32(blob))

    @staticmethod
    def from_bytes(blob: bytes, *, where: str = "policy") -> Policy:
        """Read and check a blob.

        Raises:
            DataError: as the chip would refuse it.
        """
        hint = "give the file that rqdkm dkm train wrote, or train again"
        if len(blob) < _HEAD.size + 4:
            raise DataError("the policy is cut short", where=where, hint=hint)
        magic, version, kernels, h1, h2, s1, s2, *reserved = _HEAD.unpack_from(blob)
        if magic != MAGIC or version != VERSION:
            raise DataError("it is no policy of a version that is known", where=where, hint=hint)
        widths = (STATES, h1, h2, kernels)
        sizes = [4 * o + o * _row(i) for i, o in itertools.pairwise(widths)]
        good = 1 <= kernels <= MOST_KERNELS and all(1 <= h <= MOST_HIDDEN for h in (h1, h2)) and max(s1, s2) <= 24
        if not good or any(reserved) or len(blob) != _HEAD.size + sum(sizes) + 4:
            raise DataError("the policy's sizes do not fit", where=where, hint=hint)
        if zlib.crc32(blob[:-4]) != struct.unpack("<I", blob[-4:])[0]:
            raise DataError("the policy's checksum is wrong", where=where, hint=hint)
        layers, at = [], _HEAD.size
        for (inputs, outputs), size in zip(itertools.pairwise(widths), sizes, strict=True):
            bias = np.frombuffer(blob, "<i4", outputs, at)
            rows = np.frombuffer(blob, np.int8, outputs * _row(inputs), at + 4 * outputs)
            weights = rows.reshape(outputs, -1)[:, :inputs]
            if np.abs(bias.astype(np.int64)).max() > MOST_BIAS:
                raise DataError("the policy's biases are out of range", where=where, hint=hint)
            layers.append((weights, bias))
            at += size
        return Policy((layers[0], layers[1], layers[2]), (s1, s2))


def _row(inputs: int) -> int:
    """Bytes of a row of weights: whole words."""
    return -(-inputs // 4) * 4


def blank(widths: tuple[int, int, int, int]) -> Policy:
    """Of such widths, inputs first, all zeros: it always takes kernel 0."""
    layers = [(np.zeros((o, i), np.int8), np.zeros(o, np.int32)) for i, o in itertools.pairwise(widths)]
    return Policy((layers[0], layers[1], layers[2]), (0, 0))


def quantize(layers: tuple[Weights, Weights, Weights], greatest: Sequence[float]) -> Policy:
    """A float network as a :class:`Policy`.

    Args:
        layers: of a network of two ReLU layers and a linear one, on int8 inputs divided by 127.
        greatest: the greatest value that each hidden layer takes; what is above saturates.
    """
    unit = 1.0 / 127.0  # real value of one step of what a layer reads
    found: list[Weights] = []
    shifts: list[int] = []
    for number, (weights, bias) in enumerate(layers):
        scale = max(float(np.abs(weights).max()), 1e-9) / 127.0
        integers = np.clip(np.rint(weights / scale), -127, 127).astype(np.int8)
        biases = np.clip(np.rint(bias / (scale * unit)), -MOST_BIAS, MOST_BIAS).astype(np.int32)
        found.append((integers, biases))
        if number < 2:
            shifts.append(shift_of(greatest[number], scale * unit))
            unit *= scale * 2.0 ** shifts[-1]
    return Policy((found[0], found[1], found[2]), (shifts[0], shifts[1]))


def shift_of(greatest: float, unit: float) -> int:
    """Right shift by which sums of ``unit`` up to ``greatest`` become int8: the next layer reads steps of 2^shift."""
    return int(np.clip(np.ceil(np.log2(max(greatest, 1e-9) / (127 * unit))), 0, 24))
