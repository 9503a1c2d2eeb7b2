"""Operators that only move data: pad, concatenate, reshape."""

from __future__ import annotations

import math

from rqdkm_tvm.kernels._c import constant, same_quantization
from rqdkm_tvm.kernels.registry import Config, Kernel, register
from rqdkm_tvm.layer import KernelCall, Layer

_ITEM_BYTES = {"int8": 1, "uint8": 1, "float32": 4, "int32": 4}


class _Movement(Kernel):
    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 2.0 * layer.output.size


@register
class Reshape(_Movement):
    """A copy: the graph's tensors may not share memory."""

    name = "reshape_copy"
    ops = ("reshape",)

    def reject(self, layer: Layer) -> str | None:
        if layer.inputs[0].dtype != layer.output.dtype or layer.output.dtype not in _ITEM_BYTES:
            return "element types differ or are not supported"
        if layer.inputs[0].size != layer.output.size:
            return "input and output differ in size"
        return None

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        count = layer.output.size * _ITEM_BYTES[layer.output.dtype]
        return KernelCall(
            self.name, config, (), 0, f"  rqdkm_copy(out, in0, {count});\n  return 0;\n", ("rqdkm/memory.h",)
        )


@register
class Concatenate(_Movement):
    """One block copy per input."""

    name = "concatenate_copy"
    ops = ("concatenate",)

    def reject(self, layer: Layer) -> str | None:
        if layer.output.dtype not in _ITEM_BYTES or any(t.dtype != layer.output.dtype for t in layer.inputs):
            return "element types differ or are not supported"
        if not all(same_quantization(tensor, layer.output) for tensor in layer.inputs):
            return "inputs and output must share scale and zero point"
        return None

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        axis = int(layer.attrs["axis"]) % len(layer.output.shape)
        outer = math.prod(layer.output.shape[:axis])
        item = _ITEM_BYTES[layer.output.dtype]
        stride = math.prod(layer.output.shape[axis:]) * item
        lines, offset = [], 0
        for index, tensor in enumerate(layer.inputs):
            inner = math.prod(tensor.shape[axis:]) * item
            lines.append(
                f"  rqdkm_concatenate_part({outer}, {inner}, {stride}, (const int8_t *)in{index}, "
                f"(int8_t *)out + {offset});\n"
            )
            offset += inner
        return KernelCall(self.name, config, (), 0, "".join(lines) + "  return 0;\n", ("rqdkm/elementwise.h",))


class _Pad(_Movement):
    ops = ("pad",)

    def reject(self, layer: Layer) -> str | None:
        if layer.inputs[0].dtype != "int8" or layer.output.dtype != "int8":
            return "tensors must be int8"
        if len(layer.inputs[0].shape) > 4:
            return "more than 4 axes"
        if any(before < 0 or after < 0 for before, after in layer.attrs["pad_width"]):
            return "negative padding"
        return None

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        missing = 4 - len(layer.inputs[0].shape)
        widths = [(0, 0)] * missing + [(int(before), int(after)) for before, after in layer.attrs["pad_width"]]
        body = (
            constant(
                "rqdkm_pad_params",
                "params",
                shape=(*[1] * missing, *layer.inputs[0].shape),
                before=[before for before, _ in widths],
                after=[after for _, after in widths],
                value=int(layer.attrs["value"]),
            )
            + f"  return rqdkm_{self.name}(&params, (const int8_t *)in0, (int8_t *)out);\n"
        )
        return KernelCall(self.name, config, (), 0, body, ("rqdkm/elementwise.h",))


@register
class PadReference(_Pad):
    """Plain C."""

    name = "pad_s8_ref"
    reference = True


@register
class Pad(_Pad):
    """Block copies and fills."""

    name = "pad_s8"
