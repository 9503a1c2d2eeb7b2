"""Streams to child processes end when told to, keep messages, and never block for ever."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from rqdkm.board import qemu
from rqdkm.board.stream import ProcessStream, StreamClosedError
from rqdkm_tvm.errors import BoardError, ToolError


def python(code: str, **options: float) -> ProcessStream:
    return ProcessStream([sys.executable, "-c", code], **options)


def read_all(stream: ProcessStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += stream.read(size - len(data), 10)
    return data


def test_bytes_go_there_and_back() -> None:
    stream = python("import sys\nwhile d := sys.stdin.buffer.read1(): sys.stdout.buffer.write(d); sys.stdout.flush()")
    data = bytes(range(256)) * 10
    stream.write(data)
    assert read_all(stream, len(data)) == data
    assert stream.close().code == 0
    assert stream.close().code == 0  # again


def test_read_gives_up_after_the_timeout() -> None:
    stream = python("import sys; sys.stdin.read()")
    started = time.monotonic()
    assert stream.read(1, 0.2) == b""
    assert 0.15 < time.monotonic() - started < 30
    stream.close()


def test_the_end_of_the_program_is_an_error_with_its_last_message() -> None:
    stream = python("import sys; print('first\\nno such luck', file=sys.stderr); sys.exit(9)")
    with pytest.raises(StreamClosedError, match="no such luck"):
        stream.read(1, 20)
    ended = stream.close()
    assert ended.code == 9
    assert ended.messages == "first\nno such luck\n"


def test_messages_are_kept_however_many() -> None:
    stream = python("import sys; sys.stderr.write('x' * 300000 + 'end')")
    with pytest.raises(StreamClosedError):
        stream.read(1, 20)
    assert stream.close().messages.endswith("xend")


def test_a_program_that_takes_no_input_is_an_error() -> None:
    stream = python("import time; time.sleep(60)", write_timeout_s=0.3, grace_s=0.1)
    with pytest.raises(BoardError, match="takes no input"):
        stream.write(bytes(1_000_000))
    assert stream.close().code == -15


def test_close_ends_a_stubborn_program_and_its_children() -> None:
    code = (
        "import os, signal, subprocess, sys, time\n"
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "child = subprocess.Popen(['sleep', '60'])\n"
        "print(child.pid, flush=True)\n"
        "time.sleep(60)\n"
    )
    stream = python(code, grace_s=0.1)
    pid = int(stream.read(20, 10))
    assert stream.close().code == -9
    deadline = time.monotonic() + 5
    while _alive(pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _alive(pid)


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_a_program_that_is_not_there_is_a_tool_error() -> None:
    with pytest.raises(ToolError, match="cannot start"):
        ProcessStream(["/no/such/program"])


def test_missing_qemu_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="apt install qemu-system-arm"):
        qemu.start(tmp_path / "x.elf")


def test_qemu_ends_by_itself_when_its_time_is_over(firmware: Path) -> None:
    stream = qemu.start(firmware, timeout_s=1)
    with pytest.raises(StreamClosedError):
        while True:
            stream.read(100, 10)
    assert stream.close().code in (124, -9)  # of timeout(1): QEMU takes no SIGTERM while the guest waits for input
