"""Weights at 8, 4 and 2 bits in every kernel that has weights, every byte, under sanitizers.

And the references that take packed tensors too. What is stored is checked by unpacking it again, by other code than
packs it.
"""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rqdkm_tvm.kernels import bits, registry
from rqdkm_tvm.kernels.pack import pack_elements, pack_words
from rqdkm_tvm.layer import Layer
from tests.kernels import cortex_m4, harness, random_elementwise, random_layers, tflite_arithmetic
from tests.kernels.random_layers import Array, narrow_weights
from tests.kernels.test_conv2d import SHAPES
from tests.kernels.tflite_elementwise import depthwise_conv2d

BITS = (8, 4, 2)


def expected(layer: Layer, x: Array) -> Array:
    """The 8-bit oracle: narrow weights are integers like any others."""
    if layer.op == "depthwise_conv2d":
        return depthwise_conv2d(layer, x)
    return (tflite_arithmetic.conv2d if layer.op == "conv2d" else tflite_arithmetic.fully_connected)(layer, x)


def cases_and_outputs(
    layers: list[tuple[Layer, Array]], configs: int | None = None
) -> tuple[list[harness.Case], list[Array]]:
    cases: list[harness.Case] = []
    outputs: list[Array] = []
    for layer, x in layers:
        found = harness.cases_for(layer, [x], configs=configs)
        cases += found
        outputs += [expected(layer, x)] * len(found)
    return cases, outputs


def random_depthwise(rng: np.random.Generator) -> tuple[Layer, Array]:
    case = random_elementwise.random_depthwise(rng)
    return case.layer, case.inputs[0]


def winograd_layer(rng: np.random.Generator) -> tuple[Layer, Array]:
    """What the Winograd kernels of one stride accept, odd numbers of channels and edge tiles included."""
    size = (int(rng.integers(1, 13)), int(rng.integers(1, 13)))
    channels = (4 * int(rng.integers(1, 9)), int(rng.integers(1, 8)))
    stride = int(rng.choice([1, 1, 2]))
    return random_layers.conv_layer(rng, size=size, channels=channels, kernel=(3, 3), stride=(stride, stride))


# ---- what lies in flash ----------------------------------------------------------------------------------------------


def test_elements_are_packed_low_bits_first() -> None:
    assert pack_elements([1, 2, 3, 4], 4).tobytes() == bytes([0x21, 0x43])
    assert pack_elements([1, -1, 0, -2], 2).tobytes() == bytes([0b10_00_11_01])
    assert pack_elements([-8, 7, -1], 4).tobytes() == bytes([0x78, 0x0F])
    assert pack_elements([-3, 3], 8).tobytes() == bytes([0xFD, 0x03])


def test_the_example_of_the_documentation() -> None:
    """docs/kernels.md: four taps of two channels at 4 bits, eight at 2 bits."""
    a, b = [1, 2, 3, 4], [-8, 7, 0, -1]
    assert pack_words(np.array([a, b]), 4).tobytes() == bytes([0x09, 0xFA, 0x8B, 0x7C])
    first, second = [1, 0, -1, -2], [0, 0, 1, 1]
    assert pack_words(np.array([first, second, second, first]), 2).tobytes() == bytes([0xEB, 0xAA, 0x7D, 0x3C])


def unpacked(data: Array, bits: int) -> Array:
    """The documented layout, bit by bit: byte i of a word holds byte i of 8 / bits words, the first lowest."""
    if bits == 8:
        return data
    stream = np.unpackbits(data.view(np.uint8), bitorder="little").reshape(-1, 4, 8 // bits, bits)
    values = (stream * (1 << np.arange(bits))).sum(axis=3) - (1 << (bits - 1))  # (words, byte, word within)
    return values.transpose(0, 2, 1).astype(np.int8).ravel()


@pytest.mark.parametrize(
    "name",
    ["conv2d_s8_gemm", "conv2d_s8_im2row", "conv2d_s8_direct", "conv2d_s8_narrow", "fully_connected_s8_fast"]
    + [f"conv2d_s8_winograd_{form}" for form in ("f4x4", "f2x2", "f4x1", "f4x4s2")],
)
def test_unpacking_gives_the_weights_of_8_bits_again(name: str) -> None:
    kernel, rng = registry.get(name), np.random.default_rng(sum(map(ord, name)))
    seen: set[int] = set()
    layers = 0
    while layers < 25:
        if "fully" in name:
            layer, _ = random_layers.random_fully_connected(rng)
        elif "winograd" in name:
            layer, _ = winograd_layer(rng)
        else:
            layer, _ = random_layers.random_conv(rng)
        layer = narrow_weights(rng, layer)
        if not layer.packs_weights or registry.rejection(kernel, layer) is not None:
            continue
        layers += 1
        config = next(c for c in kernel.configs(layer) if c.get("weights") != "flash")
        data, _, bits = kernel.lower(layer, config).constants
        whole = kernel.lower(replace(layer, weight_bits=()), config).constants[0].ravel()
        groups = bits[::2] if "fully" in name else bits
        assert "fully" not in name or (bits[::2] == bits[1::2]).all()  # both pairs of four outputs
        size, offset = whole.size // len(groups), 0
        for number, width in enumerate(groups.tolist()):
            stored = -(-size * width // 32) * 4  # whole words
            weights = unpacked(data[offset : offset + stored], width)[:size]
            np.testing.assert_array_equal(weights, whole[number * size : (number + 1) * size])
            offset += stored
            seen.add(width)
        assert offset == data.size
    assert seen == set(BITS)


def test_flash_shrinks_with_the_bits() -> None:
    """Weights of a 3x3 layer at 4 bits take half of what they take at 8, at 2 a quarter, but for the widths' table."""
    rng = np.random.default_rng(1)
    layer, _ = random_layers.conv_layer(rng, size=(8, 8), channels=(16, 16), kernel=(3, 3))
    narrow = replace(layer, weights=np.clip(layer.weights, -2, 1))
    for kernel in registry.kernels_for(layer):
        if registry.rejection(kernel, layer) is None and kernel.packed_weights and not kernel.reference:
            config = next(c for c in kernel.configs(layer) if c.get("weights") != "flash")
            whole, four, two = (
                kernel.constant_bytes(replace(narrow, weight_bits=(bits,) * 16), config) for bits in BITS
            )
            assert (whole - four, whole - two) == (16 * 144 // 2 - 8, 16 * 144 * 3 // 4 - 8), kernel.name


def test_announced_flash_is_what_the_constants_take() -> None:
    rng = np.random.default_rng(2)
    for make in (random_layers.random_conv, winograd_layer, random_layers.random_fully_connected, random_depthwise):
        for _ in range(12):
            layer = narrow_weights(rng, make(rng)[0])
            for kernel, config in registry.candidates(layer):
                constants = kernel.lower(layer, config).constants
                assert kernel.constant_bytes(layer, config) == sum(array.nbytes for array in constants)


def test_weights_that_do_not_fit_and_widths_that_do_not_exist_are_refused() -> None:
    layer, _ = winograd_layer(np.random.default_rng(3))
    channels = layer.output.shape[3]
    kernel = registry.get("conv2d_s8_gemm")
    wide = replace(layer, weights=np.full_like(layer.weights, 8), weight_bits=(4,) * channels)
    with pytest.raises(ValueError, match="do not fit 4 bits"):
        kernel.lower(wide, kernel.configs(layer)[0])
    for widths in ((4,) * (channels + 1), (3,) * channels):
        with pytest.raises(ValueError, match="weight_bits must be 8, 4 or 2"):
            kernel.lower(replace(layer, weight_bits=widths), kernel.configs(layer)[0])


# ---- what is computed ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", SHAPES)
def test_convolutions_of_the_shapes_that_kernels_are_made_for(shape: str) -> None:
    size, channels, kernel, stride = SHAPES[shape]
    rng = np.random.default_rng(sum(map(ord, shape)))
    layers = []
    for widths in (BITS, (4, 2)):
        layer, x = random_layers.conv_layer(rng, size=size, channels=channels, kernel=kernel, stride=stride)
        layers.append((narrow_weights(rng, layer, widths), x))
    harness.check(*cases_and_outputs(layers, 2))


@pytest.mark.parametrize("make", [random_layers.random_conv, winograd_layer], ids=["any", "Winograd"])
def test_random_convolutions(make: Any) -> None:
    rng = np.random.default_rng(11)
    layers = [(narrow_weights(rng, layer), x) for layer, x in (make(rng) for _ in range(40))]
    cases, outputs = cases_and_outputs(layers, 2)
    harness.check(cases, outputs)
    assert len({case.kernel.name for case in cases}) >= 6


def test_random_fully_connected_layers() -> None:
    rng = np.random.default_rng(12)
    layers = [
        (narrow_weights(rng, layer), x) for layer, x in (random_layers.random_fully_connected(rng) for _ in range(120))
    ]
    harness.check(*cases_and_outputs(layers))


def test_random_depthwise_layers_with_and_without_unpacking() -> None:
    rng = np.random.default_rng(13)
    made = [random_depthwise(rng) for _ in range(40)]
    own = [((7, 9), 3, 1), ((5, 6), 3, 1), ((1, 1), 3, 1), ((7, 12), 5, 1), ((11, 16), 5, 2), ((9, 14), 3, 2)]
    for size, kernel, stride in own:  # the strip kernel's, the planar one's
        case = random_elementwise.depthwise(rng, size=size, channels=8, kernel=(kernel, kernel), stride=stride)
        made.append((case.layer, case.inputs[0]))
    cases, outputs = cases_and_outputs([(narrow_weights(rng, layer), x) for layer, x in made], 12)
    harness.check(cases, outputs)
    unpacking = {case.kernel.name for case in cases if case.config.get("packed")}
    assert unpacking == {f"depthwise_conv2d_s8_{kernel}" for kernel in ("strip", "direct", "plane")}
    assert "depthwise_conv2d_s8_as_conv2d" in {case.kernel.name for case in cases}


def test_unpacked_depthwise_tables_take_less_flash() -> None:
    rng = np.random.default_rng(14)
    for stride in (1, 2):
        case = random_elementwise.depthwise(rng, size=(9, 9), channels=16, kernel=(3, 3), stride=stride)
        layer = narrow_weights(rng, case.layer, (4, 2))
        fast = [(kernel, c) for kernel, c in registry.candidates(layer) if not kernel.reference]
        for name in {kernel.name for kernel, _ in fast}:
            flash = {
                bool(c.get("packed")): kernel.constant_bytes(layer, c) for kernel, c in fast if kernel.name == name
            }
            assert flash[True] < 0.75 * flash[False], name


def test_the_cortex_m4_code_is_exact() -> None:
    """QEMU: the assembly of the fully connected kernel and the masks in registers."""
    rng = np.random.default_rng(15)
    makes = [random_layers.random_conv, winograd_layer, random_layers.random_fully_connected, random_depthwise]
    layers = [(narrow_weights(rng, layer, (4, 2)), x) for make in makes for layer, x in (make(rng) for _ in range(12))]
    cortex_m4.check(*cases_and_outputs(layers, 2))


# ---- packed tensors: the references ----------------------------------------------------------------------------------


def packed_flat(values: Array, bits: int) -> Array:
    """Elements in flat order, low bits first, by arithmetic on Python integers."""
    number = sum((int(v) & ((1 << bits) - 1)) << (i * bits) for i, v in enumerate(values.ravel()))
    return np.frombuffer(number.to_bytes(values.size * bits // 8, "little"), np.int8)


def mixed(rng: np.random.Generator, layer: Layer, input_bits: int, output_bits: int) -> tuple[Layer, Array, Array]:
    """The layer with packed tensors and weights of mixed widths, its input, and its output."""
    layer = narrow_weights(rng, layer)
    half = 1 << (output_bits - 1)
    narrow = replace(
        layer,
        inputs=(
            replace(
                layer.inputs[0],
                bits=input_bits,
                zero_point=int(rng.integers(-(1 << (input_bits - 1)), 1 << (input_bits - 1))),
            ),
        ),
        output=replace(
            layer.output,
            bits=output_bits,
            scale=layer.output.scale * 2 ** (8 - output_bits),
            zero_point=int(rng.integers(-half, half)),
        ),
    )
    x = rng.integers(-(1 << (input_bits - 1)), 1 << (input_bits - 1), layer.inputs[0].shape).astype(np.int8)
    low, high = (int(np.clip(v, -half, half - 1)) for v in layer.attrs["clamp"])
    values = expected(replace(narrow, attrs={**layer.attrs, "clamp": (low, high)}), x)
    return narrow, x, values


@pytest.mark.parametrize("width", BITS)
def test_the_harness_stores_tensors_as_documented(width: int) -> None:
    values = np.random.default_rng(width).integers(-(1 << (width - 1)), 1 << (width - 1), (3, 5, 8)).astype(np.int8)
    assert bits.pack(values, width).tobytes() == packed_flat(values, width).tobytes()


@pytest.mark.parametrize("input_bits", BITS)
@pytest.mark.parametrize("output_bits", BITS)
def test_the_references_take_every_combination_of_widths(input_bits: int, output_bits: int) -> None:
    rng = np.random.default_rng(100 * input_bits + output_bits)
    multiple_in, multiple_out = 8 // input_bits, 8 // output_bits
    layers: list[Layer] = []
    while len(layers) < 24:
        make = (random_layers.random_conv, random_layers.random_fully_connected, random_depthwise)[len(layers) % 3]
        layer, _ = make(rng)
        if layer.inputs[0].shape[-1] % multiple_in == 0 and layer.output.shape[-1] % multiple_out == 0:
            layers.append(layer)
    cases, outputs = [], []
    for layer in layers:
        narrow, x, want = mixed(rng, layer, input_bits, output_bits)
        kernel = next(k for k in registry.kernels_for(narrow) if k.packed_tensors and k.reference)
        assert any(k is kernel for k, _ in registry.candidates(narrow))
        cases.append(harness.Case(narrow, (x,), kernel, {}))
        outputs.append(want)
    harness.check(cases, outputs)


def test_every_kernel_takes_packed_weights_between_packed_tensors() -> None:
    """Band by band, every one of them on its own."""
    rng = np.random.default_rng(18)
    cases, outputs = [], []
    while len(cases) < 250:
        make = (random_layers.random_conv, winograd_layer, random_layers.random_fully_connected, random_depthwise)
        layer, _ = make[len(cases) % 4](rng)
        if layer.inputs[0].shape[-1] % 2 == 0 and layer.output.shape[-1] % 4 == 0:
            narrow, x, want = mixed(rng, layer, 4, 2)
            found = harness.cases_for(narrow, [x], configs=2)
            cases += found
            outputs += [want] * len(found)
    harness.check(cases, outputs)
    assert len({case.kernel.name for case in cases}) >= 10


def test_a_layer_of_any_widths_has_an_executor_and_8_bit_layers_keep_theirs() -> None:
    rng = np.random.default_rng(16)
    for make in (random_layers.random_conv, random_layers.random_fully_connected, random_depthwise):
        layer, _ = make(rng)
        plain = registry.candidates(layer, "reference")[0][0].name
        assert plain.endswith("_s8_ref")
        packed = replace(layer, output=replace(layer.output, bits=4))
        assert any(kernel.name.endswith("_mixed_ref") for kernel, _ in registry.candidates(packed))


# ---- scratch ---------------------------------------------------------------------------------------------------------

_SCRATCH = {
    "conv2d_s8_gemm": "&params, &input_dims, &filter_dims, &output_dims, &tile",
    "conv2d_s8_im2row": "&params, &input_dims, &filter_dims, &output_dims, &tile",
    "conv2d_s8_direct": "&params, &input_dims, &filter_dims, &output_dims, &tile",
    "conv2d_s4_gemm": "&params, &input_dims, &filter_dims, &output_dims, &tile",
    "fully_connected_s8_fast": "&params",
    **{f"conv2d_s8_winograd_{form}": "&params" for form in ("f4x4", "f2x2", "f4x1", "f4x4s2")},
}


def few_values(rng: np.random.Generator, layer: Layer) -> Layer:
    """With weights and inputs of 4 bits, all stored as bytes."""
    low = narrow_weights(rng, layer, (4,))
    return replace(low, inputs=(replace(low.inputs[0], zero_point=0, span=(-8, 7)),))


def test_scratch_sizes_of_c_and_python_agree() -> None:
    """The parameters of a generated call, handed to the kernel's own size function."""
    rng = np.random.default_rng(17)
    functions, checks, names, includes = "", "", set(), set()
    for index in range(100):
        make = (random_layers.random_conv, winograd_layer, random_layers.random_fully_connected)[index % 3]
        layer = make(rng)[0]
        for variant in (layer, narrow_weights(rng, layer), few_values(rng, layer)):
            for kernel, config in registry.candidates(variant):
                if kernel.name not in _SCRATCH:
                    continue
                call = kernel.lower(variant, config)
                parameters = call.body.split("  return ")[0]
                few = "_few" if f"rqdkm_{kernel.name}_few(" in call.body else ""  # the form for maps of few tiles
                number = len(re.findall("static int32_t f", functions))
                functions += (
                    f"static int32_t f{number}(const void *c1, const void *c2) {{\n  (void)c1;\n  (void)c2;\n"
                    f"{parameters}"
                    f"  return rqdkm_{kernel.name}{few}_scratch_bytes({_SCRATCH[kernel.name]});\n}}\n"
                )
                checks += f"  if (f{number}(&any, &any) != {call.scratch_bytes}) return {number % 100 + 1};\n"
                names.add(kernel.name)
                includes |= set(call.includes)
    assert names == set(_SCRATCH)
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "sizes.c"
        text = "".join(f'#include "{include}"\n' for include in sorted(includes)) + functions
        source.write_text(text + f"int main(void) {{\n  int32_t any = 0;\n{checks}  return 0;\n}}\n")
        harness.compile_host([source], Path(folder) / "sizes", (*harness.FLAGS, "-Wno-unused-variable"))
        harness.subprocess.run([Path(folder) / "sizes"], check=True)
