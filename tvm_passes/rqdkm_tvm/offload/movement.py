"""Operators that move data: padding and concatenation."""

from __future__ import annotations

from tvm.relay.dataflow_pattern import is_constant, is_op, is_tuple, wildcard

from rqdkm_tvm.offload.base import (
    Draft,
    Expr,
    Offload,
    Pattern,
    constant,
    dtype_of,
    ints,
    scalar_quantization,
    shape_of,
)

MAX_CONCATENATE = 8


class Pad(Offload):
    name = "pad"

    def pattern(self) -> Pattern:
        return is_op("nn.pad")(wildcard(), is_constant())

    def refuse(self, root: Expr) -> str | None:
        if root.attrs.pad_mode != "constant":
            return f"padding mode {root.attrs.pad_mode}"
        return None if dtype_of(root) == "int8" else f"the tensor is {dtype_of(root)}, kernels take int8"

    def parse(self, root: Expr) -> Draft:
        width = tuple(ints(axis) for axis in root.attrs.pad_width)
        value = int(constant(root.args[1]).reshape(-1)[0])
        return Draft(self.name, (None,), None, {"pad_width": width, "value": value}, passes_through=True)


class Concatenate(Offload):
    """qnn.concatenate of a fixed number of tensors: one pattern per count, since a pattern tuple has a fixed length."""

    name = "concatenate"

    def __init__(self, count: int) -> None:
        self.count = count

    def pattern(self) -> Pattern:
        data = is_tuple([wildcard() for _ in range(self.count)])
        scales = is_tuple([is_constant() for _ in range(self.count)])
        zero_points = is_tuple([is_constant() for _ in range(self.count)])
        return is_op("qnn.concatenate")(data, scales, zero_points, is_constant(), is_constant())

    def refuse(self, root: Expr) -> str | None:
        dtypes = {dtype_of(field) for field in root.args[0].fields} | {dtype_of(root)}
        return None if dtypes == {"int8"} else f"tensors are {', '.join(sorted(dtypes))}, kernels take int8"

    def parse(self, root: Expr) -> Draft:
        _, scales, zero_points, out_scale, out_zero_point = root.args
        inputs = tuple(scalar_quantization(s, z) for s, z in zip(scales.fields, zero_points.fields, strict=True))
        axis = int(root.attrs.axis) % len(shape_of(root))
        return Draft(self.name, inputs, scalar_quantization(out_scale, out_zero_point), {"axis": axis})
