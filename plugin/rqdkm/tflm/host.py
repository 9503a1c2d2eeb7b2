"""The operators on this computer: built as a plug-in of the ``tflite-micro`` wheel's interpreter."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from rqdkm.export.library import kernel_sources
from rqdkm_tvm.errors import ToolError
from rqdkm_tvm.sources import tflm_ops_dir

TIMEOUT_S = 600
C_FLAGS = ("-std=gnu99", "-O2", "-fPIC", "-ffp-contract=off")
CXX_FLAGS = ("-std=c++17", "-O2", "-fPIC", "-fno-rtti", "-fno-exceptions")


def operator_sources() -> list[Path]:
    """The C++ sources of the operators, without the plug-in's registration."""
    return sorted(path for path in (tflm_ops_dir() / "tflm").glob("*.cc") if path.name != "python_plugin.cc")


def include_flags() -> list[str]:
    """For the operators, with the declarations that stand in for TFLM's headers."""
    root = tflm_ops_dir()
    folders = (root / "tflm", root / "tflm" / "interface", root / "include", root / "src")
    return [flag for folder in folders for flag in ("-I", str(folder))]


def build_plugin(
    out: Path, layers: Path | None = None, symbol: str = "", *, extra: Sequence[str] = (), compiler: str = "g++"
) -> Path:
    """Compile the operators, the kernels they need and perhaps a model's layers into one shared library.

    Args:
        out: folder for it; created.
        layers: rqdkm_layers.c of an export, which defines the library ``symbol``.
        extra: flags for every compilation and for linking.

    Raises:
        ToolError: there is no compiler, or it failed.
    """
    root = tflm_ops_dir()
    plugin = root / "tflm" / "python_plugin.cc"
    operators = [*operator_sources(), plugin]
    texts = [path.read_text() for path in (*operators, *([layers] if layers else []))]
    kernels = [root / path for path in kernel_sources(root, texts)]
    out.mkdir(parents=True, exist_ok=True)
    objects: list[str] = []
    for source in (*kernels, *([layers] if layers else []), *operators):
        target = out / f"{source.stem}.o"
        c_source = source.suffix == ".c"
        define = [f"-DRQDKM_LAYERS={symbol}"] if source == plugin and layers else []
        tool = "gcc" if c_source else compiler
        flags = C_FLAGS if c_source else CXX_FLAGS
        _run([tool, *flags, *extra, *include_flags(), *define, "-c", str(source), "-o", str(target)])
        objects.append(str(target))
    library = out / "librqdkm_tflm.so"
    _run([compiler, "-shared", *extra, "-o", str(library), *objects])
    return library


def _run(command: Sequence[str]) -> None:
    if shutil.which(command[0]) is None:
        raise ToolError(f"{command[0]} is not installed", hint="Debian: apt install g++")
    done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise ToolError(f"the compiler failed: {done.stderr.strip()[:800]}", where=" ".join(command[-4:]))
