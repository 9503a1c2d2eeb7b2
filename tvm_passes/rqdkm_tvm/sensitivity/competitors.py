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
    softmax,
)
from rqdkm_tvm.sensitivity.table import LayerSensitivity, Sensitivity

CompetitorName = Literal["magnitude", "hessian_trace", "fisher_trace", "uniform"]
TRACES = ("hessian_trace", "fisher_trace")
HUTCHINSON_PROBES = 128  # at least, over all samples, per layer
STEP = 1e-2  # of the weights' root mean square, for differences of gradients


def competitor(
    method: CompetitorName,
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
    * ``hessian_trace``: ``E = 1/2 tr(H_l) / n_l * |delta_i|^2``, HAWQ-V2's rule (Dong et al., "HAWQ-V2: Hessian Aware
      trace-Weighted Quantization of Neural Networks", 2020): average trace of the layer's block of the Hessian of the
      cross-entropy times squared error. See :func:`hessian_traces`; feature maps take the Fisher matrix as theirs.
    * ``fisher_trace``: the same with the trace of the empirical Fisher matrix, ``mean_j(g_j^2)``, throughout
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
        for cotangent in cotangents(forward, label, probes, rng) if method in TRACES else []:
            gradients = twin.backward(sample, forward, cotangent)
            for name, g in gradients.weights.items():
                weight_trace[name] += float(np.square(g, dtype=np.float64).mean()) / len(samples)
            for name, g in zip(names, gradients.activations, strict=True):
                activation_trace[name] += float(np.square(g, dtype=np.float64).mean()) / len(samples)

    if method == "hessian_trace":
        weight_trace = {name: max(mean, 0.0) for name, mean in hessian_traces(twin, samples, labels, seed=seed).items()}

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


def hessian_traces(
    twin: FloatTwin, samples: Samples, labels: Sequence[int] | NDArray | None = None, *, seed: int = 0
) -> dict[str, float]:
    """Mean of the diagonal of the Hessian of the mean cross-entropy, for the weights of every layer.

    ``tr(H_l) = E[z^T H_l z]`` for random signs z (Hutchinson, 1990), with ``H_l z`` by central differences of
    gradients: the layer's weights move along z by :data:`STEP` of their root mean square, all others stay. Without
    labels the targets are the unquantized network's own probabilities.

    Prefer it without: then the gradient of the loss is zero and the Hessian that of Gauss and Newton, never negative.
    With labels and few samples the network's own curvature, times a gradient that is not zero, decides the sign.
    """
    rng = np.random.default_rng(seed)
    found = {}
    probes = -(-HUTCHINSON_PROBES // len(samples))
    twin.reset()
    own = [softmax(twin.logits(sample)) for sample in samples]
    targets = own if labels is None else [np.eye(twin.logits_size)[int(label)] for label in labels]
    for name in (x.name for x in twin.layers if x.layer.weights is not None):
        weights = twin.reference_weights(name)
        step = np.float32(STEP * max(float(np.sqrt(np.square(weights).mean())), 1e-12))
        curvatures = []
        for sample, target in zip(samples, targets, strict=True):
            for _ in range(probes):
                signs = rng.choice(np.array([-1, 1], np.float32), weights.shape)
                sides = []
                for direction in (step, -step):
                    twin.weights[name] = np.ascontiguousarray(weights + direction * signs, np.float32)
                    forward = twin.forward(sample)
                    cotangent = (softmax(forward.logits) - target).astype(np.float32)
                    sides.append(np.asarray(twin.backward(sample, forward, cotangent).weights[name], np.float64))
                curvatures.append(float((signs * (sides[0] - sides[1])).mean()) / (2 * float(step)))
        twin.reset()
        found[name] = float(np.mean(curvatures))
    return found


def _rule(method: str, squared: NDArray, trace: float, elements: int, bits: int) -> tuple[float, ...]:
    if method == "uniform":
        return (elements * 4.0**-bits,) * len(squared)
    factor = 0.5 * trace if method in TRACES else 1.0
    return tuple(float(e) * factor for e in squared)
