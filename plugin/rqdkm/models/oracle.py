"""TFLite's reference kernels as the judge: the tflite-micro interpreter, in a process of its own.

Its kernels are TFLite's reference integer kernels (``MultiplyByQuantizedMultiplier`` with *double* rounding: a
rounding doubling high multiply, then a rounding shift). Exactness in this project means: every output byte equal
to this. docs/exactness.md says what other builds of TFLite do differently.

Inputs and outputs are int8. A model with float inputs or outputs around an int8 core is run without its boundary
QUANTIZE/DEQUANTIZE operators (``tflite_read.strip_boundary`` edits three vectors of the file, nothing else), so that
no float conversion can blur a byte; tests show that the unedited file gives the same bytes.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rqdkm.models import tflite_read
from rqdkm.models.graph import Graph, TensorInfo
from rqdkm_tvm.errors import DataError, ModelError, ToolError

if TYPE_CHECKING:
    from rqdkm.models.load import LoadedModel

NAME = "tflite-micro reference kernels, double rounding"
TIMEOUT_S = 900

Int8 = npt.NDArray[np.int8]


def sample_shape(tensor: TensorInfo) -> tuple[int, ...]:
    """Shape of one sample of ``tensor``: without its leading batch dimension of 1, if it has one."""
    return tensor.shape[1:] if len(tensor.shape) > 1 and tensor.shape[0] == 1 else tensor.shape


def reference_outputs(model: LoadedModel | Path | str | bytes, inputs: Sequence[Int8]) -> list[Int8]:
    """Run samples through the reference interpreter.

    Args:
        model: a loaded TFLite model, a ``.tflite`` file or its bytes.
        inputs: per model input, in order, an array (n, *sample shape) of the input's type (int8).

    Returns:
        Per model output an array (n, *sample shape), int8.

    Raises:
        ModelError: the model is not a TFLite model.
        DataError: inputs do not fit the model.
        ToolError: the interpreter is missing or failed.
    """
    data, graph = _prepare(model)
    return run_interpreter(data, graph, inputs)


def run_interpreter(
    data: bytes, graph: Graph, inputs: Sequence[Int8], plugin: Path | None = None, frames: Int8 | None = None
) -> list[Int8]:
    """Run samples of a ``.tflite`` file whose graph is known.

    Args:
        inputs: per input of ``graph`` an array (n, *sample shape).
        plugin: library with further operators, as ``tflm_ops/tflm/python_plugin.cc`` makes one.
        frames: (n, H, W, C), handed over region by region by ``rqdkm_set_input`` of the plug-in; then the graph has no
            inputs.

    Returns:
        Per output an array (n, *sample shape).

    Raises:
        DataError: inputs do not fit the model.
        ToolError: the interpreter is missing or failed; with the last lines of its log.
    """
    results = _run(data, graph, inputs, graph.outputs, every_tensor=False, plugin=plugin, frames=frames)
    return [
        result.reshape(len(result), *sample_shape(graph.tensors[index]))
        for result, index in zip(results, graph.outputs, strict=True)
    ]


def reference_layers(model: LoadedModel | Path | str | bytes, inputs: Sequence[Int8]) -> dict[str, Int8]:
    """Every layer's output, by tensor name, (n, *sample shape): to find the first layer that differs."""
    data, graph = _prepare(model)
    wanted = tuple(index for operator in graph.operators for index in operator.outputs)
    results = _run(data, graph, inputs, wanted, every_tensor=True)
    return {
        graph.tensors[index].name: result.reshape(len(result), *sample_shape(graph.tensors[index]))
        for index, result in zip(wanted, results, strict=True)
    }


def check_inputs(tensors: Sequence[TensorInfo], inputs: Sequence[npt.NDArray[np.generic]]) -> int:
    """Number of samples n; every input must be (n, *sample shape) of the tensor's type."""
    if len(inputs) != len(tensors):
        raise DataError(f"{len(inputs)} inputs given, the model has {len(tensors)}")
    for tensor, array in zip(tensors, inputs, strict=True):
        expected = (len(inputs[0]), *sample_shape(tensor))
        if array.shape != expected or array.dtype != tensor.dtype:
            raise DataError(
                f"is {array.dtype} {array.shape}, expected {tensor.dtype} {expected}", where=f"input {tensor.name!r}"
            )
    return len(inputs[0]) if inputs else 0


def _prepare(model: LoadedModel | Path | str | bytes) -> tuple[bytes, Graph]:
    if isinstance(model, bytes):
        data, where = model, "model"
    elif isinstance(model, (str, Path)):
        where = str(model)
        try:
            data = Path(model).read_bytes()
        except OSError as error:
            raise ModelError(f"cannot read the file: {error.strerror}", where=where) from error
    else:
        if not model.tflite:
            raise ModelError(
                "there is no TFLite file to run in TFLite's interpreter",
                where=str(model.path),
                hint="quantize the model first: that writes one",
            )
        return model.tflite, tflite_read.read_graph(model.tflite, str(model.path), model.name)
    return tflite_read.strip_boundary(data, tflite_read.read_graph(data, where))


def _run(
    data: bytes,
    graph: Graph,
    inputs: Sequence[Int8],
    wanted: tuple[int, ...],
    *,
    every_tensor: bool,
    plugin: Path | None = None,
    frames: Int8 | None = None,
) -> list[Int8]:
    check_inputs([graph.tensors[i] for i in graph.inputs], inputs)
    arena = sum(t.bytes for t in graph.tensors if not t.is_constant) * 2 + len(data) + (4 << 20)
    with tempfile.TemporaryDirectory(prefix="rqdkm-oracle-") as name:
        folder = Path(name)
        (folder / "model.tflite").write_bytes(data)
        job: dict[str, Any] = {"arena": arena, "every_tensor": every_tensor, "wanted": wanted}
        job["plugin"] = "" if plugin is None else str(plugin.resolve())
        job |= {f"input{i}": np.ascontiguousarray(a) for i, a in enumerate(inputs)}
        job |= {f"shape{i}": graph.tensors[t].shape for i, t in enumerate(graph.inputs)}
        job |= {} if frames is None else {"frames": np.ascontiguousarray(frames)}
        np.savez(folder / "job.npz", **job)
        _call_worker(folder)
        with np.load(folder / "result.npz") as results:
            return [results[f"output{i}"] for i in range(len(wanted))]


def _call_worker(folder: Path) -> None:
    command = [sys.executable, "-m", "rqdkm.models.oracle_worker", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    except subprocess.TimeoutExpired as error:
        raise ToolError(f"the reference interpreter took longer than {TIMEOUT_S} s", where="tflite-micro") from error
    if done.returncode == 0:
        return
    lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    reason = " / ".join(lines[-2:]) if lines else f"exit code {done.returncode}"
    missing = "No module named 'tflite_micro'" in done.stderr
    raise ToolError(
        f"the reference interpreter failed: {reason}",
        where="tflite-micro",
        hint="pip install tflite-micro" if missing else "the model may use an operator TFLite Micro does not have",
    )
