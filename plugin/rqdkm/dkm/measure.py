"""Costs of a morphing network, measured on its own project: cycles and memory on the virtual board, classes on data."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from rqdkm import judge
from rqdkm.board import run as board_run
from rqdkm.board.describe import STM32F407
from rqdkm.board.protocol import MemoryInfo
from rqdkm.dkm import state
from rqdkm.dkm.costs import Costs
from rqdkm.dkm.dqn import Training
from rqdkm.dkm.policy import blank as blank_policy
from rqdkm.dkm.policy_file import PolicyFile
from rqdkm.dkm.state import RANGES
from rqdkm.export import host, project
from rqdkm.export import metadata as described
from rqdkm.models import data as datasets
from rqdkm.models.graph import per_tensor
from rqdkm_tvm.errors import DataError, ModelError

Array = npt.NDArray[Any]
Progress = Callable[[str], None]

LOOKED_AT = 256  # values of a frame that the chip measures
LEVELS = (0.0, 0.05, 0.1, 0.15)  # noise, of an input that spans -1 to 1


def measure(
    directory: Path,
    metadata: Mapping[str, Any],
    data: Path,
    *,
    levels: Sequence[float] = LEVELS,
    samples: int | None = None,
    on_board: int = 2,
    seed: int = 0,
    progress: Progress = lambda _text: None,
) -> Costs:
    """Run every kernel of the project in ``directory``.

    Args:
        directory: a CMake project as ``rqdkm deploy`` writes it; built in place.
        metadata: its metadata.json.
        data: labelled samples, ``.npz``.
        levels: standard deviations of the normal noise that is added to them, in the input's own unit.
        samples: how many are taken; None: all.
        on_board: samples that run on the virtual board for the cycles.
        seed: of the noise.

    Raises:
        DataError: no labels, data that does not fit, or a project with a policy.
        ModelError: the network has several inputs, or one that is not int8.
    """
    if (directory / "model" / "policy.c").is_file():
        raise DataError(
            "its firmware has a policy, which would select the kernels to be measured",
            where=str(directory),
            hint="deploy it without --policy, into another directory",
        )
    clean, labels = _labelled(data, metadata, samples)
    tensor = metadata["inputs"][0]
    rng = np.random.default_rng(seed)
    scale = per_tensor(float(tensor["scale"]), int(tensor["zero_point"]))
    real = datasets.dequantize(clean, scale)
    noisy = [
        datasets.quantize(real + np.float32(level) * rng.standard_normal(real.shape, np.float32), scale)
        if level
        else clean
        for level in levels
    ]
    names, safe = described.kernels(metadata)
    sample = host.sample_shape(tensor["shape"])
    channels = int(tensor["shape"][-1])
    progress(f"measuring {len(clean):,} inputs at {len(levels)} levels of noise")
    statistics = [[state.measure_input(frame, channels, LOOKED_AT) for frame in frames] for frames in noisy]
    cycles, memory, right = [], [], np.empty((len(levels), len(clean), len(names)), bool)
    for number, name in enumerate(names):
        chosen = number if len(names) > 1 else None
        progress(f"{name}: on the virtual board")
        elf = project.build(directory, kernel=chosen)
        ran = board_run.run_samples(elf, "virtual", judge.by_sample([noisy[0][:on_board]]))
        assert ran.cycles is not None
        cycles.append(float(np.mean(ran.cycles)))
        memory.append(_ram(ran.memory) / STM32F407.memory("sram").bytes)
        runner = host.build_host_runner(directory, kernel=chosen)
        for level, frames in enumerate(noisy):
            progress(f"{name}: {len(frames):,} samples, level {level + 1} of {len(levels)}")
            scores = host.run(runner, [frames.reshape(len(frames), *sample)])[0].reshape(len(frames), -1)
            right[level, :, number] = scores.argmax(axis=1) == labels
    return Costs(
        names,
        safe,
        np.array(cycles),
        np.array(memory),
        np.array(levels, np.float64),
        np.array(statistics, np.float32),
        right,
        _deciding(directory, metadata, data, names, safe, cycles) if len(names) > 1 else 0.0,
    )


def _deciding(
    directory: Path, metadata: Mapping[str, Any], data: Path, names: tuple[str, ...], safe: int, cycles: Sequence[float]
) -> float:
    """What a decision takes by a policy of the usual size, whatever it has learned: within some per cent."""
    blank = blank_policy((len(RANGES), *Training().hidden, len(names)))
    policy = PolicyFile(names, safe, tuple(round(n) for n in cycles), blank)
    return decision(directory, metadata, data, policy).cycles


class Decision(NamedTuple):
    """Of firmware with a policy: cycles of looking at an input and deciding, mean of some frames; peak of its RAM with
    the kernels that it selected in them, bytes."""

    cycles: float
    ram: int


def decision(
    directory: Path, metadata: Mapping[str, Any], data: Path, policy: PolicyFile, *, samples: int = 8
) -> Decision:
    """Measured on the virtual board.

    ``directory`` is a project without a policy; a copy of it gets ``policy``.
    """
    (inputs,) = judge.read_inputs(data, metadata, samples)
    with tempfile.TemporaryDirectory(prefix="rqdkm-policy-") as folder:
        copy = Path(folder) / "project"
        shutil.copytree(directory, copy, ignore=shutil.ignore_patterns("build*"))
        project.add_policy(copy, policy)
        ran = board_run.run_samples(project.build(copy), "virtual", judge.by_sample([inputs]))
    return Decision(float(np.mean([selection.cycles for selection in ran.selections])), _ram(ran.memory))


def _ram(used: MemoryInfo) -> int:
    return int(used.data + used.bss + used.stack_used + used.arena_used)


def _labelled(data: Path, metadata: Mapping[str, Any], samples: int | None) -> tuple[Array, Array]:
    if len(metadata["inputs"]) != 1 or metadata["inputs"][0]["dtype"] != "int8":
        raise ModelError("morphing needs one int8 input", where=str(metadata["model_name"]))
    (inputs,) = judge.read_inputs(data, metadata, samples)
    labels = datasets.read_arrays(data).get("y")
    if labels is None or labels.shape[0] < len(inputs):
        raise DataError(
            "there are no labels to learn with", where=str(data), hint='save them as "y", one integer per sample'
        )
    return inputs, labels[: len(inputs)].astype(np.int64).ravel()
