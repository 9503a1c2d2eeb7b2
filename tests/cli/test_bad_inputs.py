"""``rqdkm deploy`` with what users really pass by mistake: code 2, one clear message, nothing left behind."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tflite

from rqdkm.models import zoo
from tests.cli import fakes

_TIMEOUT_S = 300
INT8 = "keyword_spotting"
FLOAT = "image_example1.float32"
_LSH_PROJECTION = 15  # a TFLite operator that no compiler for microcontrollers knows


def deploy(work: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "rqdkm.cli", "deploy", *arguments, "-o", "out"]
    environment = {**os.environ, "TOPHUB_LOCATION": "NONE"}
    return subprocess.run(command, cwd=work, capture_output=True, text=True, timeout=_TIMEOUT_S, env=environment)


def assert_refused(done: subprocess.CompletedProcess[str], work: Path, *words: str) -> None:
    """Exit code 2, one error of at most a few lines that holds ``words``, no output directory, whole or half."""
    assert done.returncode == 2, done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, done.stderr
    message = done.stderr[done.stderr.index("error: ") :]
    assert len(message.splitlines()) <= 6, message
    for word in words:
        assert re.search(word, message, re.IGNORECASE), message
    assert not [name for name in fakes.leftovers(work) if "out" in name]


def with_operator(data: bytes, old: int, new: int) -> bytes:
    """A ``.tflite`` in which builtin operator ``old`` is ``new``."""
    changed = bytearray(data)
    model = tflite.Model.GetRootAsModel(bytearray(data), 0)
    codes = [model.OperatorCodes(i) for i in range(model.OperatorCodesLength())]
    code = next(code for code in codes if max(code.BuiltinCode(), code.DeprecatedBuiltinCode()) == old)
    table = code._tab
    for slot, size in ((4, 1), (10, 4)):  # deprecated_builtin_code: int8, builtin_code: int32
        offset = table.Offset(slot)
        if offset:
            place = table.Pos + offset
            changed[place : place + size] = new.to_bytes(size, "little")
    return bytes(changed)


_BROKEN: dict[str, tuple[Callable[[bytes], bytes], tuple[str, ...]]] = {
    "empty": (lambda data: b"", ("empty",)),
    "one byte": (lambda data: data[:1], ()),
    "truncated": (lambda data: data[: len(data) // 2], ()),
    "last bytes missing": (lambda data: data[:-100], ()),
    "random": (lambda data: np.random.default_rng(1).bytes(len(data)), ()),
    "random behind the magic": (lambda data: data[:8] + np.random.default_rng(2).bytes(len(data) - 8), ()),
    "wrong magic": (lambda data: data[:4] + b"XXXX" + data[8:], ("tflite",)),
    "unsupported operator": (lambda data: with_operator(data, 25, _LSH_PROJECTION), ("LSH_PROJECTION",)),
}


@pytest.mark.parametrize("name", _BROKEN)
def test_a_broken_model_is_refused(name: str, tmp_path: Path) -> None:
    change, words = _BROKEN[name]
    (tmp_path / "broken.tflite").write_bytes(change(zoo.path(INT8).read_bytes()))
    assert_refused(deploy(tmp_path, "broken.tflite"), tmp_path, r"broken\.tflite", *words)


def test_a_model_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert_refused(deploy(tmp_path, "missing.tflite"), tmp_path, r"missing\.tflite", "no such file|not there")


def test_a_directory_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "folder.tflite").mkdir()
    assert_refused(deploy(tmp_path, "folder.tflite"), tmp_path, "directory")


def test_a_float_model_needs_calibration_data(tmp_path: Path) -> None:
    assert_refused(deploy(tmp_path, str(zoo.path(FLOAT))), tmp_path, "--calib")


def _float_input_shape() -> tuple[int, ...]:
    model = tflite.Model.GetRootAsModel(bytearray(zoo.path(FLOAT).read_bytes()), 0)
    graph = model.Subgraphs(0)
    return tuple(int(n) for n in graph.Tensors(graph.Inputs(0)).ShapeAsNumpy())


@pytest.mark.parametrize("name", ["wrong shape", "NaN", "infinite", "no samples", "text", "not a file of arrays"])
def test_bad_calibration_data_is_refused(name: str, tmp_path: Path) -> None:
    shape = (4, *_float_input_shape()[1:])
    good = np.random.default_rng(0).random(shape, np.float32)
    words: tuple[str, ...] = ()
    if name == "wrong shape":
        np.save(tmp_path / "c.npy", good[:, :-1])
        words = ("shape", r"\b" + str(shape[1]) + r"\b")
    elif name == "NaN":
        good[2, 0] = np.nan
        np.save(tmp_path / "c.npy", good)
        words = ("NaN",)
    elif name == "infinite":
        good[2, 0] = np.inf
        np.save(tmp_path / "c.npy", good)
        words = ("inf",)
    elif name == "no samples":
        np.save(tmp_path / "c.npy", good[:0])
    elif name == "text":
        np.save(tmp_path / "c.npy", np.full(shape, "x"))
    else:
        (tmp_path / "c.npy").write_bytes(b"\x93NUMPY" + bytes(range(200)))
    assert_refused(deploy(tmp_path, str(zoo.path(FLOAT)), "--calib", "c.npy"), tmp_path, r"c\.npy", *words)


@pytest.mark.parametrize("board", ["virtual", "none"])
def test_too_little_ram_says_how_much_is_needed_and_where(board: str, tmp_path: Path) -> None:
    """Half of what the model needs is refused; the message names a figure and the layer at the peak."""
    done = deploy(tmp_path, str(zoo.path(INT8)), "--ram", "8K", "--board", board)
    assert_refused(done, tmp_path, r"8,?192|8(\.0)? ?Ki?B", r"\d{2},?\d{3}|\d+(\.\d)? KiB", "layer|peak")


def test_too_little_flash_says_how_much_is_needed(tmp_path: Path) -> None:
    done = deploy(tmp_path, str(zoo.path(INT8)), "--flash", "16K", "--board", "none")
    assert_refused(done, tmp_path, "flash", r"\d{2,},?\d{3}|\d+(\.\d)? KiB")


def test_a_plan_that_is_no_plan_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text("{")
    assert_refused(deploy(tmp_path, str(zoo.path(INT8)), "--plan", "plan.json"), tmp_path, r"plan\.json")


def test_a_model_too_large_for_the_chip_says_how_much_is_needed_and_where(tmp_path: Path) -> None:
    done = deploy(tmp_path, str(zoo.path("rock_paper_scissors")), "--board", "none", "--config", "baseline")
    assert_refused(done, tmp_path, "is the peak", "134,480 of working memory")
    assert "overflow" not in done.stderr
