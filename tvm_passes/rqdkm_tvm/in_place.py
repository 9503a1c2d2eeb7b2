"""In-place layers: a result written over an operand that nothing reads any more.

The graph stays functional. A kernel says over which operands it may write (``Kernel.in_place``), the configuration of a
layer carries the one that is taken (``{"in_place": operand}``), and only the memory planner acts on it: it gives result
and operand the same place. Whoever plans memory otherwise gets two buffers and the same bytes.

Legal is what holds in every order of execution that the data flow allows: all other readers of the operand are
ancestors of the layer.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from rqdkm_tvm.graph import RESHAPES, calls, children, layer_name, op_name, outputs
from rqdkm_tvm.memory import stored_bytes
from rqdkm_tvm.operators import is_layer_call
from rqdkm_tvm.tvm_import import relay, tvm

Expr = Any
CONFIG = "in_place"  # key of a configuration: the operand that the result is written over


def operand_of(config: Mapping[str, Any]) -> int | None:
    """The operand that a configuration writes its result over."""
    return int(config[CONFIG]) if CONFIG in config else None


def without(config: Mapping[str, Any]) -> dict[str, Any]:
    """The kernel's own part of a configuration."""
    return {key: value for key, value in config.items() if key != CONFIG}


def overwritable(function: Expr, offloaded: Collection[str]) -> dict[str, tuple[int, ...]]:
    """For each layer of a partitioned function (types inferred) the operands that its result may be written over.

    Such an operand is as large as the result or larger; another layer with a kernel writes it (nobody else's buffers
    are touched, the model's inputs least of all); neither it nor the result is an output of the model; the layer reads
    it once; and every other reader is an ancestor of the layer.

    Args:
        offloaded: names of the layers that have a kernel.
    """
    order = list(calls(function))
    bit = {call: 1 << index for index, call in enumerate(order)}
    ancestors: dict[Expr, int] = {}
    readers: dict[Expr, list[Expr]] = {}
    for call in order:
        ancestors[call] = 0
        for source in _operands(call):
            ancestors[call] |= ancestors.get(source, 0) | bit.get(source, 0)
            if op_name(call) not in RESHAPES:
                readers.setdefault(_value(source), []).append(call)
    results = {_value(output) for output in outputs(function)}

    def allowed(call: Expr, operand: Expr) -> bool:
        return (
            layer_name(operand) in offloaded
            and operand not in results
            and stored_bytes(call) <= stored_bytes(operand)
            and readers[operand].count(call) == 1
            and all(reader is call or ancestors[call] & bit[reader] for reader in readers[operand])
        )

    found = {}
    for call in order:
        if layer_name(call) in offloaded and call not in results:
            values = [_value(source) for source in _operands(call)]
            found[layer_name(call)] = tuple(index for index, value in enumerate(values) if allowed(call, value))
    return found


def _operands(call: Expr) -> list[Expr]:
    """What a call reads; fields of tuples one by one."""
    found: list[Expr] = []
    for child in children(call):
        while isinstance(child, relay.TupleGetItem):
            child = child.tuple_value
        found += _operands(child) if isinstance(child, relay.Tuple) else [child]
    return found


def _value(expr: Expr) -> Expr:
    """What ``expr`` is another shape of."""
    while isinstance(expr, relay.TupleGetItem) or op_name(expr) in RESHAPES:
        expr = expr.tuple_value if isinstance(expr, relay.TupleGetItem) else expr.args[0]
    return expr


# ---- for TVM's memory planner


def shared_operands(function: Expr) -> dict[str, int]:
    """C symbol -> operand that the result is written over, for the layer calls of a lowered function."""
    found = {}
    for call in calls(function):
        if is_layer_call(call) and int(call.attrs["in_place"]) >= 0:
            found[str(call.attrs["symbol"])] = int(call.attrs["in_place"])
    return found


def shared_buffers(mod: Any, operands: Mapping[str, int]) -> dict[str, str]:
    """Name of a result's buffer -> name of the buffer it shares, read from the TIR module that TVM plans memory for.

    Args:
        operands: see :func:`shared_operands`.

    Raises:
        AssertionError: TVM reads an operand after the layer that overwrites it.
    """
    positions: dict[str, tuple[int, int]] = {}  # TIR function -> positions of operand and result
    for variable, function in mod.functions.items():
        for call in _extern_calls(function):
            operand = operands.get(_symbol(call))
            if operand is not None:
                data = [function.buffer_map[parameter].data for parameter in function.params]
                read, written = call.args[1 + operand].args[0].buffer.data, call.args[-1 - _has_scratch(call)].args[1]
                positions[str(variable.name_hint)] = (
                    next(i for i, v in enumerate(data) if v.same_as(read)),
                    next(i for i, v in enumerate(data) if v.same_as(written)),
                )
    shared: dict[str, str] = {}
    overwritten: set[str] = set()
    main = next(f for v, f in mod.functions.items() if str(v.name_hint).endswith("__tvm_main__"))
    for call in _extern_calls(main):
        names = [str(argument.name) for argument in call.args[1:] if isinstance(argument, tvm.tir.Var)]
        assert overwritten.isdisjoint(names), f"{_symbol(call)} reads a buffer that another layer has overwritten"
        if _symbol(call) in positions:
            operand, result = positions[_symbol(call)]
            shared[names[result]] = names[operand]
            overwritten.add(names[operand])
    return shared


def _extern_calls(function: Any) -> list[Any]:
    """Calls of C functions, in program order."""
    found: list[Any] = []

    def visit(node: Any) -> None:
        if isinstance(node, tvm.tir.Call) and str(getattr(node.op, "name", "")) == "tir.call_extern":
            found.append(node)

    tvm.tir.stmt_functor.post_order_visit(function.body, visit)
    return found


def _symbol(call: Any) -> str:
    return str(call.args[0].value)


def _has_scratch(call: Any) -> int:
    """1 if the last argument is scratch, which unlike the result is passed as an address."""
    return int(str(call.args[-1].op.name) == "tir.address_of")
