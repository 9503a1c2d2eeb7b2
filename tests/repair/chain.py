"""A network without branches whose feature maps have channels of very different size: what equalisation is for."""

from __future__ import annotations

from typing import Any

import numpy as np

from rqdkm.models import data, load, quantize, tflite_write
from rqdkm.models.load import LoadedModel
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from tests.models.graphs import GraphBuilder

SHAPE = (8, 8, 2)


def samples(count: int, seed: int = 0) -> np.ndarray:
    """Smooth images: neighbouring pixels are alike."""
    noise = np.random.default_rng(seed).normal(size=(count, 10, 10, 2))
    return np.mean([noise[:, i : i + 8, j : j + 8] for i in range(3) for j in range(3)], axis=0).astype(np.float32)


def make(folder: Any, *, spread: float = 40.0) -> tuple[LoadedModel, Any]:
    """(int8 model, partitioned module); channels of the first two maps differ by up to ``spread`` in size."""
    rng = np.random.default_rng(4)
    b = GraphBuilder()
    gains = [np.geomspace(1, 1 / spread, 8)[rng.permutation(8)].astype(np.float32) for _ in range(2)]

    def conv(source: int, weights: np.ndarray, name: str, size: int, *, activation: str = "RELU") -> int:
        bias = b.constant(rng.normal(0, 0.05, len(weights)).astype(np.float32))
        out = b.floats((1, size, size, len(weights)), name)
        window = {"padding": "SAME", "stride": (1, 1), "dilation": (1, 1), "activation": activation}
        return b.op("CONV_2D", [source, b.constant(weights.astype(np.float32)), bias], out, **window)

    x = b.floats((1, *SHAPE), "x")
    first = conv(x, rng.normal(size=(8, 3, 3, 2)) * 0.33 * gains[0].reshape(8, 1, 1, 1), "first", 8)
    pool = {"window": (2, 2), "stride": (2, 2), "padding": "VALID", "activation": "NONE"}
    pooled = b.op("MAX_POOL_2D", [first], b.floats((1, 4, 4, 8), "pooled"), **pool)
    w = rng.normal(size=(8, 3, 3, 8)) * 0.17 / gains[0] * gains[1].reshape(8, 1, 1, 1)
    second = conv(pooled, w, "second", 4)
    third = b.op(
        "DEPTHWISE_CONV_2D",
        [second, b.constant((rng.normal(size=(1, 3, 3, 8)) * 0.33 / gains[1]).astype(np.float32)),
         b.constant(rng.normal(0, 0.05, 8).astype(np.float32))],
        b.floats((1, 4, 4, 8), "third"),
        multiplier=1, padding="SAME", stride=(1, 1), dilation=(1, 1), activation="RELU6",
    )  # fmt: skip
    mean = b.op("MEAN", [third, b.constant(np.array([1, 2], np.int32))], b.floats((1, 8), "mean"), keep_dims=False)
    dense = b.op(
        "FULLY_CONNECTED",
        [mean, b.constant(rng.normal(size=(6, 8)).astype(np.float32)), b.constant(np.zeros(6, np.float32))],
        b.floats((1, 6), "dense"),
        activation="NONE",
    )
    (folder / "chain.tflite").write_bytes(tflite_write.write_graph(b.graph([x], [dense])))
    model = load.load(folder / "chain.tflite")
    np.savez(folder / "chain.npz", x=samples(32, seed=9))
    quantized = quantize.quantize(model, data.load_data(folder / "chain.npz", model))
    return quantized, PartitionLayers()(prepare(quantized.module))
