"""A model file -> :class:`LoadedModel`: checked, imported into Relay, with what the rest needs to know about it.

``.tflite`` int8 and float, and ``.onnx``. Models whose int8 core is wrapped in QUANTIZE/DEQUANTIZE at its inputs and
outputs are loaded without them: firmware takes and gives int8, the host converts with the scales in ``inputs`` and
``outputs``.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import tvm

from rqdkm.models import check, morph_file, relay_import, tflite_read, tflite_write
from rqdkm.models.graph import Graph, TensorInfo, compact, layer_names, prune
from rqdkm_tvm.errors import ModelError, UnsupportedOperatorError

MAX_FILE_BYTES = 256 << 20

_CONVERT_KERAS = (
    "convert it first, in a process of its own: converter = tf.lite.TFLiteConverter.from_keras_model("
    "tf.keras.models.load_model('{name}')); open('model.tflite', 'wb').write(converter.convert())"
)
_OTHER_FORMATS = {
    ".keras": _CONVERT_KERAS,
    ".h5": _CONVERT_KERAS,
    ".pb": "convert the SavedModel with tf.lite.TFLiteConverter.from_saved_model(directory)",
    ".pt": "export it with torch.onnx.export(model, example_input, 'model.onnx')",
    ".pth": "export it with torch.onnx.export(model, example_input, 'model.onnx')",
}


@dataclass(frozen=True)
class LoadedModel:
    """One model, ready for the passes.

    Args:
        path: the file it came from.
        name: a C identifier made of the file's name.
        format: ``tflite`` or ``onnx``.
        module: type-checked Relay module; ``main``'s parameters are ``input_names`` in order, weights are constants.
            Calls carry their layer's short name as span (``call.span.source_name.name``).
        graph: the same network, free of Relay.
        inputs: type and quantization of what ``module`` takes, in order.
        outputs: of what it returns.
        file_inputs: the same as the file declares them (float32 where ``inputs`` are int8 behind a QUANTIZE).
        file_outputs: likewise.
        input_names: C identifiers of the inputs, the parameter names of ``main``.
        output_names: C identifiers of the outputs.
        is_quantized: computes in int8; False means it must go through ``quantize`` before it can be deployed.
        layer_names: full tensor name of a layer's output -> short unique name, in execution order.
        tflite: FlatBuffer with these inputs and outputs, for the reference interpreter; empty for ONNX. Of a model
            with morphing layers the network that its safe kernels make.
    """

    path: Path
    name: str
    format: str
    module: tvm.IRModule
    graph: Graph
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    file_inputs: tuple[TensorInfo, ...]
    file_outputs: tuple[TensorInfo, ...]
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    is_quantized: bool
    layer_names: Mapping[str, str] = field(default_factory=dict)
    tflite: bytes = field(default=b"", repr=False)

    def file(self) -> bytes:
        """The model as a ``.tflite`` file, morphing layers as such."""
        return tflite_write.write_graph(morph_file.fold(compact(self.graph)))


def load(path: Path | str) -> LoadedModel:
    """Load, check and import a model file.

    Raises:
        ModelError: missing, empty, damaged, dynamic, or of a kind that cannot run; says what, where and what to do.
        UnsupportedOperatorError: names the operator and its layer.
    """
    path = Path(path)
    data = read_file(path)
    if path.suffix.lower() == ".onnx":
        return load_onnx(data, path)
    return load_tflite(data, path)


def load_graph(path: Path | str) -> Graph:
    """Only the checked graph of a model file, without importing it into Relay where that is possible."""
    path = Path(path)
    data = read_file(path)
    if path.suffix.lower() == ".onnx":
        return load_onnx(data, path).graph
    graph = tflite_read.read_graph(data, str(path), identifier(path))
    return prune(morph_file.expand(tflite_read.strip_boundary(data, graph)[1], str(path)))


def load_tflite(data: bytes, path: Path) -> LoadedModel:
    """:func:`load` for the bytes of a ``.tflite`` file; ``path`` names it."""
    where = str(path)
    original = tflite_read.read_graph(data, where, identifier(path))
    expanded = morph_file.expand(original, where)
    if expanded is not original:
        original, data = expanded, _written(expanded, where)
    stripped, graph = tflite_read.strip_boundary(data, original)
    relay_import.check_supported(graph, where)
    check.check(graph, where)
    module = relay_import.from_tflite(stripped, graph, where)
    if morph_file.kernel_count(graph):
        stripped = _written(morph_file.without_selects(graph), where)
    short = layer_names(graph)
    return LoadedModel(
        path=path,
        name=graph.name,
        format="tflite",
        module=module,
        graph=prune(graph),
        inputs=tuple(graph.tensors[i] for i in graph.inputs),
        outputs=tuple(graph.tensors[i] for i in graph.outputs),
        file_inputs=tuple(original.tensors[i] for i in original.inputs),
        file_outputs=tuple(original.tensors[i] for i in original.outputs),
        input_names=tuple(relay_import.identifiers([graph.tensors[i].name for i in graph.inputs])),
        output_names=tuple(relay_import.identifiers([graph.tensors[i].name for i in graph.outputs])),
        is_quantized=graph.is_quantized,
        layer_names={graph.tensors[op.outputs[0]].name: name for op, name in zip(graph.operators, short, strict=True)},
        tflite=stripped,
    )


def _written(graph: Graph, where: str) -> bytes:
    try:
        return tflite_write.write_graph(compact(graph))
    except UnsupportedOperatorError as error:
        error.where = error.where or where
        error.hint = error.hint or "replace it: a model with morphing layers is written anew before it is imported"
        raise


def load_onnx(data: bytes, path: Path) -> LoadedModel:
    """:func:`load` for the bytes of an ``.onnx`` file.

    Its inputs become NHWC where the file's only use of them is to convolve or pool them; ``file_inputs`` keep the
    file's layout, and :mod:`rqdkm.models.data` turns data from one into the other.
    """
    from rqdkm.models import from_relay, onnx_import
    from rqdkm.models.simplify import simplify

    where = str(path)
    module, inputs, outputs = onnx_import.import_onnx(data, where)
    raw = from_relay.to_graph(module, identifier(path), where, [tensor.name for tensor in outputs])
    graph = from_relay.tidy_names(simplify(raw))
    check.check(graph, where)
    short = layer_names(graph)
    return LoadedModel(
        path=path,
        name=graph.name,
        format="onnx",
        module=module,
        graph=graph,
        inputs=tuple(graph.tensors[i] for i in graph.inputs),
        outputs=tuple(graph.tensors[i] for i in graph.outputs),
        file_inputs=tuple(inputs),
        file_outputs=tuple(outputs),
        input_names=tuple(relay_import.identifiers([tensor.name for tensor in inputs])),
        output_names=tuple(relay_import.identifiers([tensor.name for tensor in outputs])),
        is_quantized=False,
        layer_names={graph.tensors[op.outputs[0]].name: name for op, name in zip(graph.operators, short, strict=True)},
    )


def read_file(path: Path) -> bytes:
    """The bytes of a model file, or a :class:`ModelError` that says why not."""
    where = str(path)
    other = _OTHER_FORMATS.get(path.suffix.lower())
    if path.is_dir():
        raise ModelError("this is a directory", where=where, hint="pass a .tflite or .onnx file")
    if not path.exists():
        raise ModelError("there is no such file", where=where, hint="check the path")
    if other:
        raise ModelError(f"{path.suffix} files are not read directly", where=where, hint=other.format(name=path.name))
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ModelError(
                f"the file has {path.stat().st_size >> 20} MB, at most {MAX_FILE_BYTES >> 20} MB are read", where=where
            )
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot read the file: {error.strerror or error}", where=where) from error


def identifier(path: Path) -> str:
    """A C identifier for a model file."""
    name = re.sub(r"\W+", "_", path.stem, flags=re.ASCII).strip("_").lower() or "model"
    return f"m_{name}" if name[0].isdigit() else name
