"""Firmware with a policy: what it selects, computes and reports is what Python says, fault by fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rqdkm.board import virtual
from rqdkm.board.protocol import BoardClient
from rqdkm.dkm.measure import LOOKED_AT
from rqdkm.dkm.policy import Policy
from rqdkm.dkm.policy_file import PolicyFile
from rqdkm.dkm.state import measure_input, normalise
from rqdkm.export import host, metadata, project
from rqdkm.models import reference
from rqdkm_tvm.compile import CompiledModel, compile_model
from rqdkm_tvm.errors import BoardError, DataError
from rqdkm_tvm.morph.gather import FixKernel
from tests.dkm.test_decisions import random_policy
from tests.morph import networks

SAFE = 0
CYCLES = (900_000, 2_000_000, 300_000, 1_000_000, 200_000)


@pytest.fixture(scope="module")
def model() -> CompiledModel:
    return compile_model(networks.network())


def samples(count: int = 40) -> np.ndarray:
    """Of many means and variances."""
    rng = np.random.default_rng(1)
    spread, middle = rng.uniform(1, 90, (count, 1, 1, 1)), rng.uniform(-90, 90, (count, 1, 1, 1))
    drawn = middle + spread * rng.standard_normal((count, 12, 12, 4))
    return np.clip(np.rint(drawn), -128, 127).astype(np.int8)


@pytest.fixture(scope="module")
def policy() -> PolicyFile:
    """One whose decisions on the samples are of many kinds."""
    states = np.stack([alone(sample) for sample in samples()])
    for seed in range(200):
        found = random_policy(seed, (16, 16))
        if len(set(found.decide(normalise(states)).tolist())) >= 4:
            return PolicyFile(networks.NAMES, SAFE, CYCLES, found)
    raise AssertionError("no such policy")


def alone(sample: np.ndarray, load: float = 0.0) -> np.ndarray:
    """State of a frame that nothing limits."""
    return np.array([load, 0.0, 168e6, 1.0, *measure_input(sample, 4, LOOKED_AT)], np.float32)


def expected(model: CompiledModel, kernels: np.ndarray) -> np.ndarray:
    every = [reference.run_function(FixKernel(k)(model.quantized)["main"], [samples()])[0] for k in range(5)]
    return np.stack([every[k][i] for i, k in enumerate(kernels)])


@pytest.fixture(scope="module")
def written(model: CompiledModel, policy: PolicyFile, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project.write_project(model, tmp_path_factory.mktemp("policy") / "p", name="morph", policy=policy).path


def test_the_host_build_selects_as_python_does(model: CompiledModel, policy: PolicyFile, written: Path) -> None:
    kernels = policy.policy.decide(normalise(np.stack([alone(sample) for sample in samples()])))
    assert len(set(kernels.tolist())) >= 4
    wanted = expected(model, kernels)
    found = host.run(host.build_host_runner(written), [samples()])[0]
    assert np.array_equal(found.reshape(wanted.shape), wanted)


def test_the_board_selects_as_python_does_whatever_it_is_told(
    model: CompiledModel, policy: PolicyFile, written: Path
) -> None:
    rng = np.random.default_rng(2)
    contexts = np.stack([rng.uniform(0, 0.9, 40), rng.uniform(0, 1, 40), rng.uniform(16e6, 168e6, 40)], axis=1)
    contexts = np.concatenate([contexts, rng.uniform(-1, 1, (40, 1))], axis=1).astype(np.float32)
    contexts[7, 1], contexts[23, 3] = np.nan, np.inf
    wanted = []
    for sample, context in zip(samples(), contexts, strict=True):
        state = np.array([*context, *measure_input(sample, 4, LOOKED_AT)], np.float32)
        good = bool(np.isfinite(state).all())
        wanted.append(int(policy.policy.decide(normalise(state)[None])[0]) if good else SAFE)
    assert len(set(wanted)) >= 3
    outputs = expected(model, np.array(wanted))
    with_client = start(project.build(written))
    try:
        assert with_client.info.has_policy
        for number, (sample, context) in enumerate(zip(samples(), contexts, strict=True)):
            with_client.context(*map(float, context))
            ran = with_client.infer([sample[None]])
            selection = with_client.selection()
            assert selection.selected == wanted[number]
            assert selection.event == (1 if number in (7, 23) else 0)
            assert np.array_equal(ran.outputs[0].ravel(), outputs[number].ravel())
            assert 0 < selection.cycles < 12_000
        assert (selection.frames, selection.fallbacks, selection.kernels) == (40, 2, 5)
    finally:
        with_client.close()


def test_load_is_what_frames_take_longer_than_alone(model: CompiledModel, policy: PolicyFile, tmp_path: Path) -> None:
    """Told that frames take half the cycles they do, the board sees a load that grows towards a half."""
    first = start(project.build(project.write_project(model, tmp_path / "a", name="m", policy=policy).path))
    try:
        cycles = {first.selection().selected: 0 for _ in ()}
        for sample in samples():
            ran = first.infer([sample[None]])
            assert ran.cycles is not None
            selection = first.selection()
            cycles.setdefault(selection.selected, ran.cycles - selection.cycles)
    finally:
        first.close()
    half = replace(policy, cycles=tuple(cycles.get(k, 1000) // 2 for k in range(5)))
    board = start(project.build(project.write_project(model, tmp_path / "b", name="m", policy=half).path))
    try:
        load = np.float32(0)
        for sample in samples(12):
            ran = board.infer([sample[None]])
            state = alone(sample, float(load))
            assert board.selection().selected == int(policy.policy.decide(normalise(state)[None])[0])
            assert ran.cycles is not None
            taken = np.float32(ran.cycles - board.selection().cycles)
            met = (taken - np.float32(half.cycles[board.selection().selected])) / taken
            load = load + np.float32(0.5) * (met - load)
        assert 0.4 < load < 0.6
    finally:
        board.close()


def test_a_damaged_policy_means_the_safe_kernel_and_is_reported(
    model: CompiledModel, policy: PolicyFile, tmp_path: Path
) -> None:
    path = project.write_project(model, tmp_path / "p", name="morph", policy=policy).path
    source = path / "model" / "policy.c"
    text = source.read_text()
    word = text.split("{\n    ")[1].split(",")[3].strip()
    source.write_text(text.replace(word, "0x12345678u", 1))
    board = start(project.build(path))
    try:
        for sample, wanted in zip(samples()[:3], expected(model, np.zeros(40, int)), strict=False):
            assert np.array_equal(board.infer([sample[None]]).outputs[0].ravel(), wanted.ravel())
        selection = board.selection()
        assert (selection.selected, selection.event, selection.frames, selection.fallbacks) == (SAFE, 2, 3, 3)
    finally:
        board.close()


def test_firmware_without_a_policy_has_no_selection(model: CompiledModel, tmp_path: Path) -> None:
    board = start(project.build(project.write_project(model, tmp_path / "p", name="morph").path))
    try:
        assert not board.info.has_policy
        with pytest.raises(BoardError, match="MORPH was refused: UNKNOWN"):
            board.selection()
    finally:
        board.close()


def test_policy_files_are_kept_and_checked(policy: PolicyFile, model: CompiledModel, tmp_path: Path) -> None:
    path = tmp_path / "policy.json"
    policy.save(path)
    again = PolicyFile.load(path)
    assert (again.names, again.safe, again.cycles) == (policy.names, policy.safe, policy.cycles)
    assert again.policy.to_bytes() == policy.policy.to_bytes()
    assert metadata.kernels(metadata.metadata(model, "", "stm32f407")) == (networks.NAMES, SAFE)
    text = path.read_text()
    for old, new, reason in (
        ('"rqdkm.policy"', '"other"', "no policy of a version"),
        ('"safe": 0', '"safe": 9', "out of range"),
        ('"blob": "', '"blob": "!', "no policy"),
        ('"cycles": 900000', '"cycles": 0', "out of range"),
    ):
        assert old in text
        path.write_text(text.replace(old, new, 1))
        with pytest.raises(DataError, match=reason):
            PolicyFile.load(path)
    with pytest.raises(DataError, match="cannot read the policy"):
        PolicyFile.load(tmp_path / "none.json")
    assert isinstance(again.policy, Policy)


def start(elf: Path) -> BoardClient:
    client = BoardClient(virtual.start(elf), elf=elf, where="virtual board")
    client.connect(ready_timeout_s=30.0)
    return client
