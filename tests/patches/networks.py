"""Small Relay networks for whole compilations, and the formats that a plan gives their branches."""

from __future__ import annotations

from typing import Any

from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.patches.schedule import Split, splits
from rqdkm_tvm.tvm_import import relay
from tests.passes import graphs as g


def small() -> Any:
    """Two convolutions, a residual block and a depthwise one over 16 x 16; then a pool and a dense layer."""
    g.reseed()
    x = g.image(16, 16, 4)
    first = g.conv2d(x, 8, s_out=0.06)
    inner = g.conv2d(first, 8, in_channels=8, s_in=0.06, s_out=0.05)
    joined = g.add(first, inner)
    deep = g.conv2d(joined, 8, in_channels=8, s_in=0.09, z_in=-5, depthwise=True, strides=(2, 2))
    last = g.conv2d(deep, 16, kernel=(1, 1), in_channels=8, s_in=0.06, padding=(0, 0, 0, 0))
    pooled = g.average_pool(last, (8, 8))
    return prepare(g.module(g.dense(relay.reshape(pooled, (1, 16)))))


def legal(mod: Any) -> dict[str, Split]:
    """Splits of a prepared module by the name of their last layer."""
    return {split.last: split for split in splits(PartitionLayers()(mod)["main"])}
