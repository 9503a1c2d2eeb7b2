"""The world the DQN learns in, its traces, and that learning finds what is there to be found."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest

from rqdkm.dkm import dqn, evaluate, study, traces
from rqdkm.dkm.costs import Costs
from rqdkm.dkm.environment import Morphing, Weights
from rqdkm.dkm.policy import Policy
from rqdkm_tvm.errors import DataError

NAMES = ("3x3", "1x1", "5x5")


def costs(samples: int = 200) -> Costs:
    """Two levels of noise: in clear frames all kernels are right, in noisy ones (SNR 0 dB) only the slow ones."""
    right = np.ones((2, samples, 3), bool)
    right[1, :, 1] = False
    statistics = np.zeros((2, samples, 3), np.float32)
    statistics[0, :, 2], statistics[1, :, 2] = 30.0, 0.0
    return Costs(
        NAMES, 0, np.array([4e6, 1e6, 12e6]), np.array([0.5, 0.4, 0.9]), np.array([0.0, 1.0]), statistics, right
    )


def made(seeds: range, kind: str = "mixed", frames: int = 400) -> list[traces.Trace]:
    return [traces.make(seed, kind, frames=frames, levels=2) for seed in seeds]


@pytest.mark.parametrize("kind", [*traces.LOADS, "mixed"])
def test_traces_are_seeded_varied_and_in_range(kind: str) -> None:
    one, same, other = (traces.make(seed, kind, frames=1200, levels=3) for seed in (1, 1, 2))
    for field in fields(traces.Trace):
        values = getattr(one, field.name)
        assert len(values) == 1200 and np.array_equal(values, getattr(same, field.name))
    assert not np.array_equal(one.load, other.load)
    assert one.load.min() >= 0 and one.load.max() <= 0.9 and one.load.std() > 0.01
    assert set(np.unique(one.noise)) <= {0, 1, 2} and set(one.clock) <= set(traces.CLOCKS)


def test_a_frame_takes_its_cycles_over_what_is_left_of_the_clock() -> None:
    trace = replace(
        made(range(1))[0],
        **{
            name: np.full(400, value)
            for name, value in (("load", 0.5), ("memory", 0.3), ("clock", 84e6), ("limit", 3.0))
        },
        noise=np.zeros(400, np.int64),
    )
    env = Morphing(costs(), [trace])
    env.reset(seed=0)
    assert env.seconds == pytest.approx([4e6 / 42e6, 1e6 / 42e6, 12e6 / 42e6])
    # limit: three times 4e6 cycles at 168 MHz; the third kernel is too slow and needs more than 0.7 of the memory
    rewards, missed, overrun = env.rewards()
    assert missed.tolist() == [True, False, True] and overrun.tolist() == [False, False, True]
    assert rewards == pytest.approx([1 / 4 - 1, 1.0, 1 / 12 - 1])
    assert env.state()[3] == pytest.approx((3 * 4 / 168 - 4 / 42) / (4 / 42))
    given = Morphing(costs(), [trace], unit=2e6)
    given.reset(seed=0)
    assert given.limit == pytest.approx(env.limit / 2)
    deciding = Morphing(replace(costs(), deciding=1e6), [trace])
    deciding.reset(seed=0)  # frames take longer, the chip's slack is of the kernel alone
    assert deciding.seconds == pytest.approx([5e6 / 42e6, 2e6 / 42e6, 13e6 / 42e6])
    assert deciding.state()[3] == env.state()[3]
    assert deciding.rewards()[0] == pytest.approx([1 / 5 - 1, 1 / 2, 1 / 13 - 1])
    assert deciding.without_deciding().costs.frame.tolist() == [4e6, 1e6, 12e6]
    _, reward, done, _, info = env.step(1)
    assert reward == pytest.approx(1.0) and info["right"] and not done
    assert info["seconds"] == pytest.approx(1e6 / 42e6)


def test_an_episode_is_a_trace_and_slow_kernels_take_longer_for_the_same_frames() -> None:
    env = Morphing(costs(), made(range(3)))
    slow, fast = evaluate.run(env, "slow", evaluate.fixed(2)), evaluate.run(env, "fast", evaluate.fixed(1))
    assert fast.frames == slow.frames == 1200
    assert fast.frames_per_second == pytest.approx(12 * slow.frames_per_second)
    assert slow.accuracy == 1.0 and fast.accuracy < 0.9


def test_losses_against_another_network_have_intervals_by_sample() -> None:
    """Clear frames: it errs on every fourth sample, we on none. Noisy ones: we err on all, it on none."""
    it = Costs(
        ("fixed",), 0, np.array([4e6]), np.array([0.5]), costs().levels, costs().statistics, np.ones((2, 200, 1), bool)
    )
    it.right[0, ::4] = False
    mixed = made(range(3))
    found = evaluate.run(Morphing(costs(), mixed, reference=it), "", evaluate.fixed(1))
    reference = found.reference
    assert reference is not None
    assert reference.loss == pytest.approx(reference.accuracy - found.accuracy)
    assert found.clean == 1.0 and reference.clean_loss < 0.0 < reference.loss
    clean = sum(int((trace.noise == 0).sum()) for trace in mixed)
    low, high = reference.clean_loss_ci95
    assert low < -0.25 < high
    alone = 1.96 * np.sqrt(0.25 * 0.75 / clean)  # of frames that each show a sample of their own
    assert 0.8 * alone < (high - low) / 2 < 3 * alone
    noisy = [replace(trace, noise=np.ones(400, np.int64)) for trace in mixed]
    reference = evaluate.run(Morphing(costs(), noisy, reference=it), "", evaluate.fixed(1)).reference
    assert reference is not None and reference.loss == 1.0 and np.isnan(reference.clean_loss)


def test_wrong_answers_cost_what_their_weight_says() -> None:
    env = Morphing(costs(), made(range(1)), Weights(penalty=2.0, wrong=0.5))
    env.reset(seed=0)
    env.right = np.array([True, False, True])
    env.limit = 100.0
    env.memory = 0.0
    assert env.rewards()[0] == pytest.approx([1 / 4, 1.0 - 2.0 * 0.5, 1 / 12])


def test_learning_beats_every_fixed_kernel_and_chance_on_traces_it_has_not_seen() -> None:
    """And comes near the oracle, since here the SNR tells all. The same seed gives the same policy."""
    weights = Weights(penalty=1.0, wrong=1.5)
    settings = dqn.Training(steps=6_000, warm_up=200, hidden=(12, 12))
    policy = dqn.train(Morphing(costs(), made(range(6)), weights), settings)
    assert dqn.train(Morphing(costs(), made(range(6)), weights), settings).to_bytes() == policy.to_bytes()
    unseen = Morphing(costs(), made(range(100, 104)), weights)
    found = {outcome.name: outcome for outcome in evaluate.compare(unseen, policy)}
    learned = found.pop("dqn").reward
    best, all_knowing = found.pop("oracle of the noise").reward, found.pop("oracle of the class").reward
    assert all_knowing == best  # here the level of noise decides the class
    assert learned > max(outcome.reward for name, outcome in found.items() if name != "rule")
    assert best >= learned > best - 0.15


def close() -> Costs:
    """Five kernels whose cycles lie close together and which differ by a few points, as trained ones do."""
    right = np.zeros((2, 400, 5), bool)
    for level, shares in enumerate(((0.92, 0.94, 0.90, 0.92, 0.85), (0.72, 0.76, 0.70, 0.73, 0.60))):
        for kernel, share in enumerate(shares):
            right[level, : round(400 * share), kernel] = True
    statistics = np.zeros((2, 400, 3), np.float32)
    statistics[0, :, 2] = 20.0
    names = ("3x3", "5x5", "separable 3x3", "separable 5x5", "1x1")
    cycles = np.array([2.6e6, 5.8e6, 1.35e6, 1.5e6, 1.1e6])
    return Costs(names, 0, cycles, np.full(5, 0.3), np.array([0.0, 0.1]), statistics, right)


def test_integers_of_the_policy_know_close_time_limits() -> None:
    """Where a late frame is as bad as a wrong class, the thresholds between kernels are what matters."""
    env = Morphing(close().expected(), made(range(100, 104)), Weights(penalty=60.0))
    known = evaluate.run(env, "", evaluate.informed)
    policy = study.train(close(), Weights(penalty=60.0), dqn.Training(steps=30_000), attempts=2)
    learned = evaluate.run(env, "", evaluate.dqn(policy))
    assert known.reward >= learned.reward > known.reward - 0.4
    assert learned.missed < known.missed + 0.005
    assert learned.reward > max(evaluate.run(env, "", evaluate.fixed(k)).reward for k in range(5)) + 1.0


def test_of_several_attempts_the_best_on_other_traces_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    def always(_env: Morphing, settings: dqn.Training, _progress: object) -> Policy:
        """Kernel 1, 2, 0, ... by the attempt's seed."""
        bias = np.zeros(3, np.int32)
        bias[settings.seed % 3] = 100
        layers = tuple((np.zeros(shape, np.int8), np.zeros(shape[0], np.int32)) for shape in ((2, 7), (2, 2)))
        return Policy((*layers, (np.zeros((3, 2), np.int8), bias)), (0, 0))

    monkeypatch.setattr(dqn, "train", always)
    env = Morphing(costs().expected(), made(range(4)), Weights())
    best = max(range(3), key=lambda k: evaluate.run(env, "", evaluate.fixed(k)).reward)
    for first in range(3):
        chosen = study.train(costs(), Weights(), dqn.Training(seed=first), attempts=3)
        assert chosen.layers[2][1].argmax() == best


def test_estimates_keep_effects_and_drop_chance() -> None:
    """Accuracies that are the level's plus the kernel's effect come nearer to the truth than plain means."""
    truth = np.array([[0.9], [0.7], [0.6]]) + np.array([[0.0, -0.03, 0.02]])
    rng = np.random.default_rng(1)
    plain = kept = 0.0
    for _ in range(20):
        right = rng.random((3, 400, 3)) < truth[:, None, :]
        three = {"levels": np.arange(3.0), "statistics": np.zeros((3, 400, 3), np.float32)}
        found = replace(costs(400), right=right, **three)
        plain += float(((found.accuracy - truth) ** 2).sum())
        kept += float(((found.estimated - truth) ** 2).sum())
    assert kept < 0.7 * plain
    right = np.ones((2, 400, 3), bool)
    right[1, :, 1] = False  # certain: nothing is chance
    certain = replace(costs(400), right=right)
    assert np.allclose(certain.estimated, certain.accuracy)


def test_no_policy_that_only_knows_the_noise_does_better_than_its_oracle() -> None:
    """Where classes are chance within a level, only the oracle of the class gains from them."""
    right = np.random.default_rng(0).random((2, 200, 3)) < [[[0.9, 0.8, 0.95]], [[0.6, 0.3, 0.9]]]
    env = Morphing(replace(costs(), right=right), made(range(100, 104)), Weights(penalty=1.0, wrong=1.5))
    noise, known = (evaluate.run(env, "", choose) for choose in (evaluate.informed, evaluate.oracle))
    others = [evaluate.run(env, "", evaluate.fixed(k)) for k in range(3)]
    others += [evaluate.run(env, "", choose) for choose in (evaluate.threshold_rule(5.0), evaluate.at_random)]
    assert known.reward > noise.reward + 0.1
    assert noise.reward > max(outcome.reward for outcome in others)


def test_costs_are_kept_in_a_file_and_checked(tmp_path: Path) -> None:
    path = tmp_path / "costs.npz"
    replace(costs(), deciding=5e3).save(path)
    again = Costs.load(path)
    assert again.names == NAMES and np.array_equal(again.right, costs().right)
    assert again.frame.tolist() == [4_005_000, 1_005_000, 12_005_000]
    with pytest.raises(DataError, match='"cycles" has the shape'):
        replace(costs(), cycles=np.ones(2))
    whole = path.read_bytes()
    for damaged in (whole[:100], b"", b"no archive"):
        path.write_bytes(damaged)
        with pytest.raises(DataError, match="cannot read the costs"):
            Costs.load(path)
    np.savez(path, other=np.zeros(3))
    with pytest.raises(DataError, match="cannot read the costs"):
        Costs.load(path)
    with pytest.raises(DataError, match="No such file"):
        Costs.load(tmp_path / "none.npz")


def test_a_lead_counts_only_beyond_its_interval() -> None:
    def result(rewards: list[float]) -> study.Result:
        def outcome(name: str, of: list[float]) -> evaluate.Outcome:
            each = np.array(of)
            return evaluate.Outcome(name, float(each.mean()), each, 1.0, 0.9, 0.9, 0.0, 0.0, 0.9, np.ones(1), 100)

        others = [outcome("always a", [1.0, 2.0, 3.0, 4.0]), outcome("random", [0.0, 0.0, 0.0, 0.0])]
        oracles = [outcome("oracle of the noise", [5.0] * 4), outcome("oracle of the class", [6.0] * 4)]
        return study.Result([outcome("dqn", rewards), *others, *oracles], None, None, 25)  # type: ignore[arg-type]

    steady, lucky = result([1.4, 2.5, 3.5, 4.6]), result([1.0, 2.0, 3.0, 6.0])  # both 0.5 ahead
    assert study.passed(steady) and study.proven(steady)
    assert study.passed(lucky) and not study.proven(lucky)
