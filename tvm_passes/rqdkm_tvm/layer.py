"""What a kernel needs to know about one layer, free of Relay and of C.

The offload patterns build a :class:`Layer` from Relay; the kernel registry turns a :class:`Layer` into a
:class:`KernelCall`. Tensors are NHWC with N = 1. Shapes are tuples of ints; quantization is TFLite's
``real = scale * (q - zero_point)``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from rqdkm_tvm.morph.library import Library
    from rqdkm_tvm.patches.stage import Stage

NDArray = npt.NDArray[Any]


@dataclass(frozen=True)
class Tensor:
    """Type and quantization of one activation tensor. ``scale`` holds the float32 value of the model file.

    ``bits`` is 8, 4 or 2: int8 values in ``[-2^(bits-1), 2^(bits-1))``. Below 8 they are packed in memory, several to a
    byte, low bits first ([1, 2, 3, 4] at 4 bits is 0x21 0x43), and the last axis is a multiple of 8 / bits.
    ``span`` holds (least, greatest) value of an int8 tensor in bytes where it takes some only, such as an unpacked one.
    """

    shape: tuple[int, ...]
    dtype: str = "int8"
    scale: float = 1.0
    zero_point: int = 0
    bits: int = 8
    span: tuple[int, int] = (-128, 127)

    @property
    def size(self) -> int:
        """Elements."""
        return int(np.prod(self.shape, dtype=np.int64))

    @property
    def value_bits(self) -> int:
        """Bits that the values take, whatever they are stored in."""
        if self.bits != 8 or self.dtype != "int8":
            return self.bits
        return next(b for b in (2, 4, 8) if -(1 << (b - 1)) <= self.span[0] and self.span[1] < 1 << (b - 1))

    @property
    def packed_shape(self) -> tuple[int, ...]:
        """Shape in bytes as it lies in memory (int8 tensors)."""
        return self.shape if self.bits == 8 else (*self.shape[:-1], self.shape[-1] * self.bits // 8)


@dataclass(frozen=True)
class Layer:
    """One operator to run on the chip.

    ``op`` and the keys of ``attrs`` are listed in :data:`OPS`. Weight layouts are TFLite's:
    convolution OHWI, depthwise (1, KH, KW, C * multiplier), fully connected (O, I).

    ``weight_bits`` is 8, 4 or 2 per output channel, empty where all have 8; ``weights`` holds plain int8 integers in
    range, kernels pack them. ``epilogue`` is an operator computed on the result before it is stored, as the layer it
    would be alone: its ``inputs[0]`` is this layer's ``output``; the second operand of an ``add`` follows this layer's
    own in ``inputs``. ``stage`` is what a patch stage consists of, ``library`` what a morphing layer chooses from.
    """

    name: str
    op: str
    inputs: tuple[Tensor, ...]
    output: Tensor
    attrs: Mapping[str, Any] = field(default_factory=dict)
    weights: NDArray | None = None
    weight_scales: NDArray | None = None
    weight_zero_point: int = 0
    bias: NDArray | None = None
    weight_bits: tuple[int, ...] = ()
    epilogue: Layer | None = None
    stage: Stage | None = None
    library: Library | None = None

    @property
    def stored(self) -> Tensor:
        """What the call writes: the result of the epilogue where there is one."""
        return self.output if self.epilogue is None else self.epilogue.output

    @property
    def parts(self) -> tuple[Layer, ...]:
        """The model's layers that it stands for, where that is not itself: of a patch stage or of a morphing layer."""
        if self.stage is not None:
            return tuple(node.layer for node in self.stage.nodes)
        return () if self.library is None else self.library.layers

    @property
    def title(self) -> str:
        """Name in reports: a layer with an epilogue has two."""
        return self.name if self.epilogue is None else f"{self.name} + {self.epilogue.name}"

    @property
    def packs_tensors(self) -> bool:
        """Whether a tensor that the call reads or writes is stored below 8 bits."""
        return any(tensor.bits != 8 for tensor in (*self.inputs, self.stored))

    @property
    def packs_weights(self) -> bool:
        return any(bits != 8 for bits in self.weight_bits)


# op -> attribute keys. Pairs are (height, width); padding is (top, left, bottom, right).
# clamp = (min, max) in output units, the fused activation; (-128, 127) when there is none.
OPS: Mapping[str, tuple[str, ...]] = {
    "conv2d": ("strides", "padding", "dilation", "groups", "clamp"),
    "depthwise_conv2d": ("strides", "padding", "dilation", "multiplier", "clamp"),
    "fully_connected": ("clamp",),
    "avg_pool2d": ("pool", "strides", "padding", "clamp"),  # divisor counts valid elements only, as TFLite does
    "max_pool2d": ("pool", "strides", "padding", "clamp"),
    "add": ("clamp",),
    "mul": ("clamp",),
    "pad": ("pad_width", "value"),  # pad_width = ((before, after), ...) per axis
    "softmax": ("beta",),  # over the last axis
    "logistic": (),
    "reshape": (),
    "concatenate": ("axis",),
    "clip": ("clamp",),  # stand-alone relu / relu6 with equal input and output quantization
    "requantize": ("clamp",),  # QUANTIZE from int8 to int8 with other scale / zero point
    "relu": ("clamp",),  # RELU with unequal quantization; not "requantize": TFLM divides the scales in single precision
    "leaky_relu": ("alpha",),
    "tanh": (),
    "hard_swish": (),
    "elu": (),
    "mean": ("axes", "keepdims"),
    "quantize": (),  # float32 -> int8
    "dequantize": (),  # int8 -> float32
    "patch_stage": (),  # Layer.stage has its layers
    "morph_conv2d": (),  # Layer.library has its kernels
}


@dataclass(frozen=True)
class KernelCall:
    """One call of a C kernel, ready for code generation.

    The C symbol is called as ``int32_t symbol(inputs..., constants..., output, scratch)``, every argument a
    pointer (``const void*`` for inputs and constants, ``void*`` for output and scratch; no scratch argument
    when ``scratch_bytes`` is 0). It returns 0, or a negative ``rqdkm_status``.

    Args:
        kernel: registered kernel name, e.g. ``conv2d_s8_direct``.
        config: the choices that were made for it (strip height, ...), as they stand in ``plan.json``.
        constants: arrays placed in flash, in argument order (weights in the kernel's own layout, tables).
        scratch_bytes: working memory, planned by TVM's USMP, 8-byte aligned, contents undefined.
        body: C text of the function's body; may use the parameter names ``in0, in1, ..., c0, c1, ..., out,
            scratch`` and must end in ``return``.
        includes: headers the body needs, e.g. ``"rqdkm/kernels.h"``.
        prelude: C text at file scope before the function, of names that no other call uses.
        macs: multiply-accumulates of the *direct* algorithm (padding taps included), 0 for others.
    """

    kernel: str
    config: Mapping[str, int | str | bool]
    constants: tuple[NDArray, ...]
    scratch_bytes: int
    body: str
    includes: tuple[str, ...]
    macs: int = 0
    prelude: str = ""
