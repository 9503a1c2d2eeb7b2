"""PartitionLayers: everything our kernels can run becomes a composite function with a layer name."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from rqdkm_tvm.graph import (
    LAYER_ATTR,
    RESHAPES,
    Rewriter,
    calls,
    composite_name,
    module_pass,
    op_name,
    rebuild,
    source_name,
    with_main,
)
from rqdkm_tvm.offload import OFFLOADS, PREFIX, Offload, parse
from rqdkm_tvm.tvm_import import relay

Expr = Any
REFUSALS_ATTR = "rqdkm_refusals"  # on main: JSON {operator's source name: why its pattern was refused}


def _check(row: Offload, refusals: dict[str, str]) -> Callable[[Expr], bool]:
    def check(root: Expr) -> bool:
        reason = row.refuse(root)
        if reason:
            refusals[source_name(root) or op_name(root)] = f"{row.name}: {reason}"
        return reason is None

    return check


class _Occurrences(relay.ExprMutator):  # type: ignore[misc]
    """Gives every occurrence of a parameter a parameter of its own."""

    def __init__(self, operands: dict[Expr, Expr]) -> None:
        super().__init__()
        self.operands = operands
        self.params: list[Expr] = []
        self.args: list[Expr] = []

    def visit(self, expr: Expr) -> Expr:
        if expr not in self.operands:
            return super().visit(expr)
        self.params.append(relay.Var(f"{expr.name_hint}_{len(self.params)}", expr.checked_type))
        self.args.append(self.operands[expr])
        return self.params[-1]


def _one_parameter_per_operand(call: Expr) -> tuple[Expr, list[Expr]]:
    """Function and arguments of a composite call. The matcher joins operands that are the same tensor (x + x); layers
    have them one by one."""
    draft = parse(call)
    if draft is None or len(draft.inputs) <= sum(_leaves(arg) for arg in call.args):
        return call.op, list(call.args)
    own = _Occurrences(dict(zip(call.op.params, call.args, strict=True)))
    body = own.visit(call.op.body)
    return rebuild(call.op, body, own.params), own.args


def _leaves(arg: Expr) -> int:
    return len(arg.fields) if isinstance(arg, relay.Tuple) else 1


class _Namer(Rewriter):
    """Gives each composite its layer name: the model's own where there is one, unique and stable."""

    def __init__(self) -> None:
        super().__init__()
        self.taken: dict[str, int] = {}

    def rewrite(self, call: Expr, original: Expr) -> Expr:
        composite = composite_name(call)
        if not composite.startswith(PREFIX):
            return call
        op = composite.removeprefix(PREFIX)
        name = self._unique(source_name(call.op.body) or source_name(original) or op)
        function, args = _one_parameter_per_operand(call)
        named = function.with_attr(LAYER_ATTR, name)
        return relay.Call(named, args, call.attrs, call.type_args, call.op.body.span)

    def _unique(self, name: str) -> str:
        count = self.taken.get(name, 0)
        self.taken[name] = count + 1
        return self._unique(f"{name}.{count}") if count else name


def PartitionLayers() -> Any:  # noqa: N802 (passes are named like TVM's)
    """Pass: wraps each match of :data:`rqdkm_tvm.offload.OFFLOADS` in a function with ``Composite="rqdkm.<op>"``.

    The function carries the layer's name in the attribute ``rqdkm_layer``. Why a pattern was refused is kept on the
    main function (attribute ``rqdkm_refusals``) for the report.
    """

    def run(mod: Any) -> Any:
        refusals: dict[str, str] = {}
        table = [(PREFIX + row.name, row.pattern(), _check(row, refusals)) for row in OFFLOADS]
        function = relay.transform.InferType()(relay.transform.MergeComposite(table)(mod))["main"]
        function = rebuild(function, _Namer().run(function)).with_attr(REFUSALS_ATTR, json.dumps(refusals))
        return with_main(mod, function)

    return module_pass("PartitionLayers", run)


def refusals(function: Expr) -> dict[str, str]:
    """Reasons that :func:`PartitionLayers` recorded, by the operator's source name."""
    attrs = function.attrs
    if attrs is None or REFUSALS_ATTR not in attrs.keys():  # noqa: SIM118
        return {}
    found: dict[str, str] = json.loads(str(attrs[REFUSALS_ATTR]))
    return found


def add_refusals(function: Expr, reasons: dict[str, str]) -> Expr:
    """``function`` with more reasons recorded."""
    return function.with_attr(REFUSALS_ATTR, json.dumps({**refusals(function), **reasons}))


def leftovers(function: Expr) -> list[Expr]:
    """Calls that are no layer and cost something: TVM compiles them."""
    return [call for call in calls(function) if not composite_name(call) and op_name(call) not in RESHAPES]
