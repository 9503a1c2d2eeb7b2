"""The world that the DQN learns in: a chip that computes one frame after the other while its circumstances change.

A frame takes ``cycles[kernel] / (clock * (1 - load))`` seconds. Reward of a frame::

    throughput - penalty * violation

    throughput   cycles of the fastest kernel / cycles of the one that was run, 0 to 1
    violation    1 where the frame takes longer than its limit or needs more memory than is free
                 + ``wrong`` where its class is wrong

The last term is what keeps throughput honest: without it the kernel with the fewest products is always best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from rqdkm.dkm.costs import Costs
from rqdkm.dkm.state import RANGES, normalise
from rqdkm.dkm.traces import Trace

Array = npt.NDArray[Any]

FULL_CLOCK = 168e6


@dataclass(frozen=True)
class Weights:
    """Of the reward, see the module."""

    penalty: float = 1.0
    wrong: float = 1.0


class Morphing(gymnasium.Env[Array, int]):
    """One episode is one trace.

    Observations are the seven numbers of :mod:`rqdkm.dkm.state` as the DQN on the chip sees them, int8 over 127;
    actions are kernels. ``info`` of a step has ``seconds``, ``missed``, ``overrun``, ``right`` and ``rewards``, the
    rewards that every kernel would have had.

    Args:
        costs: of the network.
        traces: one is drawn per episode; with ``options={"trace": i}`` of ``reset`` that one.
        weights: of the reward.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(self, costs: Costs, traces: Sequence[Trace], weights: Weights = Weights()) -> None:
        self.costs, self.traces, self.weights = costs, tuple(traces), weights
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (len(RANGES),), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(costs.names))  # type: ignore[assignment]
        self._safe_seconds = float(costs.cycles[costs.safe]) / FULL_CLOCK

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Array, dict[str, Any]]:
        super().reset(seed=seed)
        chosen = (options or {}).get("trace")
        self.trace = self.traces[int(self.np_random.integers(len(self.traces))) if chosen is None else chosen]
        self.frame = 0
        self._draw()
        return self._observe(), {}

    def step(self, action: int) -> tuple[Array, float, bool, bool, dict[str, Any]]:
        rewards, missed, overrun = self.rewards()
        info = {
            "seconds": float(self.seconds[action]),
            "missed": bool(missed[action]),
            "overrun": bool(overrun[action]),
            "right": bool(self.right[action]),
            "rewards": rewards,
        }
        self.frame += 1
        done = self.frame >= len(self.trace)
        if not done:
            self._draw()
        return self._observe(), float(rewards[action]), done, False, info

    def rewards(self) -> tuple[Array, Array, Array]:
        """Of the frame at hand, by kernel: reward, whether it takes too long, whether it needs too much memory."""
        missed = self.seconds > self.limit
        overrun = self.costs.memory > 1.0 - self.memory
        violation = (missed | overrun) + self.weights.wrong * ~self.right
        throughput = self.costs.cycles.min() / self.costs.cycles
        return throughput - self.weights.penalty * violation, missed, overrun

    def _draw(self) -> None:
        """The frame that comes now."""
        i = self.frame
        self.load, self.memory = float(self.trace.load[i]), float(self.trace.memory[i])
        self.clock, level = float(self.trace.clock[i]), int(self.trace.noise[i])
        self.limit = float(self.trace.limit[i]) * self._safe_seconds
        sample = int(self.np_random.integers(self.costs.right.shape[1]))
        self.statistics = self.costs.statistics[level, sample]
        self.right = self.costs.right[level, sample].astype(bool)
        self.seconds = self.costs.cycles / (self.clock * (1.0 - self.load))

    def state(self) -> Array:
        """The seven numbers, float32, before they are normalised."""
        slack = (self.limit - self.seconds[self.costs.safe]) / self.limit
        numbers = (self.load, self.memory, self.clock, np.clip(slack, -1.0, 1.0), *self.statistics)
        return np.array(numbers, np.float32)

    def _observe(self) -> Array:
        observed: Array = normalise(self.state()).astype(np.float32) / np.float32(127)
        return observed
