"""Where the C sources are: inside the installed wheel, or in the checkout beside this package."""

from __future__ import annotations

from pathlib import Path

from rqdkm_tvm.errors import ToolError


def tflm_ops_dir() -> Path:
    """Directory of the chip-side sources (holds ``include/``, ``src/``, ``boards/``)."""
    return find("tflm_ops", Path(__file__).parent / "_c" / "tflm_ops", Path(__file__).parents[2] / "tflm_ops")


def find(what: str, installed: Path, checkout: Path) -> Path:
    """The first of the two directories that exists."""
    for candidate in (installed, checkout):
        if candidate.is_dir():
            return candidate
    raise ToolError(f"the {what} sources are missing", where=str(installed), hint="reinstall the rqdkm wheel")
