"""RQ inside morphing layers: every kernel's layers get bit-widths of their own.

A morphing network is as many networks as it has kernels. Each is planned as :mod:`rqdkm.planning` plans any network,
with its own REP and its own loss, but only in the layers that no other kernel runs: what all kernels share stays at 8
bits, and so does the result of the morphing layer, which has one quantization whichever kernel computes it. The plans
then are one plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from rqdkm.models import data as datasets
from rqdkm.planning import Limits, Planned, Planner, Progress, partition
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.morph.gather import FixKernel, kernel_layers
from rqdkm_tvm.parameters import Parameters
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.repair import Method

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
    kernel_set: KernelSet = "auto",
    progress: Progress = lambda _text: None,
) -> MorphPlanned:
    """The plan of least memory by which no kernel loses more than ``limits`` allow.

    Raises:
        DataError: too few samples to show so small a loss.
        BudgetError: a kernel loses more whatever its bit-widths.
    """
    mod = partition(model)
    layers = kernel_layers(mod)
    count = max(len(kernels) for kernels in layers)
    found: list[Planned] = []
    entries, parameters = {}, {}
    for k in range(count):
        mine = [kernels[k] for kernels in layers if k < len(kernels)]
        own = {name for names in mine for name in names}
        inner = own - {names[-1] for names in mine}
        planner = Planner(
            model,
            dataset,
            kernel_set=kernel_set,
            methods=METHODS,
            progress=lambda text, k=k: progress(f"kernel {k}: {text}"),  # type: ignore[misc]
            mod=FixKernel(k)(mod),
            only=(own, inner),
        )
        planned = planner.plan(limits)
        found.append(planned)
        for entry in planned.plan.layers:
            if entry.name in own or entry.name not in entries:
                entries[entry.name] = entry
        parameters.update({name: planned.parameters[name] for name in planned.parameters if name in own or k == 0})
    return MorphPlanned(Plan(list(entries.values())), Parameters(parameters), tuple(found))
