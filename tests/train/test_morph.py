"""``MorphConv2D``: what its exported files compute, and (with TensorFlow) the layer and its training themselves."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rqdkm.models import float_run, load, morph_file, quantize
from rqdkm.models.data import Dataset
from rqdkm.models.graph import layer_names
from rqdkm.train import finetune
from rqdkm_tvm.compile import compile_model
from tests.train.task import samples

HERE = Path(__file__).parent
MODEL, ANSWERS, FRESH = "morph_keras.tflite", "morph_keras.npz", "fresh.npz"
FIRST = ("3x3", "5x5", "separable 3x3", "1x1", "3x3 dilated")
SECOND = ("3x3", "5x5", "separable 3x3", "3x3 in 2 groups", "3x3 dilated")
REASONS = (
    "is no kernel",
    "different kernels",
    "1 to 5",
    "no kernel 1 that could be safe",
    '"gelu" is none of',
    "share needs two plain kernels",
    "2x2 is not the middle of 3x3",
    "cannot be in 2 groups",
    "same number of kernels",
    "not of shape (7, 4)",
    "not of shape (8, 1)",
    "augment them before",
)

needs_tensorflow = pytest.mark.skipif(
    not os.environ.get(finetune.PYTHON_VARIABLE), reason=f"{finetune.PYTHON_VARIABLE} names no Python with TensorFlow"
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained and exported now."""
    folder = tmp_path_factory.mktemp("keras")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(("plugin", "tvm_passes", "."))}
    command = [os.environ[finetune.PYTHON_VARIABLE], "-m", "tests.train.morph_fixture", str(folder)]
    done = subprocess.run(command, cwd=HERE.parents[1], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return folder


def check_file(folder: Path) -> None:
    """Every kernel of the file gives what Keras gave: shared weights, normalisation, strides, groups and all."""
    model = load.load(folder / MODEL)
    answers = np.load(folder / ANSWERS)["answers"]
    x, _ = samples(answers.shape[1], 3)
    for kernel, wanted in enumerate(answers):
        found = float_run.run_float(morph_file.fixed(model.graph, kernel), [x])[0]
        assert np.abs(found - wanted).max() < 1e-5, FIRST[kernel]
    assert len({answer.round(3).tobytes() for answer in answers}) == len(FIRST)


def test_the_stored_file_computes_what_keras_does() -> None:
    check_file(HERE)


def test_names_and_products_are_those_of_the_compiler() -> None:
    model = load.load(HERE / MODEL)
    x, _ = samples(48, 4)
    found = quantize.quantize_and_compare(model, Dataset((x,), None, "samples"))
    assert min(found.kernels) > 0.9 and len(found.kernels) == len(FIRST)
    compiled = compile_model(found.model.module)
    libraries = {layer.layer.name: layer.layer.library for layer in compiled.layers}
    one, two = libraries["one"], libraries["two"]
    assert one is not None and two is not None
    assert [path.name for path in one.paths] == list(FIRST) and one.safe == 0
    assert [path.name for path in two.paths] == list(SECOND) and two.safe == 2
    assert [path.macs for path in two.paths] == np.load(HERE / ANSWERS)["macs"].tolist()
    assert {"one/5x5", "two/separable 3x3/depthwise", "two/separable 3x3/pointwise"} <= set(layer_names(model.graph))


@needs_tensorflow
@pytest.mark.slow
def test_a_file_exported_now_computes_what_keras_does(made: Path) -> None:
    check_file(made)


@needs_tensorflow
@pytest.mark.slow
def test_every_kernel_learns(made: Path) -> None:
    accuracy = np.load(made / ANSWERS)["accuracy"]
    assert accuracy.shape == (5,) and accuracy.min() > 0.5  # a quarter by chance


@needs_tensorflow
@pytest.mark.slow
def test_kernels_learn_what_teachers_answer(made: Path) -> None:
    """These teachers are wrong, all but the leader believe them: it learns the labels in full, too."""
    wrong, true = np.load(made / FRESH)["taught"]
    leader = FIRST.index("5x5")
    assert np.delete(wrong, leader).min() > 0.5 and wrong[leader] > 0.3
    assert np.delete(true, leader).max() < 0.25 < true[leader]


@needs_tensorflow
@pytest.mark.slow
def test_inputs_are_augmented(made: Path) -> None:
    assert np.load(made / FRESH)["augmented"].max() < 0.2  # learned upside down


@needs_tensorflow
@pytest.mark.slow
def test_the_same_seed_gives_the_same_weights(made: Path) -> None:
    first, again, other = np.load(made / FRESH)["repeated"]
    assert np.array_equal(first, again) and not np.allclose(first, other)


@needs_tensorflow
@pytest.mark.slow
def test_models_are_saved_with_their_kernels(made: Path) -> None:
    facts = np.load(made / ANSWERS)
    assert np.array_equal(facts["answers"], facts["reloaded"])
    assert facts["unknown"].tolist() == [0, 2]  # a kernel that there is not: the safe one
    assert facts["maps"].tolist() == [9 * 25, 9]  # 5x5 to 3x3, 3x3 to 1x1
    assert len({call.tobytes() for call in np.load(made / FRESH)["calls"]}) == 5


@needs_tensorflow
@pytest.mark.slow
def test_layers_that_cannot_be_say_why(made: Path) -> None:
    found = np.load(made / ANSWERS)["refusals"]
    for text, reason in zip(found, REASONS, strict=True):
        assert reason in text
