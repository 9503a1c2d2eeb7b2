"""Fuzz the importer: ``python -m tests.models.corrupt MODEL COUNT SEED`` prints one JSON line of what happened.

A process of its own, so that a crash of the importer is a failed test and not the end of pytest.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from pathlib import Path

import numpy as np

os.environ.setdefault("TOPHUB_LOCATION", "NONE")

from rqdkm.models import load, zoo
from rqdkm_tvm.errors import ModelError

_NASTY = (0, 1, 4, 12, 255, 65536, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


def corrupt(data: bytes, rng: np.random.Generator, kind: int) -> bytes:
    """One damage: truncation, a few bytes, a nasty word, a random block, or a small integer (structure) changed."""
    changed = bytearray(data)
    if kind == 0:
        return data[: rng.integers(0, len(data))]
    if kind == 1:
        for _ in range(rng.integers(1, 4)):
            changed[rng.integers(0, len(data))] = rng.integers(0, 256)
    elif kind == 2:
        place = int(rng.integers(0, len(data) // 4)) * 4
        changed[place : place + 4] = int(rng.choice(_NASTY)).to_bytes(4, "little")
    elif kind == 3:
        place = int(rng.integers(0, len(data) - 64))
        changed[place : place + 64] = rng.bytes(64)
    else:
        places = [int(p) * 4 for p in rng.integers(0, len(data) // 4, 4000)]
        small = [p for p in places if 0 < int.from_bytes(data[p : p + 4], "little") < 5000]
        place = small[0] if small else 0
        changed[place : place + 4] = int(rng.integers(0, 300)).to_bytes(4, "little")
    return bytes(changed)


def main(name: str, count: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    data = zoo.path(name).read_bytes()
    outcomes: Counter[str] = Counter()
    for number in range(count):
        damaged = corrupt(data, rng, number % 5)
        try:
            load.load_tflite(damaged, Path("damaged.tflite"))
            outcomes["loaded"] += 1
        except ModelError as error:
            assert error.where, error.what
            assert "Traceback" not in str(error)
            assert len(str(error)) < 700
            outcomes["refused"] += 1
        except Exception as error:  # whatever else escapes is what this test looks for
            outcomes[f"escaped: {type(error).__name__}: {str(error)[:200]}"] += 1
    print(json.dumps(outcomes))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
