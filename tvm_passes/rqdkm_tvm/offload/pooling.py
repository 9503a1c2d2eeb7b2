"""Average pooling (int8 through int32, as the importer writes it), max pooling, and mean over axes."""

from __future__ import annotations

from tvm.relay.dataflow_pattern import is_constant, is_op, wildcard

from rqdkm_tvm.offload.base import (
    Draft,
    Expr,
    Offload,
    Pattern,
    clip_bounds,
    dtype_of,
    ints,
    padding4,
    pair,
    scalar_quantization,
    shape_of,
    strip_ops,
)


def _refuse_pool(pool: Expr, dtype: str) -> str | None:
    if dtype_of(pool.args[0]) != dtype:
        return f"the input is {dtype_of(pool.args[0])}, kernels take int8"
    if pool.attrs.layout != "NHWC":
        return f"the layout is {pool.attrs.layout}, kernels take NHWC"
    if shape_of(pool)[0] != 1:
        return f"the batch size is {shape_of(pool)[0]}, kernels run one image"
    if pair(pool.attrs.dilation) != (1, 1):
        return "dilated pooling"
    return None


def _pool_attrs(pool: Expr, clip: Expr | None) -> dict[str, object]:
    return {
        "pool": pair(pool.attrs.pool_size),
        "strides": pair(pool.attrs.strides),
        "padding": padding4(pool.attrs.padding),
        "clamp": clip_bounds(clip),
    }


class MaxPool2d(Offload):
    name = "max_pool2d"

    def pattern(self) -> Pattern:
        return is_op("nn.max_pool2d")(wildcard()).optional(lambda x: is_op("clip")(x))

    def refuse(self, root: Expr) -> str | None:
        return _refuse_pool(strip_ops(root, "clip")[0], "int8")

    def parse(self, root: Expr) -> Draft:
        pool, found = strip_ops(root, "clip")
        return Draft(self.name, (None,), None, _pool_attrs(pool, found.get("clip")), passes_through=True)


class AvgPool2d(Offload):
    name = "avg_pool2d"

    def pattern(self) -> Pattern:
        pool = is_op("nn.avg_pool2d")(is_op("cast")(wildcard()))
        return is_op("cast")(pool).optional(lambda x: is_op("clip")(x))

    def refuse(self, root: Expr) -> str | None:
        pool, _ = strip_ops(root, "clip", "cast")
        if dtype_of(root) != "int8" or dtype_of(pool.args[0].args[0]) != "int8":
            return f"{dtype_of(pool.args[0].args[0])} to {dtype_of(root)}, kernels take int8"
        if bool(pool.attrs.count_include_pad) and any(padding4(pool.attrs.padding)):
            return "padding counts in the divisor"
        return _refuse_pool(pool, "int32")

    def parse(self, root: Expr) -> Draft:
        pool, found = strip_ops(root, "clip", "cast")
        return Draft(self.name, (None,), None, _pool_attrs(pool, found.get("clip")), passes_through=True)


class Mean(Offload):
    name = "mean"

    def pattern(self) -> Pattern:
        mean = is_op("mean")(is_op("cast")(wildcard()))
        return is_op("qnn.requantize")(mean, *[is_constant() for _ in range(4)])

    def refuse(self, root: Expr) -> str | None:
        mean = root.args[0]
        source = dtype_of(mean.args[0].args[0])
        if source != "int8" or dtype_of(root) != "int8" or dtype_of(mean) != "int32":
            return f"{source} to {dtype_of(root)}, kernels take int8"
        return None

    def parse(self, root: Expr) -> Draft:
        mean = root.args[0]
        rank = len(shape_of(mean.args[0]))
        axes = range(rank) if mean.attrs.axis is None else sorted(a % rank for a in ints(mean.attrs.axis))
        if bool(mean.attrs.exclude):
            axes = [a for a in range(rank) if a not in axes]
        return Draft(
            self.name,
            (scalar_quantization(root.args[1], root.args[2]),),
            scalar_quantization(root.args[3], root.args[4]),
            {"axes": tuple(axes), "keepdims": bool(mean.attrs.keepdims)},
        )
