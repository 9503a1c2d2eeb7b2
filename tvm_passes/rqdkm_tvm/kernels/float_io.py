"""Between float32 and int8, for models that keep such operators inside."""

from __future__ import annotations

import numpy as np

from rqdkm_tvm.kernels.registry import Config, Elements, Kernel, register
from rqdkm_tvm.layer import KernelCall, Layer


class _FloatIo(Kernel):
    types: tuple[str, str]

    def reject(self, layer: Layer) -> str | None:
        if (layer.inputs[0].dtype, layer.output.dtype) != self.types:
            return f"types must be {self.types[0]} to {self.types[1]}"
        return None

    def parts(self, layer: Layer, config: Config) -> Elements:
        return Elements()

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def _call(self, layer: Layer, config: Config, scale: float, zero_point: int, casts: tuple[str, str]) -> KernelCall:
        value = float(np.float32(scale)).hex()
        body = (
            f"  const int32_t count = {layer.output.size};\n"
            f"  return rqdkm_{self.name}({value}F, {zero_point}, count, "
            f"(const {casts[0]} *)in0, ({casts[1]} *)out);\n"
        )
        return KernelCall(self.name, config, (), 0, body, ("rqdkm/elementwise.h",))


@register
class Quantize(_FloatIo):
    """Single precision division, half away from zero."""

    name = "quantize_f32_s8"
    ops = ("quantize",)
    types = ("float32", "int8")

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 45.0 * layer.output.size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        return self._call(layer, config, layer.output.scale, layer.output.zero_point, ("float", "int8_t"))


@register
class Dequantize(_FloatIo):
    """Single precision product."""

    name = "dequantize_s8_f32"
    ops = ("dequantize",)
    types = ("int8", "float32")

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 8.0 * layer.output.size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        return self._call(layer, config, layer.inputs[0].scale, layer.inputs[0].zero_point, ("int8_t", "float"))
