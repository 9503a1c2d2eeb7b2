"""A network on its way to integers: real weights, perhaps rescaled; quantizers; and what plain rounding gives."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.layer import Layer, NDArray
from rqdkm_tvm.lowbit import dequantize_weights, quantize_weights
from rqdkm_tvm.mixed import PRODUCERS
from rqdkm_tvm.parameters import LayerParameters, Parameters
from rqdkm_tvm.plan import LayerPlan, OutputPlan, runs
from rqdkm_tvm.sensitivity.float_twin import (
    ActivationQuantizer,
    Floats,
    FloatTwin,
    TwinLayer,
    channels_back,
    channels_first,
)
from rqdkm_tvm.sensitivity.rep import Quantizers, Samples
from rqdkm_tvm.sensitivity.table import Assignment, channel_bits

Integers = tuple[npt.NDArray[np.int8], npt.NDArray[np.float32]]  # (O, ...) and scales (O,)


@dataclass
class Network:
    """The float network, its bit-widths, and a gain per channel of every tensor that was rescaled.

    ``gains[l]`` (channels of l's output) says by what l's result is multiplied, compared with the model; what reads it
    divides. Empty: the model as it is.
    """

    twin: FloatTwin
    bits: Mapping[str, NDArray]  # of weights, per output channel
    activations: dict[str, ActivationQuantizer]  # of every tensor that is stored anew
    gains: dict[str, Floats] = field(default_factory=dict)

    @staticmethod
    def of(twin: FloatTwin, assignment: Assignment, quantizers: Quantizers) -> Network:
        """Every weight and feature map gets bits: those of the assignment, 8 where it says nothing."""
        bits = {}
        for x in weighted(twin):
            groups = assignment.weights.get(x.name) or (8,)
            bits[x.name] = channel_bits(groups, x.layer.output.shape[-1])
        activations = {
            x.name: quantizers.activations[x.name][assignment.activations.get(x.tied_to or x.name, 8)]
            for x in twin.layers
            if x.name in quantizers.activations
        }
        return Network(twin, bits, activations)

    # ---- real values

    def input_gain(self, x: TwinLayer) -> NDArray | None:
        """Gain of the channels that a layer reads."""
        source = x.sources[0]
        return None if source < 0 else self.gains.get(self.twin.layers[source].name)

    def weights(self, x: TwinLayer) -> npt.NDArray[np.float64]:
        """Real weights in the layer's layout; double, so that plain rounding is the lowering pass's to the bit."""
        assert x.layer.weights is not None
        first = channels_first(x.layer, x.layer.weights).astype(np.float64) - x.layer.weight_zero_point
        scales = np.asarray(x.layer.weight_scales, np.float64).reshape(-1)
        first = first * scales.reshape(-1, *[1] * (first.ndim - 1))
        out, into = self.gains.get(x.name), self.input_gain(x)
        if out is not None:
            first = first * out.reshape(-1, *[1] * (first.ndim - 1))
        if into is not None:
            first = first / _spread(x.layer, into, first.shape)
        return np.ascontiguousarray(channels_back(x.layer, first))

    def bias(self, x: TwinLayer) -> npt.NDArray[np.float64]:
        """Real bias, (O,)."""
        gain = self.gains.get(x.name)
        return self.twin.reference_bias(x.name) * (1.0 if gain is None else gain.astype(np.float64))

    def set_float(self) -> None:
        """Put the twin into the state of the unquantized network."""
        self.twin.reset()
        for x in weighted(self.twin):
            self.twin.weights[x.name] = self.weights(x).astype(np.float32)
            self.twin.biases[x.name] = self.bias(x).astype(np.float32)

    # ---- the plan

    def entries(self) -> list[LayerPlan]:
        """What a plan says about it; kernels are left open."""
        found = []
        for x in self.twin.layers:
            bits, own = self.bits.get(x.name, ()), self.activations.get(x.name)
            output = None
            if own is not None and not x.tied_to and x.layer.op in PRODUCERS and x.name not in self.twin.roots:
                old = x.layer.output
                if (own.bits, own.scale, own.zero_point) != (8, old.scale, old.zero_point):
                    output = OutputPlan(own.bits, float(np.float32(own.scale)), own.zero_point)
            weights = runs(int(b) for b in bits)
            if weights or output is not None:
                found.append(LayerPlan(x.name, x.layer.op, weights=weights, output=output))
        return found

    # ---- integers

    def plain(self, x: TwinLayer) -> Integers:
        """Integers nearest to the real weights; those of 8-bit channels are the model's wherever they still can be."""
        layer = x.layer
        assert layer.weights is not None and layer.weight_scales is not None
        bits = self.bits[x.name]
        values, scales = quantize_weights(channels_first(layer, self.weights(x)), bits)
        into = self.input_gain(x)
        if layer.weight_zero_point == 0 and (into is None or layer.op == "depthwise_conv2d"):
            old = np.broadcast_to(np.asarray(layer.weight_scales, np.float32).reshape(-1), scales.shape)
            gain = self.gains.get(x.name, np.float32(1))
            if into is not None:
                gain = gain / np.repeat(into, layer.attrs["multiplier"])
            integers = channels_first(layer, layer.weights)
            kept = bits == 8
            values = np.where(kept.reshape(-1, *[1] * (values.ndim - 1)), integers, values).astype(np.int8)
            scales = np.where(kept, old * gain, scales).astype(np.float32)
        return values, scales

    def input_scale(self, x: TwinLayer) -> float:
        """Scale at which the layer's input is stored."""
        source = x.sources[0]
        if source >= 0 and self.twin.layers[source].name in self.activations:
            return self.activations[self.twin.layers[source].name].scale
        return x.layer.inputs[0].scale

    def store(self, x: TwinLayer, integers: Integers, bias: NDArray) -> LayerParameters:
        """Parameters of one layer; ``bias`` real."""
        values, scales = integers
        unit = np.float64(np.float32(self.input_scale(x))) * scales.astype(np.float64)
        steps = np.clip(np.rint(np.asarray(bias, np.float64) / unit), -(2**31), 2**31 - 1).astype(np.int32)
        weights = np.ascontiguousarray(channels_back(x.layer, values))
        return LayerParameters(weights, scales, None if x.layer.bias is None and not steps.any() else steps)

    def plain_parameters(self) -> Parameters:
        """Every layer rounded by itself."""
        return Parameters({x.name: self.store(x, self.plain(x), self.bias(x)) for x in weighted(self.twin)})

    def set_layer(self, x: TwinLayer, found: LayerParameters) -> None:
        """Give one layer of the twin the values of its integers."""
        first = dequantize_weights(channels_first(x.layer, found.weights), found.scales)
        self.twin.weights[x.name] = np.ascontiguousarray(channels_back(x.layer, first))
        unit = np.float64(np.float32(self.input_scale(x))) * found.scales.astype(np.float64)
        steps = np.zeros(len(unit)) if found.bias is None else found.bias
        self.twin.biases[x.name] = np.asarray(steps * unit, np.float32)

    def set_quantized(self, parameters: Mapping[str, LayerParameters]) -> None:
        """Put the twin into the state of the quantized network, as far as ``parameters`` go."""
        self.set_float()
        for name, found in parameters.items():
            self.set_layer(self.twin[name], found)
        self.twin.quantizers = dict(self.activations)

    def logits(self, samples: Samples) -> npt.NDArray[np.float64]:
        """(n, logits) of the twin in whatever state it is."""
        return np.stack([self.twin.logits(sample) for sample in samples]).astype(np.float64)


def weighted(twin: FloatTwin) -> list[TwinLayer]:
    """The layers with weights, in order."""
    return [x for x in twin.layers if x.layer.weights is not None]


def _spread(layer: Layer, gain: NDArray, shape: Sequence[int]) -> NDArray:
    """Gain of the input channels along weights (O, ...)."""
    if layer.op == "depthwise_conv2d":  # (C * multiplier, 1, KH, KW)
        return np.repeat(gain, layer.attrs["multiplier"]).reshape(-1, *[1] * (len(shape) - 1))
    if layer.op == "fully_connected":  # channels are the last axis of what was flattened
        return np.tile(gain, shape[-1] // len(gain))[None]
    groups = layer.attrs["groups"]  # (O, KH, KW, C / groups)
    parts = np.repeat(gain.reshape(groups, 1, 1, -1), shape[0] // groups, axis=0)
    return np.asarray(parts)
