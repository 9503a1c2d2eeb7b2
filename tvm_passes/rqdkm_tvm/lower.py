"""LowerKernels: composites become calls of C kernels, or go back to plain Relay for TVM to compile."""

from __future__ import annotations

from typing import Any

from rqdkm_tvm import in_place
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.graph import (
    RESHAPES,
    Rewriter,
    bits_of,
    composite_name,
    identifier,
    module_pass,
    op_name,
    outputs,
    rebuild,
    users,
    with_main,
)
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.layer import Tensor
from rqdkm_tvm.offload import PREFIX
from rqdkm_tvm.offload.base import dtype_of, shape_of
from rqdkm_tvm.operators import is_layer_call, layer_call, reshaped
from rqdkm_tvm.plan import UNDECIDED, Plan
from rqdkm_tvm.sites import Site, read_sites
from rqdkm_tvm.tvm_import import relay

Expr = Any


def _without_reshapes(expr: Expr) -> Expr:
    while op_name(expr) in RESHAPES:
        expr = expr.args[0]
    return expr


class _Lowering(Rewriter):
    def __init__(self, function: Expr, plan: Plan) -> None:
        super().__init__()
        self.plan = plan
        self.sites = {site.call: site for site in read_sites(function)}
        kernels = {entry.name for entry in plan.layers if entry.kernel is not None}
        self.overwritable = in_place.overwritable(function, kernels)
        self.users = users(function)
        self.results = {_without_reshapes(output) for output in outputs(function)}
        self.count = 0

    def rewrite(self, call: Expr, original: Expr) -> Expr:
        if op_name(call) in RESHAPES and is_layer_call(call.args[0]) and len(self.users[original.args[0]]) == 1:
            # the layer writes the other shape itself
            return reshaped(call.args[0], Tensor(shape_of(original), bits=bits_of(original)[0]).packed_shape)
        site = self.sites.get(original)
        if site is not None:
            return self._layer(call, original, site)
        if composite_name(call).startswith(PREFIX):
            raise AssertionError(f"composite without layer: {composite_name(call)}")
        return call

    def _layer(self, call: Expr, original: Expr, site: Site) -> Expr:
        entry = self.plan.get(site.name)
        if entry is None or entry.kernel == UNDECIDED:
            raise PlanError(
                "the plan has no kernel for it", where=f'layer "{site.name}"', hint="run AssignKernels first"
            )
        if entry.kernel is None:
            return relay.bind(call.op.body, dict(zip(call.op.params, call.args, strict=True)))
        lowered = registry.get(entry.kernel, entry.config).lower(site.layer, entry.config)
        operand = in_place.operand_of(entry.config)
        if operand is not None and operand not in self.overwritable.get(site.name, ()):
            raise PlanError(f"its result may not be written over operand {operand}", where=f'layer "{site.name}"')
        symbol = f"rqdkm_layer_{self.count:03d}_{identifier(site.layer.op)}"
        self.count += 1
        # kernels take pointers: the shape in which a tensor arrives does not matter
        tensors = [_without_reshapes(arg) for arg in _flat(call.args)]
        return layer_call(
            tensors,
            lowered,
            name=site.name,
            op=site.layer.op,
            symbol=symbol,
            shape=site.layer.stored.packed_shape,
            dtype=dtype_of(original),
            result=original in self.results,
        )


def _flat(args: Any) -> list[Expr]:
    found: list[Expr] = []
    for arg in args:
        found.extend(arg.fields if isinstance(arg, relay.Tuple) else [arg])
    return found


def LowerKernels(plan: Plan) -> Any:  # noqa: N802 (passes are named like TVM's)
    """Pass: each layer with a kernel in ``plan`` becomes one ``rqdkm.layer<n>`` call; the others become plain Relay.

    Reshapes between layers vanish; a reshape of a layer's only reader moves into the layer.

    Raises:
        PlanError: a layer is missing in the plan.
    """

    def run(mod: Any) -> Any:
        function = mod["main"]
        return with_main(mod, rebuild(function, _Lowering(function, plan).run(function)))

    return module_pass("LowerKernels", run)
