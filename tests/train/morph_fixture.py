"""The training process of the tests of ``MorphConv2D``, and what makes their stored files.

    PYTHONPATH=plugin:tvm_passes:. .venv-train/bin/python -m tests.train.morph_fixture FOLDER

FOLDER then holds the exported file of a small network (``morph_keras.tflite``) and what Keras answers with every kernel
(``morph_keras.npz``). Copied to tests/train, these two are the fixture with which everything but training is tested.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
import numpy as np
import tensorflow as tf

from rqdkm.train.morph import train_jointly
from rqdkm.train.morph_export import export_tflite
from rqdkm.train.morph_layer import MorphConv2D, use_kernel
from tests.train.task import CLASSES, samples

MODEL, ANSWERS, FRESH = "morph_keras.tflite", "morph_keras.npz", "fresh.npz"
FIRST = ("3x3", "5x5", "separable 3x3", "1x1", "3x3 dilated")
SECOND = ("3x3", "5x5", "separable 3x3", "3x3 in 2 groups", "3x3 dilated")
EPOCHS, CHECKED = 10, 16


def build() -> Any:
    inputs = tf.keras.Input((8, 8, 2))
    x = tf.keras.layers.Conv2D(4, 3, padding="same", use_bias=False, name="stem")(inputs)
    x = tf.keras.layers.BatchNormalization(momentum=0.9, name="stem_bn")(x)
    x = tf.keras.layers.ReLU(name="stem_relu")(x)
    x = MorphConv2D(4, FIRST, share=True, name="one")(x)
    x = MorphConv2D(6, SECOND, strides=2, activation="relu6", safe=2, inner_activation=None, name="two")(x)
    x = tf.keras.layers.Flatten(name="flat")(x)
    x = tf.keras.layers.Dense(CLASSES, name="classifier")(x)
    return tf.keras.Model(inputs, tf.keras.layers.Softmax(name="softmax")(x), name="small")


def trained(epochs: int, seed: int = 0, **options: Any) -> tuple[Any, Any]:
    tf.keras.utils.set_random_seed(seed)
    model = build()
    judged = train_jointly(
        model, samples(384, 1), samples(192, 2), epochs=epochs, batch=32, rate=5e-3, seed=seed, every=epochs, **options
    )
    return model, judged[-1]


def taught() -> np.ndarray:
    """Mean probabilities, per kernel: of the class behind the true one, which teachers answer, and of the true one."""
    _, y = samples(384, 1)
    model, _ = trained(EPOCHS, answers=0.99 * np.eye(CLASSES)[(y + 1) % CLASSES] + 0.01 / CLASSES, distill=1.0)
    x, y = samples(192, 2)
    found = answers(model, x)
    return np.stack([found[:, np.arange(len(x)), (y + shift) % CLASSES].mean(axis=1) for shift in (1, 0)])


def augmented() -> np.ndarray:
    """Validation accuracy per kernel of training whose inputs are turned upside down and whose labels are not."""
    _, judged = trained(EPOCHS, augment=lambda x, y: (x[::-1], y))
    return np.array(judged.accuracy)


def answers(model: Any, x: Any) -> Any:
    found = []
    for kernel in range(len(FIRST)):
        use_kernel(model, kernel)
        found.append(model.predict(x, verbose=0))
    return np.stack(found)


def facts(folder: Path) -> dict[str, Any]:
    """Of the layer and its training, for the tests to judge."""
    x, _ = samples(CHECKED, 3)
    model, judged = trained(EPOCHS)
    export_tflite(model, folder / MODEL, x)
    before = answers(model, x)
    layer = model.get_layer("one")
    calls = np.stack([np.asarray(layer(x[:, :, :, [0, 1, 0, 1]], kernel=k)) for k in range(len(FIRST))])
    model.save(folder / "model.keras")
    again = tf.keras.models.load_model(folder / "model.keras")
    use_kernel(again, 99)
    unknown = [int(again.get_layer(name).kernel) for name in ("one", "two")]
    return {
        "answers": before,
        "reloaded": answers(again, x),
        "unknown": np.array(unknown),
        "accuracy": np.array(judged.accuracy),
        "calls": calls,
        "macs": np.array([model.get_layer("two").macs(k) for k in range(len(SECOND))]),
        "maps": np.array([np.asarray(v).size for v in layer.weights if "map_" in v.path]),
    }


def repeated() -> np.ndarray:
    """Weights after a short training, twice with one seed and once with another."""
    found = []
    for seed in (1, 1, 2):
        model, _ = trained(1, seed)
        found.append(np.concatenate([np.ravel(np.asarray(v)) for v in model.trainable_variables]))
    return np.stack(found)


def refusals() -> list[str]:
    """What is wrong with layers that cannot be."""
    cases: list[Any] = [
        lambda: MorphConv2D(4, ("4y4",)),
        lambda: MorphConv2D(4, ("3x3", "3x3")),
        lambda: MorphConv2D(4, ("3x3",) * 6),
        lambda: MorphConv2D(4, ("3x3",), safe=1),
        lambda: MorphConv2D(4, ("3x3", "1x1"), activation="gelu"),
        lambda: MorphConv2D(4, ("3x3", "separable 3x3"), share=True),
        lambda: MorphConv2D(4, ("3x3", "2x2"), share=True),
        lambda: MorphConv2D(5, ("3x3 in 2 groups",))(tf.zeros((1, 4, 4, 4))),
        lambda: train_jointly(tf.keras.Sequential([tf.keras.Input((4,))]), samples(), samples()),
        lambda: train_jointly(build(), samples(8, 1), samples(8, 2), answers=np.zeros((7, CLASSES))),
        lambda: train_jointly(build(), samples(8, 1), samples(8, 2), answers=np.zeros((8, 1))),
        lambda: train_jointly(
            build(), samples(8, 1), samples(8, 2), answers=np.zeros((8, CLASSES)), augment=lambda x, y: (x, y)
        ),
    ]
    found = []
    for case in cases:
        try:
            case()
            found.append("")
        except ValueError as error:
            found.append(str(error).splitlines()[0])
    return found


def main(folder: Path) -> None:
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    found = facts(folder)
    np.savez_compressed(
        folder / FRESH, repeated=repeated(), calls=found.pop("calls"), taught=taught(), augmented=augmented()
    )
    np.savez_compressed(folder / ANSWERS, refusals=np.array(refusals()), **found)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
