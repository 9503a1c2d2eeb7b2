"""Top-1 of the machinery model on its validation machines, plain and repaired, at several bit-widths.

    python -m tests.repair.measure --data .cache/machinery.npz

Feature maps and weights are quantized in the float twin; calibration samples are from the training machines.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from rqdkm.experiment.statistics import wilson_interval
from rqdkm.models import data, load
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.repair import METHODS, Method, apply, repair
from rqdkm_tvm.sensitivity.float_twin import FloatTwin
from rqdkm_tvm.sensitivity.rep import calibrate
from rqdkm_tvm.sensitivity.table import Assignment

MODEL = Path(__file__).parents[2] / "examples" / "machinery" / "model.tflite"
VARIANTS: dict[str, tuple[Method, ...]] = {
    "plain": (),
    "bias": ("bias",),
    "round": ("round",),
    "equalise": ("equalise",),
    "all": METHODS,
}


def assignments(twin: FloatTwin) -> dict[str, Assignment]:
    """Uniform ones, and two that spare the first and the last layer, as people do by hand."""
    weighted = [x.name for x in twin.layers if x.layer.weights is not None]
    maps = [x.name for x in twin.layers if not x.tied_to and not x.tied_to_input and x.name not in twin.roots]
    inner = weighted[1:-1]

    def uniform(weights: int, activations: int) -> Assignment:
        return Assignment(dict.fromkeys(weighted, (weights,)), dict.fromkeys(maps, activations))

    ends = dict.fromkeys((weighted[0], weighted[-1]), (8,))
    return {
        "W8A8": uniform(8, 8),
        "W4A8": uniform(4, 8),
        "W8A4": uniform(8, 4),
        "W4A4": uniform(4, 4),
        "W2A8": uniform(2, 8),
        "W2A4": uniform(2, 4),
        "inner W2A8, ends W8": Assignment(ends | dict.fromkeys(inner, (2,)), dict.fromkeys(maps, 8)),
        "inner W4/2 by halves, A4, ends W8": Assignment(ends | dict.fromkeys(inner, (4, 2)), dict.fromkeys(maps, 4)),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--calibration", type=int, default=256)
    parser.add_argument("--every", type=int, default=1, help="use every nth validation image")
    parser.add_argument("--only", nargs="*", help="bit-widths by name")
    options = parser.parse_args()
    model = load.load(MODEL)
    twin = FloatTwin.of(PartitionLayers()(prepare(model.module))["main"])
    quantization = model.inputs[0].quantization
    assert quantization is not None
    arrays = np.load(options.data)

    def images(split: str) -> np.ndarray:
        return data.quantize((arrays[f"x_{split}"].astype(np.float32) - 128) / 128, quantization)

    chosen = np.random.default_rng(0).choice(len(arrays["x_train"]), options.calibration, replace=False)
    samples = [[x] for x in images("train")[chosen]]
    validation, labels = images("val")[:: options.every], arrays["y_val"][:: options.every]
    quantizers = calibrate(twin, samples)
    for name, assignment in assignments(twin).items():
        if options.only and name not in options.only:
            continue
        for variant, methods in VARIANTS.items():
            began = time.perf_counter()
            found = repair(twin, assignment, quantizers, samples, methods)
            seconds = time.perf_counter() - began
            apply(twin, found)
            correct = sum(int(twin.logits([x]).argmax() == y) for x, y in zip(validation, labels, strict=True))
            low, high = wilson_interval(correct, len(labels))
            sys.stdout.write(
                f"{name:<36}{variant:<10}{100 * correct / len(labels):6.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
                f"  logits' error {found.plain_error:9.4g} -> {found.error:9.4g}  {seconds:5.1f} s"
                f"  {len(found.equalised)} equalised\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
