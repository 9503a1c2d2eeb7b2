"""rqdkm quantize: the int8 file that deploy would have made, and what is no use to it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from rqdkm.cli import app
from rqdkm.models import data, load, oracle, quantize

MODEL = Path(__file__).parents[2] / "examples" / "machinery" / "model.float32.tflite"
runner = CliRunner()


def invoke(*arguments: object) -> tuple[int, str, str]:
    result = runner.invoke(app, [str(a) for a in arguments])
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture()
def calibration(tmp_path: Path) -> Path:
    path = tmp_path / "calib.npz"
    np.savez(path, x=np.random.default_rng(0).uniform(-1, 1, (8, 32, 56, 1)).astype(np.float32))
    return path


def test_the_file_computes_what_deploy_would(calibration: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8.tflite"
    code, text, error = invoke("quantize", MODEL, "--calib", calibration, "-o", out, "-q")
    assert code == 0, error
    assert "minmax, 8 samples" in text and "next     rqdkm deploy" in text
    written, given = load.load(out), load.load(MODEL)
    assert written.is_quantized and not given.is_quantized
    inside = quantize.quantize(given, data.load_data(calibration, given))
    inputs = data.random_inputs(written, 4)
    assert np.array_equal(oracle.reference_outputs(written, inputs)[0], oracle.reference_outputs(inside, inputs)[0])
    assert out.stat().st_size < MODEL.stat().st_size / 3


def test_what_cannot_be_quantized_is_refused_and_nothing_written(calibration: Path, tmp_path: Path) -> None:
    out = tmp_path / "int8.tflite"
    for arguments, reason in (
        ((MODEL.with_name("model.tflite"), "--calib", calibration, "-o", out), "it computes in int8 already"),
        ((MODEL, "--calib", tmp_path / "none.npz", "-o", out), "none.npz"),
        ((MODEL, "--calib", calibration, "-o", out, "--calib-method", "guess"), "'guess' does not exist"),
        ((MODEL, "--calib", calibration, "-o", MODEL), "it would replace the float model"),
    ):
        code, _, error = invoke("quantize", *arguments, "-q")
        assert code == 2 and reason in error and not out.exists()
