"""Every width of weights and maps in every operator and kernel: TFLM's interpreter gives the bytes of the NumPy one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rqdkm.models import oracle
from rqdkm.models.tflite_write import write_graph
from rqdkm.tflm.generated import NAMES
from tests.tflm import paths


@pytest.mark.parametrize("kind", ["portable", "bands", "generated"])
def test_every_path_computes_the_reference_s_bytes(kind: str, plugin: Path) -> None:
    model = paths.model(kind)
    outputs = oracle.run_interpreter(write_graph(model.graph), model.graph, model.inputs, plugin)
    wrong = []
    varied = 0
    for path, found in zip(model.paths, outputs, strict=True):
        expected = path.expected
        varied += len(np.unique(expected)) > 2
        if not np.array_equal(found.reshape(len(found), -1), expected):
            wrong.append(path.name)
    assert not wrong
    assert varied > 0.9 * len(model.paths)


def test_the_portable_model_takes_every_operator_and_kernel_there_is() -> None:
    model = paths.model("portable")
    used = {operator.op for operator in model.graph.operators}
    assert set(NAMES.values()) - used == {"RQDKM_PATCH_STAGE"}
    assert {"RQDKM_TABLE", "SOFTMAX"} <= used


def test_widths_of_weights_and_maps_are_all_there() -> None:
    found = [path.layer for path in paths.model("portable").paths]
    for op in ("conv2d", "depthwise_conv2d", "fully_connected"):
        own = [layer for layer in found if layer.op == op]
        assert {layer.inputs[0].bits for layer in own} == {8, 4, 2}
        assert {layer.output.bits for layer in own} == {8, 4, 2}
        assert {8, 4, 2} in [set(layer.weight_bits) for layer in own]
