"""The Relay passes, table of contents.

Every one is an ordinary ``tvm.transform`` pass; call them one by one or in a ``Sequential`` of your own. Order matters:

| pass                     | does                                                                                 |
|--------------------------|--------------------------------------------------------------------------------------|
| MorphConvolutions(x, ..) | of a float module, before it is quantized: 3x3 convolutions get further kernels       |
| StripBoundaryQuantize()  | float inputs/outputs that are quantized at once become int8; scales are recorded      |
| LegalizeQnn()            | canonical form: pad folded into convolution, one kind of reshape, no-ops removed      |
| PartitionLayers()        | what our kernels can run becomes composite functions ``rqdkm.<op>``, each with a name |
| AnnotateREP(calibration) | the sensitivity of every layer is left on the module (optional)                       |
| AssignBitwidths(plan, ..)| 8, 4 or 2 bits for weights and feature maps, written into the plan (optional)         |
| LowerMixedPrecision(plan)| the plan's bit-widths become integers, scales and clamps                              |
| ClassifyPatches(plan, ..)| VDPC: which patches have outliers, written into the plan's patches (optional)         |
| SearchBranchBitwidths(..)| VDQS: 8, 4 or 2 bits for the other patches' feature maps, likewise (optional)         |
| GatherMorphs()           | kernels of which one is chosen at run time become one layer                           |
| SchedulePatches(plan)    | the layers up to where the plan divides the network become one, run patch by patch    |
| FuseEpilogues(plan)      | an add or a max pooling joins the convolution that it alone reads                     |
| AssignKernels(plan, ..)  | every layer gets a kernel and a configuration; the plan is completed and checked      |
| LowerKernels(plan)       | composites become custom operators, one C symbol each; reshapes between them vanish   |

After the last, ``relay.build`` does the rest: custom operators call our C, everything else is compiled by TVM.
"""

from __future__ import annotations

from typing import Any

from rqdkm_tvm.assign import AssignKernels
from rqdkm_tvm.bitwidths.passes import AnnotateREP, AssignBitwidths
from rqdkm_tvm.boundary import StripBoundaryQuantize
from rqdkm_tvm.fuse import FuseEpilogues
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.legalize import LegalizeQnn
from rqdkm_tvm.lower import LowerKernels
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.morph.convert import MorphConvolutions
from rqdkm_tvm.morph.gather import GatherMorphs
from rqdkm_tvm.parameters import Parameters
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.patches.branches import SearchBranchBitwidths
from rqdkm_tvm.patches.classify import ClassifyPatches
from rqdkm_tvm.patches.schedule import SchedulePatches
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.tvm_import import relay, tvm


def prepare(mod: Any, params: dict[str, Any] | None = None) -> Any:
    """Bind ``params`` as constants and bring the module into canonical form (the first two passes)."""
    if params:
        mod["main"] = relay.build_module.bind_params_by_name(mod["main"], params)
    return tvm.transform.Sequential([relay.transform.InferType(), StripBoundaryQuantize(), LegalizeQnn()])(mod)


def offload(
    plan: Plan,
    *,
    parameters: Parameters | None = None,
    ram_budget: int | None = None,
    kernel_set: KernelSet = "auto",
) -> Any:
    """All passes that a plan needs as one ``tvm.transform.Sequential``; ``plan`` is completed while it runs."""
    return tvm.transform.Sequential(
        [
            relay.transform.InferType(),
            StripBoundaryQuantize(),
            LegalizeQnn(),
            PartitionLayers(),
            LowerMixedPrecision(plan, parameters),
            GatherMorphs(),
            SchedulePatches(plan, kernel_set=kernel_set),
            FuseEpilogues(plan, kernel_set=kernel_set),
            AssignKernels(plan, ram_budget=ram_budget, kernel_set=kernel_set),
            LowerKernels(plan),
        ],
        name="rqdkm.offload",
    )


__all__ = [
    "AnnotateREP",
    "AssignBitwidths",
    "AssignKernels",
    "ClassifyPatches",
    "FuseEpilogues",
    "GatherMorphs",
    "LegalizeQnn",
    "LowerKernels",
    "LowerMixedPrecision",
    "MorphConvolutions",
    "PartitionLayers",
    "SchedulePatches",
    "SearchBranchBitwidths",
    "StripBoundaryQuantize",
    "offload",
    "prepare",
]
