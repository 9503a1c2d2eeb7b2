"""``.onnx`` bytes -> checked Relay module in NHWC, through ``relay.frontend.from_onnx``.

Works with float models of static shape. The importer of TVM 0.19 knows operator sets up to about 18; newer models are
first brought down to 18 by ONNX's own version converter. It also wants ``onnx.mapping``, a module that ONNX dropped in
1.17; an equivalent table stands in for it while the importer runs.
"""

from __future__ import annotations

import contextlib
import sys
import types
from collections.abc import Iterator
from typing import Any

import onnx
import onnx.checker
import onnx.helper
import onnx.version_converter
import tvm
from tvm import relay

from rqdkm.models.graph import TensorInfo
from rqdkm.models.relay_import import identifiers, last_line
from rqdkm_tvm.errors import ModelError, UnsupportedOperatorError

MIN_OPSET, MAX_OPSET = 7, 18

# ONNX operators that end in something from_relay knows; checked first, so that the message can name the node
OPERATORS = frozenset(
    """Add AveragePool BatchNormalization Cast Clip Concat Constant ConstantOfShape Conv Div Dropout Flatten Gather Gemm
    GlobalAveragePool GlobalMaxPool Identity LeakyRelu MatMul MaxPool Mul Pad ReduceMean Relu Reshape Shape Sigmoid
    Slice Softmax Squeeze Sub Tanh Transpose Unsqueeze""".split()  # noqa: SIM905 - thirty quoted words read worse
)
_QUANTIZED = ("QuantizeLinear", "DequantizeLinear", "QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger")

_LAYOUTS = {
    "nn.conv2d": ["NHWC", "default"],
    "nn.max_pool2d": ["NHWC"],
    "nn.avg_pool2d": ["NHWC"],
    "nn.global_avg_pool2d": ["NHWC"],
    "nn.global_max_pool2d": ["NHWC"],
}


def import_onnx(data: bytes, where: str) -> tuple[tvm.IRModule, list[TensorInfo], list[TensorInfo]]:
    """Check and import.

    Returns:
        Relay module (batch norm folded, convolutions NHWC; its parameters are still in the file's layout), and the
        file's inputs and outputs.

    Raises:
        ModelError, UnsupportedOperatorError: with the node's name.
    """
    model = _parse(data, where)
    model = _supported_opset(model, where)
    _check_operators(model, where)
    inputs = _inputs(model, where)
    safe = identifiers([tensor.name for tensor in inputs])
    try:
        with _onnx_mapping():
            module, params = relay.frontend.from_onnx(
                model, shape={t.name: t.shape for t in inputs}, freeze_params=True
            )
        if params:
            module["main"] = relay.build_module.bind_params_by_name(module["main"], params)
        module = _simplify(module)
    except Exception as error:  # the importer raises everything from AssertionError to TVMError
        raise ModelError(
            f"TVM cannot import the model: {last_line(error)}",
            where=where,
            hint="simplify it (onnxsim), or export it with fixed shapes and opset 13",
        ) from error
    by_name = {parameter.name_hint: parameter for parameter in module["main"].params}
    if set(by_name) != {tensor.name for tensor in inputs}:
        raise ModelError("an input is not used by any node", where=where, hint="export the model without it")
    fresh = [relay.var(s, by_name[t.name].checked_type) for s, t in zip(safe, inputs, strict=True)]
    body = relay.bind(module["main"].body, {by_name[t.name]: v for t, v in zip(inputs, fresh, strict=True)})
    module = relay.transform.InferType()(tvm.IRModule.from_expr(relay.Function(fresh, body)))
    return module, inputs, _outputs(model, module, where)


def _parse(data: bytes, where: str) -> Any:
    if not data:
        raise ModelError("the file is empty", where=where, hint="export or download the model again")
    try:
        model = onnx.load_model_from_string(data)
        onnx.checker.check_model(model)
    except Exception as error:  # protobuf's DecodeError, onnx's ValidationError, and what either has inside
        text = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise ModelError(
            f"this is not a valid ONNX model ({text[:200]})", where=where, hint="export or download it again"
        ) from error
    if not model.graph.node:
        raise ModelError("the model has no nodes", where=where, hint="there is nothing to deploy")
    return model


def _supported_opset(model: Any, where: str) -> Any:
    versions = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    version = versions[0] if versions else 1
    if version < MIN_OPSET:
        raise ModelError(
            f"operator set {version} is too old, at least {MIN_OPSET} is needed",
            where=where,
            hint="export the model again, e.g. torch.onnx.export(..., opset_version=13)",
        )
    if version <= MAX_OPSET:
        return model
    try:
        return onnx.version_converter.convert_version(model, MAX_OPSET)
    except Exception as error:
        raise ModelError(
            f"operator set {version} is newer than {MAX_OPSET} and cannot be converted ({last_line(error)})",
            where=where,
            hint="export the model with opset_version=13 to 18",
        ) from error


def _check_operators(model: Any, where: str) -> None:
    for number, node in enumerate(model.graph.node):
        here = f"{where}: node {node.name or f'{node.op_type}_{number}'!r}, output {list(node.output)[:1]}"
        if node.op_type in _QUANTIZED:
            raise UnsupportedOperatorError(
                f"operator {node.op_type}: ONNX models that are quantized already are not supported",
                where=here,
                hint="pass the float model with --calib, or an int8 .tflite",
            )
        if node.op_type not in OPERATORS or node.domain not in ("", "ai.onnx"):
            raise UnsupportedOperatorError(
                f"operator {node.op_type} is not supported",
                where=here,
                hint="replace it in the model, or leave that part to your application and export up to it",
            )


def _inputs(model: Any, where: str) -> list[TensorInfo]:
    constants = {tensor.name for tensor in model.graph.initializer}
    found = []
    for value in model.graph.input:
        if value.name in constants:
            continue
        kind = value.type.tensor_type
        here = f"{where}: input {value.name!r}"
        if kind.elem_type != onnx.TensorProto.FLOAT:
            name = onnx.TensorProto.DataType.Name(kind.elem_type)
            raise ModelError(f"its type is {name}, expected FLOAT", where=here, hint="export a float32 model")
        sizes = [d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim]
        if len(sizes) > 1 and sizes[0] == -1:
            sizes[0] = 1  # a free batch dimension is fixed to one input at a time
        if not sizes or any(size < 1 for size in sizes):
            shown = [d.dim_param or d.dim_value for d in kind.shape.dim]
            raise ModelError(
                f"its shape is dynamic: {shown}", where=here, hint="export the model with fixed input shapes"
            )
        if len(sizes) > 1 and sizes[0] != 1:
            raise ModelError(
                f"the batch size is {sizes[0]}, firmware runs one input at a time",
                where=here,
                hint="export the model with batch size 1",
            )
        found.append(TensorInfo(value.name, tuple(sizes), "float32"))
    if not found:
        raise ModelError("the model has no inputs", where=where)
    return found


def _outputs(model: Any, module: tvm.IRModule, where: str) -> list[TensorInfo]:
    kind = module["main"].checked_type.ret_type
    kinds = list(kind.fields) if isinstance(kind, tvm.ir.TupleType) else [kind]
    names = [value.name for value in model.graph.output]
    found = []
    for name, one in zip(names, kinds, strict=True):
        if any(not isinstance(d, tvm.tir.IntImm) for d in one.shape):
            raise ModelError(f"the shape of output {name!r} depends on the input's values", where=where)
        found.append(TensorInfo(name, tuple(int(d) for d in one.shape), one.dtype))
    return found


def _simplify(module: tvm.IRModule) -> tvm.IRModule:
    passes = [
        relay.transform.InferType(),
        relay.transform.DynamicToStatic(),
        # batch norm becomes a scale and an offset, which simplify() folds into weights. FoldScaleAxis would do that
        # too, but drops the convolutions' names; FoldConstant would compile every constant, from_relay computes them
        relay.transform.SimplifyInference(),
        relay.transform.ConvertLayout(_LAYOUTS),
        relay.transform.EliminateCommonSubexpr(),  # one layout change per tensor, not one per user
        relay.transform.InferType(),
    ]
    with tvm.transform.PassContext(opt_level=3):
        return tvm.transform.Sequential(passes)(module)


@contextlib.contextmanager
def _onnx_mapping() -> Iterator[None]:
    """Let ``from onnx.mapping import TENSOR_TYPE_TO_NP_TYPE`` work inside the block."""
    name = "onnx.mapping"
    try:
        __import__(name)
        yield
        return
    except ModuleNotFoundError:
        pass
    module = types.ModuleType(name)
    table = {}
    for kind in onnx.TensorProto.DataType.values():
        with contextlib.suppress(Exception):  # types without a NumPy equivalent
            table[kind] = onnx.helper.tensor_dtype_to_np_dtype(kind)
    module.TENSOR_TYPE_TO_NP_TYPE = table  # type: ignore[attr-defined]
    sys.modules[name] = module
    try:
        yield
    finally:
        sys.modules.pop(name, None)
