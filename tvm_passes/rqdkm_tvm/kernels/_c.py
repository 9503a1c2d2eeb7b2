"""C text of kernel calls: initialisers of the parameter structs, and the check that shapes fit."""

from __future__ import annotations

from collections.abc import Iterable

from rqdkm_tvm.layer import Tensor


def braces(values: Iterable[int]) -> str:
    """``{1, 2, 3}``"""
    return "{" + ", ".join(str(int(value)) for value in values) + "}"


def constant(struct: str, name: str, **fields: int | str | Iterable[int]) -> str:
    """``static const struct name = {.field = value, ...};``, one line of a function body."""
    parts = [f".{field} = {_initialiser(value)}" for field, value in fields.items()]
    return f"  static const {struct} {name} = {{{', '.join(parts)}}};\n"


def _initialiser(value: int | str | Iterable[int]) -> str:
    if isinstance(value, str):
        return value
    return str(int(value)) if isinstance(value, int) else braces(value)


def hwc(tensor: Tensor) -> tuple[int, int, int]:
    """(height, width, channels) of a (1, H, W, C) tensor, or of one with fewer axes, missing ones leading."""
    shape = (1, 1, 1, *tensor.shape)
    return shape[-3], shape[-2], shape[-1]


def is_image(tensor: Tensor) -> bool:
    """Whether the tensor is int8 NHWC with N = 1."""
    return tensor.dtype == "int8" and len(tensor.shape) == 4 and tensor.shape[0] == 1


def same_quantization(a: Tensor, b: Tensor) -> bool:
    return a.scale == b.scale and a.zero_point == b.zero_point


def dims(name: str, tensor: Tensor) -> str:
    """A ``rqdkm_dims`` constant with the tensor's height, width and channels."""
    h, w, c = hwc(tensor)
    return constant("rqdkm_dims", name, h=h, w=w, c=c)
