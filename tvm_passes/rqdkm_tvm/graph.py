"""Walking Relay modules: main function, names of operators, rewriting that keeps source names."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from rqdkm_tvm.errors import ModelError, UnsupportedOperatorError
from rqdkm_tvm.tvm_import import relay, tvm

Expr = Any
LAYER_ATTR = "rqdkm_layer"  # on composite functions: the layer's name
COMPOSITE_ATTR = "Composite"
FUSED = "rqdkm.fused"  # composite of two: a convolution and the operator computed on its result (fuse.py)
PATCHED = "rqdkm.patch_stage"  # composite of the layers that are run patch by patch (patches/schedule.py)
MORPHED = "rqdkm.morph_conv2d"  # composite of kernels of which one is run (morph/gather.py)
PATCHES_ATTR = "rqdkm_patches"  # on it, JSON: the plan's "patches", and the kernel set
# on composite functions, JSON: {"output": bits of the result, "weights": [bits of each output channel, or none]}
BITS_ATTR = "rqdkm_bits"

# operators that only rename the shape of a tensor: they cost nothing, since kernels take plain pointers
RESHAPES = ("reshape", "squeeze", "expand_dims", "nn.batch_flatten")


def source_name(expr: Expr) -> str:
    """Name of the model's operator an expression came from; "" when the importer recorded none.

    TFLite names a fused operator by everything that was fused (``a;b;c``): the first part is kept.
    """
    span = getattr(expr, "span", None)
    while span is not None and hasattr(span, "spans") and len(span.spans) > 0:
        span = span.spans[0]
    name = str(span.source_name.name) if span is not None and getattr(span, "source_name", None) is not None else ""
    return name.split(";")[0].strip()


def calls(function: Expr) -> Iterator[Expr]:
    """Every call in execution order (arguments before users, left before right), not entering nested functions."""
    seen: set[Expr] = set()
    stack: list[tuple[Expr, bool]] = [(function.body, False)]
    while stack:
        expr, expanded = stack.pop()
        if expr in seen:
            continue
        if expanded:
            seen.add(expr)
            if isinstance(expr, relay.Call):
                yield expr
            continue
        stack.append((expr, True))
        stack.extend((child, False) for child in reversed(children(expr)))


def children(expr: Expr) -> list[Expr]:
    """Expressions an expression takes as operands."""
    if isinstance(expr, relay.Call):
        return list(expr.args)
    if isinstance(expr, relay.Tuple):
        return list(expr.fields)
    if isinstance(expr, relay.TupleGetItem):
        return [expr.tuple_value]
    if isinstance(expr, relay.Let):
        return [expr.value, expr.body]
    return []


def composite_name(expr: Expr) -> str:
    """``"rqdkm.conv2d"`` for a call of a composite function, else ""."""
    if not isinstance(expr, relay.Call):
        return ""
    op = expr.op
    return _attributes(op).get(COMPOSITE_ATTR, "") if isinstance(op, relay.Function) else ""


@lru_cache(maxsize=2048)
def _attributes(function: Expr) -> Mapping[str, str]:
    """Of a function, which never change; reading them one by one takes long."""
    return {} if function.attrs is None else {str(key): str(value) for key, value in function.attrs.items()}


def layer_name(expr: Expr) -> str:
    """Name of the layer a composite call stands for; "" for anything else."""
    return _attributes(expr.op).get(LAYER_ATTR, "") if composite_name(expr) else ""


def bits_of(expr: Expr) -> tuple[int, tuple[int, ...]]:
    """Storage bits of an expression's result, and of its weights by output channel (empty: all 8)."""
    while op_name(expr) in RESHAPES:
        expr = expr.args[0]
    if composite_name(expr) and BITS_ATTR in _attributes(expr.op):
        found = json.loads(_attributes(expr.op)[BITS_ATTR])
        return int(found["output"]), tuple(int(bits) for bits in found["weights"])
    return 8, ()


def fetches_input(expr: Expr) -> bool:
    """Whether a call is a patch stage whose input the application hands over, so that it lies in no memory of ours."""
    if composite_name(expr) != PATCHED:
        return False
    return bool(json.loads(str(expr.op.attrs[PATCHES_ATTR]))["plan"]["input"] == "callback")


def op_name(expr: Expr) -> str:
    """Name of the called operator, or "" when ``expr`` is no call of an operator."""
    return str(expr.op.name) if isinstance(expr, relay.Call) and hasattr(expr.op, "name") else ""


def users(function: Expr) -> dict[Expr, list[Expr]]:
    """Who reads an expression; the function itself stands for "the result"."""
    found: dict[Expr, list[Expr]] = {}
    for call in calls(function):
        for child in _leaves(call):
            found.setdefault(child, []).append(call)
    for output in outputs(function):
        found.setdefault(output, []).append(function)
    return found


def _leaves(call: Expr) -> Iterator[Expr]:
    for arg in call.args:
        yield from arg.fields if isinstance(arg, relay.Tuple) else [arg]


def outputs(function: Expr) -> list[Expr]:
    """The results, one expression each."""
    body = function.body
    return list(body.fields) if isinstance(body, relay.Tuple) else [body]


def require_static(function: Expr) -> None:
    """Refuse a function (types inferred) in which a size is not known at compile time, or that computes nothing.

    Raises:
        UnsupportedOperatorError: names the first operator with a dynamic shape.
        ModelError: there is no operator at all.
    """
    computes = False
    for expr in [*function.params, *calls(function)]:
        checked = expr.checked_type
        types = list(checked.fields) if isinstance(checked, relay.TupleType) else [checked]
        if not all(
            isinstance(t, relay.TensorType) and all(isinstance(d, tvm.tir.IntImm) for d in t.shape) for t in types
        ):
            name = expr.op.name if isinstance(expr, relay.Call) and hasattr(expr.op, "name") else "input"
            raise UnsupportedOperatorError(
                "its shape is not known at compile time",
                where=f'operator {name}, layer "{source_name(expr) or name}"',
                hint="export the model with fixed shapes (batch size 1)",
            )
        computes |= isinstance(expr, relay.Call) and getattr(expr.op, "name", "") not in RESHAPES
    if not computes:
        raise ModelError("the model computes nothing: there is no operator between inputs and outputs")


def with_main(mod: Any, function: Expr) -> Any:
    """``mod`` with another main function, types inferred."""
    changed = tvm.IRModule(dict(mod.functions.items()), mod.type_definitions)
    if mod.attrs is not None:
        changed = changed.with_attrs({str(k): mod.attrs[k] for k in mod.attrs.keys()})  # noqa: SIM118
    changed["main"] = function
    return relay.transform.InferType()(changed)


def module_pass(name: str, run: Callable[[Any], Any]) -> Any:
    """An ordinary ``tvm.transform`` pass of ``run``, which gets a module with inferred types."""
    return tvm.transform.module_pass(
        lambda mod, _context: run(relay.transform.InferType()(mod)), opt_level=0, name=f"rqdkm.{name}"
    )


def rebuild(function: Expr, body: Expr, params: list[Expr] | None = None) -> Expr:
    """``function`` with another body (and parameters), attributes kept."""
    new = relay.Function(list(function.params) if params is None else params, body)
    if function.attrs is not None:
        for key in function.attrs.keys():  # noqa: SIM118
            new = new.with_attr(str(key), function.attrs[key])
    return new


class Rewriter(relay.ExprMutator):  # type: ignore[misc]
    """A mutator that keeps source names, and whose depth does not grow with the network's."""

    def run(self, function: Expr) -> Expr:
        """The rewritten body of ``function``; operands are visited before users, so recursion stays shallow."""
        for call in calls(function):
            self.visit(call)
        return self.visit(function.body)

    def visit_function(self, function: Expr) -> Expr:
        return function  # composites and primitives are opaque here

    def visit_call(self, call: Expr) -> Expr:
        args = [self.visit(arg) for arg in call.args]
        if all(new.same_as(old) for new, old in zip(args, call.args, strict=True)):
            return self.rewrite(call, call)
        return self.rewrite(relay.Call(call.op, args, call.attrs, call.type_args, call.span), call)

    def rewrite(self, call: Expr, original: Expr) -> Expr:
        """Hook: what replaces ``call``, whose arguments are rewritten already; ``original`` knows its types."""
        return call


def identifier(text: str) -> str:
    """``text`` as a C identifier."""
    clean = re.sub(r"\W+", "_", text).strip("_")
    return f"_{clean}" if clean[:1].isdigit() or not clean else clean


def c_type(dtype: str) -> str:
    return {"float32": "float", "bool": "uint8_t"}.get(dtype, f"{dtype}_t")
