"""Building the program on first use, and starting it as a byte stream."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rqdkm.board import virtual
from rqdkm.board.stream import StreamClosedError
from rqdkm_tvm.errors import ToolError

from .conftest import Bench

ECHO = """
  ldr r4, =USART1
1: ldr r0, [r4]
  lsls r1, r0, #26
  bpl 1b
  ldr r0, [r4, #4]
  str r0, [r4, #4]
  cmp r0, #0x7a
  bne 1b
  movs r0, #9
  b finish
"""


def test_many_processes_build_it_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQDKM_CACHE", str(tmp_path))
    code = "from rqdkm.board.virtual import ensure_built; print(ensure_built())"
    processes = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) for _ in range(3)]
    paths = {process.communicate(timeout=240)[0].strip() for process in processes}
    assert len(paths) == 1
    program = Path(paths.pop())
    assert program.parent == tmp_path / "vboard"
    assert sorted(path.name for path in program.parent.iterdir()) == sorted([program.name, "build.lock"])
    assert subprocess.run([program, "--version"], capture_output=True, check=True).stdout


def test_changed_sources_build_a_new_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "vboard" / "src"
    source.mkdir(parents=True)
    (source / "main.c").write_text("int main(void) { return 3; }\n")
    monkeypatch.setenv("RQDKM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(virtual, "vboard_dir", lambda: tmp_path / "vboard")
    first = virtual.ensure_built()
    assert virtual.ensure_built() == first
    assert subprocess.run([first], check=False).returncode == 3
    (source / "main.c").write_text("int main(void) { return 4; }\n")
    assert virtual.ensure_built() != first


def test_a_compiler_error_is_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "src").mkdir()
    (tmp_path / "src" / "main.c").write_text("int main(void) { return nonsense; }\n")
    monkeypatch.setenv("RQDKM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(virtual, "vboard_dir", lambda: tmp_path)
    with pytest.raises(ToolError, match="does not compile") as caught:
        virtual.ensure_built()
    assert "nonsense" in caught.value.hint
    assert [path.name for path in (tmp_path / "cache" / "vboard").iterdir()] == ["build.lock"]


def test_a_missing_compiler_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    with pytest.raises(ToolError, match="no C compiler") as caught:
        virtual.ensure_built()
    assert "apt-get install gcc" in caught.value.hint


def test_a_missing_unicorn_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "unicorn" else real(name, *rest)
    )
    with pytest.raises(ToolError, match="unicorn") as caught:
        virtual.ensure_built()
    assert "pip install unicorn" in caught.value.hint


def test_an_unusable_cache_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RQDKM_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(ToolError, match="cannot write") as caught:
        virtual.ensure_built()
    assert "RQDKM_CACHE" in caught.value.hint


def test_a_stream_to_the_board(board: Bench, tmp_path: Path) -> None:
    options: dict[str, Any] = {name: tmp_path / name for name in ("stats", "profile", "folded")}
    stream = virtual.start(board.assemble(ECHO), timeout_s=60, max_cycles=10**9, strict_clock=True, **options)
    stream.write(b"hello")
    received = b""
    while len(received) < 5:
        received += stream.read(5 - len(received), 10.0)
    assert received == b"hello"
    assert stream.read(1, 0.05) == b""
    stream.write(b"z")
    assert stream.read(10, 10.0) == b"z"
    with pytest.raises(StreamClosedError):
        stream.read(1, 10.0)
    assert stream.close().code == 9
    assert json.loads((tmp_path / "stats").read_text())["exit_reason"] == "exit 9"
    assert json.loads((tmp_path / "profile").read_text())["functions"]
    assert (tmp_path / "folded").read_text()


def test_closing_the_stream_ends_the_program(board: Bench) -> None:
    stream = virtual.start(board.assemble(ECHO), functional=True)
    stream.write(b"a")
    assert stream.read(1, 10.0) == b"a"
    ended = stream.close()
    assert ended.code == virtual.EXIT_LIMIT and "input closed" in ended.messages


def test_a_bad_image_is_explained(tmp_path: Path) -> None:
    (tmp_path / "x.elf").write_text("no firmware")
    stream = virtual.start(tmp_path / "x.elf")
    with pytest.raises(StreamClosedError, match="ended") as caught:
        stream.read(1, 10.0)
    assert "not an ELF file" in caught.value.hint
    assert stream.close().code == virtual.EXIT_USAGE
