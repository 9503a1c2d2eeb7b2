"""Second moments of a layer's inputs and wanted outputs over calibration pixels: all that rounding needs to know.

For a layer whose output channel o is ``w_o . x`` with x the patch that its window sees, the mean squared error of any
weights w against wanted outputs y follows from sums alone: ``E (y - w.x)^2 = E y^2 - 2 w.E[yx] + w.E[xx^T].w``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.layer import Layer, NDArray
from rqdkm_tvm.sensitivity.float_twin import channels_back, channels_first

Doubles = npt.NDArray[np.float64]


def groups_of(layer: Layer) -> int:
    """Groups of output channels that read the same inputs."""
    if layer.op == "depthwise_conv2d":
        return int(layer.inputs[0].shape[-1])
    return int(layer.attrs["groups"]) if layer.op == "conv2d" else 1


def rows_of(layer: Layer, weights: NDArray) -> NDArray:
    """Weights in the layer's layout -> (groups, output channels each, elements), in the order of :func:`patches`."""
    first = channels_first(layer, weights)
    return np.ascontiguousarray(first.reshape(groups_of(layer), len(first) // groups_of(layer), -1))


def weights_of(layer: Layer, rows: NDArray) -> NDArray:
    """Inverse of :func:`rows_of`."""
    assert layer.weights is not None
    first = channels_first(layer, layer.weights)
    return np.ascontiguousarray(channels_back(layer, rows.reshape(first.shape)))


def patches(layer: Layer, x: NDArray) -> npt.NDArray[np.float32]:
    """What the windows of a layer see of one sample: real inputs -> (groups, pixels, elements)."""
    assert layer.weights is not None
    if layer.op == "fully_connected":
        return np.asarray(x, np.float32).reshape(1, -1, layer.weights.shape[1])
    x = np.asarray(x, np.float32).reshape(layer.inputs[0].shape)[0]
    kh, kw = layer.weights.shape[1:3]
    (sh, sw), (dh, dw) = layer.attrs["strides"], layer.attrs["dilation"]
    top, left, bottom, right = layer.attrs["padding"]
    padded = np.pad(x, ((top, bottom), (left, right), (0, 0)))  # the zero point is the real 0
    reach = ((kh - 1) * dh + 1, (kw - 1) * dw + 1)
    view = np.lib.stride_tricks.sliding_window_view(padded, reach, axis=(0, 1))[::sh, ::sw, :, ::dh, ::dw]
    view = view[: layer.output.shape[1], : layer.output.shape[2]]
    groups = groups_of(layer)
    height, width, channels = view.shape[:3]
    split = view.reshape(height, width, groups, channels // groups, kh, kw)
    return np.ascontiguousarray(split.transpose(2, 0, 1, 4, 5, 3)).reshape(groups, height * width, -1)


@dataclass
class Moments:
    """Means over the pixels of all samples added. G groups, R output channels each, K elements of a patch."""

    count: int
    x: Doubles  # (G, K)
    y: Doubles  # (G, R)
    xx: Doubles  # (G, K, K)
    yx: Doubles  # (G, R, K)
    yy: Doubles  # (G, R)

    @staticmethod
    def empty(groups: int, rows: int, elements: int) -> Moments:
        return Moments(
            0,
            np.zeros((groups, elements)),
            np.zeros((groups, rows)),
            np.zeros((groups, elements, elements)),
            np.zeros((groups, rows, elements)),
            np.zeros((groups, rows)),
        )

    def add(self, x: NDArray, y: NDArray) -> None:
        """One sample: patches (G, P, K) and wanted outputs (G, P, R)."""
        total = self.count + x.shape[1]
        keep, share = self.count / total, 1.0 / total
        # the products in single precision, their sums over samples in double
        for mean, new in (
            (self.x, x.sum(axis=1, dtype=np.float64)),
            (self.y, y.sum(axis=1, dtype=np.float64)),
            (self.xx, x.transpose(0, 2, 1) @ x),
            (self.yx, y.transpose(0, 2, 1) @ x),
            (self.yy, np.square(y, dtype=np.float64).sum(axis=1)),
        ):
            mean *= keep
            mean += share * new
        self.count = total

    def mean_error(self, weights: NDArray) -> Doubles:
        """(G, R, K) -> (G, R): mean of ``y - w.x``, what a bias can take away."""
        return np.asarray(self.y - np.einsum("grk,gk->gr", weights, self.x))

    def error(self, weights: NDArray, shift: NDArray) -> Doubles:
        """(G, R): mean of ``(y - w.x - shift)^2``."""
        square = self.yy - 2 * np.einsum("grk,grk->gr", weights, self.yx)
        square = square + np.einsum("grk,grk->gr", weights @ self.xx, weights)
        return np.asarray(square - 2 * shift * self.mean_error(weights) + np.square(shift))

    @property
    def covariance(self) -> Doubles:
        """Of the inputs, (G, K, K)."""
        return np.asarray(self.xx - self.x[:, :, None] * self.x[:, None, :])

    @property
    def cross_covariance(self) -> Doubles:
        """Of outputs and inputs, (G, R, K)."""
        return np.asarray(self.yx - self.y[:, :, None] * self.x[:, None, :])
