"""MNIST in scenes: every digit of examples/mnist once, in colour, somewhere on a coloured background.

    python examples/mobilenet/dataset.py --out .cache/mobilenet.npz                    # every split
    python examples/mobilenet/dataset.py --out .cache/mobilenet_test.npz --only test   # one, for rqdkm deploy --data

A digit is 40 to 72 pixels long, before a slight tilt, slant and stretch, whatever the frame (``--size``), so that one
fully convolutional network takes frames of several sizes. Splits are those of examples/mnist, with a fifth of its
training digits moved to validation: whether a loss is below half a point takes more than a thousand samples. No digit
is in the scenes of two splits.
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]
Real = npt.NDArray[np.float64]

DIGIT = (40.0, 72.0)  # pixels, the longer side of the ink
TILT, SLANT, STRETCH = 0.2, 0.2, 0.1  # at most: angle (radians), shear, logarithm by which height grows, width shrinks
RIPPLE, NOISE = 0.07, 0.03  # largest amplitude of a wave of the background, and noise; 1 is white
CONTRAST = 0.4  # least difference in brightness of ink and background
LUMINANCE = np.array([0.299, 0.587, 0.114])
MOVED = 70  # of each digit's training images, to validation: 2,800 / 1,200 / 1,000 in all


def mnist() -> ModuleType:
    """examples/mnist/dataset.py, which has the same name as this file."""
    spec = importlib.util.spec_from_file_location("mnist_dataset", Path(__file__).parents[1] / "mnist" / "dataset.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def place(digit: Pixels, size: int, rng: np.random.Generator) -> Real:
    """How much ink is on each pixel of the frame, 0 to 1: the digit scaled, tilted and somewhere, interpolated."""
    rows, columns = np.flatnonzero(digit.any(axis=1)), np.flatnonzero(digit.any(axis=0))
    middle = np.array([rows[0] + rows[-1], columns[0] + columns[-1]]) / 2
    longer = 1 + max(np.ptp(rows), np.ptp(columns))
    pixels = rng.uniform(*DIGIT)
    angle, slant = rng.uniform(-TILT, TILT), rng.uniform(-SLANT, SLANT)
    aspect = np.exp(rng.uniform(-STRETCH, STRETCH) * np.array([1, -1]))
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    back = longer / pixels * aspect[:, None] * (np.array([[1, 0], [slant, 1]]) @ turn)  # frame to digit
    offset = middle - back @ rng.uniform(pixels / 2, size - pixels / 2, 2)
    frame = np.arange(size)
    y, x = (b[0] * frame[:, None] + b[1] * frame + o for b, o in zip(back, offset, strict=True))
    bordered = np.pad(digit / 255, 1)
    y, x = (np.clip(c + 1, 0, n - 1.001) for c, n in zip((y, x), bordered.shape, strict=True))
    top, left = y.astype(np.intp), x.astype(np.intp)
    down, right = y - top, x - left
    upper = bordered[top, left] * (1 - right) + bordered[top, left + 1] * right
    lower = bordered[top + 1, left] * (1 - right) + bordered[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)


def scene(digit: Pixels, size: int, rng: np.random.Generator) -> Pixels:
    """A frame (size, size, 3) with ``digit`` (28, 28) in it."""
    paper, ink = rng.uniform(size=(2, 3))
    while abs(LUMINANCE @ (ink - paper)) < CONTRAST:
        paper, ink = rng.uniform(size=(2, 3))
    waves = np.cos(np.pi * np.outer((np.arange(size) + 0.5) / size, np.arange(4)))
    ripple = np.einsum("yi,xj,ijc->yxc", waves, waves, rng.uniform(-RIPPLE, RIPPLE, (4, 4, 3)), optimize=True)
    amount = place(digit, size, rng)[..., None]
    image = (paper + ripple) * (1 - amount) + ink * amount
    image += NOISE * rng.standard_normal(image.shape, np.float32)
    return np.rint(np.clip(image, 0, 1) * 255).astype(np.uint8)


def scenes(digits: Pixels, size: int, seed: int | tuple[int, ...]) -> Pixels:
    """One scene of each of ``digits`` (n, 28, 28, 1); the same seed gives the same scenes."""
    rng = np.random.default_rng(seed)
    return np.stack([scene(digit[..., 0], size, rng) for digit in digits])


def resplit(digits: Mapping[str, npt.NDArray[np.generic]]) -> dict[str, npt.NDArray[np.generic]]:
    """The splits of examples/mnist (``x_<split>``, ``y_<split>``) with the last :data:`MOVED` of each digit's training
    images behind the validation images; the test images are the same."""
    labels = digits["y_train"]
    moved = np.sort(np.concatenate([np.flatnonzero(labels == digit)[-MOVED:] for digit in range(10)]))
    found = dict(digits)
    for kind in ("x", "y"):
        train = digits[f"{kind}_train"]
        found[f"{kind}_val"] = np.concatenate([digits[f"{kind}_val"], train[moved]])
        found[f"{kind}_train"] = np.delete(train, moved, axis=0)
    return found


def split_scenes(digits: Mapping[str, npt.NDArray[np.generic]], name: str, size: int, seed: int = 0) -> Pixels:
    """The scenes of one split; ``digits`` as :func:`resplit` gives them."""
    return scenes(np.asarray(digits[f"x_{name}"], np.uint8), size, (seed, size, list(mnist().SPLITS).index(name)))


def normalise(images: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """uint8 to the network's input, [0, 1]."""
    return images.astype(np.float32) / np.float32(255)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compose scenes from MNIST digits.")
    parser.add_argument("--out", type=Path, required=True, help="the .npz to write")
    parser.add_argument("--size", type=int, default=96, help="height and width of the frame in pixels, 72 or more")
    parser.add_argument("--seed", type=int, default=0)
    splits = tuple(mnist().SPLITS)
    parser.add_argument("--only", choices=splits, help="one split, as pixels `x` and labels `y`")
    options = parser.parse_args()
    if options.size < DIGIT[1]:
        parser.error(f"--size {options.size}: the largest digit takes {DIGIT[1]:.0f} pixels")
    digits = resplit(mnist().split(*mnist().digits(mnist().download()), options.seed))
    arrays: dict[str, npt.NDArray[np.generic]] = {}
    for name in splits:
        if options.only in (None, name):
            suffix = "" if options.only else f"_{name}"
            arrays[f"x{suffix}"] = split_scenes(digits, name, options.size, options.seed)
            arrays[f"y{suffix}"] = digits[f"y_{name}"]
            print(f"{options.out}: {name} {len(arrays[f'y{suffix}'])}")
    options.out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(options.out, **arrays)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
