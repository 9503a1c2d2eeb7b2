"""ONNX models through Relay: the float network kept, quantized to an exact int8 one, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

from rqdkm.models import data, float_run, load, oracle, quantize, reference, summary
from rqdkm_tvm.errors import ModelError, UnsupportedOperatorError
from tests.models import onnx_models
from tests.models.onnx_models import OnnxBuilder

Write = Callable[[str, bytes], Path]
NETS = {
    "residual": onnx_models.residual_net,
    "flatten": onnx_models.flatten_net,
    "nhwc": onnx_models.nhwc_net,
    "curved": onnx_models.curved_net,
}


def samples(builder: OnnxBuilder, count: int = 32) -> np.ndarray:
    return np.random.default_rng(9).normal(0, 1, (count, *builder.shape[1:])).astype(np.float32)


def expected(content: bytes, x: np.ndarray) -> np.ndarray:
    evaluator = ReferenceEvaluator(onnx.load_model_from_string(content))
    return np.concatenate([evaluator.run(None, {"x": sample[None]})[0].reshape(1, -1) for sample in x])


@pytest.mark.parametrize("net", NETS)
def test_the_float_network_and_its_int8_version(net: str, write: Write, tmp_path: Path) -> None:
    builder = NETS[net]()
    content = builder.bytes(15)
    model = load.load(write("net.onnx", content))
    assert not model.is_quantized
    x = samples(builder)
    np.savez(tmp_path / "x.npz", x=x)  # in the file's own layout
    dataset = data.load_data(tmp_path / "x.npz", model)
    want = expected(content, x)
    assert np.allclose(float_run.run_float(model.graph, list(dataset.inputs))[0].reshape(want.shape), want, atol=1e-4)

    result = quantize.quantize_and_compare(model, dataset)
    inputs = data.quantize_inputs(data.load_data(tmp_path / "x.npz", result.model), result.model)
    exact = oracle.reference_outputs(result.model, inputs)[0]
    if net != "curved":  # the NumPy reference has no leaky relu and no tanh
        assert np.array_equal(reference.run_graph(result.model.graph, inputs)[result.model.graph.outputs[0]], exact)
    q = result.model.outputs[0].quantization
    assert q is not None
    noise = data.dequantize(exact, q).reshape(want.shape) - want
    assert 10 * np.log10(np.square(want).sum() / np.square(noise).sum()) > 20
    assert result.model.format == "onnx"


def test_layouts_and_names(write: Write) -> None:
    model = load.load(write("net.onnx", onnx_models.residual_net().bytes()))
    assert model.file_inputs[0].shape == (1, 3, 16, 16)
    assert model.inputs[0].shape == (1, 16, 16, 3)
    assert "residual" in model.layer_names.values()
    assert "classifier" in model.layer_names.values()
    assert [op.op for op in model.graph.operators].count("TRANSPOSE") == 0


@pytest.mark.parametrize("opset", [8, 9, 11, 13, 15, 17, 18, 20, 22])
def test_operator_sets(opset: int, write: Write) -> None:
    """Clip and Softmax changed meaning on the way; these nodes did not."""
    content = onnx_models.residual_net().bytes(opset)
    model = load.load(write("net.onnx", content))
    x = samples(onnx_models.residual_net(), 4)
    want = expected(onnx_models.residual_net().bytes(15), x)  # the evaluator's old batch norms are something else
    got = float_run.run_float(model.graph, [x.transpose(0, 2, 3, 1)])[0]
    assert np.allclose(got.reshape(want.shape), want, atol=1e-4)


def test_a_free_batch_dimension_is_fixed_to_one(write: Write) -> None:
    model = load.load(write("net.onnx", onnx_models.residual_net(("batch", 3, 16, 16)).bytes()))
    assert model.inputs[0].shape == (1, 16, 16, 3)


def test_inspect_counts_onnx_models(write: Write) -> None:
    found = summary.summarize(write("net.onnx", onnx_models.residual_net().bytes()))
    assert found.format == "onnx"
    assert found.macs == 8 * 8 * 8 * 27 + 8 * 8 * 8 * 9 + 4 * 4 * 16 * 8 + 4 * 4 * 16 * 72 + 320
    assert {layer.runs_on for layer in found.layers} == {"kernel"}


def refuse(path: Path, words: str, kind: type[ModelError] = ModelError) -> ModelError:
    with pytest.raises(kind, match=words) as caught:
        load.load(path)
    assert str(path) in caught.value.where
    return caught.value


def test_damaged_files(write: Write) -> None:
    content = onnx_models.residual_net().bytes()
    refuse(write("a.onnx", b""), "empty")
    refuse(write("b.onnx", content[: len(content) // 2]), "not a valid ONNX model")
    refuse(write("c.onnx", np.random.default_rng(0).bytes(4000)), "not a valid ONNX model")


def test_corruptions_load_or_are_refused() -> None:
    """In this process: protobuf checks its own bounds, and what it accepts goes through the graph's checks."""
    content = onnx_models.flatten_net().bytes()
    rng = np.random.default_rng(4)
    refused = 0
    for _ in range(40):
        damaged = bytearray(content)
        for _ in range(3):
            damaged[rng.integers(0, 600)] = rng.integers(0, 256)
        try:
            load.load_onnx(bytes(damaged), Path("damaged.onnx"))
        except ModelError:
            refused += 1
    assert refused > 10


def test_dynamic_shapes_batches_and_types(write: Write) -> None:
    refuse(write("a.onnx", onnx_models.residual_net((1, 3, "h", "w")).bytes()), "dynamic")
    refuse(write("b.onnx", onnx_models.residual_net((8, 3, 16, 16)).bytes()), "batch size is 8")
    model = onnx_models.residual_net().model()
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.DOUBLE
    with pytest.raises(ModelError):
        load.load(write("c.onnx", model.SerializeToString()))


def test_unsupported_operators_are_named_with_their_node(write: Write) -> None:
    b = OnnxBuilder((1, 4))
    b.node("Erf", name="my_gelu")
    error = refuse(write("a.onnx", b.bytes()), "Erf", UnsupportedOperatorError)
    assert "my_gelu" in error.where


def test_quantized_onnx_models_say_what_to_do(write: Write) -> None:
    b = OnnxBuilder((1, 4))
    b.node("QuantizeLinear", "x", b.constant(np.float32(0.1)), b.constant(np.int8(0)))
    b.node("DequantizeLinear", b.last, b.constant(np.float32(0.1)), b.constant(np.int8(0)))
    error = refuse(write("a.onnx", b.bytes()), "quantized already", UnsupportedOperatorError)
    assert "--calib" in error.hint


def test_padding_that_int8_cannot_express_is_refused(write: Write) -> None:
    b = OnnxBuilder((1, 2, 8, 8))
    b.conv("x", 4, 2)
    b.node("MaxPool", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])  # its input may be negative
    refuse(write("a.onnx", b.bytes(rank=4)), "can be negative", UnsupportedOperatorError)


def test_old_operator_sets_are_refused(write: Write) -> None:
    b = OnnxBuilder((1, 4))
    b.node("Relu")
    refuse(write("a.onnx", b.bytes(6)), "too old")
