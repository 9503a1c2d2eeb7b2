"""The tflite-micro wheel's interpreter as a library that C++ programs link.

It is an extension module, so it wants symbols of Python, which nothing here calls: a library of dummies has them.
"""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path


def runtime_library() -> Path:
    """_runtime.so of the wheel, without importing it."""
    spec = importlib.util.find_spec("tflite_micro")
    assert spec is not None and spec.origin is not None
    return Path(spec.origin).parent / "python" / "tflite_micro" / "_runtime.so"


def link_flags(folder: Path) -> list[str]:
    """Flags that link the interpreter; builds the dummies in ``folder``."""
    runtime = runtime_library()
    listed = subprocess.run(["nm", "-D", "--undefined-only", str(runtime)], capture_output=True, text=True, check=True)
    names = sorted(
        {line.split()[-1] for line in listed.stdout.splitlines() if line.split()[-1].lstrip("_")[:2] == "Py"}
    )
    source, dummies = folder / "python_dummies.c", folder / "libpython_dummies.so"
    source.write_text("".join(f"char {name}[64];\n" for name in names))
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", str(dummies), str(source)], check=True)
    # as flags: CMake would look for a library without a name of its own as lib_runtime.so
    places = [place for path in (runtime, dummies) for place in (f"-L{path.parent}", f"-l:{path.name}")]
    return [*places, f"-Wl,-rpath,{runtime.parent}:{dummies.parent}"]
