"""Train the scene classifier and write int8 .tflite for two frame sizes ([train] extra: TensorFlow, its own process).

    python examples/mobilenet/train.py --data .cache/mnist.npz --out examples/mobilenet

MobileNetV2 with few channels. One set of weights, trained on frames of both sizes; ``--data`` is the .npz of
examples/mnist/dataset.py, and its training digits are drawn into new scenes for every batch.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import numpy as np
import numpy.typing as npt
import tensorflow as tf
from dataset import normalise, resplit, scenes, split_scenes

L = tf.keras.layers

MODELS = {96: "model.tflite", 144: "model144.tflite"}  # frame size: file
BATCH = 32
# Of every expanding block: channels inside, channels out, stride. 40 inside the first, not 48, so that the network on
# 96 pixels runs layer by layer in 128 KB of RAM.
BLOCKS = ((40, 16, 2), (96, 16, 1), (96, 24, 2), (144, 24, 1), (144, 32, 2), (192, 32, 1))


def build(size: int | None) -> tf.keras.Model:
    """9.1 million multiply-accumulates at 96 pixels, 48 thousand weights; ``None`` takes frames of any size."""

    def finish(x: tf.Tensor, name: str, active: bool = True) -> tf.Tensor:
        x = L.BatchNormalization(momentum=0.98, name=f"{name}_bn")(x)
        return L.ReLU(6.0, name=f"{name}_relu")(x) if active else x

    def conv(x: tf.Tensor, channels: int, kernel: int, name: str, stride: int = 1, active: bool = True) -> tf.Tensor:
        x = L.Conv2D(channels, kernel, stride, padding="same", use_bias=False, name=name)(x)
        return finish(x, name, active)

    def depthwise(x: tf.Tensor, name: str, stride: int = 1) -> tf.Tensor:
        return finish(L.DepthwiseConv2D(3, stride, padding="same", use_bias=False, name=name)(x), name)

    inputs = tf.keras.Input((size, size, 3))
    x = conv(inputs, 16, 3, "stem", stride=2)
    x = conv(depthwise(x, "block0_depthwise"), 8, 1, "block0_project", active=False)
    for number, (inside, channels, stride) in enumerate(BLOCKS, 1):
        name, before = f"block{number}", x
        x = conv(x, inside, 1, f"{name}_expand")
        x = depthwise(x, f"{name}_depthwise", stride)
        x = conv(x, channels, 1, f"{name}_project", active=False)
        if stride == 1:
            x = L.Add(name=f"{name}_add")([before, x])
    x = L.GlobalAveragePooling2D()(conv(x, 128, 1, "head"))
    x = L.Dropout(0.1)(x)
    return tf.keras.Model(inputs, L.Softmax(name="softmax")(L.Dense(10, name="classifier")(x)), name="mobilenet")


def batches(digits: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], seed: int) -> Iterator[tuple[object, object]]:
    """For ever: scenes of digits in random order; of eight batches seven of the smallest frame, one of the largest."""
    order = np.random.default_rng(seed)
    count = 0
    while True:
        for chosen in order.permutation(len(digits))[: len(digits) // BATCH * BATCH].reshape(-1, BATCH):
            size = max(MODELS) if count % 8 == 7 else min(MODELS)
            yield normalise(scenes(digits[chosen], size, (seed, count))), labels[chosen]
            count += 1


def export(model: tf.keras.Model, size: int, digits: npt.NDArray[np.uint8], seed: int) -> bytes:
    """The int8 file for one frame size, calibrated on training scenes of that size."""
    fixed = build(size)
    fixed.set_weights(model.get_weights())
    calibration = normalise(scenes(digits[:300], size, (seed, size)))
    converter = tf.lite.TFLiteConverter.from_keras_model(fixed)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in calibration)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    return bytes(converter.convert())


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the scene classifier.")
    parser.add_argument("--data", type=Path, required=True, help="the .npz of examples/mnist/dataset.py")
    parser.add_argument("--out", type=Path, required=True, help="directory for the model files")
    parser.add_argument("--epochs", type=int, default=8, help="of four scenes per training digit")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tf.keras.utils.set_random_seed(options.seed)

    data = resplit(np.load(options.data))
    x, y = data["x_train"], data["y_train"]
    kinds = (tf.TensorSpec((None, None, None, 3), tf.float32), tf.TensorSpec((None,), tf.int64))
    train = tf.data.Dataset.from_generator(lambda: batches(x, y, options.seed), output_signature=kinds)
    model = build(None)
    steps = 4 * (len(x) // BATCH)
    rate = tf.keras.optimizers.schedules.CosineDecay(3e-3, options.epochs * steps)
    model.compile(tf.keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    validation = (normalise(split_scenes(data, "val", min(MODELS), options.seed)), data["y_val"])
    model.fit(train.prefetch(8), epochs=options.epochs, steps_per_epoch=steps, validation_data=validation, verbose=2)

    options.out.mkdir(parents=True, exist_ok=True)
    model.save(options.out / "model.keras")
    for size, name in MODELS.items():
        test = normalise(split_scenes(data, "test", size, options.seed))
        accuracy = model.evaluate(test, data["y_test"], verbose=0)[1]
        print(f"float accuracy on {len(test)} test scenes of {size} pixels: {accuracy:.4f}")
        (options.out / name).write_bytes(export(model, size, x, options.seed))


if __name__ == "__main__":
    main()
