"""What the training process is told: the network as the plan will have it run, as plain data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm.models.graph import Graph
from rqdkm.train.worker import OPERATORS
from rqdkm_tvm.errors import UnsupportedOperatorError
from rqdkm_tvm.layer import Layer, NDArray, Tensor
from rqdkm_tvm.lowbit import channel_axis, quantize_weights
from rqdkm_tvm.plan import UNDECIDED, LayerPlan, OutputPlan, Plan
from rqdkm_tvm.sensitivity.float_twin import TwinLayer, channels_first, real_bias, real_weights
from rqdkm_tvm.sensitivity.rep import COPIES


@dataclass(frozen=True)
class Network:
    """Layers of an int8 model up to its logits, and what a plan makes of their tensors."""

    layers: tuple[TwinLayer, ...]
    roots: frozenset[str]
    inputs: tuple[Tensor, ...]
    plan: Plan
    classifies: bool

    def weight_bits(self, layer: Layer) -> npt.NDArray[np.int64]:
        """Per output channel."""
        entry = self.plan.get(layer.name)
        bits = entry.weight_bits if entry is not None else ()
        return np.array(bits or (8,) * layer.output.shape[-1], np.int64)

    def owner(self, index: int) -> int:
        """Position of the layer that decides how the output of layer ``index`` is stored, or -1 - model input."""
        x = self.layers[index]
        if x.tied_to:
            return next(i for i, other in enumerate(self.layers) if other.name == x.tied_to)
        while x.tied_to_input:
            index = x.sources[0]
            if index < 0:
                return index
            x = self.layers[index]
        return index

    def stored(self, index: int) -> OutputPlan:
        """Quantization of the output of layer ``index``."""
        owner = self.owner(index)
        if owner < 0:
            tensor = self.inputs[-1 - owner]
            return OutputPlan(8, tensor.scale, tensor.zero_point)
        layer = self.layers[owner].layer
        entry = self.plan.get(layer.name)
        if entry is not None and entry.output is not None:
            return entry.output
        return OutputPlan(8, layer.output.scale, layer.output.zero_point)

    def weighted(self) -> list[tuple[int, Layer]]:
        return [(i, x.layer) for i, x in enumerate(self.layers) if x.layer.weights is not None]


def describe(network: Network) -> dict[str, Any]:
    """The layers as JSON, see :class:`rqdkm.train.worker.Network`.

    Raises:
        UnsupportedOperatorError: an operator that cannot be trained.
    """
    rows = []
    for index, x in enumerate(network.layers):
        layer = x.layer
        if layer.op not in OPERATORS:
            raise UnsupportedOperatorError(f"{layer.op} cannot be trained", where=f'layer "{layer.name}"')
        if len(x.sources) != len(layer.inputs):
            raise UnsupportedOperatorError(
                f"{layer.op} with a constant operand cannot be trained", where=f'layer "{layer.name}"'
            )
        owner, stored = network.owner(index), network.stored(index)
        low, high = _bounds(layer)
        rows.append(
            {
                "name": layer.name,
                "op": layer.op,
                "attrs": _attrs(layer),
                "sources": list(x.sources),
                "input_shapes": [list(t.shape) for t in layer.inputs],
                "shape": list(layer.output.shape),
                "weighted": layer.weights is not None,
                "low": low,
                "high": high,
                "rounds": not (owner != index and layer.op in COPIES),
                "tied_to": owner,
                "scale": float(stored.scale),
                "zero_point": stored.zero_point,
                "bits": stored.bits,
                "learned": owner == index and stored.bits < 8,
            }
        )
    roots = [i for i, x in enumerate(network.layers) if x.name in network.roots]
    inputs = [{"scale": t.scale, "zero_point": t.zero_point} for t in network.inputs]
    return {"layers": rows, "roots": roots, "inputs": inputs, "classifies": network.classifies}


def _bounds(layer: Layer) -> tuple[float | None, float | None]:
    """Real bounds of the activation function; the ends of int8 are none, unless the zero point makes them a relu."""
    low, high = layer.attrs.get("clamp", (-128, 127))
    zero, scale = layer.output.zero_point, layer.output.scale
    lower = None if low <= -128 and zero != -128 else (low - zero) * scale
    return lower, None if high >= 127 else (high - zero) * scale


def _attrs(layer: Layer) -> dict[str, Any]:
    found = {key: np.asarray(value).tolist() for key, value in layer.attrs.items() if key != "clamp"}
    if layer.op == "pad":
        found["real_value"] = (layer.attrs["value"] - layer.output.zero_point) * layer.output.scale
    return found


# ---- weights to start from


def initial(network: Network, given: Mapping[int, tuple[NDArray, NDArray]]) -> dict[str, NDArray]:
    """Weights, bias, bits and first scales of every layer with weights; the int8 model's where none are ``given``."""
    arrays: dict[str, NDArray] = {}
    for index, layer in network.weighted():
        weights, bias = given.get(index, (real_weights(layer), real_bias(layer)))
        bits = network.weight_bits(layer)
        arrays[f"{index}.weights"] = np.asarray(weights, np.float32)
        arrays[f"{index}.bias"] = np.asarray(bias, np.float32)
        arrays[f"{index}.bits"] = bits
        arrays[f"{index}.scales"] = quantize_weights(channels_first(layer, arrays[f"{index}.weights"]), bits)[1]
    return arrays


def float_weights(graph: Graph) -> list[tuple[str, str, NDArray, NDArray]]:
    """(name, operator, weights, bias) of a float TFLite model."""
    ops = {"CONV_2D": "conv2d", "DEPTHWISE_CONV_2D": "depthwise_conv2d", "FULLY_CONNECTED": "fully_connected"}
    found = []
    for operator in graph.operators:
        op = ops.get(operator.op)
        weights = graph.tensors[operator.inputs[1]].data if op is not None else None
        if op is None or weights is None:
            continue
        bias = None
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = graph.tensors[operator.inputs[2]].data
        if bias is None:
            bias = np.zeros(weights.shape[channel_axis(op)], np.float32)
        found.append((graph.tensors[operator.outputs[0]].name, op, weights, bias))
    return found


# ---- what comes back


def completed(network: Network, names: Sequence[str], scales: Mapping[str, float]) -> list[LayerPlan]:
    """The plan's entries, in execution order, with the learned scales in them.

    Args:
        names: layers of the model that the plan mentions or the network changes, in execution order.
        scales: learned scales of outputs, by layer.
    """
    by_name = {x.name: x.layer for x in network.layers}
    found = []
    for name in names:
        entry = network.plan.get(name)
        if entry is None:
            continue
        output = entry.output
        if name in scales and output is not None:
            output = OutputPlan(output.bits, float(np.float32(scales[name])), output.zero_point)
        op = by_name[name].op if name in by_name else entry.op
        # kernels are chosen anew: other integers may need other ones
        kernel = None if entry.kernel is None else UNDECIDED
        found.append(LayerPlan(name, op, kernel, weights=entry.weights, output=output))
    return found
