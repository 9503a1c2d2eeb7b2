"""The doctor finds what is there, and says how to get what is not."""

from __future__ import annotations

import json
import os
import stat
import sys
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rqdkm import doctor
from rqdkm.cli import app
from rqdkm.doctor import Check


def _tool(directory: Path, name: str, output: str, code: int = 0) -> None:
    """A program that prints ``output`` whatever it is asked."""
    directory.mkdir(exist_ok=True)
    path = directory / name
    path.write_text(f"#!/bin/sh\ncat <<'END'\n{output}\nEND\nexit {code}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory that is all of PATH, but for the system's own ``sh`` and ``cat``."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("sh", "cat"):
        (folder / name).symlink_to(f"/bin/{name}")
    monkeypatch.setenv("PATH", str(folder))
    return folder


@pytest.mark.parametrize(
    ("check", "fix"),
    [
        (doctor.arm_gcc, "apt-get install -y gcc-arm-none-eabi libnewlib-arm-none-eabi"),
        (doctor.cmake, "apt-get install -y cmake"),
        (doctor.ninja_or_make, "apt-get install -y ninja-build"),
        (doctor.qemu, "apt-get install -y qemu-system-arm"),
        (doctor.openocd, "apt-get install -y openocd"),
        (doctor.host_cc, "apt-get install -y gcc libc6-dev"),
    ],
)
def test_a_missing_tool_comes_with_the_command_that_gets_it(
    check: doctor.Callable[[], Check], fix: str, tools: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("CC", raising=False)
    found = check()
    assert (found.state, found.fix) == ("missing", fix)


@pytest.mark.parametrize(
    ("version", "state"), [("3.25.1", "ok"), ("3.16", "ok"), ("3.9.6", "too old"), ("2.8", "too old")]
)
def test_versions_are_compared_as_numbers(version: str, state: str, tools: Path) -> None:
    _tool(tools, "cmake", f"cmake version {version}")
    assert doctor.cmake().state == state


def test_a_compiler_without_newlib_is_not_enough(tools: Path) -> None:
    _tool(tools, "arm-none-eabi-gcc", "12.2.1")  # repeats no path when asked for libc.a
    found = doctor.arm_gcc()
    assert found.state == "missing" and "newlib" in found.detail


def test_a_tool_that_crashes_is_reported_with_its_words(tools: Path) -> None:
    _tool(tools, "cmake", "cmake: error while loading shared libraries", code=127)
    found = doctor.cmake()
    assert found.state == "failed" and "shared libraries" in found.detail


def test_a_qemu_without_our_machine_is_not_enough(tools: Path) -> None:
    _tool(tools, "qemu-system-arm", "QEMU emulator version 7.2.22\nlm3s6965evb")
    found = doctor.qemu()
    assert found.state == "failed" and "netduinoplus2" in found.detail
    assert not found.needed


def test_a_tvm_without_relay_is_named_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What pip install apache-tvm gives today."""
    package = tmp_path / "tvm"
    package.mkdir()
    (package / "__init__.py").write_text(
        "__version__ = '0.25.0'\nclass runtime: pass\ndef get_global_func(name, allow_missing): return None\n"
    )
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    found = doctor.tvm()
    assert found.state == "failed"
    assert "0.25.0" in found.detail and "no Relay" in found.detail
    assert "pip uninstall -y apache-tvm" in found.fix and "xtc-tvm-python-bindings" in found.fix


def test_a_cache_that_cannot_be_written_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RQDKM_CACHE", "/proc/rqdkm")
    found = doctor.cache()
    assert found.state == "failed" and "RQDKM_CACHE" in found.fix


@pytest.mark.parametrize(("needed", "code"), [(True, 1), (False, 0)])
def test_only_needed_checks_decide_the_exit_code(needed: bool, code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    checks = (
        ("a", lambda: Check("a", "ok", "1.0", True)),
        ("b", lambda: Check("b", "missing", "no b", needed, "get b")),
    )
    monkeypatch.setattr(doctor, "_CHECKS", checks)
    result = CliRunner().invoke(app, ["doctor"])
    assert result.exit_code == code
    assert "get b" in result.stdout
    assert ("optional" in result.stdout) is not needed
    as_json = json.loads(CliRunner().invoke(app, ["doctor", "--json"]).stdout)
    assert as_json["ready"] is not needed
    assert as_json["checks"][1] == {
        "name": "b", "state": "missing", "detail": "no b", "needed": needed, "fix": "get b", "purpose": "",
    }  # fmt: skip


def test_the_table_says_what_an_optional_tool_is_for() -> None:
    console = Console(width=100)
    with console.capture() as capture:
        console.print(doctor.render([Check("qemu", "missing", "not in PATH", False, "get it", "--board qemu")]))
    assert "needed for --board qemu" in capture.get()


def test_this_machine_can_run_the_tests() -> None:
    """Every check runs for real here; those that a deployment needs are fine wherever these tests pass."""
    found = {check.name: check for check in doctor.examine()}
    assert found["python"].state == "ok" and found["python"].detail.startswith(f"{sys.version_info[0]}.")
    wrong = [f"{c.name}: {c.state}, {c.detail}" for c in found.values() if c.needed and c.state != "ok"]
    assert not wrong
