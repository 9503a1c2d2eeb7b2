"""Train the machinery CNN and write it as int8 and float .tflite ([train] extra: TensorFlow, its own process).

    python examples/machinery/train.py --data .cache/machinery.npz --out examples/machinery

Plain 3x3 convolutions with folded batch normalisation: the "8-bit, fixed 3x3" baseline of all comparisons.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
import numpy as np
import tensorflow as tf
from dataset import normalise

L = tf.keras.layers


def build(shape: tuple[int, int, int] = (32, 56, 1), classes: int = 10) -> tf.keras.Model:
    """Five 3x3 convolutions, 8.6 million multiply-accumulates, 42 thousand weights."""

    def block(x: tf.Tensor, channels: int, name: str) -> tf.Tensor:
        x = L.Conv2D(channels, 3, padding="same", use_bias=False, name=name)(x)
        x = L.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
        return L.ReLU(name=f"{name}_relu")(x)

    inputs = tf.keras.Input(shape)
    x = block(inputs, 16, "conv1")
    x = block(x, 16, "conv2")
    x = L.MaxPooling2D(2)(x)
    x = block(x, 32, "conv3")
    x = L.MaxPooling2D(2)(x)
    x = block(x, 48, "conv4")
    x = L.MaxPooling2D((2, 2))(x)
    x = block(x, 48, "conv5")
    x = L.GlobalAveragePooling2D()(x)
    x = L.Dropout(0.3)(x)
    x = L.Dense(classes, name="classifier")(x)
    return tf.keras.Model(inputs, L.Softmax(name="softmax")(x), name="machinery")


def augment(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Circular shift in time, small gain change, noise: recordings start anywhere."""
    image = tf.roll(image, tf.random.uniform((), 0, 56, tf.int32), axis=1)
    image = image + tf.random.normal((), 0.0, 0.05) + tf.random.normal(tf.shape(image), 0.0, 0.05)
    return tf.clip_by_value(image, -1.0, 1.0), label


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the machinery CNN.")
    parser.add_argument("--data", type=Path, required=True, help="the .npz of dataset.py")
    parser.add_argument("--out", type=Path, required=True, help="directory for the model files")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tf.keras.utils.set_random_seed(options.seed)

    data = np.load(options.data)
    x, y = normalise(data["x_train"]), data["y_train"]
    train = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=options.seed).map(augment).batch(64)
    validation = (normalise(data["x_val"]), data["y_val"])

    model = build()
    steps = options.epochs * (len(x) // 64 + 1)
    rate = tf.keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(tf.keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    model.fit(train.prefetch(2), validation_data=validation, epochs=options.epochs, verbose=2)

    test = model.evaluate(normalise(data["x_test"]), data["y_test"], verbose=0)[1]
    print(f"float accuracy on {len(data['y_test'])} images of unseen machines: {test:.4f}")

    options.out.mkdir(parents=True, exist_ok=True)
    model.save(options.out / "model.keras")
    calibration = x[np.random.default_rng(options.seed).choice(len(x), 500, replace=False)]
    for name, quantized in (("model.float32.tflite", False), ("model.tflite", True)):
        converter = tf.lite.TFLiteConverter.from_keras_model(model)
        if quantized:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.representative_dataset = lambda: ([sample[None]] for sample in calibration)
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
            converter.inference_input_type = tf.int8
            converter.inference_output_type = tf.int8
        (options.out / name).write_bytes(converter.convert())


if __name__ == "__main__":
    main()
