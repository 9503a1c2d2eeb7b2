"""The C library on its own: plain CMake, warnings as errors, sanitizers, its C tests through ctest."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_host_build_and_ctest(tmp_path: Path) -> None:
    build = tmp_path / "build"
    options = ["-DRQDKM_WERROR=ON", "-DRQDKM_SANITIZE=ON", "-DCMAKE_BUILD_TYPE=Debug"]
    for command in (
        ["cmake", "-S", str(ROOT), "-B", str(build), *options],
        ["cmake", "--build", str(build), "--parallel", "2"],
        ["ctest", "--test-dir", str(build), "--output-on-failure", "--no-tests=error"],
    ):
        done = subprocess.run(command, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert "100% tests passed" in done.stdout
