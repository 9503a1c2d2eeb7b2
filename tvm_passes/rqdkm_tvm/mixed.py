"""LowerMixedPrecision: the bit-widths of a plan become the integers, scales and clamps of the Relay module.

A partitioned int8 module in, one out. Every layer that the plan gives other weights, or that writes or reads a feature
map the plan quantizes anew, gets a new body: same operators, other constants. Values stay int8 in Relay, within
``[-2^(bits-1), 2^(bits-1))``; how many bits each takes in memory stands in the composite's attribute
(:data:`rqdkm_tvm.graph.BITS_ATTR`), from which kernels pack. So the result is an ordinary quantized module: TVM can
evaluate it, and every later pass reads it like one that came from a file.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.graph import (
    BITS_ATTR,
    RESHAPES,
    Rewriter,
    bits_of,
    calls,
    composite_name,
    module_pass,
    op_name,
    outputs,
    rebuild,
    with_main,
)
from rqdkm_tvm.layer import Layer, NDArray
from rqdkm_tvm.lowbit import BITS, channel_axis, integer_range, requantize_weights
from rqdkm_tvm.offload.base import Quantization, clip_bounds, constant, shape_of, strip_ops
from rqdkm_tvm.parameters import LayerParameters, Parameters
from rqdkm_tvm.plan import LayerPlan, Plan
from rqdkm_tvm.sites import QuantizationMap, layer_ops, read_sites
from rqdkm_tvm.tvm_import import relay

Expr = Any

# operators whose result may be quantized anew
PRODUCERS = ("conv2d", "depthwise_conv2d", "fully_connected", "add", "mul")
# operators whose result keeps the quantization of their input, whatever that is
FOLLOWERS = ("max_pool2d", "avg_pool2d", "pad", "clip")
# operators that may read a tensor quantized anew
READERS = (*PRODUCERS, *FOLLOWERS, "mean")


@dataclass(frozen=True)
class Stored:
    """How a tensor is quantized and how many bits an element takes."""

    quantization: Quantization
    bits: int = 8


@dataclass(frozen=True)
class _Change:
    """What a layer's new body is made from. ``before`` is the output's quantization in the given module."""

    layer: Layer
    inputs: tuple[Quantization, ...]
    before: Quantization
    output: Stored
    parameters: LayerParameters | None

    def clip(self, result: Expr, old: tuple[int, int]) -> Expr:
        """Clip ``result`` to the old bounds in new units and to the range of the bits; nothing where int8 does it."""
        low, high = moved_bounds(old, self.before, self.output)
        return result if (low, high) == (-128, 127) else relay.clip(result, low, high)


def moved_bounds(bounds: tuple[int, int], before: Quantization, after: Stored) -> tuple[int, int]:
    """A clamp in units of ``after``. The ends of int8 are no activation function: they become those of the bits."""
    least, greatest = integer_range(after.bits)

    def move(bound: int) -> int:
        real = (bound - before.zero_point) * before.scale
        return round(real / after.quantization.scale) + after.quantization.zero_point

    low = least if bounds[0] <= -128 else min(max(move(bounds[0]), least), greatest)
    high = greatest if bounds[1] >= 127 else min(max(move(bounds[1]), least), greatest)
    return low, high


def planned_parameters(layer: Layer, entry: LayerPlan | None, input_scale: float) -> LayerParameters:
    """Integers of ``layer`` at the plan's bits, nearest to the model's in the sense of :mod:`rqdkm_tvm.lowbit`.

    Args:
        layer: as in the int8 model.
        input_scale: of the tensor it reads now; the bias is in units of this times the weight scale.
    """
    assert layer.weights is not None and layer.weight_scales is not None
    axis = channel_axis(layer.op)
    first = np.moveaxis(layer.weights, axis, 0)
    bits = entry.weight_bits if entry is not None and entry.weights else (8,) * len(first)
    values, scales = first, np.asarray(layer.weight_scales, np.float32)
    if any(b != 8 for b in bits):
        values, scales = requantize_weights(first, layer.weight_scales, bits)
    bias = None
    if layer.bias is not None:
        old = np.float64(layer.inputs[0].scale) * np.asarray(layer.weight_scales, np.float64)
        new = np.float64(input_scale) * scales.astype(np.float64)
        exact = np.rint(np.asarray(layer.bias, np.float64) * old / new)
        kept = np.asarray(layer.bias, np.float64)
        bias = np.clip(np.where(old == new, kept, exact), -(2**31), 2**31 - 1).astype(np.int32)
    return LayerParameters(np.ascontiguousarray(np.moveaxis(values, 0, axis)), scales, bias)


# ---- bodies


def _weighted(root: Expr, change: _Change) -> Expr:
    conv, found = strip_ops(root, "clip", "qnn.requantize", "nn.bias_add")
    requantize, bias = found["qnn.requantize"], found.get("nn.bias_add")
    weights, w_scale, bias_value = conv.args[1], conv.args[5], None if bias is None else constant(bias.args[1])
    if change.parameters is not None:
        weights = relay.const(_relay_layout(change.layer, change.parameters.weights, constant(conv.args[1]).shape))
        w_scale = relay.const(change.parameters.scales)
        bias_value = change.parameters.bias
    source, target = change.inputs[0], change.output.quantization
    data = _call(conv, conv.args[0], weights, _zero(source), conv.args[3], _scale(source), w_scale)
    if bias_value is not None:
        axis = int(bias.attrs.axis) if bias is not None else len(shape_of(conv)) - 1
        data = relay.nn.bias_add(data, relay.const(np.asarray(bias_value, np.int32)), axis)
    accumulator = np.float32(source.scale) * constant(w_scale)
    data = _call(requantize, data, relay.const(accumulator), requantize.args[2], _scale(target), _zero(target))
    return change.clip(data, clip_bounds(found.get("clip")))


def _relay_layout(layer: Layer, weights: NDArray, shape: Sequence[int]) -> NDArray:
    """OHWI or (O, I) or (1, KH, KW, C * M) -> the constant's own layout."""
    if layer.op == "conv2d":
        height, width = weights.shape[1:3]
        to_hwio = (1, 2, 3, 0)
        moved = weights.transpose(to_hwio)
        same = moved.shape == tuple(shape)
        moved = moved if same else weights.transpose(1, 2, 0, 3).reshape(height, width, *shape[2:])
    else:
        moved = weights
    return np.ascontiguousarray(moved.reshape(tuple(shape)), np.int8)


def _binary(root: Expr, change: _Change) -> Expr:
    call, found = strip_ops(root, "clip")
    parts = (*change.inputs, change.output.quantization)
    pairs = [constant for q in parts for constant in (_scale(q), _zero(q))]
    return change.clip(_call(call, *call.args[:2], *pairs), clip_bounds(found.get("clip")))


def _follower(root: Expr, change: _Change) -> Expr:
    """Pools keep their values; a clip's bounds move."""
    if op_name(root) in ("clip", "nn.relu"):
        return change.clip(root.args[0], clip_bounds(root))
    return root


def _pad(root: Expr, change: _Change) -> Expr:
    value = moved_bounds((change.layer.attrs["value"], 127), change.before, change.output)[0]
    return _call(root, root.args[0], relay.const(np.asarray(value, constant(root.args[1]).dtype)))


def _mean(root: Expr, change: _Change) -> Expr:
    source = change.inputs[0]
    return _call(root, root.args[0], _scale(source), _zero(source), *root.args[3:])


_BODIES: Mapping[str, Callable[[Expr, _Change], Expr]] = {
    "conv2d": _weighted,
    "depthwise_conv2d": _weighted,
    "fully_connected": _weighted,
    "add": _binary,
    "mul": _binary,
    "max_pool2d": _follower,
    "avg_pool2d": _follower,
    "clip": _follower,
    "pad": _pad,
    "mean": _mean,
}


def _call(like: Expr, *args: Expr) -> Expr:
    return relay.Call(like.op, list(args), like.attrs, like.type_args, like.span)


def _scale(quantization: Quantization) -> Expr:
    return relay.const(np.float32(quantization.scale))


def _zero(quantization: Quantization) -> Expr:
    return relay.const(np.int32(quantization.zero_point))


# ---- what may change


def storable(function: Expr) -> Callable[[Layer], tuple[tuple[int, ...], tuple[int, ...]]]:
    """Per layer of a partitioned main function: the bit-widths its weights and its result may have.

    A result may have fewer than 8 where its operator can be quantized anew, every reader (followers passed through)
    takes it, it is no output of the model, and a pixel ends on a byte.
    """
    sites = read_sites(function)
    layer_of = {site.call: site.layer for site in sites}
    results = {_source(expr) for expr in outputs(function)}
    readers: dict[Expr, list[Expr]] = {}
    for call in calls(function):
        for operand in _operands(call):
            readers.setdefault(_source(operand), []).append(call)

    def free(call: Expr) -> bool:
        """Whether nobody minds how ``call``'s result is quantized."""
        if call in results:
            return False
        for reader in readers.get(call, []):
            if op_name(reader) in RESHAPES:
                continue  # its readers are listed here, too
            layer = layer_of.get(reader)
            if layer is None or layer.op not in READERS or (layer.op in FOLLOWERS and not free(reader)):
                return False
        return True

    found: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
    for call, layer in layer_of.items():
        weights: tuple[int, ...] = ()
        if layer.weights is not None:
            weights = BITS if layer.weight_zero_point == 0 else (8,)
        follows = layer.op in FOLLOWERS
        own = (layer.op in PRODUCERS or follows) and free(call)
        result = tuple(b for b in BITS if layer.output.shape[-1] * b % 8 == 0) if own else (8,)
        found[layer.name] = weights, result
    return lambda layer: found[layer.name]


# ---- the module


class _Lowering(Rewriter):
    def __init__(self, function: Expr, plan: Plan, parameters: Parameters | None) -> None:
        super().__init__()
        self.plan, self.parameters = plan, parameters
        self.known = QuantizationMap(function).known
        self.layers = {site.call: site.layer for site in read_sites(function)}
        self.results = {_source(expr) for expr in outputs(function)}
        self.changed: dict[Expr, Stored] = {}  # by expression of the given module

    def rewrite(self, call: Expr, original: Expr) -> Expr:
        read = [self.changed.get(x) for x in _operands(original)]
        layer = self.layers.get(original)
        if layer is None:
            if any(read):
                if op_name(original) not in RESHAPES:
                    raise _unreadable(op_name(original) or composite_name(original), self._writer(original))
                self.changed[original] = next(x for x in read if x)
            return call
        entry = self.plan.get(layer.name)
        change = self._change(original, layer, entry, read)
        if change is None:
            return call
        body = _BODIES[layer.op](call.op.body, change)
        function = relay.Function(list(call.op.params), body)
        for key in call.op.attrs.keys():  # noqa: SIM118
            function = function.with_attr(str(key), call.op.attrs[key])
        weight_bits = list(entry.weight_bits) if entry is not None else []
        if change.output.bits != 8 or weight_bits:
            function = function.with_attr(BITS_ATTR, json.dumps({"output": change.output.bits, "weights": weight_bits}))
        return relay.Call(function, call.args, call.attrs, call.type_args, call.span)

    def _change(
        self, original: Expr, layer: Layer, entry: LayerPlan | None, read: Sequence[Stored | None]
    ) -> _Change | None:
        where = f'plan: layer "{layer.name}"'
        given = self.parameters.get(layer.name) if self.parameters is not None else None
        own = entry.output if entry is not None else None
        before = self.known.get(original, Quantization(layer.output.scale, layer.output.zero_point))
        after = Stored(before, bits_of(original)[0])
        if layer.op in FOLLOWERS and any(read):
            after = next(x for x in read if x)
            if own is not None and (own.bits, own.scale, own.zero_point) != (
                after.bits,
                after.quantization.scale,
                after.quantization.zero_point,
            ):
                raise PlanError(f"the result of {layer.op} is quantized as what it reads", where=where)
        elif own is not None:
            after = self._own(original, layer, entry, where)
        weights = entry is not None and bool(entry.weights)
        if weights:
            assert entry is not None
            _check_weights(layer, entry, where)
        if not any(read) and not weights and given is None and after.quantization == before and after.bits == 8:
            return None
        if any(read) and layer.op not in READERS:
            raise _unreadable(layer.op, self._writer(original), layer.name)
        if layer.op not in _BODIES:
            raise PlanError(f"{layer.op} cannot be quantized anew", where=where)
        inputs = tuple(
            x.quantization if x is not None else self.known.get(expr, Quantization(t.scale, t.zero_point))
            for x, expr, t in zip(read, _operands(original), layer.inputs, strict=True)
        )
        parameters = None
        if layer.weights is not None:
            parameters = given or planned_parameters(layer, entry, inputs[0].scale)
        if after.quantization != before or after.bits != 8:
            self.changed[original] = after
        return _Change(layer, inputs, before, after, parameters)

    def _own(self, original: Expr, layer: Layer, entry: LayerPlan | None, where: str) -> Stored:
        assert entry is not None and entry.output is not None
        if layer.op not in PRODUCERS:
            raise PlanError(
                f"the result of {layer.op} cannot be quantized anew",
                where=where,
                hint=f"operators that can: {', '.join(PRODUCERS)}",
            )
        if original in self.results:
            raise PlanError("the model's output keeps its quantization", where=where)
        per_byte = 8 // entry.output.bits
        if layer.output.shape[-1] % per_byte:
            raise PlanError(
                f"{layer.output.shape[-1]} channels at {entry.output.bits} bits do not end on a byte",
                where=where,
                hint=f"channels must be a multiple of {per_byte}",
            )
        stated = Quantization(float(np.float32(entry.output.scale)), entry.output.zero_point)
        return Stored(stated, entry.output.bits)

    def _writer(self, reader: Expr) -> str:
        source = next(_source(x) for x in _operands(reader) if x in self.changed)
        return self.layers[source].name if source in self.layers else op_name(source)


def _unreadable(op: str, writer: str, layer: str = "") -> PlanError:
    return PlanError(
        f"{op} reads it and takes 8 bits as in the model only",
        where=f'plan: output of layer "{writer}"' + (f', read by "{layer}"' if layer else ""),
        hint='remove "output" from that layer of the plan',
    )


def _check_weights(layer: Layer, entry: LayerPlan, where: str) -> None:
    if layer.weights is None:
        raise PlanError(f"{layer.op} has no weights", where=where, hint='remove "weights"')
    if layer.weight_zero_point != 0:
        raise PlanError("its weights have a zero point: they stay at 8 bits", where=where)
    channels = layer.output.shape[-1]
    if len(entry.weight_bits) != channels:
        raise PlanError(f'"weights" covers {len(entry.weight_bits)} output channels, there are {channels}', where=where)


def _operands(call: Expr) -> list[Expr]:
    return [leaf for arg in call.args for leaf in (arg.fields if isinstance(arg, relay.Tuple) else [arg])]


def _source(expr: Expr) -> Expr:
    while op_name(expr) in RESHAPES:
        expr = expr.args[0]
    return expr


def LowerMixedPrecision(plan: Plan, parameters: Parameters | None = None) -> Any:  # noqa: N802 (named like TVM's)
    """Pass: a partitioned module gets the plan's bit-widths; one without any passes unchanged.

    Args:
        plan: entries with ``weights`` or ``output``.
        parameters: integers of all weights; None: those nearest to the module's.

    Raises:
        PlanError: the plan does not fit the module: an unknown layer, bits where they cannot be, wrong sizes.
    """

    def run(mod: Any) -> Any:
        if not plan.is_mixed and parameters is None:
            return mod
        function = mod["main"]
        sites = read_sites(function)
        plan.check_layers(layer_ops(sites), joined=False)
        if parameters is not None:
            parameters.check((site.layer for site in sites), {entry.name: entry.weight_bits for entry in plan.layers})
        return with_main(mod, rebuild(function, _Lowering(function, plan, parameters).run(function)))

    return module_pass("LowerMixedPrecision", run)
