"""What kernels fitted without training are worth: accuracy on test samples, modelled cycles of a frame.

    python -m tests.morph.measure examples/machinery/model.float32.tflite --calib .cache/machinery_train.npz \\
        --count 400 --data .cache/machinery_test.npz --kernels "3x3" "separable 3x3" "3x3 + 1x1" "1x1" "3x3 dilated"
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from rqdkm import judge, morphing
from rqdkm.board import run as board_run
from rqdkm.export import host, project
from rqdkm.models import data, load, quantize
from rqdkm.models.data import Dataset
from rqdkm_tvm.compile import compile_model
from rqdkm_tvm.morph.convert import KERNELS


def spread(dataset: Dataset, count: int) -> Dataset:
    """``count`` samples from all of it."""
    chosen = np.linspace(0, len(dataset) - 1, min(count, len(dataset))).astype(int)
    labels = None if dataset.labels is None else dataset.labels[chosen]
    return replace(dataset, inputs=tuple(x[chosen] for x in dataset.inputs), labels=labels)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    parser.add_argument("--calib", type=Path, required=True)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--kernels", nargs="+", default=list(KERNELS))
    options = parser.parse_args()
    model = load.load(options.model)
    calibration = spread(data.load_data(options.calib, model), options.count)
    found = morphing.morph(model, calibration, options.kernels, lambda text: sys.stderr.write(f"{text}\n"))
    quantized = quantize.quantize(found.model, calibration)
    test = data.load_data(options.data, quantized)
    assert test.labels is not None
    inputs = data.quantize_inputs(test, quantized)
    compiled = compile_model(quantized.module, output_names=list(quantized.output_names))
    with tempfile.TemporaryDirectory() as folder:
        written = project.write_project(compiled, Path(folder) / "p", name="morph").path
        for kernel, account in enumerate(found.accounts):
            scores = host.run(host.build_host_runner(written, kernel=kernel), inputs)[0].reshape(len(test), -1)
            elf = project.build(written, kernel=kernel)
            ran = board_run.run_samples(elf, "virtual", judge.by_sample([x[:1] for x in inputs]))
            agreement, top1 = 100 * account.agreement, 100 * (scores.argmax(1) == test.labels).mean()
            sys.stdout.write(
                f"{account.kernel:16} held out: SQNR {account.sqnr_db:5.1f} dB, agreement {agreement:5.1f} % of "
                f"{account.samples}; int8 top-1 {top1:5.2f} % of {len(test)}; "
                f"{np.mean(ran.cycles or [0]) / 1e6:6.3f} million cycles\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
