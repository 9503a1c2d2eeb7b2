"""Measure the kernels that multiply by weights on the virtual board; print the tables and write docs/kernels.md.

Run from the repository: ``python -m tests.kernels.measure``. Layers have the shapes of three published networks (image
classification ResNet, visual wake words MobileNet, keyword spotting DS-CNN) and of an autoencoder, with random numbers;
two more are of one input channel and of few Winograd tiles.
"""

from __future__ import annotations

import dataclasses
import logging
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from rqdkm import kernelbench
from rqdkm_tvm.files import write_atomic
from rqdkm_tvm.kernels import bits
from rqdkm_tvm.kernels.band_parts import plain_layer
from rqdkm_tvm.layer import Layer, Tensor
from tests.kernels import comparison, random_layers, tflite_arithmetic, tflite_elementwise
from tests.kernels.random_layers import Array

log = logging.getLogger(__name__)

PAGE = Path(__file__).parents[2] / "docs" / "kernels.md"
BEGIN, END = "<!-- measured: begin -->\n", "<!-- measured: end -->\n"
COMPARED_BEGIN, COMPARED_END = "<!-- compared: begin -->\n", "<!-- compared: end -->\n"
SMALL_SCRATCH = 6 * 1024

#: (size, channels, kernel, stride, relu)
CONVOLUTIONS = [
    ((32, 32), (3, 16), (3, 3), (1, 1), True),
    ((32, 32), (16, 16), (3, 3), (1, 1), True),
    ((32, 32), (16, 16), (3, 3), (1, 1), False),
    ((32, 32), (16, 32), (3, 3), (2, 2), True),
    ((16, 16), (32, 32), (3, 3), (1, 1), False),
    ((32, 32), (16, 32), (1, 1), (2, 2), False),
    ((16, 16), (32, 64), (3, 3), (2, 2), True),
    ((8, 8), (64, 64), (3, 3), (1, 1), False),
    ((16, 16), (32, 64), (1, 1), (2, 2), False),
    ((96, 96), (3, 8), (3, 3), (2, 2), True),
    ((48, 48), (8, 16), (1, 1), (1, 1), True),
    ((24, 24), (16, 32), (1, 1), (1, 1), True),
    ((24, 24), (32, 32), (1, 1), (1, 1), True),
    ((12, 12), (32, 64), (1, 1), (1, 1), True),
    ((12, 12), (64, 64), (1, 1), (1, 1), True),
    ((6, 6), (64, 128), (1, 1), (1, 1), True),
    ((6, 6), (128, 128), (1, 1), (1, 1), True),
    ((3, 3), (128, 256), (1, 1), (1, 1), True),
    ((3, 3), (256, 256), (1, 1), (1, 1), True),
    ((49, 10), (1, 64), (10, 4), (2, 2), True),
    ((25, 5), (64, 64), (1, 1), (1, 1), True),
    ((118, 1), (108, 32), (3, 1), (1, 1), False),
    ((28, 28), (1, 8), (3, 3), (1, 1), True),
    ((4, 7), (48, 48), (3, 3), (1, 1), True),
]
FULLY_CONNECTED = [(640, 128), (128, 128), (128, 8), (64, 10), (2048, 32)]


def convolution(index: int) -> tuple[Layer, Array]:
    """A layer with ordinary numbers: outputs use the int8 range, the form is UP with a relu and AWAY without."""
    size, channels, kernel, stride, relu = CONVOLUTIONS[index]
    rng = np.random.default_rng(index)
    layer, _ = random_layers.conv_layer(rng, size=size, channels=channels, kernel=kernel, stride=stride)
    taps = kernel[0] * kernel[1] * channels[0]
    name = f"{size[0]}x{size[1]}x{channels[0]} -> {channels[1]}, {kernel[0]}x{kernel[1]}"
    layer = dataclasses.replace(
        layer,
        name=name + (f" s{stride[0]}" if stride != (1, 1) else "") + (", relu" if relu else ""),
        inputs=(Tensor(layer.inputs[0].shape, "int8", 0.05, -128),),
        output=Tensor(layer.output.shape, "int8", 0.05, -128 if relu else 5),
        attrs={**layer.attrs, "clamp": (-128, 127)},
        weights=rng.integers(-127, 128, (channels[1], *kernel, channels[0]), dtype=np.int8),
        weight_scales=(rng.uniform(0.4, 1.6, channels[1]) / (137 * np.sqrt(taps))).astype(np.float32),
        bias=rng.integers(-2000, 2000, channels[1]).astype(np.int32),
    )
    return layer, rng.integers(-128, 128, layer.inputs[0].shape, dtype=np.int8)


def fully_connected(index: int) -> tuple[Layer, Array]:
    inputs, outputs = FULLY_CONNECTED[index]
    rng = np.random.default_rng(100 + index)
    layer = Layer(
        f"fully connected {inputs} -> {outputs}, relu",
        "fully_connected",
        (Tensor((1, inputs), "int8", 0.05, -128),),
        Tensor((1, outputs), "int8", 0.05, -128),
        {"clamp": (-128, 127)},
        rng.integers(-127, 128, (outputs, inputs), dtype=np.int8),
        np.array([1 / (137 * np.sqrt(inputs))], np.float32),
        0,
        rng.integers(-2000, 2000, outputs).astype(np.int32),
    )
    return layer, rng.integers(-128, 128, (1, inputs), dtype=np.int8)


def choose(layer: Layer, x: Array) -> list[kernelbench.Candidate]:
    """The fastest configuration of every direct kernel, and its fastest within SMALL_SCRATCH."""
    every = kernelbench.candidates_for(
        layer, [x], configs=100, accept=lambda kernel, _config: "winograd" not in kernel.name
    )
    chosen: list[kernelbench.Candidate] = []
    for name in dict.fromkeys(candidate.kernel.name for candidate in every):
        own = [candidate for candidate in every if candidate.kernel.name == name]
        small = [c for c in own if c.kernel.scratch_bytes(layer, c.config) <= SMALL_SCRATCH]
        chosen += own[:1] + [c for c in small[:1] if c is not own[0]]
    return chosen


REFERENCES = {
    "conv2d": tflite_arithmetic.conv2d,
    "depthwise_conv2d": tflite_elementwise.depthwise_conv2d,
    "fully_connected": tflite_arithmetic.fully_connected,
}


def run(found: Sequence[kernelbench.Candidate]) -> list[kernelbench.Measurement]:
    """Measure, and stop if an output byte is not what the reference gives."""
    results = kernelbench.measure(found, progress=log.info)
    expected: dict[int, int] = {}
    wrong = []
    for m in results:
        layer, (x,) = m.candidate.layer, m.candidate.inputs
        if id(layer) not in expected:
            result = REFERENCES[layer.op](plain_layer(layer, own_clamp=True), x)
            expected[id(layer)] = zlib.crc32(bits.pack(result, layer.output.bits).tobytes())
        if m.crc != expected[id(layer)]:
            wrong.append((m.candidate.kernel.name, layer.name))
    if wrong:
        raise SystemExit(f"wrong outputs: {wrong}")
    return results


def write(text: str, begin: str, end: str) -> None:
    """Print a table, and put it between its two marks in the page."""
    print(text)
    before, rest = PAGE.read_text().split(begin)
    write_atomic(PAGE, before + begin + text + end + rest.split(end)[1])


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    layers = [convolution(index) for index in range(len(CONVOLUTIONS))]
    layers += [fully_connected(index) for index in range(len(FULLY_CONNECTED))]
    write(kernelbench.table(run([c for layer, x in layers for c in choose(layer, x)])), BEGIN, END)
    layers += [comparison.depthwise(index) for index in range(len(comparison.DEPTHWISE))]
    variants = [variant for layer, x in layers for variant in comparison.variants(layer, x)]
    results = run([candidate for variant in variants for candidate in variant.candidates])
    write(comparison.table(variants, results), COMPARED_BEGIN, COMPARED_END)
    log.info("all outputs exact, written to %s", PAGE)


if __name__ == "__main__":
    main()
