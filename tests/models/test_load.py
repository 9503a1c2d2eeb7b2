"""Loading: every zoo model, its int8 boundary, names and Relay module."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tvm
from tvm import relay

from rqdkm.models import data, load, oracle, reference, tflite_read, tflite_write, zoo
from rqdkm.models.graph import layer_names
from rqdkm.models.load import LoadedModel
from tests.models import graphs

Loaded = Callable[[str], LoadedModel]


@pytest.mark.parametrize("name", zoo.names())
def test_every_zoo_model_loads(name: str, loaded: Loaded) -> None:
    model = loaded(name)
    assert model.is_quantized != name.endswith(".float32")
    kinds = [p.checked_type for p in model.module["main"].params]
    assert [p.name_hint for p in model.module["main"].params] == list(model.input_names)
    assert [(tuple(int(d) for d in k.shape), k.dtype) for k in kinds] == [(t.shape, t.dtype) for t in model.inputs]
    if model.is_quantized:
        assert {t.dtype for t in (*model.inputs, *model.outputs)} == {"int8"}
        assert all(t.quantization is not None for t in (*model.inputs, *model.outputs))


@pytest.mark.parametrize("name", ["image_classification", "keyword_spotting_mobilenetv2", "anomaly_detection"])
def test_every_relay_call_knows_its_layer(name: str, loaded: Loaded) -> None:
    model = loaded(name)
    calls: list[relay.Call] = []
    relay.analysis.post_order_visit(
        model.module["main"], lambda e: calls.append(e) if isinstance(e, relay.Call) else None
    )
    assert calls
    assert all(call.span is not None and call.span.source_name.name in model.layer_names.values() for call in calls)


def test_layer_names_are_those_of_the_author(loaded: Loaded) -> None:
    names = list(loaded("image_classification").layer_names.values())
    assert names[:5] == ["conv2d", "conv2d_1", "conv2d_2", "add", "conv2d_3"]
    assert names[-4:] == ["average_pooling2d", "flatten", "dense", "softmax"]
    for name in zoo.names():
        short = layer_names(load.load_graph(zoo.path(name)))
        assert len(set(short)) == len(short)


@pytest.mark.parametrize("name", ["keyword_spotting", "visual_wake_words", "anomaly_detection", "autoencoder_example"])
def test_stripping_the_boundary_changes_no_byte(name: str, loaded: Loaded) -> None:
    """The unedited file, fed with float values that quantize to q, gives the dequantized bytes of the edited one."""
    model = loaded(name)
    inputs = data.random_inputs(model, 5, seed=3)
    stripped = oracle.reference_outputs(model, inputs)
    real = data.dequantize(inputs[0], model.inputs[0].quantization)
    assert np.array_equal(data.quantize(real, model.inputs[0].quantization), inputs[0])
    assert model.file_inputs[0].dtype == model.file_outputs[0].dtype == "float32"
    whole = run_unedited(zoo.path(name), real)
    assert np.array_equal(whole, data.dequantize(stripped[0], model.outputs[0].quantization))


def run_unedited(path: Path, real: np.ndarray) -> np.ndarray:
    """The file as it is, float in and out, in the reference interpreter."""
    content = path.read_bytes()
    graph = tflite_read.read_graph(content, "test")
    return oracle._run(content, graph, [real], graph.outputs, every_tensor=False)[0].reshape(
        len(real), *graph_out(graph)
    )


def graph_out(graph: tflite_read.Graph) -> tuple[int, ...]:
    return oracle.sample_shape(graph.tensors[graph.outputs[0]])


def test_relay_computes_the_quantized_network(loaded: Loaded) -> None:
    """TVM's own lowering rounds differently (once), so it agrees within a step or two, not in every byte."""
    model = loaded("tflite_micro_magic_wand")
    inputs = data.structured_inputs(model, 8, seed=1)
    expected = oracle.reference_outputs(model, inputs)[0]
    found = evaluate(model.module, inputs[0])
    assert np.abs(found.reshape(expected.shape).astype(int) - expected).max() <= 3


def evaluate(module: tvm.IRModule, samples: np.ndarray) -> np.ndarray:
    with tvm.transform.PassContext(opt_level=2):
        library = relay.build(module, target="llvm")
    runner = tvm.contrib.graph_executor.GraphModule(library["default"](tvm.cpu()))
    name = module["main"].params[0].name_hint
    results = []
    for sample in samples:
        runner.run(**{name: sample[None]})
        results.append(runner.get_output(0).numpy())
    return np.concatenate(results)


@pytest.mark.parametrize("per_channel", [False, True])
def test_dense_layers_with_one_or_many_weight_scales(per_channel: bool) -> None:
    rng = np.random.default_rng(5)
    for _ in range(3):
        graph = graphs.random_dense(rng, per_channel=per_channel)
        model = load.load_tflite(tflite_write.write_graph(graph), Path("dense.tflite"))
        inputs = data.random_inputs(model, 10, seed=1)
        expected = oracle.reference_outputs(model, inputs)[0]
        assert np.array_equal(reference.run_graph(model.graph, inputs)[model.graph.outputs[0]], expected)
        found = evaluate(model.module, inputs[0]).reshape(expected.shape)
        assert np.abs(found.astype(int) - expected).max() <= 1


def test_several_inputs_and_outputs() -> None:
    b = graphs.GraphBuilder()
    left, right = b.tensor((1, 4, 4, 2), 0.1, 3, "left:0"), b.tensor((1, 4, 4, 2), 0.2, -5, "right:0")
    total = b.op("ADD", [left, right], b.tensor((1, 4, 4, 2), 0.3, 1, "total"), activation="NONE")
    product = b.op("MUL", [left, right], b.tensor((1, 4, 4, 2), 0.5, 0, "product"), activation="RELU")
    content = tflite_write.write_graph(b.graph([left, right], [product, total]))
    model = load.load_tflite(content, Path("two.tflite"))
    assert model.input_names == ("left_0", "right_0")
    assert model.output_names == ("product", "total")
    inputs = data.random_inputs(model, 7)
    expected = oracle.reference_outputs(model, inputs)
    found = reference.run_graph(model.graph, inputs)
    assert all(np.array_equal(found[i], e) for i, e in zip(model.graph.outputs, expected, strict=True))


@pytest.mark.parametrize("name", zoo.names())
def test_writing_a_graph_and_reading_it_back_changes_nothing(name: str) -> None:
    graph = load.load_graph(zoo.path(name))
    again = tflite_read.read_graph(tflite_write.write_graph(graph), "test", graph.name)
    assert (again.inputs, again.outputs) == (graph.inputs, graph.outputs)
    assert [op.op for op in again.operators] == [op.op for op in graph.operators]
    for before, after in zip(graph.tensors, again.tensors, strict=True):
        assert (after.name, after.shape, after.dtype) == (before.name, before.shape, before.dtype)
        assert (after.data is None) == (before.data is None)
        assert before.data is None or np.array_equal(after.data, before.data)
        assert (after.quantization is None) == (before.quantization is None)
        assert before.quantization is None or after.quantization.same(before.quantization)
