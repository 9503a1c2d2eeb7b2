"""A stand-in for the pipeline: the command line's own behaviour is tested without compiling anything."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def install(monkeypatch: pytest.MonkeyPatch, **functions: Callable[..., Any]) -> ModuleType:
    """Put a ``rqdkm.pipeline`` with these functions in place of the real one."""
    import rqdkm

    module = ModuleType("rqdkm.pipeline")
    module.ELF = "firmware.elf"  # type: ignore[attr-defined]
    for name, function in functions.items():
        setattr(module, name, function)
    monkeypatch.setitem(sys.modules, "rqdkm.pipeline", module)
    monkeypatch.setattr(rqdkm, "pipeline", module, raising=False)
    monkeypatch.delitem(sys.modules, "rqdkm.bench", raising=False)  # it holds on to the pipeline it was imported with
    monkeypatch.delattr(rqdkm, "bench", raising=False)
    return module


# A whole program for a subprocess: `deploy` does what {body} says, inside a staged output directory.
PROGRAM = """
import errno, os, sys, time, types
import rqdkm
from rqdkm_tvm.files import staged_directory

def deploy(options, progress):
    progress("working")
    with staged_directory(options.out, replace=options.force) as staging:
        (staging / "half").write_text("written")
        {body}

module = types.ModuleType("rqdkm.pipeline")
module.deploy = deploy
sys.modules["rqdkm.pipeline"] = rqdkm.pipeline = module
from rqdkm.cli import main
main()
"""


def program(body: str) -> list[str]:
    return [sys.executable, "-c", PROGRAM.format(body=body)]


def leftovers(directory: Path) -> list[str]:
    """Everything in a directory, hidden files included."""
    return sorted(path.name for path in directory.iterdir())
