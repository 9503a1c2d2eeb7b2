"""Depthwise convolution, int8."""

from __future__ import annotations

import numpy as np

from rqdkm_tvm.kernels._c import constant, dims, is_image
from rqdkm_tvm.kernels.conv2d import CONV_ROWS, bias_of, bits_constant, conv_params
from rqdkm_tvm.kernels.pack import channel_bits, pack_channels
from rqdkm_tvm.kernels.registry import Config, Kernel, Rows, register
from rqdkm_tvm.kernels.requantize import convolution_multipliers
from rqdkm_tvm.layer import KernelCall, Layer


def reject_depthwise(layer: Layer) -> str | None:
    """What no int8 depthwise kernel can do."""
    if not (is_image(layer.inputs[0]) and is_image(layer.output)):
        return "tensors must be int8 NHWC with N = 1"
    if layer.weights is None or layer.weights.dtype != np.int8:
        return "weights must be constant int8"
    if layer.weight_zero_point != 0:
        return "weights must be symmetric (zero point 0)"
    if layer.weights.shape[3] != layer.inputs[0].shape[3] * int(layer.attrs["multiplier"]):
        return "weights must be (1, KH, KW, C * multiplier)"
    return None


def depthwise_macs(layer: Layer) -> int:
    assert layer.weights is not None
    return layer.output.size * int(layer.weights.shape[1]) * int(layer.weights.shape[2])


def reference_constants(layer: Layer) -> str:
    """The parameter structs of the references, as lines of a function body."""
    assert layer.weights is not None
    return (
        conv_params(layer)
        + dims("input_dims", layer.inputs[0])
        + dims("output_dims", layer.output)
        + constant("rqdkm_hw", "kernel", h=int(layer.weights.shape[1]), w=int(layer.weights.shape[2]))
    )


@register
class DepthwiseConv2dReference(Kernel):
    """Plain C: any kernel, stride, padding, dilation and channel multiplier."""

    name = "depthwise_conv2d_s8_ref"
    ops = ("depthwise_conv2d",)
    reference = True

    def parts(self, layer: Layer, config: Config) -> Rows:
        return CONV_ROWS

    def reject(self, layer: Layer) -> str | None:
        return reject_depthwise(layer)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 25.0 * depthwise_macs(layer) + 60.0 * layer.output.size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        assert layer.weights is not None
        channels = layer.output.shape[3]
        multipliers, shifts = convolution_multipliers(layer, channels)
        body = (
            reference_constants(layer)
            + "  const rqdkm_channel_quant quant = {(const int32_t *)c2, (const int32_t *)c3};\n"
            "  return rqdkm_depthwise_conv2d_s8_ref(&params, &quant, &input_dims, (const int8_t *)in0, &kernel,\n"
            "                                       (const int8_t *)c0, (const int32_t *)c1, &output_dims,\n"
            "                                       (int8_t *)out);\n"
        )
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=(layer.weights, bias_of(layer, channels), multipliers, shifts),
            scratch_bytes=0,
            body=body,
            includes=("rqdkm/depthwise.h",),
            macs=depthwise_macs(layer),
        )


@register
class DepthwiseConv2dMixedReference(Kernel):
    """Plain C with tensors and weights of any width."""

    name = "depthwise_conv2d_mixed_ref"
    ops = ("depthwise_conv2d",)
    reference = True
    packed_weights = True
    packed_tensors = True

    def reject(self, layer: Layer) -> str | None:
        return reject_depthwise(layer)

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 40.0 * depthwise_macs(layer) + 100.0 * layer.output.size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        assert layer.weights is not None
        channels = layer.output.shape[3]
        bits = channel_bits(layer)
        multipliers, shifts = convolution_multipliers(layer, channels)
        body = (
            reference_constants(layer)
            + "  const rqdkm_channel_quant quant = {(const int32_t *)c2, (const int32_t *)c3};\n"
            + bits_constant(layer, "c4")
            + "  return rqdkm_depthwise_conv2d_mixed_ref(&params, &quant, &bits, &input_dims, in0, &kernel, c0,\n"
            "                                          (const int32_t *)c1, &output_dims, out);\n"
        )
        weights = pack_channels(layer.weights.reshape(-1, channels).T, bits)
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=(weights, bias_of(layer, channels), multipliers, shifts, np.array(bits, np.uint8)),
            scratch_bytes=0,
            body=body,
            includes=("rqdkm/depthwise.h",),
            macs=depthwise_macs(layer),
        )
