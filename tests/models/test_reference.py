"""The NumPy reference equals tflite-micro's kernels in every byte of every layer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rqdkm.models import check, load, oracle, reference, tflite_read, tflite_write, zoo
from rqdkm.models import fixedpoint as fp
from rqdkm.models.graph import Graph, per_tensor
from rqdkm_tvm.compile import compile_model
from rqdkm_tvm.errors import RqdkmError
from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.tvm_import import relay, tvm
from tests.models import graphs

INT8_MODELS = [name for name in zoo.names() if not name.endswith(".float32")]


def random_inputs(graph: Graph, count: int, rng: np.random.Generator) -> list[np.ndarray]:
    return [
        rng.integers(-128, 128, (count, *oracle.sample_shape(graph.tensors[i]))).astype(np.int8) for i in graph.inputs
    ]


@pytest.mark.parametrize("name", INT8_MODELS)
def test_every_layer_of_every_zoo_model_is_exact(name: str) -> None:
    graph = load.load_graph(zoo.path(name))
    inputs = random_inputs(graph, 4, np.random.default_rng(1))
    expected = oracle.reference_layers(zoo.path(name), inputs)
    found = reference.run_graph(graph, inputs, every_tensor=True)
    wrong = [graph.tensors[i].name for i, x in found.items() if not np.array_equal(x, expected[graph.tensors[i].name])]
    assert not wrong


RANDOM: dict[str, Callable[[np.random.Generator], Graph]] = {
    "conv2d": graphs.random_conv,
    "depthwise": lambda rng: graphs.random_conv(rng, depthwise=True),
    "dense": lambda rng: graphs.random_dense(rng, per_channel=False),
    "dense per channel": lambda rng: graphs.random_dense(rng, per_channel=True),
    "add": lambda rng: graphs.random_binary(rng, "ADD"),
    "mul": lambda rng: graphs.random_binary(rng, "MUL"),
    "average pool": lambda rng: graphs.random_pool(rng, "AVERAGE_POOL_2D"),
    "max pool": lambda rng: graphs.random_pool(rng, "MAX_POOL_2D"),
    "mean": graphs.random_mean,
    "softmax": lambda rng: graphs.random_unary(rng, "SOFTMAX"),
    "logistic": lambda rng: graphs.random_unary(rng, "LOGISTIC"),
    "relu": lambda rng: graphs.random_unary(rng, "RELU"),
    "relu6": lambda rng: graphs.random_unary(rng, "RELU6"),
    "requantize": lambda rng: graphs.random_unary(rng, "QUANTIZE"),
    "pad concatenate reshape": graphs.random_joined,
}


@pytest.mark.parametrize("kind", RANDOM)
def test_random_operators_are_exact(kind: str) -> None:
    rng = np.random.default_rng(len(kind))
    for number in range(4):
        graph = RANDOM[kind](rng)
        data = tflite_write.write_graph(graph)
        again = tflite_read.read_graph(data, "test")
        check.check(again, "test")
        inputs = random_inputs(again, 20, rng)
        expected = oracle.reference_outputs(data, inputs)
        found = reference.run_graph(again, inputs)
        for index, want in zip(again.outputs, expected, strict=True):
            assert np.array_equal(found[index], want), (number, graph.operators, graph.tensors)


@pytest.mark.parametrize("op", ["ADD", "MUL"])
@pytest.mark.parametrize("shape", [(1, 4, 5, 8), (1, 1, 1, 8), (8,), (1,), ()])
def test_constant_operands_are_read_by_every_sample(op: str, shape: tuple[int, ...], tmp_path: Path) -> None:
    rng = np.random.default_rng(len(shape))
    b = graphs.GraphBuilder()
    image, out = b.tensor((1, 4, 5, 8), 0.03, 5, "image"), b.tensor((1, 4, 5, 8), 0.07, -9, "out")
    constant = b.constant(rng.integers(-128, 128, shape).astype(np.int8), per_tensor(0.05, 3))
    b.op(op, [image, constant], out, activation="NONE")
    data = tflite_write.write_graph(b.graph([image], [out]))
    (tmp_path / "model.tflite").write_bytes(data)
    inputs = [rng.integers(-128, 128, (40, 4, 5, 8)).astype(np.int8)]
    expected = oracle.reference_outputs(data, inputs)[0]
    graph = tflite_read.read_graph(data, "test")
    np.testing.assert_array_equal(reference.run_graph(graph, inputs)[graph.outputs[0]], expected)
    module = PartitionLayers()(prepare(load.load(tmp_path / "model.tflite").module))
    np.testing.assert_array_equal(reference.run_function(module["main"], inputs)[0], expected)
    assert [layer.lowered.kernel.split("_")[0] for layer in compile_model(module).layers] == [op.lower()]


def _killed(_start: int) -> None:
    os._exit(9)


def test_many_samples_run_in_processes_and_a_lost_one_is_one_error(monkeypatch: pytest.MonkeyPatch) -> None:
    x = relay.var("x", shape=(1, 4, 4, 8), dtype="int8")
    function = PartitionLayers()(prepare(tvm.IRModule.from_expr(relay.nn.max_pool2d(x, (2, 2), (2, 2), layout="NHWC"))))
    samples = np.random.default_rng(0).integers(-128, 128, (300, 4, 4, 8)).astype(np.int8)
    found = reference.run_function(function["main"], [samples])[0]
    wanted = samples.reshape(300, 2, 2, 2, 2, 8).max(axis=(2, 4))
    assert np.array_equal(found.reshape(wanted.shape), wanted)
    monkeypatch.setattr(reference, "_run_part", _killed)
    with pytest.raises(RqdkmError, match="ended from outside"):
        reference.run_function(function["main"], [samples])


def test_a_constant_can_be_concatenated() -> None:
    out = Tensor((1, 2, 3, 5), "int8", 0.1, 0)
    layer = Layer("c", "concatenate", (out, out), out, {"axis": 3})
    x, constant = np.zeros((7, 2, 3, 4), np.int8), np.ones((1, 2, 3, 1), np.int8)
    found = reference.run_layer(layer, [x, constant])
    assert found.shape == (7, 2, 3, 5)
    assert (found[..., 4] == 1).all() and not found[..., :4].any()


def test_double_rounding_differs_from_one_rounding_where_it_should() -> None:
    multiplier, shift = fp.quantize_multiplier(0.0037)
    x = np.arange(-200_000, 200_000, dtype=np.int64)
    double = fp.multiply_by_quantized_multiplier(x, multiplier, shift)
    single = fp.multiply_single_rounding(x, multiplier, shift)
    exact = x * 0.0037
    assert np.abs(double - single).max() == 1
    assert np.abs(double - exact).max() <= 0.51
    assert 0 < (double != single).mean() < 0.01


def test_a_rescaling_relu6_follows_tflite_where_tflite_micro_only_clamps() -> None:
    """TFLite rescales and clamps; TFLite Micro's RELU6 kernel ignores the output's scale. Converters fuse or tie it."""
    rng = np.random.default_rng(2)
    graph = graphs.random_unary(rng, "RELU6", rescale=True)
    source, target = (graph.tensors[i].quantization for i in (0, 1))
    assert source is not None
    assert target is not None
    x = random_inputs(graph, 50, rng)
    real = np.clip((x[0].astype(int) - source.zero_point) * source.scale, 0, 6)
    expected = np.clip(np.rint(real / target.scale) + target.zero_point, -128, 127)
    assert np.abs(reference.run_graph(graph, x)[1] - expected).max() <= 1


@pytest.mark.parametrize("real", [1.0, 0.5, 0.9999999999, 3e-9, 12345.678])
def test_quantized_multipliers_stand_for_their_number(real: float) -> None:
    multiplier, shift = fp.quantize_multiplier(real)
    assert 0 < multiplier < 1 << 31
    assert multiplier / 2**31 * 2.0**shift == pytest.approx(real, rel=1e-9)


def test_fixed_point_exp_and_logistic_approximate_the_functions() -> None:
    x = np.linspace(-20, 0, 5000)
    q5 = np.rint(x * (1 << 26)).astype(np.int64)
    assert np.abs(fp.exp_on_negative_values(q5, 5) / 2**31 - np.exp(q5 / (1 << 26))).max() < 1e-6
    y = np.linspace(-15, 15, 5000)
    q4 = np.rint(y * (1 << 27)).astype(np.int64)
    assert np.abs(fp.logistic(q4, 4) / 2**31 - 1 / (1 + np.exp(-q4 / (1 << 27)))).max() < 1e-6
