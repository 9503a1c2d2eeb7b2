"""Small networks with morphing layers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rqdkm_tvm.morph.gather import select
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.tvm_import import relay
from tests.passes import graphs as g

Expr = Any
NAMES = ("3x3", "5x5", "separable 3x3", "3x3 dilated", "1x1")


def kernels(x: Expr, inputs: int, outputs: int, *, s_in: float, stride: int = 1) -> list[Expr]:
    """The five kernels of one layer, all with one output quantization."""
    by = {"strides": (stride, stride)}
    same = {"in_channels": inputs, "s_in": s_in, "s_out": 0.07, **by}
    inner = g.conv2d(x, inputs, depthwise=True, in_channels=inputs, s_in=s_in, s_out=0.05, **by)
    return [
        g.conv2d(x, outputs, **same),
        g.conv2d(x, outputs, kernel=(5, 5), padding=(2, 2, 2, 2), **same),
        g.conv2d(inner, outputs, kernel=(1, 1), padding=(0,) * 4, in_channels=inputs, s_in=0.05, s_out=0.07),
        g.conv2d(x, outputs, dilation=(2, 2), padding=(2, 2, 2, 2), **same),
        g.conv2d(x, outputs, kernel=(1, 1), padding=(0, 0, 0, 0), **same),
    ]


def strided() -> Any:
    """A convolution, a morphing layer of stride 2, a pooling and a dense layer; prepared."""
    g.reseed()
    x = g.conv2d(g.image(12, 12, 4), 16, s_out=0.06)
    x = select(kernels(x, 16, 16, s_in=0.06, stride=2), 0)
    x = g.average_pool(x, (6, 6))
    return prepare(g.module(g.dense(relay.reshape(x, (1, 16)))))


def network(safe: Sequence[int] = (0, 0)) -> Any:
    """A convolution, then two morphing layers with a pooling between them, a pooling and a dense layer; prepared."""
    g.reseed()
    x = g.conv2d(g.image(12, 12, 4), 8, s_out=0.06)
    x = select(kernels(x, 8, 8, s_in=0.06), safe[0])
    x = g.max_pool(x)
    x = select(kernels(x, 8, 16, s_in=0.07), safe[1])
    x = g.average_pool(x, (6, 6))
    return prepare(g.module(g.dense(relay.reshape(x, (1, 16)))))
