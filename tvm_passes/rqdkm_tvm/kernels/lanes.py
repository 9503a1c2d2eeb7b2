"""Requantization for the kernels that read their inputs as 16-bit lanes: convolutions and fully connected layers.

An input stands in its lane as ``(x + 128) << lane_shift``, so the accumulator arrives shifted left by as much: enough
fraction that one floor replaces both of TFLite's roundings (``exact_floor``), and one right shift serves every channel
of nearly every layer. The C side is ``tflm_ops/include/rqdkm/kernels/output.h``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum

import numpy as np

from rqdkm_tvm.kernels.exact_floor import Channel, Floor, solve, steps_of
from rqdkm_tvm.kernels.requantize import INT32_MAX, INT32_MIN, Int32Array, Int64Array

LANE_SHIFT = 7  # of convolutions: (255 << 7) is the largest that fits a signed lane
SUM_SHIFT = 3  # of fully connected layers, whose sums are longer: 28 bits instead of 24
RIGHT_SHIFT = 12  # of FLOOR and AWAY: exact for multipliers of 2^-6 and less, nearly always down to 2^-13


class Form(IntEnum):
    """How an accumulator is finished, fastest first; values of ``rqdkm_requantize_form``."""

    FLOOR = 0  # right shift RIGHT_SHIFT, no addends
    SHIFT = 1  # a right shift per channel, no addends
    AWAY = 2  # right shift RIGHT_SHIFT, an addend per channel for negative accumulators
    AWAY_SHIFT = 3  # a right shift per channel, the addend of exact halves
    WIDE = 4  # the definition, 64-bit


@dataclass(frozen=True)
class Finish:
    """Constants of one layer, one entry per output channel.

    Args:
        form: which C function they are for.
        multiplier: int32.
        offset: added to the product; the output zero point for WIDE.
        shift: the addend for AWAY, a right shift for SHIFT and AWAY_SHIFT, TFLite's signed shift for WIDE.
        bias_delta: to be added to the bias.
    """

    form: Form
    multiplier: Int32Array
    offset: Int32Array
    shift: Int32Array
    bias_delta: Int64Array


def choose_finish(
    bounds: tuple[Int64Array, Int64Array],
    multipliers: Int32Array,
    shifts: Int32Array,
    zero_point: int,
    clamp: tuple[int, int],
    forms: Iterable[Form] = tuple(Form)[:-1],
    lane_shift: int = LANE_SHIFT,
) -> Finish | None:
    """The fastest form that is exact for every accumulator within ``bounds``; None if even WIDE is not.

    Args:
        bounds: (low, high) of each channel's accumulator, see :func:`requantize.accumulator_bounds`.
        multipliers, shifts: TFLite's, per channel.
        zero_point: of the output.
        clamp: (min, max) in output units.
        forms: that may be chosen, besides WIDE.
        lane_shift: how far left the kernel's inputs stand in their lanes, >= 2.
    """
    channels = [
        Channel(int(m), int(s), zero_point, clamp, int(low), int(high))
        for m, s, low, high in zip(multipliers, shifts, *bounds, strict=True)
    ]
    for form in forms:
        solved: list[Floor] = []
        for channel in channels:
            found = _solve(form, channel, lane_shift)
            if found is None:
                break
            solved.append(found)
        else:
            return _finish(
                form,
                [f.multiplier for f in solved],
                [f.offset for f in solved],
                [f.addend if form is Form.AWAY else f.right_shift for f in solved],
                [-f.base for f in solved],
            )
    if any(c.low << lane_shift < INT32_MIN or c.high << lane_shift > INT32_MAX for c in channels):
        return None
    count = len(channels)
    return _finish(Form.WIDE, multipliers, [zero_point] * count, shifts, [0] * count)


def _solve(form: Form, channel: Channel, lane_shift: int) -> Floor | None:
    right_shift = RIGHT_SHIFT
    if form in (Form.SHIFT, Form.AWAY_SHIFT):  # the one for which k is exact; where that is none, a dead channel's
        exact = lane_shift - 1 - channel.shift
        right_shift = exact if 0 <= exact <= 24 and channel.multiplier else RIGHT_SHIFT
    # channels of which AWAY asks nothing have addend 0; AWAY_SHIFT has the same one for all
    for away in {Form.AWAY: (True, False), Form.AWAY_SHIFT: (True,)}.get(form, (False,)):
        found = solve(channel, steps_of(channel), right_shift, away, lane_shift, lane_shift)
        if found is not None and (form is not Form.AWAY_SHIFT or found.addend == -(1 << (lane_shift - 1))):
            return found
    return None


def _finish(form: Form, *columns: object) -> Finish:
    multiplier, offset, shift, delta = (np.asarray(column, np.int64) for column in columns)
    return Finish(form, multiplier.astype(np.int32), offset.astype(np.int32), shift.astype(np.int32), delta)
