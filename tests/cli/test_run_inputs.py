"""The inputs of ``rqdkm run``: what cannot be used is a :class:`DataError` that names the file, never a traceback."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from rqdkm import judge
from rqdkm.cli import app
from rqdkm_tvm.errors import DataError

TENSOR = {"name": "x", "shape": [1, 4], "dtype": "int8", "scale": 0.5, "zero_point": 3}
ONE: dict[str, Any] = {"inputs": [TENSOR]}
TWO: dict[str, Any] = {"inputs": [TENSOR, TENSOR | {"name": "y"}]}

_BAD = {
    "text": np.full((3, 4), "x"),
    "complex": np.full((3, 4), 1 + 1j),
    "no samples": np.zeros((0, 4), np.float32),
    "one number": np.float32(1),
    "wrong shape": np.zeros((3, 5), np.float32),
    "NaN": np.full((3, 4), np.nan),
}


@pytest.mark.parametrize("name", _BAD)
def test_unusable_arrays_are_refused(name: str, tmp_path: Path) -> None:
    np.save(tmp_path / "in.npy", _BAD[name])
    with pytest.raises(DataError, match=r"in\.npy"):
        judge.read_inputs(tmp_path / "in.npy", ONE, 1)


def test_a_truncated_archive_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "in.npz"
    np.savez(path, x=np.zeros((3, 4), np.float32))
    path.write_bytes(path.read_bytes()[:-40])
    with pytest.raises(DataError, match=r"in\.npz"):
        judge.read_inputs(path, ONE, 1)


def test_inputs_with_different_numbers_of_samples_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", x=np.zeros((3, 4)), y=np.zeros((2, 4)))
    with pytest.raises(DataError, match="2 samples"):
        judge.read_inputs(tmp_path / "in.npz", TWO, 5)


def test_labels_are_never_taken_for_inputs(tmp_path: Path) -> None:
    np.savez(tmp_path / "in.npz", labels=np.zeros(3), features=np.ones((3, 4)))
    np.savez(tmp_path / "named.npz", labels=np.zeros(3), a=np.zeros((3, 4)), x=np.ones((3, 4)))
    for name in ("in.npz", "named.npz"):
        (taken,) = judge.read_inputs(tmp_path / name, ONE, None)
        assert taken.shape == (3, 1, 4) and (taken == 5).all()


def test_real_values_are_quantized_and_int8_is_taken_as_it_is(tmp_path: Path) -> None:
    np.save(tmp_path / "real.npy", np.array([[0.0, 1.0, -0.5, 1000.0], [0.25, -0.25, 0.75, -0.75]], np.float32))
    np.save(tmp_path / "int8.npy", np.array([[1, 2, 3, 4]], np.int8))
    (real,) = judge.read_inputs(tmp_path / "real.npy", ONE, None)
    (taken,) = judge.read_inputs(tmp_path / "int8.npy", ONE, None)
    assert real.tolist() == [[[3, 5, 2, 127]], [[4, 2, 5, 1]]]  # ties away from zero, as TFLite's QUANTIZE
    assert taken.tolist() == [[[1, 2, 3, 4]]]


@pytest.mark.parametrize("arguments", [["--samples", "0"], ["--samples", "-1"], ["--seed", "-1"]])
def test_counts_out_of_range_are_wrong_usage(arguments: list[str], tmp_path: Path) -> None:
    assert CliRunner().invoke(app, ["run", str(tmp_path), *arguments]).exit_code == 2
