"""The float network that an int8 module approximates, with everything the sensitivity metric differentiates by.

A twin computes the same layers in float32 on dequantized weights. Every layer k has weights, a bias and an additive
perturbation of its output::

    a_k = op_k(inputs, W_k) + b_k, limited to the range the int8 tensor can hold
    y_k = a_k + d_k                      (what the next layers read)

so that one gradient call at a sample gives d L / d W_k and d L / d y_k for all k. ``L = sum(v * logits)`` for any
cotangent ``v``: a random one, or the derivative of a loss. Through a quantized feature map gradients pass unchanged
(straight-through estimator: Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons", 2013).

Two programs are compiled once, for one sample: ``forward`` quantizes feature maps itself, where asked to, and returns
all of them; ``backward`` takes the perturbations that quantization makes as they are.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm_tvm import evaluate
from rqdkm_tvm.errors import UnsupportedOperatorError
from rqdkm_tvm.graph import RESHAPES, calls, composite_name, layer_name, op_name, outputs
from rqdkm_tvm.layer import Layer, NDArray, Tensor
from rqdkm_tvm.lowbit import dequantize_weights, fake_quantize, integer_range
from rqdkm_tvm.offload.base import shape_of
from rqdkm_tvm.sensitivity import gradients
from rqdkm_tvm.sensitivity.float_layers import float_layer
from rqdkm_tvm.sites import QuantizationMap, read_sites
from rqdkm_tvm.tvm_import import relay, tvm

Expr = Any
Floats = npt.NDArray[np.float32]

WEIGHTED = ("conv2d", "depthwise_conv2d", "fully_connected")
# the output has the quantization of the input: both have the same bit-width
TIED = ("avg_pool2d", "max_pool2d", "pad", "clip", "reshape")
_FINAL = ("rqdkm.softmax", "rqdkm.logistic")  # errors are measured before these


@dataclass(frozen=True)
class ActivationQuantizer:
    """How a feature map is stored: ``real = scale * (q - zero_point)`` at ``bits`` bits."""

    scale: float
    zero_point: int
    bits: int = 8

    def __call__(self, values: NDArray) -> Floats:
        return fake_quantize(values, self.scale, self.zero_point, self.bits).astype(np.float32)


@dataclass(frozen=True)
class TwinLayer:
    """One layer upstream of the logits. ``tied_to`` names the layer whose output quantization this one shares.

    ``sources`` says where each input that is no constant comes from, reshapes passed over: a position in
    ``FloatTwin.layers``, or -1 - i for the model's input i.
    """

    layer: Layer
    sources: tuple[int, ...] = ()
    tied_to: str = ""
    tied_to_input: bool = False

    @property
    def name(self) -> str:
        return self.layer.name


@dataclass(frozen=True)
class Forward:
    """One sample: ``activations`` before their own quantization, ``perturbations`` what that adds."""

    logits: Floats
    activations: tuple[Floats, ...]
    perturbations: tuple[Floats, ...]


@dataclass(frozen=True)
class Backward:
    """Gradients at one sample: by layer; those of weights in the layout of :class:`rqdkm_tvm.layer.Layer`."""

    weights: Mapping[str, Floats]
    activations: tuple[Floats, ...]


@dataclass
class FloatTwin:
    """See the module's text. Build with :meth:`of`. ``roots`` are the layers whose outputs the logits are."""

    layers: tuple[TwinLayer, ...]
    inputs: tuple[Tensor, ...]
    logits_size: int
    classifies: bool
    _forward: Callable[..., list[Floats]] = field(repr=False)
    _backward: Callable[..., list[Floats]] = field(repr=False)
    roots: frozenset[str] = frozenset()
    weights: dict[str, Floats] = field(default_factory=dict, repr=False)
    biases: dict[str, Floats] = field(default_factory=dict, repr=False)
    quantizers: dict[str, ActivationQuantizer] = field(default_factory=dict)
    _reference: dict[str, Floats] = field(default_factory=dict, repr=False)

    @staticmethod
    def of(function: Expr) -> FloatTwin:
        """Twin of a partitioned main function (types inferred).

        Raises:
            UnsupportedOperatorError: an operator that is no layer, or a layer without float counterpart.
        """
        return _Builder(function).build()

    def reset(self) -> None:
        """The unquantized network: the weights of the int8 model, feature maps in float."""
        self.quantizers.clear()
        self.weights.clear()
        self.biases.clear()

    def reference_weights(self, name: str) -> Floats:
        """Real weights of the int8 model, in the layer's layout."""
        if name not in self._reference:
            self._reference[name] = real_weights(self[name].layer)
        return self._reference[name]

    def reference_bias(self, name: str) -> npt.NDArray[np.float64]:
        """Real bias of the int8 model, (O,); zeros where it has none."""
        return real_bias(self[name].layer)

    def __getitem__(self, name: str) -> TwinLayer:
        return next(x for x in self.layers if x.name == name)

    def dequantize(self, sample: Sequence[NDArray]) -> list[Floats]:
        """One sample as the chip gets it -> real values; arrays that are float already pass."""
        found = []
        for array, tensor in zip(sample, self.inputs, strict=True):
            real = np.asarray(array, np.float32)
            if not np.issubdtype(np.asarray(array).dtype, np.floating):
                real = (real - np.float32(tensor.zero_point)) * np.float32(tensor.scale)
            found.append(np.ascontiguousarray(real.reshape(tensor.shape), np.float32))
        return found

    def forward(self, sample: Sequence[NDArray]) -> Forward:
        """Run one sample (one array per input, with or without its batch dimension)."""
        results = self._forward(self.dequantize(sample), self._parameters(), [self._gate(x.name) for x in self.layers])
        logits, activations = results[0], results[1:]
        perturbations = [
            np.zeros_like(a) if x.name not in self.quantizers else self.quantizers[x.name](a) - a
            for x, a in zip(self.layers, activations, strict=True)
        ]
        return Forward(logits, tuple(activations), tuple(perturbations))

    def logits(self, sample: Sequence[NDArray]) -> Floats:
        """Only the logits, flat."""
        gates = [self._gate(x.name) for x in self.layers]
        return self._forward(self.dequantize(sample), self._parameters(), gates)[0]

    def backward(self, sample: Sequence[NDArray], at: Forward, cotangent: Floats) -> Backward:
        """Gradients of ``sum(cotangent * logits)`` at a sample whose forward run is ``at``."""
        cotangent = np.asarray(cotangent, np.float32).reshape(self.logits_size)
        results = self._backward(self.dequantize(sample), self._parameters(), list(at.perturbations), cotangent)
        weighted = [x for x in self.layers if x.layer.weights is not None]
        named = {x.name: from_relay_layout(x.layer, g) for x, g in zip(weighted, results[: len(weighted)], strict=True)}
        return Backward(named, tuple(results[len(weighted) :]))

    def _parameters(self) -> list[Floats]:
        weighted = [x for x in self.layers if x.layer.weights is not None]
        return [
            *(to_relay_layout(x.layer, self.weights.get(x.name, self.reference_weights(x.name))) for x in weighted),
            *(np.asarray(self.biases.get(x.name, self.reference_bias(x.name)), np.float32) for x in weighted),
        ]

    def _gate(self, name: str) -> Floats:
        """Scale, zero point, least and greatest integer, and whether to quantize at all."""
        quantizer = self.quantizers.get(name)
        if quantizer is None:
            return np.array([1, 0, -128, 127, 0], np.float32)
        low, high = integer_range(quantizer.bits)
        return np.array([quantizer.scale, quantizer.zero_point, low, high, 1], np.float32)


def structure(function: Expr) -> tuple[tuple[TwinLayer, ...], frozenset[str]]:
    """Layers and roots of the twin of a partitioned main function, without compiling anything.

    Raises:
        UnsupportedOperatorError: as :meth:`FloatTwin.of`.
    """
    builder = _Builder(function)
    return builder.layers, builder.root_names()


# ---- weights


def channels_first(layer: Layer, weights: NDArray) -> NDArray:
    """(O, ...): depthwise weights have their channels last."""
    return np.moveaxis(weights, -1, 0) if layer.op == "depthwise_conv2d" else weights


def channels_back(layer: Layer, weights: NDArray) -> NDArray:
    """Inverse of :func:`channels_first`."""
    return np.moveaxis(weights, 0, -1) if layer.op == "depthwise_conv2d" else weights


def real_weights(layer: Layer) -> Floats:
    """Dequantized weights in the layer's own layout."""
    assert layer.weights is not None and layer.weight_scales is not None
    first = channels_first(layer, layer.weights).astype(np.float32) - np.float32(layer.weight_zero_point)
    return np.ascontiguousarray(channels_back(layer, dequantize_weights(first, layer.weight_scales)))


def real_bias(layer: Layer) -> npt.NDArray[np.float64]:
    """Dequantized bias, (O,); zeros where the layer has none. Double, so that the same integers come back from it."""
    if layer.bias is None:
        return np.zeros(layer.output.shape[-1])
    scales = np.asarray(layer.weight_scales, np.float64).reshape(-1) * layer.inputs[0].scale
    return np.asarray(np.asarray(layer.bias, np.float64) * scales)


def to_relay_layout(layer: Layer, weights: NDArray) -> Floats:
    """OHWI -> HWIO, (1, KH, KW, C * M) -> HWOI (KH, KW, C, M), (O, I) stays."""
    if layer.op == "conv2d":
        weights = weights.transpose(1, 2, 3, 0)
    elif layer.op == "depthwise_conv2d":
        multiplier = layer.attrs["multiplier"]
        weights = weights.reshape(*weights.shape[1:3], weights.shape[3] // multiplier, multiplier)
    return np.ascontiguousarray(weights, np.float32)


def from_relay_layout(layer: Layer, weights: NDArray) -> Floats:
    """Inverse of :func:`to_relay_layout`."""
    if layer.op == "conv2d":
        weights = weights.transpose(3, 0, 1, 2)
    elif layer.op == "depthwise_conv2d":
        weights = weights.reshape(1, *weights.shape[:2], -1)
    return np.ascontiguousarray(weights, np.float32)


# ---- building the Relay functions


class _Builder:
    """Both functions share this walk; they differ in what is added to a layer's output."""

    def __init__(self, function: Expr) -> None:
        self.function = function
        sites = {site.name: site.layer for site in read_sites(function)}
        quantization = QuantizationMap(function)
        self.inputs = tuple(quantization.tensor(var) for var in function.params)
        self.roots = [self._root(expr) for expr in outputs(function)]
        self.classifies = len(self.roots) == 1 and composite_name(outputs(function)[0]) == "rqdkm.softmax"
        needed = _upstream(self.roots)
        self.order = [call for call in calls(function) if call in needed]
        for call in self.order:
            if not layer_name(call) and op_name(call) not in RESHAPES:
                raise UnsupportedOperatorError(
                    "it has no counterpart in the float network",
                    where=f"operator {op_name(call)}",
                    hint="sensitivity needs networks whose every operator is a layer",
                )
        self.layer_of = {call: sites[layer_name(call)] for call in self.order if layer_name(call)}
        self.layers = self._tie()

    @staticmethod
    def _root(expr: Expr) -> Expr:
        """What an output is computed from, before reshapes and the final probability function."""
        while op_name(expr) in RESHAPES or composite_name(expr) in _FINAL:
            expr = expr.args[0]
        return expr

    def _tie(self) -> tuple[TwinLayer, ...]:
        found = []
        positions = {call: index for index, call in enumerate(self.layer_of)}
        positions |= {var: -1 - index for index, var in enumerate(self.function.params)}
        for call, layer in self.layer_of.items():
            leaves = [_through_reshapes(leaf) for leaf in _leaves(call)]
            sources = tuple(positions[leaf] for leaf in leaves if not isinstance(leaf, relay.Constant))
            source = call
            while op_name(source) in RESHAPES or (source in self.layer_of and self.layer_of[source].op in TIED):
                source = source.args[0]
            if layer.op not in TIED:
                found.append(TwinLayer(layer, sources))
            elif source in self.layer_of:
                found.append(TwinLayer(layer, sources, self.layer_of[source].name))
            else:
                found.append(TwinLayer(layer, sources, tied_to_input=True))
        return tuple(found)

    def build(self) -> FloatTwin:
        size = sum(int(np.prod(shape_of(root))) for root in self.roots)
        forward = evaluate.compiled(*self._forward())

        @functools.cache
        def compiled() -> Callable[..., list[Floats]]:
            return evaluate.compiled(*self._backward(size))

        def backward(*groups: Any) -> list[Floats]:  # compiling takes longer than the forward part: not all need it
            return compiled()(*groups)

        return FloatTwin(self.layers, self.inputs, size, self.classifies, forward, backward, self.root_names())

    def root_names(self) -> frozenset[str]:
        return frozenset(self.layer_of[root].name for root in self.roots if root in self.layer_of)

    def _variables(self) -> tuple[list[Expr], list[Expr], list[Expr]]:
        inputs = [relay.var(f"x{i}", shape=t.shape, dtype="float32") for i, t in enumerate(self.inputs)]
        weights = [
            relay.var(f"w{i}", shape=to_relay_layout(x.layer, real_weights(x.layer)).shape, dtype="float32")
            for i, x in enumerate(self.layers)
            if x.layer.weights is not None
        ]
        biases = [
            relay.var(f"b{i}", shape=(x.layer.output.shape[-1],), dtype="float32")
            for i, x in enumerate(self.layers)
            if x.layer.weights is not None
        ]
        return inputs, weights, biases

    def _walk(
        self, inputs: list[Expr], weights: list[Expr], biases: list[Expr], extra: Callable[[int, Expr], Expr]
    ) -> list[Expr]:
        """Logits first, then every layer's output before ``extra``."""
        value: dict[Expr, Expr] = dict(zip(self.function.params, inputs, strict=True))
        parameters = iter(zip(weights, biases, strict=True))
        before: list[Expr] = []
        for call in self.order:
            if op_name(call) in RESHAPES:
                value[call] = relay.reshape(value[call.args[0]], shape_of(call))
                continue
            layer = self.layer_of[call]
            leaves = zip(_leaves(call), layer.inputs, strict=True)
            arguments = [
                _real(leaf, tensor) if isinstance(leaf, relay.Constant) else value[leaf] for leaf, tensor in leaves
            ]
            weight, bias = next(parameters) if layer.weights is not None else (None, None)
            result = float_layer(layer, arguments, weight, bias)
            value[call] = extra(len(before), result)
            before.append(result)
        flat = [relay.reshape(value[root], (-1,)) for root in self.roots]
        return [flat[0] if len(flat) == 1 else relay.concatenate(flat, axis=0), *before]

    def _forward(self) -> tuple[Expr, list[str]]:
        inputs, weights, biases = self._variables()
        gates = [relay.var(f"q{i}", shape=(5,), dtype="float32") for i in range(len(self.layers))]
        results = self._walk(inputs, weights, biases, lambda i, y: _quantized(y, gates[i]))
        params = [*inputs, *weights, *biases, *gates]
        return relay.Function(params, relay.Tuple(results)), [p.name_hint for p in params]

    def _backward(self, size: int) -> tuple[Expr, list[str]]:
        inputs, weights, biases = self._variables()
        shifts = [
            relay.var(f"d{i}", shape=layer.output.shape, dtype="float32")
            for i, layer in enumerate(self.layer_of.values())
        ]
        cotangent = relay.var("v", shape=(size,), dtype="float32")
        logits = self._walk(inputs, weights, biases, lambda i, y: y + shifts[i])[0]
        params = [*inputs, *weights, *biases, *shifts, cotangent]
        differentiated = gradients.gradient(relay.Function(params, relay.sum(logits * cotangent)))
        normal = relay.transform.ToGraphNormalForm()(tvm.IRModule.from_expr(differentiated))["main"]
        grads = normal.body.fields[1]
        # the gradients by the inputs, the biases and the cotangent are nobody's: dropped, nothing computes them
        kept = {*weights, *shifts}
        wanted = [grads.fields[i] for i, param in enumerate(params) if param in kept]
        return relay.Function(list(normal.params), relay.Tuple(wanted)), [p.name_hint for p in params]


def _real(constant: Expr, tensor: Tensor) -> Expr:
    return relay.const((constant.data.numpy() - np.float32(tensor.zero_point)) * np.float32(tensor.scale))


def _leaves(call: Expr) -> list[Expr]:
    return [leaf for arg in call.args for leaf in (arg.fields if isinstance(arg, relay.Tuple) else [arg])]


def _through_reshapes(expr: Expr) -> Expr:
    while op_name(expr) in RESHAPES:
        expr = expr.args[0]
    return expr


def _upstream(roots: Sequence[Expr]) -> set[Expr]:
    seen: set[Expr] = set()
    stack = list(roots)
    while stack:
        expr = stack.pop()
        if isinstance(expr, relay.Tuple):
            stack.extend(expr.fields)
        elif isinstance(expr, relay.Call) and expr not in seen:
            seen.add(expr)
            stack.extend(expr.args)
    return seen


def _quantized(y: Expr, gate: Expr) -> Expr:
    scale, zero, low, high, used = (relay.strided_slice(gate, begin=[i], end=[i + 1]) for i in range(5))
    q = relay.minimum(relay.maximum(relay.round(y / scale) + zero, low), high)
    return relay.where(relay.greater(used, relay.const(0.5)), (q - zero) * scale, y)
