"""Quantize and dequantize that stay inside the model (those at its boundary are stripped before)."""

from __future__ import annotations

from tvm.relay.dataflow_pattern import is_constant, is_op, wildcard

from rqdkm_tvm.offload.base import Draft, Expr, Offload, Pattern, dtype_of, is_scalar, scalar_quantization


class Quantize(Offload):
    name = "quantize"
    relay_op, source, target = "qnn.quantize", "float32", "int8"

    def pattern(self) -> Pattern:
        return is_op(self.relay_op)(wildcard(), is_constant(), is_constant())

    def refuse(self, root: Expr) -> str | None:
        if dtype_of(root.args[0]) != self.source or dtype_of(root) != self.target:
            return f"{dtype_of(root.args[0])} to {dtype_of(root)}, the kernel takes {self.source} to {self.target}"
        return None if is_scalar(root.args[1]) and is_scalar(root.args[2]) else "the tensor is quantized per channel"

    def parse(self, root: Expr) -> Draft:
        return Draft(self.name, (None,), scalar_quantization(root.args[1], root.args[2]))


class Dequantize(Quantize):
    name = "dequantize"
    relay_op, source, target = "qnn.dequantize", "int8", "float32"

    def parse(self, root: Expr) -> Draft:
        return Draft(self.name, (scalar_quantization(root.args[1], root.args[2]),), None)
