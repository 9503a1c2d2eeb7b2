"""``rqdkm tflm export``: what it writes, that it builds where users build, and how it refuses."""

from __future__ import annotations

import inspect
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest
from flatbuffers import flexbuffers
from typer.testing import CliRunner

from rqdkm.cli import app
from rqdkm.models import custom_options as options
from rqdkm.models import load, morph_file, oracle, zoo
from rqdkm.options import DeployOptions
from rqdkm.tflm import host, pipeline
from rqdkm_tvm.errors import RqdkmError, UnsupportedOperatorError
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.sources import tflm_ops_dir
from rqdkm_tvm.tvm_import import relay
from tests.passes import graphs
from tests.tflm import cases, wheel

ROOT = Path(__file__).parents[2]
MODEL = zoo.path("anomaly_detection")
M4 = ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")


def export(*arguments: str) -> int:
    return CliRunner().invoke(app, ["tflm", "export", *arguments]).exit_code


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("export") / "out"
    assert export(str(MODEL), "-o", str(out), "--check", "--samples", "3", "-q") == 0
    return out


def test_everything_is_there_and_described(exported: Path) -> None:
    names = {path.name for path in exported.iterdir()}
    assert {"model.tflite", "rqdkm_layers.c", "rqdkm_ops.h", "rqdkm.cmake", "plan.json", "metadata.json"} <= names
    described = json.loads((exported / "metadata.json").read_text())
    assert described["generated_code"] is True
    assert described["model_bytes"] == (exported / "model.tflite").stat().st_size
    (info,) = described["inputs"]
    assert info["shape"] == [1, 5, 128, 1] and info["dtype"] == "int8"
    assert set(described["operators"]) >= {"RQDKM_FULLY_CONNECTED"}


def test_the_same_model_gives_the_same_files(exported: Path, tmp_path: Path) -> None:
    assert export(str(MODEL), "-o", str(tmp_path / "again"), "-q") == 0
    for name in ("model.tflite", "rqdkm_layers.c", "rqdkm_ops.h", "metadata.json"):
        assert (exported / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_a_program_of_the_user_s_builds_with_it_and_runs(exported: Path, tmp_path: Path) -> None:
    """The example, with the wheel's interpreter as TFLM's library, and our declarations for its headers."""
    flags = ";".join(wheel.link_flags(tmp_path))
    build = tmp_path / "build"
    steps = [
        ["cmake", "-S", str(ROOT / "examples" / "tflm"), "-B", str(build), f"-DEXPORTED={exported}",
         f"-DTFLM_LIBRARY={flags}", "-DRQDKM_WERROR=ON", "-DMODEL=anomaly_detection"],
        ["cmake", "--build", str(build), "--parallel", "1"],
    ]  # fmt: skip
    for step in steps:
        done = subprocess.run(step, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    inputs = np.random.default_rng(0).integers(-128, 128, (5, 5, 128, 1)).astype(np.int8)
    done_run = subprocess.run([str(build / "program")], input=inputs.tobytes(), capture_output=True, check=False)
    assert done_run.returncode == 0
    (expected,) = oracle.reference_outputs(load.load(MODEL), [inputs])
    assert done_run.stdout == expected.tobytes()


def test_operators_and_generated_layers_compile_for_the_cortex_m4_without_warnings(tmp_path: Path) -> None:
    warnings = ("-Wall", "-Wextra", "-Wconversion", "-Werror")
    common = (*M4, "-O2", *warnings, *host.include_flags(), "-c", "-o", str(tmp_path / "object.o"))
    for source in host.operator_sources():
        command = ["arm-none-eabi-g++", "-std=c++17", "-fno-rtti", "-fno-exceptions", *common, str(source)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    from rqdkm.tflm import generated

    layers = tmp_path / "rqdkm_layers.c"
    layers.write_text(generated.source(cases.case("random").generated().codes, "random", "rqdkm_layers_random"))
    command = ["arm-none-eabi-gcc", "-std=gnu99", *common, "-Wno-sign-conversion", str(layers)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_a_portable_export_has_no_generated_code(tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert export(str(MODEL), "-o", str(out), "--portable", "-q") == 0
    assert not (out / "rqdkm_layers.c").exists()
    assert "Register_RQDKM_FULLY_CONNECTED()" in (out / "rqdkm_ops.h").read_text()
    assert json.loads((out / "metadata.json").read_text())["generated_code"] is False


def test_options_hold_what_was_put_in_and_keys_are_those_of_the_operators() -> None:
    encoded = options.encode("conv", {"stride": [1, 2], "code": -(1 << 63), "clamp": [-128, 127]})
    found = flexbuffers.Loads(encoded)
    assert found == {
        "version": options.version(),
        "layer": "conv",
        "stride": [1, 2],
        "code": -(1 << 63),
        "clamp": [-128, 127],
    }
    header = (tflm_ops_dir() / "tflm" / "option_keys.h").read_text()
    keys = options.keys()
    assert len(keys) == header.count("KEY(") == len(set(keys))
    code = "".join(path.read_text() for path in (tflm_ops_dir() / "tflm").iterdir() if path.is_file())
    readers = inspect.getsource(morph_file)  # of files before any export
    assert not [key for key in keys if f"Key::{key}" not in code and f'"{key}"' not in readers]  # nobody reads it
    with pytest.raises(KeyError):
        options.encode("conv", {"stried": [1, 1]})


REFUSED = {
    "no such file": (["missing.tflite"], "missing.tflite"),
    "a float model without data": ([str(zoo.path("image_example1.float32"))], "pass --calib"),
    "patches without code": (
        [str(cases.MACHINERY / "model.tflite"), "--portable", "--patch", "4x1"],
        "patch stages exist as generated code only",
    ),
    "an unknown configuration": ([str(MODEL), "--config", "tiny"], "available: int8, baseline, rq"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_cannot_be_exported_is_one_message_and_leaves_nothing(what: str, tmp_path: Path) -> None:
    arguments, reason = REFUSED[what]
    out = tmp_path / "out"
    done = CliRunner().invoke(app, ["tflm", "export", *arguments, "-o", str(out), "-q"])
    assert done.exit_code == 2
    assert reason in done.output
    assert "Traceback" not in done.output
    assert not list(tmp_path.iterdir())


def test_a_failed_check_says_so_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "build_plugin", lambda *_given: Path("unused"))
    wrong = lambda _model, _graph, inputs, _plugin: [oracle.reference_outputs(MODEL, inputs)[0] ^ 1]  # noqa: E731
    monkeypatch.setattr(pipeline, "run", wrong)
    with pytest.raises(RqdkmError, match="640 output bytes differ"):
        pipeline.export(DeployOptions(MODEL, tmp_path / "out", board="none", samples=1), check=True)
    assert not list(tmp_path.iterdir())


def test_an_operator_that_is_left_to_tvm_is_named() -> None:
    module = graphs.module(relay.transpose(graphs.conv2d(graphs.image(), 8), (0, 2, 1, 3)))
    case = cases.Case(module, Plan(), None, ())
    for convert in (case.generated, case.portable):
        with pytest.raises(UnsupportedOperatorError, match="transpose has no kernel"):
            convert()
