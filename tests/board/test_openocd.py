"""A real board is the same calls: a recorded OpenOCD, and the board behind a serial line (a pseudo-terminal)."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from rqdkm.board.openocd import OpenOcd
from rqdkm.board.run import RunOptions, run_samples
from rqdkm_tvm.errors import ToolError
from tests.board.conftest import FIXTURES, expected, sample

FAKE = str(FIXTURES / "fake_openocd.py")


@pytest.fixture
def log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, host_server: Path) -> Path:
    """Where the fake OpenOCD writes its calls."""
    for name in ("RQDKM_SERIAL", "RQDKM_BAUD", "RQDKM_OPENOCD_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    path = tmp_path / "calls"
    monkeypatch.setenv("FAKE_OPENOCD_LOG", str(path))
    monkeypatch.setenv("FAKE_OPENOCD_BOARD", str(host_server))
    return path


@pytest.fixture
def elf(tmp_path: Path) -> Path:
    path = tmp_path / "fire ware.elf"
    path.write_bytes(b"\x7fELF")
    return path


def calls(log: Path) -> list[list[str]]:
    """Of each call, what it was told to do."""
    told = []
    for line in log.read_text().splitlines():
        words = json.loads(line)
        assert words[:2] == ["-f", "board/stm32f4discovery.cfg"]
        assert words[2::2] == ["-c"] * (len(words) // 2 - 1)
        told.append(words[3::2])
    return told


QUIET = ["gdb_port disabled", "telnet_port disabled", "tcl_port disabled"]


def flash_commands(elf: Path) -> list[str]:
    return [*QUIET, "init", "reset init", f"program {{{elf}}} verify", "reset halt", "shutdown"]


def test_flash_writes_and_verifies(log: Path, elf: Path) -> None:
    OpenOcd(executable=FAKE).flash(elf)
    assert calls(log) == [flash_commands(elf)]


def test_semihosting_run_flashes_then_serves_over_openocds_own_pipes(log: Path, elf: Path) -> None:
    options = RunOptions(openocd=OpenOcd(executable=FAKE))
    samples = [sample(1), sample(2)]
    result = run_samples(elf, "openocd", samples, options)
    for inputs, outputs in zip(samples, result.outputs, strict=True):
        np.testing.assert_array_equal(outputs[0], expected(inputs))
    semihosting = ["arm semihosting enable", "arm semihosting_cmdline rqdkm-io-semihosting"]
    assert calls(log) == [flash_commands(elf), [*QUIET, "init", "reset halt", *semihosting, "resume"]]


@pytest.fixture
def serial_board(host_server: Path) -> Iterator[str]:
    """The board at the end of a serial line; its name."""
    ours, theirs = os.openpty()
    import tty

    tty.setraw(ours)
    process = subprocess.Popen([host_server], stdin=ours, stdout=ours)
    yield os.ttyname(theirs)
    process.terminate()
    process.wait()
    os.close(ours)
    os.close(theirs)


def test_serial_run_flashes_resets_and_serves_over_the_port(log: Path, elf: Path, serial_board: str) -> None:
    options = RunOptions(openocd=OpenOcd(executable=FAKE, serial=serial_board))
    result = run_samples(elf, "openocd", [sample(5)], options)
    np.testing.assert_array_equal(result.outputs[0][0], expected(sample(5)))
    assert calls(log) == [flash_commands(elf), [*QUIET, "init", "reset run", "shutdown"]]


def test_a_board_that_is_not_there_is_one_clear_error(log: Path, elf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_OPENOCD_FAIL", "1")
    with pytest.raises(ToolError, match="Error: open failed") as caught:
        OpenOcd(executable=FAKE).flash(elf)
    assert "connected" in caught.value.hint


def test_the_environment_names_port_speed_and_configuration(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQDKM_SERIAL", "/dev/ttyUSB3")
    monkeypatch.setenv("RQDKM_BAUD", "921600")
    monkeypatch.setenv("RQDKM_OPENOCD_CONFIG", "board/st_nucleo_f4.cfg")
    board = RunOptions().openocd
    assert (board.serial, board.baud, board.config) == ("/dev/ttyUSB3", 921600, "board/st_nucleo_f4.cfg")
    monkeypatch.setenv("RQDKM_BAUD", "fast")
    with pytest.raises(ToolError, match="RQDKM_BAUD: 'fast' is no baud rate"):
        OpenOcd()


def test_missing_openocd_says_how_to_get_it(elf: Path) -> None:
    with pytest.raises(ToolError, match="apt install openocd"):
        OpenOcd(executable="openocd-that-is-not-there").flash(elf)


def test_missing_firmware_and_missing_port_are_clear(log: Path, elf: Path, tmp_path: Path) -> None:
    with pytest.raises(ToolError, match="no such firmware"):
        OpenOcd(executable=FAKE).flash(tmp_path / "none.elf")
    with pytest.raises(ToolError, match="cannot open the serial port"):
        OpenOcd(executable=FAKE, serial="/dev/none").start(elf)
    assert not log.exists()


def test_without_a_probe_the_real_openocd_gets_as_far_as_looking_for_it(elf: Path) -> None:
    with pytest.raises(ToolError) as caught:
        OpenOcd().flash(elf)
    assert "open failed" in caught.value.what or "LIBUSB" in caught.value.what or "unable" in caught.value.what.lower()


def test_the_real_openocd_has_the_less_common_commands() -> None:
    quiet = [word for command in QUIET for word in ("-c", command)]
    command = ["openocd", "-f", "board/stm32f4discovery.cfg", *quiet, "-c", "help", "-c", "shutdown"]
    listed = subprocess.run(command, capture_output=True, text=True, timeout=60).stderr
    for name in ("arm semihosting ", "arm semihosting_cmdline ", "program <filename>"):
        assert name in listed, name
