"""A plain float network of 3x3 convolutions whose weights hold structure, so that other kernels can stand for them."""

from __future__ import annotations

from typing import Any

import numpy as np

from rqdkm_tvm.tvm_import import relay, tvm

SHAPE = (10, 12, 8)


def samples(count: int = 60, seed: int = 0) -> np.ndarray:
    """Smooth images: neighbouring pixels are alike, as in what a camera sees."""
    rng = np.random.default_rng(seed)
    coarse = rng.normal(size=(count, 5, 6, SHAPE[2]))
    fine = coarse.repeat(2, axis=1).repeat(2, axis=2) + 0.3 * rng.normal(size=(count, *SHAPE))
    return fine.astype(np.float32)


def _conv(x: Any, rng: np.random.Generator, outputs: int, name: str, *, strides: int = 1, rank: int = 9) -> Any:
    """``rank`` taps' patterns are all there are: with 1 it is exactly separable."""
    inputs = SHAPE[2]
    weights = np.zeros((9, inputs, outputs))
    for _ in range(rank):
        weights += rng.normal(size=(9, inputs, 1)) * rng.normal(size=(1, inputs, outputs))
    weights = (weights / np.sqrt(9 * inputs * rank / 2)).reshape(3, 3, inputs, outputs).astype(np.float32)
    pads = (1, 1, 1, 1) if strides == 1 else (0, 0, 1, 1)
    y = relay.nn.conv2d(
        x,
        relay.const(weights),
        strides=(strides, strides),
        padding=pads,
        channels=outputs,
        kernel_size=(3, 3),
        data_layout="NHWC",
        kernel_layout="HWIO",
    )
    y = relay.Call(y.op, y.args, y.attrs, y.type_args, relay.Span(relay.SourceName(name), 0, 0, 0, 0))
    return relay.nn.bias_add(y, relay.const(rng.normal(0, 0.2, outputs).astype(np.float32)), axis=3)


def network(rank: int = 2) -> Any:
    """Two convolutions with relu and relu6, a pooling and an addition between them, a classifier."""
    rng = np.random.default_rng(4)
    image = relay.var("image", shape=(1, *SHAPE))
    x = relay.nn.relu(_conv(image, rng, 8, "first", rank=rank))
    x = relay.add(x, image)
    x = relay.clip(_conv(x, rng, 8, "second", strides=2, rank=rank), 0.0, 6.0)
    x = relay.mean(x, axis=(1, 2))
    x = relay.nn.dense(x, relay.const(rng.normal(size=(4, 8)).astype(np.float32)))
    return relay.transform.InferType()(tvm.IRModule.from_expr(relay.Function([image], x)))
