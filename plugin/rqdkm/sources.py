"""Where the data files of the product are, and where its caches go."""

from __future__ import annotations

import os
from pathlib import Path

from rqdkm_tvm.sources import find


def vboard_dir() -> Path:
    """Directory of the virtual board's C sources."""
    return find("virtual board", Path(__file__).parent / "_vboard", Path(__file__).parents[1] / "vboard")


def cache_dir() -> Path:
    """Directory for downloads and built tools.

    ``RQDKM_CACHE`` if set; ``.cache`` of the checkout when run from one; otherwise ``~/.cache/rqdkm``.
    """
    configured = os.environ.get("RQDKM_CACHE")
    if configured:
        return Path(configured)
    checkout = Path(__file__).parents[2]
    if (checkout / "pyproject.toml").is_file() and (checkout / "tflm_ops").is_dir():
        return checkout / ".cache"
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "rqdkm"
