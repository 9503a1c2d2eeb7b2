"""The kernels as Cortex-M4 code: a sample of shapes on the virtual board and on QEMU, assembly blocks and C blocks."""

from __future__ import annotations

import dataclasses
import zlib

import numpy as np
import pytest

from rqdkm import kernelbench
from rqdkm_tvm import in_place
from rqdkm_tvm.kernels import bits, registry
from rqdkm_tvm.layer import Layer
from tests.kernels import random_bands, random_layers
from tests.kernels.random_elementwise import GENERATORS
from tests.kernels.test_conv2d import SHAPES, expected
from tests.kernels.tflite_elementwise import REFERENCES

pytestmark = pytest.mark.slow


def sample() -> tuple[list[kernelbench.Candidate], list[int]]:
    """Candidates with the CRC-32 that each must give: every shape of test_conv2d, random layers of every operator."""
    rng = np.random.default_rng(11)
    layers = [
        random_layers.conv_layer(rng, size=size, channels=channels, kernel=kernel, stride=stride)
        for size, channels, kernel, stride in SHAPES.values()
    ]
    layers += [random_layers.random_conv(rng) for _ in range(20)]
    layers += [random_layers.random_fully_connected(rng) for _ in range(10)]
    layers += [(random_layers.narrow_weights(rng, layer, (4, 2)), x) for layer, x in layers]
    found: list[kernelbench.Candidate] = []
    crcs: list[int] = []
    for layer, x in layers:
        candidates = kernelbench.candidates_for(layer, [x], configs=2)
        found += candidates
        crcs += [zlib.crc32(expected(layer, x).tobytes())] * len(candidates)
    for op, reference in REFERENCES.items():
        for _ in range(4):
            case = GENERATORS[op](rng)
            candidates = kernelbench.candidates_for(case.layer, case.inputs, references=True)
            found += candidates
            crcs += [zlib.crc32(reference(case.layer, *case.inputs).tobytes())] * len(candidates)
    for _ in range(12):
        case = GENERATORS["depthwise_conv2d"](rng)
        layer = random_layers.narrow_weights(rng, case.layer, (4, 2))
        candidates = kernelbench.candidates_for(layer, case.inputs, configs=10)
        found += candidates
        crcs += [zlib.crc32(REFERENCES["depthwise_conv2d"](layer, *case.inputs).tobytes())] * len(candidates)
    for layer in _banded(rng):
        inputs = random_bands.values_for(rng, layer)
        cases = random_bands.cases_for(rng, layer, inputs, most=2)
        found += [kernelbench.Candidate(layer, inputs, case.kernel, case.config) for case in cases]
        stored = bits.pack(random_bands.expected(layer, inputs), layer.stored.bits)
        crcs += [zlib.crc32(stored.tobytes())] * len(cases)
    return found, crcs


def _banded(rng: np.random.Generator) -> list[Layer]:
    """Tensors of 4 and 2 bits and epilogues, of every operator."""
    layers = [
        random_layers.conv_layer(rng, size=size, channels=channels, kernel=kernel, stride=stride)[0]
        for size, channels, kernel, stride in SHAPES.values()
    ]
    layers += [GENERATORS[op](rng).layer for op in REFERENCES if op != "reshape" for _ in range(3)]
    layers += [random_layers.random_fully_connected(rng)[0] for _ in range(3)]
    made = [random_bands.packed(rng, layer) for layer in layers]
    made = [random_bands.with_epilogue(rng, layer) if "conv2d" in layer.op else layer for layer in made]
    return [layer for layer in made if random_bands.is_mixed(layer)]


@pytest.mark.parametrize(
    ("board", "flags"),
    [("virtual", ()), ("virtual", ("-DRQDKM_PLAIN_BLOCKS",)), ("qemu", ())],
    ids=["virtual", "virtual, C blocks", "qemu"],
)
def test_every_output_byte_on_the_chip(board: str, flags: tuple[str, ...]) -> None:
    found, crcs = sample()
    results = kernelbench.measure(found, board=board, flags=flags)
    wrong = [
        f"{m.candidate.kernel.name} {dict(m.candidate.config)} on {m.candidate.layer.name}"
        for m, crc in zip(results, crcs, strict=True)
        if m.crc != crc
    ]
    assert not wrong
    assert len(results) > 150
    assert {m.candidate.layer.op for m in results} >= {"conv2d", "fully_connected", *REFERENCES}
    assert any("winograd" in m.candidate.kernel.name for m in results)
    assert {m.candidate.layer.stored.bits for m in results} == {8, 4, 2}
    epilogues = {m.candidate.layer.epilogue.op for m in results if m.candidate.layer.epilogue is not None}
    assert epilogues == {"add", "max_pool2d"}
    assert {m.candidate.config.get(in_place.CONFIG) for m in results} == {None, 0, 1}
    # a board that counts counts every call; QEMU does not count
    assert all((m.cycles or 0) > 0 for m in results) if board == "virtual" else all(m.cycles is None for m in results)


def test_the_cost_model_is_close_to_what_the_virtual_board_counts() -> None:
    """Estimates rank candidates: 15 % is what the planner relies on for layers of ordinary size."""
    rng = np.random.default_rng(5)
    shapes = [
        ((16, 16), (16, 16), (3, 3), (1, 1)),
        ((16, 16), (16, 32), (3, 3), (2, 2)),
        ((24, 24), (3, 8), (3, 3), (1, 1)),
        ((12, 12), (64, 32), (1, 1), (1, 1)),
    ]
    found = []
    for size, channels, kernel, stride in shapes:
        layer, x = random_layers.conv_layer(rng, size=size, channels=channels, kernel=kernel, stride=stride)
        found += kernelbench.candidates_for(
            layer,
            [x],
            configs=2,
            accept=lambda kernel, _config: kernel.name in ("conv2d_s8_direct", "conv2d_s8_narrow"),
        )
    for m in kernelbench.measure(found):
        assert m.cycles == pytest.approx(m.estimate, rel=0.15), (m.candidate.layer.name, m.candidate.kernel.name)


def test_a_configuration_in_place_has_the_operand_as_its_output() -> None:
    rng = np.random.default_rng(3)
    case = GENERATORS["add"](rng)
    kernel = next(k for k, _ in registry.candidates(case.layer) if k.in_place(case.layer, {}))
    apart = kernelbench.Candidate(case.layer, case.inputs, kernel, {})
    place = kernelbench.placed(apart)
    assert place.output not in place.inputs
    for operand in kernel.in_place(case.layer, {}):
        over = kernelbench.placed(dataclasses.replace(apart, config={in_place.CONFIG: operand}))
        assert over.output == over.inputs[operand] and over.scratch == place.output
