"""A trained float model of 3x3 convolutions as a morphing one: the step before it is quantized."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rqdkm.models import from_relay, load, morph_file, tflite_write
from rqdkm.models.data import Dataset
from rqdkm.models.graph import WEIGHT_NAMES, Graph
from rqdkm.models.load import LoadedModel
from rqdkm.models.simplify import simplify
from rqdkm_tvm.errors import ModelError
from rqdkm_tvm.morph.convert import KERNELS, Account, convert


@dataclass(frozen=True)
class Morphed:
    """A float model whose 3x3 convolutions morph, and how well each kernel stands for the trained network."""

    model: LoadedModel
    accounts: tuple[Account, ...]


def morph(
    model: LoadedModel,
    data: Dataset,
    kernels: Sequence[str] = KERNELS,
    progress: Callable[[str], None] = lambda _text: None,
) -> Morphed:
    """Give the model's 3x3 convolutions further kernels (:func:`rqdkm_tvm.morph.convert.convert`).

    Args:
        model: float.
        data: what calibration takes: a hundred samples or so that look like what the device will see.

    Raises:
        ModelError: an int8 model, one that morphs already, or one without convolutions that could.
        UnsupportedOperatorError: an operator that has no float form here.
    """
    where = str(model.path)
    if model.is_quantized:
        raise ModelError(
            "kernels are fitted to the float model, this one computes in int8", where=where, hint="pass the float model"
        )
    if morph_file.kernel_count(model.graph):
        raise ModelError("its layers morph already", where=where, hint="deploy it as it is")
    samples = [np.asarray(x, np.float32) for x in data.inputs]
    try:
        found = convert(model.module, samples, kernels, progress)
    except ModelError as error:
        error.where = where
        raise
    progress("writing the morphing model")
    raw = from_relay.to_graph(found.module, model.name, where, [tensor.name for tensor in model.outputs])
    graph = _layers_by_name(from_relay.tidy_names(simplify(raw)), [tensor.name for tensor in model.inputs])
    loaded = load.load_tflite(tflite_write.write_graph(morph_file.fold(graph)), model.path)
    loaded = dataclasses.replace(
        loaded, name=model.name, format=model.format, file_inputs=model.file_inputs, file_outputs=model.file_outputs
    )
    return Morphed(loaded, found.accounts)


def _layers_by_name(graph: Graph, inputs: Sequence[str]) -> Graph:
    """Inputs as the model calls them; results and weights as a converter does: the layer's name and one more part."""
    tensors = list(graph.tensors)
    for index, name in zip(graph.inputs, inputs, strict=True):
        tensors[index] = replace(tensors[index], name=name)
    for operator in graph.operators:
        index = operator.outputs[0]
        name = tensors[index].name
        if operator.op in WEIGHT_NAMES:
            weights = operator.inputs[1]
            tensors[weights] = replace(tensors[weights], name=f"{name}/{WEIGHT_NAMES[operator.op]}")
        if index not in graph.outputs:
            tensors[index] = replace(tensors[index], name=f"{name}/result")
    return replace(graph, tensors=tuple(tensors))
