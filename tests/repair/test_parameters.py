"""The parameters file: same bytes for the same content, and one clear error for everything that is wrong with it."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from rqdkm_tvm.errors import DataError, PlanError
from rqdkm_tvm.layer import Layer, Tensor
from rqdkm_tvm.parameters import LayerParameters, Parameters

X, Y = Tensor((1, 4, 4, 3)), Tensor((1, 4, 4, 4))
CONV = Layer("a/conv;b", "conv2d", (X,), Y, weights=np.zeros((4, 3, 3, 3), np.int8), weight_scales=np.ones(4))
DEPTHWISE = Layer("dw", "depthwise_conv2d", (Y,), Y, weights=np.zeros((1, 3, 3, 4), np.int8), weight_scales=np.ones(4))
ADD = Layer("add", "add", (Y, Y), Y)
BITS = {"a/conv;b": (4, 4, 2, 2), "dw": (2, 4, 4, 4)}


def make() -> dict[str, LayerParameters]:
    rng = np.random.default_rng(0)
    conv = np.concatenate([rng.integers(-8, 8, (2, 3, 3, 3)), rng.integers(-2, 2, (2, 3, 3, 3))]).astype(np.int8)
    depthwise = rng.integers(-2, 2, (1, 3, 3, 4)).astype(np.int8)
    depthwise[..., 3] = 7
    scales = rng.uniform(0.01, 1, 4).astype(np.float32)
    return {
        "a/conv;b": LayerParameters(conv, scales, np.array([1, -2, 2**31 - 1, -(2**31)], np.int32)),
        "dw": LayerParameters(depthwise, scales),
    }


def test_what_is_saved_comes_back_and_is_the_same_bytes_every_time(tmp_path: Path) -> None:
    parameters = Parameters(make())
    parameters.save(tmp_path / "first.npz")
    found = Parameters.load(tmp_path / "first.npz")
    found.save(tmp_path / "second.npz")
    assert (tmp_path / "first.npz").read_bytes() == (tmp_path / "second.npz").read_bytes()
    assert list(found) == ["a/conv;b", "dw"]
    assert np.array_equal(found["a/conv;b"].weights, parameters["a/conv;b"].weights)
    assert found["a/conv;b"].weights.dtype == np.int8
    assert np.array_equal(found["a/conv;b"].bias, parameters["a/conv;b"].bias)  # type: ignore[arg-type]
    assert np.array_equal(found["dw"].scales, parameters["dw"].scales)
    assert found["dw"].bias is None
    found.check([CONV, DEPTHWISE, ADD], BITS)
    with np.load(tmp_path / "first.npz") as plain:  # an ordinary .npz
        assert "1.scales" in plain.files


def test_bits_that_are_absent_are_eight() -> None:
    Parameters(make()).check([CONV, DEPTHWISE], {"dw": ()})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("dw"), 'layer "dw" is missing'),
        (lambda p: p.update(other=p["dw"]), 'no layer "other"'),
        (lambda p: p.update(dw=LayerParameters(p["dw"].weights[..., :2], p["dw"].scales)), "(1, 3, 3, 2), expected"),
        (lambda p: p.update(dw=LayerParameters(p["dw"].weights.astype(np.int16), p["dw"].scales)), "int16"),
        (lambda p: p.update(dw=LayerParameters(p["dw"].weights, p["dw"].scales[:1])), "scales are float32 (1,)"),
        (lambda p: p.update(dw=LayerParameters(p["dw"].weights, -p["dw"].scales)), "positive"),
        (lambda p: p.update(dw=LayerParameters(p["dw"].weights, p["dw"].scales * np.nan)), "positive"),
        (lambda p: p.update(dw=LayerParameters(p["dw"].weights, p["dw"].scales, np.zeros(4))), "bias are float64"),
        (lambda p: p["dw"].weights.__setitem__((0, 1, 1, 0), 2), "output channel 0 reach from -2 to 2"),
        (lambda p: p["a/conv;b"].weights.__setitem__((1, 0, 0, 0), -9), "4 bits hold -8 to 7"),
    ],
)
def test_parameters_of_another_model_or_plan_are_refused(
    change: Callable[[dict[str, LayerParameters]], None], message: str
) -> None:
    layers = make()
    change(layers)
    with pytest.raises(PlanError) as caught:
        Parameters(layers).check([CONV, DEPTHWISE, ADD], BITS)
    assert message in str(caught.value)


def test_bit_widths_of_other_channels_are_refused() -> None:
    with pytest.raises(PlanError, match="4 output channels, but bit-widths for 3"):
        Parameters(make()).check([CONV, DEPTHWISE], {"dw": (8, 8, 8)})


def stored(**arrays: np.ndarray) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


WEIGHTS, SCALES = np.zeros((4, 1), np.int8), np.ones(4, np.float32)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a parameters file"),
        (b"PK\x03\x04 nonsense", "not a parameters file"),
        (stored(x=SCALES), "not a parameters file"),
        (stored(names=np.array("[1]")), "list of layers"),
        (stored(names=np.array('["a", "a"]')), "list of layers"),
        (stored(names=np.array('["a"]'), **{"0.scales": SCALES}), "weights are missing"),
        (stored(names=np.array('["a"]'), **{"0.weights": WEIGHTS}), "scales are missing"),
        (stored(names=np.array('["a"]'), **{"0.weights": WEIGHTS.astype(float), "0.scales": SCALES}), "float64"),
        (stored(names=np.array('["a"]'), **{"0.weights": WEIGHTS, "0.scales": SCALES * 0}), "positive"),
        (stored(names=np.array('["a"]'), **{"0.weights": WEIGHTS, "0.scales": SCALES * np.inf}), "positive"),
        (
            stored(names=np.array('["a"]'), **{"0.weights": WEIGHTS, "0.scales": SCALES, "0.bias": np.int32([1])}),
            "one value per output channel",
        ),
        (stored(names=np.array("[]"), **{"0.weights": WEIGHTS}), "belongs to no layer"),
        (stored(names=np.array(["pickle", None], object)), "not a parameters file"),
    ],
)
def test_files_that_are_none_are_refused(data: bytes, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Parameters.from_bytes(data)


def test_every_cut_of_a_file_is_refused(tmp_path: Path) -> None:
    data = Parameters(make()).to_bytes()
    for length in range(0, len(data), 37):
        with pytest.raises(DataError):
            Parameters.from_bytes(data[:length])


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot read the parameters: No such file"):
        Parameters.load(tmp_path / "none.npz")
