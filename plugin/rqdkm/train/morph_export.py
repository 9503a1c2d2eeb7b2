"""A Keras model with ``MorphConv2D`` layers -> float ``.tflite`` with operators ``RQDKM_MORPH_CONV_2D``.

TensorFlow's converter converts the network with a hole in the place of every morphing layer: a composite function that
it keeps as a custom operator, so that nothing is folded into it or moved over it. Then we put in the kernels, with
their normalisation folded into the weights. The file is checked before it is handed over: NumPy computes every kernel
of it, and the answers have to be those of the model. Imports TensorFlow and nothing of TVM.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import tensorflow as tf
from flatbuffers import flexbuffers  # type: ignore[import-untyped]

from rqdkm.models import float_run, morph_file, tflite_read, tflite_write
from rqdkm.models.graph import CUSTOM, SELECT, Graph, Operator, TensorInfo
from rqdkm.models.simplify import simplify
from rqdkm.train.morph_layer import MorphConv2D, morphing, use_kernel
from rqdkm_tvm.errors import ModelError

NDArray = npt.NDArray[Any]

CHECKED = 2  # samples that are compared
TOLERANCE = 1e-3  # of the largest output value
_HOLE = "RQDKM_HOLE"


class _Hole(tf.keras.layers.Layer):  # type: ignore[misc]
    """Stands for a morphing layer while TensorFlow converts the rest."""

    def __init__(self, number: int, shape: Sequence[int | None], name: str) -> None:
        super().__init__(name=name)
        self.number, self.shape = number, tuple(shape)

    def compute_output_shape(self, _shape: Any) -> tuple[int | None, ...]:
        return self.shape

    def call(self, x: Any) -> Any:
        name = f'name: "{_HOLE}"'
        attributes = 'attr { key: "tfl_fusable_op" value { b: true } }'
        number = f'attr {{ key: "number" value {{ i: {self.number} }} }}'

        @tf.function(  # type: ignore[untyped-decorator]
            experimental_implements=f"{name} {attributes} {number}",
            input_signature=[tf.TensorSpec(x.shape, x.dtype)],
        )
        def hole(data: Any) -> Any:  # what it computes does not matter
            return tf.zeros((1, *self.shape[1:])) + tf.reduce_sum(data)

        return hole(x)


def export_tflite(model: Any, path: Path | str | None = None, samples: NDArray | None = None) -> bytes:
    """Write a trained model as a float ``.tflite`` file.

    Args:
        model: functional or sequential Keras model with one input and :class:`MorphConv2D` layers in it, not in nested
            models.
        path: where to; None: nowhere.
        samples: inputs with which the file is checked; noise unless given.

    Returns:
        The file.

    Raises:
        ModelError: the model has something that cannot be written, or the file computes something else.
    """
    where = f"model {model.name!r}"
    layers = morphing(model)
    if not layers or len(model.inputs) != 1:
        raise ModelError("it needs one input and at least one MorphConv2D layer of its own", where=where)
    graph = simplify(tflite_read.read_graph(_with_holes(model, layers), where, model.name))
    graph = _filled(graph, model.name, layers)
    _check(model, graph, samples, where)
    data = tflite_write.write_graph(morph_file.fold(graph), "float, kernels by rqdkm")
    if path is not None:
        Path(path).write_bytes(data)
    return data


def _with_holes(model: Any, layers: list[MorphConv2D]) -> bytes:
    def cloned(layer: Any) -> Any:
        if isinstance(layer, MorphConv2D):
            return _Hole(layers.index(layer), layer.output.shape, layer.name)
        return layer.__class__.from_config(layer.get_config())

    def one(tensor: Any) -> Any:
        return tf.keras.Input(batch_shape=(1, *tensor.shape[1:]), dtype=tensor.dtype)

    inputs = tf.nest.map_structure(one, model.input)
    copy = tf.keras.models.clone_model(model, input_tensors=inputs, clone_function=cloned)
    for old, new in zip(model.layers, copy.layers, strict=True):
        if not isinstance(old, MorphConv2D):
            new.set_weights(old.get_weights())
    converter = tf.lite.TFLiteConverter.from_keras_model(copy)
    converter.allow_custom_ops = True
    return bytes(converter.convert())


def _filled(graph: Graph, name: str, layers: list[MorphConv2D]) -> Graph:
    """The holes as the layers of all kernels and the choice between them."""
    tensors, operators = list(graph.tensors), []
    scopes = {tensor.name.split("/")[0] for tensor in tensors if "/" in tensor.name}
    scope = next((s for s in sorted(scopes) if s.startswith(name)), name)
    for operator in graph.operators:
        if operator.op != morph_file.named(_HOLE):
            operators.append(operator)
            continue
        number = flexbuffers.Loads(bytearray(operator.attrs[CUSTOM]))["number"]
        operators += _kernels(tensors, operator, layers[number], f"{scope}/{layers[number].name}")
    return replace(graph, tensors=tuple(tensors), operators=tuple(operators))


def _kernels(tensors: list[TensorInfo], hole: Operator, layer: MorphConv2D, scope: str) -> list[Operator]:
    def add(name: str, shape: Sequence[int], data: NDArray | None = None) -> int:
        tensors.append(TensorInfo(name, tuple(shape), "float32", data=data))
        return len(tensors) - 1

    shape = tensors[hole.outputs[0]].shape
    found, results = [], []
    for kernel, title in enumerate(layer.kernels):
        x = hole.inputs[0]
        steps = layer.folded(kernel)
        for place, (spec, activation, weights, bias) in enumerate(steps):
            depthwise = spec.op == "depthwise_conv2d"
            inner = "depthwise" if depthwise else "pointwise" if len(steps) > 1 else ""
            base = "/".join(filter(None, (scope, title, inner)))
            attrs: dict[str, Any] = {
                "padding": "SAME",
                "stride": layer.strides if place == 0 else (1, 1),
                "dilation": (spec.dilation, spec.dilation),
                "activation": {None: "NONE", "linear": "NONE"}.get(activation, str(activation).upper()),
            }
            if depthwise:
                attrs["multiplier"] = 1
            inputs = (
                x,
                add(f"{base}/{'depthwise' if depthwise else 'Conv2D'}", weights.shape, weights),
                add(f"{base}/bias", bias.shape, bias),
            )
            channels = weights.shape[3] if depthwise else weights.shape[0]
            x = add(f"{base}/result", (*shape[:3], channels))
            found.append(Operator("DEPTHWISE_CONV_2D" if depthwise else "CONV_2D", inputs, (x,), attrs))
        results.append(x)
    output = tensors[hole.outputs[0]]
    tensors[hole.outputs[0]] = replace(
        output, name=f"{scope}/select" if output.name.startswith("tfl.") else output.name
    )
    attrs = {"safe": layer.safe, "layer": layer.name, CUSTOM: b""}
    return [*found, Operator(SELECT, tuple(results), hole.outputs, attrs)]


def _check(model: Any, graph: Graph, samples: NDArray | None, where: str) -> None:
    shape = graph.tensors[graph.inputs[0]].shape[1:]
    if samples is None:
        samples = np.random.default_rng(0).uniform(-1, 1, (CHECKED, *shape))
    some = np.asarray(samples[:CHECKED], np.float32)
    before = [int(layer.kernel) for layer in morphing(model)]
    for kernel in range(morph_file.kernel_count(graph)):
        use_kernel(model, kernel)
        answers = model(tf.constant(some), training=False)
        wanted = [np.asarray(answer) for answer in (answers if isinstance(answers, (list, tuple)) else [answers])]
        found = float_run.run_float(morph_file.fixed(graph, kernel), [some])
        for a, b in zip(found, wanted, strict=True):
            worst = float(np.abs(a.reshape(b.shape) - b).max())
            if not worst <= TOLERANCE * max(1e-6, float(np.abs(b).max())):
                raise ModelError(
                    f"the file computes something else with kernel {kernel}: {worst:.3g} apart", where=where
                )
    for layer, number in zip(morphing(model), before, strict=True):
        layer.kernel.assign(number)
