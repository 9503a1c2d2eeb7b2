"""Calibration and evaluation data: what is accepted, what numbers mean, and one clear error for everything else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rqdkm.models import data
from rqdkm.models.graph import per_tensor
from rqdkm.models.load import LoadedModel
from rqdkm_tvm.errors import DataError

Loaded = Callable[[str], LoadedModel]
IMAGES = "image_classification"  # (1, 32, 32, 3) int8, 10 classes, takes about -1..1
FLOATS = "image_example1.float32"  # (1, 96, 96, 1) float32, 3 classes


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def put(**arrays: np.ndarray) -> Path:
        np.savez(tmp_path / "data.npz", **arrays)
        return tmp_path / "data.npz"

    return put


def refuse(path: Path, model: LoadedModel, words: str) -> DataError:
    with pytest.raises(DataError, match=words) as caught:
        data.load_data(path, model)
    assert str(path) in caught.value.where
    return caught.value


def test_npz_with_labels(loaded: Loaded, save: Callable[..., Path]) -> None:
    x = np.random.default_rng(0).uniform(0, 255, (6, 32, 32, 3))
    found = data.load_data(save(x=x, y=np.arange(6)), loaded(IMAGES))
    assert len(found) == 6
    assert found.inputs[0].dtype == np.float32
    assert np.array_equal(found.labels, np.arange(6))
    assert len(found.head(2)) == len(found.head(2).labels) == 2


def test_first_array_and_limit(loaded: Loaded, save: Callable[..., Path]) -> None:
    path = save(frames=np.zeros((5, 32, 32, 3), np.uint8))
    assert len(data.load_data(path, loaded(IMAGES), limit=3)) == 3


def test_of_several_arrays_without_a_known_name_none_is_taken(loaded: Loaded, save: Callable[..., Path]) -> None:
    path = save(
        x_train=np.zeros((5, 32, 32, 3), np.uint8), y_train=np.zeros(5), x_val=np.zeros((2, 32, 32, 3), np.uint8)
    )
    with pytest.raises(DataError, match="x_train, y_train, x_val: which one") as caught:
        data.load_data(path, loaded(IMAGES))
    assert "as x and labels as y" in caught.value.hint


def test_npy(loaded: Loaded, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", np.zeros((4, 96, 96), np.float32))  # a channel of 1 may be left out
    assert data.load_data(tmp_path / "x.npy", loaded(FLOATS)).inputs[0].shape == (4, 96, 96, 1)


def test_int8_arrays_of_an_int8_model_are_taken_as_they_are(loaded: Loaded, save: Callable[..., Path]) -> None:
    model = loaded(IMAGES)
    x = np.random.default_rng(0).integers(-128, 128, (3, 32, 32, 3)).astype(np.int8)
    assert np.array_equal(data.quantize_inputs(data.load_data(save(x=x), model), model)[0], x)


def test_pixels_are_scaled_to_what_the_model_takes(loaded: Loaded, save: Callable[..., Path]) -> None:
    model = loaded(IMAGES)
    x = np.random.default_rng(0).integers(0, 256, (3, 32, 32, 3)).astype(np.uint8)
    found = data.load_data(save(x=x), model)
    assert np.allclose(found.inputs[0], x / 127.5 - 1, atol=1e-5)
    assert np.abs(data.quantize_inputs(found, model)[0] - (x.astype(int) - 128)).max() <= 1


def test_data_outside_the_models_range_is_pointed_out(
    loaded: Loaded, save: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    model = loaded(IMAGES)
    caplog.set_level("WARNING", logger="rqdkm")  # a command that ran before may have been --quiet
    data.quantize_inputs(data.load_data(save(x=np.full((2, 32, 32, 3), 200.0)), model), model)
    assert "scaled as in training" in caplog.text


def test_one_hot_labels(loaded: Loaded, save: Callable[..., Path]) -> None:
    found = data.load_data(save(x=np.zeros((3, 32, 32, 3)), y=np.eye(10)[[4, 0, 9]]), loaded(IMAGES))
    assert found.labels is not None
    assert found.labels.tolist() == [4, 0, 9]


def test_wrong_shape_says_both(loaded: Loaded, save: Callable[..., Path]) -> None:
    error = refuse(save(x=np.zeros((5, 28, 28, 1))), loaded(IMAGES), r"\(5, 28, 28, 1\)")
    assert "32, 32, 3" in error.what


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nan_and_infinity_name_the_sample(bad: float, loaded: Loaded, save: Callable[..., Path]) -> None:
    x = np.zeros((5, 32, 32, 3), np.float32)
    x[3, 4, 5, 1] = bad
    refuse(save(x=x), loaded(IMAGES), "sample 3")


@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (np.array([0, 1, 10]), "label 10 of sample 2"),
        (np.array([0, -1, 2]), "label -1 of sample 1"),
        (np.array([0, 1]), "one per sample"),
        (np.array([0.5, 1.0, 2.0]), "whole numbers"),
    ],
)
def test_bad_labels(labels: np.ndarray, words: str, loaded: Loaded, save: Callable[..., Path]) -> None:
    refuse(save(x=np.zeros((3, 32, 32, 3)), y=labels), loaded(IMAGES), words)


@pytest.mark.parametrize(
    ("array", "words"),
    [
        (np.zeros((0, 32, 32, 3)), "no samples"),
        (np.zeros((2, 32, 32, 3), complex), "complex"),
        (np.full((2, 32, 32, 3), "a"), "U1"),
        (np.float32(3.0), "shape"),
    ],
    ids=["empty", "complex", "text", "scalar"],
)
def test_wrong_types(array: np.ndarray, words: str, loaded: Loaded, save: Callable[..., Path]) -> None:
    refuse(save(x=array), loaded(IMAGES), words)


def test_damaged_files(loaded: Loaded, save: Callable[..., Path], tmp_path: Path) -> None:
    path = save(x=np.zeros((3, 32, 32, 3)))
    path.write_bytes(path.read_bytes()[:5000])
    refuse(path, loaded(IMAGES), "damaged")
    (tmp_path / "empty.npy").write_bytes(b"")
    refuse(tmp_path / "empty.npy", loaded(IMAGES), "empty")
    (tmp_path / "text.csv").write_text("1,2,3")
    refuse(tmp_path / "text.csv", loaded(IMAGES), "format")
    refuse(tmp_path / "nothing.npz", loaded(IMAGES), "no such file")
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    refuse(tmp_path / "objects.npy", loaded(IMAGES), "objects")


@pytest.fixture
def images(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("cat", "dog", "ant"):
        (tmp_path / "images" / name).mkdir(parents=True)
        for i in range(4):
            pixels = rng.integers(0, 256, (20, 30, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "images" / name / f"{i}.png")
    return tmp_path / "images"


def test_image_folders_give_labels_in_alphabetical_order(images: Path, loaded: Loaded) -> None:
    found = data.load_data(images, loaded(IMAGES))
    assert found.class_names == ("ant", "cat", "dog")
    assert found.labels is not None
    assert found.labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert found.inputs[0].shape == (12, 32, 32, 3)
    assert -1 <= found.inputs[0].min() < -0.8  # auto: this model takes about -1..1
    assert sorted(set(data.load_data(images, loaded(IMAGES), limit=3).labels)) == [0, 1, 2]


def test_images_are_made_gray_and_scaled_for_the_model(images: Path, loaded: Loaded) -> None:
    found = data.load_data(images / "cat", loaded(FLOATS))  # a folder without classes: no labels
    assert found.labels is None
    assert found.inputs[0].shape == (4, 96, 96, 1)
    assert 0 <= found.inputs[0].min() <= found.inputs[0].max() <= 1
    signed = data.load_data(images / "cat", loaded(FLOATS), normalise="-1..1").inputs[0]
    assert np.allclose(signed, found.inputs[0] * 2 - 1, atol=1e-5)
    with pytest.raises(DataError, match="normalisation"):
        data.load_data(images, loaded(FLOATS), normalise="zscore")


def test_broken_images_and_empty_folders(images: Path, loaded: Loaded, tmp_path: Path) -> None:
    (images / "cat" / "5.png").write_bytes(b"not an image")
    with pytest.raises(DataError) as caught:
        data.load_data(images, loaded(IMAGES))
    assert caught.value.where.endswith("5.png")
    (tmp_path / "nothing").mkdir()
    refuse(tmp_path / "nothing", loaded(IMAGES), "no images")
    refuse(images, loaded("tflite_micro_speech"), "image|cannot read")


def test_folders_are_refused_where_the_input_is_no_image(images: Path, loaded: Loaded) -> None:
    refuse(images, loaded("autoencoder_example"), "not an image")


def test_quantizing_rounds_ties_away_from_zero_and_saturates() -> None:
    q = per_tensor(0.5, 10)
    real = np.array([0.25, -0.25, 0.75, -0.75, 1000.0, -1000.0, 0.0], np.float32)
    assert data.quantize(real, q).tolist() == [11, 9, 12, 8, 127, -128, 10]
    values = np.arange(-128, 128).astype(np.int8)
    assert np.array_equal(data.quantize(data.dequantize(values, q), q), values)


def test_random_inputs_are_seeded_and_use_the_whole_range(loaded: Loaded) -> None:
    model = loaded(IMAGES)
    first, again, other = (data.random_inputs(model, 4, seed)[0] for seed in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert (first.min(), first.max()) == (-128, 127)
    assert np.array_equal(data.structured_inputs(model, 4, 1)[0], data.structured_inputs(model, 4, 1)[0])
