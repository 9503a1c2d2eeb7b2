"""Train the morphing machinery CNN ([train] extra: TensorFlow, its own process).

    python examples/machinery/train_morph.py --data .cache/machinery.npz --out morph

Two teachers with plain 3x3 convolutions (the network of train.py) are trained first, to answer together; then the
morphing network with its leading kernels, then each other kernel alone with the rest fixed, then all of them, at last
by the better teacher alone, which is written as plain.float32.tflite, too. What they see is augmented more than
train.py's network was: shifted by a band, reversed in time, noise of many strengths, since kernels are chosen by it.
"""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import numpy as np
import tensorflow as tf
from dataset import BANDS, FRAMES, normalise

from rqdkm.train.morph import Fixed, Judged, train_jointly
from rqdkm.train.morph_export import export_tflite
from rqdkm.train.morph_layer import MorphConv2D
from train import build as plain

L = tf.keras.layers
KERNELS = ("3x3", "5x5", "separable 3x3", "separable 5x5", "1x1")
TEACHERS = 2


def build(shape: tuple[int, int, int] = (BANDS, FRAMES, 1), classes: int = 10) -> tf.keras.Model:
    """The baseline's widths; its second and third convolution morph and take the place of the poolings behind them."""

    def normalised(x: tf.Tensor, name: str) -> tf.Tensor:
        return L.ReLU(name=f"{name}_relu")(L.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x))

    def separable(x: tf.Tensor, channels: int, name: str) -> tf.Tensor:
        depthwise = L.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
        x = normalised(depthwise, f"{name}_depthwise")
        return normalised(L.Conv2D(channels, 1, use_bias=False, name=name)(x), name)

    inputs = tf.keras.Input(shape)
    x = normalised(L.Conv2D(16, 3, padding="same", use_bias=False, name="conv1")(inputs), "conv1")
    x = MorphConv2D(16, KERNELS, strides=2, name="morph2")(x)
    x = MorphConv2D(32, KERNELS, strides=2, name="morph3")(x)
    x = L.MaxPooling2D(2)(separable(x, 48, "conv4"))
    x = separable(x, 48, "conv5")
    x = L.GlobalAveragePooling2D()(x)
    x = L.Dropout(0.1)(x)
    return tf.keras.Model(inputs, L.Dense(classes, activation="softmax", name="classifier")(x), name="morphing")


def augment(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Recordings start anywhere, machines run a little faster or slower, sensors differ in gain and noise."""
    image = tf.roll(image, tf.random.uniform((), 0, FRAMES, tf.int32), axis=1)
    image = tf.cond(tf.random.uniform(()) < 0.5, lambda: image, lambda: image[:, ::-1])
    bands = tf.clip_by_value(tf.range(BANDS) + tf.random.uniform((), -1, 2, tf.int32), 0, BANDS - 1)
    image = tf.gather(image, bands) * (1.0 + tf.random.normal((), 0.0, 0.1)) + tf.random.normal((), 0.0, 0.05)
    image += (0.02 + tf.abs(tf.random.normal((), 0.0, 0.07))) * tf.random.normal(tf.shape(image))
    return tf.clip_by_value(image, -1.0, 1.0), label


def train_teacher(data: Any, epochs: int, seed: int) -> tf.keras.Model:
    tf.keras.utils.set_random_seed(seed)
    x, y = normalise(data["x_train"]), data["y_train"]
    train = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed).map(augment).batch(64)
    model = plain()
    rate = tf.keras.optimizers.schedules.CosineDecay(3e-3, epochs * (len(x) // 64 + 1))
    rule = tf.keras.optimizers.AdamW(rate, weight_decay=1e-3)
    model.compile(rule, "sparse_categorical_crossentropy", metrics=["accuracy"])
    validation = (normalise(data["x_val"]), data["y_val"])
    model.fit(train.prefetch(1), validation_data=validation, validation_freq=10, epochs=epochs, verbose=2)
    return model


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the morphing machinery CNN.")
    parser.add_argument("--data", type=Path, required=True, help="the .npz of dataset.py")
    parser.add_argument("--out", type=Path, required=True, help="directory for the model files")
    parser.add_argument(
        "--teacher", type=Path, action="append", help="a .keras model to learn from; else two are trained"
    )
    parser.add_argument(
        "--leader", choices=KERNELS, default="separable 5x5", help="trained first, with all that kernels share"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    data = np.load(options.data)
    options.out.mkdir(parents=True, exist_ok=True)

    files = options.teacher or [options.out / f"teacher{number}.keras" for number in range(TEACHERS)]
    if not options.teacher:
        for number, file in enumerate(files):
            train_teacher(data, 40, options.seed + number).save(file)
    teachers = [tf.keras.models.load_model(file) for file in files]
    splits = {name: (normalise(data[f"x_{name}"]), data[f"y_{name}"]) for name in ("train", "val")}
    right = [np.mean(x.predict(splits["val"][0], verbose=0).argmax(1) == splits["val"][1]) for x in teachers]
    for file, share in zip(files, right, strict=True):
        print(f"{file}: {share:.4f} of the validation samples")

    best = teachers[int(np.argmax(right))]

    def show(judged: Judged) -> None:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in zip(KERNELS, judged.accuracy, strict=True))
        print(f"epoch {judged.epoch}: loss {judged.loss:.3f}; {shown}")
        sys.stdout.flush()

    model = build()

    def learn(
        epochs: int, rate: float, kernels: Sequence[int], fixed: Fixed, by: Sequence[tf.keras.Model], seed: int = 0
    ) -> None:
        train_jointly(
            model,
            splits["train"],
            splits["val"],
            epochs=epochs,
            rate=rate,
            decay=1e-3,
            seed=options.seed + seed,
            augment=augment,
            teachers=[functools.partial(teacher, training=False) for teacher in by],
            kernels=kernels,
            fixed=fixed,
            sampled=len(KERNELS),
            distill=0.8,
            progress=show,
        )

    every = range(len(KERNELS))
    leader = KERNELS.index(options.leader)
    learn(40, 4e-3, [leader], "nothing", teachers)
    for kernel in every:
        if kernel != leader:
            learn(25, 4e-3, [kernel], "rest", teachers)
    learn(25, 2e-3, every, "norms", teachers)
    learn(40, 2e-3, every, "norms", [best], seed=1)
    model.save(options.out / "model.keras")
    export_tflite(model, options.out / "model.float32.tflite")
    plain_file = tf.lite.TFLiteConverter.from_keras_model(best).convert()
    (options.out / "plain.float32.tflite").write_bytes(plain_file)  # what training alone makes of the baseline


if __name__ == "__main__":
    main()
