"""Checked model bytes -> Relay, through TVM's own importers, with what they lack added from outside.

``relay.frontend.from_tflite`` takes the converter class as an argument; :class:`Converter` is ours. It differs in

* fully connected layers with one weight scale per output channel (TVM 0.19 asserts that there is only one),
* morphing layers (:data:`rqdkm.models.morph_file.SELECT`),
* the clamp of a fused activation, rounded as TFLite does (float32 division, ties away from zero),
* errors, which name the layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import tflite
import tvm
from tvm import relay
from tvm.relay.frontend.tflite import OperatorConverter

from rqdkm.models.fixedpoint import activation_range
from rqdkm.models.graph import SELECT, Graph, Operator, layer_names, shortened
from rqdkm_tvm.errors import ModelError, UnsupportedOperatorError
from rqdkm_tvm.graph import Rewriter, rebuild
from rqdkm_tvm.morph.gather import select


def supported_operators() -> frozenset[str]:
    """Operators that TVM's importer knows, and ours."""
    return frozenset(OperatorConverter(None, None, None).convert_map) | {SELECT}


def check_supported(graph: Graph, where: str) -> None:
    """Raise :class:`UnsupportedOperatorError` for the first operator that nothing here can import."""
    known = supported_operators()
    for operator, layer in zip(graph.operators, layer_names(graph), strict=True):
        if operator.op not in known:
            raise UnsupportedOperatorError(
                f"operator {operator.op} is not supported",
                where=f"{where}: layer {layer!r}, tensor {shortened(graph.tensors[operator.outputs[0]].name)!r}",
                hint="replace it in the model, or leave that part to your application and export up to it",
            )


def from_tflite(data: bytes, graph: Graph, where: str) -> tvm.IRModule:
    """Import a checked model.

    Args:
        data: FlatBuffer with int8 (or float) inputs and outputs.
        graph: the same model as read from ``data``.
        where: the file, for messages.

    Returns:
        A type-checked module whose ``main`` has one parameter per model input (named by :func:`identifiers`), the
        weights as constants, and the layer's name (:func:`rqdkm.models.graph.layer_names`) as span on every call.

    Raises:
        ModelError, UnsupportedOperatorError: whatever the importer does not accept, with the layer's name.
    """
    names = layer_names(graph)

    class Named(Converter):
        """The converter, knowing where it is."""

        layers = names
        operators = graph.operators
        file = where

    try:
        module, params = relay.frontend.from_tflite(tflite.Model.GetRootAs(data, 0), op_converter=Named)
        module = _finish(module, params, [graph.tensors[i].name for i in graph.inputs])
    except ModelError as error:
        error.where = error.where or where
        raise
    except Exception as error:  # the importer raises everything from AssertionError to TVMError
        raise ModelError(
            f"TVM cannot import the model: {last_line(error)}", where=where, hint="please report this model"
        ) from error
    _check_outputs(module, graph, where)
    return _with_layer_names(module, graph)


class _Renaming(Rewriter):
    """Spans that hold TFLite's tensor name get the layer's short name."""

    def __init__(self, short: Mapping[str, str]) -> None:
        super().__init__()
        self.short = short

    def rewrite(self, call: Any, original: Any) -> Any:
        name = self.short.get(self._tensor(original.span), "")
        if not name:
            return call
        span = tvm.relay.Span(tvm.relay.SourceName(name), 0, 0, 0, 0)
        return relay.Call(call.op, call.args, call.attrs, call.type_args, span)

    @staticmethod
    def _tensor(span: Any) -> str:
        while isinstance(span, tvm.relay.SequentialSpan) and len(span.spans):
            span = span.spans[0]
        return str(span.source_name.name) if span is not None and hasattr(span, "source_name") else ""


def _with_layer_names(module: tvm.IRModule, graph: Graph) -> tvm.IRModule:
    short = {
        graph.tensors[operator.outputs[0]].name: name
        for operator, name in zip(graph.operators, layer_names(graph), strict=True)
    }
    function = module["main"]
    module["main"] = rebuild(function, _Renaming(short).run(function))
    renamed: tvm.IRModule = relay.transform.InferType()(module)
    return renamed


def identifiers(names: list[str]) -> list[str]:
    """C identifiers for tensor names, unique, in the same order."""
    found: list[str] = []
    for name in names:
        base = re.sub(r"\W+", "_", name, flags=re.ASCII).strip("_") or "tensor"
        base = f"t_{base}" if base[0].isdigit() else base
        unique, again = base, 1
        while unique in found:
            again += 1
            unique = f"{base}_{again}"
        found.append(unique)
    return found


def last_line(error: BaseException) -> str:
    """The line of a TVM error that says what happened (its text is mostly a C++ backtrace)."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    checks = [line for line in lines if "Check failed" in line or "error:" in line.lower()]
    chosen = (checks or lines or [type(error).__name__])[-1]
    return re.sub(r"\x1b\[[0-9;]*m", "", chosen)[:300]


def _finish(module: tvm.IRModule, params: dict[str, Any], inputs: list[str]) -> tvm.IRModule:
    """Constants in, parameters in the order of the model's inputs and named as C wants, types checked."""
    function = relay.build_module.bind_params_by_name(module["main"], params)
    by_name = {var.name_hint: var for var in function.params}
    fresh = []
    binding = {}
    for name, safe in zip(inputs, identifiers(inputs), strict=True):
        old = by_name.pop(name, None)
        if old is None:
            raise ModelError(f"input {name!r} is not used by any layer", hint="export the model without it")
        new = relay.var(safe, old.type_annotation)
        binding[old] = new
        fresh.append(new)
    body = relay.bind(function.body, binding)
    module = tvm.IRModule.from_expr(relay.Function(fresh, body))
    return relay.transform.InferType()(module)


def _check_outputs(module: tvm.IRModule, graph: Graph, where: str) -> None:
    kind = module["main"].checked_type.ret_type
    kinds = list(kind.fields) if isinstance(kind, tvm.ir.TupleType) else [kind]
    for index, found in zip(graph.outputs, kinds, strict=True):
        tensor = graph.tensors[index]
        shape = tuple(d.value if isinstance(d, tvm.tir.IntImm) else -1 for d in found.shape)
        if -1 in shape:
            raise ModelError(
                f"the shape of output {shortened(tensor.name)!r} depends on the input's values", where=where
            )
        if shape != tensor.shape or found.dtype != tensor.dtype:
            raise ModelError(
                f"output {shortened(tensor.name)!r} is {tensor.dtype} {tensor.shape} in the file, "
                f"but its layers compute {found.dtype} {shape}",
                where=where,
                hint="the file is damaged; export it again",
            )


class Converter(OperatorConverter):  # type: ignore[misc]
    """TVM's TFLite converter with the additions named in the module's docstring."""

    layers: list[str] = []  # noqa: RUF012 - set by from_tflite's subclass
    operators: tuple[Operator, ...] = ()
    file = ""
    convert_map: dict[str, Callable[[Any], Any]]

    def __init__(self, model: Any, subgraph: Any, exp_tab: Any) -> None:
        super().__init__(model, subgraph, exp_tab)
        self._position = 0
        self.convert_map[SELECT] = self.convert_select
        self.convert_map = {name: self._named(name, convert) for name, convert in self.convert_map.items()}

    def _named(self, name: str, convert: Callable[[Any], Any]) -> Callable[[Any], Any]:
        def run(op: Any) -> Any:
            layer = self.layers[self._position] if self._position < len(self.layers) else "?"
            self._position += 1  # operators are converted once each, in file order
            try:
                return convert(op)
            except ModelError:
                raise
            except Exception as error:  # AssertionError, OpNotImplemented, TVMError, ...
                raise UnsupportedOperatorError(
                    f"TVM cannot import this operator: {last_line(error)}",
                    where=f"{self.file}: layer {layer!r} ({name})",
                    hint="replace the layer, or its options, in the model",
                ) from error

        return run

    def get_op_code_str(self, op: Any) -> str:
        """As TVM's, which refuses custom operators."""
        code = self.model.OperatorCodes(op.OpcodeIndex())
        if code.BuiltinCode() == tflite.BuiltinOperator.CUSTOM and code.CustomCode() == SELECT.encode():
            return SELECT
        return str(super().get_op_code_str(op))

    def convert_select(self, op: Any) -> Any:
        """Results of a morphing layer's kernels -> :func:`rqdkm_tvm.morph.gather.select`."""
        paths = [self.get_tensor_expr(tensor) for tensor in self.get_input_tensors(op)]
        return select(paths, int(self.operators[self._position - 1].attrs["safe"]))

    def convert_qnn_fused_activation_function(
        self, expr: Any, fused_activation_fn: int, scale: float, zero_point: int, dtype: str
    ) -> Any:
        """Clamp to the activation's range in output units, TFLite's ``CalculateActivationRangeQuantized``."""
        name = self.activation_fn_type[fused_activation_fn]
        if name == "NONE":
            return expr
        if name not in ("RELU", "RELU6", "RELU_N1_TO_1") or dtype != "int8":
            raise tvm.error.OpNotImplemented(f"fused activation {name} on {dtype}")
        low, high = activation_range(name, scale, zero_point)
        return relay.clip(expr, a_min=low, a_max=high)

    def convert_fully_connected(self, op: Any) -> Any:
        """As TVM's, but with ``requantize`` per output channel where the weights have a scale each."""
        tensors = self.get_input_tensors(op)
        data, weights = tensors[0], tensors[1]
        if not data.qnn_params or weights.qnn_params["scale"].data.numpy().size == 1:
            return super().convert_fully_connected(op)
        out_tensor = self.get_output_tensors(op)[0]
        options = tflite.FullyConnectedOptions()
        options.Init(op.BuiltinOptions().Bytes, op.BuiltinOptions().Pos)
        units, depth = (int(d) for d in self.get_tensor_shape(weights))
        scale_in, scale_w = data.qnn_params["scale"], weights.qnn_params["scale"]
        out = relay.qnn.op.dense(
            relay.reshape(self.get_tensor_expr(data), (-1, depth)),
            self.get_tensor_expr(weights),
            input_zero_point=data.qnn_params["zero_point"],
            kernel_zero_point=weights.qnn_params["zero_point"],
            input_scale=scale_in,
            kernel_scale=scale_w,
            units=units,
            out_dtype="int32",
        )
        if len(tensors) == 3 and tensors[2].tensor_idx != -1:
            out = relay.nn.bias_add(out, self.get_tensor_expr(tensors[2]))
        out_scale, out_zero = out_tensor.qnn_params["scale"], out_tensor.qnn_params["zero_point"]
        out = relay.qnn.op.requantize(
            out,
            input_scale=relay.const(scale_in.data.numpy() * scale_w.data.numpy(), "float32"),
            input_zero_point=relay.const(0, "int32"),
            output_scale=out_scale,
            output_zero_point=out_zero,
            axis=1,
            out_dtype="int8",
        )
        out = self.convert_qnn_fused_activation_function(
            out, options.FusedActivationFunction(), out_scale.data.numpy().item(), out_zero.data.numpy().item(), "int8"
        )
        shape = [int(d) for d in self.get_tensor_shape(out_tensor)]
        return relay.reshape(out, shape) if len(shape) != 2 else out
