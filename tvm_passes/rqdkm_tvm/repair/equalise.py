"""Cross-layer equalisation: rescale the channels of a feature map so that few levels serve all of them.

``relu(r a) = r relu(a)`` for r > 0, so output channel i of one layer may be multiplied by r_i and what reads it divided
by r_i, without changing the float network (Nagel et al., "Data-Free Quantization through Weight Equalization and Bias
Correction", 2019; Meller et al., "Same, Same But Different", 2019). Weights have a scale per output channel; a feature
map has one for all its channels, and a channel of small values gets few of its levels. So

    r_i = (T / t_i)^alpha,    t_i the largest magnitude of channel i, T = max t_i

raises small channels towards the largest, never beyond it: nothing leaves the range the model had. alpha is chosen per
feature map by measurement, among 0 (leave it) to 1 (all alike), because the division changes which input channels of
the reader's weights are well represented.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np

from rqdkm_tvm.layer import Layer, NDArray
from rqdkm_tvm.lowbit import Histogram, activation_quantization
from rqdkm_tvm.repair.network import Network
from rqdkm_tvm.sensitivity.float_twin import ActivationQuantizer, Floats, TwinLayer
from rqdkm_tvm.sensitivity.rep import Progress, Samples

ALPHAS = (0.25, 0.5, 0.75, 1.0)
LARGEST = 64.0  # a channel that is almost dead is not blown up beyond this
# what a gain per channel passes through unchanged
_LINEAR = ("max_pool2d", "avg_pool2d", "mean")


def chains(layers: Sequence[TwinLayer], roots: Collection[str]) -> list[tuple[int, ...]]:
    """Feature maps that can be rescaled: positions of a layer with weights, what passes its gain on, and the reader.

    Args:
        layers: of a network.
        roots: names of the layers that are its results.
    """
    readers: dict[int, list[int]] = {}
    for index, x in enumerate(layers):
        for source in x.sources:
            readers.setdefault(source, []).append(index)
    found = []
    for start, x in enumerate(layers):
        if x.layer.weights is None or not _is_homogeneous(x.layer):
            continue
        chain = [start]
        while len(readers.get(chain[-1], ())) == 1 and layers[chain[-1]].name not in roots:
            after = layers[readers[chain[-1]][0]].layer
            chain.append(readers[chain[-1]][0])
            if after.weights is not None:
                if _channels_stay(layers[chain[-2]].layer, after):
                    found.append(tuple(chain))
                break
            if after.op not in _LINEAR or not _is_homogeneous(after) or after.output.shape[-1] != _channels(x.layer):
                break
    return found


def _channels(layer: Layer) -> int:
    return int(layer.output.shape[-1])


def _channels_stay(source: Layer, reader: Layer) -> bool:
    """The reader's channels are the source's, or they are the last axis of what a reshape flattened."""
    if reader.op == "fully_connected":
        return bool(reader.inputs[0].size == source.output.size)
    return bool(reader.inputs[0].shape == source.output.shape)


def _is_homogeneous(layer: Layer) -> bool:
    """No bound but 0 and those of the storage: ``f(r a) = r f(a)``."""
    low, high = layer.attrs.get("clamp", (-128, 127))
    return low in (-128, layer.output.zero_point) and high == 127


def equalise(network: Network, samples: Samples, check: Samples, progress: Progress) -> list[str]:
    """Rescale low-bit feature maps where that lowers the squared error of the logits, on both sets of samples.

    ``network`` is changed: gains, and the quantizers of the rescaled maps. Returns the layers whose map was rescaled.
    """
    twin = network.twin
    network.set_float()
    runs = [twin.forward(sample).activations for sample in samples]
    wanted = network.logits(samples), network.logits(check)
    changed = []
    for chain in chains(twin.layers, twin.roots):
        stored = [twin.layers[i] for i in chain[:-1]]
        if all(network.activations[x.name].bits == 8 for x in stored if x.name in network.activations):
            continue
        progress(f'repair: equalise "{stored[0].name}"')
        room = np.min([_room(np.stack([run[i] for run in runs])) for i in chain[:-1]], axis=0)
        best = _measure(network, chain, samples, check, wanted)
        best_gains, best_activations = dict(network.gains), network.activations
        before = network.activations
        for alpha in ALPHAS:
            gain = np.where(room > 0, np.clip(room, 1, LARGEST) ** alpha, 1).astype(np.float32)
            network.gains = {**best_gains, **{x.name: gain for x in stored}}
            network.activations = {**before, **_calibrated(network, chain[:-1], runs, gain)}
            found = _measure(network, chain, samples, check, wanted)
            if found[0] < best[0] and found[1] < best[1]:
                best, best_gains, best_activations = found, network.gains, network.activations
        network.gains, network.activations = best_gains, best_activations
        if best_activations is not before:
            changed.append(stored[0].name)
    return changed


def _room(values: NDArray) -> NDArray:
    """(..., C) -> (C,): by how much each channel may grow before it is the largest; 0 where it is dead."""
    reach = np.abs(values.reshape(-1, values.shape[-1])).max(axis=0)
    return np.asarray(reach.max() / np.where(reach > 0, reach, np.inf))


def _calibrated(
    network: Network, positions: Sequence[int], runs: Sequence[Sequence[Floats]], gain: NDArray
) -> dict[str, ActivationQuantizer]:
    """Quantizers of the rescaled maps below 8 bits; at 8 bits they fit as they are, since no range grew."""
    found: dict[str, ActivationQuantizer] = {}
    for i in positions:
        x = network.twin.layers[i]
        old = network.activations.get(x.name)
        if old is None or old.bits == 8:
            continue
        if x.tied_to:
            found[x.name] = found[x.tied_to]
            continue
        seen = Histogram.of(np.stack([run[i] for run in runs]) * gain)
        scale, zero_point = activation_quantization(seen, old.bits)
        found[x.name] = ActivationQuantizer(float(scale), zero_point, old.bits)
    return found


def _measure(
    network: Network, chain: Sequence[int], samples: Samples, check: Samples, wanted: tuple[NDArray, NDArray]
) -> tuple[float, float]:
    """Squared error of the logits with only these feature maps, and the weights around them, as integers."""
    twin = network.twin
    network.set_float()
    for x in (twin.layers[chain[0]], twin.layers[chain[-1]]):
        network.set_layer(x, network.store(x, network.plain(x), network.bias(x)))
    names = {twin.layers[i].name for i in chain[:-1]}
    twin.quantizers = {name: q for name, q in network.activations.items() if name in names}
    errors = [
        np.square(network.logits(part) - good).mean() for part, good in zip((samples, check), wanted, strict=True)
    ]
    return float(errors[0]), float(errors[1])
