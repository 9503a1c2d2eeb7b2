"""Which C kernels can run a layer, and with which configurations.

A kernel module registers one :class:`Kernel` per C kernel; nothing else in the project knows kernel names.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import ClassVar, Literal

from rqdkm_tvm.layer import KernelCall, Layer

Config = Mapping[str, "int | str | bool"]

BAND = "band"  # key of a configuration: output rows (elements) at a time, of a kernel in its banded form

# auto: every kernel; direct: only those that compute the direct algorithm, the 8-bit baseline that speed-ups are
# measured against; reference: the plain C of every operator
KernelSet = Literal["auto", "direct", "reference"]


@dataclass(frozen=True)
class Rows:
    """How a call is made to compute some output rows only: the C lvalues, in the body's own parameter structs, of the
    rows that its input has then, of the output's, and of the padding above and below (the last one where it is read).
    """

    input_h: str
    output_h: str
    pad_top: str
    pad_bottom: str = ""


@dataclass(frozen=True)
class Elements:
    """How a call is made to compute some elements only, where element i of the output needs element i of every input:
    the C variable of the body that says how many.
    """

    count: str = "count"


class Kernel(ABC):
    """One C kernel, as the compiler sees it."""

    name: ClassVar[str]  # noun_type_algorithm, e.g. conv2d_s8_direct; plan.json and reports use it
    ops: ClassVar[tuple[str, ...]]  # keys of rqdkm_tvm.layer.OPS
    reference: ClassVar[bool] = False  # the plain C reference, always applicable, never chosen for speed
    direct: ClassVar[bool] = True  # multiplies as often as the definition says; False for Winograd and its like
    packed_weights: ClassVar[bool] = False  # takes Layer.weight_bits below 8
    packed_tensors: ClassVar[bool] = False  # takes tensors below 8 bits
    epilogues: ClassVar[frozenset[str]] = frozenset()  # operators it can compute on its result

    @abstractmethod
    def reject(self, layer: Layer) -> str | None:
        """Why this kernel cannot run ``layer`` bit-exactly, in a sentence; None if it can."""

    def configs(self, layer: Layer) -> list[Config]:
        """Legal configurations, fastest expected first. The last one needs the least scratch."""
        return [{}]

    @abstractmethod
    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        """Working memory in bytes; equals the C function ``rqdkm_<kernel>_scratch_bytes``."""

    @abstractmethod
    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        """Expected Cortex-M4 cycles from the kernel's documented per-unit costs; ranks candidates only."""

    def constant_bytes(self, layer: Layer, config: Config) -> int:
        """Flash that the constants of ``lower(layer, config)`` take; override it where packing them takes long."""
        return sum(constant.nbytes for constant in self.lower(layer, config).constants)

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        """Operands over which the result may be written, each at least as large as the result, best first.

        True of an operand if every element of the result is written after the last read of what lies there. The call
        may get the operand's own pointer as ``out`` then, or another one.
        """
        return ()

    @abstractmethod
    def lower(self, layer: Layer, config: Config) -> KernelCall:
        """Pack the constants and write the call."""

    def parts(self, layer: Layer, config: Config) -> Rows | Elements | None:
        """How the call that ``lower`` writes can be made to compute a part of ``layer``; None: it computes it whole.

        The body then consists of declarations at the start of a line, ``static const`` or ``const``, statements that do
        the same for every part, and one return statement. Neither ``reject`` nor the constants may depend on the height
        of the map.
        """
        return None


def same_size_operands(layer: Layer) -> tuple[int, ...]:
    """:meth:`Kernel.in_place` of a kernel that goes through its elements once, in order."""
    return tuple(i for i, tensor in enumerate(layer.inputs) if tensor.size == layer.stored.size)


_KERNELS: dict[str, Kernel] = {}


def register(kernel: type[Kernel]) -> type[Kernel]:
    """Class decorator: add a kernel to the registry; names are unique."""
    if kernel.name in _KERNELS:
        raise ValueError(f"kernel {kernel.name} registered twice")
    _KERNELS[kernel.name] = kernel()
    return kernel


def get(name: str, config: Config | None = None) -> Kernel:
    """The kernel of that name; in its banded form if ``config`` says so."""
    return banded(_KERNELS[name]) if config and BAND in config else _KERNELS[name]


def names_for(op: str) -> list[str]:
    """Kernels of an operator."""
    return [k.name for k in _KERNELS.values() if op in k.ops]


def kernels_for(layer: Layer) -> list[Kernel]:
    """Every kernel registered for the layer's operator, whether or not it accepts this layer.

    For layers with packed tensors or an epilogue also the banded form of each, under the same name; not of a morphing
    layer, whose own layers have one.
    """
    found = [k for k in _KERNELS.values() if layer.op in k.ops]
    bands = layer.library is None and (layer.packs_tensors or layer.epilogue is not None)
    return found + [banded(k) for k in found] if bands else found


@cache
def banded(kernel: Kernel) -> Kernel:
    """``kernel`` run band by band (:mod:`rqdkm_tvm.kernels.bands`)."""
    from rqdkm_tvm.kernels.bands import banded_form  # is made of kernels: it imports this module

    return banded_form(kernel)


def belongs(kernel: Kernel, kernel_set: KernelSet) -> bool:
    """Whether ``kernel`` is one of ``kernel_set``; references belong to every set."""
    return kernel.reference or kernel_set == "auto" or (kernel_set == "direct" and kernel.direct)


def rejection(kernel: Kernel, layer: Layer) -> str | None:
    """Why ``kernel`` cannot run ``layer``, in a sentence; None if it can."""
    if layer.packs_weights and not kernel.packed_weights:
        return "it takes 8-bit weights only"
    if layer.packs_tensors and not kernel.packed_tensors:
        return "it takes 8-bit tensors only"
    if layer.epilogue is not None and layer.epilogue.op not in kernel.epilogues:
        return f"it does not compute {layer.epilogue.op} on its result"
    return kernel.reject(layer)


def able(layer: Layer, kernel_set: KernelSet = "auto") -> list[Kernel]:
    """Kernels of a set that can run ``layer``."""
    return [k for k in kernels_for(layer) if belongs(k, kernel_set) and rejection(k, layer) is None]


def candidates(layer: Layer, kernel_set: KernelSet = "auto") -> list[tuple[Kernel, Config]]:
    """Kernels of a set and their configurations that can run ``layer``, fastest expected first, references last."""
    found = [
        (kernel.estimate_cycles(layer, config), order, kernel, config)
        for kernel in able(layer, kernel_set)
        for order, config in enumerate(kernel.configs(layer))
    ]
    found.sort(key=lambda item: (item[2].reference, item[0], item[1]))
    return [(kernel, config) for _, _, kernel, config in found]
