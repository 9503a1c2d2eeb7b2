"""A partitioned module as a TFLite graph of operators that take their parameters at run time: no generated code.

Operators that may meet weights or feature maps below 8 bits are ours throughout, functions of one int8 tensor are
tables; the rest is TFLM's own. Convolutions run the fast kernels that need no specialisation, on maps unpacked to int8.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rqdkm.models.graph import TensorInfo
from rqdkm.tflm.generated import Converted, unsupported
from rqdkm.tflm.nodes import Nodes, feature_map
from rqdkm.tflm.portable_operators import WRITERS, Options, map_bits
from rqdkm_tvm.errors import PlanError, UnsupportedOperatorError
from rqdkm_tvm.graph import RESHAPES, calls, op_name, outputs
from rqdkm_tvm.kernels.unary_tables import TABLES, unary_table
from rqdkm_tvm.layer import Layer
from rqdkm_tvm.offload.base import shape_of
from rqdkm_tvm.sites import IoTensor, read_sites

Expr = Any

TABLE = "RQDKM_TABLE"


def convert(mod: Any, name: str, interface: tuple[list[IoTensor], list[IoTensor]]) -> Converted:
    """The graph of a partitioned module with the plan's bit-widths (types inferred).

    Args:
        interface: inputs and outputs.

    Raises:
        UnsupportedOperatorError: an operator that neither we nor TFLM run.
        PlanError: a patch stage.
    """
    function = mod["main"]
    layers = {site.call: site.layer for site in read_sites(function)}
    nodes = Nodes()
    for var, item in zip(function.params, interface[0], strict=True):
        nodes.add(feature_map(item.name, item.tensor), var)
    for call in calls(function):
        if op_name(call) in RESHAPES:
            nodes.values[call] = _reshaped(nodes, call)
            continue
        layer = layers.get(call)
        if layer is None:
            raise unsupported(call)
        if layer.stage is not None:
            raise PlanError(
                "a patch stage exists as generated code only", where="--portable", hint="leave out --portable"
            )
        operands = [nodes.values.setdefault(x, -1) for x in _flat(call.args)]
        for position, expr in enumerate(_flat(call.args)):
            if operands[position] < 0:
                operands[position] = nodes.values[expr] = nodes.constant(expr.data.numpy(), f"{layer.name}/operand")
        result = nodes.add(feature_map(layer.name, layer.output), call)
        append(nodes, layer, operands, result)
    results = [nodes.values[expr] for expr in outputs(function)]
    for index, expr, item in zip(results, outputs(function), interface[1], strict=True):
        nodes.declare(index, item.name, shape_of(expr))
    graph = nodes.graph(name, [nodes.values[var] for var in function.params], results)
    return Converted(graph, tuple(nodes.needs))


def _flat(args: Any) -> list[Expr]:
    return [leaf for arg in args for leaf in (arg.fields if hasattr(arg, "fields") else [arg])]


def _reshaped(nodes: Nodes, call: Expr) -> int:
    """Our operators mind no shapes, so a packed map needs no copy; TFLM's do."""
    source = nodes.values[call.args[0]]
    tensor = nodes.tensors[source]
    shape = shape_of(call)
    if math.prod(shape) != tensor.size or tuple(shape) == tensor.shape:
        return source  # packed
    result = nodes.add(TensorInfo(f"{tensor.name}/reshaped", shape, tensor.dtype, tensor.quantization))
    nodes.builtin("RESHAPE", [source], result, {})
    return result


def append(nodes: Nodes, layer: Layer, operands: list[int], result: int) -> None:
    """Append ``layer``, which reads the tensors ``operands`` and writes ``result``.

    Raises:
        UnsupportedOperatorError: there is no portable operator for it.
    """
    write = WRITERS.get(layer.op)
    if layer.op in TABLES:
        values: Options = {"count": layer.output.size, "bits": map_bits(layer)}
        table = nodes.constant(unary_table(layer), f"{layer.name}/table")
        nodes.custom(TABLE, layer.name, values, [*operands, table], result)
    elif write is not None:
        write(nodes, layer, operands, result)
    elif layer.op in _BUILTINS:
        op, attrs = _BUILTINS[layer.op]
        nodes.builtin(op, operands, result, {key: layer.attrs[key] for key in attrs})
    else:
        raise UnsupportedOperatorError(f"there is no portable {layer.op}", where=f"layer {layer.name!r}")


# TFLM's own, and the attributes that they take
_BUILTINS: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "softmax": ("SOFTMAX", ("beta",)),
    "concatenate": ("CONCATENATION", ("axis",)),
    "quantize": ("QUANTIZE", ()),
    "dequantize": ("DEQUANTIZE", ()),
}
