"""Requantization as one floor, proven per channel.

TFLite's double rounding ``y(acc)`` is monotone, and so is

    z(acc) = (floor(((acc - base) << k) * multiplier / 2**32) + offset + (addend if acc < base else 0)) >> right_shift

(SMMLA, then SSAT with a shift), for multiplier >= 0 and addend <= 0. Two monotone functions agree everywhere on an
interval when they agree on both sides of every step of one of them, so at most 255 steps decide. For a given multiplier
the steps leave an interval of offsets; where it is empty the next candidate is tried.

k is bounded from above by the accumulator's range (nothing may wrap) and by the kernel's 16-bit weights, and from below
by the kernel; a k above the exact one, 1 + right_shift - s, means that the multiplier loses bits. Few channels then
have no solution. ``base`` takes a large constant part out of the accumulator (channels that never change much).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import IntEnum
from functools import lru_cache

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
        # the real quotient is at most two accumulators off; checked, and widened where it is not
        real = max(self.multiplier, 1) * 2.0 ** (self.shift - 31)
        quotient = np.clip((values - self.zero_point - 0.5) / real, self.low, self.high).astype(np.int64)
        below, reached = np.maximum(quotient - 4, self.low), np.minimum(quotient + 4, self.high)
        below = np.where(self.output(below) < values, below, self.low)  # output(below) < value <= output(reached)
        reached = np.where(self.output(reached) >= values, reached, self.high)
        while (reached - below > 1).any():
            middle = (below + reached) >> 1
            ahead = self.output(middle) >= values
            reached, below = np.where(ahead, middle, reached), np.where(ahead, below, middle)
        return values, reached


@lru_cache(maxsize=4096)
def _ends(channel: Channel) -> tuple[int, int]:
    """The outputs at both ends of the interval."""
    first, last = channel.output([channel.low, channel.high])
    return int(first), int(last)


@lru_cache(maxsize=4096)
def steps_of(channel: Channel) -> tuple[Int64Array, Int64Array]:
    """:meth:`Channel.steps`, remembered."""
    return channel.steps()


class Form(IntEnum):
    """How the kernel finishes an accumulator, fastest first; values of ``rqdkm_floor_form``."""

    FLOOR = 0  # one right shift for the layer, no addends
    AWAY = 1  # one right shift for the layer, addends
    SHIFT = 2  # a right shift per channel, addends


@dataclass(frozen=True)
class Floor:
    """Constants of z(acc); see the module's docstring."""

    k: int
    right_shift: int
    multiplier: int
    offset: int
    addend: int
    base: int


def solve_layer(channels: list[Channel], *, min_k: int, max_k: int) -> tuple[Form, list[Floor]] | None:
    """The fastest form that is exact for every channel, with its constants; None if there is none.

    Args:
        channels: one entry per output channel.
        min_k, max_k: bounds on k that the kernel's weight scaling sets.
    """
    steps = [steps_of(channel) for channel in channels]
    for form in (Form.FLOOR, Form.AWAY):
        # a right shift outside these bounds leaves no k for the channel with the least, or too few bits for the others
        least = min((-channel.shift for channel in channels if channel.multiplier), default=1)
        for right_shift in range(min(16, max_k - 1 + least), max(0, min_k - 1 + least) - 1, -1):
            solutions: list[Floor] = []
            for channel, step in zip(channels, steps, strict=True):
                solution = solve(channel, step, right_shift, form is Form.AWAY, min_k, max_k)
                if solution is None:
                    break
                solutions.append(solution)
            else:
                return form, solutions
    solved = [_solve_alone(channel, step, min_k, max_k) for channel, step in zip(channels, steps, strict=True)]
    return None if None in solved else (Form.SHIFT, [solution for solution in solved if solution is not None])


def _solve_alone(channel: Channel, steps: tuple[Int64Array, Int64Array], min_k: int, max_k: int) -> Floor | None:
    """Any right shift, without an addend if possible."""
    for away in (False, True):
        for k in range(max_k, min_k - 1, -1):
            right_shift = k - 1 - channel.shift if channel.multiplier else k
            if 0 <= right_shift <= 31:
                solution = solve(channel, steps, right_shift, away, k, k)
                if solution is not None:
                    return solution
    return None


def solve(
    channel: Channel, steps: tuple[Int64Array, Int64Array], right_shift: int, away: bool, min_k: int, max_k: int
) -> Floor | None:
    """Constants for one channel and a given right shift, or None.

    Args:
        steps: :func:`steps_of` the channel.
        away: with an addend for negative accumulators, which rounds halves away from zero.
    """
    if len(steps[0]) < 2:
        return _solve_dead(channel, steps, right_shift, away, min_k)
    exact_k = 1 + right_shift + channel.shift if channel.multiplier else min_k
    if exact_k > max_k:
        return None
    k = max(exact_k, min_k)
    dropped = k - exact_k
    nominal = (channel.multiplier + (1 << dropped >> 1)) >> dropped if dropped < 40 else 0
    addend = -(1 << max(exact_k - 1, 0)) if away else 0
    for base in (0, (channel.low + channel.high) // 2):
        for distance in range(1 if dropped == 0 else 64):
            for multiplier in {nominal + distance, nominal - distance}:
                if not 0 <= multiplier <= INT32_MAX:
                    continue
                floor = Floor(k, right_shift, multiplier, 0, addend, base)
                offset = _offset(channel, steps, floor)
                if offset is not None:
                    return replace(floor, offset=offset)
    return None


def _solve_dead(
    channel: Channel, steps: tuple[Int64Array, Int64Array], right_shift: int, away: bool, k: int
) -> Floor | None:
    """One output value, or two: multiplier 1 tells on which side of ``base`` an accumulator lies."""
    base = int(steps[1][0]) if len(steps[1]) else (channel.low + channel.high) // 2
    floor = Floor(k, right_shift, len(steps[1]), 0, -(1 << k - 1) if away else 0, base)
    offset = _offset(channel, steps, floor)
    return None if offset is None else replace(floor, offset=offset)


def _offset(channel: Channel, steps: tuple[Int64Array, Int64Array], floor: Floor) -> int | None:
    """An offset with which ``floor`` equals the channel's output on its whole interval, or None."""
    right_shift = floor.right_shift
    ends = np.array([channel.low, channel.high], np.int64) - floor.base << floor.k
    if ends.min() < INT32_MIN or ends.max() > INT32_MAX:
        return None

    def product(acc: npt.ArrayLike) -> Int64Array:
        value = np.asarray(acc, np.int64) - floor.base
        return ((value << floor.k) * floor.multiplier >> 32) + np.where(value < 0, floor.addend, 0)

    values, reached = steps
    first, last = _ends(channel)
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
