"""What the chip decides: the same as its Python twin on any state, and the safe kernel wherever there is no answer."""

from __future__ import annotations

import ctypes
import itertools
import math
import random
import struct
import zlib

import numpy as np
import pytest

from rqdkm.dkm import dqn
from rqdkm.dkm import policy as policies
from rqdkm.dkm.policy import MOST_BIAS, Policy
from rqdkm.dkm.state import RANGES, measure_input, normalise, slack_of
from rqdkm_tvm.errors import DataError
from tests.dkm import library

NAMES = tuple(RANGES)
ORDINARY = dict(zip(NAMES, (0.3, 0.5, 168e6, 0.2, -40.0, 2000.0, 12.0), strict=True))


def random_policy(seed: int, hidden: tuple[int, int] = (24, 17), kernels: int = 5) -> Policy:
    rng = np.random.default_rng(seed)
    widths = (7, *hidden, kernels)
    layers = [
        (rng.integers(-128, 128, (o, i)).astype(np.int8), rng.integers(-4000, 4000, o).astype(np.int32))
        for i, o in itertools.pairwise(widths)
    ]
    return Policy((layers[0], layers[1], layers[2]), (int(rng.integers(5, 10)), int(rng.integers(5, 10))))


def random_states(count: int, seed: int = 0) -> np.ndarray:
    """In and around the ranges, ends included."""
    rng = np.random.default_rng(seed)
    columns = []
    for low, high in RANGES.values():
        width = high - low
        column = rng.uniform(low - 0.2 * width, high + 0.2 * width, count)
        column[rng.integers(0, count, count // 8)] = low
        column[rng.integers(0, count, count // 8)] = high
        columns.append(column)
    return np.stack(columns, axis=1).astype(np.float32)


def opened(blob: bytes) -> tuple[int, library.Policy, object]:
    memory = library.aligned(blob)
    policy = library.Policy()
    return library.load().rqdkm_policy_open(ctypes.byref(policy), memory, len(blob)), policy, memory


def select(morph: library.Morph, **changed: float) -> int:
    state = library.State(**{**ORDINARY, **changed})
    return int(library.load().rqdkm_morph_select(ctypes.byref(morph), ctypes.byref(state)))


def morph_with(policy: library.Policy | None, kernels: int = 5, safe: int = 2) -> library.Morph:
    morph = library.Morph()
    dqn = ctypes.cast(library.load().rqdkm_dispatch_dqn, ctypes.c_void_p)
    context = None if policy is None else ctypes.cast(ctypes.pointer(policy), ctypes.c_void_p)
    library.load().rqdkm_morph_init(ctypes.byref(morph), kernels, safe, dqn, context)
    return morph


# ---- the same as in Python


def test_states_are_seen_as_in_python() -> None:
    states = random_states(2000)
    wanted = normalise(states)
    assert {-127, 127} <= set(wanted.ravel().tolist())
    for state, seen in zip(states, wanted, strict=True):
        inputs = (ctypes.c_int8 * 7)()
        assert library.load().rqdkm_morph_normalise(ctypes.byref(library.State(*state.tolist())), inputs) == 0
        assert list(inputs) == seen.tolist()


@pytest.mark.parametrize("hidden", [(24, 17), (1, 1), (32, 32)])
def test_values_and_decisions_are_those_of_python(hidden: tuple[int, int]) -> None:
    wanted = random_policy(sum(hidden), hidden)
    status, policy, _memory = opened(wanted.to_bytes())
    assert status == 0
    states = random_states(1000, seed=1)
    inputs = normalise(states)
    expected = wanted.values(inputs)
    kernels = wanted.decide(inputs)
    assert len(set(kernels.tolist())) > 1 or max(hidden) == 1
    morph = morph_with(policy)
    for state, seen, values, kernel in zip(states, inputs, expected, kernels, strict=True):
        found = (ctypes.c_int32 * 5)()
        library.load().rqdkm_policy_values(ctypes.byref(policy), (ctypes.c_int8 * 7)(*seen.tolist()), found)
        assert list(found) == values.tolist()
        chosen = library.load().rqdkm_morph_select(ctypes.byref(morph), ctypes.byref(library.State(*state.tolist())))
        assert chosen == kernel
    assert morph.fallbacks == 0 and morph.frames == 1000
    assert list(morph.chosen) == np.bincount(kernels, minlength=5).tolist()


def test_equal_values_take_the_first_kernel() -> None:
    made = random_policy(3)
    (w3, b3) = made.layers[2]
    same = Policy((made.layers[0], made.layers[1], (np.zeros_like(w3), np.full_like(b3, 7))), made.shifts)
    _, policy, _memory = opened(same.to_bytes())
    assert select(morph_with(policy)) == same.decide(normalise(random_states(1)))[0] == 0


@pytest.mark.parametrize(("pitch", "most"), [(1, 4096), (3, 200), (16, 16), (1, 1_000_000)])
def test_the_input_is_measured_as_in_python(pitch: int, most: int) -> None:
    rng = np.random.default_rng(pitch)
    frames = [
        rng.integers(-128, 128, 1792),
        np.clip(np.cumsum(rng.normal(0, 3, 5000)), -128, 127),
        np.full(64, -128),
        rng.choice([-128, 127], 9001),
        np.arange(20),
    ]
    for frame in frames:
        values = frame.astype(np.int8)
        state = library.State()
        pointer = values.ctypes.data_as(ctypes.c_void_p)
        library.load().rqdkm_morph_measure_input(ctypes.byref(state), pointer, values.size, pitch, most)
        wanted = measure_input(values, pitch, most)
        assert (state.mean, state.variance, state.snr) == tuple(map(float, wanted))


def test_what_is_measured_is_what_it_says() -> None:
    """Mean and variance to a part of the last digit; more noise is less SNR."""
    rng = np.random.default_rng(0)
    clear = 60 * np.sin(np.arange(4000) / 60)
    snr = []
    for noise in (2, 8, 30):
        frame = np.clip(np.rint(clear + rng.normal(0, noise, 4000)), -128, 127).astype(np.int8)
        mean, variance, found = measure_input(frame, 1, 4096)
        assert mean == pytest.approx(frame.mean(), abs=0.05)
        assert variance == pytest.approx(frame.var(), rel=0.002)
        assert found == pytest.approx(10 * math.log10(frame.astype(float).var() / noise**2), abs=2.0)
        snr.append(float(found))
    assert snr[0] > snr[1] > snr[2]


def test_integers_decide_as_the_float_network_does() -> None:
    rng = np.random.default_rng(5)
    first, second, last = (
        (rng.normal(0, 1 / np.sqrt(i), (o, i)), rng.normal(0, 0.2, o)) for i, o in ((7, 24), (24, 24), (24, 5))
    )
    layers = (first, second, last)
    states = normalise(random_states(4000, seed=6))
    x = states / 127.0
    greatest = []
    for number, (weights, bias) in enumerate(layers):
        x = x @ weights.T + bias
        x = np.maximum(x, 0) if number < 2 else x
        greatest.append(float(x.max()))
    made = policies.quantize(layers, greatest)
    assert (made.decide(states) == x.argmax(axis=1)).mean() > 0.97
    assert Policy.from_bytes(made.to_bytes()).to_bytes() == made.to_bytes()


def test_training_computes_what_the_chip_will() -> None:
    """With the integers and shifts of the policy that is made of the network."""
    net = dqn._random_network(np.random.default_rng(3), (7, 12, 12, 5))
    states, peaks = normalise(random_states(2000, seed=4)), [1e-6, 1e-6]
    values, *_ = dqn._values(net, states / 127.0, peaks, integers=True)
    layers = ((net[0], net[1]), (net[2], net[3]), (net[4], net[5]))
    whole = policies.quantize(layers, peaks).values(states)
    row, column = np.unravel_index(np.abs(whole).argmax(), whole.shape)
    assert np.abs(whole).max() > 100
    assert np.allclose(values, whole * (values[row, column] / whole[row, column]), atol=1e-9)


# ---- no answer


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_state_without_a_number_takes_the_safe_kernel(name: str, value: float) -> None:
    _, policy, _memory = opened(random_policy(1).to_bytes())
    morph = morph_with(policy, safe=3)
    assert select(morph, **{name: value}) == 3
    assert (morph.fallbacks, morph.last) == (1, library.BAD_STATE)
    select(morph)
    assert (morph.fallbacks, morph.last, morph.frames) == (1, library.OK, 2)
    with pytest.raises(ValueError, match="NaN"):
        normalise(np.array([list({**ORDINARY, name: value}.values())], np.float32))


@pytest.mark.parametrize("answer", [-1, 5, 2**31 - 1, -(2**31)])
def test_an_answer_out_of_range_takes_the_safe_kernel(answer: int) -> None:
    morph, own = library.Morph(), library.Dispatch(lambda _state, _context: answer)
    library.load().rqdkm_morph_init(ctypes.byref(morph), 5, 1, ctypes.cast(own, ctypes.c_void_p), None)
    assert select(morph) == 1
    assert (morph.fallbacks, morph.last, list(morph.chosen)) == (1, library.BAD_DECISION, [0, 1, 0, 0, 0])


def test_own_functions_and_fixed_kernels_are_obeyed() -> None:
    seen: list[float] = []

    def decide(state: object, _context: object) -> int:
        seen.append(state.contents.snr)  # type: ignore[attr-defined]
        return 4

    morph, own = library.Morph(), library.Dispatch(decide)
    library.load().rqdkm_morph_init(ctypes.byref(morph), 5, 1, ctypes.cast(own, ctypes.c_void_p), None)
    assert select(morph, snr=7.0) == 4 and seen == [7.0]
    kernel = ctypes.c_int32(3)
    fixed = ctypes.cast(library.load().rqdkm_dispatch_fixed, ctypes.c_void_p)
    context = ctypes.cast(ctypes.pointer(kernel), ctypes.c_void_p)
    library.load().rqdkm_morph_init(ctypes.byref(morph), 5, 1, fixed, context)
    assert morph.selected == 1 and select(morph) == 3 and morph.fallbacks == 0


def test_without_policy_or_function_the_safe_kernel_runs() -> None:
    assert select(morph_with(None, safe=4)) == 4
    morph = library.Morph()
    library.load().rqdkm_morph_init(ctypes.byref(morph), 3, 2, None, None)
    assert select(morph) == 2 and morph.fallbacks == 1
    library.load().rqdkm_morph_init(ctypes.byref(morph), 9, 7, None, None)  # nonsense: one kernel, 0
    assert (morph.kernels, morph.safe) == (1, 0)


def test_a_policy_for_more_kernels_than_there_are_is_not_followed_beyond_them() -> None:
    made = random_policy(3)
    w3, b3 = made.layers[2]
    last = b3.copy()
    last[4] = 1 << 27  # always kernel 4
    _, policy, _memory = opened(Policy((*made.layers[:2], (w3, last)), made.shifts).to_bytes())
    morph = morph_with(policy, kernels=3, safe=1)
    assert select(morph) == 1 and morph.last == library.BAD_DECISION


def test_every_damaged_byte_of_a_policy_is_noticed() -> None:
    blob = random_policy(2, (5, 4), 3).to_bytes()
    assert opened(blob)[0] == 0
    for index in range(len(blob)):
        damaged = bytearray(blob)
        damaged[index] ^= 1 << random.Random(index).randrange(8)
        status, policy, _memory = opened(bytes(damaged))
        assert status < 0 and not policy.head, index
        with pytest.raises(DataError):
            Policy.from_bytes(bytes(damaged))
    for length in range(len(blob)):
        status, policy, _memory = opened(blob[:length])
        assert status < 0 and not policy.head, length
        with pytest.raises(DataError):
            Policy.from_bytes(blob[:length])
    assert select(morph_with(policy, safe=4)) == 4


def resigned(blob: bytes) -> bytes:
    return blob[:-4] + struct.pack("<I", zlib.crc32(blob[:-4]))


def test_sizes_that_would_read_or_overflow_are_refused_whatever_the_checksum() -> None:
    blob = random_policy(2, (5, 4), 3).to_bytes()
    for offset, value in ((4, 1), (4, 3), (5, 0), (5, 6), (6, 0), (6, 33), (7, 255), (8, 25), (9, 200), (10, 1)):
        changed = bytearray(blob)
        changed[offset] = value
        assert opened(resigned(bytes(changed)))[0] < 0, offset
    made = random_policy(2, (5, 4), 3)
    w, b = made.layers[0]
    huge = b.astype(np.int64)
    huge[0] = MOST_BIAS + 1
    bad = Policy(((w, huge.astype(np.int32)), *made.layers[1:]), made.shifts)
    assert opened(bad.to_bytes())[0] < 0
    memory = library.aligned(b"\0" + blob)  # one byte off
    policy = library.Policy()
    assert library.load().rqdkm_policy_open(ctypes.byref(policy), ctypes.byref(memory, 1), len(blob)) < 0
    assert library.load().rqdkm_policy_open(ctypes.byref(policy), None, 0) < 0


@pytest.mark.parametrize("load", [0.0, 0.5, 0.95])
@pytest.mark.parametrize("limit", [1e-6, 0.01, 0.0239, 0.0477, 0.5, 30.0])
def test_slack_tells_apart_how_short_and_how_long_a_limit_is(load: float, limit: float) -> None:
    """As Python reckons it, within -1 to 1, and never saturated: kernels faster than the safe one are chosen by it."""
    cycles = (ctypes.c_uint32 * library.KERNELS)(4_000_000, 1_000_000)
    monitor, state = library.Monitor(cycles, 0, load), library.State()
    library.load().rqdkm_morph_sense(ctypes.byref(monitor), 168_000_000, limit, 0.25, ctypes.byref(state))
    needed = 4e6 / (168e6 * (1 - load))
    assert state.slack == pytest.approx(slack_of(limit, needed), abs=1e-5)
    assert -1.0 <= state.slack <= 1.0 and (state.slack > 0) == (limit > 1.0001 * needed)
    wanted = (limit - needed) / (limit if limit > needed else needed)
    assert state.slack == pytest.approx(wanted, abs=1e-5) and abs(state.slack) < 1.0


@pytest.mark.parametrize(("limit", "known", "slack"), [(0.0, 4_000_000, 1.0), (-1.0, 4_000_000, 1.0), (0.01, 0, 1.0)])
def test_without_a_limit_or_known_cycles_there_is_time(limit: float, known: int, slack: float) -> None:
    monitor, state = library.Monitor((ctypes.c_uint32 * library.KERNELS)(known), 0, 0.0), library.State()
    library.load().rqdkm_morph_sense(ctypes.byref(monitor), 168_000_000, limit, 0.25, ctypes.byref(state))
    assert state.slack == slack and state.memory == 0.25 and state.clock == 168e6
