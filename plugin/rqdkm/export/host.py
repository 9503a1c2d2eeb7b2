"""The same C on this computer: fast runs of many samples."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm.export.project import cmake_build
from rqdkm_tvm.errors import DataError, ToolError

Array = npt.NDArray[Any]
TIMEOUT_S = 1800


def build_host_runner(project_dir: Path | str, *, kernel: int | None = None) -> Path:
    """Compile a project for this computer.

    Args:
        kernel: that morphing layers run; None: the safe one.

    Returns:
        The program: whole samples on stdin, outputs on stdout.

    Raises:
        ToolError: CMake or the C compiler is missing or failed.
    """
    project = Path(project_dir)
    folder = project / ("build-host" if kernel is None else f"build-host-{kernel}")
    cmake_build(project, folder, ["-DRQDKM_HOST=ON", *([] if kernel is None else [f"-DRQDKM_KERNEL={kernel}"])])
    return folder / "runner"


def run(runner: Path | str, inputs: Sequence[Array], *, project_dir: Path | str | None = None) -> list[Array]:
    """Run samples through a host runner.

    Args:
        runner: from :func:`build_host_runner`.
        inputs: per model input, in order, an array (n, *sample shape) of the input's type.
        project_dir: where metadata.json is; by default two levels above ``runner``.

    Returns:
        Per output an array (n, *sample shape), a leading batch extent of 1 left out as in the inputs.

    Raises:
        DataError: inputs do not fit the model.
        ToolError: the program failed.
    """
    runner = Path(runner)
    project = runner.parent.parent if project_dir is None else Path(project_dir)
    described = json.loads((project / "metadata.json").read_text())
    count = _check(inputs, described["inputs"])
    flat = [np.ascontiguousarray(array).reshape(count, -1).view(np.uint8).reshape(count, -1) for array in inputs]
    try:
        done = subprocess.run(
            [str(runner.resolve())],
            input=np.concatenate(flat, axis=1).tobytes(),
            capture_output=True,
            timeout=TIMEOUT_S,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ToolError(f"the host runner failed: {error}", where=str(runner)) from error
    if done.returncode != 0:
        message = done.stderr.decode(errors="replace").strip() or f"exit code {done.returncode}"
        raise ToolError(f"the host runner failed: {message}", where=str(runner))
    return _split(done.stdout, described["outputs"], count, str(runner))


def sample_shape(shape: Sequence[int]) -> tuple[int, ...]:
    """Shape of one sample: without a leading batch extent of 1."""
    return tuple(shape[1:]) if len(shape) > 1 and shape[0] == 1 else tuple(shape)


def _check(inputs: Sequence[Array], described: Sequence[dict[str, Any]]) -> int:
    if len(inputs) != len(described):
        raise DataError(f"{len(inputs)} input arrays, the model has {len(described)} inputs")
    counts = {len(array) for array in inputs}
    if len(counts) != 1:
        raise DataError("the input arrays hold different numbers of samples")
    for array, info in zip(inputs, described, strict=True):
        shape = (len(array), *sample_shape(info["shape"]))
        if array.dtype != np.dtype(info["dtype"]) or array.shape != shape:
            raise DataError(
                f"samples are {array.dtype} {array.shape[1:]}, the model takes {info['dtype']} {shape[1:]}",
                where=f'input "{info["name"]}"',
            )
    return counts.pop()


def _split(data: bytes, described: Sequence[dict[str, Any]], count: int, where: str) -> list[Array]:
    size = sum(info["bytes"] for info in described)
    if len(data) != size * count:
        raise ToolError(f"the host runner gave {len(data)} bytes, expected {size * count}", where=where)
    rows = np.frombuffer(data, np.uint8).reshape(count, size)
    found, start = [], 0
    for info in described:
        part = np.ascontiguousarray(rows[:, start : start + info["bytes"]]).view(np.dtype(info["dtype"]))
        found.append(part.reshape(count, *sample_shape(info["shape"])))
        start += info["bytes"]
    return found
