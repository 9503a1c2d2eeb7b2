"""FuseEpilogues: a convolution and the one operator that reads its result become one layer.

An ``add`` with another feature map, or a maximum pooling whose windows do not overlap, is then computed while the
convolution's result is still warm, band by band, and that result never exists whole in memory. Every byte stays what
the two layers gave: both keep their arithmetic.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from rqdkm_tvm import in_place, memory
from rqdkm_tvm.assign import planned_options
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.graph import (
    BITS_ATTR,
    COMPOSITE_ATTR,
    FUSED,
    LAYER_ATTR,
    Rewriter,
    bits_of,
    calls,
    composite_name,
    layer_name,
    module_pass,
    rebuild,
    users,
    with_main,
)
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.offload import PREFIX, parse
from rqdkm_tvm.offload.base import shape_of
from rqdkm_tvm.plan import FUSED_KERNEL, UNDECIDED, LayerPlan, Plan
from rqdkm_tvm.sites import Site, layer_ops, read_sites
from rqdkm_tvm.tvm_import import relay

Expr = Any
PRODUCERS = tuple(PREFIX + op for op in ("conv2d", "depthwise_conv2d"))
FOLLOWERS = tuple(PREFIX + op for op in ("add", "max_pool2d"))


@dataclass(frozen=True)
class _Pair:
    """A convolution and its only reader, calls of the unfused function."""

    producer: Expr
    follower: Expr

    @property
    def names(self) -> tuple[str, str]:
        return layer_name(self.producer), layer_name(self.follower)


def _pairs(function: Expr) -> list[_Pair]:
    """Everything whose form allows fusion, at most one pair per follower and per convolution."""
    order = {call: index for index, call in enumerate(calls(function))}
    readers = users(function)
    found = []
    for follower in order:
        if composite_name(follower) not in FOLLOWERS or not _fits(follower):
            continue
        own = [x for x in follower.args if composite_name(x) in PRODUCERS and len(readers[x]) == 1]
        own = [x for x in own if shape_of(x) == shape_of(follower.args[0])]
        # the last operand to be computed: otherwise the convolution would move behind the other one
        last = max((order.get(arg, -1) for arg in follower.args), default=-1)
        found += [_Pair(x, follower) for x in own if order[x] == last]
    return found


def _fits(follower: Expr) -> bool:
    """Whether each output value needs values of its own of the convolution's result, and of them all the same many."""
    draft = parse(follower)
    assert draft is not None
    if draft.op == "max_pool2d":
        return bool(draft.attrs["pool"] == draft.attrs["strides"] and not any(draft.attrs["padding"]))
    first, second = (shape_of(arg) for arg in follower.args)
    return first == second == shape_of(follower)


def fused_call(producer: Expr, follower: Expr) -> Expr:
    """One composite call that stands for both; its operands are the convolution's, then the follower's other one."""
    inputs = [relay.Var(f"in{i}", arg.checked_type) for i, arg in enumerate(producer.args)]
    others = {index: arg for index, arg in enumerate(follower.args) if not arg.same_as(producer)}
    residuals = {index: relay.Var(f"residual{index}", arg.checked_type) for index, arg in others.items()}
    inner = relay.Call(producer.op, inputs, producer.attrs, producer.type_args, producer.span)
    operands = [residuals.get(index, inner) for index in range(len(follower.args))]
    body = relay.Call(follower.op, operands, follower.attrs, follower.type_args, follower.span)
    bits = {"output": bits_of(follower)[0], "weights": list(bits_of(producer)[1])}
    function = relay.Function([*inputs, *residuals.values()], body)
    function = function.with_attr(COMPOSITE_ATTR, FUSED).with_attr(LAYER_ATTR, layer_name(producer))
    function = function.with_attr(BITS_ATTR, json.dumps(bits))
    return relay.Call(function, [*producer.args, *others.values()], None, None, producer.span)


class _Fusing(Rewriter):
    def __init__(self, pairs: Iterable[_Pair]) -> None:
        super().__init__()
        self.producer_of = {pair.follower: pair.producer for pair in pairs}

    def rewrite(self, call: Expr, original: Expr) -> Expr:
        producer = self.producer_of.get(original)
        if producer is None:
            return call
        fused = fused_call(producer, original)
        operands = [self.visit(arg) for arg in fused.args]
        return relay.Call(fused.op, operands, None, None, fused.span)


def _fuse(mod: Any, pairs: Iterable[_Pair]) -> Any:
    function = mod["main"]
    return with_main(mod, rebuild(function, _Fusing(pairs).run(function)))


# ---- what pays and what a plan wants


def _wanted(pair: _Pair, plan: Plan) -> bool | None:
    """Whether ``plan`` asks for the fusion; None where it leaves that open."""
    first, second = (plan.get(name) for name in pair.names)
    if second is not None and second.kernel != UNDECIDED:
        return second.kernel == FUSED_KERNEL
    return False if first is not None and first.kernel is None else None


def _refusal(site: Site, entry: LayerPlan | None) -> PlanError | None:
    """Why the fused layer cannot be run as the plan says for its convolution; None if it can."""
    if entry is None or not entry.kernel:
        return None
    # what may be overwritten is known only when all is fused
    own = dataclasses.replace(entry, config=in_place.without(entry.config))
    try:
        planned_options(site.layer, own)
    except PlanError as error:
        return error
    return None


def fuse(mod: Any, plan: Plan, kernel_set: KernelSet) -> Any:
    """See :func:`FuseEpilogues`."""
    plan.check_layers(layer_ops(read_sites(mod["main"])))
    pairs = [pair for pair in _pairs(mod["main"]) if _wanted(pair, plan) is not False]
    _refuse_impossible(plan, {pair.names[1] for pair in pairs})
    if kernel_set != "auto":
        pairs = [pair for pair in pairs if _wanted(pair, plan)]
    if not pairs:
        return mod
    alone, fused = _Network(mod), _Network(_fuse(mod, pairs))
    kept = []
    for pair in pairs:
        name, follower = pair.names
        refusal = _refusal(fused.sites[name], plan.get(name))
        able = fused.needs(name) is not None and refusal is None
        if _wanted(pair, plan) and not able:
            raise refusal or PlanError(
                f'no kernel computes it on the result of "{name}"',
                where=f'plan: layer "{follower}" is "{FUSED_KERNEL}"',
            )
        if able and (_wanted(pair, plan) or _is_small(alone, fused, pair)):
            kept.append(pair)
    result = _Network(_fuse(mod, kept))
    # fusion may change the order in which tensors come to life
    for pair in [pair for pair in reversed(kept) if not _wanted(pair, plan)]:
        if result.peak <= alone.peak:
            break
        kept.remove(pair)
        result = _Network(_fuse(mod, kept))
    return result.mod


class _Network:
    """A partitioned module, its layers, and the bytes of tensors alive at each of its steps."""

    def __init__(self, mod: Any) -> None:
        self.mod = mod
        self.sites: dict[str, Site] = {site.name: site for site in read_sites(mod["main"])}
        line = memory.timeline(mod["main"])
        self.live = dict(zip(line.steps, line.live(), strict=True))

    @property
    def peak(self) -> int:
        return max(self.live.values())

    def needs(self, name: str) -> int | None:
        """Bytes alive while the layer runs, with the least scratch that a kernel takes; None without a fast kernel."""
        layer = self.sites[name].layer
        scratch = [
            kernel.scratch_bytes(layer, kernel.configs(layer)[-1])
            for kernel in registry.kernels_for(layer)
            if not kernel.reference and registry.rejection(kernel, layer) is None
        ]
        return self.live[name] + min(scratch) if scratch else None


def _is_small(alone: _Network, fused: _Network, pair: _Pair) -> bool:
    """Whether the fused step needs no more memory than its two steps do, or than another one does anyway."""
    separate = [alone.needs(name) or 0 for name in pair.names]
    return (fused.needs(pair.names[0]) or 0) <= max(*separate, alone.peak)


def _refuse_impossible(plan: Plan, possible: set[str]) -> None:
    for entry in plan.layers:
        if entry.kernel == FUSED_KERNEL and entry.name not in possible:
            raise PlanError(
                "it cannot be computed by the layer that it reads",
                where=f'plan: layer "{entry.name}" is "{FUSED_KERNEL}"',
                hint="an addition or a pooling without padding is fused with a convolution that nothing else reads",
            )


def FuseEpilogues(plan: Plan | None = None, *, kernel_set: KernelSet = "auto") -> Any:  # noqa: N802 (named like TVM's)
    """Pass: a partitioned module's convolutions take in the ``add`` or ``max_pool2d`` that is their only reader.

    Fused are pairs that some kernel can run and that need no more memory together than one by one; and what ``plan``
    says: a follower with the kernel "fused" is fused, one with another kernel or none (null) is not. Kernel sets other
    than "auto" fuse what the plan asks for only: they are what speed is measured against.

    Raises:
        PlanError: the plan asks for a fusion that is impossible.
    """
    return module_pass("FuseEpilogues", lambda mod: fuse(mod, plan or Plan(), kernel_set))
