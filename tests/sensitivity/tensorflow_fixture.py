"""Makes tensorflow_gradients.npz: gradients of small networks by TensorFlow, to hold Relay's to.

Run it in an environment with TensorFlow, never beside TVM: ``python tests/sensitivity/tensorflow_fixture.py``.
The networks are stated as data, so that the test builds the same ones in Relay.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_name("tensorflow_gradients.npz")

# (operator, {attributes}); weights are made in order, HWIO, depthwise (KH, KW, C, M), dense (I, O); the loss is
# the cross-entropy of the result's softmax with class 1. "save" keeps a value, "add" and "concatenate" use it.
NETWORKS: dict[str, dict[str, Any]] = {
    "residual": {
        "input": [1, 9, 8, 3],
        "layers": [
            ["conv", {"kernel": [3, 3], "filters": 6, "stride": 1, "padding": "SAME"}],
            ["relu", {}],
            ["save", {}],
            ["conv", {"kernel": [3, 3], "filters": 6, "stride": 1, "padding": "SAME"}],
            ["add", {}],
            ["relu6", {}],
            ["conv", {"kernel": [3, 3], "filters": 8, "stride": 2, "padding": "SAME"}],
            ["tanh", {}],
            ["avg_pool", {"size": 2, "stride": 2, "padding": "SAME"}],
            ["flatten", {}],
            ["dense", {"units": 5}],
        ],
    },
    "separable": {
        "input": [1, 12, 9, 2],
        "layers": [
            ["conv", {"kernel": [4, 3], "filters": 4, "stride": 2, "padding": "SAME"}],
            ["relu6", {}],
            ["depthwise", {"kernel": [3, 3], "multiplier": 2, "stride": 2, "padding": "SAME"}],
            ["leaky_relu", {"alpha": 0.2}],
            ["conv", {"kernel": [1, 1], "filters": 6, "stride": 1, "padding": "VALID"}],
            ["sigmoid", {}],
            ["mean", {}],
            ["dense", {"units": 4}],
        ],
    },
    "pools": {
        "input": [1, 10, 10, 3],
        "layers": [
            ["conv", {"kernel": [3, 3], "filters": 4, "stride": 1, "padding": "VALID"}],
            ["save", {}],
            ["relu", {}],
            ["concatenate", {}],
            ["max_pool", {"size": 3, "stride": 2, "padding": "SAME"}],
            ["conv", {"kernel": [2, 2], "filters": 6, "stride": 1, "padding": "SAME", "groups": 2}],
            ["flatten", {}],
            ["dense", {"units": 3}],
        ],
    },
}


def same_padding(size: int, kernel: int, stride: int) -> tuple[int, int]:
    """(before, after) of TensorFlow's SAME."""
    total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
    return total // 2, total - total // 2


def make() -> dict[str, np.ndarray]:
    import tensorflow as tf

    def apply(x: Any, op: str, a: dict[str, Any], weight: Any, saved: Any) -> Any:
        window = {"strides": a.get("stride", 1), "padding": a.get("padding")}
        if op == "conv":
            if a.get("groups", 1) > 1:  # TensorFlow has no gradient of grouped convolution on a CPU
                halves = zip(tf.split(x, a["groups"], -1), tf.split(weight, a["groups"], -1), strict=True)
                return tf.concat([tf.nn.conv2d(part, w, **window) for part, w in halves], -1)
            return tf.nn.conv2d(x, weight, **window)
        if op == "depthwise":
            strides = [1, a["stride"], a["stride"], 1]
            return tf.nn.depthwise_conv2d(x, weight, strides=strides, padding=a["padding"])
        return {
            "dense": lambda: tf.matmul(x, weight),
            "relu": lambda: tf.nn.relu(x),
            "relu6": lambda: tf.nn.relu6(x),
            "leaky_relu": lambda: tf.nn.leaky_relu(x, a["alpha"]),
            "tanh": lambda: tf.tanh(x),
            "sigmoid": lambda: tf.sigmoid(x),
            "add": lambda: x + saved,
            "concatenate": lambda: tf.concat([x, saved], axis=-1),
            "mean": lambda: tf.reduce_mean(x, axis=[1, 2]),
            "flatten": lambda: tf.reshape(x, [x.shape[0], -1]),
            "avg_pool": lambda: tf.nn.avg_pool2d(x, a["size"], **window),
            "max_pool": lambda: tf.nn.max_pool2d(x, a["size"], **window),
        }[op]()

    arrays: dict[str, np.ndarray] = {"networks": np.array(json.dumps(NETWORKS))}
    rng = np.random.default_rng(20)
    for name, network in NETWORKS.items():
        x0 = tf.Variable(rng.normal(size=network["input"]).astype(np.float32))
        variables = [x0]
        with tf.GradientTape() as tape:
            x, saved = tf.identity(x0), None
            for op, a in network["layers"]:
                weight = None
                if op in ("conv", "depthwise", "dense"):
                    shape = {
                        "conv": lambda: (*a["kernel"], x.shape[-1] // a.get("groups", 1), a["filters"]),  # noqa: B023
                        "depthwise": lambda: (*a["kernel"], x.shape[-1], a["multiplier"]),  # noqa: B023
                        "dense": lambda: (x.shape[-1], a["units"]),  # noqa: B023
                    }[op]()
                    fan_in = np.prod(shape[:2]) if op == "depthwise" else np.prod(shape[:-1])
                    weight = tf.Variable((rng.normal(size=shape) * np.sqrt(2 / fan_in)).astype(np.float32))
                    tape.watch(weight)
                    variables.append(weight)
                if op == "save":
                    saved = x
                else:
                    x = apply(x, op, a, weight, saved)
            loss = tf.reduce_sum(tf.nn.sparse_softmax_cross_entropy_with_logits(labels=[1], logits=x))
        for index, (v, g) in enumerate(zip(variables, tape.gradient(loss, variables), strict=True)):
            arrays[f"{name}/value{index}"] = v.numpy()
            arrays[f"{name}/gradient{index}"] = g.numpy()
        arrays[f"{name}/loss"] = loss.numpy()
    return arrays


if __name__ == "__main__":
    np.savez_compressed(FILE, **make())
    sys.stdout.write(f"{FILE.name}: {FILE.stat().st_size} bytes\n")
