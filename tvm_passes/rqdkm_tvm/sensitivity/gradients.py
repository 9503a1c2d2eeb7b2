"""Gradients that TVM 0.19's ``relay.transform.gradient`` lacks or gets wrong, as registered overrides.

Relay differentiates by calling, for every operator, a function ``(call, upstream) -> [gradient per argument]`` that
returns Relay expressions. TVM's own set covers NCHW convolution without dilation; this module adds what trained
networks for small devices are made of. :func:`install` registers everything and may be called any number of times.

==================== =========================================================================================
operator             why
==================== =========================================================================================
nn.conv2d            TVM's: NCHW/OIHW, no dilation. Here: NCHW or NHWC, any kernel layout, groups, strides, dilation
nn.pad               none in TVM
clip                 TVM's truncates the bounds to integers
nn.leaky_relu        none in TVM
nn.global_max_pool2d none in TVM
==================== =========================================================================================

Formulas (padded input X, kernel W, upstream G; per group; stride s, dilation d, kernel position k):
``dW[k] = sum_p G[p] X[s p + d k]`` and ``dX[q] = sum_k G[(q - d k) / s] W[k]``, that is a full convolution of the
upstream gradient, spread out by the stride, with the turned kernel (Goodfellow, Bengio, Courville: Deep Learning, 9.5).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from rqdkm_tvm.errors import UnsupportedOperatorError
from rqdkm_tvm.layer import NDArray
from rqdkm_tvm.offload.base import ints, padding4, pair, shape_of
from rqdkm_tvm.tvm_import import relay, tvm

Expr = Any
LEVEL = 15  # TVM's own are registered at 10; the highest level wins
_installed = False


def install() -> None:
    """Register the overrides with TVM, once per process."""
    global _installed
    if _installed:
        return
    _installed = True
    for name, function in _GRADIENTS.items():
        relay.op.op.register_gradient(name, function, level=LEVEL)


def gradient(function: Expr) -> Expr:
    """``function`` with its gradients: ``(result, (d result / d parameter, ...))``, types inferred.

    The upstream gradient is one everywhere: for a result that is no scalar this is the gradient of its sum.

    Raises:
        UnsupportedOperatorError: an operator without gradient.
    """
    install()
    module = relay.transform.InferType()(tvm.IRModule.from_expr(function))
    try:
        expression = relay.transform.gradient(module["main"], mode="first_order")
    except tvm.TVMError as error:
        reason = [line for line in str(error).splitlines() if line.strip()][-1].strip()
        raise UnsupportedOperatorError(f"no gradient: {reason}", where="relay.transform.gradient") from error
    return relay.transform.InferType()(tvm.IRModule.from_expr(expression))["main"]


# ---- convolution


@dataclass(frozen=True)
class _Convolution:
    """Geometry; pairs are (height, width), padding is (top, left, bottom, right)."""

    batch: int
    size: tuple[int, ...]
    channels: int
    result: tuple[int, ...]
    outputs: int
    kernel: tuple[int, ...]
    strides: tuple[int, int]
    dilation: tuple[int, int]
    padding: tuple[int, ...]
    groups: int

    @property
    def depth(self) -> int:
        """Input channels an output channel sees."""
        return self.channels // self.groups

    def padded(self, axis: int) -> int:
        return self.size[axis] + self.padding[axis] + self.padding[axis + 2]

    def reach(self, axis: int) -> int:
        return (self.kernel[axis] - 1) * self.dilation[axis] + 1

    def rest(self, axis: int) -> int:
        """Rows or columns of the padded input behind the last window."""
        return self.padded(axis) - (self.result[axis] - 1) * self.strides[axis] - self.reach(axis)

    def positions(self) -> NDArray:
        """(N * OH * OW, KH * KW): which pixel of the padded input, all images flat, a kernel position sees."""
        y, x = (
            np.arange(self.result[a])[:, None] * self.strides[a] + np.arange(self.kernel[a]) * self.dilation[a]
            for a in (0, 1)
        )
        inside = y[:, None, :, None] * self.padded(1) + x[None, :, None, :]
        image = np.arange(self.batch).reshape(-1, 1, 1, 1, 1) * (self.padded(0) * self.padded(1))
        return (image + inside).reshape(-1, self.kernel[0] * self.kernel[1]).astype(np.int32)


def conv2d_gradient(call: Expr, upstream: Expr) -> list[Expr]:
    """Gradients of ``nn.conv2d`` with respect to data and weight."""
    attrs = call.attrs
    data_layout, kernel_layout = str(attrs.data_layout), str(attrs.kernel_layout)
    batch, height, width, channels = _permuted(shape_of(call.args[0]), data_layout, "NHWC")
    _, rows, columns, outputs = _permuted(shape_of(call), data_layout, "NHWC")
    c = _Convolution(
        batch=batch,
        size=(height, width),
        channels=channels,
        result=(rows, columns),
        outputs=outputs,
        kernel=_permuted(shape_of(call.args[1]), kernel_layout, "HWIO")[:2],
        strides=pair(attrs.strides),
        dilation=pair(attrs.dilation),
        padding=padding4(attrs.padding),
        groups=int(attrs.groups),
    )
    d_data = _data_gradient(c, _permute(call.args[1], kernel_layout, "OIHW"), _permute(upstream, data_layout, "NCHW"))
    d_weight = _weight_gradient(c, _permute(call.args[0], data_layout, "NHWC"), _permute(upstream, data_layout, "NHWC"))
    # depthwise HWOI is (KH, KW, C, M): as (KH, KW, 1, C * M) it holds the same values in the same order
    depthwise = kernel_layout == "HWOI" and c.groups > 1
    return [
        _permute(d_data, "NCHW", data_layout),
        relay.reshape(d_weight, shape_of(call.args[1])) if depthwise else _permute(d_weight, "HWIO", kernel_layout),
    ]


def _data_gradient(c: _Convolution, weight: Expr, upstream: Expr) -> Expr:
    """OIHW and NCHW -> NCHW."""
    spread = relay.nn.dilate(upstream, (1, 1, *c.strides)) if c.strides != (1, 1) else upstream
    # rows and columns that no window reaches any more get zeros
    border = [(c.reach(a) - 1, c.reach(a) - 1 + c.rest(a)) for a in (0, 1)]
    turned = relay.reverse(relay.reverse(weight, axis=2), axis=3)
    turned = relay.reshape(turned, (c.groups, c.outputs // c.groups, c.depth, *c.kernel))
    turned = relay.transpose(turned, (0, 2, 1, 3, 4))
    full = relay.nn.conv2d(
        relay.nn.pad(spread, ((0, 0), (0, 0), *border)),
        relay.reshape(turned, (c.channels, c.outputs // c.groups, *c.kernel)),
        groups=c.groups,
        channels=c.channels,
        kernel_size=c.kernel,
        dilation=c.dilation,
    )
    top, left = c.padding[:2]
    return relay.strided_slice(
        full, begin=[0, 0, top, left], end=[c.batch, c.channels, top + c.size[0], left + c.size[1]]
    )


def _weight_gradient(c: _Convolution, data: Expr, upstream: Expr) -> Expr:
    """NHWC and NHWC -> HWIO: every window as a row, then one product (depthwise: one sum) over all pixels."""
    pixels, taps = c.batch * c.result[0] * c.result[1], c.kernel[0] * c.kernel[1]
    if any(c.padding):
        top, left, bottom, right = c.padding
        data = relay.nn.pad(data, ((0, 0), (top, bottom), (left, right), (0, 0)))
    flat = relay.reshape(data, (c.batch * c.padded(0) * c.padded(1), c.channels))
    rows = relay.take(flat, relay.const(c.positions()), axis=0, mode="fast")  # (pixels, taps, channels)
    if c.depth == 1 and c.groups > 1:
        rows = relay.reshape(rows, (pixels, taps, c.channels, 1))
        g = relay.reshape(upstream, (pixels, 1, c.channels, c.outputs // c.channels))
        return relay.reshape(relay.sum(rows * g, axis=0), (*c.kernel, 1, c.outputs))
    if c.groups == 1:
        columns = relay.transpose(relay.reshape(rows, (pixels, taps * c.channels)))
        g = relay.transpose(relay.reshape(upstream, (pixels, c.outputs)))
        return relay.reshape(relay.nn.dense(columns, g), (*c.kernel, c.channels, c.outputs))
    # (groups, taps * depth, pixels) x (groups, outputs / groups, pixels)
    split = relay.transpose(relay.reshape(rows, (pixels, taps, c.groups, c.depth)), (2, 1, 3, 0))
    columns = relay.reshape(split, (c.groups, taps * c.depth, pixels))
    g = relay.transpose(relay.reshape(upstream, (pixels, c.groups, c.outputs // c.groups)), (1, 2, 0))
    product = relay.reshape(relay.nn.batch_matmul(columns, g), (c.groups, taps, c.depth, c.outputs // c.groups))
    return relay.reshape(relay.transpose(product, (1, 2, 0, 3)), (*c.kernel, c.depth, c.outputs))


def _permute(expr: Expr, source: str, target: str) -> Expr:
    return expr if source == target else relay.transpose(expr, [source.index(axis) for axis in target])


def _permuted(shape: tuple[int, ...], source: str, target: str) -> tuple[int, ...]:
    return tuple(shape[source.index(axis)] for axis in target)


# ---- everything else


def pad_gradient(call: Expr, upstream: Expr) -> list[Expr]:
    if str(call.attrs.pad_mode) != "constant":
        raise UnsupportedOperatorError(f"no gradient for padding mode {call.attrs.pad_mode}", where="nn.pad")
    begin = [ints(width)[0] for width in call.attrs.pad_width]
    end = [b + extent for b, extent in zip(begin, shape_of(call.args[0]), strict=True)]
    return [relay.strided_slice(upstream, begin=begin, end=end), relay.zeros_like(call.args[1])]


def clip_gradient(call: Expr, upstream: Expr) -> list[Expr]:
    """Passes where the bounds do not bind; at a bound itself nothing passes, as in TensorFlow's relu."""
    x = call.args[0]
    dtype = x.checked_type.dtype
    low, high = (relay.const(float(v), dtype) for v in (call.attrs.a_min, call.attrs.a_max))
    inside = relay.logical_and(relay.greater(x, low), relay.less(x, high))
    return [relay.where(inside, upstream, relay.zeros_like(upstream))]


def leaky_relu_gradient(call: Expr, upstream: Expr) -> list[Expr]:
    x = call.args[0]
    slope = upstream * relay.const(float(call.attrs.alpha), x.checked_type.dtype)
    return [relay.where(relay.greater(x, relay.zeros_like(x)), upstream, slope)]


def global_max_pool2d_gradient(call: Expr, upstream: Expr) -> list[Expr]:
    layout = str(call.attrs.layout)
    shape = shape_of(call.args[0])
    size = (shape[layout.index("H")], shape[layout.index("W")])
    return [
        relay.nn.max_pool2d_grad(upstream, call.args[0], pool_size=size, strides=(1, 1), padding=(0, 0), layout=layout)
    ]


_GRADIENTS = {
    "nn.conv2d": conv2d_gradient,
    "nn.pad": pad_gradient,
    "clip": clip_gradient,
    "nn.leaky_relu": leaky_relu_gradient,
    "nn.global_max_pool2d": global_max_pool2d_gradient,
}
