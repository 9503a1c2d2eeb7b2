"""Whole trained networks: every output byte of the firmware equals TFLite's reference kernels, on both emulators."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from rqdkm import judge, pipeline
from rqdkm.board import run as board_run
from rqdkm.models import load, oracle, zoo
from rqdkm.options import DeployOptions
from rqdkm.report import codec

SAMPLES = 20
NETWORKS = ("image_classification", "visual_wake_words", "keyword_spotting")

# arena of TFLite Micro with CMSIS-NN for the same file, bytes
TFLM_ARENA = {"image_classification": 54_996, "visual_wake_words": 100_708, "keyword_spotting": 22_820}
# what direct kernels have to reach
CYCLES_PER_MAC = {"image_classification": 1.4, "visual_wake_words": 2.0, "keyword_spotting": 1.8}


@pytest.fixture(scope="module", params=NETWORKS)
def deployed(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A network deployed on the virtual board with the default configuration."""
    name: str = request.param
    out = tmp_path_factory.mktemp("deploy") / name
    pipeline.deploy(DeployOptions(model=zoo.path(name), out=out, samples=SAMPLES))
    return name, out


def test_virtual_board_equals_tflite(deployed: tuple[str, Path]) -> None:
    report = codec.read(deployed[1])
    assert report.exactness is not None
    assert report.exactness.reference == oracle.NAME
    assert (report.exactness.samples, report.exactness.mismatches) == (SAMPLES, 0)
    assert report.exactness.compared_bytes == SAMPLES * report.model.outputs[0].shape[-1]


def test_qemu_equals_tflite(deployed: tuple[str, Path]) -> None:
    """The very image that ran on the virtual board, on an emulator that somebody else wrote."""
    name, out = deployed
    model = load.load(zoo.path(name))
    inputs = judge.exactness_inputs(model, SAMPLES, seed=1)
    ran = board_run.run_samples(out / pipeline.ELF, "qemu", judge.by_sample(inputs))
    exactness = judge.exactness(model, inputs, ran.outputs)
    assert (exactness.samples, exactness.mismatches) == (SAMPLES, 0)


def test_outputs_depend_on_inputs(deployed: tuple[str, Path]) -> None:
    """A constant answer would be exact too, if the reference were constant on these inputs."""
    model = load.load(zoo.path(deployed[0]))
    expected = oracle.reference_outputs(model, judge.exactness_inputs(model, SAMPLES, seed=0))[0]
    assert len(np.unique(expected.reshape(SAMPLES, -1), axis=0)) > SAMPLES // 4


def test_arena_is_no_larger_than_that_of_tflite_micro(deployed: tuple[str, Path]) -> None:
    name, out = deployed
    memory = codec.read(out).memory
    assert memory.arena_planned_bytes <= TFLM_ARENA[name]
    assert memory.arena_measured_bytes is not None
    assert memory.arena_measured_bytes <= memory.arena_planned_bytes


def test_clock_rules_hold_and_the_board_runs_at_full_speed(deployed: tuple[str, Path]) -> None:
    report = codec.read(deployed[1])
    assert report.board.clock_hz == 168_000_000
    assert not [note for note in report.notes if "violation" in note]


@pytest.mark.parametrize("name", NETWORKS)
def test_the_baseline_keeps_to_direct_kernels_and_is_exact(name: str, tmp_path: Path) -> None:
    report = pipeline.deploy(
        DeployOptions(model=zoo.path(name), out=tmp_path / "out", samples=SAMPLES, config="baseline")
    )
    assert report.exactness is not None and report.exactness.mismatches == 0
    assert not [layer.kernel for layer in report.layers if "winograd" in layer.kernel]
    assert report.memory.arena_planned_bytes <= TFLM_ARENA[name]
    assert report.totals.cycles_per_mac is not None
    assert report.totals.cycles_per_mac <= CYCLES_PER_MAC[name]  # modelled, hence the same on every machine


@pytest.mark.parametrize("name", NETWORKS)
def test_the_plain_c_references_compute_the_same(name: str, tmp_path: Path) -> None:
    """The oracle of the kernels is itself held to TFLite, on the host."""
    from rqdkm.export import host

    options = DeployOptions(model=zoo.path(name), out=tmp_path / "out", kernels="reference", board="none")
    pipeline.deploy(options)
    model = load.load(zoo.path(name))
    inputs = judge.exactness_inputs(model, SAMPLES, seed=2)
    outputs = host.run(host.build_host_runner(tmp_path / "out" / pipeline.PROJECT), inputs)
    expected = oracle.reference_outputs(model, inputs)
    assert all(np.array_equal(a, b) for a, b in zip(outputs, expected, strict=True))
