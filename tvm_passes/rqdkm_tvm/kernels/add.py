"""Addition of two int8 tensors, TFLite's arithmetic."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.kernels._c import constant
from rqdkm_tvm.kernels.registry import Config, Elements, Kernel, register, same_size_operands
from rqdkm_tvm.kernels.requantize import multiply_by_quantized_multiplier, quantize_multiplier
from rqdkm_tvm.layer import KernelCall, Layer, Tensor

LEFT_SHIFT = 20  # TFLite's, for int8


@dataclass(frozen=True)
class AddParams:
    """``rqdkm_add_params`` without the clamp."""

    input1_offset: int
    input1_multiplier: int
    input1_shift: int
    input2_offset: int
    input2_multiplier: int
    input2_shift: int
    output_offset: int
    output_multiplier: int
    output_shift: int


def add_params(input1: Tensor, input2: Tensor, output: Tensor) -> AddParams:
    """TFLite's ``CalculateOpDataAdd``: float32 scales, double arithmetic."""
    scale1, scale2, scale_out = (float(np.float32(t.scale)) for t in (input1, input2, output))
    twice_max = 2 * max(scale1, scale2)
    return AddParams(
        -input1.zero_point,
        *quantize_multiplier(scale1 / twice_max),
        -input2.zero_point,
        *quantize_multiplier(scale2 / twice_max),
        output.zero_point,
        *quantize_multiplier(twice_max / ((1 << LEFT_SHIFT) * scale_out)),
    )


def add_outputs(params: AddParams, a: npt.ArrayLike, b: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """The sum in output units, not yet clamped, for int8 operands that broadcast."""
    p = params
    left = (np.asarray(a, np.int64) + p.input1_offset) << LEFT_SHIFT
    right = (np.asarray(b, np.int64) + p.input2_offset) << LEFT_SHIFT
    total = multiply_by_quantized_multiplier(
        left, p.input1_multiplier, p.input1_shift
    ) + multiply_by_quantized_multiplier(right, p.input2_multiplier, p.input2_shift)
    return multiply_by_quantized_multiplier(total, p.output_multiplier, p.output_shift) + p.output_offset


def broadcast_period(layer: Layer) -> tuple[bool, int] | None:
    """How the smaller operand repeats: (whether input 0 is the smaller one, its size), None if not as a suffix.

    The larger operand has the output's shape; the smaller one, without leading extents of 1, must be a suffix of it
    (or a scalar), so that element i meets element i % period.
    """
    first, second = (tensor.shape for tensor in layer.inputs)
    swapped = layer.inputs[0].size < layer.inputs[1].size
    large, small = (second, first) if swapped else (first, second)
    while len(small) > 0 and small[0] == 1:
        small = small[1:]
    while len(large) > len(layer.output.shape) and large[0] == 1:
        large = large[1:]
    if int(np.prod(large)) != layer.output.size or large[len(large) - len(small) :] != small:
        return None
    return swapped, int(np.prod(small, dtype=np.int64))


def reject_binary(layer: Layer) -> str | None:
    if any(tensor.dtype != "int8" for tensor in (*layer.inputs, layer.output)):
        return "tensors must be int8"
    if broadcast_period(layer) is None:
        return "the operands' shapes must be equal, or one must repeat along leading axes"
    return None


class _AddKernel(Kernel):
    """The kernels that take ``rqdkm_add_params``."""

    ops = ("add",)
    cycles_per_element: ClassVar[float]

    def reject(self, layer: Layer) -> str | None:
        return reject_binary(layer)

    def parts(self, layer: Layer, config: Config) -> Elements | None:
        return binary_parts(layer)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        return same_size_operands(layer)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return self.cycles_per_element * layer.output.size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        params, swapped, size = _ordered_params(layer)
        body = constant("rqdkm_add_params", "params", **asdict(params), clamp=layer.attrs["clamp"]) + binary_call(
            f"rqdkm_{self.name}", layer.output.size, size, swapped
        )
        return KernelCall(self.name, config, (), 0, body, ("rqdkm/elementwise.h",))


@register
class AddReference(_AddKernel):
    """Plain C, three double roundings per element, as TFLite."""

    name = "add_s8_ref"
    reference = True
    cycles_per_element = 100.0


@register
class AddDsp(_AddKernel):
    """The same roundings with DSP instructions, where the linear form is not exact."""

    name = "add_s8"
    cycles_per_element = 56.0

    def reject(self, layer: Layer) -> str | None:
        reason = super().reject(layer)
        if reason is None:
            p = _ordered_params(layer)[0]
            if max(p.input1_shift, p.input2_shift, p.output_shift) > 0:
                reason = "a scale ratio above 1"
        return reason


@dataclass(frozen=True)
class AddLinear:
    """``rqdkm_add_linear_params`` without the clamp."""

    input1_slope: int
    input2_slope: int
    constant: int


_RESULT_BITS = 20  # the linear form's result is the output times 2**20
_ROUNDS = 400


@lru_cache(maxsize=256)
def solve_linear(params: AddParams, clamp: tuple[int, int]) -> AddLinear | None:
    """Coefficients with which the linear form equals TFLite's sum for all 65,536 operand pairs, or None.

    For given slopes every pair bounds the constant from below (unless its output is at the lower clamp) and from above
    (unless it is at the upper one). The gap between the highest lower and the lowest upper bound is a convex function
    of the slopes up to rounding: start from the real ratios and step down its subgradient, which the two binding pairs
    give, until it closes. Ties away from zero need slopes a little above the real ones, which this finds as well.
    """
    values = np.arange(-128, 128, dtype=np.int64)
    outputs = np.clip(add_outputs(params, values[:, None], values[None, :]), *clamp)
    above = outputs > clamp[0]
    below = outputs < clamp[1]
    one = float(1 << _RESULT_BITS)
    scale = _real(params.output_multiplier, params.output_shift) * (1 << LEFT_SHIFT)
    slopes = np.array(
        [
            scale * _real(params.input1_multiplier, params.input1_shift),
            scale * _real(params.input2_multiplier, params.input2_shift),
        ]
    )
    if slopes.max() * 256 * 2 + 256 >= 1 << (31 - _RESULT_BITS):
        return None  # the sum might wrap
    slopes = slopes * one * 256
    for _ in range(_ROUNDS):
        first, second = (round(float(slope)) for slope in slopes)
        sums = ((values * first) >> 8)[:, None] + ((values * second) >> 8)[None, :]
        lower = np.where(above, (outputs << _RESULT_BITS) - sums, np.int64(-(1 << 62)))
        upper = np.where(below, ((outputs + 1) << _RESULT_BITS) - 1 - sums, np.int64(1 << 62))
        at_lower, at_upper = int(lower.argmax()), int(upper.argmin())
        low, high = int(lower.flat[at_lower]), int(upper.flat[at_upper])
        if low <= high:
            room = (1 << 31) - 1 - int(np.abs(sums).max())  # no partial sum may wrap
            return AddLinear(first, second, (max(low, -room) + min(high, room)) // 2)
        direction = np.array([at_lower // 256 - at_upper // 256, at_lower % 256 - at_upper % 256], dtype=np.float64)
        length = float(direction @ direction)
        if length == 0.0:
            return None
        slopes = slopes + direction * (256.0 * (low - high + 1) / length)
    return None


def _real(multiplier: int, shift: int) -> float:
    return multiplier * 2.0 ** (shift - 31)


def _ordered_params(layer: Layer) -> tuple[AddParams, bool, int]:
    """(parameters with the larger operand first, whether that swaps the inputs, period of the smaller one)."""
    period = broadcast_period(layer)
    assert period is not None
    swapped, size = period
    first, second = layer.inputs[::-1] if swapped else layer.inputs
    return add_params(first, second, layer.output), swapped, size


def _clamp(layer: Layer) -> tuple[int, int]:
    return int(layer.attrs["clamp"][0]), int(layer.attrs["clamp"][1])


@register
class AddLinearForm(Kernel):
    """Two multiply-accumulates per element; chosen only where every operand pair gives TFLite's result."""

    name = "add_s8_linear"
    ops = ("add",)

    def reject(self, layer: Layer) -> str | None:
        reason = reject_binary(layer)
        if reason is None and solve_linear(_ordered_params(layer)[0], _clamp(layer)) is None:
            reason = "no linear form is exact for all operand pairs"
        return reason

    def parts(self, layer: Layer, config: Config) -> Elements | None:
        return binary_parts(layer)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        return same_size_operands(layer)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 7.0 * layer.output.size + 20.0 * layer.output.size / _ordered_params(layer)[2]

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        params, swapped, size = _ordered_params(layer)
        linear = solve_linear(params, _clamp(layer))
        assert linear is not None
        body = constant(
            "rqdkm_add_linear_params", "params", **asdict(linear), clamp=layer.attrs["clamp"]
        ) + binary_call("rqdkm_add_s8_linear", layer.output.size, size, swapped)
        return KernelCall(self.name, config, (), 0, body, ("rqdkm/elementwise.h",))


def binary_parts(layer: Layer) -> Elements | None:
    """Parts of a binary layer, where no operand repeats."""
    return Elements() if layer.inputs[0].size == layer.inputs[1].size else None


def binary_call(symbol: str, count: int, period: int, swapped: bool) -> str:
    """The call of a binary kernel: larger operand first."""
    first, second = ("in1", "in0") if swapped else ("in0", "in1")
    repeats = "count" if period == count else str(period)
    return (
        f"  const int32_t count = {count};\n"
        f"  return {symbol}(&params, count, {repeats}, (const int8_t *){first}, (const int8_t *){second},\n"
        "      (int8_t *)out);\n"
    )
