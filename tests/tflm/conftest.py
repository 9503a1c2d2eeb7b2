"""One plug-in for all tests of a run: the operators, and generated code of every layer that they use."""

from __future__ import annotations

import fcntl
from pathlib import Path

import pytest

from rqdkm.tflm import generated, host
from tests.tflm import cases, paths


@pytest.fixture(scope="session")
def plugin(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """The library for the wheel's interpreter; workers of one run share it."""
    root = tmp_path_factory.getbasetemp()
    folder = (root if worker_id == "master" else root.parent) / "tflm-plugin"
    folder.mkdir(exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = folder / "librqdkm_tflm.so"
        if not found.is_file():
            codes = {code.code: code for name in cases.CASES for code in cases.case(name).generated().codes}
            codes |= paths.model("generated").codes
            source = folder / "rqdkm_layers.c"
            source.write_text(generated.source(list(codes.values()), "the tests", "rqdkm_layers_tests"))
            host.build_plugin(folder / "build", source, "rqdkm_layers_tests", extra=["-O0"])
            (folder / "build" / found.name).rename(found)
    return found
