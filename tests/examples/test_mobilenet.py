"""The MobileNet example: seeded scenes, of different digits in every split, and two committed models for them."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt
import pytest

from rqdkm.models import load

EXAMPLE = Path(__file__).parents[2] / "examples" / "mobilenet"


@pytest.fixture
def dataset() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mobilenet_dataset", EXAMPLE / "dataset.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def digits() -> npt.NDArray[np.uint8]:
    """Strokes, no two alike."""
    rng = np.random.default_rng(0)
    images = np.zeros((5000, 28, 28, 1), np.uint8)
    images[:, 4:24, 8:20, 0] = rng.integers(1, 256, (5000, 20, 12))
    return images


@pytest.mark.parametrize("size", [96, 144])
def test_scenes_are_seeded_pictures_of_the_size_asked_for(
    dataset: ModuleType, digits: npt.NDArray[np.uint8], size: int
) -> None:
    first = dataset.scenes(digits[:6], size, 0)
    assert first.shape == (6, size, size, 3) and first.dtype == np.uint8
    assert np.array_equal(first, dataset.scenes(digits[:6], size, 0))
    assert not np.array_equal(first, dataset.scenes(digits[:6], size, 1))
    assert first.std() > 20 and len({image.tobytes() for image in first}) == 6


@pytest.mark.parametrize("size", [96, 144])
def test_a_digit_is_as_long_in_either_frame(
    dataset: ModuleType, digits: npt.NDArray[np.uint8], size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset, "TILT", 0)
    monkeypatch.setattr(dataset, "SLANT", 0)
    monkeypatch.setattr(dataset, "STRETCH", 0)
    rng = np.random.default_rng(0)
    lengths = [int((dataset.place(digits[0, ..., 0], size, rng) > 0.1).any(axis=1).sum()) for _ in range(200)]
    assert (
        38 <= min(lengths) < 44 and 68 < max(lengths) <= 76
    )  # ink is whole; interpolation takes or adds a pixel or two


def test_no_digit_is_in_the_scenes_of_two_splits(
    dataset: ModuleType, digits: npt.NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file as the command writes it, with the digits themselves for scenes."""
    labels = np.repeat(np.arange(10), 500)
    mnist = dataset.mnist()
    monkeypatch.setattr(mnist, "download", lambda: b"")
    monkeypatch.setattr(mnist, "digits", lambda data: (digits, labels))
    monkeypatch.setattr(dataset, "mnist", lambda: mnist)
    monkeypatch.setattr(dataset, "scene", lambda digit, size, rng: digit)
    number = {image.tobytes(): k for k, image in enumerate(digits)}
    seen: list[int] = []
    monkeypatch.setattr(sys, "argv", ["dataset.py", "--out", str(tmp_path / "all.npz")])
    dataset.main()
    everything = np.load(tmp_path / "all.npz")
    for name, count in (("train", 280), ("val", 120), ("test", 100)):
        y = everything[f"y_{name}"]
        found = [number[image.tobytes()] for image in everything[f"x_{name}"]]
        assert np.bincount(y).tolist() == [count] * 10 and np.array_equal(labels[found], y)
        seen += found
    assert sorted(seen) == list(range(5000))
    monkeypatch.setattr(sys, "argv", ["dataset.py", "--out", str(tmp_path / "val.npz"), "--only", "val"])
    dataset.main()
    part = np.load(tmp_path / "val.npz")
    assert np.array_equal(part["x"], everything["x_val"]) and np.array_equal(part["y"], everything["y_val"])


@pytest.mark.parametrize(("name", "size"), [("model.tflite", 96), ("model144.tflite", 144)])
def test_the_committed_models_take_the_scenes(name: str, size: int) -> None:
    assert (EXAMPLE / name).stat().st_size < 150_000
    model = load.load(EXAMPLE / name)
    assert model.inputs[0].shape == (1, size, size, 3) and model.outputs[0].shape == (1, 10)
    quantization = model.inputs[0].quantization
    assert quantization is not None
    assert np.isclose(quantization.scale, 1 / 255) and quantization.zero_point == -128
