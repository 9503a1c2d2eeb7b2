"""The world that the DQN learns in: a chip that computes one frame after the other while its circumstances change.

A frame takes ``cycles[kernel] / (clock * (1 - load))`` seconds, the decision before it included. Reward of a frame::

    throughput - penalty * violation

    throughput   cycles of the fastest kernel / cycles of the one that was run and the decision, 0 to 1
    violation    1 where the frame takes longer than its limit or needs more memory than is free
                 + ``wrong`` where its class is wrong

The last term is what keeps throughput honest: without it the kernel with the fewest products is always best.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from rqdkm.dkm.costs import Costs
from rqdkm.dkm.state import RANGES, normalise, slack_of
from rqdkm.dkm.traces import Trace
from rqdkm_tvm.errors import DataError

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
    actions are kernels. ``info`` of a step has ``seconds``, ``missed``, ``overrun``, ``right``, ``sample`` (which
    one was seen), ``rewards`` (what every kernel would have had) and ``reference``: seconds, missed, right.

    Args:
        costs: of the network.
        traces: one is drawn per episode; with ``options={"trace": i}`` of ``reset`` that one.
        weights: of the reward.
        reference: costs of another network on the same samples, with one kernel: what the frames would have cost it.
        unit: cycles whose time at 168 MHz is the unit of the traces' limits; the safe kernel's unless given.

    Raises:
        DataError: the reference saw other samples or levels of noise.
    """

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 (gymnasium's own declaration)

    def __init__(
        self,
        costs: Costs,
        traces: Sequence[Trace],
        weights: Weights = Weights(),
        reference: Costs | None = None,
        unit: float | None = None,
    ) -> None:
        self.costs, self.traces, self.weights, self.reference = costs, tuple(traces), weights, reference
        if reference is not None and (
            reference.right.shape[:2] != costs.right.shape[:2] or not np.array_equal(reference.levels, costs.levels)
        ):
            raise DataError(
                f"it has {reference.right.shape[1]:,} samples at levels {reference.levels}, "
                f"the morphing network {costs.right.shape[1]:,} at {costs.levels}",
                where="costs of the reference",
                hint="measure both on the same data, levels and seed",
            )
        self.observation_space = gymnasium.spaces.Box(-1.0, 1.0, (len(RANGES),), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(costs.names))  # type: ignore[assignment]
        self._unit = (float(costs.cycles[costs.safe]) if unit is None else unit) / FULL_CLOCK
        self._given = unit

    def without_deciding(self) -> Morphing:
        """The same world for who takes no time to decide."""
        free = replace(self.costs, deciding=0.0)
        return Morphing(free, self.traces, self.weights, self.reference, self._given)

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
            "right": bool(self.right[action] > 0.5),
            "rewards": rewards,
            "sample": self.sample,
        }
        if self.reference is not None:
            taken = float(self.reference.cycles[0]) / (self.clock * (1.0 - self.load))
            info["reference"] = (taken, taken > self.limit, self.reference_right)
        self.frame += 1
        done = self.frame >= len(self.trace)
        if not done:
            self._draw()
        return self._observe(), float(rewards[action]), done, False, info

    def rewards(self, *, expected: bool = False) -> tuple[Array, Array, Array]:
        """Of the frame at hand, by kernel: reward, whether it takes too long, whether it needs too much memory.

        Args:
            expected: over all samples at the frame's level of noise, instead of the one it shows.
        """
        right = self.costs.accuracy[self.level] if expected else self.right
        missed = self.seconds > self.limit
        overrun = self.costs.memory > 1.0 - self.memory
        violation = (missed | overrun) + self.weights.wrong * (1.0 - right)
        throughput = self.costs.cycles.min() / self.costs.frame
        return throughput - self.weights.penalty * violation, missed, overrun

    def _draw(self) -> None:
        """The frame that comes now."""
        i = self.frame
        self.load, self.memory = float(self.trace.load[i]), float(self.trace.memory[i])
        self.clock, level = float(self.trace.clock[i]), int(self.trace.noise[i])
        self.level = level
        self.limit = float(self.trace.limit[i]) * self._unit
        sample = self.sample = int(self.np_random.integers(self.costs.right.shape[1]))
        self.statistics = self.costs.statistics[level, sample]
        self.right = self.costs.right[level, sample].astype(np.float64)
        self.reference_right = self.reference is not None and bool(self.reference.right[level, sample, 0])
        self.seconds = self.costs.frame / (self.clock * (1.0 - self.load))

    def state(self) -> Array:
        """The seven numbers, float32, before they are normalised."""
        alone = float(self.costs.cycles[self.costs.safe]) / (self.clock * (1.0 - self.load))
        slack = slack_of(self.limit, alone)
        numbers = (self.load, self.memory, self.clock, slack, *self.statistics)
        return np.array(numbers, np.float32)

    def _observe(self) -> Array:
        observed: Array = normalise(self.state()).astype(np.float32) / np.float32(127)
        return observed
