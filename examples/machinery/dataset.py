"""The machinery data set: 10,000 seeded scalogram images of 100 simulated machines, split by machine.

    python examples/machinery/dataset.py --out .cache/machinery.npz

Every machine gives ten recordings of each of the ten conditions; no machine is in more than one split, so the test
set asks whether the network has learned the fault or the machine. Images are 32 bands (logarithmic, 20 Hz to 4.6 kHz,
low band last) by 56 instants of 3.5 ms, uint8.
"""

from __future__ import annotations

import argparse
import functools
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from simulate import CLASSES, SAMPLE_RATE, SAMPLES, Array, draw_machine, record

BANDS, FRAMES, HOP = 32, 56, 36
RECORDINGS = 10  # per machine and condition
SPLITS = {"train": range(60), "val": range(60, 75), "test": range(75, 100)}  # machine numbers
FLOOR_DB, CEILING_DB = -24.0, 30.0  # around the median of the image
NOISE = 3.5


@functools.cache
def _filters() -> Array:
    """Gaussian band-pass filters over the FFT's positive frequencies, (BANDS, SAMPLES // 2 + 1); Q is 5."""
    centres = np.geomspace(4600.0, 20.0, BANDS)[:, None]
    frequencies = np.fft.rfftfreq(SAMPLES, 1.0 / SAMPLE_RATE)[None, :]
    return np.asarray(np.exp(-0.5 * ((frequencies - centres) / (centres / 5.0)) ** 2))


def scalogram(signal: Array) -> npt.NDArray[np.uint8]:
    """Envelope of every band over the middle of the recording, in dB about its median; (BANDS, FRAMES) uint8."""
    spectrum = np.zeros((BANDS, SAMPLES), dtype=np.complex128)
    spectrum[:, : SAMPLES // 2 + 1] = np.fft.rfft(signal) * _filters()
    envelope = np.abs(np.fft.ifft(spectrum, axis=1))
    start = (SAMPLES - FRAMES * HOP) // 2
    frames = envelope[:, start : start + FRAMES * HOP].reshape(BANDS, FRAMES, HOP)
    level = 20.0 * np.log10(np.sqrt((frames**2).mean(axis=2)) + 1e-6)
    level -= np.median(level)
    scaled = (np.clip(level, FLOOR_DB, CEILING_DB) - FLOOR_DB) / (CEILING_DB - FLOOR_DB)
    return np.round(scaled * 255.0).astype(np.uint8)


def normalise(images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """uint8 to the network's input, [-1, 1)."""
    return (images.astype(np.float32) - np.float32(128)) / np.float32(128)


def machine_images(number: int, seed: int, noise: float) -> npt.NDArray[np.uint8]:
    """All images of one machine, (10 * RECORDINGS, BANDS, FRAMES), grouped by condition."""
    machine = draw_machine(np.random.default_rng((seed, number)))
    return np.stack(
        [
            scalogram(record(machine, fault, np.random.default_rng((seed, number, fault, k)), noise=noise))
            for fault in range(len(CLASSES))
            for k in range(RECORDINGS)
        ]
    )


def split_images(
    split: str, seed: int = 0, noise: float = NOISE, workers: int = 2
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Images uint8 (n, 32, 56, 1), labels (n,) and machine numbers (n,) of one split."""
    machines = SPLITS[split]
    labels = np.repeat(np.arange(len(CLASSES)), RECORDINGS)
    with ProcessPoolExecutor(workers) as pool:
        images = np.concatenate(list(pool.map(functools.partial(machine_images, seed=seed, noise=noise), machines)))
    return images[..., None], np.tile(labels, len(machines)), np.repeat(np.asarray(machines), len(labels))


def generate(seed: int = 0, noise: float = NOISE, workers: int = 2) -> dict[str, npt.NDArray[np.generic]]:
    """The whole set: ``x_<split>``, ``y_<split>`` and ``machine_<split>`` as :func:`split_images` gives them."""
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for split in SPLITS:
        names = (f"x_{split}", f"y_{split}", f"machine_{split}")
        arrays.update(zip(names, split_images(split, seed, noise, workers), strict=True))
    return arrays


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate the machinery condition images.")
    parser.add_argument("--out", type=Path, required=True, help="the .npz to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--noise", type=float, default=NOISE, help="noise floor, relative; sets the difficulty")
    parser.add_argument("--only", choices=SPLITS, help="one split, as real values `x` in [-1, 1) and labels `y`")
    options = parser.parse_args()
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.only:
        images, labels, _ = split_images(options.only, options.seed, options.noise)
        np.savez_compressed(options.out, x=normalise(images), y=labels)
        print(f"{options.out}: {options.only} {len(labels)}")
        return
    arrays = generate(options.seed, options.noise)
    np.savez_compressed(options.out, **arrays)  # type: ignore[arg-type]
    print(f"{options.out}: " + ", ".join(f"{s} {len(arrays[f'y_{s}'])}" for s in SPLITS))


if __name__ == "__main__":
    main()
