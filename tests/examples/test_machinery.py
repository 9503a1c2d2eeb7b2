"""The machinery example: a data set without leaks between machines, and the trained file that belongs to it."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

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


def test_the_int8_model_lands_where_the_data_set_was_tuned_to(dataset: ModuleType) -> None:
    """Nine of ten right on machines it never saw: here on 1,000 of the 2,500 test images, by TFLite's own kernels."""
    from rqdkm.models import data, load, oracle

    machines = list(dataset.SPLITS["test"])[:10]
    images = np.concatenate([dataset.machine_images(number, seed=0, noise=dataset.NOISE) for number in machines])
    labels = np.tile(np.repeat(np.arange(10), dataset.RECORDINGS), len(machines))
    model = load.load(EXAMPLE / "model.tflite")
    quantization = model.inputs[0].quantization
    assert quantization is not None
    inputs = data.quantize(dataset.normalise(images[..., None]), quantization)
    outputs = oracle.reference_outputs(model, [inputs])[0]
    accuracy = float((outputs.reshape(len(labels), -1).argmax(axis=1) == labels).mean())
    assert 0.88 <= accuracy <= 0.96


def test_the_fine_tuned_two_bit_network_keeps_the_accuracy(dataset: ModuleType) -> None:
    """Its integers, on 500 images of machines nobody trained on; plain rounding to these bits gets about one in six."""
    from rqdkm.models import data, load
    from rqdkm.train.finetune import run_integers
    from rqdkm_tvm.mixed import LowerMixedPrecision
    from rqdkm_tvm.parameters import Parameters
    from rqdkm_tvm.partition import PartitionLayers
    from rqdkm_tvm.passes import prepare
    from rqdkm_tvm.plan import Plan

    plan = Plan.from_json((EXAMPLE / "w2a4" / "plan.json").read_text())
    file = EXAMPLE / "w2a4" / "parameters.npz"
    assert plan.parameters is not None
    assert plan.parameters.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert all({bits for bits, _ in layer.weights} == {2} for layer in plan.layers)
    assert all(layer.output is None or layer.output.bits == 4 for layer in plan.layers)
    model = load.load(EXAMPLE / "model.tflite")
    lowered = LowerMixedPrecision(plan, Parameters.load(file))(PartitionLayers()(prepare(model.module)))
    quantization = model.inputs[0].quantization
    assert quantization is not None
    right = 0
    for number in list(dataset.SPLITS["test"])[:5]:
        images = dataset.machine_images(number, seed=0, noise=dataset.NOISE)
        logits = run_integers(lowered, [data.quantize(dataset.normalise(images[..., None]), quantization)])
        right += int((logits.argmax(axis=1) == np.repeat(np.arange(10), dataset.RECORDINGS)).sum())
    assert 0.85 <= right / 500 <= 0.99
