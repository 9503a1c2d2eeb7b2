"""Quantization-aware fine-tuning: the plan's bit-widths in, integers that were trained to live with them out.

The network that is trained is the one the int8 model file describes, as it will run on the chip: same layers, same
bits, same scales. TensorFlow and TVM never share a process, so this one (with TVM) describes the network, starts
``worker.py`` with a Python that has TensorFlow, and turns its answer into a plan and a parameters file.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm.models import data as datasets
from rqdkm.models import load as loader
from rqdkm.models import reference, tflite_read
from rqdkm.models.load import LoadedModel
from rqdkm.options import FinetuneOptions
from rqdkm.train import job as jobs
from rqdkm.train import worker
from rqdkm_tvm.errors import DataError, ModelError, PlanError, RqdkmError, ToolError
from rqdkm_tvm.files import staged_directory
from rqdkm_tvm.layer import NDArray
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.parameters import LayerParameters, Parameters
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.plan import ParametersFile, Plan
from rqdkm_tvm.sensitivity.float_twin import structure

Progress = Callable[[str], None]
PYTHON_VARIABLE = "RQDKM_TRAIN_PYTHON"
PLAN, PARAMETERS, HISTORY = "plan.json", "parameters.npz", "finetune.json"
CHECKED = 64  # samples on which the exported integers are run
INSTALL = (
    "TensorFlow needs an environment of its own: python3 -m venv .venv-train && "
    ".venv-train/bin/pip install tensorflow-cpu==2.21.0, then "
    f"export {PYTHON_VARIABLE}=$PWD/.venv-train/bin/python"
)


@dataclass(frozen=True)
class Epoch:
    """Loss and accuracy on the held-out tenth of the samples, quantized; accuracy needs labels."""

    epoch: int
    loss: float
    accuracy: float | None


@dataclass(frozen=True)
class Finetuned:
    """What was written, and how it went. ``agreeing`` of ``checked`` samples: integers decide as training did."""

    plan: Path
    parameters: Path
    history: tuple[Epoch, ...]
    agreeing: int
    checked: int


def finetune(options: FinetuneOptions, progress: Progress = lambda _text: None) -> Finetuned:
    """Train, and write ``plan.json``, ``parameters.npz`` and ``finetune.json`` to ``options.out``.

    Raises:
        ModelError, PlanError, DataError: the files cannot be used, or do not belong together.
        ToolError: TensorFlow is missing, or training failed.
    """
    progress(f"load: {options.model.name}")
    model = loader.load(options.model)
    if not model.is_quantized:
        raise ModelError(
            "the model computes in float", where=str(options.model), hint="give the int8 file; float ones as --weights"
        )
    plan = read_plan(options.plan)
    module = PartitionLayers()(prepare(model.module))
    LowerMixedPrecision(dataclasses.replace(plan, parameters=None))(module)  # a plan of another model ends here
    layers, roots = structure(module["main"])
    dataset = datasets.load_data(options.data, model)
    if len(dataset) < 2:
        raise DataError("fine-tuning needs samples to learn from and to judge by", where=str(options.data))
    inputs = datasets.quantize_inputs(dataset, model)
    network = jobs.Network(layers, roots, _inputs(model), plan, _classifies(model, dataset.labels))
    description = {
        **jobs.describe(network),
        "keras": "",
        "seed": options.seed,
        "epochs": options.epochs,
        "rate": options.rate,
        "batch": options.batch,
        "check": CHECKED,
    }
    given = {}
    if options.weights is not None and options.weights.suffix == ".tflite":
        given = _given(network, options.weights)
    elif options.weights is not None:
        if not options.weights.is_file():
            raise ModelError("there is no such file", where=str(options.weights))
        description["keras"] = str(options.weights.resolve())
    arrays = jobs.initial(network, given)
    arrays |= {f"input{i}": array for i, array in enumerate(inputs)}
    if dataset.labels is not None:
        arrays["labels"] = dataset.labels
    results = _train(description, arrays, progress)
    return _write(options, network, module, results, [x[:CHECKED] for x in inputs])


def read_plan(path: Path) -> Plan:
    try:
        return Plan.from_json(path.read_text(), where=str(path))
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "it is not a text file"
        raise PlanError(f"cannot read the plan: {reason}", where=str(path)) from error


def _inputs(model: LoadedModel) -> tuple[Any, ...]:
    from rqdkm_tvm.layer import Tensor

    found = []
    for tensor in model.inputs:
        if tensor.quantization is None:
            raise ModelError(f"input {tensor.name!r} has no scale", where=str(model.path))
        found.append(Tensor(tensor.shape, tensor.dtype, tensor.quantization.scale, tensor.quantization.zero_point))
    return tuple(found)


def _classifies(model: LoadedModel, labels: NDArray | None) -> bool:
    """Logits are compared as probabilities where the model gives those, or the data names classes."""
    final = model.graph.operators[-1].op if model.graph.operators else ""
    return labels is not None or final == "SOFTMAX"


def _given(network: jobs.Network, path: Path) -> dict[int, tuple[NDArray, NDArray]]:
    """Weights of a float .tflite by position of the layer."""
    try:
        graph = tflite_read.read_graph(path.read_bytes(), str(path))
    except OSError as error:
        raise ModelError(f"cannot read the file: {error.strerror}", where=str(path)) from error
    found = jobs.float_weights(graph)
    if any(weights.dtype != np.float32 for _, _, weights, _ in found):
        raise ModelError("its weights are not float32", where=str(path), hint="give the float model as --weights")
    own = jobs.initial(network, {})
    wanted = [(layer.name, layer.op, own[f"{index}.weights"]) for index, layer in network.weighted()]
    try:
        chosen = worker.match(wanted, found)
    except worker.UnusableError as error:
        raise ModelError(str(error), where=str(path)) from error
    return {index: found[c][2:] for (index, _), c in zip(network.weighted(), chosen, strict=True)}


# ---- the other process


def _train(description: dict[str, Any], arrays: dict[str, NDArray], progress: Progress) -> dict[str, NDArray]:
    python = os.environ.get(PYTHON_VARIABLE) or sys.executable
    with tempfile.TemporaryDirectory(prefix="rqdkm-train-") as name:
        folder = Path(name)
        (folder / "job.json").write_text(json.dumps(description))
        np.savez(folder / "job.npz", **arrays)  # type: ignore[arg-type]
        progress("finetune: starting TensorFlow")
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}  # nothing of ours
        with (folder / "stderr").open("w+") as errors:
            try:
                process = subprocess.Popen(
                    [python, worker.__file__, str(folder)],
                    stdout=subprocess.PIPE,
                    stderr=errors,
                    text=True,
                    env=environment,
                )
            except OSError as error:
                raise ToolError(f"cannot start {python}: {error.strerror}", where="TensorFlow", hint=INSTALL) from error
            with process:
                try:
                    assert process.stdout is not None
                    for line in process.stdout:
                        progress(f"finetune: {_in_words(line, description['epochs'])}")
                except BaseException:
                    process.kill()
                    raise
            errors.seek(0)
            text = errors.read()
        if process.returncode == worker.NO_TENSORFLOW:
            raise ToolError("TensorFlow is not installed", where=python, hint=INSTALL)
        if process.returncode == worker.UNUSABLE:
            raise ModelError(text.strip().splitlines()[-1], where=description["keras"])
        if process.returncode != 0:
            last = [line for line in text.splitlines() if line.strip()][-1:] or [f"exit code {process.returncode}"]
            raise ToolError(f"training failed: {last[0]}", where="TensorFlow")
        with np.load(folder / "result.npz") as archive:
            return {key: archive[key] for key in archive.files}


def _in_words(line: str, epochs: int) -> str:
    try:
        row = json.loads(line)
    except ValueError:
        return line.strip()
    accuracy = "" if row["accuracy"] is None else f", accuracy {100 * row['accuracy']:.1f} %"
    return f"epoch {row['epoch']} of {epochs}, loss {row['loss']:.4f}{accuracy}"


# ---- the result


def _write(
    options: FinetuneOptions, network: jobs.Network, module: Any, results: dict[str, NDArray], inputs: list[NDArray]
) -> Finetuned:
    parameters = Parameters(
        {
            layer.name: LayerParameters(
                results[f"{index}.weights"], results[f"{index}.scales"], _bias(layer.bias, results[f"{index}.bias"])
            )
            for index, layer in network.weighted()
        }
    )
    scales = {
        x.name: float(results[f"{index}.output_scale"])
        for index, x in enumerate(network.layers)
        if f"{index}.output_scale" in results
    }
    data = parameters.to_bytes()
    names = [entry.name for entry in network.plan.layers]
    plan = Plan(jobs.completed(network, names, scales), ParametersFile(PARAMETERS, hashlib.sha256(data).hexdigest()))
    lowered = LowerMixedPrecision(plan, parameters)(module)
    logits = run_integers(lowered, inputs)
    agreeing = int((logits.argmax(axis=1) == results["logits"].argmax(axis=1)).sum())
    if agreeing < 0.9 * len(logits):
        raise RqdkmError(
            f"the exported integers decide like the trained network on {agreeing} of {len(logits)} samples only",
            where="fine-tuning",
            hint="this should not happen: please report it with the plan",
        )
    history = tuple(Epoch(**row) for row in json.loads(str(results["history"])))
    report = {
        "epochs": [dataclasses.asdict(row) for row in history],
        "agreeing": agreeing,
        "checked": len(logits),
        "seed": options.seed,
    }
    with staged_directory(options.out, replace=options.force) as staging:
        (staging / PLAN).write_text(plan.to_json())
        (staging / PARAMETERS).write_bytes(data)
        (staging / HISTORY).write_text(json.dumps(report, indent=1) + "\n")
    return Finetuned(options.out / PLAN, options.out / PARAMETERS, history, agreeing, len(logits))


def _bias(old: NDArray | None, new: NDArray) -> npt.NDArray[np.int32] | None:
    return None if old is None and not new.any() else new


def run_integers(module: Any, inputs: list[NDArray]) -> npt.NDArray[np.float64]:
    """Real logits of a partitioned module by TFLite's integer arithmetic, (n, logits)."""
    layers, roots = structure(module["main"])
    values: dict[int, NDArray] = {-1 - i: x for i, x in enumerate(inputs)}
    found = []
    for index, x in enumerate(layers):
        operands = [
            values[source].reshape(-1, *tensor.shape[1:])
            for source, tensor in zip(x.sources, x.layer.inputs, strict=True)
        ]
        values[index] = reference.run_layer(x.layer, operands)
        if x.name in roots:
            out = x.layer.output
            found.append(
                (values[index].reshape(len(values[index]), -1).astype(np.float64) - out.zero_point) * out.scale
            )
    return np.concatenate(found, axis=1)
