"""qnn.dense [+ bias] + requantize [+ clip], with one weight scale or one per output."""

from __future__ import annotations

import numpy as np
from tvm.relay.dataflow_pattern import is_constant, is_op, wildcard

from rqdkm_tvm.offload.base import (
    Draft,
    Expr,
    Offload,
    Pattern,
    clip_bounds,
    constant,
    dtype_of,
    is_scalar,
    per_channel,
    scalar_quantization,
    strip_ops,
)
from rqdkm_tvm.offload.convolution import refuse_requantize, requantized


class FullyConnected(Offload):
    name = "fully_connected"

    def pattern(self) -> Pattern:
        return requantized(is_op("qnn.dense")(wildcard(), *[is_constant() for _ in range(5)]))

    def refuse(self, root: Expr) -> str | None:
        dense, found = strip_ops(root, "clip", "qnn.requantize", "nn.bias_add")
        if dtype_of(dense.args[0]) != "int8" or dtype_of(dense.args[1]) != "int8":
            return f"activations are {dtype_of(dense.args[0])} and weights {dtype_of(dense.args[1])}, kernels take int8"
        if not (is_scalar(dense.args[2]) and is_scalar(dense.args[4])):
            return "the input is quantized per channel"
        if np.any(constant(dense.args[3]) != constant(dense.args[3]).reshape(-1)[0]):
            return "the weight zero points differ between outputs"
        return refuse_requantize(found["qnn.requantize"])

    def parse(self, root: Expr) -> Draft:
        dense, found = strip_ops(root, "clip", "qnn.requantize", "nn.bias_add")
        requantize, bias = found["qnn.requantize"], found.get("nn.bias_add")
        weights = constant(dense.args[1])
        scales = constant(dense.args[5])
        return Draft(
            op=self.name,
            inputs=(scalar_quantization(dense.args[4], dense.args[2]),),
            output=scalar_quantization(requantize.args[3], requantize.args[4]),
            attrs={"clamp": clip_bounds(found.get("clip"))},
            weights=np.ascontiguousarray(weights),
            weight_scales=per_channel(scales, weights.shape[0]),
            weight_zero_point=int(constant(dense.args[3]).reshape(-1)[0]),
            bias=None if bias is None else np.ascontiguousarray(constant(bias.args[1]), dtype=np.int32),
        )
