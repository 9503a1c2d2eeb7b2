"""A disk that fills up while a tree is copied: one error in the system's words, nothing left behind."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from rqdkm_tvm.errors import RqdkmError
from rqdkm_tvm.files import staged_directory


def test_copying_a_tree_onto_a_full_disk_is_one_short_error(tmp_path: Path) -> None:
    failures = [(f"a{i}.c", f"b{i}.c", f"[Errno 28] No space left on device: 'b{i}.c'") for i in range(9)]
    with pytest.raises(RqdkmError) as caught, staged_directory(tmp_path / "out"):
        raise shutil.Error(failures)
    assert caught.value.what == "cannot write: No space left on device"
    assert "free some disk space" in caught.value.hint
    assert not list(tmp_path.iterdir())
