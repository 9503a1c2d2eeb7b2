"""Top-1 of the machinery model on its validation machines: plain integers, repaired ones, fine-tuned ones.

    RQDKM_TRAIN_PYTHON=... python -m tests.train.measure --data .cache/machinery.npz --only W4A4 W2A4

Every figure is of the integers, by TFLite's arithmetic, on the module that the plan and the parameters lower to.
Calibration, repair and training see the training machines only.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from rqdkm.experiment.statistics import wilson_interval
from rqdkm.models import data, load
from rqdkm.options import FinetuneOptions
from rqdkm.train.finetune import finetune, run_integers
from rqdkm_tvm.mixed import LowerMixedPrecision
from rqdkm_tvm.parameters import Parameters
from rqdkm_tvm.partition import PartitionLayers
from rqdkm_tvm.passes import prepare
from rqdkm_tvm.plan import Plan
from rqdkm_tvm.repair import repair
from rqdkm_tvm.sensitivity.float_twin import FloatTwin
from rqdkm_tvm.sensitivity.rep import calibrate
from tests.repair.measure import MODEL, assignments


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--calibration", type=int, default=128)
    parser.add_argument("--epochs", type=int, default=5, help="0: no fine-tuning")
    parser.add_argument("--every", type=int, default=1, help="use every nth validation image")
    parser.add_argument("--only", nargs="*", help="bit-widths by name")
    parser.add_argument("--keep", type=Path, help="leave the fine-tuned plans here")
    options = parser.parse_args()
    model = load.load(MODEL)
    module = PartitionLayers()(prepare(model.module))
    twin = FloatTwin.of(module["main"])
    quantization = model.inputs[0].quantization
    assert quantization is not None
    arrays = np.load(options.data)

    def real(split: str) -> np.ndarray:
        return (arrays[f"x_{split}"].astype(np.float32) - np.float32(128)) / np.float32(128)

    train = data.quantize(real("train"), quantization)
    chosen = np.random.default_rng(0).choice(len(train), options.calibration, replace=False)
    samples = [[x] for x in train[chosen]]
    validation = data.quantize(real("val"), quantization)[:: options.every]
    labels = arrays["y_val"][:: options.every]
    quantizers = calibrate(twin, samples)

    def show(name: str, variant: str, plan: Plan, parameters: Parameters | None, seconds: float) -> None:
        lowered = LowerMixedPrecision(plan, parameters)(module)
        parts = [run_integers(lowered, [validation[i : i + 50]]) for i in range(0, len(validation), 50)]
        correct = int((np.concatenate(parts).argmax(axis=1) == labels).sum())
        low, high = wilson_interval(correct, len(labels))
        sys.stdout.write(
            f"{name:<36}{variant:<12}{100 * correct / len(labels):6.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
            f"  {correct} of {len(labels)}  {seconds:5.1f} s\n"
        )
        sys.stdout.flush()

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        np.savez(folder / "train.npz", x=real("train"), y=arrays["y_train"])
        for name, assignment in assignments(twin).items():
            if options.only and name not in options.only:
                continue
            plain = repair(twin, assignment, quantizers, samples, ())
            show(name, "plain", Plan(list(plain.entries)), None, 0.0)
            began = time.perf_counter()
            repaired = repair(twin, assignment, quantizers, samples)
            show(name, "repaired", Plan(list(repaired.entries)), repaired.parameters, time.perf_counter() - began)
            if options.epochs == 0:
                continue
            (folder / "plan.json").write_text(Plan(list(plain.entries)).to_json())
            out = (options.keep or folder) / name.replace(" ", "_").replace("/", "-")
            began = time.perf_counter()
            found = finetune(
                FinetuneOptions(
                    MODEL,
                    folder / "plan.json",
                    folder / "train.npz",
                    out,
                    weights=MODEL.with_name("model.float32.tflite"),
                    epochs=options.epochs,
                    force=True,
                )
            )
            seconds = time.perf_counter() - began
            tuned = Plan.from_json(found.plan.read_text())
            show(name, "fine-tuned", tuned, Parameters.load(found.parameters), seconds)


if __name__ == "__main__":
    main()
