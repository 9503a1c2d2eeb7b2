"""A small residual network with every kind of layer with weights: float and int8 files, a task, a plan."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from rqdkm.models import data, load, quantize, tflite_write
from rqdkm_tvm.plan import LayerPlan, OutputPlan, Plan
from tests.models.graphs import GraphBuilder
from tests.train.task import CLASSES, samples


@dataclass(frozen=True)
class Files:
    """Paths of what :func:`make` wrote."""

    float_model: Path
    model: Path
    data: Path
    plan: Path


def make(folder: Path) -> Files:
    """The same files every time; weights are random but for the last layer's, which are fitted."""
    rng = np.random.default_rng(11)
    b = GraphBuilder()

    def weights(*shape: int, fan_in: int) -> int:
        return b.constant((rng.normal(size=shape) * np.sqrt(2 / fan_in)).astype(np.float32))

    def bias(channels: int) -> int:
        return b.constant(rng.normal(0, 0.1, channels).astype(np.float32))

    x = b.floats((1, 8, 8, 2), "x")
    window = {"padding": "SAME", "stride": (1, 1), "dilation": (1, 1)}
    first = b.op(
        "CONV_2D",
        [x, weights(8, 3, 3, 2, fan_in=18), bias(8)],
        b.floats((1, 8, 8, 8), "first"),
        activation="RELU",
        **window,
    )
    left = b.op(
        "DEPTHWISE_CONV_2D",
        [first, weights(1, 3, 3, 8, fan_in=9), bias(8)],
        b.floats((1, 8, 8, 8), "left"),
        activation="RELU6",
        multiplier=1,
        **window,
    )
    right = b.op(
        "CONV_2D",
        [first, weights(8, 1, 1, 8, fan_in=8), bias(8)],
        b.floats((1, 8, 8, 8), "right"),
        activation="NONE",
        **window,
    )
    joined = b.op("ADD", [left, right], b.floats((1, 8, 8, 8), "joined"), activation="RELU")
    pool = {"window": (4, 4), "stride": (4, 4), "padding": "VALID", "activation": "NONE"}
    pooled = b.op("AVERAGE_POOL_2D", [joined], b.floats((1, 2, 2, 8), "pooled"), **pool)
    flat = b.op("RESHAPE", [pooled], b.floats((1, 32), "flat"))
    units = b.constant(np.zeros((CLASSES, 32), np.float32))
    dense = b.op("FULLY_CONNECTED", [flat, units, b.constant(np.zeros(CLASSES, np.float32))],
                 b.floats((1, CLASSES), "dense"), activation="NONE")  # fmt: skip
    soft = b.op("SOFTMAX", [dense], b.floats((1, CLASSES), "soft"), beta=1.0)
    b.tensors[units] = dataclasses.replace(b.tensors[units], data=_fitted(rng))

    folder.mkdir(parents=True, exist_ok=True)
    files = Files(*(folder / name for name in ("float.tflite", "int8.tflite", "data.npz", "plan.json")))
    files.float_model.write_bytes(tflite_write.write_graph(b.graph([x], [soft])))
    inputs, labels = samples()
    np.savez(files.data, x=inputs, y=labels)
    model = load.load(files.float_model)
    quantized = quantize.quantize(model, data.load_data(files.data, model))
    files.model.write_bytes(quantized.tflite)
    files.plan.write_text(plan().to_json())
    return files


def _fitted(rng: np.random.Generator) -> np.ndarray:
    """Each class adds up the four positions' channels of its own quadrant."""
    units = rng.normal(0, 0.05, (CLASSES, 2, 2, 8))
    for label in range(CLASSES):
        units[label, label // 2, label % 2] += 0.5
    return units.reshape(CLASSES, 32).astype(np.float32)


def plan() -> Plan:
    """Mixed bits within a layer, low-bit maps at a relu, a relu6, a sum and what a pool passes on."""
    return Plan(
        [
            LayerPlan("first", "conv2d", weights=((8, 8),), output=OutputPlan(4, 0.25, -8)),
            LayerPlan("left", "depthwise_conv2d", weights=((4, 8),), output=OutputPlan(4, 0.3, -8)),
            LayerPlan("right", "conv2d", weights=((4, 4), (2, 4)), output=OutputPlan(4, 0.4, 0)),
            LayerPlan("joined", "add", output=OutputPlan(4, 0.35, -8)),
            LayerPlan("dense", "fully_connected", weights=((4, 2), (8, 2))),
        ]
    )
