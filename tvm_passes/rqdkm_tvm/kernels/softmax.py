"""Softmax over the last axis, int8 in and out, TFLite's fixed point arithmetic."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.kernels._c import constant
from rqdkm_tvm.kernels.fixed_point import exp_of_negative
from rqdkm_tvm.kernels.registry import Config, Kernel, register
from rqdkm_tvm.kernels.requantize import doubling_high_mul, quantize_multiplier
from rqdkm_tvm.layer import KernelCall, Layer

_INTEGER_BITS = 5  # of the scaled difference
_MAX_DEPTH = 1 << 12  # the sum has 12 integer bits, every term is at most 1


def softmax_params(layer: Layer) -> tuple[int, int, int]:
    """(multiplier, left_shift, diff_min): ``PreprocessSoftmaxScaling`` and ``CalculateInputRadius``."""
    beta, scale = (float(np.float32(value)) for value in (layer.attrs["beta"], layer.inputs[0].scale))
    real = beta * scale * (1 << (31 - _INTEGER_BITS))
    multiplier, left_shift = quantize_multiplier(min(real, (1 << 31) - 1.0))
    radius = math.floor(((1 << _INTEGER_BITS) - 1) * (1 << (31 - _INTEGER_BITS)) / 2.0**left_shift)
    return multiplier, left_shift, -radius


def exp_table(layer: Layer) -> npt.NDArray[np.int32]:
    """exp(-d * beta * scale) without integer bits for d = 0, 1, ..., up to the last difference that counts."""
    multiplier, left_shift, diff_min = softmax_params(layer)
    differences = np.arange(0, min(255, -diff_min) + 1, dtype=np.int64)
    scaled = doubling_high_mul(-differences << left_shift, multiplier)
    table = exp_of_negative(scaled, _INTEGER_BITS)
    return table[: int(np.flatnonzero(table)[-1]) + 1].astype(np.int32)


class _Softmax(Kernel):
    ops = ("softmax",)

    def reject(self, layer: Layer) -> str | None:
        if layer.inputs[0].dtype != "int8" or layer.output.dtype != "int8":
            return "tensors must be int8"
        if layer.output.scale != 1 / 256 or layer.output.zero_point != -128:
            return "the output must have scale 1/256 and zero point -128"
        if layer.inputs[0].shape[-1] >= _MAX_DEPTH:
            return f"more than {_MAX_DEPTH - 1} classes"
        if layer.inputs[0].scale * layer.attrs["beta"] * (1 << (31 - _INTEGER_BITS)) <= 1.0:
            return "beta * scale is too small for TFLite's arithmetic"
        return None

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0


@register
class SoftmaxTable(_Softmax):
    """exp from a table that the compiler computes with the reference's arithmetic."""

    name = "softmax_s8"

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        depth = layer.inputs[0].shape[-1]
        return layer.inputs[0].size / depth * 150.0 + 45.0 * layer.inputs[0].size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        table, depth = exp_table(layer), layer.inputs[0].shape[-1]
        body = (
            f"  return rqdkm_softmax_s8({layer.inputs[0].size // depth}, {depth}, (const int32_t *)c0, {table.size},\n"
            "                          (const int8_t *)in0, (int8_t *)out);\n"
        )
        return KernelCall(self.name, config, (table,), 0, body, ("rqdkm/elementwise.h",))


@register
class SoftmaxReference(_Softmax):
    """Plain C, exp computed on the chip."""

    name = "softmax_s8_ref"
    reference = True

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 400.0 * layer.inputs[0].size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        multiplier, left_shift, diff_min = softmax_params(layer)
        depth = layer.inputs[0].shape[-1]
        body = constant(
            "rqdkm_softmax_params", "params", multiplier=multiplier, left_shift=left_shift, diff_min=diff_min
        ) + (
            f"  return rqdkm_softmax_s8_ref(&params, {layer.inputs[0].size // depth}, {depth}, (const int8_t *)in0,\n"
            "                              (int8_t *)out);\n"
        )
        return KernelCall(self.name, config, (), 0, body, ("rqdkm/elementwise.h",))
