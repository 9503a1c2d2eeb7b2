"""The process that trains: ``python worker.py JOB``, in an environment with TensorFlow and NumPy, nothing else needed.

JOB is a directory written by :mod:`rqdkm.train.job`: ``job.json`` (the network as it will run, and how to train it) and
``job.npz`` (weights, scales, samples). It leaves ``result.npz`` there and prints one JSON object per line: progress.
Nothing here may import TVM, or anything that does.

Every tensor is fake-quantized exactly as the integers will be. For bits b, scale s, zero point z::

    weights       s_o * clip(round(w / s_o), -2^(b-1), 2^(b-1) - 1)     s_o per output channel, learned
    feature maps  s * (clip(round(y / s) + z, -2^(b-1), 2^(b-1) - 1) - z)    s learned where the job says so
    bias          u * round(b / u),  u = s_in * s_o

and sums are rounded to feature maps as TFLite does (:func:`requantized`).

Rounding passes gradients unchanged, clipping stops them (straight-through: Bengio et al., 2013), and with that a scale
gets the gradient of "LSQ" (Esser et al., "Learned Step Size Quantization", 2020). Scales are ``s_0 exp(t)``, t learned,
so that a step is relative. The loss is the cross-entropy of the labels, if there are any, plus the divergence from the
float network's answer (Hinton et al., "Distilling the Knowledge in a Neural Network", 2015).
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

NDArray = npt.NDArray[Any]
Described = Mapping[str, Any]  # a layer of job.json

HELD_OUT = 0.1  # of the samples: they choose the epoch that is kept
LEAST_SIMILARITY = 0.95  # of float and int8 weights that belong together; quantization alone leaves more than 0.99
NO_TENSORFLOW = 3  # exit codes
UNUSABLE = 4


class UnusableError(Exception):
    """What the user gave does not fit; the message is for them."""


# ---- float weights of the same network


def match(wanted: Sequence[tuple[str, str, NDArray]], found: Sequence[tuple[str, str, NDArray, NDArray]]) -> list[int]:
    """For every layer of the int8 model the float layer it was made from.

    By operator, shape and likeness: an int8 layer is the float one but for rounding. In order where several are alike.

    Args:
        wanted: (name, operator, real weights) of the int8 model.
        found: (name, operator, weights, bias) of the float one, in the same layout.

    Raises:
        UnusableError: names the layer that has no counterpart.
    """
    taken: list[int] = []
    for name, op, weights in wanted:
        best, likeness = -1, -1.0
        for index, (_, other_op, other, _) in enumerate(found):
            if index in taken or other_op != op or other.shape != weights.shape:
                continue
            norm = float(np.linalg.norm(weights)) * float(np.linalg.norm(other))
            cosine = float(np.vdot(weights.astype(np.float64), other)) / norm if norm else 0.0
            if cosine > likeness + 1e-6:
                best, likeness = index, cosine
        if best < 0:
            raise UnusableError(
                f'layer "{name}" ({op} {weights.shape}) has no counterpart of that shape in the float model'
            )
        if likeness < LEAST_SIMILARITY:
            raise UnusableError(
                f'layer "{name}" ({op} {weights.shape}): the nearest float weights, "{found[best][0]}", are others '
                f"(cosine {likeness:.3f}); the int8 model was not made from this float model"
            )
        taken.append(best)
    return taken


def keras_weights(path: str) -> list[tuple[str, str, NDArray, NDArray]]:
    """(name, operator, weights, bias) of every convolution and dense layer, batch normalisation folded."""
    import tensorflow as tf

    try:
        model = tf.keras.models.load_model(path, compile=False)
    except (OSError, ValueError, TypeError) as error:
        raise UnusableError(f"{path} is not a Keras model: {str(error).splitlines()[0]}") from error
    found: dict[str, tuple[str, str, NDArray, NDArray]] = {}
    for layer in model.layers:
        kind = type(layer).__name__
        if kind in ("Conv2D", "DepthwiseConv2D", "Dense"):
            arrays = [np.asarray(a) for a in layer.get_weights()]
            weights = arrays[0]
            if kind == "Conv2D":
                op, weights = "conv2d", weights.transpose(3, 0, 1, 2)
            elif kind == "DepthwiseConv2D":
                op, weights = "depthwise_conv2d", weights.reshape(1, *weights.shape[:2], -1)
            else:
                op, weights = "fully_connected", weights.T
            channels = weights.shape[3 if kind == "DepthwiseConv2D" else 0]
            bias = arrays[1] if len(arrays) > 1 else np.zeros(channels, np.float32)
            found[layer.name] = (layer.name, op, weights, bias)
        elif kind == "BatchNormalization":
            before = layer._inbound_nodes[0].parent_nodes[0].operation.name
            if before not in found:
                raise UnusableError(f'batch normalisation "{layer.name}" does not follow a layer with weights')
            name, op, weights, bias = found[before]
            gamma = np.asarray(layer.gamma) if layer.scale else np.float32(1)
            beta = np.asarray(layer.beta) if layer.center else np.float32(0)
            factor = gamma / np.sqrt(np.asarray(layer.moving_variance) + layer.epsilon)
            spread = factor if op == "depthwise_conv2d" else factor.reshape(-1, *[1] * (weights.ndim - 1))
            found[before] = (name, op, weights * spread, (bias - np.asarray(layer.moving_mean)) * factor + beta)
    return list(found.values())


# ---- the network


class Network:
    """Variables, and the network as a function of them."""

    def __init__(self, job: Described, arrays: Mapping[str, NDArray]) -> None:
        import tensorflow as tf

        self.layers: list[Described] = job["layers"]
        self.inputs: list[Described] = job["inputs"]
        self.roots: list[int] = job["roots"]
        self.weights: dict[int, Any] = {}
        self.biases: dict[int, Any] = {}
        self.weight_steps: dict[int, Any] = {}  # t of every output channel
        self.steps: dict[int, Any] = {}  # t of a feature map
        self.first_scales: dict[int, NDArray] = {}
        self.bits: dict[int, NDArray] = {}
        for index, layer in enumerate(self.layers):
            if layer["weighted"]:
                self.weights[index] = tf.Variable(arrays[f"{index}.weights"], name=f"w{index}")
                self.biases[index] = tf.Variable(arrays[f"{index}.bias"], name=f"b{index}")
                self.first_scales[index] = arrays[f"{index}.scales"].astype(np.float32)
                self.bits[index] = arrays[f"{index}.bits"]
                self.weight_steps[index] = tf.Variable(np.zeros_like(self.first_scales[index]), name=f"t{index}")
            if layer["learned"]:
                self.steps[index] = tf.Variable(np.float32(0), name=f"s{index}")

    @property
    def variables(self) -> list[Any]:
        groups = (self.weights, self.biases, self.weight_steps, self.steps)
        return [variable for group in groups for variable in group.values()]

    def output_scale(self, index: int) -> Any:
        """Of a layer's stored output, whoever decides it; a float or a tensor."""
        import tensorflow as tf

        if index < 0:
            return np.float32(self.inputs[-1 - index]["scale"])
        layer = self.layers[index]
        owner = layer["tied_to"]
        if owner != index:
            return self.output_scale(owner)
        scale = np.float32(layer["scale"])
        return scale * tf.exp(self.steps[index]) if index in self.steps else scale

    def forward(self, samples: Sequence[Any], quantized: bool = True) -> Any:
        """Real inputs, (n, ...) each -> (n, logits)."""
        import tensorflow as tf

        values: dict[int, Any] = {-1 - i: x for i, x in enumerate(samples)}
        for index, layer in enumerate(self.layers):
            x = [
                tf.reshape(values[source], (-1, *shape[1:]))
                for source, shape in zip(layer["sources"], layer["input_shapes"], strict=True)
            ]
            accumulated = None
            if layer["weighted"]:
                y = accumulated = self._weighted(index, layer, x[0], quantized)
            else:
                y = OPERATORS[layer["op"]](layer["attrs"], *x)
            low, high = layer["low"], layer["high"]  # the activation function's bounds, real
            if low is not None:
                y = tf.maximum(y, np.float32(low))
            if high is not None:
                y = tf.minimum(y, np.float32(high))
            if quantized and layer["rounds"]:
                y = self._stored(index, layer, y, accumulated)
            values[index] = tf.reshape(y, (-1, *layer["shape"][1:]))
        flat = [tf.reshape(values[root], (tf.shape(values[root])[0], -1)) for root in self.roots]
        return tf.concat(flat, axis=1)

    def _stored(self, index: int, layer: Described, y: Any, accumulated: Any) -> Any:
        """``y`` as it is stored. Gradients are those of clipping; values those of the integers."""
        import tensorflow as tf

        scale, zero, bits = self.output_scale(index), layer["zero_point"], layer["bits"]
        low, high = np.float32(-(1 << (bits - 1)) - zero), np.float32((1 << (bits - 1)) - 1 - zero)
        steps = tf.clip_by_value(y / scale, low, high)
        if accumulated is not None:
            lower, upper = (x / scale if x is not None else None for x in (layer["low"], layer["high"]))
            least = low if lower is None else tf.maximum(low, tf.round(lower))
            greatest = high if upper is None else tf.minimum(high, tf.round(upper))
            unit = self.output_scale(layer["sources"][0]) * self.weight_scale(index)
            integers = tf.clip_by_value(requantized(tf.round(accumulated / unit), unit / scale), least, greatest)
        elif layer["op"] == "avg_pool2d":  # a mean of integers is often a tie, which goes away from the integer 0
            integers = _away(steps + np.float32(zero)) - np.float32(zero)
        else:
            integers = tf.round(steps)
        return (steps + tf.stop_gradient(integers - steps)) * scale

    def weight_scale(self, index: int) -> Any:
        import tensorflow as tf

        return self.first_scales[index] * tf.exp(self.weight_steps[index])

    def _weighted(self, index: int, layer: Described, x: Any, quantized: bool) -> Any:
        import tensorflow as tf

        weights, bias = self.weights[index], self.biases[index]
        if quantized:
            scale = self.weight_scale(index)
            spread = (
                scale if layer["op"] == "depthwise_conv2d" else tf.reshape(scale, (-1, *[1] * (len(weights.shape) - 1)))
            )
            low, high = weight_range(self.bits[index])
            like = (1, 1, 1, -1) if layer["op"] == "depthwise_conv2d" else (-1, *[1] * (len(weights.shape) - 1))
            clipped = tf.minimum(tf.maximum(weights / spread, low.reshape(like)), high.reshape(like))
            weights = _rounded(clipped) * spread
            unit = tf.stop_gradient(self.output_scale(layer["sources"][0]) * scale)
            bias = bias + tf.stop_gradient(tf.round(bias / unit) * unit - bias)
        return OPERATORS[layer["op"]](layer["attrs"], x, weights) + bias

    def export(self) -> dict[str, NDArray]:
        """Integers, scales and bias of every layer with weights, and every learned scale of a feature map."""
        found: dict[str, NDArray] = {}
        for index in self.weights:
            scales = np.asarray(self.weight_scale(index), np.float32)
            last = self.layers[index]["op"] == "depthwise_conv2d"
            weights = np.asarray(self.weights[index])
            spread = (-1,) if last else (-1, *[1] * (weights.ndim - 1))
            low, high = (x.reshape(spread) for x in weight_range(self.bits[index]))
            found[f"{index}.weights"] = np.rint(np.clip(weights / scales.reshape(spread), low, high)).astype(np.int8)
            found[f"{index}.scales"] = scales
            into = np.float32(self.output_scale(self.layers[index]["sources"][0]))
            steps = np.rint(np.asarray(self.biases[index], np.float64) / (np.float64(into) * scales))
            found[f"{index}.bias"] = np.clip(steps, -(2**31), 2**31 - 1).astype(np.int32)
        for index in self.steps:
            found[f"{index}.output_scale"] = np.asarray(self.output_scale(index), np.float32)
        return found


def weight_range(bits: NDArray) -> tuple[NDArray, NDArray]:
    """Least and greatest integer per output channel; 8 bits leave out -128, as TFLite's do."""
    low = np.where(bits == 8, -127, -(2.0 ** (bits - 1)))
    return low.astype(np.float32), (2.0 ** (bits - 1) - 1).astype(np.float32)


def requantized(accumulators: Any, multiplier: Any) -> Any:
    """TFLite's product of integers and a real multiplier, ``M0 2^e`` with M0 in [0.5, 1): rounded twice.

    First ``acc * M0``, then the shift by -e. At 8 bits the shift is long and the first rounding nothing; few bits have
    small accumulators and a short shift, and 0.26 of a step may become 1.
    """
    import tensorflow as tf

    exponent = tf.floor(tf.math.log(multiplier) / np.float32(np.log(2))) + 1
    right = tf.pow(np.float32(2), tf.minimum(exponent, 0.0))
    first = tf.round(accumulators * (multiplier / right))
    return _away(first * right)


def _away(x: Any) -> Any:
    """Rounded, ties away from 0, also those that float arithmetic just missed."""
    import tensorflow as tf

    return tf.sign(x) * tf.floor(tf.abs(x) + np.float32(0.5 + 1e-4))


def _rounded(x: Any) -> Any:
    import tensorflow as tf

    return x + tf.stop_gradient(tf.round(x) - x)


# ---- operators


def _conv2d(attrs: Described, x: Any, weights: Any) -> Any:
    import tensorflow as tf

    groups, options = attrs["groups"], {"strides": attrs["strides"], "dilations": attrs["dilation"]}
    hwio = tf.transpose(weights, (1, 2, 3, 0))
    padding = _padding(attrs)
    if groups == 1:
        return tf.nn.conv2d(x, hwio, padding=padding, **options)
    parts = zip(tf.split(x, groups, -1), tf.split(hwio, groups, -1), strict=True)  # no gradient of groups on a CPU
    return tf.concat([tf.nn.conv2d(a, w, padding=padding, **options) for a, w in parts], -1)


def _depthwise(attrs: Described, x: Any, weights: Any) -> Any:
    import tensorflow as tf

    kh, kw = weights.shape[1:3]
    (sh, sw), multiplier = attrs["strides"], attrs["multiplier"]
    hwcm = tf.reshape(weights, (kh, kw, -1, multiplier))
    top, left, bottom, right = attrs["padding"]
    x = tf.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    if sh == sw:
        return tf.nn.depthwise_conv2d(x, hwcm, (1, sh, sw, 1), "VALID", dilations=attrs["dilation"])
    full = tf.nn.depthwise_conv2d(x, hwcm, (1, 1, 1, 1), "VALID", dilations=attrs["dilation"])  # equal strides only
    return full[:, ::sh, ::sw]


def _padding(attrs: Described) -> list[list[int]]:
    top, left, bottom, right = attrs["padding"]
    return [[0, 0], [top, bottom], [left, right], [0, 0]]


def _max_pool(attrs: Described, x: Any) -> Any:
    import tensorflow as tf

    x = tf.pad(x, _padding(attrs), constant_values=x.dtype.min)
    return tf.nn.max_pool2d(x, attrs["pool"], attrs["strides"], "VALID")


def _avg_pool(attrs: Described, x: Any) -> Any:
    import tensorflow as tf

    def pooled(values: Any) -> Any:
        return tf.nn.avg_pool2d(tf.pad(values, _padding(attrs)), attrs["pool"], attrs["strides"], "VALID")

    return pooled(x) / pooled(tf.ones_like(x[:1]))  # only what is inside counts


def _tf(name: str) -> Callable[..., Any]:
    def run(_attrs: Described, *x: Any) -> Any:
        import tensorflow as tf

        return getattr(tf.nn if hasattr(tf.nn, name) else tf, name)(*x)

    return run


def _mean(attrs: Described, x: Any) -> Any:
    import tensorflow as tf

    return tf.reduce_mean(x, axis=attrs["axes"], keepdims=bool(attrs["keepdims"]))


def _dense(_attrs: Described, x: Any, weights: Any) -> Any:
    import tensorflow as tf

    return tf.matmul(x, weights, transpose_b=True)


def _pad(attrs: Described, x: Any) -> Any:
    import tensorflow as tf

    return tf.pad(x, attrs["pad_width"], constant_values=np.float32(attrs["real_value"]))


def _concatenate(attrs: Described, *x: Any) -> Any:
    import tensorflow as tf

    return tf.concat(x, attrs["axis"])


OPERATORS: Mapping[str, Callable[..., Any]] = {
    "conv2d": _conv2d,
    "depthwise_conv2d": _depthwise,
    "fully_connected": _dense,
    "max_pool2d": _max_pool,
    "avg_pool2d": _avg_pool,
    "mean": _mean,
    "pad": _pad,
    "concatenate": _concatenate,
    "add": lambda _attrs, a, b: a + b,
    "mul": lambda _attrs, a, b: a * b,
    "tanh": _tf("tanh"),
    "logistic": _tf("sigmoid"),
    "elu": _tf("elu"),
    "leaky_relu": lambda attrs, x: _tf("leaky_relu")(attrs, x, np.float32(attrs["alpha"])),
    "hard_swish": lambda attrs, x: x * _tf("relu6")(attrs, x + 3) / 6,
    **dict.fromkeys(("clip", "relu", "requantize", "reshape"), lambda _attrs, x: x),
}


# ---- training


def train(job: Described, arrays: Mapping[str, NDArray]) -> dict[str, NDArray]:
    import tensorflow as tf

    tf.keras.utils.set_random_seed(job["seed"])
    tf.config.experimental.enable_op_determinism()
    network = Network(job, arrays)
    stored = [arrays[f"input{i}"] for i in range(len(network.inputs))]
    labels = arrays["labels"].astype(np.int64) if "labels" in arrays else None
    count = len(stored[0])

    def real(chosen: NDArray) -> list[Any]:
        return [
            (x[chosen].astype(np.float32) - np.float32(t["zero_point"])) * np.float32(t["scale"])
            for x, t in zip(stored, network.inputs, strict=True)
        ]

    run_float = tf.function(lambda *x: network.forward(x, quantized=False))
    run_quantized = tf.function(lambda *x: network.forward(x))
    batch = int(job["batch"])

    def all_logits(run: Callable[..., Any], chosen: NDArray) -> NDArray:
        parts = [run(*real(chosen[i : i + batch])) for i in range(0, len(chosen), batch)]
        return np.concatenate([np.asarray(p) for p in parts])

    everything = np.arange(count)
    teacher = all_logits(run_float, everything)
    order = np.random.default_rng(job["seed"]).permutation(count)
    held = np.sort(order[: max(1, int(count * HELD_OUT))]) if count > 1 else order
    used = order[len(held) :] if count > 1 else order

    def loss_of(logits: Any, wanted: Any, labels_of: Any) -> Any:
        if not job["classifies"]:
            return tf.reduce_mean(tf.square(logits - wanted))
        total = tf.reduce_mean(
            tf.reduce_sum(tf.nn.softmax(wanted) * (tf.nn.log_softmax(wanted) - tf.nn.log_softmax(logits)), axis=-1)
        )
        if labels_of is not None:
            total += tf.reduce_mean(tf.nn.sparse_softmax_cross_entropy_with_logits(labels_of, logits))
        return total

    steps = -(-len(used) // batch) * int(job["epochs"])
    rate = tf.keras.optimizers.schedules.CosineDecay(float(job["rate"]), max(steps, 1))
    optimizer = tf.keras.optimizers.Adam(rate)

    @tf.function  # type: ignore[untyped-decorator]
    def step(x: list[Any], wanted: Any, labels_of: Any) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(network.forward(x), wanted, labels_of)
        optimizer.apply_gradients(zip(tape.gradient(loss, network.variables), network.variables, strict=True))
        return loss

    def judged() -> tuple[float, float | None]:
        """Loss and accuracy on the held-out samples."""
        logits = all_logits(run_quantized, held)
        right = None if labels is None else float((logits.argmax(axis=1) == labels[held]).mean())
        return float(loss_of(logits, teacher[held], None if labels is None else labels[held])), right

    best, accuracy = judged()
    kept = [np.asarray(v) for v in network.variables]
    history = [{"epoch": 0, "loss": best, "accuracy": accuracy}]
    _say(history[-1])
    shuffler = np.random.default_rng((job["seed"], 1))
    for epoch in range(1, int(job["epochs"]) + 1):
        mixed = shuffler.permutation(used)
        for start in range(0, len(mixed), batch):
            chosen = mixed[start : start + batch]
            step(
                [tf.constant(x) for x in real(chosen)],
                tf.constant(teacher[chosen]),
                None if labels is None else tf.constant(labels[chosen]),
            )
        loss, accuracy = judged()
        history.append({"epoch": epoch, "loss": loss, "accuracy": accuracy})
        _say(history[-1])
        if loss < best:
            best, kept = loss, [np.asarray(v) for v in network.variables]
    for variable, value in zip(network.variables, kept, strict=True):
        variable.assign(value)
    return {
        **network.export(),
        "logits": all_logits(run_quantized, everything[: int(job["check"])]),
        "history": np.array(json.dumps(history)),
    }


def _say(what: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


def with_keras_weights(job: Described, arrays: dict[str, NDArray]) -> None:
    """Replace the weights in ``arrays`` by those of the Keras file that the job names."""
    positions = [index for index, layer in enumerate(job["layers"]) if layer["weighted"]]
    found = keras_weights(job["keras"])
    wanted = [(job["layers"][i]["name"], job["layers"][i]["op"], arrays[f"{i}.weights"]) for i in positions]
    for index, chosen in zip(positions, match(wanted, found), strict=True):
        arrays[f"{index}.weights"] = found[chosen][2].astype(np.float32)
        arrays[f"{index}.bias"] = found[chosen][3].astype(np.float32)


def main(folder: Path) -> int:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    try:
        import tensorflow  # noqa: F401
    except ImportError as error:
        sys.stderr.write(f"{error}\n")
        return NO_TENSORFLOW
    job = json.loads((folder / "job.json").read_text())
    with np.load(folder / "job.npz") as archive:
        arrays = {key: archive[key] for key in archive.files}
    try:
        if job["keras"]:
            with_keras_weights(job, arrays)
        results = train(job, arrays)
    except UnusableError as error:
        sys.stderr.write(f"{error}\n")
        return UNUSABLE
    np.savez(folder / "result.npz", **results)  # type: ignore[arg-type]
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
