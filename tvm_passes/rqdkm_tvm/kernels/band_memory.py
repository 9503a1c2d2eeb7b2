"""Where a banded layer keeps what: buffers in scratch, and what its result may be written over."""

from __future__ import annotations

import math
from dataclasses import dataclass

from rqdkm_tvm.kernels.band_parts import Part, Window, adds, own_inputs, pools
from rqdkm_tvm.kernels.pack import round_up
from rqdkm_tvm.kernels.registry import Elements
from rqdkm_tvm.layer import Layer


@dataclass(frozen=True)
class Buffers:
    """Offsets in scratch.

    ``result`` holds a band before it is pooled or packed; None: it is written where it stays. An addition to 8 bits has
    it there as a whole, and in bands here, so that the sum may be written over the residual. Behind it lie the
    unpacked inputs and the kernel's own scratch; when the kernel is done, the unpacked residual takes their place.
    """

    result: int | None
    inputs: tuple[int | None, ...]
    residual: int | None
    scratch: int | None
    bytes: int

    @staticmethod
    def of(layer: Layer, part: Part, scratch: int) -> Buffers:
        problem = part.kernel_layer
        end, result = 0, None
        if layer.stored.bits != 8 or pools(layer) or (adds(layer) and part.bands > 1):
            result, end = 0, round_up(problem.output.size, 8)
        behind = end
        inputs: list[int | None] = []
        for tensor, unpacked in zip(own_inputs(layer), problem.inputs, strict=True):
            inputs.append(end if tensor.bits != 8 else None)
            end += round_up(unpacked.size, 8) if tensor.bits != 8 else 0
        own = end if scratch else None
        end += round_up(scratch, 8)
        residual = None
        if len(layer.inputs) > len(problem.inputs) and layer.inputs[-1].bits != 8:
            residual = behind
            end = max(end, behind + round_up(part.values, 8))
        return Buffers(result, tuple(inputs), residual, own, end)


def survives(layer: Layer, part: Part, buffers: Buffers, operand: int, kernel_allows: bool) -> bool:
    """Whether all that is read of an operand is read before the result written over it gets there."""
    tensor, stored = layer.inputs[operand], layer.stored
    if math.prod(tensor.packed_shape) < math.prod(stored.packed_shape):
        return False
    residual = operand == len(part.kernel_layer.inputs)
    unpacked = not residual and buffers.inputs[operand] is not None
    if buffers.result is None and not unpacked and not kernel_allows:
        return False  # the kernel writes while it reads
    if part.bands == 1:
        return True
    if residual or isinstance(part.lvalues, Elements):
        return tensor.bits >= stored.bits  # rows behind rows
    window = Window.of(layer)
    read, written = (math.prod(t.packed_shape[2:]) for t in (tensor, stored))
    return all(
        at * written <= max(0, at * part.pooled * window.stride - window.top) * read
        for at in range(part.band, part.total, part.band)
    )
