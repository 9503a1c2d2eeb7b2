"""GatherMorphs: alternatives that the module holds side by side become one layer that runs one of them.

In an imported module a morphing layer is :func:`select` of its kernels' results: ordinary Relay that computes all of
them and takes the safe one, so that TVM can evaluate it and quantization passes see plain layers. Gathered, it is a
composite of the paths' composites whose body is the safe path's result.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

import rqdkm_tvm.morph.kernel  # noqa: F401 (registers the layer's kernel)
from rqdkm_tvm.graph import (
    BITS_ATTR,
    COMPOSITE_ATTR,
    LAYER_ATTR,
    MORPHED,
    Rewriter,
    bits_of,
    calls,
    composite_name,
    module_pass,
    op_name,
    rebuild,
    source_name,
    users,
    with_main,
)
from rqdkm_tvm.layer import Layer
from rqdkm_tvm.morph.library import OP, library, network_names, path_names
from rqdkm_tvm.offload.base import Draft, Quantization
from rqdkm_tvm.partition import add_refusals
from rqdkm_tvm.sites import read_sites
from rqdkm_tvm.tvm_import import relay

Expr = Any


def select(paths: Sequence[Expr], safe: int, span: Any = None) -> Expr:
    """The result of path ``safe`` out of ``paths``, all of one type: a morphing layer before it is gathered.

    Args:
        span: names the layer.
    """
    stacked = relay.stack(list(paths), axis=0)
    taken = relay.take(stacked, relay.const(np.int32(safe)), axis=0)
    return relay.Call(taken.op, taken.args, taken.attrs, taken.type_args, span)


def selected(call: Expr) -> tuple[list[Expr], int] | None:
    """Paths and the safe one, if ``call`` is a :func:`select`."""
    if op_name(call) != "take" or op_name(call.args[0]) != "stack" or not isinstance(call.args[1], relay.Constant):
        return None
    fields = call.args[0].args[0]
    index = call.args[1].data.numpy()
    if not isinstance(fields, relay.Tuple) or index.shape != () or int(call.attrs.axis.value) != 0:
        return None
    return list(fields.fields), int(index)


def _chain(path: Expr) -> list[Expr]:
    """``path`` and what it is computed from, back as long as there is one operand."""
    found = [path]
    while isinstance(path, relay.Call) and len(path.args) == 1:
        path = path.args[0]
        found.append(path)
    return found


def _refusal(chains: Sequence[Sequence[Expr]], layers: set[Expr], readers: dict[Expr, list[Expr]]) -> str | None:
    """Why paths, each from its result back to what it starts from, do not make a layer."""
    for chain in chains:
        if len(chain) < 1 or not all(call in layers for call in chain):
            return "one of its kernels holds an operator that no kernel of ours runs"
        if any(len(readers.get(call, [])) != 1 for call in chain):
            return "the result of one of its kernels is read elsewhere"
    return None


class _Substitute(relay.ExprMutator):  # type: ignore[misc]
    """Puts a variable in the place of an expression; composites stay what they are."""

    def __init__(self, old: Expr, new: Expr) -> None:
        super().__init__()
        self.old, self.new = old, new

    def visit(self, expr: Expr) -> Expr:
        return self.new if expr.same_as(self.old) else super().visit(expr)

    def visit_function(self, function: Expr) -> Expr:
        return function


def _chains(call: Expr, paths: Sequence[Expr]) -> list[list[Expr]] | None:
    """Every path's calls, its result first, back to what all of them read; None if they do not read one tensor."""
    whole = [_chain(path) for path in paths]
    source = next((x for x in whole[0][1:] if all(any(x.same_as(y) for y in c[1:]) for c in whole)), None)
    if source is None:
        return None
    return [c[: next(i for i, x in enumerate(c) if x.same_as(source))] for c in whole]


def kernel_layers(mod: Any) -> list[list[list[str]]]:
    """Of a partitioned module whose morphing layers are not gathered yet: by layer, by kernel, the names of the layers
    that the kernel alone runs, in order."""
    function = mod["main"]
    names = {site.call: site.name for site in read_sites(function)}
    found = []
    for call in calls(function):
        picked = selected(call)
        chains = _chains(call, picked[0]) if picked is not None else None
        if chains is not None:
            found.append([[names[x] for x in reversed(chain) if x in names] for chain in chains])
    return found


def kernel_names(mod: Any) -> list[str]:
    """Of such a module: what the kernels of the network are called."""
    layers = {site.name: site.layer for site in read_sites(mod["main"])}
    chains = [[[layers[name] for name in names] for names in kernels] for kernels in kernel_layers(mod)]
    return network_names([path_names(found) for found in chains])


def gather(mod: Any) -> Any:
    """See :func:`GatherMorphs`."""
    function = mod["main"]
    found = {call: picked for call in calls(function) if (picked := selected(call)) is not None}
    if not found:
        return mod
    layers, readers = {site.call for site in read_sites(function)}, users(function)
    taken = {site.name for site in read_sites(function)}
    refusals: dict[str, str] = {}
    made: dict[Expr, Expr] = {}
    for call, (paths, safe) in found.items():
        chains = _chains(call, paths)
        name = source_name(call) or OP
        if chains is None:
            refusals[name] = f"{OP}: its kernels do not read one tensor"
            continue
        source = chains[0][-1].args[0]
        reason = _refusal(chains, layers, readers)
        if reason is not None:
            refusals[name] = f"{OP}: {reason}"
            continue
        while name in taken:
            name += "_morph"
        taken.add(name)
        inside = relay.Var("input", source.checked_type)
        body = relay.TupleGetItem(relay.Tuple([_Substitute(source, inside).visit(path) for path in paths]), safe)
        composite = relay.Function([inside], body).with_attr(COMPOSITE_ATTR, MORPHED).with_attr(LAYER_ATTR, name)
        bits = {"output": bits_of(paths[safe])[0], "weights": [], "input": bits_of(source)[0]}
        composite = composite.with_attr(BITS_ATTR, json.dumps(bits))
        made[call] = (composite, source)

    class Gathering(Rewriter):
        def rewrite(self, call: Expr, original: Expr) -> Expr:
            if original not in made:
                return call
            composite, source = made[original]
            return relay.Call(composite, [self.visit(source)], None, None, original.span)

    changed = with_main(mod, rebuild(function, Gathering().run(function)))
    read_sites(changed["main"])  # raises where kernels do not fit one another
    return with_main(changed, add_refusals(changed["main"], refusals)) if refusals else changed


def _reading(layer: Layer, bits: int) -> Layer:
    return layer if bits == 8 else replace(layer, inputs=(replace(layer.inputs[0], bits=bits),))


def parse_morph(function: Expr) -> Draft:
    """A morphing layer's composite function as a layer."""
    layer_of = {site.call: site.layer for site in read_sites(function)}
    paths, safe = function.body.tuple_value.fields, int(function.body.index)
    # what is packed outside looks like a map of 8 bits from within
    bits = int(json.loads(str(function.attrs[BITS_ATTR]))["input"])
    chains = [[layer_of[call] for call in calls(relay.Function([], path))] for path in paths]
    chains = [[_reading(chain[0], bits), *chain[1:]] for chain in chains]
    found = library(chains, safe, where=f'layer "{function.attrs[LAYER_ATTR]}"')
    source, result = chains[0][0].inputs[0], chains[0][-1].stored
    return Draft(
        op=OP,
        inputs=(Quantization(source.scale, source.zero_point),),
        output=Quantization(result.scale, result.zero_point),
        library=found,
    )


def _fixed(mod: Any, kernel: int) -> Any:
    function = mod["main"]

    class Fixing(Rewriter):
        def rewrite(self, call: Expr, original: Expr) -> Expr:
            picked = selected(call)
            if picked is not None:
                return picked[0][kernel] if 0 <= kernel < len(picked[0]) else call
            if composite_name(call) != MORPHED or not 0 <= kernel < len(call.op.body.tuple_value.fields):
                return call
            body = relay.TupleGetItem(call.op.body.tuple_value, kernel)
            return relay.Call(rebuild(call.op, body), call.args, call.attrs, call.type_args, call.span)

    return with_main(mod, rebuild(function, Fixing().run(function)))


def FixKernel(kernel: int) -> Any:  # noqa: N802 (passes are named like TVM's)
    """Pass: ``kernel`` becomes the safe one of every morphing layer that has so many kernels.

    The module is then the network that the chip computes while that kernel is selected. Before layers are gathered
    nothing but that kernel is left of them.
    """
    return module_pass("FixKernel", lambda mod: _fixed(mod, kernel))


def GatherMorphs() -> Any:  # noqa: N802 (passes are named like TVM's)
    """Pass: every :func:`select` of a partitioned module becomes one layer ``morph_conv2d``.

    Comes after :func:`LowerMixedPrecision`, which sees the kernels as plain layers. Alternatives that cannot be
    gathered stay what they are, TVM computes them all and takes the safe one; why is in the offload report.

    Raises:
        PlanError: the kernels differ in what they read or write.
    """
    return module_pass("GatherMorphs", gather)
