"""RQ inside morphing layers: every kernel's layers get bit-widths of their own.

A morphing network is as many networks as it has kernels. Each is planned as :mod:`rqdkm.planning` plans any network,
with its own REP and its own loss, but only in the layers that no other kernel runs: what all kernels share stays at 8
bits, and so does the result of the morphing layer, which has one quantization whichever kernel computes it. The plans
then are one plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rqdkm.models import data as datasets
from rqdkm.options import OptionError
from rqdkm.planning import Limits, Planned, Planner, Progress, partition
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.mixed import planned_parameters
from rqdkm_tvm.morph.gather import FixKernel, kernel_layers, kernel_names
from rqdkm_tvm.parameters import Parameters
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.repair import Method
from rqdkm_tvm.sites import read_sites

if TYPE_CHECKING:
    from rqdkm.models.load import LoadedModel

METHODS: tuple[Method, ...] = ("round", "bias")  # equalisation would rescale what kernels share


@dataclass(frozen=True)
class MorphPlanned:
    """One plan for all kernels, and how each kernel's part was found."""

    plan: Plan
    parameters: Parameters
    kernels: tuple[Planned, ...]


def morphs(model: LoadedModel) -> bool:
    """Whether the model has morphing layers."""
    return bool(kernel_layers(partition(model)))


def plan(
    model: LoadedModel,
    dataset: datasets.Dataset,
    limits: Limits,
    *,
    drops: Mapping[str, float] | None = None,
    kernel_set: KernelSet = "auto",
    progress: Progress = lambda _text: None,
) -> MorphPlanned:
    """The plan of least memory by which no kernel loses more than ``limits`` allow.

    Args:
        drops: by kernel's name, points of accuracy that it may lose instead; the others then stay at 8 bits.

    Raises:
        DataError: too few samples to show so small a loss.
        BudgetError: a kernel loses more whatever its bit-widths.
        OptionError: there is no kernel of such a name.
    """
    mod = partition(model)
    layers, names = kernel_layers(mod), kernel_names(mod)
    if unknown := set(drops or ()) - set(names):
        raise OptionError(
            f"there is no kernel {sorted(unknown)[0]!r}", where="--kernel-drop", hint=f"there are {', '.join(names)}"
        )
    found: list[Planned] = []
    entries, parameters = {}, {}
    for k, kernel in enumerate(names):
        if drops and kernel not in drops:
            continue
        mine = [kernels[k] for kernels in layers if k < len(kernels)]
        own = {name for chain in mine for name in chain}
        inner = own - {chain[-1] for chain in mine}
        planner = Planner(
            model,
            dataset,
            kernel_set=kernel_set,
            methods=METHODS,
            progress=lambda text, kernel=kernel: progress(f"{kernel}: {text}"),  # type: ignore[misc]
            mod=FixKernel(k)(mod),
            only=(own, inner),
        )
        planned = planner.plan(dataclasses.replace(limits, max_drop=drops[kernel]) if drops else limits)
        found.append(planned)
        for entry in planned.plan.layers:
            if entry.name in own or entry.name not in entries:
                entries[entry.name] = entry
        for name in planned.parameters:
            if name in own or name not in parameters:
                parameters[name] = planned.parameters[name]
    for layer in (site.layer for site in read_sites(mod["main"])):  # of kernels that keep 8 bits
        if layer.weights is not None and layer.name not in parameters:
            parameters[layer.name] = planned_parameters(layer, None, layer.inputs[0].scale)
    return MorphPlanned(Plan(list(entries.values())), Parameters(parameters), tuple(found))
