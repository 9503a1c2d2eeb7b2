"""qnn.conv2d [+ bias] + requantize [+ clip]: convolution and depthwise convolution."""

from __future__ import annotations

import numpy as np
from tvm.relay.dataflow_pattern import is_constant, is_op, wildcard

from rqdkm_tvm.offload.base import (
    NOT_MINE,
    Draft,
    Expr,
    Offload,
    Pattern,
    clip_bounds,
    constant,
    dtype_of,
    is_scalar,
    padding4,
    pair,
    per_channel,
    scalar_quantization,
    shape_of,
    strip_ops,
)


def _is_depthwise(conv: Expr) -> bool:
    """One input channel per group; a single input channel is an ordinary convolution (as in TFLite's importer)."""
    groups = int(conv.attrs.groups)
    return groups > 1 and groups == shape_of(conv.args[0])[-1]


def requantized(accumulator: Pattern) -> Pattern:
    """``accumulator [+ bias_add] + qnn.requantize [+ clip]``, every parameter a constant."""
    with_bias = accumulator.optional(lambda x: is_op("nn.bias_add")(x, is_constant()))
    requantize = is_op("qnn.requantize")(with_bias, *[is_constant() for _ in range(4)])
    return requantize.optional(lambda x: is_op("clip")(x))


def refuse_requantize(requantize: Expr) -> str | None:
    """Checks that every requantized accumulator shares."""
    _, _, zero_point, out_scale, out_zero_point = requantize.args
    if dtype_of(requantize) != "int8":
        return f"the output is {dtype_of(requantize)}, kernels write int8"
    if np.any(constant(zero_point) != 0):
        return "the accumulator has a zero point"
    if not (is_scalar(out_scale) and is_scalar(out_zero_point)):
        return "the output is quantized per channel"
    return None


class Conv2d(Offload):
    name = "conv2d"
    depthwise = False

    def pattern(self) -> Pattern:
        return requantized(is_op("qnn.conv2d")(wildcard(), *[is_constant() for _ in range(5)]))

    def refuse(self, root: Expr) -> str | None:
        conv, found = strip_ops(root, "clip", "qnn.requantize", "nn.bias_add")
        attrs = conv.attrs
        if _is_depthwise(conv) != self.depthwise:
            return NOT_MINE
        if dtype_of(conv.args[0]) != "int8" or dtype_of(conv.args[1]) != "int8":
            return f"activations are {dtype_of(conv.args[0])} and weights {dtype_of(conv.args[1])}, kernels take int8"
        if attrs.data_layout != "NHWC" or attrs.kernel_layout not in ("HWIO", "HWOI"):
            return f"the layout is {attrs.data_layout}/{attrs.kernel_layout}, kernels take NHWC"
        if shape_of(conv.args[0])[0] != 1:
            return f"the batch size is {shape_of(conv.args[0])[0]}, kernels run one image"
        if not (is_scalar(conv.args[2]) and is_scalar(conv.args[4])):
            return "the input is quantized per channel"
        if np.any(constant(conv.args[3]) != constant(conv.args[3]).reshape(-1)[0]):
            return "the weight zero points differ between channels"
        bias = found.get("nn.bias_add")
        if bias is not None and int(bias.attrs.axis) not in (3, -1):
            return "the bias is not added to the channels"
        return refuse_requantize(found["qnn.requantize"])

    def parse(self, root: Expr) -> Draft:
        conv, found = strip_ops(root, "clip", "qnn.requantize", "nn.bias_add")
        requantize, bias = found["qnn.requantize"], found.get("nn.bias_add")
        weights = constant(conv.args[1])
        kh, kw = weights.shape[:2]
        channels = shape_of(conv)[-1]
        attrs: dict[str, object] = {
            "strides": pair(conv.attrs.strides),
            "padding": padding4(conv.attrs.padding),
            "dilation": pair(conv.attrs.dilation),
            "clamp": clip_bounds(found.get("clip")),
        }
        if self.depthwise:
            # HWOI (KH, KW, C, M) and HWIO (KH, KW, 1, C * M) hold the same values in the same order
            weights = weights.reshape(1, kh, kw, channels)
            attrs["multiplier"] = channels // shape_of(conv.args[0])[-1]
        else:
            to_ohwi = (3, 0, 1, 2) if conv.attrs.kernel_layout == "HWIO" else (2, 0, 1, 3)
            weights = weights.transpose(to_ohwi)
            attrs["groups"] = int(conv.attrs.groups)
        return Draft(
            op=self.name,
            inputs=(scalar_quantization(conv.args[4], conv.args[2]),),
            output=scalar_quantization(requantize.args[3], requantize.args[4]),
            attrs=attrs,
            weights=np.ascontiguousarray(weights),
            weight_scales=per_channel(constant(conv.args[5]), channels),
            weight_zero_point=int(constant(conv.args[3]).reshape(-1)[0]),
            bias=None if bias is None else np.ascontiguousarray(constant(bias.args[1]), dtype=np.int32),
        )


class DepthwiseConv2d(Conv2d):
    name = "depthwise_conv2d"
    depthwise = True
