"""LowerMixedPrecision: what a plan's bits make of a module, held to TVM's own evaluation and to hand-made numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rqdkm.models import reference
from rqdkm_tvm.errors import PlanError
from rqdkm_tvm.graph import bits_of, calls, layer_name
from rqdkm_tvm.mixed import LowerMixedPrecision, Stored, moved_bounds
from rqdkm_tvm.offload.base import Quantization
from rqdkm_tvm.parameters import LayerParameters, Parameters
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.plan import LayerPlan, OutputPlan, Plan
from rqdkm_tvm.sites import read_sites
from rqdkm_tvm.tvm_import import relay, tvm
from tests.passes import graphs

RELU4 = OutputPlan(4, 0.9, -8)


def partitioned(output: Any) -> Any:
    return PartitionLayers()(graphs.module(output))


def network() -> Any:
    """conv, max pool, two branches that are added, mean-like pool, dense."""
    x = graphs.image(8, 8, 4)
    first = graphs.conv2d(x, 8)
    pooled = graphs.max_pool(first)
    left = graphs.conv2d(pooled, 8, in_channels=8, s_in=0.06)
    right = graphs.conv2d(pooled, 8, in_channels=8, s_in=0.06, depthwise=True, clip=False)
    return graphs.conv2d(graphs.add(left, right, clip=True), 4, in_channels=8, s_in=0.09, z_in=-5)


@pytest.fixture()
def mod() -> Any:
    return partitioned(network())


def names(mod: Any) -> dict[str, Any]:
    return {site.name: site.layer for site in read_sites(mod["main"])}


def evaluated(composite: Any, operands: list[np.ndarray[Any, Any]]) -> np.ndarray[Any, Any]:
    """A composite function by TVM's own arithmetic; its rounding differs from TFLite's by at most one step."""
    plain = relay.transform.InferType()(tvm.IRModule({"main": relay.Function(composite.params, composite.body)}))
    with tvm.transform.PassContext(opt_level=3):
        return relay.create_executor("graph", plain, tvm.cpu(), "llvm").evaluate()(*operands).numpy()


def as_they_are(mod: Any) -> dict[str, LayerParameters]:
    return {
        name: LayerParameters(layer.weights, np.asarray(layer.weight_scales, np.float32), layer.bias)
        for name, layer in names(mod).items()
        if layer.weights is not None
    }


def lowered(mod: Any, *entries: LayerPlan, parameters: Parameters | None = None) -> Any:
    return LowerMixedPrecision(Plan(list(entries)), parameters)(mod)


def test_a_plan_without_bits_changes_nothing(mod: Any) -> None:
    assert tvm.ir.structural_equal(LowerMixedPrecision(Plan([LayerPlan("conv2d", "conv2d", "k")]))(mod), mod)


def test_low_bit_outputs_stay_within_their_range_and_spread_to_followers_and_readers(mod: Any) -> None:
    first, pool = list(names(mod))[:2]
    mixed = lowered(mod, LayerPlan(first, "conv2d", output=RELU4))
    layers = names(mixed)
    assert (layers[first].output.bits, layers[pool].output.bits) == (4, 4)
    assert (layers[first].output.scale, layers[first].output.zero_point) == (float(np.float32(0.9)), -8)
    assert layers[first].attrs["clamp"] == (-8, 7)
    for site in read_sites(mixed["main"])[2:4]:
        tensor = site.layer.inputs[0]
        assert (tensor.bits, tensor.scale, tensor.zero_point) == (4, float(np.float32(0.9)), -8)
    assert [bits_of(c)[0] for c in calls(mixed["main"]) if layer_name(c)] == [4, 4, 8, 8, 8, 8]


def test_the_result_is_what_tvm_computes_from_the_new_module(mod: Any) -> None:
    """Independent evaluation of the same Relay: qnn's rounding may differ by a step, and a step is all."""
    order = list(names(mod))
    add_out = OutputPlan(4, 1.1, 0)
    entries = [
        LayerPlan(order[0], "conv2d", weights=((4, 4), (8, 4)), output=RELU4),
        LayerPlan(order[2], "conv2d", weights=((2, 2), (4, 6))),
        LayerPlan(order[3], "depthwise_conv2d", weights=((4, 8),), output=OutputPlan(4, 0.8, 1)),
        LayerPlan(order[4], "add", output=add_out),
    ]
    mixed = lowered(mod, *entries)
    rng = np.random.default_rng(0)
    for site in read_sites(mixed["main"]):
        operands = []
        for tensor in site.layer.inputs:
            half = 1 << (tensor.bits - 1)
            operands.append(rng.integers(-half, half, tensor.shape, np.int8))
        ours = reference.run_layer(site.layer, operands).astype(int)
        theirs = evaluated(site.call.op, operands).astype(int)
        assert np.abs(ours - theirs).max() <= 1, site.name
        assert np.mean(ours != theirs) < 0.2, site.name  # double rounding shows where multipliers are near 1
        assert len(np.unique(ours)) > 3, site.name


def test_weights_are_within_their_bits_and_close_to_the_model(mod: Any) -> None:
    first = next(iter(names(mod)))
    mixed = names(lowered(mod, LayerPlan(first, "conv2d", weights=((4, 4), (2, 2), (8, 2)))))[first]
    before = names(mod)[first]
    assert mixed.weight_bits == (4,) * 4 + (2,) * 2 + (8,) * 2
    assert np.abs(mixed.weights[:4]).max() <= 8
    assert mixed.weights[4:6].min() >= -2
    assert mixed.weights[4:6].max() <= 1
    np.testing.assert_array_equal(mixed.weights[6:], before.weights[6:])
    real = lambda layer: layer.weights * layer.weight_scales[:, None, None, None]  # noqa: E731
    assert np.abs(real(mixed)[:4] - real(before)[:4]).max() < 0.2 * np.abs(real(before)[:4]).max()
    # the bias keeps its real value
    scale = before.inputs[0].scale
    np.testing.assert_allclose(
        mixed.bias * mixed.weight_scales * scale,
        before.bias * before.weight_scales * scale,
        atol=mixed.weight_scales.max() * scale,
    )


def test_parameters_are_used_bit_for_bit(mod: Any) -> None:
    first = next(iter(names(mod)))
    layer = names(mod)[first]
    rng = np.random.default_rng(1)
    given = LayerParameters(
        rng.integers(-8, 8, layer.weights.shape).astype(np.int8),
        rng.uniform(0.01, 0.02, 8).astype(np.float32),
        rng.integers(-99, 99, 8).astype(np.int32),
    )
    entry = LayerPlan(first, "conv2d", weights=((4, 8),))
    found = names(lowered(mod, entry, parameters=Parameters({**as_they_are(mod), first: given})))[first]
    np.testing.assert_array_equal(found.weights, given.weights)
    np.testing.assert_array_equal(found.weight_scales, given.scales)
    np.testing.assert_array_equal(found.bias, given.bias)


def test_parameters_beyond_the_plan_s_bits_are_refused(mod: Any) -> None:
    first = next(iter(names(mod)))
    with pytest.raises(PlanError, match="4 bits hold -8 to 7"):
        lowered(mod, LayerPlan(first, "conv2d", weights=((4, 8),)), parameters=Parameters(as_they_are(mod)))


def test_parameters_of_another_model_are_refused(mod: Any) -> None:
    with pytest.raises(PlanError, match="is missing"):
        lowered(mod, parameters=Parameters(dict(list(as_they_are(mod).items())[1:])))


def test_an_explicit_activation_bound_moves_with_the_scale() -> None:
    before = Quantization(0.1, -128)
    assert moved_bounds((-128, 127), before, Stored(Quantization(0.8, -8), 4)) == (-8, 7)
    # relu6 at int8: 6 / 0.1 - 128 = -68; at 4 bits of scale 0.8: round(7.5) - 8 = 0
    assert moved_bounds((-128, -68), before, Stored(Quantization(0.8, -8), 4)) == (-8, 0)
    # a relu whose zero point is not the least value
    assert moved_bounds((5, 127), Quantization(0.1, 5), Stored(Quantization(0.5, 1), 4)) == (1, 7)


UNFIT = {
    "unknown layer": (("nobody", "conv2d", ((4, 8),), None), "no layer"),
    "another operator": ((0, "add", ((4, 8),), None), "the plan says"),
    "too few channels": ((0, "conv2d", ((4, 4),), None), "covers 4 output channels, there are 8"),
    "weights of a pool": ((1, "max_pool2d", ((4, 8),), None), "has no weights"),
    "a pool of its own": ((1, "max_pool2d", (), RELU4), "cannot be quantized anew"),
    "the model's output": ((5, "conv2d", (), RELU4), "output keeps its quantization"),
}


@pytest.mark.parametrize("name", UNFIT)
def test_a_plan_that_does_not_fit_is_refused(mod: Any, name: str) -> None:
    (which, op, weights, output), reason = UNFIT[name]
    layer = which if isinstance(which, str) else list(names(mod))[which]
    with pytest.raises(PlanError, match=reason):
        lowered(mod, LayerPlan(layer, op, weights=weights, output=output))


def test_a_reader_that_takes_8_bits_only_is_named() -> None:
    y = graphs.conv2d(graphs.image(), 8)
    mod = partitioned(relay.nn.softmax(graphs.dequantize(y)))
    first = next(iter(names(mod)))
    with pytest.raises(PlanError, match="reads it and takes 8 bits") as caught:
        lowered(mod, LayerPlan(first, "conv2d", output=RELU4))
    assert first in caught.value.where


def test_channels_that_do_not_end_on_a_byte_are_refused() -> None:
    mod = partitioned(graphs.conv2d(graphs.conv2d(graphs.image(), 6), 4, in_channels=6, s_in=0.06))
    first = next(iter(names(mod)))
    lowered(mod, LayerPlan(first, "conv2d", output=RELU4))
    with pytest.raises(PlanError, match="do not end on a byte"):
        lowered(mod, LayerPlan(first, "conv2d", output=OutputPlan(2, 1.0, -2)))
