"""What built an image: versions of the tools that shape it, and the compiler flags of the kernels."""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
from pathlib import Path

import tvm

from rqdkm import __version__
from rqdkm.report.schema import Toolchain


def describe(project_dir: Path) -> Toolchain:
    """Read the compile commands of ``project_dir``/build, which must have been built."""
    command = _layers_command(project_dir / "build" / "compile_commands.json")
    versions = {"rqdkm": __version__, "tvm": str(tvm.__version__)}
    if command:
        versions["gcc"] = _version([command[0], "-dumpfullversion"])
    cmake = shutil.which("cmake")
    if cmake:
        versions["cmake"] = _version([cmake, "--version"]).removeprefix("cmake version ")
    return Toolchain(versions=versions, flags=tuple(_flags(command)))


def _layers_command(database: Path) -> list[str]:
    """The command that compiled layers.c: the kernels are instantiated there."""
    if not database.is_file():
        return []
    entries = json.loads(database.read_text())
    return next((shlex.split(e["command"]) for e in entries if Path(e["file"]).name == "layers.c"), [])


def _flags(command: list[str]) -> list[str]:
    """Options of the compiler without definitions, include paths, file names and anything that names a directory."""
    kept = []
    skip = False
    for word in command[1:]:
        if skip or word in ("-o", "-c", "-isystem"):
            skip = not skip and word in ("-o", "-c", "-isystem")
            continue
        if word.startswith("-") and not word.startswith(("-D", "-I", "-M", "-ffile-prefix-map")):
            kept.append(word)
    return kept


def _version(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    lines = done.stdout.strip().splitlines()
    return lines[0] if lines else "unknown"
