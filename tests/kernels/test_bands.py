"""Tensors of 4 and 2 bits and epilogues: every kernel, every band height, against the parts put together in numpy."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rqdkm_tvm import in_place
from rqdkm_tvm.kernels import bits, registry
from tests.kernels import harness, random_bands, random_elementwise, random_layers
from tests.kernels.random_bands import Rng, cases_for, expected, packed, values_for, with_epilogue
from tests.kernels.random_layers import Array
from tests.kernels.test_conv2d import SHAPES
from tests.kernels.test_depthwise import SHAPES as DEPTHWISE_SHAPES

LONGEST = 70


@pytest.mark.parametrize("width", [4, 2])
def test_packed_bytes_are_documented_and_come_back(width: int) -> None:
    document = {4: ([1, 2, 3, -4], [0x21, 0xC3]), 2: ([1, 0, -1, -2], [0xB1])}
    values, stored = document[width]
    assert bits.pack(np.array(values, np.int8), width).view(np.uint8).tolist() == stored
    every = np.arange(256, dtype=np.uint8).view(np.int8)
    assert np.array_equal(bits.pack(bits.unpack(every, width), width), every)


_LENGTHS = """
#include <stdlib.h>
#include <string.h>
#include "rqdkm/bits.h"
/* every length on heap blocks of the exact size; checksums of all bytes, in order */
int main(void) {
  uint32_t state = 1;
  for (int32_t count = 0; count <= LONGEST; count++) {
    for (int32_t width = 2; width <= 4; width += 2) {
      const int32_t bytes = (count * width + 7) / 8;
      uint8_t *packed = malloc((size_t)bytes), *again = malloc((size_t)bytes);
      int8_t *values = malloc((size_t)count), *wide = malloc((size_t)count);
      for (int32_t i = 0; i < bytes; i++) packed[i] = (uint8_t)((state = state * 1664525u + 1013904223u) >> 24);
      (width == 4 ? rqdkm_unpack_s4 : rqdkm_unpack_s2)(packed, count, values);
      for (int32_t i = 0; i < count; i++) {
        const int32_t field = packed[i * width / 8] >> (i * width % 8) & ((1 << width) - 1);
        const int32_t value = field >= 1 << (width - 1) ? field - (1 << width) : field;
        if (values[i] != value) return 1;
        wide[i] = (int8_t)(values[i] + (int32_t)((state = state * 1664525u + 1013904223u) >> 24 << width));
      }
      memset(again, 0x5a, (size_t)bytes);
      (width == 4 ? rqdkm_pack_s4 : rqdkm_pack_s2)(wide, count, again);
      const int32_t rest = count * width % 8;
      if (rest != 0) packed[bytes - 1] &= (uint8_t)((1 << rest) - 1);
      if (memcmp(packed, again, (size_t)bytes) != 0) return 2;
      free(packed);
      free(again);
      free(values);
      free(wide);
    }
  }
  return 0;
}
"""


def test_packing_every_length_writes_its_bytes_only(tmp_path: Path) -> None:
    (tmp_path / "lengths.c").write_text(f"#define LONGEST {LONGEST}\n{_LENGTHS}")
    harness.compile_host([tmp_path / "lengths.c"], tmp_path / "lengths")
    subprocess.run([tmp_path / "lengths"], check=True)


def test_the_c_functions_are_those_of_the_compiler(tmp_path: Path) -> None:
    sources = sorted((harness.tflm_ops_dir() / "src" / "kernels").glob("*pack_s?.c"))
    assert len(sources) == 4
    library = tmp_path / "bits.so"
    include = harness.tflm_ops_dir() / "include"
    subprocess.run(["cc", "-shared", "-fPIC", "-I", include, *sources, "-o", library], check=True)
    functions = ctypes.CDLL(str(library))
    rng = np.random.default_rng(1)
    for width in (4, 2):
        values = rng.integers(*random_bands.limits(width), 61, endpoint=True).astype(np.int8)
        stored = np.zeros(-(-61 * width // 8), np.int8)
        pointers = [ctypes.c_void_p(array.ctypes.data) for array in (values, stored)]
        getattr(functions, f"rqdkm_pack_s{width}")(pointers[0], 61, pointers[1])
        assert np.array_equal(stored, bits.pack(values, width))


def _check(found: list[tuple[Rng, random_bands.Layer]], most: int = 3) -> list[harness.Case]:
    cases: list[harness.Case] = []
    wanted: list[Array] = []
    for rng, layer in found:
        inputs = values_for(rng, layer)
        chosen = cases_for(rng, layer, inputs, most)
        assert chosen, layer
        cases += chosen
        wanted += [expected(layer, inputs)] * len(chosen)
    harness.check(cases, wanted)
    return cases


@pytest.mark.parametrize("shape", SHAPES)
def test_convolutions_of_every_shape(shape: str) -> None:
    size, channels, kernel, stride = SHAPES[shape]
    rng = np.random.default_rng(sum(map(ord, shape)))
    layers = []
    while len(layers) < 5:
        same = bool(rng.integers(2)) or size[0] < kernel[0] or size[1] < kernel[1]
        layer, _ = random_layers.conv_layer(rng, size=size, channels=channels, kernel=kernel, stride=stride, same=same)
        layers.append((rng, with_epilogue(rng, packed(rng, layer))))
    _check([item for item in layers if random_bands.is_mixed(item[1])], most=2)


@pytest.mark.parametrize("seed", range(3))
def test_random_convolutions(seed: int) -> None:
    rng = np.random.default_rng(7000 + seed)
    layers = [with_epilogue(rng, packed(rng, random_layers.random_conv(rng)[0])) for _ in range(40)]
    _check([(rng, layer) for layer in layers if random_bands.is_mixed(layer)], most=2)


@pytest.mark.parametrize("shape", DEPTHWISE_SHAPES)
def test_depthwise_convolutions_of_every_shape(shape: str) -> None:
    size, channels, kernel, stride = DEPTHWISE_SHAPES[shape]
    rng = np.random.default_rng(sum(map(ord, shape)))
    layers = []
    for _ in range(4):
        same = bool(rng.integers(2)) or size[0] < kernel[0] or size[1] < kernel[1]
        case = random_elementwise.depthwise(
            rng,
            size=size,
            channels=channels,
            kernel=kernel,
            stride=stride,
            multiplier=8 if channels == 1 else 1,
            same=same,
        )
        layers.append((rng, with_epilogue(rng, packed(rng, case.layer))))
    _check([item for item in layers if random_bands.is_mixed(item[1])], most=2)


@pytest.mark.parametrize(
    "op", [op for op in random_bands.REFERENCES if op not in ("conv2d", "depthwise_conv2d", "reshape")]
)
def test_every_other_operator(op: str) -> None:
    rng = np.random.default_rng(8000 + sum(map(ord, op)))
    layers = []
    while len(layers) < 40:
        layer = (
            random_layers.random_fully_connected(rng)[0]
            if op == "fully_connected"
            else random_elementwise.GENERATORS[op](rng).layer
        )
        layer = packed(rng, layer)
        if layer.packs_tensors:
            layers.append((rng, layer))
    _check(layers)


def test_large_maps_in_every_band_height() -> None:
    """Several bands, first, middle and last ones, of each kernel of a 3x3 convolution and of a pooling."""
    rng = np.random.default_rng(5)
    layers = []
    for stride in ((1, 1), (2, 2)):
        for make in (random_bands.with_add, lambda rng, layer: random_bands.with_pool(rng, layer, (2, 2))):
            layer, _ = random_layers.conv_layer(rng, size=(35, 9), channels=(8, 8), kernel=(3, 3), stride=stride)
            layers.append((rng, make(rng, packed(rng, layer))))
    cases = _check(layers, most=12)
    heights = {case.config.get(registry.BAND) for case in cases}
    assert {1, 2, 4, 8, 16} <= heights
    assert any("winograd" in case.kernel.name for case in cases)


def test_bands_of_few_winograd_tiles() -> None:
    """Narrow maps, bands that f4x4 computes in groups of two tiles, and last ones with fewer of them."""
    rng = np.random.default_rng(7)
    layers = []
    for height, width in ((7, 8), (13, 7), (11, 4), (9, 6)):
        layer, _ = random_layers.conv_layer(rng, size=(height, width), channels=(16, 7), kernel=(3, 3), same=True)
        layers += [(rng, with_epilogue(rng, packed(rng, layer))) for _ in range(3)]
    cases = _check([item for item in layers if random_bands.is_mixed(item[1])], most=8)
    few = [case for case in cases if "_f4x4_few(" in case.kernel.lower(case.layer, case.config).body]
    assert len({case.config[registry.BAND] for case in few}) > 1


def test_results_that_overwrite_an_operand() -> None:
    """Over the residual, and over the input whose rows were read already: stride 2, pooling, fewer bits."""
    rng = np.random.default_rng(6)
    cases: list[harness.Case] = []
    for stride, pool in (((1, 1), (2, 2)), ((2, 2), (1, 1)), ((1, 1), (3, 3))):
        for input_bits, output_bits in ((8, 8), (8, 4), (4, 4), (4, 2), (4, 8)):
            layer, _ = random_layers.conv_layer(rng, size=(20, 6), channels=(8, 8), kernel=(3, 3), stride=stride)
            layer = random_bands.with_bits(rng, layer, [input_bits], output_bits)
            layers = [layer, random_bands.with_add(rng, layer)]
            layers += [] if pool == (1, 1) else [random_bands.with_pool(rng, layer, pool)]
            cases += _check([(rng, layer) for layer in layers if random_bands.is_mixed(layer)], most=2)
    over = [(case.config[in_place.CONFIG], case.layer) for case in cases if in_place.CONFIG in case.config]
    assert {operand for operand, _ in over} == {0, 1}
    in_bands = [case for case in cases if case.config.get(registry.BAND, 99) < case.layer.stored.shape[1]]
    assert {case.config.get(in_place.CONFIG) for case in in_bands} == {None, 0, 1}
