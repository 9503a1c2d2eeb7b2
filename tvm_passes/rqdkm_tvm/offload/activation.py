"""Float functions between qnn.dequantize and qnn.quantize, which our kernels compute in integers."""

from __future__ import annotations

from tvm.relay.dataflow_pattern import is_constant, is_op, wildcard

from rqdkm_tvm.offload.base import (
    Draft,
    Expr,
    Offload,
    Pattern,
    constant,
    dtype_of,
    is_scalar,
    scalar_quantization,
    shape_of,
)


class _Sandwich(Offload):
    relay_op: str

    def pattern(self) -> Pattern:
        dequantize = is_op("qnn.dequantize")(wildcard(), is_constant(), is_constant())
        return is_op("qnn.quantize")(is_op(self.relay_op)(dequantize), is_constant(), is_constant())

    def refuse(self, root: Expr) -> str | None:
        dequantize = root.args[0].args[0]
        if dtype_of(dequantize.args[0]) != "int8" or dtype_of(root) != "int8":
            return f"{dtype_of(dequantize.args[0])} to {dtype_of(root)}, kernels take int8"
        if not all(is_scalar(a) for a in (*root.args[1:3], *dequantize.args[1:3])):
            return "a tensor is quantized per channel"
        return None

    def parse(self, root: Expr) -> Draft:
        dequantize = root.args[0].args[0]
        return Draft(
            self.name,
            (scalar_quantization(dequantize.args[1], dequantize.args[2]),),
            scalar_quantization(root.args[1], root.args[2]),
            self.attributes(root.args[0]),
        )

    def attributes(self, call: Expr) -> dict[str, object]:
        return {}


class Softmax(_Sandwich):
    name, relay_op = "softmax", "nn.softmax"

    def refuse(self, root: Expr) -> str | None:
        call = root.args[0]
        if int(call.attrs.axis) not in (-1, len(shape_of(call)) - 1):
            return f"softmax over axis {int(call.attrs.axis)}, the kernel runs over the last one"
        return super().refuse(root)

    def attributes(self, call: Expr) -> dict[str, object]:
        return {"beta": 1.0}  # Relay's softmax has none


class Logistic(_Sandwich):
    name, relay_op = "logistic", "sigmoid"


class Tanh(_Sandwich):
    name, relay_op = "tanh", "tanh"


class LeakyRelu(_Sandwich):
    name, relay_op = "leaky_relu", "nn.leaky_relu"

    def attributes(self, call: Expr) -> dict[str, object]:
        return {"alpha": float(call.attrs.alpha)}


class HardSwish(Offload):
    """x * clip(x + 3, 0, 6) / 6 on dequantized values."""

    name = "hard_swish"

    def pattern(self) -> Pattern:
        x = is_op("qnn.dequantize")(wildcard(), is_constant(), is_constant())
        gate = is_op("clip")(is_op("add")(x, is_constant()))
        product = is_op("divide")(is_op("multiply")(x, gate), is_constant())
        return is_op("qnn.quantize")(product, is_constant(), is_constant())

    def refuse(self, root: Expr) -> str | None:
        dequantize, gate, offset, divisor = self._parts(root)
        if dtype_of(dequantize.args[0]) != "int8" or dtype_of(root) != "int8":
            return f"{dtype_of(dequantize.args[0])} to {dtype_of(root)}, kernels take int8"
        numbers = (float(constant(offset)), float(gate.attrs.a_min), float(gate.attrs.a_max), float(constant(divisor)))
        if numbers != (3.0, 0.0, 6.0, 6.0):
            return "not x * relu6(x + 3) / 6"
        if not all(is_scalar(a) for a in (*root.args[1:3], *dequantize.args[1:3])):
            return "a tensor is quantized per channel"
        return None

    def parse(self, root: Expr) -> Draft:
        dequantize = self._parts(root)[0]
        return Draft(
            self.name,
            (scalar_quantization(dequantize.args[1], dequantize.args[2]),),
            scalar_quantization(root.args[1], root.args[2]),
        )

    def _parts(self, root: Expr) -> tuple[Expr, Expr, Expr, Expr]:
        """(dequantize, clip, constant 3, constant 6)"""
        product, divisor = root.args[0].args
        dequantize, gate = product.args
        return dequantize, gate, gate.args[0].args[1], divisor
