"""Inputs for a run and a verdict on its outputs: exactness against a reference interpreter, accuracy on labels."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rqdkm.experiment import statistics
from rqdkm.models import data as datasets
from rqdkm.models import oracle
from rqdkm.models.graph import per_tensor
from rqdkm.report.schema import Accuracy, Exactness
from rqdkm_tvm.errors import DataError
from rqdkm_tvm.files import write_atomic

if TYPE_CHECKING:
    from rqdkm.models.load import LoadedModel

NDArray = npt.NDArray[Any]
Int8 = npt.NDArray[np.int8]


def by_sample(batches: Sequence[NDArray]) -> list[list[NDArray]]:
    """Per sample the list of its input tensors, from one array (samples first) per tensor."""
    return [list(sample) for sample in zip(*batches, strict=True)]


def exactness_inputs(model: LoadedModel, count: int, seed: int) -> list[Int8]:
    """Seeded inputs, half uniform noise over all of int8, half smooth: noise alone saturates most classifiers."""
    noise_count = (count + 1) // 2
    noise = datasets.random_inputs(model, noise_count, seed)
    smooth = datasets.structured_inputs(model, count - noise_count, seed) if count > noise_count else []
    parts = zip(noise, smooth, strict=True) if smooth else ((array,) for array in noise)
    return [np.concatenate(part) for part in parts]


def exactness(
    model: LoadedModel,
    inputs: Sequence[Int8],
    outputs: Sequence[Sequence[NDArray]],
    *,
    mixed: Any = None,
    kernels: Sequence[int] = (),
) -> Exactness:
    """Compare every output byte with the reference.

    Args:
        mixed: the quantized module, where a plan has changed the model's bit-widths or layers morph: the reference is
            then the NumPy interpreter on that.
        kernels: of morphing layers, per sample; empty: the safe one.

    The reference is TFLite's own kernels where there is a TFLite file of the very network that runs (the one we wrote,
    for a model that we quantized); otherwise the NumPy interpreter of TFLite's arithmetic.
    """
    if mixed is not None:
        from rqdkm.models import reference

        expected, name = _mixed_reference(mixed, inputs, kernels), reference.NAME
    elif model.tflite:
        expected, name = oracle.reference_outputs(model, inputs), oracle.NAME
    else:
        from rqdkm.models import reference

        found_graph = reference.run_graph(model.graph, inputs)
        expected, name = [found_graph[index] for index in model.graph.outputs], reference.NAME
    mismatches = compared = largest = 0
    for index, wanted in enumerate(expected):
        found = np.stack([np.ravel(sample[index]) for sample in outputs])
        difference = np.abs(found.astype(np.int32) - wanted.reshape(found.shape).astype(np.int32))
        mismatches += int(np.count_nonzero(difference))
        compared += difference.size
        largest = max(largest, int(difference.max(initial=0)))
    return Exactness(
        reference=name, samples=len(outputs), mismatches=mismatches, compared_bytes=compared, max_difference=largest
    )


def _mixed_reference(mixed: Any, inputs: Sequence[Int8], kernels: Sequence[int]) -> list[NDArray]:
    """Every sample by the network whose kernel ran."""
    from rqdkm.models import reference
    from rqdkm_tvm.morph.gather import FixKernel

    if not kernels:
        return list(reference.run_function(mixed["main"], inputs))
    which = np.asarray(kernels)
    expected: list[NDArray] = []
    for kernel in np.unique(which):
        rows = which == kernel
        found = reference.run_function(FixKernel(int(kernel))(mixed)["main"], [array[rows] for array in inputs])
        expected = expected or [np.zeros((len(which), *array.shape[1:]), array.dtype) for array in found]
        for whole, part in zip(expected, found, strict=True):
            whole[rows] = part
    return expected


def accuracy(
    model: LoadedModel,
    project_dir: Path,
    evaluation: datasets.Dataset,
    *,
    progress: Callable[[str], None] = lambda _text: None,
) -> Accuracy | None:
    """Top-1 of the firmware's C on all labelled samples, run as a host build of the same sources.

    None where the first output is no list of classes.
    """
    from rqdkm.export import host

    assert evaluation.labels is not None
    progress(f"host build of the same C, {len(evaluation)} samples")
    runner = host.build_host_runner(project_dir)
    inputs = datasets.quantize_inputs(evaluation, model)
    scores = host.run(runner, inputs)[0].reshape(len(evaluation), -1)
    if scores.shape[1] < 2:
        return None
    correct, n = statistics.top1(scores, evaluation.labels)
    reference = loss = loss_ci95 = None
    if model.tflite:
        judged = _reference_scores(model.tflite, inputs).reshape(n, -1)
        reference = statistics.top1(judged, evaluation.labels)[0] / n
        labels = evaluation.labels
        paired = statistics.paired_loss(judged.argmax(axis=1) == labels, scores.argmax(axis=1) == labels)
        # equal scores of every class on all samples: nothing was lost that more samples could show
        loss, loss_ci95 = paired.loss, (0.0, 0.0) if np.array_equal(judged, scores) else paired.interval()
    return Accuracy(
        metric="top1",
        value=correct / n,
        n=n,
        ci95=statistics.wilson_interval(correct, n),
        reference=reference,
        loss=loss,
        loss_ci95=loss_ci95,
        source="host build of the same C",
    )


_judged: dict[str, Int8] = {}  # the last one: comparisons judge one model on the same samples again and again


def _reference_scores(model: bytes, inputs: Sequence[Int8]) -> Int8:
    """First output of the reference interpreter."""
    digest = hashlib.sha256(model)
    for x in inputs:
        digest.update(repr(x.shape).encode() + x.tobytes())
    key = digest.hexdigest()
    if key not in _judged:
        _judged.clear()
        _judged[key] = oracle.reference_outputs(model, inputs)[0]
    return _judged[key]


# ---- inputs and outputs of a project, whose model file may be gone


def noise(metadata: Mapping[str, Any], samples: int, seed: int) -> list[NDArray]:
    """Seeded uniform inputs for the tensors of a project's metadata."""
    rng = np.random.default_rng(seed)
    return [
        rng.integers(-128, 128, (samples, *tensor["shape"]), dtype=np.int8)
        if tensor["dtype"] == "int8"
        else rng.uniform(-1, 1, (samples, *tensor["shape"])).astype(tensor["dtype"])
        for tensor in metadata["inputs"]
    ]


def read_inputs(path: Path, metadata: Mapping[str, Any], samples: int | None) -> list[NDArray]:
    """Samples from ``.npz`` (named as :func:`rqdkm.models.data.pick_inputs` says) or ``.npy``; reals are quantized.

    ``samples`` None takes all of them.

    Raises:
        DataError: no samples, wrong count, shape or type, NaN, or no such file.
    """
    where = str(path)
    if not path.is_file():
        raise DataError("there is no such file", where=where, hint="pass .npz or .npy")
    tensors = metadata["inputs"]
    arrays = datasets.pick_inputs(datasets.read_arrays(path), [[tensor["name"] for tensor in tensors]], where)
    batches = []
    for array, tensor in zip(arrays, tensors, strict=True):
        shape = tuple(tensor["shape"])
        if array.shape[1:] != shape and array.shape[1:] != shape[1:]:
            expected = ", ".join(map(str, shape[1:]))
            raise DataError(
                f"input {tensor['name']!r}: its shape is {array.shape}, the model takes (n, {expected})",
                where=where,
                hint="the first dimension counts samples, the others are the model's input",
            )
        if array.dtype.kind not in "biuf":
            raise DataError(
                f"input {tensor['name']!r} holds {array.dtype}, expected numbers", where=where, hint="save plain arrays"
            )
        if len(array) == 0 or len(array) != len(arrays[0]):
            raise DataError(
                f"input {tensor['name']!r} has {len(array)} samples, the first input {len(arrays[0])}",
                where=where,
                hint="all inputs need the same number of samples, one at least",
            )
        if not np.isfinite(array.astype(np.float64)).all():
            raise DataError(
                f"input {tensor['name']!r} holds NaN or infinity", where=where, hint="take those samples out"
            )
        taken = array[:samples].reshape(-1, *shape)
        if tensor["dtype"] == "int8" and array.dtype != np.int8:
            taken = datasets.quantize(taken, per_tensor(float(tensor["scale"]), int(tensor["zero_point"])))
        batches.append(taken.astype(tensor["dtype"]))
    return batches


def write_outputs(path: Path, outputs: Sequence[Sequence[NDArray]]) -> None:
    """Outputs as ``.npz``: ``output0``, ``output1``, ..., samples first."""
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {f"output{i}": np.stack([sample[i] for sample in outputs]) for i in range(len(outputs[0]))}
    np.savez_compressed(buffer, **arrays)
    write_atomic(path, buffer.getvalue())
