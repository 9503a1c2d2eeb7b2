"""Small int8 Relay graphs in the form TVM's TFLite importer gives them."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from rqdkm_tvm.graph import calls, composite_name, op_name
from rqdkm_tvm.tvm_import import relay, tvm

Expr = Any
RNG = np.random.default_rng(7)


def reseed() -> None:
    """Start :data:`RNG` anew, so that a network does not depend on what ran before in the same process."""
    RNG.bit_generator.state = np.random.default_rng(7).bit_generator.state


def scale(value: float) -> Expr:
    return relay.const(np.float32(value))


def zero(value: int) -> Expr:
    return relay.const(np.int32(value))


def image(h: int = 8, w: int = 8, c: int = 4, name: str = "x") -> Expr:
    return relay.var(name, shape=(1, h, w, c), dtype="int8")


def module(output: Expr) -> Any:
    return relay.transform.InferType()(tvm.IRModule.from_expr(relay.Function(relay.analysis.free_vars(output), output)))


def requantize(accumulator: Expr, s_in: Any, *, s_out: float = 0.06, z_out: int = -128, axis: int = -1) -> Expr:
    return relay.qnn.op.requantize(
        accumulator,
        relay.const(np.asarray(s_in, np.float32)),
        zero(0),
        scale(s_out),
        zero(z_out),
        axis,
        out_dtype="int8",
    )


def conv2d(
    x: Expr,
    channels: int = 8,
    *,
    kernel: tuple[int, int] = (3, 3),
    in_channels: int = 4,
    s_in: float = 0.05,
    z_in: int = -128,
    s_out: float = 0.06,
    bias: bool = True,
    clip: bool = True,
    depthwise: bool = False,
    **attrs: Any,
) -> Expr:
    shape = (*kernel, in_channels, 1) if depthwise else (*kernel, in_channels, channels)
    channels = in_channels if depthwise else channels
    weight_scale = RNG.uniform(0.001, 0.02, channels).astype(np.float32)
    y = relay.qnn.op.conv2d(
        x,
        relay.const(RNG.integers(-127, 128, shape).astype(np.int8)),
        zero(z_in),
        zero(0),
        scale(s_in),
        relay.const(weight_scale),
        kernel_size=kernel,
        channels=channels,
        data_layout="NHWC",
        kernel_layout="HWOI" if depthwise else "HWIO",
        groups=in_channels if depthwise else 1,
        out_dtype="int32",
        **{"padding": (1, 1, 1, 1), **attrs},
    )
    if bias:
        y = relay.nn.bias_add(y, relay.const(RNG.integers(-500, 500, channels).astype(np.int32)), axis=3)
    y = requantize(y, weight_scale * np.float32(s_in), s_out=s_out, axis=3)
    return relay.clip(y, -128, 127) if clip else y


def dense(x: Expr, units: int = 5, *, features: int = 16, per_channel: bool = False, bias: bool = True) -> Expr:
    weight_scale = RNG.uniform(0.001, 0.02, units).astype(np.float32) if per_channel else np.float32(0.01)
    y = relay.qnn.op.dense(
        x,
        relay.const(RNG.integers(-127, 128, (units, features)).astype(np.int8)),
        zero(-3),
        zero(0),
        scale(0.05),
        relay.const(weight_scale),
        units=units,
        out_dtype="int32",
    )
    if bias:
        y = relay.nn.bias_add(y, relay.const(RNG.integers(-500, 500, units).astype(np.int32)))
    return requantize(y, weight_scale * np.float32(0.05), s_out=0.1, z_out=4)


def add(a: Expr, b: Expr, *, op: str = "add", clip: bool = False) -> Expr:
    call = getattr(relay.qnn.op, op)(a, b, scale(0.06), zero(-128), scale(0.05), zero(2), scale(0.09), zero(-5))
    return relay.clip(call, -5, 127) if clip else call


def average_pool(x: Expr, pool: tuple[int, int] = (2, 2)) -> Expr:
    wide = relay.nn.avg_pool2d(relay.cast(x, "int32"), pool_size=pool, strides=pool, layout="NHWC")
    return relay.cast(wide, "int8")


def max_pool(x: Expr, pool: tuple[int, int] = (2, 2)) -> Expr:
    return relay.nn.max_pool2d(x, pool_size=pool, strides=pool, layout="NHWC")


def dequantize(x: Expr, s: float = 0.1, z: int = 3) -> Expr:
    return relay.qnn.op.dequantize(x, scale(s), zero(z))


def quantize(x: Expr, s: float = 1 / 256, z: int = -128) -> Expr:
    return relay.qnn.op.quantize(x, scale(s), zero(z), out_dtype="int8")


def operators(mod: Any) -> dict[str, int]:
    """How often each operator or composite is called in main, by name."""
    return dict(Counter(composite_name(call) or op_name(call) for call in calls(mod["main"])))
