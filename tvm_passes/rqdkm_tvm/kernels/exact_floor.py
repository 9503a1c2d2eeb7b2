"""Requantization as one floor, proven per channel.

TFLite's double rounding ``y(acc)`` is monotone, and so is

    z(acc) = (floor(((acc - base) << k) * multiplier / 2**32) + offset + (addend if acc < base else 0)) >> right_shift

(SMMLA, then SSAT with a shift), for multiplier >= 0 and addend <= 0. Two monotone functions agree everywhere on an
interval when they agree on both sides of every step of one of them, so at most 255 steps decide. For a given multiplier
the steps leave an interval of offsets; where it is empty the next candidate is tried.

k is bounded from above by the accumulator's range (nothing may wrap) and from below by the kernel (k - 8 is the scaling of
16-bit weights); a k above the exact one, 1 + right_shift - s, means that the multiplier loses bits. Few channels then
have no solution. ``base`` takes a large constant part out of the accumulator (channels that never change much).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.kernels.requantize import INT32_MAX, INT32_MIN, multiply_by_quantized_multiplier

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Channel:
    """What TFLite computes for one output channel.

    Args:
        multiplier, shift: TFLite's (shift > 0 is to the left).
        zero_point: of the output.
        clamp: (min, max) in output units.
        low, high: the accumulator's reachable interval, bias included.
    """

    multiplier: int
    shift: int
    zero_point: int
    clamp: tuple[int, int]
    low: int
    high: int

    def output(self, acc: npt.ArrayLike) -> Int64Array:
        scaled = multiply_by_quantized_multiplier(acc, self.multiplier, self.shift) + self.zero_point
        return np.clip(scaled, *self.clamp)

    def steps(self) -> tuple[Int64Array, Int64Array]:
        """(values, accumulators): for each value above the lowest, the first accumulator that reaches it."""
        first, last = (int(value) for value in self.output([self.low, self.high]))
        values = np.arange(first + 1, last + 1, dtype=np.int64)
        below = np.full(values.shape, self.low, np.int64)  # output(below) < value <= output(reached)
        reached = np.full(values.shape, self.high, np.int64)
        while (reached - below > 1).any():
            middle = (below + reached) >> 1
            ahead = self.output(middle) >= values
            reached, below = np.where(ahead, middle, reached), np.where(ahead, below, middle)
        return values, reached


@dataclass(frozen=True)
class Floor:
    """Constants of z(acc); see the module's docstring."""

    k: int
    multiplier: int
    offset: int
    addend: int
    base: int


def solve_layer(
    channels: list[Channel], *, min_k: int, max_k: int, right_shifts: tuple[int, ...] = (16, 15, 14, 13, 12, 11, 10)
) -> tuple[int, bool, list[Floor]] | None:
    """(right_shift, away, constants per channel) that are exact for every channel, or None.

    Args:
        channels: one entry per output channel.
        min_k, max_k: bounds on k that the kernel's weight scaling sets.
        right_shifts: common to the layer, tried in this order, first without addends, then with them.
    """
    steps = [channel.steps() for channel in channels]
    for away in (False, True):
        for right_shift in right_shifts:
            solutions: list[Floor] = []
            for channel, step in zip(channels, steps, strict=True):
                solution = _solve(channel, step, right_shift, away, min_k, max_k)
                if solution is None:
                    break
                solutions.append(solution)
            else:
                return right_shift, away, solutions
    return None


def _solve(
    channel: Channel, steps: tuple[Int64Array, Int64Array], right_shift: int, away: bool, min_k: int, max_k: int
) -> Floor | None:
    exact_k = 1 + right_shift + channel.shift
    if exact_k > max_k:
        return None
    k = max(exact_k, min_k)
    dropped = k - exact_k
    nominal = (channel.multiplier + (1 << dropped >> 1)) >> dropped if dropped < 40 else 0
    addend = -(1 << max(exact_k - 1, 0)) if away else 0
    middle = (channel.low + channel.high) // 2
    bases = (0,) if away else (0, middle)
    for base in bases:
        for distance in range(1 if dropped == 0 else 64):
            for multiplier in {nominal + distance, nominal - distance}:
                if not 0 <= multiplier <= INT32_MAX:
                    continue
                candidate = Floor(k, multiplier, 0, addend, base)
                offset = _offset(channel, steps, candidate, right_shift)
                if offset is not None:
                    return Floor(k, multiplier, offset, addend, base)
    return None


def _offset(channel: Channel, steps: tuple[Int64Array, Int64Array], floor: Floor, right_shift: int) -> int | None:
    """An offset with which ``floor`` equals the channel's output on its whole interval, or None."""
    ends = np.array([channel.low, channel.high], np.int64) - floor.base << floor.k
    if ends.min() < INT32_MIN or ends.max() > INT32_MAX:
        return None

    def product(acc: npt.ArrayLike) -> Int64Array:
        value = np.asarray(acc, np.int64) - floor.base
        return ((value << floor.k) * floor.multiplier >> 32) + np.where(value < 0, floor.addend, 0)

    values, reached = steps
    first, last = (int(value) for value in channel.output([channel.low, channel.high]))
    lower = [int(x) for x in (values << right_shift) - product(reached)]
    upper = [int(x) - 1 for x in (values << right_shift) - product(reached - 1)]
    if first > channel.clamp[0]:
        lower.append((first << right_shift) - int(product(channel.low)))
    if last < channel.clamp[1]:
        upper.append((last + 1 << right_shift) - 1 - int(product(channel.high)))
    outer = product([channel.low, channel.high])
    least = max([INT32_MIN - int(outer.min()), INT32_MIN - floor.addend, *lower])
    most = min([INT32_MAX - int(outer.max()), INT32_MAX, *upper])
    return (least + most) // 2 if least <= most else None
