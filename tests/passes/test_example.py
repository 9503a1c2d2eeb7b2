"""The example of somebody else's TVM build runs as its docstring says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[2] / "examples"


def test_passes_work_one_by_one_in_somebody_elses_build(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "passes_in_your_build.py"), str(tmp_path / "out")],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "'rqdkm.conv2d': 1, 'rqdkm.max_pool2d': 1, 'transpose': 1" in done.stdout
    assert "left to TVM:        ['transpose']" in done.stdout
    assert {p.name for p in (tmp_path / "out").iterdir()} == {"tvm.c", "layers.c"}


def test_mixed_precision_passes_work_one_by_one() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "mixed_precision_passes.py")],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = {line.split(":")[0]: line for line in done.stdout.splitlines()}
    assert "A4" not in lines["before"]
    assert "W4" not in lines["before"]
    assert "A4" in lines["after"]
    assert "W4" in lines["after"] or "/4" in lines["after"]
    assert "ref" not in lines["kernels"]
    used, budget = (int(word) for word in lines["constants"].split() if word.isdigit())
    assert 0 < used <= budget
    assert "called by TVM's C" in lines["layers.c"]


def test_patch_passes_work_one_by_one() -> None:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / "patch_passes.py")],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = {line.split(":")[0]: line for line in done.stdout.splitlines()}
    assert "((1,), (1,), (1,), (0,))" in lines["classes"]  # the glare is in the lower quarter
    assert "as the layers patches 1" in lines["branch 0"]
    bits = [int(word.strip("},")) for word in lines["branch 1"].split("{")[1].split() if word.strip("},").isdigit()]
    assert bits and min(bits[:-1]) < 8
    before, after = (int(word) for word in lines["feature maps"].split() if word.isdigit())
    assert after < before
    used, budget = (int(word) for word in lines["arena"].split() if word.isdigit())
    assert 0 < used <= budget < before
    assert float(lines["BitOPs"].split()[1]) > 1.2
    assert lines["kernels"].count("'patch_stage'") == 1
    assert "called by TVM's C" in lines["layers.c"]
