"""The C of a banded layer: the loop over bands; unpacking, finishing and packing around the kernel's own call."""

from __future__ import annotations

import re
from collections.abc import Mapping
from textwrap import indent

import numpy as np

from rqdkm_tvm.kernels.band_memory import Buffers
from rqdkm_tvm.kernels.band_parts import Part, Window, clamped, clamps
from rqdkm_tvm.kernels.registry import Elements, Rows
from rqdkm_tvm.layer import KernelCall, Layer, Tensor
from rqdkm_tvm.lowbit import integer_range


def whole_body(layer: Layer, part: Part, buffers: Buffers, steps: str) -> str:
    text = "".join(f"  const int8_t *const from{i} = (const int8_t *)in{i};\n" for i in range(len(layer.inputs)))
    text += "  int8_t *const to = (int8_t *)out;\n"
    text += "  int8_t *const memory = (int8_t *)scratch;\n" if buffers.bytes else ""
    text += "  int32_t status;\n"
    if part.lvalues is None:
        return text + steps + "  return 0;\n"
    unit = "rows" if isinstance(part.lvalues, Rows) else "elements"
    loop = f"  const int32_t {unit} = {part.total} - at < {part.band} ? {part.total} - at : {part.band};\n"
    if isinstance(part.lvalues, Rows):
        window, pooled = Window.of(layer), part.pooled
        arguments = f"{_times('at', pooled)}, {_times('rows', pooled)}, {window.stride}, {window.reach}, {window.top}"
        loop += f"  const rqdkm_band band = rqdkm_band_rows({arguments}, {window.input_h});\n"
    head = f"  for (int32_t at = 0; at < {part.total}; at += {part.band}) {{\n"
    return f"{text}{head}{indent(loop + steps, '  ')}  }}\n  return 0;\n"


def _times(name: str, factor: int) -> str:
    return name if factor == 1 else f"{name} * {factor}"


def _at(base: str, values: str, tensor: Tensor) -> str:
    """Address of element ``values`` (a C expression, "0" for the first) of a tensor in memory."""
    if values == "0":
        return base
    item = np.dtype(tensor.dtype).itemsize
    return f"{base} + {_times(values, item)}" if tensor.bits == 8 else f"{base} + {values} / {8 // tensor.bits}"


def _input(layer: Layer, part: Part, index: int) -> tuple[str, str]:
    """(first element, number of elements) of an input that a band reads, as C."""
    tensor = layer.inputs[index]
    if part.lvalues is None:
        return "0", str(tensor.size)
    if isinstance(part.lvalues, Elements):
        return "at", "elements"
    row = tensor.size // tensor.shape[1]
    return f"band.first * {row}", f"band.rows * {row}"


def _stored(part: Part, tensor: Tensor) -> tuple[str, str]:
    """(first element, number of elements) of a tensor that lies as the stored one does."""
    if part.lvalues is None:
        return "0", str(tensor.size)
    if isinstance(part.lvalues, Elements):
        return "at", "elements"
    return f"at * {part.row}", f"rows * {part.row}"


def _unpack(tensor: Tensor, base: str, where: tuple[str, str], to: int) -> str:
    return f"  rqdkm_unpack_s{tensor.bits}({_at(base, where[0], tensor)}, {where[1]}, memory + {to});\n"


def unpack_inputs(layer: Layer, part: Part, buffers: Buffers) -> list[str]:
    return [
        _unpack(layer.inputs[i], f"from{i}", _input(layer, part, i), to)
        for i, to in enumerate(buffers.inputs)
        if to is not None
    ]


def _result(layer: Layer, part: Part, buffers: Buffers) -> str:
    """Where the kernel writes a band."""
    if buffers.result is not None:
        return f"memory + {buffers.result}"
    return _at("to", _stored(part, layer.stored)[0], layer.stored)


def run_kernel(layer: Layer, part: Part, call: KernelCall, buffers: Buffers) -> str:
    """The kernel on one band."""
    operands = {}
    for i, unpacked in enumerate(buffers.inputs):
        place = _at(f"from{i}", _input(layer, part, i)[0], layer.inputs[i])
        operands[f"in{i}"] = place if unpacked is None else f"memory + {unpacked}"
    values: dict[str, str] = {}
    if isinstance(part.lvalues, Elements):
        values[part.lvalues.count] = "elements"
    elif part.lvalues is not None:
        values = {
            part.lvalues.input_h: "band.rows",
            part.lvalues.output_h: _times("rows", part.pooled),
            part.lvalues.pad_top: "band.pad_top",
            part.lvalues.pad_bottom: "band.pad_bottom",
        }
    scratch = None if buffers.scratch is None else f"memory + {buffers.scratch}"
    return _block(call.body, operands, _result(layer, part, buffers), scratch, values)


def run_epilogue(layer: Layer, part: Part, call: KernelCall, buffers: Buffers) -> list[str]:
    """Addition or pooling of one band; both may write over what they read."""
    epilogue = layer.epilogue
    assert epilogue is not None
    steps, source = [], _result(layer, part, buffers)
    operands = {"in0": source}
    first = _stored(part, layer.stored)[0]
    values: dict[str, str] = {}
    if epilogue.op == "add":
        residual, index = layer.inputs[-1], len(layer.inputs) - 1
        place = _at(f"from{index}", first, residual)
        if buffers.residual is not None:
            place = f"memory + {buffers.residual}"
            steps.append(_unpack(residual, f"from{index}", _stored(part, residual), buffers.residual))
        operands["in1"] = place
        values = {"count": _stored(part, layer.stored)[1]}
    elif part.lvalues is not None:
        values = {"input_dims.h": _times("rows", part.pooled), "output_dims.h": "rows"}
    target = _at("to", first, layer.stored) if layer.stored.bits == 8 else source
    return [*steps, _block(call.body, operands, target, None, {} if part.lvalues is None else values)]


def clip(layer: Layer, part: Part, buffers: Buffers) -> str:
    """What the kernel has written, to the range of its bits and the layer's clamp."""
    low, high = integer_range(layer.output.bits)
    if clamps(layer):
        low, high = clamped(layer, layer.output.bits)["clamp"]
    computed = part.kernel_layer.output
    row = computed.size // computed.shape[1] if isinstance(part.lvalues, Rows) else 1
    count = {Rows: f"rows * {part.pooled * row}", Elements: "elements"}.get(type(part.lvalues), str(computed.size))
    place = _result(layer, part, buffers)
    call = f"rqdkm_clip_s8((rqdkm_clamp){{{low}, {high}}}, {count}, {place}, {place})"
    return f"  status = {call};\n  if (status != 0) return status;\n"


def pack_output(layer: Layer, part: Part) -> str:
    first, count = _stored(part, layer.stored)
    return f"  rqdkm_pack_s{layer.stored.bits}(memory, {count}, {_at('to', first, layer.stored)});\n"


_DECLARATION = re.compile(r"^  (?:static )?const (\w+) (\w+) = ", re.MULTILINE)


def _block(body: str, operands: Mapping[str, str], out: str, scratch: str | None, values: Mapping[str, str]) -> str:
    """The body of a kernel call as a block that computes a part.

    Args:
        operands: what ``in0``, ... are in it.
        values: lvalue of a parameter -> what is assigned to it.
    """
    values = {lvalue: value for lvalue, value in values.items() if lvalue}
    changed = {lvalue.partition(".")[0] for lvalue in values}
    head, _, call = body.rpartition("  return ")
    names = {match[2] for match in _DECLARATION.finditer(head)}
    if not changed <= names:
        raise AssertionError(f"the body declares no {sorted(changed - names)}:\n{body}")
    head = _DECLARATION.sub(lambda m: f"  {m[1]} {m[2]} = " if m[2] in changed else m[0], head)
    text = "".join(f"  const void *const {name} = {place};\n" for name, place in operands.items())
    text += f"  void *const out = {out};\n"
    text += f"  void *const scratch = {scratch};\n" if scratch is not None else ""
    text += head + "".join(f"  {lvalue} = {value};\n" for lvalue, value in values.items())
    return f"  {{\n{indent(text + '  status = ' + call, '  ')}  }}\n  if (status != 0) return status;\n"
