"""Repair without training: better integers for given bit-widths, from the int8 model and unlabelled samples alone.

Three methods, each can be left out:

* ``equalise`` rescales channels of low-bit feature maps (:mod:`rqdkm_tvm.repair.equalise`)
* ``round`` chooses integers and scales by the error of the layer's output (:mod:`rqdkm_tvm.repair.rounding`)
* ``bias`` takes the mean error of each output channel into the bias (Nagel et al., 2019)

Layers are repaired in execution order: a layer sees the inputs that the quantized network before it gives, and aims at
the outputs of the float network, so that it also takes back what it can of earlier errors. Half of the samples are for
fitting. The others judge: an output channel whose held-out error did not fall keeps its plain integers, and a network
whose logits are no nearer to the float network's is handed back plain.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rqdkm_tvm.errors import DataError
from rqdkm_tvm.layer import NDArray
from rqdkm_tvm.parameters import LayerParameters, Parameters
from rqdkm_tvm.plan import LayerPlan
from rqdkm_tvm.repair import rounding
from rqdkm_tvm.repair.equalise import equalise
from rqdkm_tvm.repair.moments import Moments, patches, rows_of, weights_of
from rqdkm_tvm.repair.network import Network, weighted
from rqdkm_tvm.sensitivity.float_twin import ActivationQuantizer, FloatTwin, TwinLayer, channels_first
from rqdkm_tvm.sensitivity.rep import Progress, Quantizers, Samples
from rqdkm_tvm.sensitivity.table import Assignment

Method = Literal["equalise", "round", "bias"]
METHODS: tuple[Method, ...] = ("equalise", "round", "bias")
DAMPING = 0.01  # of the mean of the Hessian's diagonal


@dataclass(frozen=True)
class LayerRepair:
    """What became of one layer: mean squared error of its output on the held-out samples, relative to its power."""

    name: str
    plain: float
    repaired: float
    channels: int  # how many output channels took the repaired integers or bias


@dataclass(frozen=True)
class Repaired:
    """Result of :func:`repair`.

    Args:
        parameters: of every layer with weights.
        activations: quantizer of every feature map that is not the model's input, the rescaled ones included.
        entries: of a plan that lowers the module to these integers, kernels left open.
        layers: in execution order.
        equalised: layers whose feature map was rescaled.
        plain_error, error: mean squared error of the logits on the held-out samples. Equal if nothing helped.
    """

    parameters: Parameters
    activations: dict[str, ActivationQuantizer]
    entries: tuple[LayerPlan, ...]
    layers: tuple[LayerRepair, ...]
    equalised: tuple[str, ...]
    plain_error: float
    error: float


def repair(
    twin: FloatTwin,
    assignment: Assignment,
    quantizers: Quantizers,
    samples: Samples,
    methods: Sequence[Method] = METHODS,
    progress: Progress = lambda _message: None,
    only: Collection[str] | None = None,
) -> Repaired:
    """Integers for ``assignment``; without methods the plain ones, nearest to the model's weights.

    The twin is left unquantized. Same arguments, same machine: same result.

    Args:
        assignment: bits; 8 for what it does not name.
        quantizers: of :func:`rqdkm_tvm.sensitivity.rep.calibrate`; only those of feature maps are used.
        samples: as for calibration, at least 2; some 100 and more give good results.
        only: layers whose integers and scales may change; None: all. Equalisation, which rescales, needs None.

    Raises:
        DataError: fewer than 2 samples.
        ValueError: an unknown method.
    """
    if unknown := set(methods) - set(METHODS):
        raise ValueError(f"unknown methods {sorted(unknown)}; known are {METHODS}")
    if only is not None and "equalise" in methods:
        raise ValueError("equalisation changes all layers")
    if len(samples) < 2:
        raise DataError("repair needs 2 samples or more", where="calibration data", hint="some 100 are better")
    fit, check = [samples[i] for i in range(0, len(samples), 2)], [samples[i] for i in range(1, len(samples), 2)]
    try:
        plain = Network.of(twin, assignment, quantizers)
        plain.set_float()
        wanted = plain.logits(check)
        simple = plain.plain_parameters()
        plain_error = _logits_error(plain, simple, check, wanted)
        network = Network(twin, plain.bits, dict(plain.activations))
        equalised = equalise(network, fit, check, progress) if "equalise" in methods else []
        parameters, rows = _repair_layers(network, fit, check, methods, progress, only)
        error = _logits_error(network, parameters, check, wanted)
        if error >= plain_error:
            rows = tuple(LayerRepair(r.name, r.plain, r.plain, 0) for r in rows)
            return _result(plain, simple, rows, (), plain_error, plain_error)
        return _result(network, parameters, rows, tuple(equalised), plain_error, error)
    finally:
        twin.reset()


def _result(
    network: Network,
    parameters: Parameters,
    rows: tuple[LayerRepair, ...],
    equalised: tuple[str, ...],
    plain_error: float,
    error: float,
) -> Repaired:
    entries = tuple(network.entries())
    return Repaired(parameters, network.activations, entries, rows, equalised, plain_error, error)


def apply(twin: FloatTwin, repaired: Repaired) -> None:
    """Put the twin into the state of the repaired network."""
    network = Network(twin, {}, repaired.activations)
    network.set_quantized(repaired.parameters)


def _logits_error(network: Network, parameters: Parameters, samples: Samples, wanted: NDArray) -> float:
    network.set_quantized(parameters)
    return float(np.square(network.logits(samples) - wanted).mean())


def _repair_layers(
    network: Network,
    fit: Samples,
    check: Samples,
    methods: Sequence[Method],
    progress: Progress,
    only: Collection[str] | None,
) -> tuple[Parameters, tuple[LayerRepair, ...]]:
    twin = network.twin
    layers = weighted(twin)
    if not {"round", "bias"} & set(methods):
        return network.plain_parameters(), ()
    network.set_float()
    sources = {x.sources[0] for x in layers}
    targets = [_inputs(twin, sample, sources) for sample in (*fit, *check)]
    done: dict[str, LayerParameters] = {}
    rows = []
    for index, x in enumerate(layers):
        if only is not None and x.name not in only:
            done[x.name] = network.store(x, network.plain(x), network.bias(x))
            continue
        progress(f'repair: layer {index + 1} of {len(layers)}, "{x.name}"')
        network.set_quantized(done)
        real = rows_of(x.layer, network.weights(x))
        moments = [Moments.empty(*real.shape) for _ in range(2)]
        for n, sample in enumerate((*fit, *check)):
            seen = _inputs(twin, sample, {x.sources[0]})[x.sources[0]]
            y = patches(x.layer, targets[n][x.sources[0]]) @ real.transpose(0, 2, 1).astype(np.float32)
            moments[n >= len(fit)].add(patches(x.layer, seen), y)
        done[x.name], row = _repair_layer(network, x, real, moments[0], moments[1], methods)
        rows.append(row)
    return Parameters(done), tuple(rows)


def _inputs(twin: FloatTwin, sample: Sequence[NDArray], sources: set[int]) -> dict[int, NDArray]:
    """What layers read at ``sources``, in the state the twin is in."""
    real = twin.dequantize(sample)
    found: dict[int, NDArray] = {i: real[-1 - i] for i in sources if i < 0}
    if any(i >= 0 for i in sources):
        run = twin.forward(sample)
        found |= {i: run.activations[i] + run.perturbations[i] for i in sources if i >= 0}
    return found


def _repair_layer(
    network: Network, x: TwinLayer, real: NDArray, fit: Moments, check: Moments, methods: Sequence[Method]
) -> tuple[LayerParameters, LayerRepair]:
    layer = x.layer
    plain = network.plain(x)
    shape = real.shape[:2]
    values, scales = plain[0].reshape(real.shape), plain[1].reshape(shape)
    bits = np.asarray(network.bits[x.name]).reshape(shape)
    candidates = [(values, scales)]
    if "round" in methods and (bits != 8).any():
        centred = "bias" in methods  # the bias takes the mean, weights need not
        hessian = (fit.covariance if centred else fit.xx) + rounding.floor(fit.xx)
        cross = fit.cross_covariance if centred else fit.yx
        wanted = rounding.target(hessian, cross, real, DAMPING)
        q, s = rounding.round_weights(wanted, rounding.damped(hessian, DAMPING), bits, values, scales)
        eight = bits == 8  # those integers are exact
        candidates.append((np.where(eight[..., None], values, q), np.where(eight, scales, s)))
    none = np.zeros(shape)
    best_error = check.error(values * scales[..., None].astype(np.float64), none)
    plain_error = best_error
    best_q, best_s, best_shift = values, scales, none
    for q, s in candidates:
        w = q * s[..., None].astype(np.float64)
        for shift in [none, fit.mean_error(w)] if "bias" in methods else [none]:
            error = check.error(w, shift)
            better = error < best_error
            best_error = np.where(better, error, best_error)
            best_q = np.where(better[..., None], q, best_q)
            best_s, best_shift = np.where(better, s, best_s), np.where(better, shift, best_shift)
    first = channels_first(layer, weights_of(layer, best_q.astype(np.int8)))
    bias = network.bias(x) + best_shift.reshape(-1)
    found = network.store(x, (first, best_s.reshape(-1).astype(np.float32)), bias)
    power = max(float(check.yy.sum()), 1e-30)
    changed = int((best_error < plain_error).sum())
    return found, LayerRepair(x.name, float(plain_error.sum()) / power, float(best_error.sum()) / power, changed)
