"""Average and maximum pooling, and the mean over axes, int8."""

from __future__ import annotations

import math

from rqdkm_tvm.kernels._c import constant, dims, hwc, is_image, same_quantization
from rqdkm_tvm.kernels.registry import Config, Kernel, Rows, register
from rqdkm_tvm.kernels.requantize import quantize_multiplier
from rqdkm_tvm.layer import KernelCall, Layer


class _Pool(Kernel):
    """Shared by the pooling kernels; subclasses say which C function and what it costs per input element read."""

    cycles_per_element: float

    def reject(self, layer: Layer) -> str | None:
        if not (is_image(layer.inputs[0]) and is_image(layer.output)):
            return "tensors must be int8 NHWC with N = 1"
        if not same_quantization(layer.inputs[0], layer.output):
            return "input and output must share scale and zero point"
        if _has_empty_window(layer):
            return "a window lies entirely in the padding"
        return None

    def parts(self, layer: Layer, config: Config) -> Rows:
        return Rows("input_dims.h", "output_dims.h", "params.padding.top", "params.padding.bottom")

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        window = int(math.prod(layer.attrs["pool"]))
        return self.cycles_per_element * layer.output.size * window + 8.0 * layer.output.size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        body = (
            constant(
                "rqdkm_pool_params",
                "params",
                window=layer.attrs["pool"],
                stride=layer.attrs["strides"],
                padding=layer.attrs["padding"],
                clamp=layer.attrs["clamp"],
            )
            + dims("input_dims", layer.inputs[0])
            + dims("output_dims", layer.output)
            + f"  return rqdkm_{self.name}(&params, &input_dims, (const int8_t *)in0, &output_dims, (int8_t *)out);\n"
        )
        return KernelCall(self.name, config, (), 0, body, ("rqdkm/pooling.h",))


def _has_empty_window(layer: Layer) -> bool:
    extents = zip(
        hwc(layer.inputs[0])[:2],
        hwc(layer.output)[:2],
        layer.attrs["pool"],
        layer.attrs["strides"],
        layer.attrs["padding"][:2],
        strict=True,
    )
    return any(
        window <= before or (output - 1) * stride - before >= size for size, output, window, stride, before in extents
    )


@register
class AvgPool2dReference(_Pool):
    """Plain C."""

    name = "avg_pool2d_s8_ref"
    ops = ("avg_pool2d",)
    reference = True
    cycles_per_element = 15.0


@register
class MaxPool2dReference(_Pool):
    """Plain C."""

    name = "max_pool2d_s8_ref"
    ops = ("max_pool2d",)
    reference = True
    cycles_per_element = 15.0


@register
class AvgPool2d(_Pool):
    """Sums of four channels in 16-bit lanes, division by multiplication."""

    name = "avg_pool2d_s8"
    ops = ("avg_pool2d",)
    cycles_per_element = 1.5


@register
class MaxPool2d(_Pool):
    """Maximum of four channels at once."""

    name = "max_pool2d_s8"
    ops = ("max_pool2d",)
    cycles_per_element = 1.5


class _Mean(Kernel):
    """Mean over adjacent axes."""

    ops = ("mean",)
    cycles_per_element: float

    def reject(self, layer: Layer) -> str | None:
        if layer.inputs[0].dtype != "int8" or layer.output.dtype != "int8":
            return "tensors must be int8"
        axes = mean_axes(layer)
        if axes != list(range(axes[0], axes[-1] + 1)):
            return "axes must be adjacent"
        if math.prod(layer.inputs[0].shape[a] for a in axes) > (2**31 - 1) // 255:
            return "the sum may overflow 32 bits"
        return None

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return self.cycles_per_element * layer.inputs[0].size + 20.0 * layer.output.size

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        axes, shape = mean_axes(layer), layer.inputs[0].shape
        outer = math.prod(shape[: axes[0]])
        reduced = math.prod(shape[a] for a in axes)
        inner = math.prod(shape[axes[-1] + 1 :])
        multiplier, shift = mean_multiplier(layer, reduced)
        body = (
            constant(
                "rqdkm_mean_params",
                "params",
                input_zero_point=layer.inputs[0].zero_point,
                output_zero_point=layer.output.zero_point,
                multiplier=multiplier,
                shift=shift,
            )
            + f"  return rqdkm_{self.name}(&params, {outer}, {reduced}, {inner}, (const int8_t *)in0, (int8_t *)out);\n"
        )
        return KernelCall(self.name, config, (), 0, body, ("rqdkm/pooling.h",))


def mean_axes(layer: Layer) -> list[int]:
    """The reduced axes, sorted and non-negative; extents of 1 beside them count as reduced."""
    shape = layer.inputs[0].shape
    axes = {int(axis) % len(shape) for axis in layer.attrs["axes"]}
    between = range(min(axes), max(axes) + 1)
    return sorted(axes | {axis for axis in between if shape[axis] == 1})


def mean_multiplier(layer: Layer, reduced: int) -> tuple[int, int]:
    """Multiplier and shift that include the division, as TFLite's ``QuantizedMeanOrSum`` folds it in."""
    multiplier, output_shift = quantize_multiplier(float(layer.inputs[0].scale) / float(layer.output.scale))
    shift = min(reduced.bit_length() - 1, 32, 31 + output_shift)
    return (multiplier << shift) // reduced, output_shift - shift


@register
class MeanReference(_Mean):
    """Plain C."""

    name = "mean_s8_ref"
    reference = True
    cycles_per_element = 10.0


@register
class Mean(_Mean):
    """Sums of four channels in 16-bit lanes."""

    name = "mean_s8"
    cycles_per_element = 1.5
