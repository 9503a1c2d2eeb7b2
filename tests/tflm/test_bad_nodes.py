"""Nodes that cannot be right are refused when tensors are allocated, with a line that says why."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flatbuffers import flexbuffers

from rqdkm.models import custom_options as options
from rqdkm.models.graph import CUSTOM, Graph
from rqdkm.models.tflite_write import write_graph
from tests.tflm import bad_worker, paths

Change = Callable[[Graph], Graph]


def node(name: str) -> Graph:
    """The portable path of that name as a model of its own."""
    graph = paths.model("portable").graph
    position = next(i for i, path in enumerate(paths.model("portable").paths) if path.name == name)
    operator = graph.operators[position]
    inputs = tuple(i for i in operator.inputs if not graph.tensors[i].is_constant)
    return Graph("node", graph.tensors, (operator,), inputs, operator.outputs)


def add_map(builder: Any, values: dict[str, Any]) -> None:
    with builder.Map():
        for key, value in values.items():
            if value is None:
                continue
            builder.Key(key)
            if isinstance(value, list) and value and isinstance(value[0], dict):
                with builder.Vector():
                    for item in value:
                        add_map(builder, item)
            elif isinstance(value, list):
                builder.TypedVectorFromElements(value)
            elif isinstance(value, str):
                builder.String(value)
            else:
                builder.Int(value)


def with_step(position: int, **values: Any) -> Change:
    """Other options of one layer of a morphing layer's kernels."""

    def change(graph: Graph) -> Graph:
        steps = flexbuffers.Loads(graph.operators[0].attrs[CUSTOM])["steps"]
        steps[position] |= values
        return with_options(steps=steps)(graph)

    return change


def with_options(**values: Any) -> Change:
    """Other options; None takes one out."""

    def change(graph: Graph) -> Graph:
        (operator,) = graph.operators
        builder = flexbuffers.Builder()
        add_map(builder, {**flexbuffers.Loads(operator.attrs[CUSTOM]), **values})
        return replace(graph, operators=(replace(operator, attrs={CUSTOM: bytes(builder.Finish())}),))

    return change


def with_bytes(edit: Callable[[bytes], bytes]) -> Change:
    def change(graph: Graph) -> Graph:
        (operator,) = graph.operators
        return replace(graph, operators=(replace(operator, attrs={CUSTOM: edit(operator.attrs[CUSTOM])}),))

    return change


def with_operand(position: int, **fields: Any) -> Change:
    """Another tensor as input ``position``; -1: the result."""

    def change(graph: Graph) -> Graph:
        (operator,) = graph.operators
        index = operator.outputs[0] if position < 0 else operator.inputs[position]
        tensors = list(graph.tensors)
        tensors[index] = replace(tensors[index], **fields)
        return replace(graph, tensors=tuple(tensors))

    return change


def with_data(position: int, edit: Callable[[Any], Any]) -> Change:
    def change(graph: Graph) -> Graph:
        data = edit(graph.tensors[graph.operators[0].inputs[position]].data)
        return with_operand(position, data=data, shape=data.shape)(graph)

    return change


def variable(position: int) -> Change:
    """A constant becomes an input of the model."""

    def change(graph: Graph) -> Graph:
        index = graph.operators[0].inputs[position]
        return replace(with_operand(position, data=None)(graph), inputs=(*graph.inputs, index))

    return change


def fewer_inputs(graph: Graph) -> Graph:
    (operator,) = graph.operators
    return replace(graph, operators=(replace(operator, inputs=operator.inputs[:-1]),))


CONV, DEPTHWISE, DENSE = "conv3x3 a8 w8/4/2 o8", "depthwise a4 w4 o4", "dense a8 w8/4/2 o8"
MORPH = "morph a8 o8"  # three kernels, the last of two layers
SIZE = "a tensor has another size than the layer takes"
BAD: dict[str, tuple[str, Change, str]] = {
    "a missing key": (CONV, with_options(stride=None), 'option "stride" is missing'),
    "another version": (CONV, with_options(version=options.version() + 1), "export the model anew"),
    "no version": (CONV, with_options(version=None), 'option "version" is missing'),
    "no options": (CONV, with_bytes(lambda _: b""), "its options are damaged"),
    "half the options": (CONV, with_bytes(lambda data: data[: len(data) // 2]), "its options are damaged"),
    "a text for a number": (CONV, with_options(kernel="gemm"), 'option "kernel" has a value that cannot be'),
    "too few numbers": (CONV, with_options(stride=[1]), 'option "stride" has a value that cannot be'),
    "stride 0": (CONV, with_options(stride=[0, 1]), 'option "stride" has a value that cannot be'),
    "an unknown kernel": (CONV, with_options(kernel=9), 'option "kernel" has a value that cannot be'),
    "an empty clamp": (CONV, with_options(clamp=[5, -5]), "its clamp is empty"),
    "3 bits": (CONV, with_options(bits=[3, 8]), "a map's bits cannot be"),
    "huge extents": (CONV, with_options(input=[60000, 60000, 8]), "its sizes are out of range"),
    "groups that do not divide": (CONV, with_options(filter=[3, 3, 3]), "do not fall into groups"),
    "truncated weights": (CONV, with_data(1, lambda data: data[:-4]), f"{SIZE} (operand 1)"),
    "truncated pair table": (CONV, with_data(2, lambda data: data[:-1]), f"{SIZE} (operand 2)"),
    "bits that do not exist": (
        CONV,
        with_data(3, lambda data: data * 0 + 5),
        "weights have 8, 4 or 2 bits (operand 3)",
    ),
    "unsigned weights": (CONV, with_operand(1, dtype="uint8"), "another type than the layer takes (operand 1)"),
    "a result of bytes": (CONV, with_operand(-1, dtype="uint8"), "another type than the layer takes (operand -1)"),
    "weights from outside": (CONV, variable(1), "a constant is not in the model (operand 1)"),
    "one input less": (DEPTHWISE, fewer_inputs, "another number of inputs or outputs"),
    "a shift out of range": (DEPTHWISE, with_data(4, lambda data: data + 40), "a shift is out of range (operand 4)"),
    "a negative multiplier": (DEPTHWISE, with_data(3, lambda data: -data), "a multiplier is negative (operand 3)"),
    "a smaller map": (DEPTHWISE, with_operand(0, shape=(1, 8, 6, 2)), f"{SIZE} (operand 0)"),
    "more outputs": (DENSE, with_options(filter=[12, 24]), SIZE),
    "asymmetric weights": (DENSE, with_options(zero_points=[1, 2, 3]), "symmetric weights"),
    "a window in the padding": ("max_pool2d 8", with_options(padding=[2, 0, 0, 0]), "entirely in the padding"),
    "no repetition": ("mul 8", with_options(count=[192, 7]), "does not repeat"),
    "no kernels": (MORPH, with_options(kernels=None), 'option "kernels" is missing'),
    "six kernels": (MORPH, with_options(kernels=[1] * 6), "it has 1 to 5 kernels"),
    "an empty kernel": (MORPH, with_options(kernels=[1, 0, 3]), 'option "kernels" has a value that cannot be'),
    "a safe kernel too many": (MORPH, with_options(safe=3), 'option "safe" has a value that cannot be'),
    "a kernel too few": (MORPH, with_options(kernels=[1, 1], safe=0), 'option "ops" has a value that cannot be'),
    "an unknown layer": (MORPH, with_options(ops=[0, 2, 1, 0]), 'option "ops" has a value that cannot be'),
    "constants that are not there": (
        MORPH,
        with_options(constants=[5, 5, 5, 5]),
        "another number of inputs or outputs",
    ),
    "layers without options": (MORPH, with_options(steps="none"), "a layer of a kernel has no options"),
    "no layers": (MORPH, with_options(steps=None), "a layer of a kernel has no options"),
    "a layer without a stride": (MORPH, with_step(0, stride=None), f'"{MORPH}/0.0": option "stride" is missing'),
    "layers that do not fit": (MORPH, with_step(3, input=[4, 12, 8], output=[4, 12, 8]), "do not fit one another"),
    "a kernel with another map": (MORPH, with_step(1, output=[4, 6, 8]), f'"{MORPH}/1.0": {SIZE} (operand -1)'),
    "code that is not linked": (CONV, with_options(code=12345), "compile rqdkm_layers.c of the same rqdkm tflm export"),
}


@pytest.fixture(scope="module")
def logs(plugin: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """What the interpreter logged of each."""
    folder = tmp_path_factory.mktemp("bad")
    for index, (name, change, _) in enumerate([(CONV, lambda graph: graph, ""), *BAD.values()]):
        (folder / f"{index}.tflite").write_bytes(write_graph(change(node(name))))
    command = [sys.executable, bad_worker.__file__, str(folder), str(plugin)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    found = done.stderr.split(bad_worker.MARK)[1:]
    return dict(zip(["sound", *BAD], found, strict=True))


def test_the_node_is_taken_as_it_was(logs: dict[str, str]) -> None:
    assert "taken" in logs["sound"]


@pytest.mark.parametrize("what", BAD)
def test_a_bad_node_is_refused_and_named(logs: dict[str, str], what: str) -> None:
    name, _, reason = BAD[what]
    assert "refused" in logs[what]
    line = next(line for line in logs[what].splitlines() if line.startswith("rqdkm: layer"))
    assert reason in line
    if "options are damaged" not in reason:
        assert f'layer "{name}' in line  # or a layer of it
