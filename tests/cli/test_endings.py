"""Every way a command can end, as a real process: exit code, one message, no traceback, nothing left behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from rqdkm.report import codec
from tests.cli import fakes
from tests.report.factory import report

_TIMEOUT_S = 60


def _deploy(tmp_path: Path, body: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [*fakes.program(body), "deploy", "m.tflite", "-o", "out", *arguments]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=_TIMEOUT_S)


def test_the_program_is_installed_and_its_help_needs_no_tvm() -> None:
    code = "import sys, rqdkm.cli as c\ntry: c.main()\nexcept SystemExit: pass\nassert 'tvm' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code, "--help"], capture_output=True, text=True, timeout=_TIMEOUT_S)
    assert done.returncode == 0, done.stderr
    program = Path(sys.executable).with_name("rqdkm")
    assert subprocess.run([program, "--version"], capture_output=True, timeout=_TIMEOUT_S).returncode == 0


def test_a_full_disk_is_a_clear_error(tmp_path: Path) -> None:
    done = _deploy(tmp_path, "raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(staging / 'model.c'))")
    assert done.returncode == 2
    assert "No space left on device" in done.stderr and "-> free" in done.stderr
    assert "Traceback" not in done.stderr
    assert fakes.leftovers(tmp_path) == []


def test_a_full_disk_outside_the_output_directory_is_one_too(tmp_path: Path) -> None:
    done = _deploy(tmp_path, "raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), '/somewhere/cache')")
    assert done.returncode == 2
    assert "/somewhere/cache: No space left on device" in done.stderr


def test_a_place_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    """Below /proc nobody can create anything, root included."""
    command = [*fakes.program("pass"), "deploy", "m.tflite", "-o", "/proc/rqdkm/out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=_TIMEOUT_S)
    assert done.returncode == 2
    assert "/proc/rqdkm/out: cannot write" in done.stderr and "Traceback" not in done.stderr


def test_an_output_path_below_a_file_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("a file")
    done = _deploy(tmp_path, "pass")
    assert done.returncode == 2
    assert "is a file" in done.stderr
    assert (tmp_path / "out").read_text() == "a file"


def test_a_directory_that_is_not_ours_is_kept(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("precious")
    done = _deploy(tmp_path, "pass")
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert fakes.leftovers(tmp_path) == ["out"]
    assert (tmp_path / "out" / "thesis.txt").read_text() == "precious"


def test_our_own_directory_is_replaced_and_a_failure_keeps_the_old_one(tmp_path: Path) -> None:
    assert "block" not in _deploy(tmp_path, "(staging / 'first').touch()").stdout  # the stand-in returns no report
    assert "first" in fakes.leftovers(tmp_path / "out")
    assert _deploy(tmp_path, "raise OSError(errno.ENOSPC, 'No space left on device', str(staging))").returncode == 2
    assert "first" in fakes.leftovers(tmp_path / "out")
    _deploy(tmp_path, "(staging / 'second').touch()")
    assert "second" in fakes.leftovers(tmp_path / "out") and "first" not in fakes.leftovers(tmp_path / "out")
    assert fakes.leftovers(tmp_path) == ["out"]


def test_a_bug_is_one_line_and_how_to_see_more(tmp_path: Path) -> None:
    done = _deploy(tmp_path, "raise IndexError('list index out of range')")
    assert done.returncode == 1
    assert done.stderr.splitlines()[-2:] == [
        "error: internal error, IndexError: list index out of range",
        "  -> run again with -v for the traceback",
    ]
    assert "Traceback" not in done.stderr
    assert fakes.leftovers(tmp_path) == []


def test_a_bug_keeps_its_traceback_with_v(tmp_path: Path) -> None:
    done = _deploy(tmp_path, "raise IndexError('list index out of range')", "-v")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "IndexError: list index out of range" in done.stderr


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_cleans_up(tmp_path: Path, number: signal.Signals, code: int) -> None:
    command = [*fakes.program("print('ready', flush=True); time.sleep(60)"), "deploy", "m.tflite", "-o", "out"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        assert any(name.startswith(".out.") for name in fakes.leftovers(tmp_path))
        began = time.monotonic()
        process.send_signal(number)
        _, errors = process.communicate(timeout=_TIMEOUT_S)
    finally:
        process.kill()
    assert time.monotonic() - began < 10
    assert process.returncode == code
    assert "Traceback" not in errors
    assert fakes.leftovers(tmp_path) == []


def test_a_reader_that_goes_away_is_met_with_silence(tmp_path: Path) -> None:
    """As in ``rqdkm report out | head -n 1``: the pipe is closed before anything is written."""
    codec.write(report(), tmp_path / "report.json")
    readable, writable = os.pipe()
    os.close(readable)
    command = [sys.executable, "-m", "rqdkm.cli", "report", "report.json"]
    done = subprocess.run(command, cwd=tmp_path, stdout=writable, stderr=subprocess.PIPE, timeout=_TIMEOUT_S)
    os.close(writable)
    assert done.returncode == 1
    assert done.stderr == b""
