"""The integers of a mixed-precision network's weights, where they are not simply those nearest to the model's.

Repair and fine-tuning write them, a plan names the file (``parameters`` in :mod:`rqdkm_tvm.plan`), the lowering pass
stores them. As ``.npz``: ``names`` (JSON list of layers), and ``<index>.weights``, ``<index>.scales`` and, where there
is one, ``<index>.bias`` of each. NumPy reads it; the same parameters give the same bytes.
"""

from __future__ import annotations

import io
import json
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.errors import DataError, PlanError
from rqdkm_tvm.files import write_atomic
from rqdkm_tvm.layer import Layer, NDArray
from rqdkm_tvm.lowbit import channel_axis, integer_range, requantize_weights

# what NumPy and zipfile raise on damaged or foreign files
_UNREADABLE = (
    *(ValueError, KeyError, OSError, EOFError, AttributeError, TypeError, RuntimeError, MemoryError),
    *(zipfile.BadZipFile, zlib.error),
)
_EPOCH = (1980, 1, 1, 0, 0, 0)  # zip's first day: files differ by content only


@dataclass(frozen=True, eq=False)
class LayerParameters:
    """One layer: ``real = scales[o] * weights``, zero point 0.

    Args:
        weights: int8 in the layer's layout (:class:`rqdkm_tvm.layer.Layer`), within the range of its bits.
        scales: (O,) float32, positive, one per output channel.
        bias: (O,) int32 in units of ``scale_in * scales[o]``, with ``scale_in`` the scale at which the plan stores the
            layer's input; None for a layer without.
    """

    weights: npt.NDArray[np.int8]
    scales: npt.NDArray[np.float32]
    bias: npt.NDArray[np.int32] | None = None


class Parameters(Mapping[str, LayerParameters]):
    """Parameters by layer name, for every layer that has weights."""

    def __init__(self, layers: Mapping[str, LayerParameters]) -> None:
        self._layers = dict(layers)

    def __getitem__(self, name: str) -> LayerParameters:
        return self._layers[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._layers)

    def __len__(self) -> int:
        return len(self._layers)

    def check(
        self, layers: Iterable[Layer], bits: Mapping[str, Sequence[int] | NDArray], *, where: str = "parameters"
    ) -> None:
        """That these are the parameters of ``layers``, within ``bits``.

        Args:
            layers: of the model; those without weights are passed over.
            bits: 8, 4 or 2 per output channel, by layer; a layer that is absent or empty has 8 throughout.

        Raises:
            PlanError: names the first layer that is missing, unknown, of another shape, or out of range.
        """
        weighted = {layer.name: layer for layer in layers if layer.weights is not None}
        for name in self:
            if name not in weighted:
                raise PlanError(f'the model has no layer "{name}" with weights', where=where, hint=_OTHER)
        for name, layer in weighted.items():
            if name not in self:
                raise PlanError(f'layer "{name}" is missing', where=where, hint=_OTHER)
            _check_layer(self[name], layer, bits.get(name, ()), f'{where}: layer "{name}"')

    # ---- file

    def to_bytes(self) -> bytes:
        arrays: dict[str, NDArray] = {"names": np.array(json.dumps(list(self)))}
        for index, layer in enumerate(self.values()):
            arrays[f"{index}.weights"] = layer.weights
            arrays[f"{index}.scales"] = layer.scales
            if layer.bias is not None:
                arrays[f"{index}.bias"] = layer.bias
        stream = io.BytesIO()
        with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
            for key, array in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, np.asarray(array, order="C"), version=(1, 0), allow_pickle=False)
                entry = zipfile.ZipInfo(f"{key}.npy", _EPOCH)
                entry.compress_type = zipfile.ZIP_DEFLATED
                entry.external_attr = 0o644 << 16
                archive.writestr(entry, content.getvalue(), compresslevel=9)
        return stream.getvalue()

    @staticmethod
    def from_bytes(data: bytes, *, where: str = "parameters.npz") -> Parameters:
        """Inverse of :meth:`to_bytes`.

        Raises:
            DataError: damaged, not such a file, or arrays of the wrong type or with values that cannot be.
        """
        try:
            with np.load(io.BytesIO(data), allow_pickle=False) as archive:
                arrays = {key: archive[key] for key in archive.files}
            names = json.loads(str(arrays.pop("names")[()]))
        except _UNREADABLE as error:
            raise DataError(f"not a parameters file: {error}", where=where) from error
        if not isinstance(names, list) or not all(isinstance(x, str) for x in names) or len(set(names)) != len(names):
            raise DataError("not a parameters file: its list of layers is unusable", where=where)
        layers = {name: _read_layer(arrays, index, f'{where}: layer "{name}"') for index, name in enumerate(names)}
        if arrays:
            raise DataError(f'not a parameters file: array "{next(iter(arrays))}" belongs to no layer', where=where)
        return Parameters(layers)

    def save(self, path: Path | str) -> None:
        """Write the file, all of it or nothing."""
        write_atomic(Path(path), self.to_bytes())

    @staticmethod
    def load(path: Path | str) -> Parameters:
        """Read a file.

        Raises:
            DataError: it cannot be read or is not a parameters file.
        """
        try:
            data = Path(path).read_bytes()
        except OSError as error:
            raise DataError(f"cannot read the parameters: {error.strerror}", where=str(path)) from error
        return Parameters.from_bytes(data, where=str(path))


def refit(found: LayerParameters, op: str, bits: Sequence[int], input_ratio: float = 1.0) -> LayerParameters:
    """The same weights at other bits, over an input of another scale.

    Output channels whose integers the bits hold keep them: what they compute stays, and weights that other layers were
    fitted to (trained, equalised) go on fitting. The others are rounded anew, to the least squared error.

    Args:
        op: of the layer.
        bits: of every output channel; empty: 8.
        input_ratio: scale of the input before, over that after; the bias is in units of it.
    """
    axis = channel_axis(op)
    first = np.moveaxis(found.weights, axis, 0)
    rows = first.reshape(len(first), -1)
    widths = np.asarray(bits or (8,) * len(first))
    ranges = np.array([integer_range(int(b)) for b in widths])
    held = ((rows >= ranges[:, :1]) & (rows <= ranges[:, 1:])).all(axis=1)
    values, scales = requantize_weights(first, found.scales, np.where(held, 8, widths))  # 8: as they are
    bias = found.bias
    ratio = input_ratio * found.scales.astype(np.float64) / scales
    if bias is not None and (ratio != 1).any():
        bias = np.clip(np.rint(bias * ratio), -(2**31), 2**31 - 1).astype(np.int32)
    return LayerParameters(np.ascontiguousarray(np.moveaxis(values, 0, axis)), scales, bias)


_OTHER = "the parameters file was made for another model"


def _read_layer(arrays: dict[str, NDArray], index: int, where: str) -> LayerParameters:
    """Takes the layer's arrays out of ``arrays``."""
    found: dict[str, NDArray] = {}
    for key, dtype in (("weights", np.int8), ("scales", np.float32), ("bias", np.int32)):
        array = arrays.pop(f"{index}.{key}", None)
        if array is None:
            if key == "bias":
                continue
            raise DataError(f"{key} are missing", where=where)
        if array.dtype != dtype:
            raise DataError(f"{key} are {array.dtype}, expected {np.dtype(dtype)}", where=where)
        found[key] = array
    scales = found["scales"]
    if scales.ndim != 1 or ("bias" in found and found["bias"].shape != scales.shape):
        raise DataError("scales and bias need one value per output channel", where=where)
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise DataError("scales must be positive numbers", where=where)
    return LayerParameters(found["weights"], scales, found.get("bias"))


def _check_layer(found: LayerParameters, layer: Layer, bits: Sequence[int] | NDArray, where: str) -> None:
    assert layer.weights is not None
    channels = layer.weights.shape[channel_axis(layer.op)]
    for what, array, dtype, shape in (
        ("weights", found.weights, np.int8, layer.weights.shape),
        ("scales", found.scales, np.float32, (channels,)),
        ("bias", found.bias, np.int32, (channels,)),
    ):
        if array is not None and (array.dtype != dtype or array.shape != shape):
            raise PlanError(
                f"{what} are {array.dtype} {array.shape}, expected {np.dtype(dtype)} {shape}", where=where, hint=_OTHER
            )
    if not (np.isfinite(found.scales).all() and (found.scales > 0).all()):
        raise PlanError("scales must be positive numbers", where=where)
    widths = np.asarray(bits, np.int64) if len(bits) else np.full(channels, 8)
    if widths.shape != (channels,):
        raise PlanError(f"{channels} output channels, but bit-widths for {widths.size}", where=where)
    rows = np.moveaxis(found.weights, channel_axis(layer.op), 0).reshape(channels, -1)
    for channel, (width, row) in enumerate(zip(widths.tolist(), rows, strict=True)):
        low, high = integer_range(width)
        if row.size and not low <= row.min() <= row.max() <= high:
            raise PlanError(
                f"weights of output channel {channel} reach from {row.min()} to {row.max()}; "
                f"the plan's {width} bits hold {low} to {high}",
                where=where,
                hint="the parameters file was made for other bit-widths",
            )
