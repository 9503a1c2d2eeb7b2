"""Damaged and unsuitable ``.tflite`` files end in one ModelError: what, where and what to do; never a crash."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tflite

from rqdkm.models import load, tflite_read, tflite_write, zoo
from rqdkm.models.graph import Graph, Operator, TensorInfo, per_tensor
from rqdkm_tvm.errors import ModelError, UnsupportedOperatorError

MODEL = "tflite_micro_magic_wand"
Write = Callable[[str, bytes], Path]


@pytest.mark.parametrize("name", ["tflite_micro_magic_wand", "tflite_micro_speech", "image_example1.float32"])
def test_hundreds_of_corruptions_load_or_are_refused(name: str) -> None:
    command = [sys.executable, "-m", "tests.models.corrupt", name, "150", "7"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.returncode == 0, done.stderr[-1000:]
    outcomes = json.loads(done.stdout.splitlines()[-1])
    assert set(outcomes) == {"loaded", "refused"}, outcomes
    assert sum(outcomes.values()) == 150
    assert outcomes["refused"] >= 30  # truncations alone


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (lambda data: b"", "empty"),
        (lambda data: data[:3], "TFL3"),
        (lambda data: data[: len(data) // 2], "truncated"),
        (lambda data: np.random.default_rng(0).bytes(5000), "TFL3"),
        (lambda data: data[:4] + b"TFL2" + data[8:], "TFL3"),
        (lambda data: (0xFFFFFFF0).to_bytes(4, "little") + data[4:], "damaged"),
    ],
    ids=["empty", "3 bytes", "half", "random", "magic", "root offset"],
)
def test_a_broken_file_is_named_with_its_path(damage: Callable[[bytes], bytes], words: str, write: Write) -> None:
    path = write("broken.tflite", damage(zoo.path(MODEL).read_bytes()))
    with pytest.raises(ModelError, match=words) as caught:
        load.load(path)
    assert str(path) in caught.value.where
    assert caught.value.hint


@pytest.mark.parametrize(("name", "words"), [("model.keras", "TFLiteConverter"), ("model.pt", "onnx")])
def test_other_formats_say_how_to_convert(name: str, words: str, write: Write) -> None:
    with pytest.raises(ModelError) as caught:
        load.load(write(name, b"x"))
    assert words in caught.value.hint


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no such file"):
        load.load(tmp_path / "nothing.tflite")
    with pytest.raises(ModelError, match="directory"):
        load.load(tmp_path)


def graph() -> Graph:
    return tflite_read.read_graph(zoo.path("audio_example1").read_bytes(), "zoo")


def refuse(changed: Graph, words: str) -> ModelError:
    with pytest.raises(ModelError, match=words) as caught:
        load.load_tflite(tflite_write.write_graph(changed), Path("changed.tflite"))
    return caught.value


def with_tensor(base: Graph, index: int, **changes: object) -> Graph:
    tensors = list(base.tensors)
    tensors[index] = replace(tensors[index], **changes)  # type: ignore[arg-type]
    return replace(base, tensors=tuple(tensors))


def with_operator(base: Graph, number: int, **changes: object) -> Graph:
    operators = list(base.operators)
    operators[number] = replace(operators[number], **changes)  # type: ignore[arg-type]
    return replace(base, operators=tuple(operators))


def test_a_batch_is_refused() -> None:
    base = graph()
    shape = base.tensors[base.inputs[0]].shape
    assert "batch size 1" in refuse(with_tensor(base, base.inputs[0], shape=(4, *shape[1:])), "batch size is 4").hint


def test_a_dynamic_shape_is_refused() -> None:
    base = graph()
    refuse(with_tensor(base, base.inputs[0], shape=(1, -1, 49, 1)), "dynamic")


def test_inconsistent_shapes_name_the_layer() -> None:
    base = graph()
    conv = base.operators[1]
    shape = base.tensors[conv.outputs[0]].shape
    error = refuse(with_tensor(base, conv.outputs[0], shape=(1, shape[1] + 1, *shape[2:])), "its output should be")
    assert "conv2d" in error.where
    assert "CONV_2D" in error.where


def test_zero_strides_are_refused() -> None:
    base = graph()
    refuse(with_operator(base, 1, attrs={**base.operators[1].attrs, "stride": (0, 0)}), "below 1")


def test_a_constant_of_the_wrong_size_is_refused() -> None:
    base = graph()
    weights = base.operators[1].inputs[1]
    data = base.tensors[weights].data
    assert data is not None
    refuse(with_tensor(base, weights, data=data.reshape(-1)[:-1]), "bytes, its type int8")


@pytest.mark.parametrize("scale", [0.0, float("nan"), float("inf"), -1.0])
def test_a_scale_must_be_a_positive_number(scale: float) -> None:
    base = graph()
    refuse(with_tensor(base, base.operators[0].outputs[0], quantization=per_tensor(scale, 0)), "positive number")


def test_using_a_tensor_before_it_exists_is_refused() -> None:
    base = graph()
    refuse(replace(base, operators=tuple(reversed(base.operators))), "before it is computed")


def test_dynamic_range_quantization_is_explained() -> None:
    base = tflite_read.read_graph(zoo.path("image_example1.float32").read_bytes(), "zoo")
    weights = base.operators[0].inputs[1]
    shape = base.tensors[weights].shape
    hybrid = with_tensor(base, weights, dtype="int8", data=np.ones(shape, np.int8), quantization=per_tensor(0.1, 0))
    assert "representative_dataset" in refuse(hybrid, "dynamic-range").hint


def test_legacy_uint8_models_are_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    base = graph()
    tensors = tuple(dataclasses.replace(t, dtype="uint8") if t.dtype == "int8" else t for t in base.tensors)
    monkeypatch.setitem(tflite_write._TYPES, "uint8", 3)
    assert "INT8" in refuse(replace(base, tensors=tensors), "legacy uint8").hint


def test_an_unsupported_operator_is_named_with_its_layer(write: Write) -> None:
    data = bytearray(zoo.path(MODEL).read_bytes())
    model = tflite.Model.GetRootAsModel(data, 0)
    for number in range(model.OperatorCodesLength()):
        code = model.OperatorCodes(number)
        if max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) == 25:  # SOFTMAX
            for slot in (4, 10):
                place = code._tab.Offset(slot)
                if place:
                    data[code._tab.Pos + place] = 15  # LSH_PROJECTION
    with pytest.raises(UnsupportedOperatorError, match="LSH_PROJECTION") as caught:
        load.load(write("lsh.tflite", bytes(data)))
    assert "layer" in caught.value.where


def test_two_subgraphs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    single = tflite_write._references

    def doubled(builder: object, start: Callable[..., object], items: list[int]) -> int:
        return single(builder, start, items * 2 if start is tflite.ModelStartSubgraphsVector else items)

    monkeypatch.setattr(tflite_write, "_references", doubled)
    assert "control flow" in refuse(graph(), "2 subgraphs").hint


def test_tensors_of_one_name_are_refused() -> None:
    base = graph()
    first, second = (base.operators[i].outputs[0] for i in (0, 1))
    refuse(with_tensor(base, second, name=base.tensors[first].name), "two tensors are called")


def test_a_float_addition_of_two_inputs_loads() -> None:
    tensors = tuple(TensorInfo(name, (1, 4), "float32") for name in ("a", "b", "sum"))
    both = Graph("two", tensors, (Operator("ADD", (0, 1), (2,), {"activation": "NONE"}),), (0, 1), (2,))
    model = load.load_tflite(tflite_write.write_graph(both), Path("two.tflite"))
    assert model.input_names == ("a", "b")
    assert not model.is_quantized
