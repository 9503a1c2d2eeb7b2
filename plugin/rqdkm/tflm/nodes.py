"""A TFLite graph under construction: tensors by what they stand for, constants once, operators in order."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm.models import custom_options as options
from rqdkm.models.graph import CUSTOM, Graph, Operator, TensorInfo, per_tensor
from rqdkm_tvm.layer import Tensor

Array = npt.NDArray[Any]

# numbers of TFLite's schema, by NumPy type
TYPES = {"float32": 1, "int32": 2, "uint8": 3, "int16": 7, "int8": 9}
_SAME_WIDTH = {"uint32": "int32", "uint16": "int16"}  # the schema's unsigned types are not known everywhere


def storable(array: Array) -> Array:
    """The constant as a type that TFLM knows; the same bytes."""
    return np.ascontiguousarray(array).view(_SAME_WIDTH.get(str(array.dtype), array.dtype))


def feature_map(name: str, tensor: Tensor, shape: Sequence[int] | None = None) -> TensorInfo:
    """A tensor of the arena: of int8 bytes where the elements have fewer than 8 bits.

    Args:
        shape: as the model declares it, where it differs from the layer's; of packed bytes.
    """
    quantization = per_tensor(tensor.scale, tensor.zero_point) if tensor.dtype == "int8" else None
    return TensorInfo(name, tuple(tensor.packed_shape if shape is None else shape), tensor.dtype, quantization)


@dataclass(frozen=True)
class Need:
    """What an operator takes besides its tensors: bytes of scratch, and the input whose place its result may take."""

    scratch: int = 0
    in_place: int | None = None


NOTHING = Need()


@dataclass
class Nodes:
    """``values`` maps whatever the caller likes (Relay expressions) to tensor numbers."""

    tensors: list[TensorInfo] = field(default_factory=list)
    operators: list[Operator] = field(default_factory=list)
    needs: list[Need] = field(default_factory=list)  # by operator
    values: dict[Any, int] = field(default_factory=dict)
    _constants: dict[tuple[str, tuple[int, ...], bytes], int] = field(default_factory=dict)

    def add(self, info: TensorInfo, value: Any = None) -> int:
        self.tensors.append(info)
        if value is not None:
            self.values[value] = len(self.tensors) - 1
        return len(self.tensors) - 1

    def constant(self, array: Array, name: str) -> int:
        """The tensor that holds ``array``: equal ones share it."""
        data = storable(array)
        key = (str(data.dtype), data.shape, data.tobytes())
        if key not in self._constants:
            self._constants[key] = self.add(TensorInfo(name, data.shape, str(data.dtype), data=data))
        return self._constants[key]

    def custom(
        self,
        op: str,
        layer: str,
        values: Mapping[str, options.Value],
        inputs: Sequence[int],
        output: int,
        need: Need = NOTHING,
    ) -> None:
        """Append one of our operators."""
        encoded = options.encode(layer, values)
        self.operators.append(Operator(op, tuple(inputs), (output,), {CUSTOM: encoded}))
        self.needs.append(need)

    def builtin(self, op: str, inputs: Sequence[int], output: int, attrs: Mapping[str, Any]) -> None:
        """Append one of TFLM's operators."""
        self.operators.append(Operator(op, tuple(inputs), (output,), attrs))
        self.needs.append(NOTHING)

    def declare(self, index: int, name: str, shape: Sequence[int]) -> None:
        """Give a tensor of the model's interface its own name and shape."""
        self.tensors[index] = replace(self.tensors[index], name=name, shape=tuple(shape))

    def graph(self, name: str, inputs: Sequence[int], outputs: Sequence[int]) -> Graph:
        return Graph(name, tuple(self.tensors), tuple(self.operators), tuple(inputs), tuple(outputs))
