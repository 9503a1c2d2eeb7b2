"""Calibration and evaluation data: ``.npz``, ``.npy`` or a folder of images, checked against the model's inputs.

What numbers mean: floating-point and integer arrays hold real values (what the float model was trained on), with two
exceptions: ``uint8`` arrays are pixels and are normalised as images are, and ``int8`` arrays for an int8 model are
taken as already quantized. Shapes are those of the model file's inputs
(an ONNX model's data is NCHW if the file is), with the batch dimension as the number of samples.
"""

from __future__ import annotations

import logging
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rqdkm.models.graph import Quantization, TensorInfo
from rqdkm.models.oracle import sample_shape
from rqdkm_tvm.errors import DataError

if TYPE_CHECKING:
    from rqdkm.models.load import LoadedModel

NDArray = npt.NDArray[Any]
Labels = npt.NDArray[np.int64]
_LOG = logging.getLogger(__name__)
_HOW_TO_WRITE = "write it with numpy.savez(path, x=inputs, y=labels)"
_LABELS = "labels are y: for every sample the number of its class, counted from 0 as the model's outputs are"
_AT_ONCE = 1 << 18  # values quantized at a time: what is between stays in the cache
_SUSPICIOUS = 0.2  # fraction of input values outside the model's range that deserves a warning
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".ppm", ".pgm")
LABEL_KEYS = ("y", "labels", "label", "targets")
INPUT_KEYS = ("x", "inputs", "input", "data", "images")

# real value of an image's pixel p in 0..255: factor * p + offset
NORMALISATIONS: Mapping[str, tuple[float, float]] = {
    "0..255": (1.0, 0.0),
    "0..1": (1 / 255, 0.0),
    "-1..1": (1 / 127.5, -1.0),
    "-128..127": (1.0, -128.0),
}


@dataclass(frozen=True)
class Dataset:
    """Samples for one model.

    Args:
        inputs: per model input (n, *sample shape), in the module's layout: float32 real values, or int8 as given.
        labels: class numbers (n,), or None.
        source: where they came from, for messages and reports.
        class_names: folder names, if labels came from an image folder.
    """

    inputs: tuple[NDArray, ...]
    labels: npt.NDArray[np.int64] | None
    source: str
    class_names: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.inputs[0])

    def head(self, count: int) -> Dataset:
        """The first ``count`` samples."""
        labels = None if self.labels is None else self.labels[:count]
        return Dataset(tuple(x[:count] for x in self.inputs), labels, self.source, self.class_names)


def load_data(path: Path | str, model: LoadedModel, *, normalise: str = "auto", limit: int | None = None) -> Dataset:
    """Read and check samples for ``model``.

    Args:
        path: ``.npz`` (inputs under the model's input names, or ``x``/``inputs``, or the only array; labels under
            ``y``/``labels``), ``.npy`` (inputs), or a folder of images, whose sub-folders, if any, are the classes in
            alphabetical order.
        normalise: for image folders and ``uint8`` arrays, one of :data:`NORMALISATIONS`, or ``auto``: the range that
            fits the model's input quantization, ``0..1`` for float models.
        limit: read no more than this many samples.

    Raises:
        DataError: says what was found, what was expected, and where.
    """
    path = Path(path)
    where = str(path)
    if path.is_dir():
        dataset = _image_folder(path, model, normalise, limit)
    elif not path.exists():
        raise DataError("there is no such file or folder", where=where, hint="check the path")
    else:
        arrays = read_arrays(path)
        labels = next((arrays.pop(key) for key in LABEL_KEYS if key in arrays), None)
        inputs = pick_inputs(arrays, [[t.name for t in model.file_inputs], model.input_names], where)
        checked = tuple(
            _check_input(_pixels_to_real(array, tensor, normalise), file, where)
            for array, file, tensor in zip(inputs, model.file_inputs, model.inputs, strict=True)
        )
        if len({len(x) for x in checked}) != 1:
            raise DataError(f"the inputs have {[len(x) for x in checked]} samples", where=where)
        dataset = Dataset(checked, None if labels is None else _check_labels(labels, checked, model, where), where)
        dataset = dataset.head(limit) if limit is not None else dataset
    laid_out = tuple(
        _to_module_layout(x, file, tensor)
        for x, file, tensor in zip(dataset.inputs, model.file_inputs, model.inputs, strict=True)
    )
    return Dataset(laid_out, dataset.labels, dataset.source, dataset.class_names)


def quantize_inputs(dataset: Dataset, model: LoadedModel) -> list[npt.NDArray[np.int8]]:
    """The samples as the int8 model takes them; int8 samples pass unchanged.

    Raises:
        DataError: the model has float inputs: quantize it first.
    """
    quantized = []
    for array, tensor in zip(dataset.inputs, model.inputs, strict=True):
        if tensor.dtype != "int8" or tensor.quantization is None:
            raise DataError(f"input {tensor.name!r} is {tensor.dtype}", where=str(model.path), hint="quantize it first")
        quantized.append(array if array.dtype == np.int8 else quantize(array, tensor.quantization))
        if array.dtype != np.int8:
            _warn_if_outside(array, tensor, dataset.source)
    return quantized


def _warn_if_outside(array: NDArray, tensor: TensorInfo, source: str) -> None:
    assert tensor.quantization is not None
    low, high = _real_range(tensor.quantization)
    margin = tensor.quantization.scale
    outside = float(((array < low - margin) | (array > high + margin)).mean())
    if outside > _SUSPICIOUS:
        _LOG.warning(
            "%s: %.0f %% of the values lie outside [%.4g, %.4g], what input %r takes; are they scaled as in training?",
            source,
            100 * outside,
            low,
            high,
            tensor.name,
        )


def quantize(real: NDArray, quantization: Quantization) -> npt.NDArray[np.int8]:
    """``clamp(round(real / scale) + zero_point)``, float32 division, ties away from zero: TFLite's QUANTIZE."""
    values = np.asarray(real, np.float32)
    found: npt.NDArray[np.int8] = np.empty(values.shape, np.int8)
    flat, out = values.reshape(-1), found.reshape(-1)
    for start in range(0, flat.size, _AT_ONCE):
        ratio = (flat[start : start + _AT_ONCE] / np.float32(quantization.scale)).astype(np.float64)
        rounded = np.copysign(np.floor(np.abs(ratio) + 0.5), ratio) + quantization.zero_point
        out[start : start + _AT_ONCE] = np.clip(rounded, -128, 127)
    return found


def dequantize(values: NDArray, quantization: Quantization) -> npt.NDArray[np.float32]:
    """``scale * (q - zero_point)`` in float32: TFLite's DEQUANTIZE."""
    centred = (values.astype(np.int32) - quantization.zero_point).astype(np.float32)
    real: npt.NDArray[np.float32] = centred * np.float32(quantization.scale)
    return real


def random_inputs(model: LoadedModel, count: int, seed: int = 0) -> list[NDArray]:
    """Seeded inputs for exactness tests: uniform over all of int8, or over [-1, 1) for a float model."""
    rng = np.random.default_rng(seed)
    made: list[NDArray] = []
    for tensor in model.inputs:
        shape = (count, *sample_shape(tensor))
        if tensor.dtype == "int8":
            made.append(rng.integers(-128, 128, shape, dtype=np.int8))
        else:
            made.append(rng.uniform(-1, 1, shape).astype(np.float32))
    return made


def structured_inputs(model: LoadedModel, count: int, seed: int = 0) -> list[NDArray]:
    """Seeded inputs that look more like data than noise does: random offset, contrast and smoothness per sample.

    Uniform noise drives most networks into one corner of their output; these spread over classes and ranges. Int8
    models get their whole range, float models roughly [-1, 1].
    """
    rng = np.random.default_rng(seed)
    made: list[NDArray] = []
    for tensor in model.inputs:
        shape = sample_shape(tensor)
        samples = np.stack([_structured(rng, shape) for _ in range(count)])
        if tensor.dtype == "int8":
            made.append(np.clip(np.rint(samples * 127.5 - 0.5), -128, 127).astype(np.int8))
        else:
            made.append(samples.astype(np.float32))
    return made


def _structured(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray:
    noise = rng.standard_normal(shape)
    for axis, size in enumerate(shape[:-1] if len(shape) > 2 else shape):
        width = int(rng.integers(1, max(2, size // 3)))
        padded = np.concatenate([np.zeros_like(noise.take([0], axis)), noise.cumsum(axis)], axis)
        ends = np.arange(size)
        sums = padded.take(np.minimum(ends + width, size), axis) - padded.take(ends, axis)
        noise = sums / np.sqrt(width)  # moving sum that keeps the variance
    return np.clip(rng.uniform(-0.8, 0.8) + noise * rng.uniform(0.05, 0.7), -1, 1)


# ---- arrays --------------------------------------------------------------------------------------------------------


def read_arrays(path: Path) -> dict[str, NDArray]:
    """The arrays of an ``.npz`` file by name, or that of an ``.npy`` file as ``x``; else a :class:`DataError`."""
    where = str(path)
    if path.suffix.lower() not in (".npz", ".npy"):
        raise DataError(
            f"{path.suffix or 'this'} is not a data format we read",
            where=where,
            hint="pass .npz, .npy or an image folder",
        )
    if path.stat().st_size == 0:
        raise DataError("the file is empty", where=where, hint=_HOW_TO_WRITE)
    try:
        loaded = np.load(path, allow_pickle=False)
        if isinstance(loaded, np.ndarray):
            return {"x": loaded}
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        if "pickle" in str(error).lower() and "Object arrays" in str(error):
            raise DataError("it holds Python objects, not numbers", where=where, hint="save plain arrays") from error
        reason = "it is damaged, or not a NumPy file"
        if isinstance(error, (zipfile.BadZipFile, zlib.error)):
            reason = f"it is damaged ({error})"
        raise DataError(reason, where=where, hint=_HOW_TO_WRITE) from error


def pick_inputs(arrays: Mapping[str, NDArray], names: Sequence[Sequence[str]], where: str) -> list[NDArray]:
    """The arrays that are the model's inputs.

    Args:
        arrays: of a file, by name.
        names: spellings of all input names, the first complete one is taken; a single input may also be called one of
            :data:`INPUT_KEYS` or be the only one (labels do not count), several may be ``x0``, ``x1``, ...

    Raises:
        DataError: none of that.
    """
    for spelling in names:
        if all(name in arrays for name in spelling):
            return [arrays[name] for name in spelling]
    unlabelled = {key: array for key, array in arrays.items() if key not in LABEL_KEYS}
    if not unlabelled:
        raise DataError("it holds no input array", where=where, hint="save inputs as x and labels as y")
    if len(names[0]) == 1:
        known = next((key for key in INPUT_KEYS if key in unlabelled), None)
        if known is None and len(unlabelled) > 1:
            raise DataError(
                f"it holds the arrays {', '.join(unlabelled)}: which one is the input is not clear",
                where=where,
                hint="save inputs as x and labels as y",
            )
        return [unlabelled[known or next(iter(unlabelled))]]
    numbered = [f"x{i}" for i in range(len(names[0]))]
    if all(key in arrays for key in numbered):
        return [arrays[key] for key in numbered]
    raise DataError(
        f"the model has {len(numbered)} inputs, the file has the arrays {sorted(arrays)}",
        where=where,
        hint=f"name them {', '.join(names[-1])} or {', '.join(numbered)}",
    )


def _pixels_to_real(array: NDArray, tensor: TensorInfo, normalise: str) -> NDArray:
    if array.dtype != np.uint8:
        return array
    factor, offset = _normalisation(normalise, tensor)
    real: NDArray = array.astype(np.float32) * np.float32(factor) + np.float32(offset)
    return real


def _check_input(array: NDArray, tensor: TensorInfo, where: str) -> NDArray:
    sample = sample_shape(tensor)
    here = f"{where}: input {tensor.name!r}"
    if array.dtype.kind not in "fiu":
        raise DataError(f"its type is {array.dtype}, expected float32 or int8 numbers", where=here)
    if array.size == 0:
        raise DataError("it holds no samples", where=here, hint="save at least one, as (samples, ...)")
    squeezed = tuple(d for d in sample if d != 1)
    if array.ndim == 0 or tuple(d for d in array.shape[1:] if d != 1) != squeezed:
        raise DataError(
            f"its shape is {tuple(array.shape)}, the model takes (n, {', '.join(map(str, sample))})",
            where=here,
            hint="the first dimension counts samples, the others are the model's input",
        )
    array = array.reshape(len(array), *sample)
    if array.dtype.kind == "f":
        array = array.astype(np.float32)
        good = np.isfinite(array).reshape(len(array), -1).all(axis=1)
        if not good.all():
            first = int(np.argmin(good))
            raise DataError(
                f"{int((~good).sum())} of {len(array)} samples hold NaN or infinity, the first is sample {first}",
                where=here,
                hint="repair or remove these samples",
            )
        return array
    return array if array.dtype == np.int8 else array.astype(np.float32)


def _check_labels(labels: NDArray, inputs: tuple[NDArray, ...], model: LoadedModel, where: str) -> Labels:
    here = f"{where}: labels"
    classes = model.outputs[0].shape[-1]
    if labels.ndim == 2 and labels.shape[1] == classes and labels.shape[1] > 1:
        labels = labels.argmax(axis=1)  # one-hot
    labels = labels.reshape(len(labels), -1)[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    if labels.ndim != 1 or len(labels) != len(inputs[0]):
        raise DataError(
            f"their shape is {labels.shape}, expected ({len(inputs[0])},), one per sample",
            where=here,
            hint=_LABELS,
        )
    if labels.dtype.kind not in "fiu" or not np.all(np.isfinite(labels)) or np.any(labels != np.rint(labels)):
        raise DataError(f"they are not whole numbers (type {labels.dtype})", where=here, hint=_LABELS)
    bad = (labels < 0) | (labels >= classes)
    if bad.any():
        first = int(np.argmax(bad))
        raise DataError(
            f"label {int(labels[first])} of sample {first} is out of range, the model has classes 0 to {classes - 1}",
            where=here,
            hint=_LABELS,
        )
    return labels.astype(np.int64)


def _to_module_layout(array: NDArray, file: TensorInfo, tensor: TensorInfo) -> NDArray:
    """NCHW data for a module that was converted to NHWC."""
    if array.dtype == np.int8 and tensor.dtype != "int8":
        array = array.astype(np.float32)
    wanted = (len(array), *sample_shape(tensor))
    if array.shape == wanted and file.shape == tensor.shape:
        return array
    if array.ndim == 4 and array.transpose(0, 2, 3, 1).shape == wanted:
        return np.ascontiguousarray(array.transpose(0, 2, 3, 1))
    return array.reshape(wanted)


# ---- images --------------------------------------------------------------------------------------------------------


def _image_folder(path: Path, model: LoadedModel, normalise: str, limit: int | None) -> Dataset:
    where = str(path)
    if len(model.inputs) != 1 or len(model.inputs[0].shape) != 4 or model.inputs[0].shape[3] not in (1, 3):
        raise DataError(
            f"the model's input {[t.shape for t in model.inputs]} is not an image",
            where=where,
            hint="pass .npz instead",
        )
    tensor = model.inputs[0]
    factor, offset = _normalisation(normalise, tensor)
    classes = sorted(p.name for p in path.iterdir() if p.is_dir() and _images(p))
    files = [(f, i) for i, c in enumerate(classes) for f in _images(path / c)] or [(f, -1) for f in _images(path)]
    if not files:
        raise DataError(f"it holds no images ({', '.join(IMAGE_SUFFIXES)})", where=where)
    if classes and len(classes) > model.outputs[0].shape[-1]:
        known = model.outputs[0].shape[-1]
        raise DataError(f"it has {len(classes)} class folders, the model has {known} classes", where=where)
    if limit is not None and limit < len(files):  # spread over the classes
        files = [files[i] for i in np.linspace(0, len(files) - 1, limit).astype(int)]
    pixels = np.stack([_read_image(f, tensor.shape) for f, _ in files])
    labels = np.array([label for _, label in files], np.int64) if classes else None
    real = pixels * np.float32(factor) + np.float32(offset)
    return Dataset((_file_layout(real, model),), labels, where, tuple(classes))


def _file_layout(images: NDArray, model: LoadedModel) -> NDArray:
    file, tensor = model.file_inputs[0], model.inputs[0]
    return images if file.shape == tensor.shape else np.ascontiguousarray(images.transpose(0, 3, 1, 2))


def _images(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_file() and p.suffix.lower() in IMAGE_SUFFIXES)


def _read_image(file: Path, shape: Sequence[int]) -> npt.NDArray[np.float32]:
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(file) as image:
            converted = image.convert("RGB" if shape[3] == 3 else "L")
            resized = converted.resize((shape[2], shape[1]), Image.Resampling.BILINEAR)
            return np.asarray(resized, np.float32).reshape(shape[1:])
    except (OSError, UnidentifiedImageError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise DataError(f"cannot read this image ({error})", where=str(file), hint="remove or repair it") from error


def _real_range(q: Quantization) -> tuple[float, float]:
    return q.scale * (-128 - q.zero_point), q.scale * (127 - q.zero_point)


def _normalisation(normalise: str, tensor: TensorInfo) -> tuple[float, float]:
    if normalise in NORMALISATIONS:
        return NORMALISATIONS[normalise]
    if normalise != "auto":
        raise DataError(f"normalisation {normalise!r} does not exist", hint=f"auto, {', '.join(NORMALISATIONS)}")
    q = tensor.quantization
    if q is None:
        return NORMALISATIONS["0..1"]
    low, high = _real_range(q)

    def misfit(item: tuple[float, float]) -> float:
        factor, offset = item
        span = 255 * factor
        return abs(low - offset) / span + abs(high - offset - span) / span

    return min(NORMALISATIONS.values(), key=misfit)
