"""The wheel carries everything: installed into a fresh environment, it deploys far away from this checkout."""

from __future__ import annotations

import json
import os
import shutil
import site
import subprocess
import sys
import venv
import zipfile
from pathlib import Path

import pytest

from rqdkm.models import zoo

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("wheel")
    command = [
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "--quiet",
        "--no-deps",
        "--no-build-isolation",
        "-w",
        str(out),
        ".",
    ]
    subprocess.run(command, cwd=ROOT, check=True, timeout=300)
    (found,) = out.glob("rqdkm-*.whl")
    return found


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A virtual environment with the wheel; the dependencies come from the one the tests run in.

    A ``.pth`` line makes them importable without running that environment's own ``.pth`` files, so its editable
    install of this checkout stays invisible.
    """
    home = tmp_path_factory.mktemp("environment")
    venv.create(home, with_pip=False)
    packages = next((home / "lib").glob("python3*/site-packages"))
    command = [sys.executable, "-m", "pip", "--python", str(home / "bin" / "python"), "install", "--quiet"]
    subprocess.run([*command, "--no-deps", "--no-index", str(wheel)], check=True, timeout=300)
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()) + "\n")
    return home


def test_the_wheel_holds_sources_and_licences_and_no_rubbish(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for needed in (
        "rqdkm_tvm/_c/tflm_ops/include/rqdkm/kernels.h",
        "rqdkm_tvm/_c/tflm_ops/boards/stm32f407/stm32f407.ld",
        "rqdkm_tvm/_c/tflm_ops/tflm/rqdkm_tflm.h",
        "rqdkm/_vboard/src/main.c",
        "rqdkm/_vboard/LICENSE",
    ):
        assert needed in names
    assert any(name.endswith("dist-info/licenses/LICENSE") for name in names)
    assert not [name for name in names if name.endswith((".pyc", ".o", ".elf", ".tflite", ".so"))]


def test_deploy_works_outside_the_checkout(environment: Path, tmp_path: Path) -> None:
    shutil.copy(zoo.path("keyword_spotting"), tmp_path / "model.tflite")
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "RQDKM_CACHE")}
    clean |= {"HOME": str(tmp_path / "home"), "TOPHUB_LOCATION": "NONE"}
    clean.pop("XDG_CACHE_HOME", None)

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, cwd=tmp_path, env=clean, capture_output=True, text=True, timeout=600)

    python, rqdkm = str(environment / "bin" / "python"), str(environment / "bin" / "rqdkm")
    where = run(python, "-c", "import rqdkm, rqdkm_tvm; print(rqdkm.__file__, rqdkm_tvm.__file__)")
    assert where.stdout.count(str(environment)) == 2, where.stderr

    done = run(rqdkm, "deploy", "model.tflite", "-o", "out", "--samples", "2")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["exactness"]["mismatches"] == 0
    assert report["totals"]["cycles"] > 0
    # the virtual board was built below the home directory, not in anybody's checkout
    assert list((tmp_path / "home" / ".cache" / "rqdkm").rglob("rqdkm-vboard*"))
    assert str(ROOT) not in (tmp_path / "out" / "report.json").read_text()

    exported = run(rqdkm, "tflm", "export", "model.tflite", "-o", "tflm", "--check", "--samples", "2")
    assert exported.returncode == 0, exported.stderr
    assert "every byte equal" in exported.stdout
