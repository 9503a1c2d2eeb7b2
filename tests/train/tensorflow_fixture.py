"""Makes tensorflow_finetune.npz: what TensorFlow's training process answers for the network of ``small.py``.

    RQDKM_TRAIN_PYTHON=.venv-train/bin/python python -m tests.train.tensorflow_fixture

The tests then need no TensorFlow to check what is made of the answer.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from rqdkm.options import FinetuneOptions
from rqdkm.train import finetune
from tests.train import small

FILE = Path(__file__).with_name("tensorflow_finetune.npz")
EPOCHS, BATCH, RATE = 4, 16, 3e-3


def options(files: small.Files, out: Path) -> FinetuneOptions:
    return FinetuneOptions(
        files.model, files.plan, files.data, out, weights=files.float_model, epochs=EPOCHS, batch=BATCH, rate=RATE
    )


def make() -> dict[str, np.ndarray]:
    answers: list[dict[str, np.ndarray]] = []
    train = finetune._train

    def spy(*arguments: Any) -> Any:
        answers.append(train(*arguments))
        return answers[-1]

    finetune._train = spy
    try:
        with tempfile.TemporaryDirectory() as name:
            finetune.finetune(options(small.make(Path(name) / "files"), Path(name) / "out"))
    finally:
        finetune._train = train
    return answers[0]


if __name__ == "__main__":
    np.savez_compressed(FILE, **make())  # type: ignore[arg-type]
    sys.stdout.write(f"{FILE.name}: {FILE.stat().st_size} bytes\n")
