"""Training on some traces, judging on others: the whole course of ``rqdkm dkm train`` and ``compare``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rqdkm.dkm import dqn, evaluate, traces
from rqdkm.dkm.costs import Costs
from rqdkm.dkm.environment import Morphing, Weights
from rqdkm.dkm.evaluate import Outcome
from rqdkm.dkm.policy import Policy

Progress = Callable[[str], None]

# seeds of traces; those that settings or networks were chosen by are not held out
LEARNED, CHOSEN_BY, HELD_OUT = range(24), range(100, 112), range(9000, 9030)
FRAMES = 1200  # of a trace to learn from


@dataclass(frozen=True)
class Result:
    """Outcomes on the held-out mixed traces: the policy first, the two oracles last; and what was compared."""

    outcomes: Sequence[Outcome]
    costs: Costs
    weights: Weights
    frames: int  # of each trace

    @property
    def policy(self) -> Outcome:
        return self.outcomes[0]

    @property
    def others(self) -> Sequence[Outcome]:
        """What the policy has to beat."""
        return self.outcomes[1:-2]

    @property
    def oracle(self) -> Outcome:
        """Of the noise: what can be known before a frame is computed."""
        return self.outcomes[-2]


def _traces(seeds: range, kinds: Sequence[str], frames: int, levels: int) -> list[traces.Trace]:
    return [traces.make(seed, kinds[i % len(kinds)], frames=frames, levels=levels) for i, seed in enumerate(seeds)]


def train(
    costs: Costs,
    weights: Weights,
    settings: dqn.Training,
    progress: Progress = lambda _text: None,
    *,
    attempts: int = 8,
    unit: float | None = None,
) -> Policy:
    """The DQN's policy after learning on traces of every kind, from how often kernels are right; seeded.

    Args:
        attempts: networks to train, from different first weights; of their integers those are taken that have the
            greatest mean reward on further traces, by the same costs.
        unit: of the time limits, as :class:`~rqdkm.dkm.environment.Morphing` takes it.
    """
    expected = costs.expected()
    seen = _traces(LEARNED, (*traces.LOADS, "mixed"), FRAMES, len(costs.levels))
    judge = Morphing(expected, _traces(CHOSEN_BY, ("mixed",), FRAMES, len(costs.levels)), weights, unit=unit)
    found: list[tuple[float, Policy]] = []
    for attempt in range(attempts):
        tried = dataclasses.replace(settings, seed=settings.seed + attempt)
        policy = dqn.train(Morphing(expected, seen, weights, unit=unit), tried, progress)
        found.append((evaluate.run(judge, "dqn", evaluate.dqn(policy)).reward, policy))
        progress(f"dqn: attempt {attempt + 1} of {attempts}: mean reward {found[-1][0]:.3f} on other traces")
    return max(found, key=lambda one: one[0])[1]


def compare(
    policy: Policy | None,
    costs: Costs,
    reference: Costs | None,
    weights: Weights,
    *,
    frames: int = 2000,
    unit: float | None = None,
    progress: Progress = lambda _text: None,
) -> Result:
    """``policy`` beside fixed kernels, rule, chance and oracle on mixed traces that no training saw.

    Args:
        policy: None: the network has one kernel, and is measured alone.
        costs: of the same network as in training, on other samples.
        reference: costs of the network that its speed and accuracy are compared with.
        unit: of the time limits, as :class:`~rqdkm.dkm.environment.Morphing` takes it.

    Raises:
        DataError: ``reference`` was measured on other samples.
    """
    progress(f"{len(HELD_OUT)} held-out traces of {frames:,} frames")
    unseen = _traces(HELD_OUT, ("mixed",), frames, len(costs.levels))
    env = Morphing(costs, unseen, weights, reference, unit)
    outcomes = evaluate.compare(env, policy) if policy is not None else [evaluate.run(env, "fixed", evaluate.fixed(0))]
    return Result(outcomes, costs, weights, frames)


def passed(result: Result) -> bool:
    """Whether the policy has a greater mean reward than everything but the oracles."""
    return all(result.policy.reward > other.reward for other in result.others)


def proven(result: Result) -> bool:
    """Whether its lead over the policy that comes nearest is more than chance: the 95 % interval lies above 0."""
    lead = result.policy.rewards - _nearest(result).rewards
    return bool(lead.mean() > interval(lead))


def least_lead(result: Result) -> str:
    """Over the policy that comes nearest: mean difference of the rewards and its 95 % interval, paired by trace."""
    nearest = _nearest(result)
    lead = result.policy.rewards - nearest.rewards
    return f"{lead.mean():+.3f} ± {interval(lead):.3f} over {nearest.name}"


def _nearest(result: Result) -> Outcome:
    return max(result.others, key=lambda other: other.reward)


def interval(values: npt.NDArray[np.float64]) -> float:
    """Half the 95 % interval of the mean over traces."""
    return 1.96 * float(values.std(ddof=1)) / float(np.sqrt(len(values)))


def table(result: Result) -> str:
    """Markdown: one row per policy, what the reference makes of the frames, and what the kernels cost."""
    head = [
        "policy",
        "reward",
        "95 %",
        "DQN's lead",
        "95 %",
        "frames/s",
        "right",
        "too late",
        "too large",
        "right and in time",
        *result.costs.names,
    ]
    lines = ["| " + " | ".join(head) + " |", "|---|" + "--:|" * (len(head) - 1)]
    for outcome in result.outcomes:
        lead = result.policy.rewards - outcome.rewards
        cells = [
            outcome.name,
            f"{outcome.reward:.4f}",
            f"±{interval(outcome.rewards):.4f}",
            *(("", "") if outcome is result.policy else (f"{lead.mean():+.4f}", f"±{interval(lead):.4f}")),
            f"{outcome.frames_per_second:.2f}",
            f"{outcome.accuracy:.2%}",
            f"{outcome.missed:.2%}",
            f"{outcome.overrun:.2%}",
            f"{outcome.served:.2%}",
            *(f"{share:.0%}" for share in outcome.shares),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    policy, oracle = result.policy, result.oracle
    best = max(outcome.reward for outcome in result.others)
    lines += ["", f"Of the {oracle.reward - best:.4f} between the best other policy and the oracle that knows each "]
    lines[-1] += "frame's level of noise but not its class, the DQN has "
    lines[-1] += f"{(policy.reward - best) / (oracle.reward - best):.0%}." if oracle.reward > best else "all."
    lines[-1] += " Leads are paired by trace."
    if policy.reference is not None:
        r = policy.reference
        low, high = (100 * value for value in r.loss_ci95)
        times = policy.frames_per_second / r.frames_per_second
        lines += [
            "",
            f"Against the baseline on the same frames ({r.frames_per_second:.2f} frames/s, {r.accuracy:.2%} right, "
            f"{r.missed:.2%} too late, {r.served:.2%} right and in time): {times:.2f} times the frames per second, "
            f"loss {100 * r.loss:+.2f} points (95 % {low:+.2f} to {high:+.2f}; negative is better).",
        ]
    return "\n".join(lines) + "\n"


def kernels_table(costs: Costs) -> str:
    """Markdown: what each kernel costs and gets right."""
    rows = [
        f"| {name} | {costs.frame[k]:,.0f} | {costs.memory[k]:.1%} | "
        + " | ".join(f"{value:.2%}" for value in costs.accuracy[:, k])
        + " |"
        for k, name in enumerate(costs.names)
    ]
    return "\n".join(
        [
            f"The kernels: cycles on the virtual board (modelled), {costs.deciding:,.0f} of them for deciding, "
            f"share of the SRAM, and right classes of "
            f"{costs.right.shape[1]:,} samples by level of noise. Safe: {costs.names[costs.safe]}.\n",
            "| kernel | cycles | SRAM | " + " | ".join(f"noise {level:g}" for level in costs.levels) + " |",
            "|---|--:|--:|" + "--:|" * len(costs.levels),
            *rows,
            "",
        ]
    )


def markdown(title: str, result: Result, command: str) -> str:
    """The page of docs/, complete."""
    return "\n".join(
        [
            f"# {title}\n",
            f"Generated by `{command}`; do not edit.\n",
            f"{len(HELD_OUT)} mixed traces of {result.frames:,} frames (seeds {HELD_OUT.start} to {HELD_OUT.stop - 1}; "
            f"learning saw {LEARNED.start} to {LEARNED.stop - 1} and {CHOSEN_BY.start} to {CHOSEN_BY.stop - 1}), "
            "samples that neither training nor learning saw. "
            f"Reward: throughput - {result.weights.penalty:g} x violation, in which a wrong class counts "
            f"{result.weights.wrong:g} (docs/dkm.md). Intervals of rewards are over traces. Fixed kernels and chance "
            "take no time to decide; the rule and the oracles take as much as the DQN.\n",
            table(result),
            kernels_table(result.costs),
        ]
    )
