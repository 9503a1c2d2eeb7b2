"""The MNIST example: a split without an image in two parts, and a committed model that takes its images."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from rqdkm.models import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "mnist"


@pytest.fixture(scope="module")
def dataset() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mnist_dataset", EXAMPLE / "dataset.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_image_is_in_one_split_and_every_digit_as_often(dataset: ModuleType) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(10), 500))
    numbers = np.arange(5000).reshape(-1, 1)  # stand for images
    parts = dataset.split(numbers, labels)
    for name, count in (("train", 350), ("val", 50), ("test", 100)):
        assert np.bincount(parts[f"y_{name}"]).tolist() == [count] * 10
        assert np.array_equal(labels[parts[f"x_{name}"][:, 0]], parts[f"y_{name}"])
    together = np.concatenate([parts[f"x_{name}"] for name in ("train", "val", "test")])
    assert sorted(together[:, 0].tolist()) == list(range(5000))
    again, other = dataset.split(numbers, labels), dataset.split(numbers, labels, seed=1)
    assert np.array_equal(parts["x_test"], again["x_test"]) and not np.array_equal(parts["x_test"], other["x_test"])


def test_the_committed_model_takes_the_images(dataset: ModuleType) -> None:
    assert (EXAMPLE / "model.tflite").stat().st_size < 60_000
    model = load.load(EXAMPLE / "model.tflite")
    assert model.inputs[0].shape == (1, 28, 28, 1) and model.outputs[0].shape == (1, 10)
    real = dataset.normalise(np.array([0, 255], np.uint8))
    quantization = model.inputs[0].quantization
    assert quantization is not None
    steps = np.rint(real / quantization.scale) + quantization.zero_point
    assert steps.tolist() == [-128, 127]
