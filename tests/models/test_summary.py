"""``inspect``: known counts of known models, live sets against a brute-force walk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rqdkm.models import load, summary, tflite_write, zoo
from rqdkm.models.graph import Operator, TensorInfo
from tests.models import graphs

# multiply-accumulates published for these MLPerf Tiny models (wake words and anomaly: this wheel's variants)
MACS = {
    "image_classification": 12_501_632,
    "keyword_spotting": 2_656_768,
    "visual_wake_words": 7_489_664,
    "anomaly_detection": 264_192,
}


@pytest.mark.parametrize("name", MACS)
def test_macs_of_known_models(name: str) -> None:
    assert summary.summarize(zoo.path(name)).macs == MACS[name]


def test_image_classification_in_detail() -> None:
    found = summary.summarize(zoo.path("image_classification"))
    assert found.is_quantized
    assert found.ram_peak_bytes == 3 * 32 * 32 * 16  # residual: input, branch, result
    assert found.peak_layer == "conv2d_2"
    assert found.layers[0].detail == "3x3 same relu"
    assert found.layers[0].parameters == 3 * 3 * 3 * 16 + 16
    assert found.layers[0].weights_bytes == 3 * 3 * 3 * 16 + 4 * 16
    assert (found.layers[0].bits_weight, found.layers[0].bits_activation, found.layers[0].per_channel) == (8, 8, True)
    assert found.inputs[0].scale is not None
    assert sum(layer.weights_bytes for layer in found.layers) == found.weights_bytes < found.file_bytes


@pytest.mark.parametrize("name", [n for n in zoo.names() if n.endswith(".float32")])
def test_float_models_are_counted_as_their_int8_twins(name: str) -> None:
    floats, ints = summary.summarize(zoo.path(name)), summary.summarize(zoo.path(name.removesuffix(".float32")))
    assert not floats.is_quantized
    assert (floats.macs, floats.ram_peak_bytes) == (ints.macs, ints.ram_peak_bytes)
    assert (floats.parameters, floats.weights_bytes) == (ints.parameters, ints.weights_bytes)


@pytest.mark.parametrize("name", ["image_classification", "keyword_spotting_mobilenetv2", "tflite_micro_magic_wand"])
def test_live_sets_against_a_walk_that_frees_what_nobody_reads_again(name: str) -> None:
    graph = load.load_graph(zoo.path(name))
    alias: dict[int, int] = {}
    for operator in graph.operators:
        if operator.op == "RESHAPE":
            alias[operator.outputs[0]] = alias.get(operator.inputs[0], operator.inputs[0])
    storage = {alias.get(i, i) for i in graph.inputs}
    found = summary.live_sets(graph)
    for number, operator in enumerate(graph.operators):
        storage |= {alias.get(i, i) for i in operator.outputs}
        assert found[number] == sum(graph.tensors[i].size for i in storage)
        later = {i for op in graph.operators[number + 1 :] for i in op.inputs} | set(graph.outputs)
        storage = {i for i in storage if i in later or any(alias.get(j) == i for j in later)}


def test_unsupported_operators_are_shown_not_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    b = graphs.GraphBuilder()
    b.tensors += [TensorInfo("x", (1, 4), "float32"), TensorInfo("y", (1, 4), "float32")]
    b.operators.append(Operator("LSH_PROJECTION", (0,), (1,)))
    monkeypatch.setattr(tflite_write, "_OPTIONS", {"LSH_PROJECTION": ("NONE", None)})
    path = tmp_path / "lsh.tflite"
    path.write_bytes(tflite_write.write_graph(b.graph([0], [1])))
    found = summary.summarize(path)
    assert [layer.runs_on for layer in found.layers] == ["unsupported"]
    assert np.sum([layer.macs for layer in found.layers]) == 0
