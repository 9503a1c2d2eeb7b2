"""Decisions on the virtual board: the same as in Python, faults included, and what they cost."""

from __future__ import annotations

import zlib
from dataclasses import dataclass

import numpy as np
import pytest

from rqdkm import kernelbench
from rqdkm.dkm.policy import Policy
from rqdkm.dkm.state import measure_input, normalise
from rqdkm_tvm.kernels.registry import Config, Kernel
from rqdkm_tvm.layer import KernelCall, Layer, Tensor
from tests.dkm.test_decisions import random_policy

SAFE, KERNELS, SAMPLES = 2, 5, 512
GIVEN = (0.25, 0.5, 144e6, -0.1)  # load, memory, clock, slack

BODY = """\
  static rqdkm_policy policy;
  static rqdkm_morph morph;
  rqdkm_morph_state state;
  memcpy(&state, c1, 16);
  if (policy.head == 0) {{
    rqdkm_policy_open(&policy, c0, {size});
    rqdkm_morph_init(&morph, {kernels}, {safe}, rqdkm_dispatch_dqn, &policy);
    if ({warm}) return 0;
  }}
  rqdkm_morph_measure_input(&state, (const int8_t *)in0, {count}, 1, {samples});
  memcpy((uint8_t *)out + 8, &state, 28);
  ((int32_t *)out)[0] = rqdkm_morph_select(&morph, &state);
  ((int32_t *)out)[1] = (int32_t)morph.fallbacks;
  return 0;
"""


@dataclass(frozen=True)
class Decision(Kernel):
    """One call opens the policy, measures a frame and decides; ``warm``: it only opens the policy."""

    blob: bytes
    given: tuple[float, ...]
    warm: bool = False
    name = "decision"
    ops = ("decision",)

    def reject(self, layer: Layer) -> str | None:
        return None

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return 0

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        return 0.0

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        numbers = {"size": len(self.blob), "kernels": KERNELS, "safe": SAFE, "warm": int(self.warm)}
        body = BODY.format(**numbers, count=layer.inputs[0].size, samples=SAMPLES)
        constants = (np.frombuffer(self.blob, np.uint8), np.array(self.given, np.float32))
        return KernelCall("decision", config, constants, 0, body, ("rqdkm/morph.h",))


def frame(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    values = 50 * np.sin(np.arange(1792) / 40 + seed) + rng.normal(0, 3 + 10 * seed, 1792)
    return np.clip(np.rint(values), -128, 127).astype(np.int8).reshape(1, 32, 56, 1)


def candidate(kernel: Decision, seed: int) -> kernelbench.Candidate:
    layer = Layer("decision", "decision", (Tensor((1, 32, 56, 1)),), Tensor((1, 36)))
    return kernelbench.Candidate(layer, (frame(seed),), kernel, {})


def expected(policy: Policy | None, given: tuple[float, ...], seed: int) -> int:
    """CRC of what the board leaves behind: kernel, fallbacks, state."""
    state = np.array([*given, *measure_input(frame(seed), 1, SAMPLES)], np.float32)
    good = policy is not None and np.isfinite(state).all()
    kernel = int(policy.decide(normalise(state)[None])[0]) if good and policy is not None else SAFE
    return zlib.crc32(np.array([kernel, not good], np.int32).tobytes() + state.tobytes())


@pytest.mark.slow
def test_the_board_decides_as_python_does_and_survives_what_is_wrong() -> None:
    made = [random_policy(seed) for seed in range(6)]
    blob = made[0].to_bytes()
    damaged = blob[:40] + bytes([blob[40] ^ 4]) + blob[41:]
    not_finite = [tuple(float("nan") if i == k else v for i, v in enumerate(GIVEN)) for k in range(4)]
    cases = [(policy.to_bytes(), policy, GIVEN, seed) for seed, policy in enumerate(made)]
    cases += [(damaged, None, GIVEN, 1), (b"\0\0\0\0", None, GIVEN, 2)]
    cases += [(blob, made[0], given, 3) for given in not_finite]
    cases.append((blob, made[0], (0.5, float("inf"), 84e6, 0.0), 4))
    found = kernelbench.measure([candidate(Decision(data, given), seed) for data, _, given, seed in cases])
    assert [m.crc for m in found] == [expected(policy, given, seed) for _, policy, given, seed in cases]
    assert len({m.crc for m in found[:6]}) == 6


@pytest.mark.slow
def test_a_decision_costs_less_than_half_a_per_cent_of_two_million_cycles() -> None:
    """Measuring 512 values of the frame and a network of 24 x 24; opening the policy is done once, not per frame."""
    blob = random_policy(9, (24, 24)).to_bytes()
    both, opening = kernelbench.measure([candidate(Decision(blob, GIVEN, warm), 1) for warm in (False, True)])
    assert both.cycles and opening.cycles
    assert 1_000 < both.cycles - opening.cycles < 10_000, (both.cycles, opening.cycles)
