"""Policies side by side on traces that none of them was made with: the DQN, every fixed kernel, a rule, chance, and two
oracles that know beforehand what no policy can."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm.dkm.environment import Morphing
from rqdkm.dkm.policy import Policy

Array = npt.NDArray[Any]
Choose = Callable[[Morphing, Array, np.random.Generator], int]  # environment, observation -> kernel


@dataclass(frozen=True)
class Outcome:
    """Of one policy on some traces.

    Args:
        reward: mean per frame.
        rewards: mean per frame of every trace, for intervals.
        frames_per_second: frames over the time they took.
        accuracy: share of frames whose class was right; clean: the same of frames at the first level of noise.
        missed: share of frames that took too long; overrun: that needed too much memory.
        served: share of frames that were right, in time and within memory.
        shares: (kernels,) how often each was run.
        frames: of all traces.
        reference: what the reference network makes of the same frames; None without one.
    """

    name: str
    reward: float
    rewards: Array
    frames_per_second: float
    accuracy: float
    clean: float
    missed: float
    overrun: float
    served: float
    shares: Array
    frames: int
    reference: Reference | None = None


@dataclass(frozen=True)
class Reference:
    """A network with one kernel on the frames of an :class:`Outcome`.

    Args:
        loss: of the outcome against it, as a fraction of the frames; negative where the outcome is better.
        loss_ci95: two-sided; frames that show one sample are no independent ones, so it is by sample.
        clean_loss: the same of the frames at the first level of noise; NaN where there are none.
        clean_loss_ci95: of that.
    """

    frames_per_second: float
    accuracy: float
    missed: float
    served: float
    loss: float
    loss_ci95: tuple[float, float]
    clean_loss: float
    clean_loss_ci95: tuple[float, float]


def fixed(kernel: int) -> Choose:
    return lambda _env, _state, _rng: kernel


def dqn(policy: Policy) -> Choose:
    """The integers of the chip."""

    def choose(_env: Morphing, state: Array, _rng: np.random.Generator) -> int:
        return int(policy.decide(np.rint(state[None] * 127).astype(np.int8))[0])

    return choose


def informed(env: Morphing, _state: Array, _rng: np.random.Generator) -> int:
    """The best kernel for the frame's true circumstances and level of noise, but not for its class: what can be
    reached without knowing which kernels err on this very frame."""
    return int(env.rewards(expected=True)[0].argmax())


def oracle(env: Morphing, _state: Array, _rng: np.random.Generator) -> int:
    """The best kernel of the frame, known beforehand: no policy that has to guess can do better frame by frame."""
    return int(env.rewards()[0].argmax())


def at_random(env: Morphing, _state: Array, rng: np.random.Generator) -> int:
    return int(rng.integers(len(env.costs.names)))


def threshold_rule(snr: float) -> Choose:
    """What one would write by hand.

    Of the kernels that meet the time limit and fit the free memory, for a noisy frame (SNR below ``snr``, dB) the one
    that is most often right, for a clear one the fastest of those within half a point of it; the fastest of all where
    none fits.
    """

    def choose(env: Morphing, _state: Array, _rng: np.random.Generator) -> int:
        costs = env.costs
        fits = (env.seconds <= env.limit) & (costs.memory <= 1.0 - env.memory)
        if not fits.any():
            return int(costs.cycles.argmin())
        mean = costs.accuracy.mean(axis=0)
        best = mean[fits].max()
        wanted = fits & (mean >= best) if env.statistics[2] < snr else fits & (mean >= best - 0.005)
        return int(np.where(wanted, costs.cycles, np.inf).argmin())

    return choose


def run(env: Morphing, name: str, choose: Choose, *, seed: int = 0) -> Outcome:
    """All traces of ``env``, each once. Every policy meets the same frames."""
    rng = np.random.default_rng(seed)
    rewards: list[float] = []
    theirs = np.zeros(4)  # of the reference: seconds, frames missed, right, right and in time
    clean = np.zeros(2)  # frames without added noise, those of them that are right
    # by sample, of all frames and of those without added noise: frames that it alone gets right less ours; frames
    lost = np.zeros((env.costs.right.shape[1], 2, 2))
    right = missed = overrun = served = frames = 0
    seconds = 0.0
    shares = np.zeros(len(env.costs.names))
    for index in range(len(env.traces)):
        state, _ = env.reset(seed=seed + index, options={"trace": index})
        total, count, done = 0.0, 0, False
        while not done:
            action = choose(env, state, rng)
            untouched = int(env.trace.noise[env.frame]) == 0
            state, reward, done, _, info = env.step(action)
            total, count = total + reward, count + 1
            shares[action] += 1
            right += info["right"]
            clean += (untouched, untouched and info["right"])
            missed += info["missed"]
            seconds += info["seconds"]
            overrun += info["overrun"]
            served += info["right"] and not info["missed"] and not info["overrun"]
            if env.reference is not None:
                taken, late, good = info["reference"]
                theirs += (taken, late, good, good and not late)
                lost[info["sample"], : 1 + untouched] += (float(good) - float(info["right"]), 1.0)
        rewards.append(total / count)
        frames += count
    means = np.array(rewards)
    return Outcome(
        name,
        float(means.mean()),
        means,
        frames / seconds,
        right / frames,
        float(clean[1] / clean[0]) if clean[0] else float("nan"),
        missed / frames,
        overrun / frames,
        served / frames,
        shares / frames,
        frames,
        None if env.reference is None else _reference(theirs, lost, frames),
    )


def _reference(theirs: Array, lost: Array, frames: int) -> Reference:
    return Reference(
        frames / theirs[0],
        theirs[2] / frames,
        theirs[1] / frames,
        theirs[3] / frames,
        *_mean(lost[:, 0]),
        *_mean(lost[:, 1]),
    )


def _mean(lost: Array) -> tuple[float, tuple[float, float]]:
    """Mean over frames and its interval, of sums and counts by sample, (samples, 2).

    Variance by sample: sum of squares of the samples' sums about the mean (cluster-robust).
    """
    sums, counts = lost.T
    frames = counts.sum()
    if not frames:
        return float("nan"), (float("nan"), float("nan"))
    mean = float(sums.sum() / frames)
    half = NormalDist().inv_cdf(0.975) * float(np.sqrt(((sums - mean * counts) ** 2).sum()) / frames)
    return mean, (mean - half, mean + half)


def compare(env: Morphing, policy: Policy, *, seed: int = 0, snr: float = 5.0) -> Sequence[Outcome]:
    """The DQN first, then every fixed kernel, the rule, chance and the two oracles. Fixed kernels and chance look at no
    input and ask nobody: their frames are without the cycles of that."""
    free = env.without_deciding()
    found = [run(env, "dqn", dqn(policy), seed=seed)]
    found += [run(free, f"always {name}", fixed(k), seed=seed) for k, name in enumerate(env.costs.names)]
    found.append(run(env, "rule", threshold_rule(snr), seed=seed))
    found.append(run(free, "random", at_random, seed=seed))
    found.append(run(env, "oracle of the noise", informed, seed=seed))
    found.append(run(env, "oracle of the class", oracle, seed=seed))
    return found
