"""Sensitivities by other rules, in the form of REP's table, to compare with at equal size."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np

from rqdkm_tvm.layer import NDArray
from rqdkm_tvm.lowbit import BITS
from rqdkm_tvm.sensitivity.float_twin import FloatTwin, TwinLayer, channels_first
from rqdkm_tvm.sensitivity.rep import (
    COPIES,
    Quantizers,
    Samples,
    calibrate,
    check,
    columns_of,
    cotangents,
    rows_of,
)
from rqdkm_tvm.sensitivity.table import LayerSensitivity, Sensitivity


def competitor(
    method: Literal["magnitude", "hessian_trace", "uniform"],
    twin: FloatTwin,
    samples: Samples,
    labels: Sequence[int] | NDArray | None = None,
    *,
    bits: Sequence[int] = BITS,
    probes: int = 4,
    seed: int = 0,
    quantizers: Quantizers | None = None,
) -> Sensitivity:
    """A table in the same form by another rule; alphas are 1.

    * ``magnitude``: ``E = |delta_i|^2``, the squared quantization error itself: large weights count, the network does
      not
    * ``hessian_trace``: ``E = mean_j(F_jj over the layer) * |delta_i|^2``, HAWQ-V2's rule (Dong et al., 2020: average
      trace of the Hessian times squared error) with the trace of the Fisher matrix in place of the Hessian's
    * ``uniform``: ``E = n_i 4^-b``: every parameter and every value of a feature map counts the same
    """
    check(twin, samples, labels)
    quantizers = quantizers or calibrate(twin, samples, bits)
    twin.reset()
    rng = np.random.default_rng(seed)
    names = [x.name for x in twin.layers]
    weight_trace = dict.fromkeys(names, 0.0)
    activation_trace = dict.fromkeys(names, 0.0)
    energy: dict[tuple[str, int], NDArray] = {}
    for index, sample in enumerate(samples):
        label = None if labels is None else int(labels[index])
        forward = twin.forward(sample)
        for x, values in zip(twin.layers, forward.activations, strict=True):
            for b in bits if x.name in quantizers.activations else ():
                delta = quantizers.activations[x.name][b](values) - values
                squared = np.square(columns_of(delta), dtype=np.float64).sum(axis=1) / len(samples)
                energy[x.name, b] = energy.get((x.name, b), np.zeros(len(squared))) + squared
        for cotangent in cotangents(forward, label, probes, rng) if method == "hessian_trace" else []:
            gradients = twin.backward(sample, forward, cotangent)
            for name, g in gradients.weights.items():
                weight_trace[name] += float(np.square(g, dtype=np.float64).mean()) / len(samples)
            for name, g in zip(names, gradients.activations, strict=True):
                activation_trace[name] += float(np.square(g, dtype=np.float64).mean()) / len(samples)

    def row(x: TwinLayer) -> LayerSensitivity:
        weights: dict[int, tuple[float, ...]] = {}
        activations: dict[int, tuple[float, ...]] = {}
        for b in sorted(bits):
            if x.layer.weights is not None:
                delta = rows_of(channels_first(x.layer, quantizers.weights[x.name][b] - quantizers.weights[x.name][8]))
                squared = np.square(delta, dtype=np.float64).sum(axis=1)
                weights[b] = _rule(method, squared, weight_trace[x.name], delta.shape[1], b)
            if x.name in quantizers.activations and not (x.tied_to and x.layer.op in COPIES):
                shape = x.layer.output.shape
                pixels = int(np.prod(shape[:-1]))
                activations[b] = _rule(method, energy[x.name, b], activation_trace[x.name], pixels, b)
        return LayerSensitivity(x.name, x.layer.op, weights, activations, tied_to=x.tied_to, fixed=x.tied_to_input)

    return Sensitivity(method, f"{method} rule", 0.0, len(samples), tuple(row(x) for x in twin.layers))


def _rule(method: str, squared: NDArray, trace: float, elements: int, bits: int) -> tuple[float, ...]:
    if method == "uniform":
        return (elements * 4.0**-bits,) * len(squared)
    factor = trace if method == "hessian_trace" else 1.0
    return tuple(float(e) * factor for e in squared)
