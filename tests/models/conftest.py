"""Fixtures of the model tests: everything is seeded, nothing needs more than the cached zoo."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

os.environ.setdefault("TOPHUB_LOCATION", "NONE")

from rqdkm.models import load, zoo
from rqdkm.models.load import LoadedModel


@pytest.fixture(scope="session")
def loaded() -> Callable[[str], LoadedModel]:
    """Zoo model by name, loaded once."""
    cache: dict[str, LoadedModel] = {}

    def get(name: str) -> LoadedModel:
        if name not in cache:
            cache[name] = load.load(zoo.path(name))
        return cache[name]

    return get


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str, bytes], Path]:
    """Write bytes to a file in a fresh directory."""

    def put(name: str, data: bytes) -> Path:
        path = tmp_path / name
        path.write_bytes(data)
        return path

    return put
