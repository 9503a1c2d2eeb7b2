"""The other side of :mod:`rqdkm.models.oracle`: reads a job from a folder, runs tflite-micro, writes the result there.

A process of its own because tflite-micro must not share one with TVM. ``python -m rqdkm.models.oracle_worker FOLDER``.
"""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path
from typing import Any

import numpy as np


def main(folder: Path) -> None:
    """``job.npz`` and ``model.tflite`` -> ``result.npz`` with ``output0``, ``output1``, ... of shape (n, ...)."""
    from tflite_micro import runtime

    with np.load(folder / "job.npz") as job:
        registerers = load_plugin(str(job["plugin"]))
        wanted = [int(i) for i in job["wanted"]]
        every_tensor = bool(job["every_tensor"])
        arena = int(job["arena"])
        count = sum(name.startswith("input") for name in job.files)
        inputs = [job[f"input{i}"] for i in range(count)]
        frames = job["frames"] if "frames" in job.files else None
        shapes = [tuple(int(d) for d in job[f"shape{i}"]) for i in range(count)]
    config = runtime.InterpreterConfig
    interpreter = runtime.Interpreter.from_file(
        str(folder / "model.tflite"),
        custom_op_registerers=registerers,
        arena_size=arena,
        intrepreter_config=config.kPreserveAllTensors if every_tensor else config.kAllocationRecording,
    )
    results: list[list[Any]] = [[] for _ in wanted]
    for sample in range(len(inputs[0]) if frames is None else len(frames)):
        reader = None if frames is None else hand_over(frames[sample])
        for index, (array, shape) in enumerate(zip(inputs, shapes, strict=True)):
            interpreter.set_input(np.ascontiguousarray(array[sample]).reshape(shape), index)
        interpreter.invoke()
        del reader
        for place, tensor in enumerate(wanted):
            if every_tensor:
                value = np.array(interpreter.GetTensor(tensor, 0)["tensor_data"])
            else:
                value = np.array(interpreter.get_output(place))
            results[place].append(value)
    stacked: dict[str, Any] = {f"output{i}": np.stack(r) for i, r in enumerate(results)}
    np.savez(folder / "result.npz", **stacked)


def hand_over(frame: Any) -> Any:
    """Let the plug-in's ``rqdkm_fetch_input`` read ``frame`` (H, W, C), as long as the result lives."""
    rows = np.ascontiguousarray(frame).reshape(len(frame), -1)
    kind = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, *[ctypes.c_int32] * 4, ctypes.c_void_p)

    def read(_context: Any, row: int, offset: int, count: int, size: int, to: int) -> int:
        region = np.ascontiguousarray(rows[row : row + count, offset : offset + size])
        ctypes.memmove(to, region.ctypes.data, region.nbytes)
        return 0

    reader = kind(read)
    ctypes.CDLL(None).rqdkm_set_input(reader, None)
    return reader


def load_plugin(path: str) -> list[str]:
    """Load a library of operators so that the interpreter finds its registering function; the function's name."""
    if not path:
        return []
    from tflite_micro.python.tflite_micro import _runtime

    for library in (_runtime.__file__, path):  # the plug-in calls the interpreter's functions
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    return ["RqdkmRegisterOperators"]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
