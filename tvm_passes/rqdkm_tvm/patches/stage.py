"""A patch stage: the layers from the model's input to one tensor, computed patch by patch.

Everything here is about layers, not about Relay: which operators a patch may pass through, what a branch with other
feature map formats computes, and which layers are computed together (a convolution with its ``add`` or pooling).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from rqdkm_tvm import cost
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.mixed import FOLLOWERS, PRODUCERS, Stored, moved_bounds
from rqdkm_tvm.offload.base import Quantization
from rqdkm_tvm.plan import OutputPlan
from rqdkm_tvm.plan_patches import PatchPlan

if TYPE_CHECKING:
    from rqdkm_tvm.patches.program import Patches

FRAME = -1  # as a node's input: what the stage reads

WINDOWED = ("conv2d", "depthwise_conv2d", "avg_pool2d", "max_pool2d")
POINTWISE = ("add", "mul", "clip", "requantize", "relu", "leaky_relu", "tanh", "logistic", "hard_swish")


@dataclass(frozen=True)
class Node:
    """One layer of a stage; ``inputs`` are positions in the stage, in the order of ``layer.inputs``."""

    layer: Layer
    inputs: tuple[int, ...]


@dataclass(frozen=True)
class Stage:
    """Layers in execution order, the last of which is read outside, and how they are cut.

    Args:
        nodes: as in the module: the branch 0 of every patch plan.
        plan: grid, halo and branches.
        kernel_set: which kernels may run its parts.
    """

    nodes: tuple[Node, ...]
    plan: PatchPlan
    kernel_set: KernelSet = "auto"

    @property
    def frame(self) -> Tensor:
        """What the stage reads."""
        return next(
            tensor
            for node in self.nodes
            for source, tensor in zip(node.inputs, node.layer.inputs, strict=True)
            if source == FRAME
        )

    @property
    def result(self) -> Tensor:
        """What the stage writes."""
        return self.nodes[-1].layer.output

    @cached_property
    def branches(self) -> tuple[tuple[Node, ...], ...]:
        """The nodes of every branch; they differ in the formats of feature maps only."""
        return tuple(branch_nodes(self.nodes, outputs) for outputs in self.plan.branches)

    @cached_property
    def macs(self) -> int:
        """Multiply-accumulates of the layers, each computed once."""
        return sum(cost.macs(node.layer) for node in self.nodes)

    @cached_property
    def computed_macs(self) -> int:
        """Multiply-accumulates of all patches as planned, halos that are computed again included."""
        patches = self._patches()
        return sum(patches.macs(patch) for patch in patches.planned)

    @cached_property
    def bitops(self) -> int:
        """BitOPs of all patches as planned."""
        patches = self._patches()
        return sum(patches.bitops(patch) for patch in patches.planned)

    @property
    def redundancy(self) -> float:
        """Part of the multiply-accumulates that is computed again."""
        return self.computed_macs / self.macs - 1 if self.macs else 0.0

    def _patches(self) -> Patches:
        from rqdkm_tvm.patches.program import Patches  # cuts stages

        return Patches(self)


def local(layer: Layer) -> bool:
    """Whether an element of the result depends on a window of each operand only, and a part can be computed alone."""
    tensors = (*layer.inputs, layer.output)
    if any(len(t.shape) != 4 or t.shape[0] != 1 or t.dtype != "int8" for t in tensors):
        return False
    if layer.op in WINDOWED:
        return True
    return layer.op in POINTWISE and all(t.shape == layer.output.shape for t in layer.inputs)


def branch_nodes(nodes: Sequence[Node], outputs: Mapping[str, OutputPlan]) -> tuple[Node, ...]:
    """``nodes`` with other formats of feature maps.

    Args:
        outputs: by layer name; layers that keep the format of what they read follow it.
    """
    if not outputs:
        return tuple(nodes)
    formats: list[Tensor] = []
    found = []
    for node in nodes:
        layer = node.layer
        inputs = tuple(
            tensor if source == FRAME else replace(formats[source], shape=tensor.shape)
            for source, tensor in zip(node.inputs, layer.inputs, strict=True)
        )
        output = _output(layer, inputs, outputs.get(layer.name))
        formats.append(output)
        found.append(Node(_reformatted(layer, inputs, output), node.inputs))
    return tuple(found)


def _output(layer: Layer, inputs: tuple[Tensor, ...], own: OutputPlan | None) -> Tensor:
    if layer.op in PRODUCERS and own is not None:
        scale = float(np.float32(own.scale))
        return replace(layer.output, scale=scale, zero_point=own.zero_point, bits=own.stored, span=own.span)
    if layer.op in FOLLOWERS:
        x = inputs[0]
        return replace(layer.output, scale=x.scale, zero_point=x.zero_point, bits=x.bits, span=x.span)
    return layer.output


def _reformatted(layer: Layer, inputs: tuple[Tensor, ...], output: Tensor) -> Layer:
    """The layer between other formats: same weights, bias and clamp in the new units."""
    if inputs == layer.inputs and output == layer.output:
        return layer
    attrs = layer.attrs
    if "clamp" in attrs:
        before = Quantization(layer.output.scale, layer.output.zero_point)
        after = Stored(Quantization(output.scale, output.zero_point), output.value_bits)
        old = attrs["clamp"]
        if layer.output.value_bits != 8:  # the ends of its own range are no activation function either
            least = -(1 << (layer.output.value_bits - 1))
            old = (-128 if old[0] <= least else old[0], 127 if old[1] >= -least - 1 else old[1])
        attrs = {**attrs, "clamp": moved_bounds(old, before, after)}
    bias = layer.bias
    if bias is not None and inputs[0].scale != layer.inputs[0].scale:
        exact = np.rint(
            np.asarray(bias, np.float64) * (np.float64(layer.inputs[0].scale) / np.float64(inputs[0].scale))
        )
        bias = np.clip(exact, -(2**31), 2**31 - 1).astype(np.int32)
    return replace(layer, inputs=inputs, output=output, attrs=attrs, bias=bias)


def fused_nodes(nodes: Sequence[Node]) -> tuple[Node, ...]:
    """Every ``add`` and non-overlapping maximum pooling joined with the convolution that it alone reads."""
    readers: dict[int, list[int]] = {}
    for index, node in enumerate(nodes):
        for source in node.inputs:
            readers.setdefault(source, []).append(index)
    producer_of: dict[int, int] = {}
    for index, node in enumerate(nodes):
        if not _follows(node.layer):
            continue
        own = [
            s
            for s in node.inputs
            if s != FRAME and readers[s] == [index] and nodes[s].layer.op in ("conv2d", "depthwise_conv2d")
        ]
        if own and max(own) == max(node.inputs):
            producer_of[index] = max(own)
    taken = set(producer_of.values())
    position: dict[int, int] = {FRAME: FRAME}
    found: list[Node] = []
    for index, node in enumerate(nodes):
        if index in taken:
            continue
        layer, inputs = node.layer, node.inputs
        if index in producer_of:
            producer = nodes[producer_of[index]]
            others = [i for i, source in enumerate(node.inputs) if source != producer_of[index]]
            operands = (producer.layer.output, *(layer.inputs[i] for i in others))
            epilogue = replace(layer, inputs=operands)
            layer = replace(
                producer.layer,
                inputs=(*producer.layer.inputs, *operands[1:]),
                epilogue=epilogue,
            )
            inputs = (*producer.inputs, *(node.inputs[i] for i in others))
        position[index] = len(found)
        found.append(Node(layer, tuple(position[source] for source in inputs)))
    return tuple(found)


def _follows(layer: Layer) -> bool:
    if layer.op == "max_pool2d":
        return bool(layer.attrs["pool"] == layer.attrs["strides"] and not any(layer.attrs["padding"]))
    return layer.op == "add"
