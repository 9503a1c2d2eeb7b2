"""Whole models: int8, mixed precision, patches, and both together; as TFLM runs them and as TVM's firmware does."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import rqdkm_tvm
from rqdkm import plan_files, planning
from rqdkm.models import load, zoo
from rqdkm.tflm import generated, portable
from rqdkm.tflm.generated import Converted
from rqdkm_tvm.compile import CompiledModel
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.morph.gather import GatherMorphs
from rqdkm_tvm.parameters import Parameters
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.plan import LayerPlan, OutputPlan, Plan
from rqdkm_tvm.plan_patches import PatchPlan
from rqdkm_tvm.sites import read_io, read_sites
from rqdkm_tvm.tvm_import import relay
from tests.models import morphs
from tests.morph import networks
from tests.passes import graphs

Array = npt.NDArray[Any]
ROOT = Path(__file__).parents[2]
MACHINERY = ROOT / "examples" / "machinery"
SAMPLES = 4


@dataclass(frozen=True, eq=False)
class Case:
    """A model and what is to be done to it."""

    module: Any
    plan: Plan
    parameters: Parameters | None
    output_names: tuple[str, ...]

    @cache  # noqa: B019 (there are few, and they live as long as the run)
    def compiled(self) -> CompiledModel:
        return rqdkm_tvm.compile_model(
            self.module, plan=self.plan, parameters=self.parameters, output_names=list(self.output_names)
        )

    @cache  # noqa: B019
    def generated(self) -> Converted:
        return generated.convert(self.compiled(), "case")

    def portable(self) -> Converted:
        mod = LowerMixedPrecision(self.plan, self.parameters)(PartitionLayers()(planning.prepare(self.module)))
        mod = GatherMorphs()(mod)
        return portable.convert(mod, "case", read_io(mod["main"], list(self.output_names)))

    def inputs(self) -> list[Array]:
        rng = np.random.default_rng(3)
        shapes = [item.tensor.shape[1:] for item in self.compiled().inputs]
        return [rng.integers(-128, 128, (SAMPLES, *shape)).astype(np.int8) for shape in shapes]


def _file(path: Path, plan: Plan | None = None, parameters: Parameters | None = None) -> Case:
    model = load.load(path)
    return Case(model.module, plan or Plan(), parameters, tuple(model.output_names))


def _int8() -> Case:
    return _file(zoo.path("keyword_spotting"))


def _mixed() -> Case:
    return _file(MACHINERY / "model.tflite", *plan_files.read(MACHINERY / "w2a4" / "plan.json"))


def _random() -> Case:
    """Branches, additions and poolings of maps of 4 and 2 bits, weights of three widths within layers."""
    graphs.reseed()
    x = graphs.image(8, 8, 4)
    pooled = graphs.max_pool(graphs.conv2d(x, 8))
    left = graphs.conv2d(pooled, 8, in_channels=8, s_in=0.06)
    right = graphs.conv2d(pooled, 8, in_channels=8, s_in=0.06, depthwise=True, clip=False)
    last = graphs.conv2d(graphs.add(left, right, clip=True), 4, in_channels=8, s_in=0.09, z_in=-5)
    module = graphs.module(relay.clip(graphs.average_pool(last), -128, 100))
    names = [site.name for site in read_sites(PartitionLayers()(module)["main"])]
    plan = Plan(
        [
            LayerPlan(names[0], "conv2d", weights=((4, 4), (8, 4)), output=OutputPlan(4, 0.9, -8)),
            LayerPlan(names[2], "conv2d", weights=((2, 2), (4, 6))),
            LayerPlan(names[3], "depthwise_conv2d", weights=((4, 4), (2, 4)), output=OutputPlan(4, 0.8, 1)),
            LayerPlan(names[4], "add", output=OutputPlan(2, 3.0, -1)),
        ]
    )
    return Case(module, plan, None, ())


def _patches() -> Case:
    """Rows kept from patch to patch, and a branch with narrower maps."""
    branch = {"conv1_bn_1/batchnorm": OutputPlan(4, 0.4, -8)}
    patches = PatchPlan("conv4_bn_1/batchnorm", (4, 1), "lines", "frame", ({}, branch), ((0,), (1,), (1,), (0,)))
    plan, parameters = plan_files.read(MACHINERY / "rq" / "plan.json")
    plan.patches = patches
    return _file(MACHINERY / "model.tflite", plan, parameters)


def _callback() -> Case:
    """The application hands over the frame: the model has no input tensor."""
    patches = PatchPlan("conv3_bn_1/batchnorm", (2, 2), "recompute", "callback")
    return _file(MACHINERY / "model.tflite", Plan(patches=patches))


def _morph() -> Case:
    """Two morphing layers of five kernels; the safe one runs."""
    return Case(networks.network(), Plan(), None, ())


def _morph_file() -> Case:
    """The like, from a model file: safe kernels differ, one layer has a stride."""
    model = morphs.int8_model()
    return Case(model.module, Plan(), None, tuple(model.output_names))


CASES: dict[str, Callable[[], Case]] = {
    "int8": _int8,
    "mixed": _mixed,
    "random": _random,
    "patches": _patches,
    "callback": _callback,
    "morph": _morph,
    "morph file": _morph_file,
}


@cache
def case(name: str) -> Case:
    return CASES[name]()
