"""Joint training of a network of :class:`~rqdkm.train.morph_layer.MorphConv2D` layers: every kernel has to work.

The sandwich rule (Yu and Huang, "Universally Slimmable Networks and Improved Training Techniques", 2019): each step
sees the leader, which learns the labels, and the cheapest kernel and some at random, which learn the leader's answers
too (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015). Their gradients are added up to one update::

    leader   CE(y, p) + T^2 KL(t || p)               t: what teachers answered, if they are given
    others   (1 - d) CE(y, p) + d T^2 KL(t || p)     t: that or else what the leader answers

The divergence is between answers softened by the temperature T. Imports TensorFlow and nothing of TVM.

Kernels that start together pull at the layers they share. What worked better (examples/machinery/train_morph.py): one
kernel alone first, then every other one with all but itself fixed, then all of them. An ordinary normalisation behind a
morphing layer would average over kernels; ``fixed="norms"`` leaves it as the first kernel made it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import tensorflow as tf

from rqdkm.train.morph_layer import MorphConv2D, morphing, use_kernel

NDArray = npt.NDArray[Any]
Samples = tuple[NDArray, NDArray]
Fixed = Literal["nothing", "norms", "rest"]

LEAST_PROBABILITY = 1e-7
NOT_DECAYED = ["gamma", "beta", "bias"]


@dataclass(frozen=True)
class Judged:
    """How a network did on the validation samples.

    Args:
        epoch: after which this is.
        loss: mean of the epoch's steps, all kernels together.
        accuracy: per kernel.
    """

    epoch: int
    loss: float
    accuracy: tuple[float, ...]


def train_jointly(
    model: Any,
    data: Samples,
    validation: Samples,
    *,
    epochs: int = 30,
    batch: int = 64,
    rate: float = 2e-3,
    decay: float = 1e-4,
    seed: int = 0,
    augment: Callable[[Any, Any], tuple[Any, Any]] | None = None,
    answers: NDArray | None = None,
    leader: int | None = None,
    kernels: Sequence[int] | None = None,
    fixed: Fixed = "nothing",
    sampled: int = 2,
    distill: float = 0.7,
    temperature: float = 2.0,
    every: int = 5,
    progress: Callable[[Judged], None] = lambda _judged: None,
) -> list[Judged]:
    """Train ``model`` in place, by AdamW with a rate that falls as a cosine.

    Args:
        model: Keras, its answer are class probabilities (it ends in a softmax), all its morphing layers have the same
            number of kernels.
        data: inputs and class numbers to learn from.
        validation: to judge by; nothing is chosen by it.
        decay: of weights per step, relative to the rate; normalisation and biases are left alone.
        augment: of one sample and its label, as ``tf.data.Dataset.map`` takes it.
        answers: of teachers to the inputs, class probabilities (samples, classes). Not together with ``augment``,
            since they answered other inputs: augment before, several times, and let them answer that.
        leader: the kernel that learns the labels in full; the one with most products unless given.
        kernels: that learn, the others stay as they are; None: all.
        fixed: what does not learn outside the morphing layers.
        sampled: kernels beside leader and cheapest that every step sees.
        distill: the share ``d`` of answers, the teachers' or else the leader's, in the others' loss.
        every: epochs between judgements; the last is after the last epoch.

    Returns:
        The judgements, the last one being that of the trained model.
    """
    given = np.zeros((len(data[0]), 1), np.float32) if answers is None else np.asarray(answers, np.float32)
    if answers is not None and given.shape != (len(data[0]), model.output_shape[-1]):
        raise ValueError(f"answers are a probability per input and class, not of shape {given.shape}")
    if answers is not None and augment is not None:
        raise ValueError("answers are of inputs as they are: augment them before teachers answer")
    layers = morphing(model)
    counts = {len(layer.kernels) for layer in layers}
    if len(counts) != 1:
        raise ValueError("morphing layers of one network need the same number of kernels, and there has to be one")
    (count,) = counts
    tf.keras.utils.set_random_seed(seed)
    products = [sum(layer.macs(k) for layer in layers) for k in range(count)]
    learning = list(range(count)) if kernels is None else list(kernels)
    first = max(learning, key=lambda k: products[k]) if leader is None else leader
    if first not in learning or not set(learning) <= set(range(count)):
        raise ValueError(f"there is no kernel {first} to lead among {learning}")
    cheapest = min(learning, key=lambda k: products[k])
    others = [k for k in learning if k not in (first, cheapest)]

    samples = tf.data.Dataset.from_tensor_slices((data[0], data[1].astype(np.int64), given))
    samples = samples.shuffle(len(data[0]), seed=seed)
    if augment is not None:
        samples = samples.map(lambda x, y, t: (*augment(x, y), t))
    samples = samples.batch(batch).prefetch(1)
    steps = epochs * -(-len(data[0]) // batch)
    optimizer = tf.keras.optimizers.AdamW(tf.keras.optimizers.schedules.CosineDecay(rate, steps), weight_decay=decay)
    optimizer.exclude_from_weight_decay(var_names=NOT_DECAYED)
    variables = _learning(model, learning, fixed)
    optimizer.build(variables)

    @tf.function  # type: ignore[untyped-decorator]
    def gradients(x: Any, y: Any, teacher: Any, labels: Any, teaching: Any) -> Any:
        """Gradients, loss and answer of the kernel in use."""
        with tf.GradientTape() as tape:
            p = model(x, training=True)
            loss = labels * _cross_entropy(y, p) + teaching * temperature**2 * divergence(teacher, p, temperature)
        found = tape.gradient(loss, variables)
        found = [tf.zeros_like(v) if g is None else g for g, v in zip(found, variables, strict=True)]
        return found, loss, tf.stop_gradient(p)

    @tf.function  # type: ignore[untyped-decorator]
    def update(found: Any) -> None:
        optimizer.apply(found, variables)

    @tf.function  # type: ignore[untyped-decorator]
    def answer(x: Any) -> Any:
        return model(x, training=False)

    draw = np.random.default_rng((seed, 1))
    judged: list[Judged] = []
    for epoch in range(1, epochs + 1):
        losses = []
        for x, y, answered in samples:
            chosen = [int(k) for k in draw.permutation(others)[:sampled]]
            use_kernel(model, first)
            total, loss, p = gradients(x, y, answered, tf.constant(1.0), tf.constant(float(answers is not None)))
            losses.append(float(loss))
            for k in [*chosen, *([cheapest] if cheapest != first else [])]:
                use_kernel(model, k)
                found, loss, _ = gradients(
                    x, y, p if answers is None else answered, tf.constant(1.0 - distill), tf.constant(distill)
                )
                total = [a + b for a, b in zip(total, found, strict=True)]
                losses.append(float(loss))
            update(total)
        if epoch % every == 0 or epoch == epochs:
            right = tuple(_accuracy(model, k, answer, validation, batch) for k in range(count))
            judged.append(Judged(epoch, float(np.mean(losses)), right))
            progress(judged[-1])
    for layer in model.layers:
        layer.trainable = True
    for layer in layers:
        layer.kernel.assign(layer.safe)
    return judged


def _learning(model: Any, kernels: Sequence[int], fixed: Fixed) -> list[Any]:
    """The variables that learn. A normalisation that does not uses the statistics that it has."""
    idle = set()
    for layer in model.layers:
        if isinstance(layer, MorphConv2D):
            others = (k for k in range(len(layer.kernels)) if k not in kernels)
            idle |= {id(variable) for k in others for variable in layer.variables_of(k)}
        elif fixed == "rest" or (fixed == "norms" and isinstance(layer, tf.keras.layers.BatchNormalization)):
            layer.trainable = False
    return [variable for variable in model.trainable_variables if id(variable) not in idle]


def _accuracy(model: Any, kernel: int, answer: Callable[[Any], Any], samples: Samples, batch: int) -> float:
    use_kernel(model, kernel)
    x, y = samples
    right = 0
    for start in range(0, len(x), batch):
        found = np.asarray(answer(tf.constant(x[start : start + batch]))).argmax(axis=-1)
        right += int((found == y[start : start + batch]).sum())
    return right / len(x)


def _cross_entropy(labels: Any, p: Any) -> Any:
    return tf.reduce_mean(tf.keras.losses.sparse_categorical_crossentropy(labels, p))


def divergence(teacher: Any, p: Any, temperature: float) -> Any:
    """Mean KL divergence of the softened answers. Logarithms of probabilities are logits."""
    a = tf.nn.log_softmax(tf.math.log(teacher + LEAST_PROBABILITY) / temperature)
    b = tf.nn.log_softmax(tf.math.log(p + LEAST_PROBABILITY) / temperature)
    return tf.reduce_mean(tf.reduce_sum(tf.exp(a) * (a - b), axis=-1))
