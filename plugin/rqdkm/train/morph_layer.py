"""``MorphConv2D``: a Keras convolution that owns several kernels and runs the one that is chosen.

Imports TensorFlow and nothing of TVM: it lives in the training process. ``rqdkm.train.morph`` trains networks of such
layers, ``rqdkm.train.morph_export`` writes them as ``.tflite``.

With ``share`` the plain kernels are one weight tensor, as in once-for-all networks (Cai et al., "Once-for-All: Train
One Network and Specialize it for Efficient Deployment", 2020): the next smaller one is a learned linear map of the
larger one's taps, the same for all channels, at first its centre. That saves parameters in training, not flash: the
chip has the weights of every kernel, since each has its own normalisation in them.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf

KERNELS = ("3x3", "5x5", "separable 3x3", "1x1", "3x3 dilated")
MOST_KERNELS = 5
ACTIVATIONS = {None: None, "linear": None, "relu": tf.nn.relu, "relu6": tf.nn.relu6}

_PLAIN = re.compile(r"(\d+)x(\d+)( dilated)?(?: in (\d+) groups)?")
_SEPARABLE = re.compile(r"separable (\d+)x(\d+)")


@dataclass(frozen=True)
class Spec:
    """One convolution of a kernel."""

    op: str  # conv2d or depthwise_conv2d
    size: tuple[int, int]
    dilation: int = 1
    groups: int = 1


def parse(name: str) -> tuple[Spec, ...]:
    """The convolutions that a kernel's name stands for; names are those of ``rqdkm_tvm.morph.library.path_name``."""
    specs: tuple[Spec, ...]
    if found := _SEPARABLE.fullmatch(name):
        size = (int(found[1]), int(found[2]))
        specs = (Spec("depthwise_conv2d", size), Spec("conv2d", (1, 1)))
    elif found := _PLAIN.fullmatch(name):
        size = (int(found[1]), int(found[2]))
        specs = (Spec("conv2d", size, 2 if found[3] else 1, int(found[4] or 1)),)
    else:
        raise ValueError(
            f'"{name}" is no kernel: "3x3", "separable 3x3", "3x3 dilated" and "3x3 in 4 groups" are, and other sizes'
        )
    if 0 in size or specs[0].groups == 0:
        raise ValueError(f'"{name}" is no kernel')
    return specs


class _Convolution(tf.keras.layers.Layer):  # type: ignore[misc]
    """One convolution, its normalisation and its activation function.

    Weights are (KH, KW, inputs / groups, filters), depthwise (KH, KW, inputs, 1). Where they come from another kernel
    they are given with the call.
    """

    def __init__(
        self,
        spec: Spec,
        filters: int,
        strides: tuple[int, int],
        activation: str | None,
        owned: bool,
        momentum: float,
        name: str,
    ) -> None:
        super().__init__(name=name)
        self.spec, self.filters, self.strides = spec, filters, strides
        self.activation, self.owned = activation, owned
        self.normalisation = tf.keras.layers.BatchNormalization(momentum=momentum, name="norm")

    def weight_shape(self, inputs: int) -> tuple[int, int, int, int]:
        if self.spec.op == "depthwise_conv2d":
            return (*self.spec.size, inputs, 1)
        return (*self.spec.size, inputs // self.spec.groups, self.filters)

    def build(self, shape: Sequence[int | None]) -> None:
        inputs = shape[-1]
        assert inputs is not None
        self.inputs = inputs
        depthwise = self.spec.op == "depthwise_conv2d"
        groups = self.spec.groups
        if not depthwise and (inputs % groups or self.filters % groups):
            raise ValueError(f"{inputs} inputs and {self.filters} filters cannot be in {groups} groups")
        if self.owned:
            # Keras counts the channels as inputs of every output: too small for the few taps of a depthwise kernel
            initializer = "he_normal" if not depthwise else _depthwise_initializer(self.spec.size)
            self.kernel = self.add_weight(shape=self.weight_shape(inputs), initializer=initializer, name="kernel")
        self.normalisation.build((None, None, None, inputs if depthwise else self.filters))
        self.built = True

    def call(self, x: Any, weights: Any = None, training: bool = False) -> Any:
        weights = tf.convert_to_tensor(self.kernel) if weights is None else weights
        x = self.normalisation(self._convolved(x, weights), training=training)
        function = ACTIVATIONS[self.activation]
        return x if function is None else function(x)

    def _convolved(self, x: Any, weights: Any) -> Any:
        """TensorFlow has no gradients of strides together with dilation, nor, on a CPU, of groups."""
        spec, (rows, columns) = self.spec, self.strides
        if spec.op == "depthwise_conv2d" and rows == columns:
            return tf.nn.depthwise_conv2d(x, weights, (1, rows, columns, 1), "SAME")
        if spec.dilation > 1 or spec.op == "depthwise_conv2d":
            padding = [_same(int(x.shape[1 + i]), self.strides[i], spec.size[i], spec.dilation) for i in (0, 1)]
            x, stride = tf.pad(x, [(0, 0), *padding, (0, 0)]), (1, 1)
            kind, rows, columns = "VALID", self.strides[0], self.strides[1]
        else:
            kind, stride, rows, columns = "SAME", self.strides, 1, 1
        if spec.op == "depthwise_conv2d":
            y = tf.nn.depthwise_conv2d(x, weights, (1, 1, 1, 1), kind)
        else:
            parts = zip(tf.split(x, spec.groups, -1), tf.split(weights, spec.groups, -1), strict=True)
            found = [tf.nn.convolution(a, w, stride, kind, dilations=(spec.dilation, spec.dilation)) for a, w in parts]
            y = found[0] if len(found) == 1 else tf.concat(found, -1)
        return y[:, ::rows, ::columns]

    def folded(self, weights: Any = None) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Weights in TFLite's layout (OHWI, depthwise 1HWC) and bias, normalisation in them."""
        values = np.asarray(self.kernel if weights is None else weights, np.float64)
        norm = self.normalisation
        factor = np.asarray(norm.gamma, np.float64) / np.sqrt(np.asarray(norm.moving_variance) + norm.epsilon)
        bias = np.asarray(norm.beta) - np.asarray(norm.moving_mean) * factor
        if self.spec.op == "depthwise_conv2d":
            values = values.reshape(1, *values.shape[:2], -1) * factor
        else:
            values = values.transpose(3, 0, 1, 2) * factor.reshape(-1, 1, 1, 1)
        return values.astype(np.float32), bias.astype(np.float32)


def _depthwise_initializer(size: tuple[int, int]) -> Any:
    return tf.keras.initializers.RandomNormal(stddev=float(np.sqrt(2 / (size[0] * size[1]))))


def _same(extent: int, stride: int, size: int, dilation: int) -> tuple[int, int]:
    """TensorFlow's padding before and behind."""
    total = max(0, (-(-extent // stride) - 1) * stride + (size - 1) * dilation + 1 - extent)
    return total // 2, total - total // 2


@tf.keras.utils.register_keras_serializable("rqdkm")
class MorphConv2D(tf.keras.layers.Layer):  # type: ignore[misc]
    """A convolution with "same" padding, batch normalisation and activation that owns up to five kernels.

    Args:
        filters: channels of the result, the same for every kernel.
        kernels: their names, see :func:`parse`. Number ``k`` is kernel ``k`` on the chip.
        strides: one number, or height and width.
        activation: ``"relu"``, ``"relu6"`` or None.
        share: plain kernels are maps of the largest one, which has to be among them.
        safe: the kernel that runs on the chip until one is chosen.
        inner_activation: between the depthwise and the pointwise convolution of a separable kernel.
        momentum: of the moving averages of every normalisation.

    Which kernel runs is the variable ``kernel``, at first ``safe``; :func:`use_kernel` sets it in a whole model. The
    argument of a call, ``layer(x, kernel=2)``, is for this call.
    """

    def __init__(
        self,
        filters: int,
        kernels: Sequence[str] = KERNELS,
        strides: int | Sequence[int] = 1,
        activation: str | None = "relu",
        share: bool = False,
        safe: int = 0,
        inner_activation: str | None = "relu",
        momentum: float = 0.9,
        **keywords: Any,
    ) -> None:
        super().__init__(**keywords)
        self.filters, self.kernels, self.safe, self.share = int(filters), tuple(kernels), int(safe), bool(share)
        rows, columns = (strides, strides) if isinstance(strides, int) else strides
        self.strides = (int(rows), int(columns))
        self.activation, self.inner_activation, self.momentum = activation, inner_activation, float(momentum)
        self._check()
        self._specs = [parse(name) for name in self.kernels]
        self._order = self._shared() if self.share else []
        self._paths = [[self._step(k, i, len(specs)) for i in range(len(specs))] for k, specs in enumerate(self._specs)]
        self.kernel = tf.Variable(self.safe, trainable=False, dtype=tf.int32, name="kernel")

    def _check(self) -> None:
        here = f'MorphConv2D "{self.name}"'
        if not 1 <= len(self.kernels) <= MOST_KERNELS or len(set(self.kernels)) != len(self.kernels):
            raise ValueError(f"{here}: 1 to {MOST_KERNELS} different kernels, not {list(self.kernels)}")
        if not 0 <= self.safe < len(self.kernels):
            raise ValueError(f"{here}: there is no kernel {self.safe} that could be safe")
        if self.filters < 1 or min(self.strides) < 1:
            raise ValueError(f"{here}: filters and strides are at least 1")
        for name in (self.activation, self.inner_activation):
            if name not in ACTIVATIONS:
                raise ValueError(f'{here}: activation "{name}" is none of relu, relu6, linear')

    def _step(self, kernel: int, index: int, count: int) -> _Convolution:
        last = index + 1 == count
        return _Convolution(
            self._specs[kernel][index],
            self.filters,
            self.strides if index == 0 else (1, 1),
            self.activation if last else self.inner_activation,
            owned=kernel not in self._order[1:],
            momentum=self.momentum,
            name=f"kernel{kernel}_{index}",
        )

    def _shared(self) -> list[int]:
        """Kernels that share weights, largest first."""
        plain = [
            k for k, specs in enumerate(self._specs) if len(specs) == 1 and specs[0] == Spec("conv2d", specs[0].size)
        ]
        plain.sort(key=lambda k: -int(np.prod(self._specs[k][0].size)))
        for larger, smaller in itertools.pairwise(plain):
            a, b = self._specs[larger][0].size, self._specs[smaller][0].size
            if any((a[i] - b[i]) % 2 or a[i] < b[i] for i in (0, 1)):
                raise ValueError(
                    f'MorphConv2D "{self.name}": {self.kernels[smaller]} is not the middle of {self.kernels[larger]}'
                )
        if len(plain) < 2:
            raise ValueError(f'MorphConv2D "{self.name}": share needs two plain kernels, such as "5x5" and "3x3"')
        return plain

    def build(self, shape: Sequence[int | None]) -> None:
        if len(shape) != 4 or None in shape[1:]:
            raise ValueError(f'MorphConv2D "{self.name}" reads (batch, height, width, channels), not {tuple(shape)}')
        _, rows, columns, _ = self.compute_output_shape(shape)
        assert rows is not None and columns is not None
        self._pixels = rows * columns
        for steps in self._paths:
            x = tuple(shape)
            for step in steps:
                step.build(x)
                x = (x[0], rows, columns, x[3] if step.spec.op == "depthwise_conv2d" else self.filters)
        self._maps = [
            self.add_weight(
                shape=(int(np.prod(self._specs[small][0].size)), int(np.prod(self._specs[large][0].size))),
                initializer=_centre(self._specs[small][0].size, self._specs[large][0].size),
                name=f"map_{self.kernels[small]}",
            )
            for large, small in itertools.pairwise(self._order)
        ]
        self.built = True

    def compute_output_shape(self, shape: Sequence[int | None]) -> tuple[int | None, ...]:
        rows, columns = (-(-int(shape[1 + i]) // self.strides[i]) for i in (0, 1))  # type: ignore[arg-type]
        return (shape[0], rows, columns, self.filters)

    def _given(self, kernel: int) -> Any:
        """Weights of a kernel that has none of its own."""
        if kernel not in self._order[1:]:
            return None
        weights = tf.convert_to_tensor(self._paths[self._order[0]][0].kernel)
        for smaller, mapping in zip(self._order[1:], self._maps, strict=True):
            size = self._specs[smaller][0].size
            taps = tf.reshape(weights, (-1, weights.shape[2] * weights.shape[3]))
            weights = tf.reshape(tf.matmul(tf.convert_to_tensor(mapping), taps), (*size, *weights.shape[2:]))
            if smaller == kernel:
                break
        return weights

    def _run(self, kernel: int, x: Any, training: bool) -> Any:
        steps = self._paths[kernel]
        x = steps[0](x, weights=self._given(kernel), training=training)
        for step in steps[1:]:
            x = step(x, training=training)
        return x

    def call(self, x: Any, kernel: int | None = None, training: bool = False) -> Any:
        if kernel is not None:
            return self._run(int(kernel), x, training)
        branches = [lambda k=k: self._run(k, x, training) for k in range(len(self.kernels))]
        y = tf.switch_case(tf.convert_to_tensor(self.kernel), branches)
        y.set_shape(self.compute_output_shape(x.shape))
        return y

    def variables_of(self, kernel: int) -> list[Any]:
        """What training changes of one kernel alone."""
        return [variable for step in self._paths[kernel] for variable in step.trainable_variables]

    def macs(self, kernel: int) -> int:
        """Products of one frame; the layer has been built."""
        return self._pixels * sum(int(np.prod(step.weight_shape(step.inputs))) for step in self._paths[kernel])

    def folded(self, kernel: int) -> list[tuple[Spec, str | None, npt.NDArray[np.float32], npt.NDArray[np.float32]]]:
        """(what, activation, weights, bias) of a kernel's convolutions, in TFLite's layouts, for export."""
        given = self._given(kernel)
        return [
            (step.spec, step.activation, *step.folded(None if step.owned else given)) for step in self._paths[kernel]
        ]

    def get_config(self) -> dict[str, Any]:
        return {
            **super().get_config(),
            "filters": self.filters,
            "kernels": list(self.kernels),
            "strides": list(self.strides),
            "activation": self.activation,
            "share": self.share,
            "safe": self.safe,
            "inner_activation": self.inner_activation,
            "momentum": self.momentum,
        }


def _centre(small: tuple[int, int], large: tuple[int, int]) -> Any:
    """Initializer of the map from a larger kernel's taps to a smaller one's: its middle."""
    found = np.zeros((*small, *large), np.float32)
    for i in range(small[0]):
        for j in range(small[1]):
            found[i, j, i + (large[0] - small[0]) // 2, j + (large[1] - small[1]) // 2] = 1
    return tf.keras.initializers.Constant(found.reshape(small[0] * small[1], -1))


def morphing(model: Any) -> list[MorphConv2D]:
    """The model's morphing layers."""
    return [layer for layer in model.layers if isinstance(layer, MorphConv2D)]


def use_kernel(model: Any, kernel: int) -> None:
    """From now on every morphing layer of ``model`` runs ``kernel``; its safe one where it has not so many."""
    for layer in morphing(model):
        layer.kernel.assign(kernel if 0 <= kernel < len(layer.kernels) else layer.safe)
