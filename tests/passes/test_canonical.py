"""LegalizeQnn and StripBoundaryQuantize: what they change, and what they must leave alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rqdkm_tvm.boundary import StripBoundaryQuantize, recorded_io
from rqdkm_tvm.errors import ModelError, UnsupportedOperatorError
from rqdkm_tvm.legalize import LegalizeQnn
from rqdkm_tvm.offload.base import Quantization
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.sites import read_sites
from rqdkm_tvm.tvm_import import relay, tvm
from tests.passes import graphs as g

WIDTH = [[0, 0], [0, 1], [1, 1], [0, 0]]


def _evaluate(mod: Any, x: Any) -> list[Any]:
    """TVM's own result of a module, as arrays."""
    result = relay.create_executor("graph", mod=mod, target="llvm").evaluate()(x)
    return [r.numpy() for r in result] if isinstance(result, (list, tvm.runtime.container.ADT)) else [result.numpy()]


def _padded_conv(value: int, *, width: Any = WIDTH, share: bool = False) -> Any:
    padded = relay.nn.pad(g.image(), width, pad_value=value)
    conv = g.conv2d(padded, z_in=-128, padding=(0, 0, 0, 0), strides=(2, 2))
    return g.module(relay.Tuple([conv, g.max_pool(padded)]) if share else conv)


def test_pad_with_the_zero_point_becomes_the_padding_of_the_convolution() -> None:
    mod = LegalizeQnn()(_padded_conv(-128))
    assert "nn.pad" not in g.operators(mod)
    [site] = read_sites(PartitionLayers()(mod)["main"])
    assert site.layer.attrs["padding"] == (0, 1, 1, 1)
    assert site.layer.inputs[0].shape == (1, 8, 8, 4)


def test_folding_a_pad_changes_no_value() -> None:
    mod = _padded_conv(-128)
    x = np.random.default_rng(0).integers(-128, 128, (1, 8, 8, 4)).astype(np.int8)
    assert np.array_equal(_evaluate(mod, x)[0], _evaluate(LegalizeQnn()(mod), x)[0])


@pytest.mark.parametrize(
    "mod",
    [
        pytest.param(_padded_conv(0), id="another value"),
        pytest.param(_padded_conv(-128, share=True), id="the padded tensor has another reader"),
        pytest.param(_padded_conv(-128, width=[[0, 0], [3, 0], [0, 0], [0, 0]]), id="a whole window of padding"),
    ],
)
def test_other_pads_stay(mod: Any) -> None:
    assert g.operators(LegalizeQnn()(mod))["nn.pad"] == 1


def test_reshapes_become_one_or_none() -> None:
    x = g.image(4, 4, 4)
    y = relay.nn.batch_flatten(relay.squeeze(relay.expand_dims(relay.reshape(x, (1, 16, 4)), 0), [0]))
    assert g.operators(LegalizeQnn()(g.module(g.dense(y, features=64)))).get("reshape") == 1
    there_and_back = relay.reshape(relay.reshape(x, (1, 64)), (1, 4, 4, 4))
    assert g.operators(LegalizeQnn()(g.module(g.max_pool(there_and_back)))) == {"nn.max_pool2d": 1}


def test_operators_that_change_nothing_vanish() -> None:
    x = g.image()
    same = relay.qnn.op.requantize(x, g.scale(0.1), g.zero(3), g.scale(0.1), g.zero(3), out_dtype="int8")
    clipped = relay.clip(same, -128, 127)
    back = g.quantize(g.dequantize(clipped, 0.1, 3), 0.1, 3)
    assert g.operators(LegalizeQnn()(g.module(g.max_pool(back)))) == {"nn.max_pool2d": 1}


def test_operators_that_change_something_stay() -> None:
    x = g.image()
    other = relay.qnn.op.requantize(x, g.scale(0.1), g.zero(3), g.scale(0.1), g.zero(4), out_dtype="int8")
    back = g.quantize(g.dequantize(relay.clip(other, -127, 127), 0.1, 4), 0.1, 5)
    found = g.operators(LegalizeQnn()(g.module(g.max_pool(back))))
    assert found == {"qnn.requantize": 1, "clip": 1, "qnn.dequantize": 1, "qnn.quantize": 1, "nn.max_pool2d": 1}


def _float_io() -> Any:
    x = relay.var("image", shape=(1, 8, 8, 4), dtype="float32")
    return g.module(g.dequantize(g.conv2d(g.quantize(x, 0.05, -128)), 0.06, -128))


def test_boundary_quantization_is_stripped_and_remembered() -> None:
    function = StripBoundaryQuantize()(_float_io())["main"]
    assert str(function.params[0].checked_type.dtype) == "int8" and str(function.body.checked_type.dtype) == "int8"
    assert str(function.params[0].name_hint) == "image"
    io = recorded_io(function)
    assert io["inputs"] == {0: Quantization(float(np.float32(0.05)), -128)}
    assert io["outputs"] == {0: Quantization(float(np.float32(0.06)), -128)}


def test_stripping_twice_changes_nothing() -> None:
    once = StripBoundaryQuantize()(_float_io())
    assert tvm.ir.structural_equal(once, StripBoundaryQuantize()(once))


def test_float_inputs_that_are_also_read_as_floats_stay() -> None:
    x = relay.var("x", shape=(1, 4), dtype="float32")
    mod = StripBoundaryQuantize()(g.module(relay.Tuple([g.quantize(x), relay.exp(x)])))
    assert str(mod["main"].params[0].checked_type.dtype) == "float32"


def test_readers_that_disagree_on_the_scale_keep_the_float_input() -> None:
    x = relay.var("x", shape=(1, 4), dtype="float32")
    mod = StripBoundaryQuantize()(g.module(relay.Tuple([g.quantize(x, 0.1), g.quantize(x, 0.2)])))
    assert str(mod["main"].params[0].checked_type.dtype) == "float32"


def test_a_model_without_operators_is_refused() -> None:
    with pytest.raises(ModelError, match="computes nothing"):
        prepare(g.module(relay.reshape(g.image(), (1, -1))))


def test_a_dynamic_shape_is_refused_by_operator() -> None:
    with pytest.raises(UnsupportedOperatorError, match="argwhere"):
        prepare(g.module(relay.argwhere(g.image())))
