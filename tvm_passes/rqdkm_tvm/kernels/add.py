"""Addition of two int8 tensors, TFLite's arithmetic."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.kernels._c import constant
from rqdkm_tvm.kernels.registry import Config, Kernel, register
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


@register
class AddReference(Kernel):
    """Plain C, TFLite's three double roundings per element."""

    name = "add_s8_ref"
    ops = ("add",)
    reference = True

    def reject(self, layer: Layer) -> str | None:
        return reject_binary(layer)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 70.0 * layer.output.size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        params = add_params(layer.inputs[0], layer.inputs[1], layer.output)
        period = broadcast_period(layer)
        assert period is not None
        swapped, size = period
        if swapped:
            params = add_params(layer.inputs[1], layer.inputs[0], layer.output)
        body = constant("rqdkm_add_params", "params", **asdict(params), clamp=layer.attrs["clamp"]) + binary_call(
            "rqdkm_add_s8_ref", layer.output.size, size, swapped
        )
        return KernelCall(self.name, config, (), 0, body, ("rqdkm/elementwise.h",))


def binary_call(symbol: str, count: int, period: int, swapped: bool) -> str:
    """The call of a binary kernel: larger operand first."""
    first, second = ("in1", "in0") if swapped else ("in0", "in1")
    return (
        f"  return {symbol}(&params, {count}, {period}, (const int8_t *){first}, (const int8_t *){second},\n"
        "      (int8_t *)out);\n"
    )
