"""StripBoundaryQuantize: the chip reads and writes int8; the host quantizes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from rqdkm_tvm.graph import Rewriter, children, module_pass, op_name, outputs, rebuild, require_static, with_main
from rqdkm_tvm.offload.base import Quantization, is_scalar, scalar_quantization
from rqdkm_tvm.tvm_import import relay

IO_ATTR = "rqdkm_io"  # on main: JSON {"inputs": {"0": [scale, zero_point]}, "outputs": {...}} of what was stripped
Expr = Any


def _is_boundary(call: Expr, op: str) -> bool:
    return (
        op_name(call) == op
        and isinstance(call.args[1], relay.Constant)
        and isinstance(call.args[2], relay.Constant)
        and is_scalar(call.args[1])
        and is_scalar(call.args[2])
    )


def _readers(function: Expr, var: Expr) -> list[Expr]:
    found: list[Expr] = []

    def visit(expr: Expr) -> None:
        if any(child.same_as(var) for child in children(expr)):
            found.append(expr)

    relay.analysis.post_order_visit(function.body, visit)
    return found


def _input_quantization(function: Expr, var: Expr) -> Quantization | None:
    """The one quantization every reader of a float input asks for; None when they differ or read the floats."""
    readers = _readers(function, var)
    if not readers or any(r.same_as(function.body) and not isinstance(r, relay.Call) for r in readers):
        return None
    if not all(_is_boundary(r, "qnn.quantize") and str(r.attrs.out_dtype) == "int8" for r in readers):
        return None
    asked = {scalar_quantization(r.args[1], r.args[2]) for r in readers}
    return asked.pop() if len(asked) == 1 else None


class _DropQuantize(Rewriter):
    def __init__(self, replaced: Mapping[Expr, Expr]) -> None:
        super().__init__()
        self.replaced = replaced

    def visit_var(self, var: Expr) -> Expr:
        return self.replaced.get(var, var)

    def visit_call(self, call: Expr) -> Expr:
        if op_name(call) == "qnn.quantize" and call.args[0] in self.replaced:
            return self.replaced[call.args[0]]
        return super().visit_call(call)


def recorded_io(function: Expr) -> dict[str, dict[int, Quantization]]:
    """What the pass stripped: quantization by position of the input or output."""
    attrs = function.attrs
    if attrs is None or IO_ATTR not in attrs.keys():  # noqa: SIM118
        return {"inputs": {}, "outputs": {}}
    stored = json.loads(str(attrs[IO_ATTR]))
    return {
        side: {int(index): Quantization(float(q[0]), int(q[1])) for index, q in stored[side].items()}
        for side in ("inputs", "outputs")
    }


def strip(function: Expr) -> Expr:
    """``function`` (types inferred) without quantize at its inputs and dequantize at its outputs."""
    record = recorded_io(function)
    params, replaced = [], {}
    for index, var in enumerate(function.params):
        quantization = _input_quantization(function, var) if _dtype(var) == "float32" else None
        if quantization is None:
            params.append(var)
            continue
        new = relay.var(var.name_hint, shape=[int(v) for v in var.checked_type.shape], dtype="int8")
        replaced[var] = new
        params.append(new)
        record["inputs"][index] = quantization

    results = []
    for index, output in enumerate(outputs(function)):
        if _is_boundary(output, "qnn.dequantize") and _dtype(output.args[0]) == "int8":
            record["outputs"][index] = scalar_quantization(output.args[1], output.args[2])
            output = output.args[0]
        results.append(output)
    if not record["inputs"] and not record["outputs"]:
        return function

    mutator = _DropQuantize(replaced)
    mutator.run(function)
    results = [mutator.visit(result) for result in results]
    body = relay.Tuple(results) if isinstance(function.body, relay.Tuple) else results[0]
    stored = {
        side: {str(i): [q.scale, q.zero_point] for i, q in sorted(quantizations.items())}
        for side, quantizations in record.items()
    }
    return rebuild(function, body, params).with_attr(IO_ATTR, json.dumps(stored))


def _dtype(expr: Expr) -> str:
    checked = expr.checked_type
    return str(checked.dtype) if hasattr(checked, "dtype") else ""


def StripBoundaryQuantize() -> Any:  # noqa: N802 (passes are named like TVM's)
    """Pass: float32 inputs whose every reader quantizes them alike become int8, dequantized outputs stay int8.

    Refuses a module whose shapes are not all known. The scales and zero points are kept on the main function
    (:func:`recorded_io`), so that whoever feeds the model can quantize for it.
    """

    def run(mod: Any) -> Any:
        require_static(mod["main"])
        return with_main(mod, strip(mod["main"]))

    return module_pass("StripBoundaryQuantize", run)
