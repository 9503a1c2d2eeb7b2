"""A C++ program linked with the wheel's interpreter, under AddressSanitizer and UndefinedBehaviorSanitizer."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from rqdkm.models import reference
from rqdkm.models.graph import CUSTOM, Graph
from rqdkm.models.tflite_write import write_graph
from rqdkm.tflm import generated, host
from tests.tflm import cases, paths, wheel

FLAGS = ("-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
GENERATED = ("random", "patches")
SYMBOL = "rqdkm_layers_sanitized"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """interpreter.cc with all operators and the layers of two models."""
    folder = tmp_path_factory.mktemp("sanitized")
    codes = {code.code: code for name in GENERATED for code in cases.case(name).generated().codes}
    layers = folder / "rqdkm_layers.c"
    layers.write_text(generated.source(list(codes.values()), "the tests", SYMBOL))
    host.build_plugin(folder / "build", layers, SYMBOL, extra=FLAGS)
    objects = [str(path) for path in sorted((folder / "build").glob("*.o"))]
    source = Path(__file__).parent / "interpreter.cc"
    command = ["g++", "-std=c++17", "-fno-rtti", "-Wall", "-Wextra", "-Wconversion", "-Werror", *FLAGS]
    command += [*host.include_flags(), str(source), *objects, *wheel.link_flags(folder), "-o", str(folder / "program")]
    subprocess.run(command, check=True, timeout=300)
    return folder / "program"


def run(
    program: Path, folder: Path, graph: Graph, sample: Sequence[cases.Array], expected: bytes, rounds: int
) -> tuple[int, str]:
    """Exit code and what was printed; ``rounds`` damaged models after the sound one."""
    data = write_graph(graph)
    (folder / "model.tflite").write_bytes(data)
    (folder / "input").write_bytes(b"".join(np.ascontiguousarray(x).tobytes() for x in sample))
    (folder / "output").write_bytes(expected)
    command = [str(program), *(str(folder / name) for name in ("model.tflite", "input", "output"))]
    command += [str(len(graph.inputs)), str(len(graph.outputs)), "1", str(rounds)]
    for operator in graph.operators:
        if CUSTOM in operator.attrs:
            options = operator.attrs[CUSTOM]
            command += [str(data.index(options)), str(len(options))]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr[-3000:]


def test_portable_operators_stay_within_their_memory_whatever_their_options_say(program: Path, tmp_path: Path) -> None:
    model = paths.model("portable")
    expected = b"".join(path.expected[0].tobytes() for path in model.paths)
    code, text = run(program, tmp_path, model.graph, [x[0] for x in model.inputs], expected, rounds=600)
    assert code == 0, text
    refused = int(text.split(" of 600 damaged models refused")[0])
    assert 400 < refused < 600  # names of layers are options too


@pytest.mark.parametrize("name", GENERATED)
def test_generated_layers_likewise(program: Path, tmp_path: Path, name: str) -> None:
    case = cases.case(name)
    inputs = [x[:1] for x in case.inputs()]
    (wanted,) = reference.run_function(case.compiled().quantized["main"], inputs)
    code, text = run(program, tmp_path, case.generated().graph, [x[0] for x in inputs], wanted.tobytes(), rounds=100)
    assert code == 0, text
    assert int(text.split(" of 100 damaged models refused")[0]) > 50
    other = bytes([wanted.tobytes()[0] ^ 1]) + wanted.tobytes()[1:]
    assert run(program, tmp_path, case.generated().graph, [x[0] for x in inputs], other, rounds=0)[0] == 5
