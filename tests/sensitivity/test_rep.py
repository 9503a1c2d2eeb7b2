"""The float twin and REP on a small network with a residual branch, a depthwise layer and a pool."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest

from rqdkm.models import reference
from rqdkm_tvm.errors import DataError, UnsupportedOperatorError
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.sensitivity.competitors import competitor, hessian_traces
from rqdkm_tvm.sensitivity.float_twin import (
    ActivationQuantizer,
    FloatTwin,
    channels_first,
    from_relay_layout,
    to_relay_layout,
)
from rqdkm_tvm.sensitivity.rep import Quantizers, calibrate, non_increasing, objective, rep, softmax
from rqdkm_tvm.sensitivity.table import Assignment, Sensitivity
from rqdkm_tvm.tvm_import import relay
from tests.passes import graphs


@pytest.fixture(scope="module")
def twin() -> FloatTwin:
    x = graphs.image()
    first = graphs.conv2d(x, 4, s_out=0.06)
    second = graphs.conv2d(first, 4, s_in=0.06, s_out=0.05, clip=False)
    third = graphs.conv2d(graphs.add(first, second), s_in=0.09, z_in=-5, s_out=0.08, depthwise=True)
    pooled = graphs.max_pool(third, (4, 4))
    out = graphs.dense(relay.reshape(pooled, (1, 16)), 6)
    soft = graphs.quantize(relay.nn.softmax(graphs.dequantize(out, 0.1, 4)))
    return FloatTwin.of(PartitionLayers()(prepare(graphs.module(soft)))["main"])


@pytest.fixture(scope="module")
def samples() -> list[list[np.ndarray]]:
    rng = np.random.default_rng(3)
    return [[rng.integers(-128, 128, (8, 8, 4)).astype(np.int8)] for _ in range(6)]


@pytest.fixture(scope="module")
def quantizers(twin: FloatTwin, samples: list[list[np.ndarray]]) -> Quantizers:
    return calibrate(twin, samples)


def test_layers_before_the_logits_only(twin: FloatTwin) -> None:
    assert [x.layer.op for x in twin.layers] == [
        "conv2d", "conv2d", "add", "depthwise_conv2d", "max_pool2d", "fully_connected",
    ]  # fmt: skip
    assert twin.logits_size == 6
    assert twin.classifies
    assert twin.layers[4].tied_to == twin.layers[3].name


def test_layouts_come_back(twin: FloatTwin) -> None:
    for x in twin.layers:
        if x.layer.weights is not None:
            weights = twin.reference_weights(x.name)
            assert np.array_equal(from_relay_layout(x.layer, to_relay_layout(x.layer, weights)), weights)
            assert len(channels_first(x.layer, weights)) == x.layer.output.shape[-1]


def test_the_first_layer_is_the_int8_layer_up_to_rounding(twin: FloatTwin, samples: list[list[np.ndarray]]) -> None:
    from rqdkm.models.reference import run_layer

    layer = twin.layers[0].layer
    expected = (
        run_layer(layer, [samples[0][0][None]]).astype(np.float64) - layer.output.zero_point
    ) * layer.output.scale
    found = twin.forward(samples[0]).activations[0]
    assert np.abs(found - expected).max() <= layer.output.scale * 0.51


def test_gradients_of_the_twin_match_differences(twin: FloatTwin, samples: list[list[np.ndarray]]) -> None:
    rng = np.random.default_rng(1)
    v = rng.choice(np.array([-1.0, 1.0], np.float32), twin.logits_size)
    forward = twin.forward(samples[0])
    gradients = twin.backward(samples[0], forward, v)
    for name, g in gradients.weights.items():
        weights = twin.reference_weights(name)
        direction = rng.normal(size=weights.shape).astype(np.float32)
        step = 1e-4 * np.linalg.norm(weights) / np.linalg.norm(direction)
        ends = []
        for sign in (1, -1):
            twin.weights[name] = weights + np.float32(sign * step) * direction
            ends.append(float((twin.logits(samples[0]).astype(np.float64) * v).sum()))
        twin.reset()
        numeric = (ends[0] - ends[1]) / (2 * step)
        assert numeric == pytest.approx(float((g * direction).sum()), abs=0.03 * np.linalg.norm(g) * np.sqrt(g.size))


def test_quantized_feature_maps_are_what_the_next_layer_reads(twin: FloatTwin, samples: list[list[np.ndarray]]) -> None:
    name = twin.layers[-1].name
    plain = twin.logits(samples[0])
    quantizer = ActivationQuantizer(0.7, 1, 4)
    twin.quantizers[name] = quantizer
    forward = twin.forward(samples[0])
    twin.reset()
    assert np.allclose(forward.logits, quantizer(plain).reshape(-1), atol=1e-5)
    assert np.allclose(forward.perturbations[-1], quantizer(plain) - plain, atol=1e-5)


def test_the_last_layers_error_is_exact(
    twin: FloatTwin, samples: list[list[np.ndarray]], quantizers: Quantizers
) -> None:
    """Each channel is one logit, linear in the weights within the range of int8 and constant beyond."""
    name, output = twin.layers[-1].name, twin.layers[-1].layer.output
    low, high = ((bound - output.zero_point) * output.scale for bound in (-128, 127))
    table = rep(twin, samples, quantizers=quantizers, probes=6)
    for bits in (4, 2):
        measured = np.zeros(6)
        for sample in samples:
            forward = twin.forward(sample)
            difference = quantizers.weights[name][bits] - quantizers.weights[name][8]
            change = difference @ forward.activations[-2].reshape(-1)
            measured += np.square(change) * (forward.logits > low) * (forward.logits < high)
        assert table[name].weights[bits] == pytest.approx(measured / len(samples), rel=1e-3)


def test_prediction_times_alpha_is_what_was_measured(
    twin: FloatTwin, samples: list[list[np.ndarray]], quantizers: Quantizers
) -> None:
    table = rep(twin, samples, quantizers=quantizers, probes=6)
    plain = [twin.logits(s) for s in samples]
    for row in table.layers:
        if not row.weights:
            continue
        quantizers.apply(twin, Assignment({row.name: (4,)}))
        measured = np.mean([objective(a, twin.logits(s), None, 1) for a, s in zip(plain, samples, strict=True)])
        twin.reset()
        assert row.weight_error(4) == pytest.approx(measured, rel=1e-6)
        assert 0.1 < row.alpha_weights < 10


@pytest.mark.parametrize("order", [1, 2])
@pytest.mark.parametrize("labelled", [False, True])
def test_fewer_bits_cost_more(
    twin: FloatTwin, samples: list[list[np.ndarray]], quantizers: Quantizers, order: Any, labelled: bool
) -> None:
    labels = [i % 6 for i in range(len(samples))] if labelled else None
    table = rep(twin, samples, labels, order=order, quantizers=quantizers)
    for row in table.layers:
        if row.weights:
            assert sum(row.weights[8]) == 0
            assert sum(row.weights[2]) > 4 * sum(row.weights[4]) > 0
        # a single gradient of the labels' loss may cancel over a map: only sums of squares must grow
        if row.activations and not (labelled and order == 1):
            assert row.activation_error(2) > row.activation_error(4) > row.activation_error(8) > 0
        for per_bits in (row.weights, row.activations):
            for more, fewer in ((8, 4), (4, 2)):
                assert all(a <= b for a, b in zip(per_bits.get(more, ()), per_bits.get(fewer, ()), strict=True))
    assert table[twin.layers[4].name].activations == {}  # a max pool adds nothing to what its input has


def test_an_estimate_that_falls_where_bits_go_is_not_believed() -> None:
    raw = {8: np.array([0.0, 2.0, 0.5]), 4: np.array([3.0, 1.0, 0.6]), 2: np.array([1.0, 9.0, 0.7])}
    assert non_increasing(raw) == {8: (0.0, 2.0, 0.5), 4: (3.0, 2.0, 0.6), 2: (3.0, 9.0, 0.7)}


def test_many_probes_come_to_the_exact_expectation(
    twin: FloatTwin, samples: list[list[np.ndarray]], quantizers: Quantizers
) -> None:
    exact = rep(twin, samples, quantizers=quantizers, probes=6, alphas=(a := rep(twin, samples, quantizers=quantizers)))
    many = [rep(twin, samples, quantizers=quantizers, probes=5, seed=s, alphas=a) for s in range(8)]
    name = twin.layers[0].name
    mean = np.mean([sum(t[name].weights[4]) for t in many])
    assert mean == pytest.approx(sum(exact[name].weights[4]), rel=0.25)


def test_the_partly_quantized_network_has_other_errors(
    twin: FloatTwin, samples: list[list[np.ndarray]], quantizers: Quantizers
) -> None:
    first, last = twin.layers[0].name, twin.layers[-1].name
    plain = rep(twin, samples, quantizers=quantizers)
    at = Assignment({first: (2, 4)}, {first: 4})
    moved = rep(twin, samples, quantizers=quantizers, at=at, alphas=plain)
    assert moved[last].weights[4] != plain[last].weights[4]
    assert moved[last].alpha_weights == plain[last].alpha_weights
    assert not twin.weights
    assert not twin.quantizers


def test_same_seed_same_bytes_and_json_comes_back(
    twin: FloatTwin, samples: list[list[np.ndarray]], quantizers: Quantizers
) -> None:
    table = rep(twin, samples, quantizers=quantizers, seed=5)
    assert rep(twin, samples, quantizers=quantizers, seed=5).to_json() == table.to_json()
    assert Sensitivity.from_json(table.to_json()) == table


@pytest.mark.parametrize("text", ["", "{}", "[]", json.dumps({"schema": "rqdkm.sensitivity", "version": 2})])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(DataError):
        Sensitivity.from_json(text)


@pytest.mark.parametrize("method", ["magnitude", "hessian_trace", "fisher_trace", "uniform"])
def test_competitors_fill_the_same_table(
    twin: FloatTwin, samples: list[list[np.ndarray]], quantizers: Quantizers, method: Any
) -> None:
    ours = rep(twin, samples, quantizers=quantizers)
    theirs = competitor(method, twin, samples, quantizers=quantizers)
    for a, b in zip(ours.layers, theirs.layers, strict=True):
        assert (a.name, set(a.weights), set(a.activations)) == (b.name, set(b.weights), set(b.activations))
        if b.weights:
            assert b.weight_error(2) > b.weight_error(4) > b.weight_error(8) >= 0


@pytest.mark.parametrize("labelled", [False, True])
def test_the_hessian_trace_is_that_of_the_last_layer(twin: FloatTwin, labelled: bool) -> None:
    """There it is known: ``|x|^2 sum_k p_k (1 - p_k)`` for cross-entropy of a fully connected layer, whatever the
    target. Where logits saturate they move nothing."""
    last = twin.layers[-1]
    assert last.layer.op == "fully_connected"
    low, high = ((b - last.layer.output.zero_point) * last.layer.output.scale for b in last.layer.attrs["clamp"])
    rng = np.random.default_rng(5)
    samples = [[rng.integers(-20, 20, (8, 8, 4)).astype(np.int8)] for _ in range(6)]
    exact = 0.0
    for sample in samples:
        forward = twin.forward(sample)
        p, x = softmax(forward.logits), forward.activations[-2].reshape(-1)
        free = (forward.logits > low) & (forward.logits < high)
        exact += float(np.square(x).sum() * (p * (1 - p))[free].sum()) / len(samples)
    found = np.mean(
        [hessian_traces(twin, samples, [1] * len(samples) if labelled else None, seed=s)[last.name] for s in range(3)]
    )
    assert found * twin.reference_weights(last.name).size == pytest.approx(exact, rel=0.15)


def test_the_hessian_of_the_networks_own_probabilities_has_no_negative_trace(
    twin: FloatTwin, samples: list[list[np.ndarray]]
) -> None:
    assert all(trace >= 0 for trace in hessian_traces(twin, samples).values())
    table = competitor("hessian_trace", twin, samples)
    assert all(row.weight_error(2) > row.weight_error(4) > 0 for row in table.layers if row.weights)


def test_labels_must_fit(twin: FloatTwin, samples: list[list[np.ndarray]]) -> None:
    with pytest.raises(DataError, match="labels"):
        rep(twin, samples, [0])
    with pytest.raises(DataError, match="0 to 5"):
        rep(twin, samples, [6] * len(samples))
    with pytest.raises(DataError, match="no calibration"):
        rep(twin, [])


def test_an_operator_without_twin_is_named() -> None:
    mod = PartitionLayers()(prepare(graphs.module(relay.transpose(graphs.conv2d(graphs.image()), (0, 3, 1, 2)))))
    with pytest.raises(UnsupportedOperatorError, match="transpose"):
        FloatTwin.of(mod["main"])


def test_a_constant_operand_is_a_constant_of_the_twin() -> None:
    """What the twin computes is what the integers mean, up to their rounding; the constant has no source."""
    rng = np.random.default_rng(0)
    constant = relay.const(rng.integers(-128, 128, (8,)).astype(np.int8))
    added = graphs.add(graphs.conv2d(graphs.image(), 8, s_out=0.06), constant)
    function = PartitionLayers()(prepare(graphs.module(graphs.conv2d(added, 8, in_channels=8, s_in=0.09, z_in=-5))))
    function = function["main"]
    twin = FloatTwin.of(function)
    assert [x.sources for x in twin.layers] == [(-1,), (0,), (1,)]
    x = rng.integers(-128, 128, (1, 8, 8, 4)).astype(np.int8)
    out = twin.layers[-1].layer.output
    real = (reference.run_function(function, [x])[0].astype(np.float64) - out.zero_point) * out.scale
    found = twin.forward([x]).logits.reshape(real.shape)
    assert np.abs(found - real).mean() < 2 * out.scale
    assert np.corrcoef(found.ravel(), real.ravel())[0, 1] > 0.99
