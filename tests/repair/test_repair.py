"""Repair as a whole, judged by the integers it leads to: TFLite's arithmetic on the module that its plan lowers to."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rqdkm.models import data, load
from rqdkm.models.load import LoadedModel
from rqdkm.train.finetune import run_integers
from rqdkm_tvm.errors import DataError
from rqdkm_tvm.lowbit import integer_range
from rqdkm_tvm.mixed import LowerMixedPrecision, planned_parameters
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.repair import METHODS, Method, Repaired, apply, repair
from rqdkm_tvm.repair.equalise import chains
from rqdkm_tvm.repair.network import Network, weighted
from rqdkm_tvm.sensitivity.float_twin import FloatTwin, TwinLayer, structure
from rqdkm_tvm.sensitivity.rep import Quantizers, calibrate
from rqdkm_tvm.sensitivity.table import Assignment, channel_bits
from tests.repair import chain
from tests.train import small

Samples = list[list[np.ndarray]]
WEIGHTS = ("first", "second", "third", "dense")


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedModel, Any]:
    return chain.make(Path(tmp_path_factory.mktemp("chain")))


@pytest.fixture(scope="module")
def module(built: tuple[LoadedModel, Any]) -> Any:
    return built[1]


@pytest.fixture(scope="module")
def twin(module: Any) -> FloatTwin:
    return FloatTwin.of(module["main"])


def as_int8(built: tuple[LoadedModel, Any], real: np.ndarray) -> np.ndarray:
    quantization = built[0].inputs[0].quantization
    assert quantization is not None
    return data.quantize(real, quantization)


@pytest.fixture(scope="module")
def samples(built: tuple[LoadedModel, Any]) -> Samples:
    return [[x] for x in as_int8(built, chain.samples(48))]


@pytest.fixture(scope="module")
def unseen(built: tuple[LoadedModel, Any]) -> np.ndarray:
    return as_int8(built, chain.samples(64, seed=1))


@pytest.fixture(scope="module")
def quantizers(twin: FloatTwin, samples: Samples) -> Quantizers:
    return calibrate(twin, samples)


def assignment(weights: int | tuple[int, ...], maps: int) -> Assignment:
    groups = (weights,) if isinstance(weights, int) else weights
    return Assignment(dict.fromkeys(WEIGHTS, groups), dict.fromkeys(("first", "second", "third"), maps))


def error(module: Any, twin: FloatTwin, found: Repaired, unseen: np.ndarray) -> float:
    """Mean squared error of the integers' logits against the float network's, on samples that repair has not seen."""
    twin.reset()
    wanted = np.stack([twin.logits([x]) for x in unseen])
    lowered = LowerMixedPrecision(Plan(list(found.entries)), found.parameters)(module)
    return float(np.square(run_integers(lowered, [unseen]) - wanted).mean())


# ---- what repair starts from


def test_without_methods_it_is_what_the_lowering_pass_does_by_itself(
    twin: FloatTwin, quantizers: Quantizers, samples: Samples
) -> None:
    found = repair(twin, assignment((4, 2), 4), quantizers, samples, ())
    plan = Plan(list(found.entries))
    scale_in = {"first": twin["first"].layer.inputs[0].scale, "dense": twin["dense"].layer.inputs[0].scale}
    scale_in |= {"second": found.activations["pooled"].scale, "third": found.activations["second"].scale}
    for x in weighted(twin):
        expected = planned_parameters(x.layer, plan.get(x.name), scale_in[x.name])
        assert np.array_equal(found.parameters[x.name].weights, expected.weights)
        assert np.array_equal(found.parameters[x.name].scales, expected.scales)
        assert np.array_equal(found.parameters[x.name].bias, expected.bias)  # type: ignore[arg-type]
    assert found.plain_error == found.error > 0 and not found.equalised


def test_eight_bits_are_the_model_itself(
    module: Any, twin: FloatTwin, quantizers: Quantizers, samples: Samples
) -> None:
    found = repair(twin, Assignment(), quantizers, samples, ("equalise", "round"))
    assert not found.entries
    for x in weighted(twin):
        assert np.array_equal(found.parameters[x.name].weights, x.layer.weights)
        assert np.array_equal(found.parameters[x.name].bias, x.layer.bias)


# ---- what it gains


@pytest.mark.parametrize(
    ("weights", "maps", "methods", "gain"),
    [
        (2, 8, ("round",), 5.0),
        (4, 8, ("round",), 2.0),
        (2, 8, ("bias",), 1.2),
        (8, 4, ("equalise",), 2.0),
        ((4, 2), 4, METHODS, 3.0),
    ],
)
def test_the_integers_of_a_repaired_network_are_nearer_to_the_float_one(
    module: Any,
    twin: FloatTwin,
    quantizers: Quantizers,
    samples: Samples,
    unseen: np.ndarray,
    weights: int | tuple[int, ...],
    maps: int,
    methods: tuple[Method, ...],
    gain: float,
) -> None:
    plain = repair(twin, assignment(weights, maps), quantizers, samples, ())
    found = repair(twin, assignment(weights, maps), quantizers, samples, methods)
    assert found.error < found.plain_error == plain.error
    assert error(module, twin, found, unseen) < error(module, twin, plain, unseen) / gain


def test_bits_are_respected_and_every_layer_is_reported(
    twin: FloatTwin, quantizers: Quantizers, samples: Samples
) -> None:
    found = repair(twin, assignment((4, 2), 4), quantizers, samples)
    for x in weighted(twin):
        parameters = found.parameters[x.name]
        first = np.moveaxis(parameters.weights, -1, 0) if x.layer.op == "depthwise_conv2d" else parameters.weights
        for row, bits in zip(first, channel_bits((4, 2), len(first)).tolist(), strict=True):
            low, high = integer_range(bits)
            assert low <= row.min() and row.max() <= high
    assert [row.name for row in found.layers] == list(WEIGHTS)
    assert all(row.repaired <= row.plain for row in found.layers)
    assert any(row.channels for row in found.layers)
    assert {q.bits for name, q in found.activations.items() if name in ("first", "pooled", "second", "third")} == {4}


def test_the_same_arguments_give_the_same_bytes(twin: FloatTwin, quantizers: Quantizers, samples: Samples) -> None:
    first = repair(twin, assignment(2, 4), quantizers, samples[:12])
    again = repair(twin, assignment(2, 4), quantizers, samples[:12])
    assert first.parameters.to_bytes() == again.parameters.to_bytes()
    assert first.entries == again.entries


def test_the_twin_is_handed_back_unquantized_and_takes_the_result(
    module: Any, twin: FloatTwin, quantizers: Quantizers, samples: Samples
) -> None:
    before = twin.logits(samples[0])
    found = repair(twin, assignment(2, 4), quantizers, samples[:12])
    assert np.array_equal(twin.logits(samples[0]), before)
    apply(twin, found)
    simulated = np.stack([twin.logits(sample) for sample in samples[:12]])
    twin.reset()
    lowered = LowerMixedPrecision(Plan(list(found.entries)), found.parameters)(module)
    exact = run_integers(lowered, [np.concatenate(samples[:12])])
    # the twin rounds once where the integers round twice
    assert np.corrcoef(simulated.reshape(-1), exact.reshape(-1))[0, 1] > 0.98


# ---- it never harms


def test_what_does_not_help_on_the_held_out_samples_is_not_taken(
    twin: FloatTwin, quantizers: Quantizers, samples: Samples, built: tuple[LoadedModel, Any]
) -> None:
    """Fitted on constant images, judged on real ones."""
    constant = as_int8(built, np.full((1, *chain.SHAPE), 0.3, np.float32))[0]
    mixed = [[constant] if i % 2 == 0 else sample for i, sample in enumerate(samples[:24])]
    found = repair(twin, assignment(4, 4), quantizers, mixed)
    assert found.error <= found.plain_error
    assert all(row.repaired <= row.plain for row in found.layers)


def test_two_samples_are_needed_and_methods_must_exist(
    twin: FloatTwin, quantizers: Quantizers, samples: Samples
) -> None:
    with pytest.raises(DataError, match="2 samples or more"):
        repair(twin, assignment(4, 4), quantizers, samples[:1])
    with pytest.raises(ValueError, match="wish"):
        repair(twin, assignment(4, 4), quantizers, samples, ("wish",))  # type: ignore[arg-type]


# ---- equalisation


def test_only_maps_with_one_linear_way_to_one_reader_are_rescaled(twin: FloatTwin) -> None:
    names = [[twin.layers[i].name for i in found] for found in chains(twin.layers, twin.roots)]
    assert names == [["first", "pooled", "second"], ["second", "third"], ["third", "mean", "dense"]]


@pytest.mark.parametrize(("name", "left"), [("first", [1, 2]), ("mean", [0, 1]), ("dense", [0, 1, 2])])
def test_a_bound_in_the_way_ends_it(twin: FloatTwin, name: str, left: list[int]) -> None:
    """As relu6 has one, where the range goes beyond 6; what reads the map may have any."""

    def bounded(x: TwinLayer) -> TwinLayer:
        attrs = {**x.layer.attrs, "clamp": (x.layer.output.zero_point, 100)}
        return dataclasses.replace(x, layer=dataclasses.replace(x.layer, attrs=attrs))

    changed = [bounded(x) if x.name == name else x for x in twin.layers]
    everything = chains(twin.layers, twin.roots)
    assert chains(changed, twin.roots) == [everything[i] for i in left]


def test_what_is_a_result_is_not_rescaled(twin: FloatTwin) -> None:
    assert [twin.layers[found[0]].name for found in chains(twin.layers, {"second", "dense"})] == ["first", "third"]


def test_branches_and_sums_are_left_alone(files: small.Files) -> None:
    layers, roots = structure(PartitionLayers()(prepare(load.load(files.model).module))["main"])
    assert len(layers) == 6 and chains(layers, roots) == []


def test_gains_do_not_change_the_float_network(
    built: tuple[LoadedModel, Any], twin: FloatTwin, quantizers: Quantizers
) -> None:
    inside = [[x] for x in as_int8(built, 0.5 * chain.samples(8))]  # int8's bounds do not bite
    network = Network.of(twin, assignment(4, 4), quantizers)
    before = network.logits(inside)
    rng = np.random.default_rng(0)
    for found in chains(twin.layers, twin.roots):
        gain = rng.uniform(0.3, 1, 8).astype(np.float32)
        network.gains |= {twin.layers[i].name: gain for i in found[:-1]}
    network.set_float()
    after = network.logits(inside)
    twin.reset()
    assert not np.array_equal(after, before)
    assert after == pytest.approx(before, abs=1e-4 * np.abs(before).max())
