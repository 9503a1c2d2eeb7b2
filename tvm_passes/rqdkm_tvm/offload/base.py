"""What an offload is: a Relay pattern, a check, and a parser that turns the match into a layer."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from rqdkm_tvm.graph import op_name
from rqdkm_tvm.layer import NDArray

if TYPE_CHECKING:
    from rqdkm_tvm.morph.library import Library
    from rqdkm_tvm.patches.stage import Stage

Expr = Any  # tvm.relay.Expr: TVM's Python classes carry no type information
Pattern = Any  # tvm.relay.dataflow_pattern.DFPattern

PREFIX = "rqdkm."
INT8_CLAMP = (-128, 127)
NOT_MINE = ""  # a refusal that is nobody's news: another row of the table takes this expression


@dataclass(frozen=True)
class Quantization:
    """``real = scale * (q - zero_point)``; ``scale`` is the exact float32 of the model."""

    scale: float
    zero_point: int


@dataclass(frozen=True)
class Draft:
    """A parsed match. ``None`` stands for a quantization that this operator does not carry itself.

    With ``passes_through`` input and output share one quantization (pooling, padding, clipping). ``epilogue`` is what
    is computed on the result, as it would be alone: its first input is that result.
    """

    op: str
    inputs: tuple[Quantization | None, ...]
    output: Quantization | None
    attrs: Mapping[str, Any] = field(default_factory=dict)
    weights: NDArray | None = None
    weight_scales: NDArray | None = None
    weight_zero_point: int = 0
    bias: NDArray | None = None
    passes_through: bool = False
    epilogue: Draft | None = None
    stage: Stage | None = None
    library: Library | None = None


class Offload(ABC):
    """One row of the table of contents in :mod:`rqdkm_tvm.offload`."""

    name: ClassVar[str]  # composite name without prefix; also the operator in reports

    @abstractmethod
    def pattern(self) -> Pattern:
        """The Relay pattern; built anew for every use, since pattern nodes must not be shared."""

    def refuse(self, root: Expr) -> str | None:
        """Why the matched expression cannot be a layer, in a sentence; None if it can."""
        return None

    @abstractmethod
    def parse(self, root: Expr) -> Draft:
        """Read everything out of the matched expression (the body of the composite function)."""


# ---- reading Relay


def constant(expr: Expr) -> NDArray:
    """Value of a constant expression."""
    return expr.data.numpy()  # type: ignore[no-any-return]


def scalar_quantization(scale: Expr, zero_point: Expr) -> Quantization:
    return Quantization(float(constant(scale).reshape(-1)[0]), int(constant(zero_point).reshape(-1)[0]))


def is_scalar(expr: Expr) -> bool:
    return int(constant(expr).size) == 1


def strip_ops(expr: Expr, *names: str) -> tuple[Expr, dict[str, Expr]]:
    """Walk down the first arguments as long as the operators are in ``names``, in that order, each optional.

    Returns the first expression that is none of them, and the calls found by name.
    """
    found: dict[str, Expr] = {}
    for name in names:
        if op_name(expr) == name:
            found[name] = expr
            expr = expr.args[0]
    return expr, found


def clip_bounds(call: Expr | None) -> tuple[int, int]:
    """Bounds of an int8 clip call, limited to int8; the whole range when there is none."""
    if call is None:
        return INT8_CLAMP
    if op_name(call) == "nn.relu":
        return (0, 127)
    low, high = (round(float(v)) for v in (call.attrs.a_min, call.attrs.a_max))
    return (max(low, -128), min(high, 127))


def ints(values: Any) -> tuple[int, ...]:
    return tuple(int(v) for v in values)


def pair(values: Any) -> tuple[int, int]:
    both = ints(values)
    return both if len(both) == 2 else (both[0], both[0])


def padding4(values: Any) -> tuple[int, int, int, int]:
    """Relay's padding (1, 2 or 4 numbers) as (top, left, bottom, right)."""
    p = ints(values)
    if len(p) == 4:
        return p
    if len(p) == 2:
        return (p[0], p[1], p[0], p[1])
    return (p[0],) * 4


def shape_of(expr: Expr) -> tuple[int, ...]:
    return ints(expr.checked_type.shape)


def dtype_of(expr: Expr) -> str:
    return str(expr.checked_type.dtype)


def per_channel(values: NDArray, channels: int) -> NDArray:
    """Scales as float32, one per output channel."""
    flat = np.asarray(values, dtype=np.float32).reshape(-1)
    return np.ascontiguousarray(np.broadcast_to(flat, (channels,)) if flat.size == 1 else flat)
