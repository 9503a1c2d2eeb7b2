"""The custom Relay operator ``rqdkm.layer<n>``: n operands (tensors, then constants), one C symbol.

Registered from Python alone. It is lowered to one ``call_extern`` with plain pointers, scratch is an ordinary TIR
allocation, so that TVM's unified static memory planner places it together with the tensors. One operator exists per
number of operands, because a Relay operator has a fixed one.

Attributes: ``name`` and ``op`` of the layer, ``symbol``, ``kernel``, ``config`` (JSON), ``tensors`` (how many operands
are tensors), ``scratch`` (bytes), ``macs``, ``body`` and ``includes`` (JSON list) of the C wrapper, ``result`` (1 when
the call is an output of the model), ``in_place`` (the operand whose memory the result may take, -1 for none),
``prelude`` (C text before the wrapper), ``out_type`` (``"int8:1,32,32,16"``).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from rqdkm_tvm.graph import c_type, calls, op_name
from rqdkm_tvm.layer import KernelCall
from rqdkm_tvm.offload.base import dtype_of
from rqdkm_tvm.tvm_import import relay, tvm

Expr = Any
NAME = "rqdkm.layer"
_REGISTERED: set[str] = set()


def operator(operands: int) -> Any:
    """The operator for ``operands`` operands, registered at first use."""
    name = f"{NAME}{operands}"
    if name in _REGISTERED:
        return relay.op.op.get(name)
    _REGISTERED.add(name)
    relay.op.op.register(name)
    op = relay.op.op.get(name)
    op.set_num_inputs(operands)
    op.set_support_level(1)
    op.set_attrs_type_key("DictAttrs")
    for index in range(operands):
        op.add_argument(f"operand{index}", "Tensor", "tensor or constant")
    # after the arguments: the relation takes its arity from them
    op.add_type_rel(f"RqdkmLayer{operands}", lambda _args, attrs: _tensor_type(str(attrs["out_type"])))

    @tvm.target.override_native_generic_func(f"rqdkm_layer{operands}_strategy")  # type: ignore[untyped-decorator]
    def strategy(_attrs: Any, _inputs: Any, _out_type: Any, _target: Any) -> Any:
        found = relay.op.OpStrategy()
        found.add_implementation(
            _compute, lambda _a, outs, _t: tvm.te.create_schedule([t.op for t in outs]), name=f"{NAME}.c"
        )
        return found

    relay.op.op.register_strategy(name, strategy)
    relay.op.op.register_pattern(name, relay.op.OpPattern.OPAQUE)
    return op


@cache
def _tensor_type(text: str) -> Any:
    """``"int8:1,32,32,16"`` as a type; one string, because TVM asks a hundred times per layer."""
    dtype, _, shape = text.partition(":")
    return relay.TensorType([int(extent) for extent in shape.split(",") if extent], dtype)


def _type_text(shape: Sequence[int], dtype: str) -> str:
    return f"{dtype}:{','.join(str(extent) for extent in shape)}"


def _compute(attrs: Any, inputs: Any, out_type: Any) -> list[Any]:
    def generate(ins: Sequence[Any], outs: Sequence[Any]) -> Any:
        ib = tvm.tir.ir_builder.create()
        # address_of(load) rather than .data, which leaves constants unbound; and the load tells the memory planner
        # that this is an input, should the operand be one of the model
        operands = [tvm.tir.address_of(b.vload([0] * len(b.shape))) for b in ins]
        out = outs[0]
        operands.append(out.access_ptr("w"))
        if int(attrs["scratch"]) > 0:
            scratch = ib.allocate("int8", (int(attrs["scratch"]),), name="scratch", scope="global")
            operands.append(tvm.tir.address_of(scratch[0]))
        if int(attrs["result"]):
            # the planner takes a buffer for an output only when it sees a store
            ib.emit(out.vstore([0] * len(out.shape), tvm.tir.const(0, out.dtype)))
        ib.emit(tvm.tir.call_extern("int32", str(attrs["symbol"]), *operands))
        return ib.get()

    shape = tuple(out_type.shape)
    return [tvm.te.extern([shape], list(inputs), generate, name="rqdkm_layer", dtype=out_type.dtype)]


def layer_call(
    tensors: Sequence[Expr],
    call: KernelCall,
    *,
    name: str,
    op: str,
    symbol: str,
    shape: Sequence[int],
    dtype: str,
    result: bool,
) -> Expr:
    """A Relay call of ``call``'s kernel on ``tensors``."""
    operands = [*tensors, *(relay.const(constant) for constant in call.constants)]
    attrs = tvm.ir.make_node(
        "DictAttrs",
        name=name,
        op=op,
        symbol=symbol,
        kernel=call.kernel,
        config=json.dumps(dict(call.config), sort_keys=True),
        tensors=len(tensors),
        scratch=call.scratch_bytes,
        macs=call.macs,
        body=call.body,
        includes=json.dumps(list(call.includes)),
        prelude=call.prelude,
        result=int(result),
        in_place=call.config.get("in_place", -1),
        out_type=_type_text(shape, dtype),
    )
    return relay.Call(operator(len(operands)), operands, attrs)


def is_layer_call(expr: Expr) -> bool:
    return op_name(expr).startswith(NAME)


def reshaped(call: Expr, shape: Sequence[int]) -> Expr:
    """The same layer call with another shape of its result."""
    attrs = {str(key): call.attrs[key] for key in call.attrs.keys()}  # noqa: SIM118
    attrs["out_type"] = _type_text(shape, str(attrs["out_type"]).partition(":")[0])
    return relay.Call(call.op, call.args, tvm.ir.make_node("DictAttrs", **attrs), call.type_args, call.span)


@dataclass(frozen=True)
class LoweredLayer:
    """One layer call of a lowered module, as code generation and reports need it."""

    name: str
    op: str
    symbol: str
    kernel: str
    config: dict[str, int | str | bool]
    tensors: int
    parameter_types: tuple[str, ...]  # C element types: tensors, constants, result
    constant_bytes: int
    scratch_bytes: int
    macs: int
    body: str
    includes: tuple[str, ...]
    prelude: str = ""


def lowered_layers(function: Expr) -> list[LoweredLayer]:
    """Every layer call of a lowered main function (types inferred), in execution order."""
    found = []
    for call in calls(function):
        if not is_layer_call(call):
            continue
        a = call.attrs
        constants = call.args[int(a["tensors"]) :]
        found.append(
            LoweredLayer(
                name=str(a["name"]),
                op=str(a["op"]),
                symbol=str(a["symbol"]),
                kernel=str(a["kernel"]),
                config=json.loads(str(a["config"])),
                tensors=int(a["tensors"]),
                parameter_types=tuple(c_type(dtype_of(x)) for x in (*call.args, call)),
                constant_bytes=sum(int(c.data.numpy().nbytes) for c in constants),
                scratch_bytes=int(a["scratch"]),
                macs=int(a["macs"]),
                body=str(a["body"]),
                includes=tuple(json.loads(str(a["includes"]))),
                prelude=str(a["prelude"]),
            )
        )
    return found
