"""Train the morphing machinery CNN ([train] extra: TensorFlow, its own process).

    python examples/machinery/train_morph.py --data .cache/machinery.npz --out morph

Two teachers, wider than the network of train.py, are trained first. Together they answer a pool of training images,
augmented more than train.py's were: shifted by a band, reversed in time, noise of many strengths, since kernels are
chosen by it. From the pool learns the morphing network: its leading kernel, then each other kernel alone with the rest
fixed, then all of them, at last from a second pool. From the first learns the network of train.py, too, which becomes
plain.float32.tflite.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from dataset import BANDS, FRAMES, normalise

from rqdkm.train.morph import Fixed, Judged, divergence, train_jointly
from rqdkm.train.morph_export import export_tflite
from rqdkm.train.morph_layer import MorphConv2D
from train import build as plain

L = tf.keras.layers
KERNELS = ("3x3", "5x5", "separable 3x3", "separable 5x5", "1x1")
COPIES = 10  # of every training image in the pool
BATCH = 64
LEADING, FOLLOWING = 4, 3  # times through the pool
TOGETHER = ((10, 3e-3), (8, 2e-3))  # and the rate they start at; each through a pool of its own
TEMPERATURE = 2.0

NDArray = npt.NDArray[Any]
Pool = tuple[NDArray, NDArray, NDArray]


def normalised(x: tf.Tensor, name: str) -> tf.Tensor:
    return L.ReLU(name=f"{name}_relu")(L.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x))


def build(shape: tuple[int, int, int] = (BANDS, FRAMES, 1), classes: int = 10) -> tf.keras.Model:
    """Second and third convolution morph and take the place of the poolings behind them; what follows is separable."""

    def separable(x: tf.Tensor, channels: int, name: str) -> tf.Tensor:
        depthwise = L.DepthwiseConv2D(3, padding="same", use_bias=False, name=f"{name}_depthwise")(x)
        x = normalised(depthwise, f"{name}_depthwise")
        return normalised(L.Conv2D(channels, 1, use_bias=False, name=name)(x), name)

    inputs = tf.keras.Input(shape)
    x = normalised(L.Conv2D(16, 3, padding="same", use_bias=False, name="conv1")(inputs), "conv1")
    x = MorphConv2D(16, KERNELS, strides=2, name="morph2")(x)
    x = MorphConv2D(32, KERNELS, strides=2, name="morph3")(x)
    x = L.MaxPooling2D(2)(separable(x, 48, "conv4"))
    x = separable(x, 64, "conv5")
    x = L.Flatten()(L.AveragePooling2D((1, x.shape[2]))(x))  # over time alone: which band it was in matters
    x = L.Dropout(0.1)(x)
    return tf.keras.Model(inputs, L.Dense(classes, activation="softmax", name="classifier")(x), name="morphing")


def build_teacher(by_band: bool) -> tf.keras.Model:
    """The network of train.py, half as wide again; ``by_band`` its last layer averages over time alone."""
    x = inputs = tf.keras.Input((BANDS, FRAMES, 1))
    for number, channels in enumerate((24, 24, 48, 72, 72), 1):
        x = L.Conv2D(channels, 3, padding="same", use_bias=False, name=f"conv{number}")(x)
        x = normalised(x, f"conv{number}")
        if number in (2, 3, 4):
            x = L.MaxPooling2D(2)(x)
    x = L.Flatten()(L.AveragePooling2D((1, x.shape[2]))(x)) if by_band else L.GlobalAveragePooling2D()(x)
    return tf.keras.Model(inputs, L.Dense(10, activation="softmax", name="classifier")(L.Dropout(0.3)(x)))


def augment(images: tf.Tensor) -> tf.Tensor:
    """Recordings start anywhere, machines run a little faster or slower, sensors differ in gain and noise."""
    count = tf.shape(images)[0]
    start = tf.random.uniform((count, 1), 0, FRAMES, tf.int32)
    x = tf.gather(images[..., 0], (tf.range(FRAMES)[None] + start) % FRAMES, axis=2, batch_dims=1)
    x = tf.where(tf.random.uniform((count, 1, 1)) < 0.5, x[:, :, ::-1], x)
    bands = tf.clip_by_value(tf.range(BANDS)[None] + tf.random.uniform((count, 1), -1, 2, tf.int32), 0, BANDS - 1)
    x = tf.gather(x, bands, axis=1, batch_dims=1)
    x = x * (1.0 + tf.random.normal((count, 1, 1), 0.0, 0.1)) + tf.random.normal((count, 1, 1), 0.0, 0.05)
    x += (0.02 + tf.abs(tf.random.normal((count, 1, 1), 0.0, 0.07))) * tf.random.normal(tf.shape(x))
    return tf.clip_by_value(x, -1.0, 1.0)[..., None]


def train_teacher(data: Any, epochs: int, seed: int, by_band: bool) -> tf.keras.Model:
    tf.keras.utils.set_random_seed(seed)
    x, y = normalise(data["x_train"]), data["y_train"]
    train = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=seed).batch(BATCH)
    train = train.map(lambda images, labels: (augment(images), labels)).prefetch(1)
    model = build_teacher(by_band)
    rate = tf.keras.optimizers.schedules.CosineDecay(3e-3, epochs * -(-len(x) // BATCH))
    rule = tf.keras.optimizers.AdamW(rate, weight_decay=1e-3)
    rule.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])
    model.compile(rule, "sparse_categorical_crossentropy", metrics=["accuracy"])
    validation = (normalise(data["x_val"]), data["y_val"])
    model.fit(train, validation_data=validation, validation_freq=10, epochs=epochs, verbose=2)
    return model


def make_pool(data: Any, teachers: Sequence[tf.keras.Model], seed: int) -> Pool:
    """Augmented training images, their labels, and the mean of what the teachers answer."""
    tf.keras.utils.set_random_seed(seed)
    x, y = normalise(data["x_train"]), data["y_train"]
    pool = np.empty((COPIES * len(x), *x.shape[1:]), np.float32)
    for start in range(0, len(pool), len(x)):
        pool[start : start + len(x)] = augment(tf.constant(x))
    answers = np.mean([teacher.predict(pool, batch_size=256, verbose=0) for teacher in teachers], axis=0)
    return pool, np.tile(y, COPIES), answers


def train_plain(pool: Pool, data: Any, seed: int) -> tf.keras.Model:
    """The network of train.py, taught like the kernels are in their first rounds."""
    tf.keras.utils.set_random_seed(seed)
    x, y, answers = pool
    model = plain()
    times = LEADING + TOGETHER[0][0]
    rate = tf.keras.optimizers.schedules.CosineDecay(3e-3, times * -(-len(x) // BATCH))
    rule = tf.keras.optimizers.AdamW(rate, weight_decay=1e-3)
    rule.exclude_from_weight_decay(var_names=["gamma", "beta", "bias"])

    def loss(wanted: tf.Tensor, p: tf.Tensor) -> tf.Tensor:
        labels, answered = wanted[:, 0], wanted[:, 1:]
        known = tf.reduce_mean(tf.keras.losses.sparse_categorical_crossentropy(labels, p))
        return known + TEMPERATURE**2 * divergence(answered, p, TEMPERATURE)

    model.compile(rule, loss)
    model.fit(x, np.column_stack([y, answers]), batch_size=BATCH, epochs=times, verbose=2)
    right = model.predict(normalise(data["x_val"]), verbose=0).argmax(1) == data["y_val"]
    print(f"plain: {right.mean():.4f} of the validation samples")
    return model


def train_morphing(pools: Sequence[Pool], data: Any, leader: int, seed: int) -> tf.keras.Model:
    tf.keras.utils.set_random_seed(seed)
    model = build()
    validation = (normalise(data["x_val"]), data["y_val"])

    def show(judged: Judged) -> None:
        shown = ", ".join(f"{name} {value:.4f}" for name, value in zip(KERNELS, judged.accuracy, strict=True))
        print(f"epoch {judged.epoch}: loss {judged.loss:.3f}; {shown}")
        sys.stdout.flush()

    def learn(pool: Pool, times: int, rate: float, kernels: Sequence[int], fixed: Fixed, seed: int = seed) -> None:
        train_jointly(
            model,
            pool[:2],
            validation,
            epochs=times,
            batch=BATCH,
            rate=rate,
            decay=1e-3,
            seed=seed,
            answers=pool[2],
            kernels=kernels,
            fixed=fixed,
            sampled=len(KERNELS),
            distill=0.8,
            temperature=TEMPERATURE,
            every=1,
            progress=show,
        )

    learn(pools[0], LEADING, 4e-3, [leader], "nothing")
    for kernel in range(len(KERNELS)):
        if kernel != leader:
            learn(pools[0], FOLLOWING, 4e-3, [kernel], "rest")
    # from here on the kernel with most products learns the labels in full, and all learn from the teachers
    for number, (pool, (times, rate)) in enumerate(zip(pools, TOGETHER, strict=True)):
        learn(pool, times, rate, range(len(KERNELS)), "norms", seed + number)
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

    files = options.teacher or [options.out / f"teacher{number}.keras" for number in range(2)]
    if not options.teacher:
        for number, file in enumerate(files):
            train_teacher(data, 40, options.seed + 1 + number, by_band=number == 1).save(file)
    teachers = [tf.keras.models.load_model(file) for file in files]
    for file, teacher in zip(files, teachers, strict=True):
        right = teacher.predict(normalise(data["x_val"]), verbose=0).argmax(1) == data["y_val"]
        print(f"{file}: {right.mean():.4f} of the validation samples")

    pools = [make_pool(data, teachers, options.seed + number) for number in range(len(TOGETHER))]
    model = train_morphing(pools, data, KERNELS.index(options.leader), options.seed)
    model.save(options.out / "model.keras")
    export_tflite(model, options.out / "model.float32.tflite")
    same = train_plain(pools[0], data, options.seed)
    converted = tf.lite.TFLiteConverter.from_keras_model(same).convert()
    (options.out / "plain.float32.tflite").write_bytes(converted)  # what training alone makes of the baseline


if __name__ == "__main__":
    main()
