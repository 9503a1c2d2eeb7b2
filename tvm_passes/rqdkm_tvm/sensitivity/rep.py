"""REP, the recursive error propagation metric: what quantizing a layer does to the network's output.

    R(l; b) = alpha_l * sum_i E(l, i; b)

E(l, i; b) is the contribution of output channel ("neuron") i of layer l when its weights, or its feature map, are
stored at b bits. With delta_i the change that quantization makes to that channel (``Q_b(w_i) - w_i``, or
``Q_b(y_i) - y_i`` at every pixel) and g_i the gradient by backpropagation:

* first order, no labels: ``E = mean over samples and v of (g_i . delta_i)^2`` with ``g = d(v . logits)`` and v of
  independent random signs. Since E[v v^T] = I this is exactly the squared error of the logits that channel i causes, to
  first order: ``|J_i delta_i|^2`` (Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix", 1990).
* first order, labels: the same with the gradient of the cross-entropy: v = softmax(logits) - onehot(label). The square
  of the first-order change of the loss, as Molchanov et al., "Importance Estimation for Neural Network Pruning", 2019,
  use it for zeroing a channel. Equal to ``delta^T F delta`` with the empirical Fisher matrix F.
* second order: ``E = 1/2 sum_j F_jj delta_j^2``, F_jj the mean of g_j^2: the diagonal of the (empirical) Fisher matrix
  as the Hessian (LeCun et al., "Optimal Brain Damage", 1990; Theis et al., "Faster gaze prediction with dense networks
  and Fisher pruning", 2018). It ignores that errors of one channel add up or cancel.

**alpha.** The sum takes channels as independent and the network as linear. What that misses is measured: each layer
alone is quantized to ``ALPHA_BITS`` bits, the network is run on calibration samples, and

    alpha_l = measured error / sum_i E(l, i; ALPHA_BITS)

The measured error is of the same quantity as E: mean squared change of the logits (half of it for second order); with
labels the mean squared change of the cross-entropy, and for second order the KL divergence from the unquantized output,
of which 1/2 delta^T F delta is the second-order expansion. Where E is zero, alpha is 1. The recursion keeps the alphas
of the unquantized network; it derives E anew.

Weights at 8 bits are those of the int8 model, which is the reference: their E is 0. E of fewer bits is never less than
E of more (:func:`non_increasing`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.errors import DataError
from rqdkm_tvm.layer import Layer, NDArray
from rqdkm_tvm.lowbit import BITS, activation_quantization, dequantize_weights, quantize_weights
from rqdkm_tvm.sensitivity.float_twin import (
    ActivationQuantizer,
    FloatTwin,
    Forward,
    channels_back,
    channels_first,
)
from rqdkm_tvm.sensitivity.table import Assignment, LayerSensitivity, Sensitivity, channel_bits

ALPHA_BITS = 4
MAX_ALPHA_SAMPLES = 16  # alpha is a mean over a few samples: a forward run per layer and sample
# nothing is added: the values are those of the tied tensor
COPIES = ("max_pool2d", "pad", "clip", "reshape")

Progress = Callable[[str], None]
Order = Literal[1, 2]
Samples = Sequence[Sequence[NDArray]]


@dataclass
class Quantizers:
    """What every tensor becomes at every bit-width, fixed once from calibration."""

    weights: dict[str, dict[int, NDArray]]  # real values after quantization, in the layer's layout
    activations: dict[str, dict[int, ActivationQuantizer]]

    def apply(self, twin: FloatTwin, assignment: Assignment) -> None:
        """Put the twin into the state of a partly quantized network."""
        twin.reset()
        for name, groups in assignment.weights.items():
            if any(bits != 8 for bits in groups):
                twin.weights[name] = self.mixed(twin[name].layer, groups)
        for x in twin.layers:
            bits = assignment.activations.get(x.tied_to or x.name)
            if bits is not None and x.name in self.activations:
                twin.quantizers[x.name] = self.activations[x.name][bits]

    def mixed(self, layer: Layer, groups: Sequence[int]) -> npt.NDArray[np.float32]:
        """Weights with bits per group of output channels."""
        found = self.weights[layer.name]
        parts = {bits: channels_first(layer, found[bits]) for bits in set(groups)}
        channels = len(next(iter(parts.values())))
        rows = [parts[int(bits)][i] for i, bits in enumerate(channel_bits(groups, channels))]
        return np.ascontiguousarray(channels_back(layer, np.stack(rows)), np.float32)


def calibrate(twin: FloatTwin, samples: Samples, bits: Sequence[int] = BITS) -> Quantizers:
    """Quantizers of all weights, and of all feature maps from their values on ``samples``."""
    twin.reset()
    seen: dict[str, list[NDArray]] = {x.name: [] for x in twin.layers if not x.tied_to and not x.tied_to_input}
    for sample in samples:
        for x, values in zip(twin.layers, twin.forward(sample).activations, strict=True):
            if x.name in seen:
                seen[x.name].append(values)
    activations: dict[str, dict[int, ActivationQuantizer]] = {}
    for x in twin.layers:
        out = x.layer.output
        if x.name in seen:
            found = {b: activation_quantization(np.stack(seen[x.name]), b) for b in bits if b != 8}
            activations[x.name] = {b: ActivationQuantizer(float(s), z, b) for b, (s, z) in found.items()}
            activations[x.name][8] = ActivationQuantizer(out.scale, out.zero_point)
        elif x.tied_to:
            activations[x.name] = activations[x.tied_to]
    weights = {x.name: _weights_at(twin, x.layer, bits) for x in twin.layers if x.layer.weights is not None}
    return Quantizers(weights, activations)


def _weights_at(twin: FloatTwin, layer: Layer, bits: Sequence[int]) -> dict[int, NDArray]:
    reference = twin.reference_weights(layer.name)
    first = channels_first(layer, reference)
    found: dict[int, NDArray] = {8: reference}
    for b in bits:
        if b != 8:
            values, scales = quantize_weights(first, [b] * len(first))
            found[b] = channels_back(layer, dequantize_weights(values, scales))
    return found


def rep(
    twin: FloatTwin,
    samples: Samples,
    labels: Sequence[int] | NDArray | None = None,
    *,
    order: Order = 1,
    bits: Sequence[int] = BITS,
    probes: int = 4,
    seed: int = 0,
    at: Assignment | None = None,
    quantizers: Quantizers | None = None,
    alphas: Sensitivity | None = None,
    progress: Progress = lambda _message: None,
) -> Sensitivity:
    """The table R is read from.

    Args:
        twin: of the int8 module, see :meth:`FloatTwin.of`.
        samples: calibration samples, each one array per model input, as the chip gets them (int8) or real values.
        labels: class per sample; None measures against the network's own logits.
        order: 1 or 2, see above.
        probes: random cotangents per sample when there are no labels; with no more logits than that, each logit's own
            gradient is taken instead, which is exact.
        seed: of the random signs.
        at: bit-widths of the network at which E is derived; None for the unquantized one.
        quantizers: from :func:`calibrate`; None calibrates on ``samples``.
        alphas: take the alphas from this table instead of measuring them.

    Raises:
        DataError: no samples, or labels that do not fit.
    """
    check(twin, samples, labels)
    quantizers = quantizers or calibrate(twin, samples, bits)
    rng = np.random.default_rng(seed)
    total = _Totals(twin, quantizers, bits, order)
    quantizers.apply(twin, at or Assignment())
    reference = 0.0
    for index, sample in enumerate(samples):
        progress(f"sensitivity: gradients, sample {index + 1} of {len(samples)}")
        forward = twin.forward(sample)
        reference += _reference(forward.logits, None if labels is None else int(labels[index]))
        for cotangent in cotangents(forward, None if labels is None else int(labels[index]), probes, rng):
            total.add(sample, forward, cotangent)
    rows = total.rows(len(samples))
    if alphas is None:
        rows = _with_alphas(twin, quantizers, rows, samples, labels, order, progress)
    else:
        rows = tuple(_take_alphas(row, alphas) for row in rows)
    twin.reset()
    what = "squared error of the logits" if labels is None else "squared change of the cross-entropy"
    if order == 2:
        what = "half the squared error of the logits" if labels is None else "KL divergence from the unquantized output"
    return Sensitivity("rep", f"{what}, order {order}", reference / len(samples), len(samples), rows)


def check(twin: FloatTwin, samples: Samples, labels: Sequence[int] | NDArray | None) -> None:
    if not len(samples):
        raise DataError("no calibration samples", where="sensitivity")
    if labels is None:
        return
    if len(labels) != len(samples):
        raise DataError(f"{len(labels)} labels for {len(samples)} samples", where="sensitivity")
    if min(labels) < 0 or max(labels) >= twin.logits_size:
        raise DataError(f"labels must be 0 to {twin.logits_size - 1}", where="sensitivity")


def cotangents(forward: Forward, label: int | None, probes: int, rng: np.random.Generator) -> list[NDArray]:
    """Scaled so that the sum over them is the mean (for random signs) or the exact sum (for all logits)."""
    size = forward.logits.size
    if label is not None:
        gradient = softmax(forward.logits)
        gradient[label] -= 1
        return [gradient]
    if size <= probes:
        return list(np.eye(size, dtype=np.float32))
    signs = rng.choice(np.array([-1.0, 1.0]), (probes, size)) / np.sqrt(probes)
    return list(signs.astype(np.float32))


def softmax(logits: NDArray) -> npt.NDArray[np.float64]:
    e = np.exp(np.asarray(logits, np.float64) - np.max(logits))
    result: npt.NDArray[np.float64] = e / e.sum()
    return result


def _reference(logits: NDArray, label: int | None) -> float:
    if label is None:
        return float(np.square(logits, dtype=np.float64).sum())
    return float(np.log(softmax(logits)[label]) ** 2)


class _Totals:
    """Sums of E over samples and cotangents."""

    def __init__(self, twin: FloatTwin, quantizers: Quantizers, bits: Sequence[int], order: Order) -> None:
        self.twin, self.quantizers, self.bits, self.order = twin, quantizers, tuple(sorted(bits)), order
        self.weights: dict[str, dict[int, NDArray]] = {}
        self.activations: dict[str, dict[int, NDArray]] = {}
        self.deltas: dict[str, dict[int, NDArray]] = {}
        for x in twin.layers:
            if x.layer.weights is not None:
                reference = twin.reference_weights(x.name)
                self.deltas[x.name] = {
                    b: rows_of(channels_first(x.layer, quantizers.weights[x.name][b] - reference)) for b in self.bits
                }
                channels = len(channels_first(x.layer, reference))
                self.weights[x.name] = {b: np.zeros(channels) for b in self.bits}
            if x.name in quantizers.activations and not (x.tied_to and x.layer.op in COPIES):
                self.activations[x.name] = {b: np.zeros(x.layer.output.shape[-1]) for b in self.bits}

    def add(self, sample: Sequence[NDArray], forward: Forward, cotangent: NDArray) -> None:
        gradients = self.twin.backward(sample, forward, cotangent)
        for name, per_bits in self.weights.items():
            g = rows_of(channels_first(self.twin[name].layer, gradients.weights[name]))
            for b, total in per_bits.items():
                total += self._contribution(g, self.deltas[name][b])
        for index, x in enumerate(self.twin.layers):
            if x.name not in self.activations:
                continue
            values = forward.activations[index]
            g = columns_of(gradients.activations[index])
            for b, total in self.activations[x.name].items():
                delta = self.quantizers.activations[x.name][b](values) - values
                total += self._contribution(g, columns_of(delta))

    def _contribution(self, g: NDArray, delta: NDArray) -> npt.NDArray[np.float64]:
        """(channels, elements) twice -> (channels,)"""
        product = g.astype(np.float64) * delta
        if self.order == 1:
            return np.asarray(np.square(product.sum(axis=1)))
        return np.asarray(0.5 * np.square(product).sum(axis=1))

    def rows(self, samples: int) -> tuple[LayerSensitivity, ...]:
        def mean(sums: Mapping[int, NDArray]) -> dict[int, tuple[float, ...]]:
            return non_increasing({b: total / samples for b, total in sums.items()})

        return tuple(
            LayerSensitivity(
                x.name,
                x.layer.op,
                mean(self.weights.get(x.name, {})),
                mean(self.activations.get(x.name, {})),
                tied_to=x.tied_to,
                fixed=x.tied_to_input,
            )
            for x in self.twin.layers
        )


def non_increasing(errors: Mapping[int, NDArray]) -> dict[int, tuple[float, ...]]:
    """E by bits, each channel's raised to that of more bits where the estimate is smaller.

    The expected error grows where bits are taken away (the steps get coarser); where an estimate says otherwise, its
    samples were too few or its terms happened to cancel, and the search must not pay for such luck.
    """
    found: dict[int, tuple[float, ...]] = {}
    floor: NDArray | None = None
    for b in sorted(errors, reverse=True):
        floor = errors[b] if floor is None else np.maximum(errors[b], floor)
        found[b] = tuple(float(e) for e in floor)
    return dict(sorted(found.items()))


def rows_of(weights: NDArray) -> NDArray:
    """(O, ...) -> (O, elements)"""
    return np.asarray(weights.reshape(len(weights), -1))


def columns_of(feature_map: NDArray) -> NDArray:
    """(..., C) -> (C, pixels)"""
    return np.asarray(feature_map.reshape(-1, feature_map.shape[-1]).T)


# ---- alpha


def _take_alphas(row: LayerSensitivity, table: Sensitivity) -> LayerSensitivity:
    old = table[row.name]
    return _replaced(row, old.alpha_weights, old.alpha_activations)


def _replaced(row: LayerSensitivity, weights: float, activations: float) -> LayerSensitivity:
    return LayerSensitivity(
        row.name, row.op, row.weights, row.activations, weights, activations, row.tied_to, row.fixed
    )


def _with_alphas(
    twin: FloatTwin,
    quantizers: Quantizers,
    rows: tuple[LayerSensitivity, ...],
    samples: Samples,
    labels: Sequence[int] | NDArray | None,
    order: Order,
    progress: Progress,
) -> tuple[LayerSensitivity, ...]:
    used = [samples[i] for i in range(min(len(samples), MAX_ALPHA_SAMPLES))]
    twin.reset()
    unquantized = [twin.logits(sample) for sample in used]

    def measure(assignment: Assignment, only: str) -> float:
        quantizers.apply(twin, assignment)
        if only:  # without the tensors that share the bit-width: each has its own row
            twin.quantizers = {k: v for k, v in twin.quantizers.items() if k == only}
        errors = [
            objective(before, twin.logits(sample), None if labels is None else int(labels[i]), order)
            for i, (sample, before) in enumerate(zip(used, unquantized, strict=True))
        ]
        return float(np.mean(errors))

    found = []
    for index, row in enumerate(rows):
        progress(f"sensitivity: alpha, layer {index + 1} of {len(rows)}")
        weights = activations = 1.0
        if ALPHA_BITS in row.weights and sum(row.weights[ALPHA_BITS]) > 0:
            weights = measure(Assignment({row.name: (ALPHA_BITS,)}), "") / sum(row.weights[ALPHA_BITS])
        if ALPHA_BITS in row.activations and sum(row.activations[ALPHA_BITS]) > 0:
            assignment = Assignment({}, {row.tied_to or row.name: ALPHA_BITS})
            activations = measure(assignment, row.name) / sum(row.activations[ALPHA_BITS])
        found.append(_replaced(row, weights, activations))
    return tuple(found)


def objective(before: NDArray, after: NDArray, label: int | None, order: Order) -> float:
    """The measured counterpart of E at one sample, see the module's text."""
    before, after = np.asarray(before, np.float64), np.asarray(after, np.float64)
    if label is None:
        return float(np.square(after - before).sum()) * (1.0 if order == 1 else 0.5)
    p, q = np.log(softmax(before)), np.log(softmax(after))
    return float((q[label] - p[label]) ** 2) if order == 1 else float((np.exp(p) * (p - q)).sum())
