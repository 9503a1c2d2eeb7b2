"""Random patch stages: small networks of local layers, how they are cut, and their branches' formats, from a seed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from rqdkm.models import reference
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.mixed import PRODUCERS
from rqdkm_tvm.patches.stage import FRAME, Node, Stage
from rqdkm_tvm.plan import OutputPlan
from rqdkm_tvm.plan_patches import Outliers, PatchPlan
from tests.kernels import random_layers
from tests.kernels.random_layers import Array

Rng = np.random.Generator
HALOS = ("recompute", "lines")
INPUTS = ("frame", "callback")
LARGEST_GRID = 5


def stage_layer(stage: Stage) -> Layer:
    """The one layer that a compiled network has for it."""
    return Layer("patch_stage", "patch_stage", (stage.frame,), stage.nodes[-1].layer.output, stage=stage)


def unpatched(nodes: Sequence[Node], frame: Array) -> Array:
    """The last result, layer by layer on whole maps: frames (n, H, W, C)."""
    values: list[Array] = []
    for node in nodes:
        operands = [frame if source == FRAME else values[source] for source in node.inputs]
        values.append(reference.run_layer(node.layer, operands))
    return values[-1]


def frames(rng: Rng, stage: Stage, count: int = 2) -> Array:
    return np.concatenate([random_layers.random_values(rng, stage.frame.shape) for _ in range(count)])


# ---- networks


@dataclass
class Network:
    """Layers in the order in which they are added; each reads earlier ones."""

    rng: Rng
    frame: Tensor
    nodes: list[Node] = field(default_factory=list)
    values: dict[int, Array] = field(default_factory=dict)  # of one frame: scales are chosen so that results vary

    def __post_init__(self) -> None:
        self.values[FRAME] = self.rng.integers(-128, 128, self.frame.shape, dtype=np.int8)

    def tensor(self, source: int) -> Tensor:
        return self.frame if source == FRAME else self.nodes[source].layer.output

    def add(self, layer: Layer, *sources: int) -> int:
        """The layer, renamed and reading what ``sources`` write."""
        tensors = tuple(self.tensor(source) for source in sources)
        layer = replace(layer, name=f"{layer.op}_{len(self.nodes)}", inputs=tensors)
        if layer.weights is not None:
            layer = self._scaled(layer, self.values[sources[0]])
        self.nodes.append(Node(layer, sources))
        index = len(self.nodes) - 1
        self.values[index] = reference.run_layer(layer, [self.values[source] for source in sources])
        return index

    def _scaled(self, layer: Layer, x: Array) -> Layer:
        """With scales, zero point and clamp that let its result spread over int8."""
        assert layer.weights is not None
        zero_point = int(self.rng.choice([-128, int(self.rng.integers(-60, 61))]))
        spread = math.sqrt(np.mean((x.astype(np.float64) - layer.inputs[0].zero_point) ** 2)) + 1
        taps = layer.weights[0].size if layer.op == "conv2d" else layer.weights.size // layer.weights.shape[3]
        channels = layer.output.shape[3]
        step = layer.output.scale / layer.inputs[0].scale / (74 * spread * math.sqrt(taps))
        scales = (step * self.rng.uniform(20, 90, channels if self.rng.integers(4) else 1)).astype(np.float32)
        reach = int(40 * spread * math.sqrt(taps))
        bias = self.rng.integers(-reach, reach + 1, channels).astype(np.int32) if self.rng.integers(5) else None
        attrs = {**layer.attrs, "clamp": self._clamp(zero_point)}
        output = replace(layer.output, zero_point=zero_point)
        return replace(layer, output=output, attrs=attrs, weight_scales=scales, bias=bias)

    def _clamp(self, zero_point: int) -> tuple[int, int]:
        """None, a relu, or one with two ends."""
        kind = int(self.rng.integers(4))
        if kind < 2:
            return (-128, 127) if kind == 0 else (zero_point, 127)
        return max(-128, min(zero_point, 40) - int(self.rng.integers(0, 30))), int(self.rng.integers(60, 128))

    # each appends one layer that reads ``source`` and returns its position

    def conv(self, source: int, channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> int:
        _, h, w, c = self.tensor(source).shape
        layer, _ = random_layers.conv_layer(
            self.rng,
            size=(h, w),
            channels=(c, channels),
            kernel=(kernel, kernel),
            stride=(stride, stride),
            dilation=(dilation, dilation),
            same=True,
        )
        return self.add(layer, source)

    def depthwise(self, source: int, kernel: int, stride: int = 1) -> int:
        _, h, w, c = self.tensor(source).shape
        layer, _ = random_layers.conv_layer(
            self.rng, size=(h, w), channels=(c, c), kernel=(kernel, kernel), stride=(stride, stride), groups=c
        )
        assert layer.weights is not None
        attrs = {key: value for key, value in layer.attrs.items() if key != "groups"} | {"multiplier": 1}
        weights = np.ascontiguousarray(np.transpose(layer.weights, (3, 1, 2, 0)))
        return self.add(replace(layer, op="depthwise_conv2d", attrs=attrs, weights=weights), source)

    def pool(self, source: int, op: str, window: tuple[int, int], strides: tuple[int, int], *, same: bool) -> int:
        x = self.tensor(source)
        extents, padding = [], []
        for extent, reach, stride in zip(x.shape[1:3], window, strides, strict=True):
            out = -(-extent // stride) if same else (extent - reach) // stride + 1
            total = max(0, (out - 1) * stride + reach - extent) if same else 0
            extents.append(out)
            padding.append((total // 2, total - total // 2))
        attrs = {
            "pool": window,
            "strides": strides,
            "padding": (padding[0][0], padding[1][0], padding[0][1], padding[1][1]),
            "clamp": self._clamp(x.zero_point),
        }
        return self.add(Layer(op, op, (x,), replace(x, shape=(1, *extents, x.shape[3])), attrs), source)

    def join(self, first: int, second: int, op: str = "add") -> int:
        left, right = self.tensor(first), self.tensor(second)
        scale = max(left.scale, right.scale) * float(self.rng.uniform(0.7, 1.6))
        scale = left.scale * right.scale * 64 if op == "mul" else scale
        zero_point = int(self.rng.integers(-60, 61))
        result = replace(left, scale=float(np.float32(scale)), zero_point=zero_point)
        attrs = {"clamp": self._clamp(zero_point)}
        return self.add(Layer(op, op, (left, right), result, attrs), first, second)

    def pointwise(self, source: int, op: str) -> int:
        x = self.tensor(source)
        if op == "clip":
            return self.add(Layer(op, op, (x,), x, {"clamp": self._clamp(x.zero_point)}), source)
        scale, zero_point = float(np.float32(x.scale * self.rng.uniform(0.6, 2))), int(self.rng.integers(-60, 61))
        result = replace(x, scale=scale, zero_point=zero_point)
        return self.add(Layer(op, op, (x,), result, {"clamp": self._clamp(zero_point)}), source)


def random_network(rng: Rng, *, most: int = 5, channels: Sequence[int] = (3, 4, 8, 12)) -> tuple[Node, ...]:
    """Convolutions, depthwise ones, pools, residual blocks and pointwise operators over a map of any size."""
    h, w = (int(extent) for extent in rng.integers(6, 20, 2))
    frame = Tensor((1, h, w, int(rng.choice([1, 3, 4]))), "int8", 0.02, int(rng.choice([-128, 0, 5])))
    net = Network(rng, frame)
    last = net.conv(FRAME, int(rng.choice(channels)), int(rng.choice([3, 3, 5])), int(rng.choice([1, 1, 2])))
    while len(net.nodes) < most:
        last = _grow(net, last, channels)
        if rng.integers(8) == 0:
            break
    return tuple(net.nodes)


def _grow(net: Network, last: int, channels: Sequence[int]) -> int:
    rng, (_, h, w, c) = net.rng, net.tensor(last).shape
    stride = 2 if min(h, w) >= 8 and rng.integers(3) == 0 else 1
    kind = int(rng.integers(9))
    if kind <= 1:
        dilation = 2 if stride == 1 and rng.integers(4) == 0 else 1
        return net.conv(last, int(rng.choice(channels)), int(rng.choice([3, 3, 5])), stride, dilation)
    if kind == 2:
        return net.conv(last, int(rng.choice(channels)), 1, 2 if min(h, w) >= 6 and rng.integers(2) else 1)
    if kind == 3:
        return net.depthwise(last, int(rng.choice([3, 3, 5])), stride)
    if kind == 4 and min(h, w) >= 4:
        op = str(rng.choice(["max_pool2d", "avg_pool2d"]))
        if rng.integers(2):
            return net.pool(last, op, (2, 2), (2, 2), same=False)  # joined with the convolution before it
        window = (int(rng.integers(2, 4)), int(rng.integers(2, 4)))
        return net.pool(
            last, op, window, (int(rng.integers(1, 3)), int(rng.integers(1, 3))), same=bool(rng.integers(2))
        )
    if kind == 5:
        return net.pointwise(last, str(rng.choice(["clip", "relu", "requantize"])))
    if kind == 6:  # the block of a residual network, with or without a convolution on the way round
        inner = net.conv(net.conv(last, c, 3, stride), c, int(rng.choice([1, 3])))
        return net.join(last if stride == 1 and rng.integers(2) else net.conv(last, c, 1, stride), inner)
    if kind == 7:  # an inverted bottleneck
        wide = net.conv(last, 2 * c if c < 12 else c, 1)
        return net.join(net.conv(net.depthwise(wide, 3), c, 1), last, str(rng.choice(["add", "add", "mul"])))
    branch = net.conv(last, c, 3)
    return net.join(branch, net.pool(last, "avg_pool2d", (3, 3), (1, 1), same=True))


def random_grid(rng: Rng, result: Tensor) -> tuple[int, int]:
    rows, columns = (int(rng.integers(1, min(LARGEST_GRID, extent) + 1)) for extent in result.shape[1:3])
    return (rows, 1) if rng.integers(3) == 0 else (rows, columns)


def random_stage(rng: Rng, index: int, kernel_set: KernelSet = "auto") -> Stage:
    """A stage of 8-bit layers; ``index`` goes through halos and inputs."""
    nodes = random_network(rng)
    plan = PatchPlan(
        nodes[-1].layer.name,
        random_grid(rng, nodes[-1].layer.output),
        HALOS[index % 2],  # type: ignore[arg-type]
        INPUTS[index // 2 % 2],  # type: ignore[arg-type]
    )
    return Stage(nodes, plan, kernel_set)


# ---- branches


def format_of(layer: Layer, bits: int) -> OutputPlan:
    """The range of the layer's result in ``bits``."""
    result = layer.output
    low, high = ((end - result.zero_point) * result.scale for end in (-128, 127))
    scale = float(np.float32((high - low) / (2**bits - 1)))
    least = -(1 << (bits - 1))
    zero_point = round(-low / scale) + least
    return OutputPlan(bits, scale, int(np.clip(zero_point, least, -least - 1)))


def random_formats(rng: Rng, nodes: Sequence[Node]) -> Mapping[str, OutputPlan]:
    """For some layers that may have one; pixels end on a byte, and what keeps the stage's result as it is stays."""
    fixed = _sources_of_result(nodes)
    found = {}
    for index, node in enumerate(nodes):
        channels = node.layer.output.shape[3]
        if node.layer.op in PRODUCERS and index not in fixed and rng.integers(5):
            bits = int(rng.choice([b for b in (8, 4, 2) if channels * b % 8 == 0]))
            own = format_of(node.layer, bits)
            found[node.layer.name] = dataclasses.replace(own, packed=index % 2 == 0 or bits == 8)
    return {name: found[name] for name in found if _readable(nodes, name)}


def _sources_of_result(nodes: Sequence[Node]) -> set[int]:
    """Layers whose format the stage's result has: the last one, through operators that keep a format."""
    index, found = len(nodes) - 1, {len(nodes) - 1}
    while nodes[index].layer.op in ("max_pool2d", "avg_pool2d", "clip"):
        index = nodes[index].inputs[0]
        found.add(index)
    return found


def _readable(nodes: Sequence[Node], name: str) -> bool:
    """Whether everybody who reads the layer takes other formats."""
    index = next(i for i, node in enumerate(nodes) if node.layer.name == name)
    for reader in (node.layer for node in nodes if index in node.inputs):
        if reader.op in ("max_pool2d", "avg_pool2d", "clip"):
            if not _readable(nodes, reader.name):
                return False
        elif reader.op not in PRODUCERS:
            return False
    return True


def random_branches(rng: Rng, index: int) -> Stage:
    """A stage with two to three branches; every third has a rule for outliers."""
    nodes = random_network(rng, channels=(4, 8, 12))
    grid = random_grid(rng, nodes[-1].layer.output)
    branches: list[Mapping[str, OutputPlan]] = [{}]
    branches += [random_formats(rng, nodes) for _ in range(int(rng.integers(1, 3)))]
    assignment = tuple(tuple(int(b) for b in row) for row in rng.integers(0, len(branches), grid))
    dynamic = index % 3 == 0
    pixels = math.prod(nodes[0].layer.inputs[0].shape[1:]) / math.prod(grid)
    outliers = Outliers(-122, 122, max(1, int(pixels * 0.04))) if dynamic else None
    plan = PatchPlan(
        nodes[-1].layer.name,
        grid,
        HALOS[index % 2],  # type: ignore[arg-type]
        "frame" if dynamic else INPUTS[index // 2 % 2],  # type: ignore[arg-type]
        tuple(branches),
        assignment,
        outliers,
    )
    return Stage(nodes, plan, "auto")
