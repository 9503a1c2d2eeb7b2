"""Deep Q-learning of the dispatch policy: replay memory, target network, double Q; NumPy, seeded.

V. Mnih et al., "Human-level control through deep reinforcement learning", 2015; H. van Hasselt et al., "Deep
reinforcement learning with double Q-learning", 2016. The network has two hidden ReLU layers on seven inputs, so small
that NumPy trains it in a quarter of a minute; it becomes integers by :func:`rqdkm.dkm.policy.quantize`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm.dkm.environment import Morphing
from rqdkm.dkm.policy import Policy, Weights, quantize, shift_of
from rqdkm.dkm.state import RANGES

Array = npt.NDArray[Any]
Network = list[Array]  # w1, b1, w2, b2, w3, b3; weights (outputs, inputs)
Progress = Callable[[str], None]


@dataclass(frozen=True)
class Training:
    """Settings of a run; ``steps`` are frames. The last half of the updates learns with the integers of the chip."""

    steps: int = 60_000
    hidden: tuple[int, int] = (12, 12)
    replay: int = 60_000
    batch: int = 256
    every: int = 3  # frames from update to update
    discount: float = 0.0  # no choice changes what comes next
    rate: float = 3e-3
    target_every: int = 500
    warm_up: int = 1_000
    seed: int = 0


def train(env: Morphing, settings: Training = Training(), progress: Progress = lambda _: None) -> Policy:
    """The policy after ``settings.steps`` frames; the same settings and environment give the same bytes.

    What comes next depends on no choice, and the environment knows what every kernel would have brought. So every frame
    teaches all Q values, nothing has to be explored, and what no choice changes (the mean over the kernels) is left
    out: hard frames would drown the differences. Nor does it matter which of the bad kernels is worst: what is more
    than four times the most that throughput can make, or a thirtieth of a sure error, below the best kernel counts as
    just so far below, or it would take most of so small a network. The loss is the square, not Huber's, which would
    learn medians: a wrong class is rare and dear.
    """
    rng = np.random.default_rng(settings.seed)
    actions, width = len(env.costs.names), len(RANGES)
    net = _random_network(rng, (width, *settings.hidden, actions))
    target = [array.copy() for array in net]
    moments = [(np.zeros_like(a), np.zeros_like(a)) for a in net]
    memory = _Replay(settings.replay, width, actions)
    peaks = [1e-6, 1e-6]
    unit, updates = 1.0, 0
    depth = max(4.0, env.weights.penalty * env.weights.wrong / 30)
    state, _ = env.reset(seed=settings.seed)
    for step in range(settings.steps):
        following, _, done, _, info = env.step(0)
        worse = np.maximum(info["rewards"] - info["rewards"].max(), -depth)
        memory.add(state, worse - worse.mean(), following, done)
        state = following if not done else env.reset()[0]
        if step == settings.warm_up:
            unit = 1.0 / max(
                float(memory.rewards[: memory.filled].std()), 1e-6
            )  # whatever the weights: Q values about 1
        if step >= settings.warm_up and step % settings.every == 0:
            rate = settings.rate * (0.5 + 0.5 * np.cos(np.pi * step / settings.steps))
            batch = memory.draw(rng, settings.batch, unit)
            integers = 2 * step >= settings.steps
            updates += 1
            _learn(net, target, moments, batch, settings.discount, rate, updates, peaks, integers)
        if step % settings.target_every == 0:
            target = [array.copy() for array in net]
        if step % 5_000 == 0:
            progress(f"dqn: frame {step:,} of {settings.steps:,}")
    layers: tuple[Weights, Weights, Weights] = ((net[0], net[1]), (net[2], net[3]), (net[4], net[5]))
    return quantize(layers, peaks)


def forward(net: Network, states: Array) -> list[Array]:
    """Hidden layers and Q values of states (n, inputs)."""
    first = np.maximum(states @ net[0].T + net[1], 0.0)
    second = np.maximum(first @ net[2].T + net[3], 0.0)
    return [first, second, second @ net[4].T + net[5]]


def _random_network(rng: np.random.Generator, widths: tuple[int, ...]) -> Network:
    net: Network = []
    for inputs, outputs in itertools.pairwise(widths):
        net += [rng.normal(0.0, np.sqrt(2.0 / inputs), (outputs, inputs)), np.zeros(outputs)]
    return net


class _Replay:
    def __init__(self, size: int, width: int, actions: int) -> None:
        self.states, self.following = np.zeros((size, width)), np.zeros((size, width))
        self.rewards, self.done = np.zeros((size, actions)), np.zeros((size, 1))
        self.at = self.filled = 0

    def add(self, state: Array, rewards: Array, following: Array, done: bool) -> None:
        i = self.at
        self.states[i], self.rewards[i] = state, rewards
        self.following[i], self.done[i] = following, done
        self.at = (i + 1) % len(self.states)
        self.filled = max(self.filled, i + 1)

    def draw(self, rng: np.random.Generator, count: int, unit: float) -> tuple[Array, ...]:
        i = rng.integers(self.filled, size=count)
        return self.states[i], unit * self.rewards[i], self.following[i], self.done[i]


def _learn(
    net: Network,
    target: Network,
    moments: list[tuple[Array, Array]],
    batch: tuple[Array, ...],
    discount: float,
    rate: float,
    update: int,
    peaks: list[float],
    integers: bool,
) -> None:
    """One Adam step, number ``update`` from 1, on the mean squared error of a batch."""
    states, rewards, following, done = batch
    wanted = rewards
    if discount > 0.0:
        rows = np.arange(len(states))
        best = forward(net, following)[-1].argmax(axis=1)  # chosen by one network, valued by the other
        wanted = rewards + discount * (1.0 - done) * forward(target, following)[-1][rows, best, None]
    values, inputs, used, passed = _values(net, states, peaks, integers)
    slope = (values - wanted) / len(states)
    gradients: list[Array] = []
    for layer in (2, 1, 0):
        gradients = [slope.T @ inputs[layer], slope.sum(0), *gradients]
        if layer:
            slope = (slope @ used[layer]) * passed[layer - 1]
    for array, (m, v), gradient in zip(net, moments, gradients, strict=True):
        m += 0.1 * (gradient - m)
        v += 0.001 * (gradient**2 - v)
        m_hat, v_hat = m / (1 - 0.9**update), v / (1 - 0.999**update)
        array -= rate * m_hat / (np.sqrt(v_hat) + 1e-8)


def _values(
    net: Network, states: Array, peaks: list[float], integers: bool
) -> tuple[Array, list[Array], list[Array], list[Array]]:
    """Q values, and by layer what gradients need: inputs, weights, where hidden values are neither cut off nor
    saturated.

    Args:
        peaks: the greatest hidden values met lately, by layer; kept up to date.
        integers: compute with weights and hidden values as :func:`rqdkm.dkm.policy.quantize` makes them; rounding is
            taken to be the identity where gradients go back (Y. Bengio et al., "Estimating or Propagating Gradients
            Through Stochastic Neurons", 2013).
    """
    x, unit = states, 1.0 / 127.0
    inputs, used, passed = [], [], []
    for layer in range(3):
        weights, bias = net[2 * layer], net[2 * layer + 1]
        scale = max(float(np.abs(weights).max()), 1e-9) / 127.0
        if integers:
            weights, bias = np.rint(weights / scale) * scale, np.rint(bias / (scale * unit)) * (scale * unit)
        inputs.append(x)
        used.append(weights)
        x = x @ weights.T + bias
        if layer == 2:
            break
        open_ = x > 0
        x = np.maximum(x, 0.0)
        peaks[layer] = max(0.9995 * peaks[layer], float(x.max()))
        if integers:
            unit *= scale * 2.0 ** shift_of(peaks[layer], scale * unit)
            x = np.floor(x / unit + 1e-9)
            open_ &= x <= 127
            x = np.minimum(x, 127) * unit
        passed.append(open_)
    return x, inputs, used, passed
