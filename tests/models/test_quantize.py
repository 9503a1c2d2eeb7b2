"""Our post-training quantizer: TFLite's specification kept, accuracy at least that of the vendor's int8 models."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from rqdkm.models import calibrate, data, float_run, oracle, quantize, reference, simplify, tflite_read, zoo
from rqdkm.models.graph import Graph
from rqdkm.models.load import LoadedModel
from rqdkm_tvm.errors import DataError, ModelError
from tests.models import graphs

Loaded = Callable[[str], LoadedModel]
CALIBRATION, TEST = 64, 200
# those whose float output is not one class for everything that can be synthesized
CLASSIFIERS = ("image_example1", "rock_paper_scissors")


def samples(float_model: LoadedModel, int8_model: LoadedModel, count: int, seed: int) -> data.Dataset:
    """Structured inputs over the real range that the vendor's int8 model takes."""
    q = int8_model.inputs[0].quantization
    assert q is not None
    low, high = ((v - q.zero_point) * q.scale for v in (-128, 127))
    spread = (data.structured_inputs(float_model, count, seed)[0] + 1) / 2
    return data.Dataset(((low + spread * (high - low)).astype(np.float32),), None, "synthetic")


def outputs(model: LoadedModel, dataset: data.Dataset) -> np.ndarray:
    """Real-valued outputs of an int8 model, (n, classes)."""
    found = reference.run_graph(model.graph, data.quantize_inputs(dataset, model))[model.graph.outputs[0]]
    q = model.outputs[0].quantization
    assert q is not None
    return data.dequantize(found, q).reshape(len(dataset), -1)


def sqnr(real: np.ndarray, approximate: np.ndarray) -> float:
    return 10 * np.log10(np.square(real).sum() / np.square(real - approximate).sum())


@pytest.mark.parametrize("name", [n for n in zoo.names() if n.endswith(".float32")])
def test_the_float_interpreter_agrees_with_tflite_micro(name: str, loaded: Loaded) -> None:
    model = loaded(name)
    inputs = data.structured_inputs(model, 3, seed=1)
    expected = oracle.reference_outputs(model, inputs)[0]
    for graph in (model.graph, simplify.simplify(model.graph)):
        assert np.allclose(float_run.run_float(graph, inputs)[0], expected, atol=1e-5)


@pytest.mark.parametrize("name", ["autoencoder_example", *CLASSIFIERS])
def test_accuracy_is_at_least_the_vendors(name: str, loaded: Loaded) -> None:
    model, vendor = loaded(f"{name}.float32"), loaded(name)
    ours = quantize.quantize(model, samples(model, vendor, CALIBRATION, seed=1))
    test = samples(model, vendor, TEST, seed=2)
    real = float_run.run_float(model.graph, list(test.inputs))[0].reshape(TEST, -1)
    found, theirs = outputs(ours, test), outputs(vendor, test)
    assert sqnr(real, found) >= sqnr(real, theirs)
    if name in CLASSIFIERS:
        assert len(set(real.argmax(axis=1))) >= 3
        agreement = (found.argmax(axis=1) == real.argmax(axis=1)).mean()
        assert agreement >= (theirs.argmax(axis=1) == real.argmax(axis=1)).mean()
        assert agreement >= 0.95


@pytest.mark.parametrize("method", calibrate.METHODS)
def test_the_result_keeps_tflites_specification(method: str, loaded: Loaded) -> None:
    model = loaded("image_example1.float32")
    result = quantize.quantize_and_compare(model, samples(model, loaded("image_example1"), 32, 1), method)
    check_specification(result.model.graph)
    assert result.model.is_quantized
    assert result.agreement >= 0.9
    assert result.compared == 32
    assert min(layer.sqnr_db for layer in result.layers if layer.op == "CONV_2D") > 25
    inputs = data.random_inputs(result.model, 5)
    expected = oracle.reference_outputs(result.model, inputs)[0]
    assert np.array_equal(reference.run_graph(result.model.graph, inputs)[result.model.graph.outputs[0]], expected)


def check_specification(graph: Graph) -> None:
    for operator in graph.operators:
        out = graph.tensors[operator.outputs[0]].quantization
        data_q = graph.tensors[operator.inputs[0]].quantization
        assert out is not None
        assert data_q is not None
        if operator.op in ("SOFTMAX", "LOGISTIC"):
            assert (out.scale, out.zero_point) == (1 / 256, -128)
        if operator.op in ("AVERAGE_POOL_2D", "MAX_POOL_2D", "RESHAPE", "PAD", "CONCATENATION"):
            assert all(graph.tensors[i].quantization.same(out) for i in graph.activations(operator))
        if operator.op in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            weights, bias = (graph.tensors[i] for i in operator.inputs[1:3])
            assert weights.quantization is not None
            assert not weights.quantization.zero_points.any()
            assert weights.data.min() >= -127
            channels = weights.shape[3 if operator.op == "DEPTHWISE_CONV_2D" else 0]
            assert weights.quantization.scales.size == (1 if operator.op == "FULLY_CONNECTED" else channels)
            assert bias.dtype == "int32"
            product = np.float64(data_q.scale) * weights.quantization.scales
            assert np.allclose(bias.quantization.scales, product, rtol=1e-6)


def test_a_float_model_without_data_says_how_to_give_it(loaded: Loaded) -> None:
    with pytest.raises(DataError) as caught:
        quantize.quantize(loaded("image_example1.float32"), None)
    assert "--calib" in caught.value.hint


def test_an_int8_model_is_not_quantized_again(loaded: Loaded) -> None:
    with pytest.raises(ModelError, match="already"):
        quantize.quantize(loaded("image_example1"), None)


def test_data_on_which_the_network_overflows_is_refused(loaded: Loaded) -> None:
    model = loaded("image_example1.float32")
    huge = data.Dataset((np.full((2, 96, 96, 1), 1e38, np.float32),), None, "huge")
    with np.errstate(over="ignore", invalid="ignore"), pytest.raises(DataError, match="infinite"):
        quantize.quantize(model, huge)


def test_quantization_is_reproducible(loaded: Loaded) -> None:
    model = loaded("image_example1.float32")
    dataset = samples(model, loaded("image_example1"), 16, 1)
    assert quantize.quantize(model, dataset).tflite == quantize.quantize(model, dataset).tflite


# ---- ranges


def test_zero_is_always_exact() -> None:
    for low, high in ((0.0, 6.0), (-1.0, 1.0), (-0.3, 0.0), (-1e-3, 7.3), (0.0, 0.0)):
        q = calibrate.activation_quantization(calibrate.Range(low, high))
        assert -128 <= q.zero_point <= 127
        assert data.dequantize(np.array([q.zero_point], np.int8), q)[0] == 0.0


def one_input() -> Graph:
    b = graphs.GraphBuilder()
    x = b.floats((1, 1000), "x")
    return b.graph([x], [b.op("RELU", [x], b.floats((1, 1000), "y"))])


def test_percentile_ignores_outliers_and_minmax_does_not() -> None:
    x = np.random.default_rng(0).normal(0, 1, (100, 1000)).astype(np.float32)
    x[0, 0] = 500.0
    assert calibrate.calibrate(one_input(), [x], "minmax")[0].high == 500.0
    assert calibrate.calibrate(one_input(), [x], "percentile")[0].high < 10


def test_mse_beats_minmax_on_outliers() -> None:
    x = np.random.default_rng(0).laplace(0, 1, (100, 1000)).astype(np.float32)
    x[:, 0] *= 8
    errors = {}
    for method in calibrate.METHODS:
        q = calibrate.activation_quantization(calibrate.calibrate(one_input(), [x], method)[0])
        errors[method] = float(np.square(data.dequantize(data.quantize(x, q), q) - x).mean())
    assert errors["mse"] <= min(errors.values()) * 1.01


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(DataError, match="does not exist"):
        calibrate.calibrate(one_input(), [np.zeros((1, 1000), np.float32)], "magic")


# ---- rewrites


def test_batch_norm_left_as_mul_and_add_goes_into_the_weights() -> None:
    rng = np.random.default_rng(3)
    b = graphs.GraphBuilder()
    x = b.floats((1, 6, 6, 4), "x")
    weights = b.constant(rng.normal(0, 1, (8, 3, 3, 4)).astype(np.float32))
    conv = b.op("CONV_2D", [x, weights], b.floats((1, 6, 6, 8)), padding="SAME", stride=(1, 1), dilation=(1, 1))
    scaled = b.op("MUL", [conv, b.constant(rng.normal(0, 1, 8).astype(np.float32))], b.floats((1, 6, 6, 8)))
    moved = b.op("ADD", [scaled, b.constant(rng.normal(0, 1, (1, 1, 1, 8)).astype(np.float32))], b.floats((1, 6, 6, 8)))
    y = b.op("RELU6", [moved], b.floats((1, 6, 6, 8), "y"))
    check_simplified(b.graph([x], [y]), ["CONV_2D"], rng)


def test_a_scale_without_a_convolution_becomes_one() -> None:
    rng = np.random.default_rng(4)
    b = graphs.GraphBuilder()
    x = b.floats((1, 5, 5, 3), "x")
    scaled = b.op("MUL", [x, b.constant(rng.normal(0, 1, 3).astype(np.float32))], b.floats((1, 5, 5, 3)))
    moved = b.op("ADD", [scaled, b.constant(rng.normal(0, 1, 3).astype(np.float32))], b.floats((1, 5, 5, 3)))
    y = b.op("RELU", [moved], b.floats((1, 5, 5, 3), "y"))
    check_simplified(b.graph([x], [y]), ["DEPTHWISE_CONV_2D"], rng)


def test_a_value_used_twice_is_not_folded_away() -> None:
    rng = np.random.default_rng(5)
    b = graphs.GraphBuilder()
    x = b.floats((1, 8), "x")
    weights = b.constant(rng.normal(0, 1, (8, 8)).astype(np.float32))
    dense = b.op("FULLY_CONNECTED", [x, weights], b.floats((1, 8), "dense"), activation="NONE")
    active = b.op("RELU", [dense], b.floats((1, 8), "active"))
    y = b.op("ADD", [dense, active], b.floats((1, 8), "y"), activation="NONE")
    check_simplified(b.graph([x], [y]), ["FULLY_CONNECTED", "RELU", "ADD"], rng)


def check_simplified(graph: Graph, operators: list[str], rng: np.random.Generator) -> None:
    simple = simplify.simplify(graph)
    assert [op.op for op in simple.operators] == operators
    shape = graph.tensors[graph.inputs[0]].shape
    inputs = [rng.normal(0, 1, (7, *shape[1:])).astype(np.float32)]
    before, after = float_run.run_float(graph, inputs), float_run.run_float(simple, inputs)
    assert np.allclose(before[0], after[0], atol=1e-4)


def test_the_written_file_is_an_ordinary_tflite_model(loaded: Loaded) -> None:
    model = loaded("image_example1.float32")
    result = quantize.quantize(model, samples(model, loaded("image_example1"), 8, 1))
    graph = tflite_read.read_graph(result.tflite, "written")
    assert [op.op for op in graph.operators] == [op.op for op in model.graph.operators]
    assert result.file_inputs == model.file_inputs
