"""Small ONNX networks built with ``onnx.helper``, seeded."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class OnnxBuilder:
    """Collects nodes and initializers; the last node's output is the model's."""

    def __init__(self, shape: tuple[int | str, ...], seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = shape
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.last = "x"

    def weights(self, *shape: int, scale: float = 0.3) -> str:
        return self.constant(self.rng.normal(0, scale, shape).astype(np.float32))

    def constant(self, values: np.ndarray) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(values, name))
        return name

    def node(self, op: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        """Append a node that reads ``inputs`` (default: what came last)."""
        output = f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, list(inputs) or [self.last], [output], name=name, **attributes))
        self.last = output
        return output

    def conv(self, data: str, into: int, depth: int, kernel: int = 3, **attributes: Any) -> str:
        return self.node("Conv", data, self.weights(into, depth, kernel, kernel), self.weights(into), **attributes)

    def batch_norm(self, data: str, channels: int) -> str:
        positive = [self.constant(self.rng.uniform(0.5, 1.5, channels).astype(np.float32)) for _ in range(2)]
        return self.node(
            "BatchNormalization", data, positive[0], self.weights(channels), self.weights(channels), positive[1]
        )

    def model(self, opset: int = 13, rank: int = 2) -> Any:
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(self.shape))]
        outputs = [helper.make_tensor_value_info(self.last, TensorProto.FLOAT, [f"d{i}" for i in range(rank)])]
        graph = helper.make_graph(self.nodes, "test", inputs, outputs, self.constants)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)

    def bytes(self, opset: int = 13, rank: int = 2) -> bytes:
        model = self.model(opset, rank)
        onnx.checker.check_model(model)
        return bytes(model.SerializeToString())


def residual_net(shape: tuple[int | str, ...] = (1, 3, 16, 16)) -> OnnxBuilder:
    """Stem with stride 2, depthwise branch added, pooling, two convolutions joined, global average, classifier."""
    b = OnnxBuilder(shape)
    stem = b.node("Relu", b.batch_norm(b.conv("x", 8, 3, pads=[1, 1, 1, 1], strides=[2, 2]), 8), name="stem")
    branch = b.node("Relu", b.conv(stem, 8, 1, pads=[1, 1, 1, 1], group=8))
    pooled = b.node("MaxPool", b.node("Add", stem, branch, name="residual"), kernel_shape=[2, 2], strides=[2, 2])
    joined = b.node("Concat", b.conv(pooled, 16, 8, 1), b.conv(pooled, 16, 8, pads=[1, 1, 1, 1]), axis=1)
    b.node("GlobalAveragePool", b.node("Relu", joined))
    b.node("Flatten")
    b.node("Gemm", b.last, b.weights(10, 32), b.weights(10), transB=1, name="classifier")
    b.node("Softmax", axis=1)
    return b


def flatten_net() -> OnnxBuilder:
    """Channels that are flattened in NCHW order before a dense layer, padded max pooling, average pooling, clip."""
    b = OnnxBuilder((1, 1, 12, 12), seed=1)
    b.node("Relu", b.conv("x", 6, 1, 5, pads=[2, 2, 2, 2]))
    b.node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    b.conv(b.last, 4, 6, pads=[1, 1, 1, 1])
    b.node("Clip", b.last, b.constant(np.float32(0)), b.constant(np.float32(6)))
    b.node("AveragePool", kernel_shape=[2, 2], strides=[2, 2])
    b.node("Reshape", b.last, b.constant(np.array([1, -1], np.int64)))
    b.node("MatMul", b.last, b.weights(36, 7))
    b.node("Add", b.last, b.weights(7))
    b.node("Sigmoid")
    return b


def curved_net() -> OnnxBuilder:
    """Leaky relu between convolutions, tanh at the end."""
    b = OnnxBuilder((1, 2, 10, 10), seed=3)
    b.node("LeakyRelu", b.conv("x", 6, 2), alpha=0.1)
    b.node("LeakyRelu", b.conv(b.last, 6, 6), alpha=0.25)
    b.node("GlobalMaxPool")
    b.node("Flatten")
    b.node("Gemm", b.last, b.weights(6, 4), b.weights(4))
    b.node("Tanh")
    return b


def nhwc_net() -> OnnxBuilder:
    """What converters from NHWC frameworks write: transpose, convolve, transpose back, mean over axes, dense."""
    b = OnnxBuilder((1, 10, 8, 2), seed=2)
    b.node("Transpose", perm=[0, 3, 1, 2])
    b.node("Relu", b.conv(b.last, 5, 2, pads=[0, 0, 1, 1]))
    b.node("Mul", b.last, b.weights(1, 5, 1, 1, scale=1.0))
    b.node("Sub", b.last, b.weights(1, 5, 1, 1, scale=1.0))
    b.node("Transpose", perm=[0, 2, 3, 1])
    b.node("ReduceMean", axes=[1, 2], keepdims=0)
    b.node("Gemm", b.last, b.weights(5, 4), b.weights(4))
    return b
