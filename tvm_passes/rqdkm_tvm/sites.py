"""The layers of a partitioned module: composite calls parsed, with the quantization of every tensor known."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rqdkm_tvm.boundary import recorded_io
from rqdkm_tvm.graph import LAYER_ATTR, RESHAPES, bits_of, calls, layer_name, op_name, outputs
from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.offload import fused_parts, parse
from rqdkm_tvm.offload.base import Draft, Quantization, constant, dtype_of, is_scalar, shape_of
from rqdkm_tvm.tvm_import import relay, tvm

Expr = Any

# operators of TVM that keep the values of their first argument, hence its quantization
_SAME_QUANTIZATION = (
    *RESHAPES,
    "transpose",
    "strided_slice",
    "nn.max_pool2d",
    "nn.pad",
    "clip",
    "nn.relu",
    "copy",
    "tile",
    "repeat",
    "split",
    "concatenate",
    "image.resize2d",
    "nn.upsampling",
    "nn.depth_to_space",
    "nn.space_to_depth",
    "reverse",
    "take",
    "max",
    "min",
)
# position of (scale, zero point) of the result
_RESULT_QUANTIZATION = {
    "qnn.quantize": (1, 2),
    "qnn.requantize": (3, 4),
    "qnn.add": (6, 7),
    "qnn.subtract": (6, 7),
    "qnn.mul": (6, 7),
    "qnn.concatenate": (3, 4),
}


@dataclass(frozen=True)
class Site:
    """One layer and the call it stands for in the partitioned main function."""

    call: Expr
    layer: Layer

    @property
    def name(self) -> str:
        return self.layer.name

    @property
    def names(self) -> tuple[str, ...]:
        """Of the layer, and of those that are computed with it."""
        epilogue, parts = self.layer.epilogue, self.layer.parts
        if parts:
            return (self.layer.name, *(part.name for part in parts))
        return (self.layer.name,) if epilogue is None else (self.layer.name, epilogue.name)


@dataclass(frozen=True)
class IoTensor:
    """An input or output of the model as the chip sees it."""

    name: str
    tensor: Tensor
    stripped: bool  # the model's own interface is float32; the host quantizes

    @property
    def bytes(self) -> int:
        width = {"float32": 4, "int32": 4, "int64": 8, "int16": 2, "float64": 8}.get(self.tensor.dtype, 1)
        return self.tensor.size * width


class QuantizationMap:
    """Quantization of every int8 tensor of a function, spread from the operators that state it to those that do not."""

    def __init__(self, function: Expr) -> None:
        self.known: dict[Expr, Quantization] = {}
        self.drafts: dict[Expr, Draft] = {}
        order = list(calls(function))
        for call in order:
            draft = parse(call)
            if draft is not None:
                self.drafts[call] = draft
        record = recorded_io(function)
        for index, quantization in record["inputs"].items():
            self.known[function.params[index]] = quantization
        for index, quantization in record["outputs"].items():
            self._set(outputs(function)[index], quantization)
        for call in order:
            self._state(call)
        # every pass carries knowledge at least one operator further; two directions make it end quickly
        while any([self._spread(call) for call in order] + [self._spread(call) for call in reversed(order)]):
            pass

    def _set(self, expr: Expr, quantization: Quantization | None) -> bool:
        if quantization is None or expr in self.known:
            return False
        self.known[expr] = quantization
        return True

    def _state(self, call: Expr) -> None:
        """What an operator says itself."""
        draft = self.drafts.get(call)
        if draft is not None:
            for arg, quantization in zip(_operands(call), draft.inputs, strict=True):
                self._set(arg, quantization)
            self._set(call, draft.output)
            return
        where = _RESULT_QUANTIZATION.get(op_name(call))
        if where is not None and dtype_of(call) == "int8":
            scale, zero_point = (call.args[i] for i in where)
            if isinstance(scale, relay.Constant) and is_scalar(scale) and isinstance(zero_point, relay.Constant):
                values = float(constant(scale).reshape(-1)[0]), int(constant(zero_point).reshape(-1)[0])
                self._set(call, Quantization(*values))
        if op_name(call) == "qnn.dequantize" and isinstance(call.args[1], relay.Constant) and is_scalar(call.args[1]):
            zero_point = int(constant(call.args[2]).reshape(-1)[0])
            self._set(call.args[0], Quantization(float(constant(call.args[1]).reshape(-1)[0]), zero_point))

    def _spread(self, call: Expr) -> bool:
        draft = self.drafts.get(call)
        same = draft.passes_through if draft is not None else op_name(call) in _SAME_QUANTIZATION
        if not same or not call.args:
            return False
        operands = _operands(call)
        source = next((self.known[o] for o in operands if o in self.known), None)
        changed = self._set(call, source)
        for operand in operands[:1]:
            changed |= self._set(operand, self.known.get(call))
        return changed

    def tensor(self, expr: Expr) -> Tensor:
        return _tensor(expr, self.known.get(expr))


def _tensor(expr: Expr, quantization: Quantization | None) -> Tensor:
    known = quantization or Quantization(1.0, 0)
    return Tensor(shape_of(expr), dtype_of(expr), known.scale, known.zero_point, bits_of(expr)[0])


def _operands(call: Expr) -> list[Expr]:
    found: list[Expr] = []
    for arg in call.args:
        found.extend(arg.fields if isinstance(arg, relay.Tuple) else [arg])
    return found


class _Composite:
    """A composite function as a key: equal when structure, constants and layer name are."""

    def __init__(self, function: Expr) -> None:
        self.function = function
        self.hash = int(tvm.ir.structural_hash(function))

    def __hash__(self) -> int:
        return self.hash

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, _Composite):
            return NotImplemented
        return self.hash == other.hash and bool(tvm.ir.structural_equal(self.function, other.function))


_layers: OrderedDict[tuple[_Composite, tuple[Tensor, ...], Tensor], Layer] = OrderedDict()
_KEPT = 512


def _layer(call: Expr, draft: Draft, inputs: tuple[Tensor, ...], output: Tensor) -> Layer:
    """The same object for the same layer in every pass, so that kernels may remember what they worked out for it."""
    key = (_Composite(call.op), inputs, output)
    if key not in _layers:
        if len(_layers) >= _KEPT:
            _layers.popitem(last=False)
        stored, epilogue = output, None
        if draft.epilogue is not None:
            producer, follower = fused_parts(call.op)
            output = _tensor(producer, draft.epilogue.inputs[0])
            operands = (output, *inputs[1:])
            epilogue = Layer(layer_name(follower), draft.epilogue.op, operands, stored, draft.epilogue.attrs)
        _layers[key] = Layer(
            name=str(call.op.attrs[LAYER_ATTR]),
            op=draft.op,
            inputs=inputs,
            output=output,
            attrs=draft.attrs,
            weights=draft.weights,
            weight_scales=draft.weight_scales,
            weight_zero_point=draft.weight_zero_point,
            bias=draft.bias,
            weight_bits=bits_of(call)[1],
            epilogue=epilogue,
            stage=draft.stage,
            library=draft.library,
        )
    _layers.move_to_end(key)
    return _layers[key]


def read_sites(function: Expr) -> list[Site]:
    """Every layer of a partitioned main function (types inferred), in execution order."""
    quantization = QuantizationMap(function)
    found = []
    for call in calls(function):
        draft = quantization.drafts.get(call)
        if draft is None:
            continue
        inputs = tuple(quantization.tensor(arg) for arg in _operands(call))
        found.append(Site(call, _layer(call, draft, inputs, quantization.tensor(call))))
    return found


def layer_ops(sites: Iterable[Site]) -> dict[str, str]:
    """Operator by name, of the layers and of those that are computed with them."""
    found = {}
    for site in sites:
        found[site.layer.name] = site.layer.op
        found |= {part.name: part.op for part in site.layer.parts}
        if site.layer.epilogue is not None:
            found[site.layer.epilogue.name] = site.layer.epilogue.op
    return found


def read_io(function: Expr, output_names: list[str]) -> tuple[list[IoTensor], list[IoTensor]]:
    """Inputs and outputs of a partitioned main function with their quantization."""
    quantization = QuantizationMap(function)
    record = recorded_io(function)
    ins = [
        IoTensor(str(var.name_hint), quantization.tensor(var), index in record["inputs"])
        for index, var in enumerate(function.params)
    ]
    outs = []
    for index, expr in enumerate(outputs(function)):
        name = output_names[index] if index < len(output_names) else f"output{index}"
        outs.append(IoTensor(name, quantization.tensor(expr), index in record["outputs"]))
    return ins, outs
