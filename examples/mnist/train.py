"""Train the MNIST CNN and write it as int8 .tflite ([train] extra: TensorFlow, its own process).

    python examples/mnist/train.py --data .cache/mnist.npz --out examples/mnist

Three plain 3x3 convolutions with folded batch normalisation.
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


def build() -> tf.keras.Model:
    """1.2 million multiply-accumulates, 11 thousand weights."""

    def block(x: tf.Tensor, channels: int, name: str) -> tf.Tensor:
        x = L.Conv2D(channels, 3, padding="same", use_bias=False, name=name)(x)
        x = L.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
        return L.ReLU(name=f"{name}_relu")(x)

    inputs = tf.keras.Input((28, 28, 1))
    x = L.MaxPooling2D(2)(block(inputs, 16, "conv1"))
    x = L.MaxPooling2D(2)(block(x, 24, "conv2"))
    x = block(x, 32, "conv3")
    x = L.GlobalAveragePooling2D()(x)
    x = L.Dropout(0.2)(x)
    return tf.keras.Model(inputs, L.Softmax(name="softmax")(L.Dense(10, name="classifier")(x)), name="mnist")


def augment(image: tf.Tensor, label: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Shifts of up to two pixels."""
    padded = tf.pad(image, ((2, 2), (2, 2), (0, 0)))
    return tf.image.random_crop(padded, (28, 28, 1)), label


def main() -> None:
    parser = argparse.ArgumentParser(description="Train the MNIST CNN.")
    parser.add_argument("--data", type=Path, required=True, help="the .npz of dataset.py")
    parser.add_argument("--out", type=Path, required=True, help="directory for the model files")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    tf.keras.utils.set_random_seed(options.seed)

    data = np.load(options.data)
    x, y = normalise(data["x_train"]), data["y_train"]
    train = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(x), seed=options.seed).map(augment).batch(64)
    model = build()
    rate = tf.keras.optimizers.schedules.CosineDecay(3e-3, options.epochs * (len(x) // 64 + 1))
    model.compile(tf.keras.optimizers.Adam(rate), "sparse_categorical_crossentropy", metrics=["accuracy"])
    validation = (normalise(data["x_val"]), data["y_val"])
    model.fit(train.prefetch(2), validation_data=validation, epochs=options.epochs, verbose=2)
    test = model.evaluate(normalise(data["x_test"]), data["y_test"], verbose=0)[1]
    print(f"float accuracy on {len(data['y_test'])} test images: {test:.4f}")

    options.out.mkdir(parents=True, exist_ok=True)
    model.save(options.out / "model.keras")
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([sample[None]] for sample in x[:500])
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.inference_input_type = tf.int8
    converter.inference_output_type = tf.int8
    (options.out / "model.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    main()
