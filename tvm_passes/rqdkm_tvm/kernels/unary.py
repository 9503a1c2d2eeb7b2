"""Operators on one int8 tensor: everything with 256 possible results is one table; clip is lane arithmetic."""

from __future__ import annotations

from typing import ClassVar

from rqdkm_tvm.kernels._c import braces, same_quantization
from rqdkm_tvm.kernels.registry import Config, Elements, Kernel, register, same_size_operands
from rqdkm_tvm.kernels.requantize import quantize_multiplier
from rqdkm_tvm.kernels.unary_tables import TABLES, unary_table
from rqdkm_tvm.layer import KernelCall, Layer


def _reject_types(layer: Layer) -> str | None:
    if layer.inputs[0].dtype != "int8" or layer.output.dtype != "int8":
        return "tensors must be int8"
    if layer.inputs[0].size != layer.output.size:
        return "input and output differ in size"
    return None


class _Lut(Kernel):
    ops = tuple(TABLES)

    def reject(self, layer: Layer) -> str | None:
        fixed_output = {"logistic": -128, "tanh": 0}.get(layer.op, layer.output.zero_point)
        if layer.output.zero_point != fixed_output:
            return f"{layer.op} needs an output zero point of {fixed_output}"
        if layer.op == "hard_swish":
            ratio = float(layer.inputs[0].scale) / 128.0 / float(layer.output.scale)
            if quantize_multiplier(ratio)[1] > 0:
                return "the input scale is over 128 times the output scale"
        return _reject_types(layer)

    def parts(self, layer: Layer, config: Config) -> Elements:
        return Elements()

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        return same_size_operands(layer)

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        arguments = "count, (const int8_t *)c0, (const int8_t *)in0, (int8_t *)out"
        body = f"  const int32_t count = {layer.output.size};\n  return rqdkm_{self.name}({arguments});\n"
        return KernelCall(self.name, config, (unary_table(layer),), 0, body, ("rqdkm/elementwise.h",))


@register
class UnaryLutReference(_Lut):
    """Plain C table look-up."""

    name = "unary_s8_lut_ref"
    reference = True

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 9.0 * layer.output.size


@register
class UnaryLut(_Lut):
    """Four look-ups per word; larger layers copy the table to RAM first, out of the flash's wait states."""

    name = "unary_s8_lut"

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 256 if layer.output.size >= 256 else 0

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 5.0 * layer.output.size + 300.0

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        scratch = self.scratch_bytes(layer, config)
        table = "scratch" if scratch else "c0"
        body = f"  const int32_t count = {layer.output.size};\n"
        body += "  rqdkm_copy(scratch, c0, 256);\n" if scratch else ""
        body += (
            f"  return rqdkm_unary_s8_lut(count, (const int8_t *){table}, (const int8_t *)in0,\n"
            "                            (int8_t *)out);\n"
        )
        includes = ("rqdkm/elementwise.h", "rqdkm/memory.h")
        return KernelCall(self.name, config, (unary_table(layer),), scratch, body, includes)


class _Clip(Kernel):
    ops = ("clip",)
    cycles_per_element: ClassVar[float]

    def reject(self, layer: Layer) -> str | None:
        if not same_quantization(layer.inputs[0], layer.output):
            return "input and output must share scale and zero point"
        return _reject_types(layer)

    def parts(self, layer: Layer, config: Config) -> Elements:
        return Elements()

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        return same_size_operands(layer)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return self.cycles_per_element * layer.output.size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        body = (
            f"  const rqdkm_clamp clamp = {braces(layer.attrs['clamp'])};\n"
            f"  const int32_t count = {layer.output.size};\n"
            f"  return rqdkm_{self.name}(clamp, count, (const int8_t *)in0, (int8_t *)out);\n"
        )
        return KernelCall(self.name, config, (), 0, body, ("rqdkm/elementwise.h",))


@register
class ClipReference(_Clip):
    """Plain C."""

    name = "clip_s8_ref"
    reference = True
    cycles_per_element = 6.0


@register
class Clip(_Clip):
    """Minimum and maximum of four bytes at once."""

    name = "clip_s8"
    cycles_per_element = 2.0
