"""Vibration of a rotating machine, simulated: one accelerometer on the bearing housing of a geared motor.

A stand-in for data that nobody can publish, not a measurement. The model is the textbook one (Randall,
*Vibration-based Condition Monitoring*, 2011): shaft harmonics, gear mesh, supply-frequency forces, impact trains at the
kinematic frequencies that ring the structure's resonances, plus noise. Every machine has its own geometry, resonances,
residual faults and noise floor; every recording its own speed, load and severity.

All functions are pure: the same generator state gives the same bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

CLASSES = (
    "healthy",
    "inner race",
    "outer race",
    "ball",
    "cage",
    "imbalance",
    "misalignment",
    "looseness",
    "gear tooth",
    "electrical",
)

SAMPLE_RATE = 10_240.0  # Hz
SAMPLES = 4096  # 0.4 s
LINE_FREQUENCY = 50.0  # Hz


@dataclass(frozen=True)
class Machine:
    """One machine instance: what stays the same over all of its recordings."""

    speed: float  # nominal shaft speed, Hz
    balls: int
    diameter_ratio: float  # ball over pitch diameter, times cosine of the contact angle
    teeth: int
    modes: tuple[tuple[float, float, float], ...]  # (frequency Hz, damping ratio, gain)
    residual: tuple[float, ...]  # amplitude of the harmless harmonics 1..4 of the shaft
    mesh: float  # amplitude of the healthy gear mesh
    hum: float  # amplitude of the healthy 2 x line force
    noise: float  # broadband floor
    slip: float  # motor slip at full load, relative

    @property
    def outer(self) -> float:
        """Ball-pass frequency of the outer race, orders of the shaft."""
        return 0.5 * self.balls * (1.0 - self.diameter_ratio)

    @property
    def inner(self) -> float:
        """Ball-pass frequency of the inner race, orders."""
        return 0.5 * self.balls * (1.0 + self.diameter_ratio)

    @property
    def spin(self) -> float:
        """Ball-spin frequency, orders; a defect strikes twice per spin."""
        return 0.5 / self.diameter_ratio * (1.0 - self.diameter_ratio**2)

    @property
    def cage(self) -> float:
        """Fundamental train frequency, orders."""
        return 0.5 * (1.0 - self.diameter_ratio)


def draw_machine(rng: np.random.Generator) -> Machine:
    """A machine instance with plausible geometry."""
    bands = ((500.0, 1100.0), (1500.0, 2600.0), (3000.0, 4400.0))
    return Machine(
        speed=rng.uniform(22.0, 29.0),
        balls=int(rng.integers(7, 12)),
        diameter_ratio=rng.uniform(0.16, 0.26),
        teeth=int(rng.integers(15, 24)),
        modes=tuple((rng.uniform(*band), rng.uniform(0.02, 0.06), rng.uniform(0.4, 1.0)) for band in bands),
        residual=tuple(rng.uniform(0.5, 1.5, 4) * (0.30, 0.15, 0.08, 0.05)),
        mesh=rng.uniform(0.05, 0.25),
        hum=rng.uniform(0.03, 0.12),
        noise=rng.uniform(0.6, 1.6),
        slip=rng.uniform(0.01, 0.04),
    )


def record(machine: Machine, fault: int, rng: np.random.Generator, *, noise: float = 1.0) -> Array:
    """One recording: acceleration in arbitrary units, shape (SAMPLES,).

    Args:
        machine: the machine instance.
        fault: index into :data:`CLASSES`.
        rng: drives speed, load, severity, phases and noise.
        noise: multiplies the noise floor; the difficulty of the data set.
    """
    time = np.arange(SAMPLES) / SAMPLE_RATE
    load = rng.uniform(0.4, 1.0)
    severity = rng.uniform(0.25, 1.0)
    speed = machine.speed * (1.0 - machine.slip * load) * rng.uniform(0.94, 1.06)
    drift = 1.0 + rng.uniform(-0.015, 0.015) * time / time[-1]
    hunting = 1.0 + rng.uniform(0.0, 0.006) * np.sin(2 * np.pi * rng.uniform(1.0, 4.0) * time + rng.uniform(0, 7))
    turns = np.cumsum(speed * drift * hunting) / SAMPLE_RATE + rng.uniform()  # shaft angle in revolutions

    signal = _shaft(machine, fault, turns, load, severity, rng)
    signal += _gear(machine, fault, turns, load, severity, rng)
    signal += _electrical(machine, fault, time, load, severity, speed, rng)
    signal += _ring(machine, _impacts(machine, fault, turns, load, severity, rng))

    floor = rng.normal(size=SAMPLES)
    floor += 1.5 * _pink(rng)
    if CLASSES[fault] == "cage":  # the cage rubs: friction noise breathes with the cage
        floor *= 1.0 + severity * 0.8 * np.cos(2 * np.pi * (machine.cage * turns + rng.uniform()))
    neighbour = rng.uniform(0.0, 0.15) * np.sin(2 * np.pi * rng.uniform(15.0, 900.0) * time + rng.uniform(0, 7))
    return signal + neighbour + 0.05 * noise * machine.noise * floor


def _tone(order: float, turns: Array, rng: np.random.Generator) -> Array:
    return np.asarray(np.cos(2 * np.pi * (order * turns + rng.uniform())))


def _shaft(m: Machine, fault: int, turns: Array, load: float, severity: float, rng: np.random.Generator) -> Array:
    amplitude = {float(k + 1): a for k, a in enumerate(m.residual)}
    speed_squared = (m.speed / 25.0) ** 2
    if CLASSES[fault] == "imbalance":
        amplitude[1.0] += 0.9 * severity * speed_squared
    elif CLASSES[fault] == "misalignment":
        amplitude[1.0] += 0.15 * severity * load
        amplitude[2.0] += 0.7 * severity * (0.5 + 0.5 * load)
        amplitude[3.0] += 0.25 * severity * load
    elif CLASSES[fault] == "looseness":
        for k in range(1, 9):
            amplitude[float(k)] = amplitude.get(float(k), 0.0) + severity * 0.30 / k**0.6 * rng.uniform(0.6, 1.4)
        for k in (0.5, 1.5, 2.5):
            amplitude[k] = severity * 0.18 * rng.uniform(0.6, 1.4)
    total = np.zeros_like(turns)
    for order, a in amplitude.items():
        total += a * _tone(order, turns, rng)
    return total


def _gear(m: Machine, fault: int, turns: Array, load: float, severity: float, rng: np.random.Generator) -> Array:
    depth = 0.05
    phase = np.zeros_like(turns)
    if CLASSES[fault] == "gear tooth":
        depth += 0.6 * severity
        phase = 0.5 * severity * _tone(1.0, turns, rng)
    modulation = 1.0 + depth * _tone(1.0, turns, rng)
    mesh = np.cos(2 * np.pi * m.teeth * turns + phase) + 0.4 * np.cos(4 * np.pi * m.teeth * turns + 2 * phase)
    return np.asarray(m.mesh * (0.4 + 0.6 * load) * modulation * mesh)


def _electrical(
    m: Machine, fault: int, time: Array, load: float, severity: float, speed: float, rng: np.random.Generator
) -> Array:
    line = 2.0 * LINE_FREQUENCY * rng.uniform(0.998, 1.002)
    amplitude, depth = m.hum, 0.0
    slots = 0.0
    if CLASSES[fault] == "electrical":  # eccentric air gap, broken bar: 2 x line, pole-pass sidebands, slot passing
        amplitude += 0.45 * severity
        depth = 0.5 * severity
        slots = 0.15 * severity
    pole_pass = 2.0 * m.slip * load * LINE_FREQUENCY
    envelope = 1.0 + depth * np.cos(2 * np.pi * pole_pass * time + rng.uniform(0, 7))
    force = amplitude * envelope * np.cos(2 * np.pi * line * time + rng.uniform(0, 7))
    carrier = 28.0 * speed
    for shift in (-line, 0.0, line):
        force += slots * np.cos(2 * np.pi * (carrier + shift) * time + rng.uniform(0, 7))
    return np.asarray(force)


def _impacts(m: Machine, fault: int, turns: Array, load: float, severity: float, rng: np.random.Generator) -> Array:
    """Force impulses on the structure: times from the kinematics, with the random slip of rolling elements."""
    force = np.zeros_like(turns)

    def train(order: float, height: Array, jitter: float) -> None:
        first = order * turns[0]
        count = int(order * (turns[-1] - turns[0])) + 2
        angle = (np.ceil(first) + np.arange(count) + np.cumsum(rng.normal(0.0, jitter, count))) / order
        index = np.searchsorted(turns, angle)
        index = index[(index > 0) & (index < len(turns))]
        force[index] += height[index] * rng.uniform(0.75, 1.25, len(index))

    flat = np.full_like(turns, severity * (0.5 + 0.5 * load))
    name = CLASSES[fault]
    if name == "outer race":
        train(m.outer, 1.1 * flat, 0.01)
    elif name == "inner race":  # passes through the load zone once a turn
        zone = np.clip(np.cos(2 * np.pi * (turns + rng.uniform())), 0.0, None) ** 0.8
        train(m.inner, 1.7 * flat * (0.12 + zone), 0.01)
    elif name == "ball":  # strikes both races; the load zone is met at cage speed
        zone = 0.5 + 0.5 * np.cos(2 * np.pi * (m.cage * turns + rng.uniform()))
        train(2.0 * m.spin, 1.1 * flat * (0.2 + zone), 0.02)
    elif name == "cage":
        train(m.cage, 1.2 * flat, 0.05)
    elif name == "gear tooth":
        train(1.0, 2.2 * flat, 0.002)
    elif name == "looseness":
        train(1.0, 1.0 * flat, 0.03)
    # every real bearing has a few harmless impacts
    stray = rng.integers(0, len(turns), rng.integers(0, 4))
    force[stray] += rng.uniform(0.2, 0.8, len(stray))
    return force


def _ring(m: Machine, force: Array) -> Array:
    """Acceleration response of the structure's modes to an impulse force."""
    size = 2 * SAMPLES
    omega = 2 * np.pi * np.fft.rfftfreq(size, 1.0 / SAMPLE_RATE)
    response = np.zeros(len(omega), dtype=np.complex128)
    for frequency, damping, gain in m.modes:
        natural = 2 * np.pi * frequency
        response += gain * omega**2 / (natural**2 - omega**2 + 2j * damping * natural * omega)
    ringing = np.fft.irfft(np.fft.rfft(force, size) * response, size)[:SAMPLES]
    return np.asarray(ringing)


def _pink(rng: np.random.Generator) -> Array:
    spectrum = np.fft.rfft(rng.normal(size=SAMPLES))
    spectrum[1:] /= np.sqrt(np.arange(1, len(spectrum)))
    spectrum[0] = 0.0
    noise = np.fft.irfft(spectrum, SAMPLES)
    return np.asarray(noise / noise.std())
