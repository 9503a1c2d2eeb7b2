"""Two-operand arithmetic, stand-alone activations, and requantize."""

from __future__ import annotations

from tvm.relay.dataflow_pattern import is_constant, is_op, wildcard

from rqdkm_tvm.kernels.requantize import multiply_by_quantized_multiplier, quantize_multiplier
from rqdkm_tvm.offload.base import (
    INT8_CLAMP,
    Draft,
    Expr,
    Offload,
    Pattern,
    Quantization,
    clip_bounds,
    dtype_of,
    is_scalar,
    scalar_quantization,
    strip_ops,
)


class _Binary(Offload):
    """qnn.<op>(lhs, rhs, lhs scale, lhs zero point, rhs scale, rhs zero point, out scale, out zero point) [+ clip]."""

    relay_op: str

    def pattern(self) -> Pattern:
        call = is_op(self.relay_op)(wildcard(), wildcard(), *[is_constant() for _ in range(6)])
        return call.optional(lambda x: is_op("clip")(x))

    def refuse(self, root: Expr) -> str | None:
        call, _ = strip_ops(root, "clip")
        dtypes = {dtype_of(call.args[0]), dtype_of(call.args[1]), dtype_of(root)}
        if dtypes != {"int8"}:
            return f"tensors are {', '.join(sorted(dtypes))}, kernels take int8"
        if not all(is_scalar(a) for a in call.args[2:8]):
            return "a tensor is quantized per channel"
        return None

    def parse(self, root: Expr) -> Draft:
        call, found = strip_ops(root, "clip")
        a = call.args
        return Draft(
            self.name,
            (scalar_quantization(a[2], a[3]), scalar_quantization(a[4], a[5])),
            scalar_quantization(a[6], a[7]),
            {"clamp": clip_bounds(found.get("clip"))},
        )


class Add(_Binary):
    name, relay_op = "add", "qnn.add"


class Mul(_Binary):
    name, relay_op = "mul", "qnn.mul"


class Clip(Offload):
    """relu or relu6 that stands alone, with equal input and output quantization."""

    name = "clip"

    def pattern(self) -> Pattern:
        return is_op("clip")(wildcard()) | is_op("nn.relu")(wildcard())

    def refuse(self, root: Expr) -> str | None:
        return None if dtype_of(root) == "int8" else f"the tensor is {dtype_of(root)}, kernels take int8"

    def parse(self, root: Expr) -> Draft:
        return Draft(self.name, (None,), None, {"clamp": clip_bounds(root)}, passes_through=True)


class Requantize(Offload):
    """int8 to int8 with another scale or zero point, TFLite's QUANTIZE; a clip after it becomes the clamp."""

    name = "requantize"

    def pattern(self) -> Pattern:
        call = is_op("qnn.requantize")(wildcard(), *[is_constant() for _ in range(4)])
        return call.optional(lambda x: is_op("clip")(x))

    def refuse(self, root: Expr) -> str | None:
        call, _ = strip_ops(root, "clip")
        if dtype_of(call.args[0]) != "int8" or dtype_of(call) != "int8":
            return f"{dtype_of(call.args[0])} to {dtype_of(call)}, kernels take int8"
        if not all(is_scalar(a) for a in call.args[1:5]):
            return "a tensor is quantized per channel"
        return None

    def parse(self, root: Expr) -> Draft:
        call, found = strip_ops(root, "clip")
        source = scalar_quantization(call.args[1], call.args[2])
        target = scalar_quantization(call.args[3], call.args[4])
        return Draft(self.name, (source,), target, {"clamp": clip_bounds(found.get("clip"))})


class Relu(Requantize):
    """clip, then another scale or zero point: TFLite's RELU with unequal quantization."""

    name = "relu"

    def pattern(self) -> Pattern:
        clip = is_op("clip")(wildcard())
        return is_op("qnn.requantize")(clip, *[is_constant() for _ in range(4)])

    def parse(self, root: Expr) -> Draft:
        source = scalar_quantization(root.args[1], root.args[2])
        target = scalar_quantization(root.args[3], root.args[4])
        # requantization is monotonic, so that a clip before it equals a clip of its result
        clamp = _requantized_bounds(clip_bounds(root.args[0]), source, target)
        return Draft(self.name, (source,), target, {"clamp": clamp})


def _requantized_bounds(bounds: tuple[int, int], source: Quantization, target: Quantization) -> tuple[int, int]:
    """Bounds in output units; an open end (the int8 limit) stays open."""
    low, high = (_requantize_value(b, source, target) for b in bounds)
    return (
        INT8_CLAMP[0] if bounds[0] == INT8_CLAMP[0] else low,
        INT8_CLAMP[1] if bounds[1] == INT8_CLAMP[1] else high,
    )


def _requantize_value(value: int, source: Quantization, target: Quantization) -> int:
    """One int8 value in another quantization, as TFLite's QUANTIZE operator computes it."""
    multiplier, shift = quantize_multiplier(source.scale / target.scale)
    scaled = int(multiply_by_quantized_multiplier(value - source.zero_point, multiplier, shift)) + target.zero_point
    return max(-128, min(127, scaled))
