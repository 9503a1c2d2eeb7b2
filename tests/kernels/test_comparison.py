"""The table of direct, Winograd and packed kernels leaves no kernel out where it applies."""

from __future__ import annotations

import numpy as np
import pytest

from rqdkm import kernelbench
from rqdkm_tvm.layer import Layer
from tests.kernels import comparison, measure


def columns(layer: Layer) -> dict[str, tuple[kernelbench.Candidate, ...]]:
    x = np.zeros(layer.inputs[0].shape, np.int8)
    return {variant.column: variant.candidates for variant in comparison.variants(layer, x)}


def convolution(name: str) -> Layer:
    found = [layer for i in range(len(measure.CONVOLUTIONS)) if (layer := measure.convolution(i)[0]).name == name]
    assert len(found) == 1, name
    return found[0]


@pytest.mark.parametrize("column", ["F(4x4,3x3)", "F(4x4,3x3), 4 bits", "F(4x4,3x3), 2 bits"])
def test_the_winograd_column_of_a_stride_2_layer_is_its_own_kernel(column: str) -> None:
    found = columns(convolution("16x16x32 -> 64, 3x3 s2, relu"))
    assert [c.kernel.name for c in found[column]] == ["conv2d_s8_winograd_f4x4s2"]


def test_stride_1_has_all_winograd_columns_one_kernel_each() -> None:
    found = columns(convolution("16x16x32 -> 32, 3x3"))
    assert [[c.kernel.name.rpartition("_")[2] for c in found[name]] for name in comparison.WINOGRAD] == [
        ["f4x4"],
        ["f2x2"],
        ["f4x1"],
    ]


def test_a_map_of_few_tiles_is_measured_with_the_shape_for_them() -> None:
    (candidate,) = columns(convolution("4x7x48 -> 48, 3x3, relu"))["F(4x4,3x3)"]
    assert "rqdkm_conv2d_s8_winograd_f4x4_few(" in candidate.call().body


def test_the_plane_kernel_takes_part_in_the_direct_columns() -> None:
    found = columns(convolution("28x28x1 -> 8, 3x3, relu"))
    for column in ("direct", "direct, 4 bits", "direct, 2 bits"):
        assert "conv2d_s8_plane" in [c.kernel.name for c in found[column]]
    assert "conv2d_s8_plane" in [
        c.kernel.name for c in measure.choose(found["direct"][0].layer, found["direct"][0].inputs[0])
    ]


def test_every_cell_is_a_ratio_to_the_fastest_direct_kernel() -> None:
    layer = convolution("32x32x16 -> 32, 3x3 s2, relu")
    chosen = comparison.variants(layer, np.zeros(layer.inputs[0].shape, np.int8))
    cycles = {"direct": 1000, "F(4x4,3x3)": 900}
    results = [
        kernelbench.Measurement(c, cycles.get(v.column, 1100) + i, 0.0, 1, 0, 8, 0)
        for v in chosen
        for i, c in enumerate(v.candidates)
    ]
    header, _, row = comparison.table(chosen, results).splitlines()
    cells = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert cells["cycles"] == "1000" and cells["F(4x4,3x3)"] == "0.900"
    assert cells["direct, 4 bits"] == "1.100" and cells["F(2x2,3x3)"] == ""
