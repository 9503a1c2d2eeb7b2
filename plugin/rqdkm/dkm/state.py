"""The seven numbers that a decision is made from, and how the chip measures those of the input.

Twin of ``tflm_ops/include/rqdkm/morph.h``: single precision and integers, operation by operation the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

#: Fields of ``rqdkm_morph_state`` in order, and the range that each spans on the DQN's scale.
RANGES: dict[str, tuple[float, float]] = {
    "load": (0.0, 1.0),
    "memory": (0.0, 1.0),
    "clock": (0.0, 168e6),
    "slack": (-1.0, 1.0),
    "mean": (-128.0, 127.0),
    "variance": (0.0, 16384.0),  # seen as its square root
    "snr": (-10.0, 40.0),
}
_LOW = np.array([0, 0, 0, -1, -128, 0, -10], np.float32)
_SCALE = np.array(
    [255, 255, np.float32(255) / np.float32(168e6), 127.5, 1, np.float32(255) / np.float32(128), 255 / 50], np.float32
)


def normalise(states: Array) -> npt.NDArray[np.int8]:
    """States, float32 (..., 7), as the DQN sees them.

    Raises:
        ValueError: a state holds NaN or infinity; the chip takes the safe kernel then.
    """
    values = np.array(states, np.float32)
    if values.shape[-1] != len(RANGES):
        raise ValueError(f"a state has {len(RANGES)} numbers, got {values.shape[-1]}")
    if not np.isfinite(values).all():
        raise ValueError("a state holds NaN or infinity")
    values[..., 5] = np.sqrt(np.maximum(values[..., 5], np.float32(0)))
    with np.errstate(over="ignore"):
        steps = (values - _LOW) * _SCALE
    seen: npt.NDArray[np.int8] = (np.clip(steps, 0, 254).astype(np.int32) - 127).astype(np.int8)
    return seen


def slack_of(available: float, needed: float) -> float:
    """``rqdkm_morph_slack``: -1 to 1; 0 where the safe kernel takes all of the time that there is."""
    longer = max(available, needed)
    return (available - needed) / longer if longer > 0 else 1.0


def _log2_q8(x: int) -> int:
    exponent = x.bit_length() - 1
    return exponent * 256 + ((x << (31 - exponent)) >> 23 & 0xFF)


def measure_input(frame: Array, pitch: int, most: int) -> tuple[np.float32, np.float32, np.float32]:
    """Mean, variance and signal to noise (dB) of an int8 frame, as ``rqdkm_morph_measure_input`` estimates them.

    Args:
        frame: int8, any shape; flat order is that of memory.
        pitch: elements to the next pixel of the same channel.
        most: values looked at, spread evenly; 16 to 4096.
    """
    flat = np.ascontiguousarray(frame, np.int8).ravel().astype(np.int64)
    words, wanted = (flat.size - pitch) // 4, min(max(most, 16), 4096) // 4
    step = -(-words // wanted) if words > wanted else 1
    starts = 4 * np.arange(0, max(words, 0), step)
    index = (starts[:, None] + np.arange(4)).ravel()
    if not index.size:
        return np.float32(0), np.float32(0), np.float32(0)
    values, n = flat[index], index.size
    total, squares = int(values.sum()), int((values**2).sum())
    steps = int(((values - flat[index + pitch]) ** 2).sum())
    variance = (squares - total * total // n) * 16 // n
    noise = steps * 8 // n
    signal = max(variance - noise, 0)
    decibels = np.float32(_log2_q8(signal + 1) - _log2_q8(noise + 1)) * (np.float32(3.0103) / np.float32(256))
    return np.float32(total) / np.float32(n), np.float32(variance) / np.float32(16), np.float32(decibels)
