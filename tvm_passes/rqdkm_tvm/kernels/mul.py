"""Product of two int8 tensors, TFLite's arithmetic."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np

from rqdkm_tvm.kernels._c import constant
from rqdkm_tvm.kernels.add import binary_call, binary_parts, broadcast_period, reject_binary
from rqdkm_tvm.kernels.registry import Config, Elements, Kernel, register, same_size_operands
from rqdkm_tvm.kernels.requantize import multiply_by_quantized_multiplier, quantize_multiplier
from rqdkm_tvm.layer import KernelCall, Layer


def mul_multiplier(layer: Layer) -> tuple[int, int]:
    """TFLite's ``CalculateOpDataMul``: float32 scales, double arithmetic, in this order."""
    scale1, scale2, scale_out = (float(np.float32(t.scale)) for t in (*layer.inputs, layer.output))
    return quantize_multiplier(scale1 * scale2 / scale_out)


class _MulKernel(Kernel):
    """The kernels that take ``rqdkm_mul_params``."""

    ops = ("mul",)
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
        period = broadcast_period(layer)
        assert period is not None
        swapped, size = period
        first, second = layer.inputs[::-1] if swapped else layer.inputs
        multiplier, shift = mul_multiplier(layer)
        body = constant(
            "rqdkm_mul_params",
            "params",
            input1_offset=-first.zero_point,
            input2_offset=-second.zero_point,
            output_offset=layer.output.zero_point,
            multiplier=multiplier,
            shift=shift,
            clamp=layer.attrs["clamp"],
        ) + binary_call(f"rqdkm_{self.name}", layer.output.size, size, swapped)
        return KernelCall(self.name, config, (), 0, body, ("rqdkm/elementwise.h",))


@register
class MulReference(_MulKernel):
    """Plain C."""

    name = "mul_s8_ref"
    reference = True
    cycles_per_element = 35.0


@register
class MulDsp(_MulKernel):
    """The same roundings with DSP instructions, where the linear form is not exact."""

    name = "mul_s8"
    cycles_per_element = 16.0

    def reject(self, layer: Layer) -> str | None:
        reason = super().reject(layer)
        if reason is None and mul_multiplier(layer)[1] > 0:
            reason = "the product of the input scales exceeds the output scale"
        return reason


@dataclass(frozen=True)
class MulLinear:
    """``rqdkm_mul_linear_params`` without offsets and clamp."""

    slope: int
    constant: int
    right_shift: int


@lru_cache(maxsize=256)
def solve_linear(
    offsets: tuple[int, int, int], multiplier: int, shift: int, clamp: tuple[int, int]
) -> MulLinear | None:
    """Constants with which the linear form equals TFLite's output for every product of two int8 values, or None.

    Args:
        offsets: input1_offset, input2_offset, output_offset of ``rqdkm_mul_params``.
    """
    values = np.arange(-128, 128, dtype=np.int64)
    products = np.unique((values[:, None] + offsets[0]) * (values[None, :] + offsets[1]))
    outputs = np.clip(multiply_by_quantized_multiplier(products, multiplier, shift) + offsets[2], *clamp)
    above, below = outputs > clamp[0], outputs < clamp[1]
    real = multiplier * 2.0 ** (shift - 31)
    largest = int(np.abs(products).max())
    for right_shift in range(22, 5, -1):
        nominal = round(real * (1 << right_shift))
        if largest * (nominal + 16) + (256 << right_shift) >= 1 << 31:
            continue
        for slope in range(max(0, nominal - 16), nominal + 17):
            room = (1 << 31) - 1 - largest * slope  # nothing may wrap
            low = ((outputs << right_shift) - products * slope)[above].max(initial=-room)
            high = (((outputs + 1) << right_shift) - 1 - products * slope)[below].min(initial=room)
            if low <= high:
                return MulLinear(slope, int(low + high) // 2, right_shift)
    return None


def _solve(layer: Layer) -> MulLinear | None:
    period = broadcast_period(layer)
    assert period is not None
    first, second = layer.inputs[::-1] if period[0] else layer.inputs
    offsets = (-first.zero_point, -second.zero_point, layer.output.zero_point)
    clamp = (int(layer.attrs["clamp"][0]), int(layer.attrs["clamp"][1]))
    return solve_linear(offsets, *mul_multiplier(layer), clamp)


@register
class MulLinearForm(Kernel):
    """One more multiply-accumulate per product; chosen only where every product gives TFLite's result."""

    name = "mul_s8_linear"
    ops = ("mul",)

    def reject(self, layer: Layer) -> str | None:
        reason = reject_binary(layer)
        if reason is None and _solve(layer) is None:
            reason = "no linear form is exact for all products"
        return reason

    def parts(self, layer: Layer, config: Config) -> Elements | None:
        return binary_parts(layer)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        return same_size_operands(layer)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 8.0 * layer.output.size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        period, linear = broadcast_period(layer), _solve(layer)
        assert period is not None and linear is not None
        first, second = layer.inputs[::-1] if period[0] else layer.inputs
        body = constant(
            "rqdkm_mul_linear_params",
            "params",
            input1_offset=-first.zero_point,
            input2_offset=-second.zero_point,
            **asdict(linear),
            clamp=layer.attrs["clamp"],
        ) + binary_call("rqdkm_mul_s8_linear", layer.output.size, period[1], period[0])
        return KernelCall(self.name, config, (), 0, body, ("rqdkm/elementwise.h",))
