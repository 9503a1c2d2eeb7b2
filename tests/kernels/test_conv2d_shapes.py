"""Thousands of random convolution shapes through the run-time functions, under AddressSanitizer and UBSan.

One program (conv_cases.c) reads all cases from a file; scratch sizes are compared with the C functions on the way.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from rqdkm_tvm.kernels import conv2d, conv2d_strip, registry
from rqdkm_tvm.kernels.lanes import Form
from rqdkm_tvm.kernels.registry import Config, Kernel
from rqdkm_tvm.layer import Layer
from tests.kernels import harness, random_layers, tflite_arithmetic
from tests.kernels.random_layers import Array

KERNELS = ["conv2d_s8_ref", "conv2d_s8_gemm", "conv2d_s8_im2row", "conv2d_s8_direct", "conv2d_s8_narrow"]


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("conv") / "conv_cases"
    harness.compile_host([Path(__file__).with_name("conv_cases.c")], path)
    return path


def record(layer: Layer, x: Array, kernel: Kernel, config: Config) -> bytes:
    """One case as conv_cases.c reads it."""
    g = conv2d.geometry(layer)
    call = kernel.lower(layer, config)
    form, constants = Form.WIDE, ()
    if isinstance(kernel, conv2d.PackedConv2d):
        finish = conv2d.plan_finish(layer)
        assert finish is not None
        form = finish.form
    if isinstance(kernel, conv2d_strip.StripConv2d):
        constants = kernel._constants(g, form, config)
    buffers = [*call.constants, x]
    if isinstance(kernel, conv2d.PackedConv2d):
        weights, table, *bits = call.constants
        buffers = [weights, table, x, *bits]
    numbers = [KERNELS.index(kernel.name), len(buffers), layer.output.size, call.scratch_bytes]
    numbers += [-layer.inputs[0].zero_point, layer.output.zero_point]
    numbers += [*g.stride, *g.dilation, *g.padding, *layer.attrs["clamp"]]
    numbers += [g.input_h, g.input_w, g.input_c, g.kernel_h, g.kernel_w, g.group_c, g.output_h, g.output_w, g.output_c]
    numbers += [int(config.get("rows", 1)), int(config.get("pixels", 1)), int(config.get("resident", 0))]
    numbers += [int(form), *constants, *[0] * (8 - len(constants))]
    parts = [struct.pack(f"<{len(numbers)}i", *numbers)]
    for array in buffers:
        content = np.ascontiguousarray(array).tobytes()
        parts += [struct.pack("<I", len(content)), content]
    return b"".join(parts)


@pytest.mark.parametrize("seed", range(4))
def test_random_shapes(seed: int, program: Path, tmp_path: Path) -> None:
    rng = np.random.default_rng(3000 + seed)
    records: list[bytes] = []
    cases: list[tuple[Layer, str, Config, Array]] = []
    for _ in range(600):
        layer, x = random_layers.random_conv(rng)
        if rng.integers(3) == 0:
            layer = random_layers.narrow_weights(rng, layer)
        want = tflite_arithmetic.conv2d(layer, x)
        for name in KERNELS:
            kernel = registry.get(name)
            if registry.rejection(kernel, layer) is None:
                configs = kernel.configs(layer)
                config = configs[int(rng.integers(len(configs)))]
                records.append(record(layer, x, kernel, config))
                cases.append((layer, name, config, want))
    (tmp_path / "cases").write_bytes(struct.pack("<I", len(records)) + b"".join(records))
    done = subprocess.run(
        [program, tmp_path / "cases", tmp_path / "results"], capture_output=True, text=True, check=False
    )
    finished = done.stderr.count(" done\n")
    assert done.returncode == 0, (cases[min(finished, len(cases) - 1)][:3], done.stderr[-3000:])
    results = np.fromfile(tmp_path / "results", np.int8)
    offset = 0
    for layer, name, config, want in cases:
        got = results[offset : offset + want.size]
        offset += want.size
        assert (got == want.ravel()).all(), (name, dict(config), layer)
    assert offset == results.size
    assert len(cases) > 1400
    assert {name for _, name, _, _ in cases} == set(KERNELS)
