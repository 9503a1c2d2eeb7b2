"""Which Relay expressions our kernels can run. This list is the table of contents; order is priority.

Each row is one :class:`Offload`: its Relay pattern, the check that explains a refusal, and the parser that turns the
match into what a kernel needs to know. To add an operator: write a row, add its name to ``rqdkm_tvm.layer.OPS``,
register a kernel for it.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

from rqdkm_tvm.graph import FUSED, MORPHED, PATCHED, composite_name
from rqdkm_tvm.offload.activation import HardSwish, LeakyRelu, Logistic, Softmax, Tanh
from rqdkm_tvm.offload.base import PREFIX, Draft, Offload, Quantization
from rqdkm_tvm.offload.boundary import Dequantize, Quantize
from rqdkm_tvm.offload.convolution import Conv2d, DepthwiseConv2d
from rqdkm_tvm.offload.elementwise import Add, Clip, Mul, Relu, Requantize
from rqdkm_tvm.offload.fully_connected import FullyConnected
from rqdkm_tvm.offload.movement import MAX_CONCATENATE, Concatenate, Pad
from rqdkm_tvm.offload.pooling import AvgPool2d, MaxPool2d, Mean

# longest patterns first: a convolution must take its requantize and clip before those rows see them
OFFLOADS: tuple[Offload, ...] = (
    Conv2d(),
    DepthwiseConv2d(),
    FullyConnected(),
    Mean(),
    AvgPool2d(),
    MaxPool2d(),
    Softmax(),
    Logistic(),
    Tanh(),
    LeakyRelu(),
    HardSwish(),
    Add(),
    Mul(),
    *(Concatenate(count) for count in range(2, MAX_CONCATENATE + 1)),
    Relu(),
    Requantize(),
    Pad(),
    Clip(),
    Quantize(),
    Dequantize(),
)


def by_composite(name: str) -> Offload | None:
    """The row whose composite functions carry ``name`` (``"rqdkm.conv2d"``)."""
    if not name.startswith(PREFIX):
        return None
    return next((row for row in OFFLOADS if PREFIX + row.name == name), None)


def parse(call: Any) -> Draft | None:
    """What a composite call stands for; None for any other expression."""
    name = composite_name(call)
    return _parse(call.op, name) if name else None


@lru_cache(maxsize=512)
def _parse(function: Any, name: str) -> Draft | None:
    """Functions never change, and every pass reads them again."""
    if name == FUSED:
        return _parse_fused(function)
    if name == PATCHED:
        from rqdkm_tvm.patches.schedule import parse_stage  # reads layers, which are parsed here

        return parse_stage(function)
    if name == MORPHED:
        from rqdkm_tvm.morph.gather import parse_morph  # likewise

        return parse_morph(function)
    row = by_composite(name)
    return None if row is None else row.parse(function.body)


def fused_parts(function: Any) -> tuple[Any, Any]:
    """The two composite calls within a fused function: (the convolution, the follower)."""
    follower = function.body
    return next(arg for arg in follower.args if composite_name(arg)), follower


def _parse_fused(function: Any) -> Draft:
    """The convolution with its follower as ``epilogue``; operands in the order of the fused function's parameters."""
    producer, follower = fused_parts(function)
    first, second = parse(producer), parse(follower)
    assert first is not None and second is not None
    others = tuple(q for arg, q in zip(follower.args, second.inputs, strict=True) if not arg.same_as(producer))
    return replace(
        first,
        inputs=(*first.inputs, *others),
        output=second.output or first.output,
        epilogue=replace(second, inputs=(first.output, *others)),
    )


__all__ = ["OFFLOADS", "PREFIX", "Draft", "Offload", "Quantization", "by_composite", "fused_parts", "parse"]
