"""Product of two int8 tensors, TFLite's arithmetic."""

from __future__ import annotations

import numpy as np

from rqdkm_tvm.kernels._c import constant
from rqdkm_tvm.kernels.add import binary_call, broadcast_period, reject_binary
from rqdkm_tvm.kernels.registry import Config, Kernel, register
from rqdkm_tvm.kernels.requantize import quantize_multiplier
from rqdkm_tvm.layer import KernelCall, Layer


def mul_multiplier(layer: Layer) -> tuple[int, int]:
    """TFLite's ``CalculateOpDataMul``: float32 scales, double arithmetic, in this order."""
    scale1, scale2, scale_out = (float(np.float32(t.scale)) for t in (*layer.inputs, layer.output))
    return quantize_multiplier(scale1 * scale2 / scale_out)


@register
class MulReference(Kernel):
    """Plain C."""

    name = "mul_s8_ref"
    ops = ("mul",)
    reference = True

    def reject(self, layer: Layer) -> str | None:
        return reject_binary(layer)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 35.0 * layer.output.size

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
        ) + binary_call("rqdkm_mul_s8_ref", layer.output.size, size, swapped)
        return KernelCall(self.name, config, (), 0, body, ("rqdkm/elementwise.h",))
