"""MorphConvolutions: kernels that are fitted to a trained network's 3x3 convolutions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rqdkm import morphing
from rqdkm.models import load, morph_file, quantize, reference, tflite_write
from rqdkm.models.data import Dataset
from rqdkm.models.graph import SELECT
from rqdkm_tvm.compile import compile_model
from rqdkm_tvm.errors import DataError, ModelError, PlanError
from rqdkm_tvm.evaluate import compiled
from rqdkm_tvm.graph import calls, op_name, rebuild
from rqdkm_tvm.morph import fit
from rqdkm_tvm.morph.convert import KERNELS, MorphConvolutions, convert, find
from rqdkm_tvm.morph.gather import selected
from rqdkm_tvm.tvm_import import relay, tvm
from tests.models import morphs
from tests.models.graphs import GraphBuilder
from tests.morph import trained

ALL = tuple(fit.FITS)


def run(mod: Any, x: np.ndarray) -> np.ndarray:
    function = compiled(mod["main"], [var.name_hint for var in mod["main"].params])
    return np.concatenate([function([sample[None]])[0] for sample in x])


def with_kernel(mod: Any, kernel: int) -> Any:
    """The float network with one kernel."""

    class Choosing(relay.ExprMutator):  # type: ignore[misc]
        def visit_call(self, call: Any) -> Any:
            found = selected(call)
            return super().visit_call(call) if found is None else self.visit(found[0][kernel])

    function = mod["main"]
    return relay.transform.InferType()(tvm.IRModule.from_expr(rebuild(function, Choosing().visit(function.body))))


@pytest.fixture(scope="module")
def converted() -> Any:
    return convert(trained.network(), [trained.samples()], ALL[:5])


def test_only_same_padded_3x3_convolutions_with_channels_to_save_morph() -> None:
    mod = trained.network()
    assert [site.name for site in find(mod["main"])] == ["first", "second"]
    assert [(site.low, site.high) for site in find(mod["main"])] == [(0, np.inf), (0, 6)]
    x = relay.var("x", shape=(1, 8, 8, 8))
    weights = relay.const(np.zeros((3, 3, 8, 8), np.float32))
    layout = {"data_layout": "NHWC", "kernel_layout": "HWIO", "kernel_size": (3, 3), "channels": 8}
    refused = [
        relay.nn.conv2d(x, weights, padding=(0, 0), **layout),
        relay.nn.conv2d(x, weights, padding=(2, 2), dilation=(2, 2), **layout),
        relay.nn.conv2d(x, weights, padding=(1, 1), strides=(2, 2), **layout),  # not TensorFlow's "same"
        relay.nn.conv2d(x, relay.var("w", shape=(3, 3, 8, 8)), padding=(1, 1), **layout),
    ]
    for call in refused:
        free = relay.analysis.free_vars(call)
        mod = relay.transform.InferType()(tvm.IRModule.from_expr(relay.Function(free, call)))
        assert find(mod["main"]) == []


def test_the_network_still_computes_what_it_did(converted: Any) -> None:
    """Until another kernel is selected."""
    x = trained.samples(6, 9)
    assert np.allclose(run(trained.network(), x), run(converted.module, x), atol=1e-5)
    changed = MorphConvolutions([trained.samples(20)], ("3x3", "1x1"))(trained.network())
    found = [call for call in calls(changed["main"]) if op_name(call) == "take"]
    assert len(found) == 2 and [len(selected(call)[0]) for call in found] == [2, 2]


def test_accounts_are_those_of_the_networks_with_one_kernel(converted: Any) -> None:
    """TVM computes the whole converted network; the account comes from NumPy, layer by layer."""
    x = trained.samples()
    judging = x[np.arange(len(x)) % 5 == 4]
    wanted = run(trained.network(), judging)
    for kernel in (2, 3):
        account = converted.accounts[kernel]
        found = run(with_kernel(converted.module, kernel), judging)
        agreement = float((found.argmax(1) == wanted.argmax(1)).mean())
        assert account.samples == len(judging) == 12 and account.agreement == agreement
        noise = np.square(found - wanted).sum()
        assert account.sqnr_db == pytest.approx(10 * np.log10(np.square(wanted).sum() / noise), abs=0.05)


def test_a_larger_kernel_is_the_trained_one_and_smaller_ones_come_near(converted: Any) -> None:
    by_name = {account.kernel: account for account in converted.accounts}
    assert by_name["3x3"].sqnr_db == np.inf
    assert by_name["5x5"].sqnr_db > 80
    assert by_name["separable 3x3"].sqnr_db > by_name["1x1"].sqnr_db > 0
    assert set(by_name["1x1"].layers) == {"first", "second"}


def test_what_is_separable_is_found_to_be() -> None:
    accounts = convert(trained.network(rank=1), [trained.samples()], ("3x3", "separable 3x3")).accounts
    assert accounts[1].sqnr_db > 60 and accounts[1].agreement == 1.0


def test_fitting_beats_structure_alone(converted: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The centre tap, and the trained taps spread apart: where fitting starts."""
    kernels = ("3x3", "1x1", "3x3 dilated")
    fitted = {account.kernel: account for account in converted.accounts}
    monkeypatch.setattr(fit, "_solve", lambda _x, prior, _e, turns=0: prior)
    for account in convert(trained.network(), [trained.samples()], kernels).accounts[1:]:
        assert fitted[account.kernel].sqnr_db > account.sqnr_db + 3


def test_own_inputs_make_up_for_the_errors_before() -> None:
    """The second layer's kernel, fitted on what the first one's kernel gives, against fitted on the trained maps."""
    x = trained.samples(100)
    own = convert(trained.network(), [x], ("3x3", "1x1")).accounts[1]
    sites = find(trained.network()["main"])
    assert own.layers["first"] > 0 and len(sites) == 2
    assert own.layers["second"] > own.layers["first"] - 6  # errors do not pile up


def test_what_is_cut_off_need_not_be_met() -> None:
    """With a relu behind, negative targets are free: the visible error is no larger than without that knowledge."""
    rng = np.random.default_rng(0)
    weights = rng.normal(size=(3, 3, 8, 8)).astype(np.float32) / 6
    conv = fit.Convolution(weights, np.full(8, -0.5, np.float32), (1, 1), (1, 1, 1, 1))
    x = trained.samples(20)
    where = np.arange(20 * 10 * 12)
    y = conv.patches(x, where).reshape(len(where), -1) @ weights.reshape(-1, 8) + conv.bias
    errors = []
    for low in (0.0, -np.inf):
        (found,) = fit.plain(1)(conv, fit.Examples(x, y, where, low))
        errors.append(np.square(np.maximum(found.run(x), 0) - np.maximum(conv.run(x), 0)).mean())
    assert errors[0] < 0.95 * errors[1]


def test_convolutions_run_as_tvm_s() -> None:
    rng = np.random.default_rng(1)
    x = trained.samples(2)
    base = fit.Convolution(
        rng.normal(size=(3, 3, 8, 5)).astype(np.float32), np.ones(5, np.float32), (2, 1), (0, 1, 1, 1)
    )
    for conv in (base, base.sized(5), base.sized(3, 2), base.sized(1)):
        weights = rng.normal(size=conv.weights.shape).astype(np.float32)
        conv = fit.replace(conv, weights=weights)
        data = relay.var("x", shape=(1, *trained.SHAPE))
        y = relay.nn.conv2d(
            data,
            relay.const(weights),
            strides=conv.strides,
            padding=conv.padding,
            dilation=(conv.dilation, conv.dilation),
            channels=5,
            kernel_size=weights.shape[:2],
            data_layout="NHWC",
            kernel_layout="HWIO",
        )
        wanted = run(tvm.IRModule.from_expr(relay.Function([data], y)), x) + 1
        assert wanted.shape[1:3] == (5, 12)
        assert np.allclose(conv.run(x), wanted, atol=1e-4)


def test_kernels_and_samples_that_cannot_be_are_refused() -> None:
    mod, x = trained.network(), [trained.samples(20)]
    for kernels in (("3x3", "7x7"), ("1x1", "3x3"), (), ("3x3", "3x3"), ALL):
        with pytest.raises(PlanError, match="kernel"):
            convert(mod, x, kernels)
    with pytest.raises(DataError, match="5 is the least"):
        convert(mod, [trained.samples(3)], KERNELS)


# ---- model files


def plain_file() -> bytes:
    """As a converter writes it: relu within the convolutions, layers named by their weights."""
    b, rng = GraphBuilder(), np.random.default_rng(6)
    x = b.floats((1, 8, 8, 3), "image")
    window = {"padding": "SAME", "stride": (1, 1), "dilation": (1, 1), "activation": "RELU"}
    for name, inputs, outputs in (("stem", 3, 8), ("middle", 8, 8), ("last", 8, 12)):
        weights = rng.normal(size=(outputs, 3, 3, inputs)) * np.sqrt(2 / (9 * inputs))
        bias = b.constant(rng.normal(0, 0.1, outputs).astype(np.float32))
        result = b.floats((1, 8, 8, outputs), f"net/{name}/Relu")
        x = b.op("CONV_2D", [x, b.constant(weights.astype(np.float32)), bias], result, **window)
    axes = b.constant(np.array([1, 2], np.int32))
    x = b.op("MEAN", [x, axes], b.floats((1, 12), "net/pool/Mean"))
    units = b.constant(rng.normal(size=(4, 12)).astype(np.float32))
    x = b.op("FULLY_CONNECTED", [x, units], b.floats((1, 4), "logits"), activation="NONE")
    return tflite_write.write_graph(b.graph([0], [x]))


def images(count: int = 40) -> Dataset:
    values = np.random.default_rng(2).normal(size=(count, 8, 8, 3)).astype(np.float32)
    return Dataset((values,), None, "noise")


def test_a_plain_model_file_becomes_a_morphing_one_that_compiles() -> None:
    model = load.load_tflite(plain_file(), Path("plain.tflite"))
    found = morphing.morph(model, images(), ("3x3", "separable 3x3", "1x1"))
    assert [account.kernel for account in found.accounts] == ["3x3", "separable 3x3", "1x1"]
    selects = [op for op in found.model.graph.operators if op.op == SELECT]
    assert [op.attrs["layer"] for op in selects] == ["middle", "last"]
    assert {"middle/1x1", "last/separable 3x3/0", "last/separable 3x3/1"} <= set(found.model.layer_names.values())
    assert found.model.inputs[0].name == "image" and found.model.outputs[0].name == "logits"
    quantized = quantize.quantize_and_compare(found.model, images())
    compiled_model = compile_model(quantized.model.module)
    libraries = {x.layer.name: x.layer.library for x in compiled_model.layers if x.layer.library is not None}
    assert {name: tuple(p.name for p in library.paths) for name, library in libraries.items()} == {
        "middle": ("3x3", "separable 3x3", "1x1"),
        "last": ("3x3", "separable 3x3", "1x1"),
    }
    ints = np.clip(np.rint(images(8).inputs[0] / quantized.model.inputs[0].quantization.scale), -128, 127)  # type: ignore[union-attr]
    outputs = [
        next(iter(reference.run_graph(morph_file.fixed(quantized.model.graph, k), [ints.astype(np.int8)]).values()))
        for k in range(3)
    ]
    assert not np.array_equal(outputs[0], outputs[2])


def test_models_that_cannot_become_morphing_ones_say_why() -> None:
    with pytest.raises(ModelError, match="computes in int8"):
        morphing.morph(morphs.int8_model(), morphs.samples())
    with pytest.raises(ModelError, match="morph already"):
        morphing.morph(load.load_tflite(morphs.float_file(), Path("m.tflite")), morphs.samples())
    b = GraphBuilder()
    x = b.floats((1, 8), "x")
    weights = b.constant(np.ones((4, 8), np.float32))
    b.op("FULLY_CONNECTED", [x, weights], b.floats((1, 4), "y"), activation="NONE")
    dense = load.load_tflite(tflite_write.write_graph(b.graph([0], [2])), Path("dense.tflite"))
    with pytest.raises(ModelError, match="no convolution can morph") as found:
        morphing.morph(dense, Dataset((np.ones((9, 8), np.float32),), None, "ones"))
    assert found.value.where == "dense.tflite"
