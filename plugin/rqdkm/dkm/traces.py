"""What happens around the inference: load of the rest, clock, time limits, free memory and noise, by frame; seeded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

CLOCKS = (168e6, 144e6, 120e6, 84e6)  # Hz, of the board's clock points those that a network is run at


@dataclass(frozen=True)
class Trace:
    """Entries of one length, one per frame, so that every policy meets the same.

    Args:
        load: share of the CPU that the rest takes, 0 to below 1.
        memory: share of the working memory that the rest takes, 0 to 1.
        clock: core clock, Hz.
        limit: time that a frame may take, in the environment's unit.
        noise: level of the input's noise, an index into :attr:`rqdkm.dkm.costs.Costs.levels`.
    """

    load: Array
    memory: Array
    clock: Array
    limit: Array
    noise: Array

    def __len__(self) -> int:
        return len(self.load)


def _periodic(rng: np.random.Generator, n: int) -> Array:
    period, duty = rng.integers(20, 120), rng.uniform(0.2, 0.6)
    low, high = sorted(rng.uniform(0.0, 0.75, 2))
    phase = (np.arange(n) + rng.integers(period)) % period
    load: Array = np.where(phase < duty * period, high, low)
    return load


def _bursty(rng: np.random.Generator, n: int) -> Array:
    load, at = np.full(n, rng.uniform(0.0, 0.15)), 0
    while at < n:
        at += int(rng.exponential(60)) + 1
        length = int(rng.exponential(15)) + 1
        load[at : at + length] = rng.uniform(0.4, 0.8)
        at += length
    return load


def _steps(rng: np.random.Generator, n: int) -> Array:
    edges = np.sort(rng.integers(0, n, max(1, n // 150)))
    levels = rng.uniform(0.0, 0.75, len(edges) + 1)
    load: Array = levels[np.searchsorted(edges, np.arange(n), side="right")]
    return load


def _drift(rng: np.random.Generator, n: int) -> Array:
    walk = np.cumsum(rng.normal(0, 0.02, n))
    load: Array = np.abs((walk + rng.uniform(0, 0.5)) % 1.5 - 0.75)
    return load


LOADS: dict[str, Callable[[np.random.Generator, int], Array]] = {
    "periodic": _periodic,
    "bursty": _bursty,
    "steps": _steps,
    "drift": _drift,
}


def _held(rng: np.random.Generator, n: int, values: Array, mean: float) -> Array:
    """Random entries of ``values``, each held for about ``mean`` frames."""
    found: list[Array] = []
    length = 0
    while length < n:
        run = int(rng.exponential(mean)) + 1
        found.append(np.full(run, rng.choice(values)))
        length += run
    return np.concatenate(found)[:n]


def make(seed: int, kind: str, *, frames: int, levels: int) -> Trace:
    """A trace of one kind of load; everything else varies on its own.

    Args:
        kind: a key of :data:`LOADS`, or ``mixed``: a quarter of the frames each.
        levels: how many levels of noise there are.
    """
    rng = np.random.default_rng((seed, sorted((*LOADS, "mixed")).index(kind)))
    n = max(1, frames)
    if kind == "mixed":
        parts = [LOADS[name](rng, -(-n // len(LOADS))) for name in LOADS]
        load = np.concatenate(parts)[:n]
    else:
        load = LOADS[kind](rng, n)
    return Trace(
        load=np.clip(load, 0.0, 0.9),
        memory=_held(rng, n, rng.uniform(0.0, 0.6, 8), 100),
        clock=_held(rng, n, np.array(CLOCKS), 200),
        limit=_held(rng, n, rng.uniform(0.5, 5.0, 16), 60),
        noise=_held(rng, n, np.arange(levels), 80).astype(np.int64),
    )
