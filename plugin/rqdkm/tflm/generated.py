"""A compiled model as a TFLite graph whose nodes run the generated code of its layers.

Every layer call of the lowered module becomes one node: its feature maps, its constants in the kernel's own layout, and
the fingerprint of its code. The code is the text that the firmware has, in wrappers that take pointers in an array.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt

from rqdkm.models.graph import Graph, TensorInfo
from rqdkm.tflm.nodes import TYPES, Need, Nodes, feature_map
from rqdkm_tvm.compile import CompiledModel
from rqdkm_tvm.errors import UnsupportedOperatorError
from rqdkm_tvm.graph import RESHAPES, calls, op_name, outputs, source_name
from rqdkm_tvm.in_place import operand_of
from rqdkm_tvm.offload.base import shape_of
from rqdkm_tvm.operators import LoweredLayer, is_layer_call

Array = npt.NDArray[Any]
Expr = Any

# operators with a name of their own; the others are run as RQDKM_LAYER
NAMES = {
    "conv2d": "RQDKM_CONV_2D",
    "depthwise_conv2d": "RQDKM_DEPTHWISE_CONV_2D",
    "fully_connected": "RQDKM_FULLY_CONNECTED",
    "patch_stage": "RQDKM_PATCH_STAGE",
    "morph_conv2d": "RQDKM_MORPH_CONV_2D",
    "add": "RQDKM_ADD",
    "mul": "RQDKM_MUL",
    "avg_pool2d": "RQDKM_AVERAGE_POOL_2D",
    "max_pool2d": "RQDKM_MAX_POOL_2D",
    "mean": "RQDKM_MEAN",
    "pad": "RQDKM_PAD",
    "clip": "RQDKM_CLIP",
}
OTHER = "RQDKM_LAYER"


@dataclass(frozen=True)
class LayerCode:
    """One function of rqdkm_layers.c. ``operands`` are (bytes, type of the schema): maps, constants, result.

    ``absent`` maps are no tensors: the application hands over the model's input region by region.
    """

    code: int  # signed 64-bit
    layer: LoweredLayer
    operands: tuple[tuple[int, int], ...]
    absent: int = 0

    @property
    def maps(self) -> int:
        return self.layer.tensors - self.absent

    @property
    def constants(self) -> int:
        return len(self.operands) - 1 - self.maps


@dataclass(frozen=True)
class Converted:
    """A model for TFLM; ``needs`` by operator."""

    graph: Graph
    needs: tuple[Need, ...]
    codes: tuple[LayerCode, ...] = ()


def convert(compiled: CompiledModel, name: str) -> Converted:
    """The graph, and the code of its layers, each once.

    Raises:
        UnsupportedOperatorError: an operator that no kernel of ours runs.
    """
    function = compiled.module["main"]
    nodes = Nodes()
    params = [] if compiled.fetched else list(zip(function.params, compiled.inputs, strict=True))
    fetched = set(function.params) if compiled.fetched else set()
    for var, item in params:
        nodes.add(feature_map(item.name, item.tensor), var)
    found: dict[int, LayerCode] = {}
    layers = iter(compiled.layers)
    for call in calls(function):
        if op_name(call) in RESHAPES:
            nodes.values[call] = _value(nodes, call.args[0])
            continue
        if not is_layer_call(call):
            raise unsupported(call)
        layer = next(layers)
        lowered = layer.lowered
        maps = [arg for arg in call.args[: lowered.tensors] if arg not in fetched]
        operands = [_value(nodes, arg) for arg in maps]
        constants = enumerate(call.args[lowered.tensors :])
        operands += [nodes.constant(arg.data.numpy(), f"{layer.name}/{i}") for i, arg in constants]
        result = nodes.add(feature_map(layer.layer.title, layer.layer.stored, shape_of(call)), call)
        tensors = [nodes.tensors[index] for index in (*operands, result)]
        code = layer_code(lowered, tensors, absent=lowered.tensors - len(maps))
        found.setdefault(code.code, code)
        need = Need(lowered.scratch_bytes, operand_of(lowered.config))
        nodes.custom(NAMES.get(lowered.op, OTHER), layer.layer.title, {"code": code.code}, operands, result, need)
    results = [nodes.values[expr] for expr in outputs(function)]
    for index, expr, item in zip(results, outputs(function), compiled.outputs, strict=True):
        nodes.declare(index, item.name, shape_of(expr))
    inputs = [nodes.values[var] for var, _ in params]
    return Converted(nodes.graph(name, inputs, results), tuple(nodes.needs), tuple(found.values()))


def layer_code(layer: LoweredLayer, tensors: Sequence[TensorInfo], absent: int = 0) -> LayerCode:
    """The code of a layer that reads and writes ``tensors``: maps (but the first ``absent``), constants, result."""
    types = tuple((tensor.bytes, TYPES[tensor.dtype]) for tensor in tensors)
    arrays = [tensor.data for tensor in tensors[layer.tensors - absent : -1]]
    return LayerCode(_fingerprint(layer, types, arrays), layer, types, absent)


def unsupported(call: Expr) -> UnsupportedOperatorError:
    """For an operator that the compiler leaves to TVM."""
    what = op_name(call) or "an operator"
    return UnsupportedOperatorError(
        f"{what} has no kernel of rqdkm's, and TFLM cannot run what TVM compiles",
        where=f"layer {source_name(call)!r}",
        hint="rqdkm inspect lists the operators; rqdkm deploy runs this model",
    )


def _value(nodes: Nodes, expr: Expr) -> int:
    if expr in nodes.values:
        return nodes.values[expr]
    nodes.values[expr] = nodes.constant(expr.data.numpy(), "constant")  # the second operand of an addition, say
    return nodes.values[expr]


def _fingerprint(layer: LoweredLayer, types: Sequence[tuple[int, int]], arrays: Sequence[Array | None]) -> int:
    """Of everything that decides what the function computes: its text holds what was proven of the constants."""
    parts = [layer.prelude, layer.body, ",".join(layer.includes), repr((types, layer.scratch_bytes))]
    digest = hashlib.sha256("\0".join(parts).encode())
    for array in arrays:
        assert array is not None  # a constant
        digest.update(array.tobytes())
    return int.from_bytes(digest.digest()[:8], "little", signed=True)


# ---- text


_HEAD = """\
/* Generated by rqdkm: the layers of {name}, for the TFLM operators of tflm_ops. The kernels and parameters are those of
   rqdkm's own firmware for this model; constants are in the .tflite file. */
#include <stdint.h>
{includes}

/* give it to rqdkm_add_layers before the interpreter allocates tensors */
extern rqdkm_layer_library {symbol};
"""


_PATCH_FUNCTION = re.compile(r"\b(rqdkm_patch_(?:part|program))_(?=\d)")


def source(codes: Sequence[LayerCode], name: str, symbol: str) -> str:
    """Text of rqdkm_layers.c, which defines the library ``symbol``."""
    includes = sorted({"rqdkm/layer_code.h", *(include for code in codes for include in code.layer.includes)})
    text = _HEAD.format(name=name, symbol=symbol, includes="\n".join(f'#include "{i}"' for i in includes))
    text += "".join(_function(index, code) for index, code in enumerate(codes))
    text += "\nstatic const rqdkm_layer_code layers[] = {\n"
    for index, code in enumerate(codes):
        counts = f"{code.maps}, {code.constants}, {code.layer.scratch_bytes}u"
        text += f"    {{0x{code.code & (1 << 64) - 1:016x}u, {counts}, operands_{index}, run_{index}}},\n"
    return f"{text}}};\n\nrqdkm_layer_library {symbol} = {{layers, {len(codes)}, 0}};\n"


def _function(index: int, code: LayerCode) -> str:
    layer = code.layer
    names = [f"in{i}" for i in range(layer.tensors)] + [f"c{i}" for i in range(code.constants)]
    parameters = [f"const void *{name}" for name in names] + ["void *out"]
    given = len(names) - code.absent
    arguments = ["0"] * code.absent + [f"inputs[{i}]" for i in range(given)] + ["result"]
    unused = "" if given else "  (void)inputs;\n"
    if layer.scratch_bytes:
        parameters.append("void *scratch")
        arguments.append("scratch")
    else:
        unused += "  (void)scratch;\n"
    operands = ", ".join(f"{{{size}, {kind}}}" for size, kind in code.operands)
    comment = layer.name.replace("*/", "* /")
    # functions of patch stages are numbered per stage: a file may hold several
    prelude, body = (_PATCH_FUNCTION.sub(rf"\g<1>_{index}_", text) for text in (layer.prelude, layer.body.rstrip()))
    return f"""
{prelude}/* {comment}: {layer.kernel} */
static inline int32_t layer_{index}({", ".join(parameters)}) {{
{body}
}}
static int32_t run_{index}(const void *const *inputs, void *result, void *scratch) {{
{unused}  return layer_{index}({", ".join(arguments)});
}}
static const rqdkm_operand operands_{index}[] = {{{operands}}};
"""
