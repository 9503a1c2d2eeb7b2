"""The machinery example: a data set without leaks between machines, and the trained file that belongs to it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from rqdkm import pipeline, plan_files, plan_tools
from rqdkm.experiment import configurations
from rqdkm.models import data, load, oracle, reference
from rqdkm.models.load import LoadedModel
from rqdkm.options import DeployOptions
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare

EXAMPLE = Path(__file__).parents[2] / "examples" / "machinery"


@pytest.fixture(scope="module")
def dataset() -> ModuleType:
    sys.path.insert(0, str(EXAMPLE))
    try:
        import dataset

        return dataset
    finally:
        sys.path.remove(str(EXAMPLE))


def test_no_machine_is_in_two_splits(dataset: ModuleType) -> None:
    machines = [set(numbers) for numbers in dataset.SPLITS.values()]
    assert sum(map(len, machines)) == len(set().union(*machines)) == 100
    per_machine = len(dataset.CLASSES) * dataset.RECORDINGS
    assert per_machine * 100 == 10_000
    assert len(dataset.SPLITS["test"]) * per_machine >= 2_000


def test_the_same_seed_gives_the_same_images_and_another_does_not(dataset: ModuleType) -> None:
    first = dataset.machine_images(80, seed=0, noise=dataset.NOISE)
    assert np.array_equal(first, dataset.machine_images(80, seed=0, noise=dataset.NOISE))
    assert not np.array_equal(first, dataset.machine_images(80, seed=1, noise=dataset.NOISE))
    assert not np.array_equal(first, dataset.machine_images(81, seed=0, noise=dataset.NOISE))
    assert first.shape == (100, 32, 56) and first.dtype == np.uint8
    assert first.std() > 20  # pictures, not constants


@dataclass(frozen=True)
class Images:
    """Of the machines of the test split, as the model reads them."""

    inputs: Any
    labels: Any

    def right(self, outputs: Any) -> Any:
        return outputs.reshape(len(outputs), -1).argmax(axis=1) == self.labels[: len(outputs)]


@pytest.fixture(scope="module")
def network() -> LoadedModel:
    return load.load(EXAMPLE / "model.tflite")


@pytest.fixture(scope="module")
def images(dataset: ModuleType, network: LoadedModel) -> Images:
    machines = list(dataset.SPLITS["test"])
    pictures = np.concatenate([dataset.machine_images(number, seed=0, noise=dataset.NOISE) for number in machines])
    quantization = network.inputs[0].quantization
    assert quantization is not None
    labels = np.tile(np.repeat(np.arange(10), dataset.RECORDINGS), len(machines))
    return Images(data.quantize(dataset.normalise(pictures[..., None]), quantization), labels)


@pytest.fixture(scope="module")
def int8(network: LoadedModel, images: Images) -> Any:
    """Which images the int8 model gets right, by TFLite's own kernels."""
    return images.right(oracle.reference_outputs(network, [images.inputs])[0])


def integers(network: LoadedModel, plan: Path, inputs: Any) -> Any:
    """What the network of a plan says."""
    planned, parameters = plan_files.read(plan)
    lowered = LowerMixedPrecision(planned, parameters)(PartitionLayers()(prepare(network.module)))
    return reference.run_function(lowered["main"], [inputs])[0]


def test_the_int8_model_lands_between_90_and_94_per_cent(int8: Any) -> None:
    """Where the data set was tuned to, on all images of machines that it never saw."""
    assert len(int8) == 2500
    assert 0.90 <= int8.mean() <= 0.94


@pytest.mark.parametrize(("name", "feature_map_bits"), [("rq", {8}), ("w2a4", {4})])
def test_the_fine_tuned_two_bit_networks_keep_the_accuracy(
    name: str, feature_map_bits: set[int], network: LoadedModel, images: Images, int8: Any
) -> None:
    """Their integers, on all test images; plain rounding to these bits gets about one in six."""
    plan, _ = plan_files.read(EXAMPLE / name)
    assert all({bits for bits, _ in layer.weights} == {2} for layer in plan.layers)
    assert {layer.output.bits if layer.output else 8 for layer in plan.layers[:-1]} == feature_map_bits
    right = images.right(integers(network, EXAMPLE / name, images.inputs))
    assert right.mean() >= int8.mean() - 0.005
    assert right.mean() == pytest.approx(0.920, abs=0.003)  # what the pages say


@pytest.mark.parametrize("layer", ["classifier_1", "conv2_bn_1/batchnorm"])
def test_more_bits_for_one_layer_cost_no_accuracy(
    layer: str, network: LoadedModel, images: Images, tmp_path: Path
) -> None:
    """The weights that were trained for the others stay, and those of the layer go on fitting them."""
    plan_tools.edit(EXAMPLE / "rq" / "plan.json", tmp_path / "plan.json", layer, weights="8")
    before = integers(network, EXAMPLE / "rq", images.inputs[:200])
    after = integers(network, tmp_path, images.inputs[:200])
    assert images.right(after).mean() >= images.right(before).mean()


def test_another_scale_of_a_feature_map_costs_little(network: LoadedModel, images: Images, tmp_path: Path) -> None:
    """The biases of what reads it are in units of that scale, and follow it."""
    plan, _ = plan_files.read(EXAMPLE / "w2a4")
    entry = plan.get("conv4_bn_1/batchnorm")
    assert entry is not None and entry.output is not None
    output = f"8:{entry.output.scale / 16}:-128"
    path = EXAMPLE / "w2a4" / "plan.json"
    plan_tools.edit(path, tmp_path / "plan.json", entry.name, output=output, model=EXAMPLE / "model.tflite")
    before = images.right(integers(network, EXAMPLE / "w2a4", images.inputs[:200])).mean()
    after = images.right(integers(network, tmp_path, images.inputs[:200])).mean()
    assert after >= before - 0.02


def test_the_searched_plan_is_twice_as_fast_as_the_baseline_in_less_memory(tmp_path: Path) -> None:
    """The plan that ``make configurations`` finds, without the search and the samples that accuracy takes."""
    model = EXAMPLE / "model.tflite"
    plan = EXAMPLE / "searched" / "plan.json"
    reports = [
        pipeline.deploy(DeployOptions(model=model, out=tmp_path / "baseline", config="baseline", samples=1)),
        pipeline.deploy(DeployOptions(model=model, out=tmp_path / "rq", plan=plan, samples=1)),
    ]
    assert all(report.exactness is not None and report.exactness.mismatches == 0 for report in reports)
    cycles = [report.totals.cycles or 0 for report in reports]
    assert cycles[0] >= configurations.SPEED_UP * cycles[1] > 0
    assert configurations.memory(reports[1]) <= configurations.MEMORY * configurations.memory(reports[0])
