"""Every kernel, run band by band: on tensors of 4 or 2 bits, and with an epilogue on its result.

The kernel itself stays what it is, int8 in and out. For some output rows at a time (elements, where it is elementwise)
its body is run as a smaller problem: the input rows it needs are unpacked into scratch if they are packed, the result
is added to the residual or pooled while it is there, and packed on its way to the output. What nothing has to be done
to is read and written in place. Configurations are the kernel's own for a band, and ``band``, its height.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from textwrap import indent
from typing import Any, ClassVar

import numpy as np

from rqdkm_tvm import cost
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.keys import ByIdentity
from rqdkm_tvm.kernels.pack import round_up
from rqdkm_tvm.kernels.registry import BAND, Config, Elements, Kernel, Rows
from rqdkm_tvm.layer import OPS, KernelCall, Layer, Tensor
from rqdkm_tvm.lowbit import integer_range

# Cortex-M4 cycles, measured on the virtual board (docs/bands.md)
UNPACK_CYCLES: Mapping[int, float] = {4: 2.5, 2: 2.3}  # per element
PACK_CYCLES: Mapping[int, float] = {4: 2.1, 2: 1.9}
CLIP_CYCLES = 2.3  # per element
INT8 = (-128, 127)
BAND_CYCLES = 150.0  # per band: its rows, calls, and what the kernel does once a call
_ROWS = (16, 8, 4, 2, 1)  # heights that are offered besides the whole map, as far as they are smaller
_ELEMENTS = (1024, 256)


@dataclass(frozen=True)
class _Window:
    """How output rows of a layer read its input."""

    stride: int
    reach: int
    top: int
    input_h: int

    @staticmethod
    def of(layer: Layer) -> _Window:
        attrs = layer.attrs
        if layer.weights is None:
            reach = int(attrs["pool"][0])
        else:
            reach = (int(layer.weights.shape[1]) - 1) * int(attrs["dilation"][0]) + 1
        return _Window(int(attrs["strides"][0]), reach, int(attrs["padding"][0]), layer.inputs[0].shape[1])

    def rows(self, outputs: int) -> int:
        """Input rows that a band of ``outputs`` rows reads at most."""
        return min(self.input_h, (outputs - 1) * self.stride + self.reach)

    def band(self, first: int, outputs: int) -> tuple[int, int, int]:
        """(input rows, padding above, padding below) of output rows from ``first`` on, as ``rqdkm_band_rows``."""
        start = first * self.stride - self.top
        end = start + (outputs - 1) * self.stride + self.reach
        low, high = max(start, 0), min(end, self.input_h)
        return high - low, low - start, end - high

    def meets(self, outputs: int) -> bool:
        """Whether every window of ``outputs`` rows meets the input."""
        return self.top < self.reach and (outputs - 1) * self.stride - self.top < self.input_h


@dataclass(frozen=True)
class _Part:
    """A layer cut into bands, as numbers.

    Args:
        kernel_layer: the int8 problem of the largest band.
        lvalues: what a call is told for each band; None: one call computes the layer as it stands.
        band: stored rows (elements) per band, of ``total``.
        row: values of a stored row; 1 for elements.
        pooled: rows of the result that make one stored row.
    """

    kernel_layer: Layer
    lvalues: Rows | Elements | None
    band: int
    total: int
    row: int
    pooled: int

    @property
    def bands(self) -> int:
        return -(-self.total // self.band)

    @property
    def values(self) -> int:
        """Stored values of a band."""
        return self.band * self.row


class Banded(Kernel):
    """The banded form of the kernel ``inner``, under its name."""

    inner: ClassVar[Kernel]
    packed_tensors = True
    epilogues = frozenset({"add", "max_pool2d"})

    # ---- what it can do

    def reject(self, layer: Layer) -> str | None:
        reason = registry.rejection(self.inner, plain_layer(layer, own_clamp=True))
        if reason is None and layer.epilogue is not None:
            reason = _reject_epilogue(layer.epilogue)
            if reason is None and not isinstance(self._parts(layer), Rows):
                reason = "it cannot compute some rows only"
        return reason

    def _parts(self, layer: Layer) -> Rows | Elements | None:
        """How it computes parts; where configurations differ in that, they do not in the kind."""
        return _parts(self.inner, ByIdentity(layer))

    def _plain(self, layer: Layer) -> Layer:
        return plain_layer(layer, _own_clamp(self.inner, ByIdentity(layer)))

    def configs(self, layer: Layer) -> list[Config]:
        return list(_configs(self, ByIdentity(layer)))

    def choices(self, layer: Layer) -> Iterator[_Choice]:
        """Every height with every configuration that the kernel has for it."""
        for height in self._heights(layer):
            problem = self._part(layer, height, None).kernel_layer
            if registry.rejection(self.inner, problem) is not None:
                continue
            for inner in self.inner.configs(problem):
                config = {BAND: height, **inner}
                yield _Choice(
                    self.estimate_cycles(layer, config),
                    self.scratch_bytes(layer, config),
                    self.constant_bytes(layer, config),
                    frozenset(self.in_place(layer, config)),
                    config,
                )

    def _heights(self, layer: Layer) -> list[int]:
        """The whole layer, and bands where they save memory."""
        parts = self._parts(layer)
        total = _total(layer, parts)
        if parts is None:
            return [total]
        if isinstance(parts, Rows) and not _Window.of(layer).meets(layer.output.shape[1]):
            return [total]
        return [total, *(n for n in (_ROWS if isinstance(parts, Rows) else _ELEMENTS) if n < total)]

    def _part(self, layer: Layer, band: int, lvalues: Rows | Elements | None) -> _Part:
        """``layer`` in bands of ``band``; ``lvalues`` only matter to the text."""
        parts = self._parts(layer)
        total, pooled = _total(layer, parts), _pooled(layer)
        row = layer.stored.size // total
        whole = band >= total
        return _Part(
            _band_layers(ByIdentity(self._plain(layer)), ByIdentity(layer), parts, band)[0],
            None if whole else lvalues,
            band,
            total,
            row,
            pooled,
        )

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        part = self._part(layer, int(config[BAND]), self.inner.parts(self._plain(layer), _inner(config)))
        buffers = _Buffers.of(layer, part, 0)
        kernels_own = self.inner.in_place(part.kernel_layer, _inner(config)) if layer.epilogue is None else ()
        return tuple(
            i
            for i in range(len(layer.inputs))
            if layer.inputs[i].dtype == "int8" and _survives(layer, part, buffers, i, i in kernels_own)
        )

    # ---- what it costs

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        part = self._part(layer, int(config[BAND]), None)
        return _Buffers.of(layer, part, self._inner_scratch(layer, part, config)).bytes

    def _inner_scratch(self, layer: Layer, part: _Part, config: Config) -> int:
        """Of the kernel, for whichever band needs most."""
        problems = _band_layers(ByIdentity(self._plain(layer)), ByIdentity(layer), self._parts(layer), part.band)
        return max(self.inner.scratch_bytes(problem, _inner(config)) for problem in problems)

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        part = self._part(layer, int(config[BAND]), None)
        share = part.total / part.band  # of a whole band's cost; the last band is a part of one
        cycles = share * self.inner.estimate_cycles(part.kernel_layer, _inner(config)) + part.bands * BAND_CYCLES
        for tensor, size in zip(own_inputs(layer), (t.size for t in part.kernel_layer.inputs), strict=True):
            cycles += UNPACK_CYCLES.get(tensor.bits, 0.0) * (share * size if part.bands > 1 else size)
        stored = layer.stored
        cycles += PACK_CYCLES.get(stored.bits, 0.0) * stored.size
        if not _own_clamp(self.inner, ByIdentity(layer)):
            cycles += CLIP_CYCLES * share * part.kernel_layer.output.size
        if layer.epilogue is not None:
            cycles += _epilogue_cycles(ByIdentity(layer))
            if layer.epilogue.op == "add":
                residual = layer.inputs[-1]
                cycles += UNPACK_CYCLES.get(residual.bits, 0.0) * residual.size
        return cycles

    def constant_bytes(self, layer: Layer, config: Config) -> int:
        return _constant_bytes(self.inner, ByIdentity(self._plain(layer)), tuple(sorted(_inner(config).items())))

    # ---- code

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        inner = _inner(config)
        lvalues = self.inner.parts(self._plain(layer), inner)
        part = self._part(layer, int(config[BAND]), lvalues)
        call = self.inner.lower(part.kernel_layer, inner)
        buffers = _Buffers.of(layer, part, self._inner_scratch(layer, part, config))
        includes = [*call.includes, "rqdkm/bands.h", "rqdkm/bits.h"]
        steps = [*_unpack_inputs(layer, part, buffers), _run(layer, part, call, buffers)]
        if not _own_clamp(self.inner, ByIdentity(layer)):
            steps.append(_clip(layer, part, buffers))
            includes.append("rqdkm/elementwise.h")
        if layer.epilogue is not None:
            after = _epilogue_kernel(ByIdentity(layer)).lower(_epilogue_layer(layer, part.band), {})
            includes += after.includes
            steps += _run_epilogue(layer, part, after, buffers)
        if layer.stored.bits != 8:
            steps.append(_pack_output(layer, part))
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=call.constants,
            scratch_bytes=buffers.bytes,
            body=_function(layer, part, buffers, "".join(steps)),
            includes=tuple(dict.fromkeys(includes)),
            macs=cost.macs(layer),
        )


@lru_cache(maxsize=1024)
def _configs(kernel: Banded, key: ByIdentity) -> tuple[Config, ...]:
    return tuple(_front(kernel.choices(key.layer)))


@lru_cache(maxsize=1024)
def _own_clamp(kernel: Kernel, key: ByIdentity) -> bool:
    """Whether the kernel clamps its result to the range of its bits itself, rather than ``clip_s8`` after it: what
    costs less. Kernels without a clamp do not."""
    layer = key.layer
    if layer.output.bits == 8 or not _clamps(layer):
        return layer.output.bits == 8
    narrow, full = plain_layer(layer, own_clamp=True), plain_layer(layer, own_clamp=False)
    if registry.rejection(kernel, full) is not None:
        return True
    cycles = [min(kernel.estimate_cycles(plain, c) for c in kernel.configs(plain)) for plain in (narrow, full)]
    return cycles[0] <= cycles[1] + CLIP_CYCLES * layer.output.size


@lru_cache(maxsize=1024)
def _parts(kernel: Kernel, key: ByIdentity) -> Rows | Elements | None:
    plain = plain_layer(key.layer, own_clamp=True)
    configs = kernel.configs(plain)
    return kernel.parts(plain, configs[0]) if configs else None


@lru_cache(maxsize=1024)
def _constant_bytes(kernel: Kernel, plain: ByIdentity, config: tuple[tuple[str, int | str | bool], ...]) -> int:
    return kernel.constant_bytes(plain.layer, dict(config))


def banded_form(kernel: Kernel) -> Kernel:
    """``kernel`` run band by band; to the outside it is the same kernel."""
    same = ("name", "ops", "reference", "direct", "packed_weights")
    traits = {key: getattr(kernel, key) for key in same}
    form: Kernel = type(f"Banded{type(kernel).__name__}", (Banded,), {**traits, "inner": kernel})()
    return form


# ---- the parts of a layer


def own_inputs(layer: Layer) -> tuple[Tensor, ...]:
    """What the layer itself reads, without the residual of its epilogue."""
    return layer.inputs[:-1] if _adds(layer) else layer.inputs


def _in_bytes(tensor: Tensor) -> Tensor:
    return replace(tensor, bits=8)


def plain_layer(layer: Layer, own_clamp: bool) -> Layer:
    """The layer's own int8 problem: no epilogue, every tensor in bytes; with ``own_clamp`` its results are within the
    range of their bits, without they are within int8."""
    return _plain(ByIdentity(layer), own_clamp)


@lru_cache(maxsize=512)
def _plain(key: ByIdentity, own_clamp: bool) -> Layer:
    layer = key.layer
    return replace(
        layer,
        inputs=tuple(_in_bytes(tensor) for tensor in own_inputs(layer)),
        output=_in_bytes(layer.output),
        attrs=_clamped(layer, layer.output.bits) if own_clamp or not _clamps(layer) else {**layer.attrs, "clamp": INT8},
        epilogue=None,
    )


def _clamps(layer: Layer) -> bool:
    return "clamp" in OPS[layer.op]


def _clamped(layer: Layer, bits: int) -> Mapping[str, Any]:
    """The layer's attributes, with a clamp that keeps results within ``bits``."""
    if bits == 8 or not _clamps(layer):
        return layer.attrs
    low, high = integer_range(bits)
    least, greatest = (int(bound) for bound in layer.attrs["clamp"])
    return {**layer.attrs, "clamp": (min(max(least, low), high), max(min(greatest, high), low))}


@lru_cache(maxsize=1024)
def _band_layers(plain_key: ByIdentity, key: ByIdentity, parts: Rows | Elements | None, band: int) -> tuple[Layer, ...]:
    """The int8 problems of all bands, as far as they differ; first the one that the call is written for, which has
    as many rows as the largest band and all of the padding."""
    layer, plain = key.layer, plain_key.layer
    total = _total(layer, parts)
    if parts is None or band >= total:
        return (plain,)
    if isinstance(parts, Elements):
        return tuple(_elements(plain, size) for size in dict.fromkeys((band, total % band or band)))
    window, pooled, (top, left, bottom, right) = _Window.of(layer), _pooled(layer), plain.attrs["padding"]
    problems = [(band * pooled, window.rows(band * pooled), top, bottom)]
    for at in range(0, total, band):
        outputs = min(band, total - at) * pooled
        problems.append((outputs, *window.band(at * pooled, outputs)))
    return tuple(
        _some_rows(plain, inputs, outputs, (above, left, below, right))
        for outputs, inputs, above, below in dict.fromkeys(problems)
    )


def _elements(plain: Layer, size: int) -> Layer:
    *inputs, output = (replace(tensor, shape=(size,)) for tensor in (*plain.inputs, plain.output))
    return replace(plain, inputs=tuple(inputs), output=output)


def _some_rows(plain: Layer, inputs: int, outputs: int, padding: tuple[int, int, int, int]) -> Layer:
    source, result = plain.inputs[0], plain.output
    return replace(
        plain,
        inputs=(replace(source, shape=(1, inputs, *source.shape[2:])),),
        output=replace(result, shape=(1, outputs, *result.shape[2:])),
        attrs={**plain.attrs, "padding": padding},
    )


def _total(layer: Layer, parts: Rows | Elements | None) -> int:
    """What there is to divide: stored rows or elements; 1 for a layer that is computed whole."""
    if parts is None:
        return 1
    return layer.stored.shape[1] if isinstance(parts, Rows) else layer.stored.size


def _pooled(layer: Layer) -> int:
    epilogue = layer.epilogue
    return int(epilogue.attrs["pool"][0]) if epilogue is not None and epilogue.op == "max_pool2d" else 1


def _pools(layer: Layer) -> bool:
    return layer.epilogue is not None and layer.epilogue.op == "max_pool2d"


def _adds(layer: Layer) -> bool:
    return layer.epilogue is not None and layer.epilogue.op == "add"


def _reject_epilogue(epilogue: Layer) -> str | None:
    if epilogue.op == "add":
        same = all(tensor.shape == epilogue.output.shape for tensor in epilogue.inputs)
        return None if same else "the operands of its epilogue differ in shape"
    if epilogue.attrs["pool"] != epilogue.attrs["strides"] or any(epilogue.attrs["padding"]):
        return "the windows of its epilogue overlap or are padded"
    return None


def _epilogue_layer(layer: Layer, rows: int) -> Layer:
    """The epilogue as an int8 layer that writes ``rows`` rows."""
    return _epilogue_rows(ByIdentity(layer), rows)


@lru_cache(maxsize=1024)
def _epilogue_rows(key: ByIdentity, rows: int) -> Layer:
    layer, epilogue = key.layer, key.layer.epilogue
    assert epilogue is not None
    pooled = _pooled(layer)
    inputs = [replace(_in_bytes(x), shape=(1, rows * pooled, *x.shape[2:])) for x in epilogue.inputs]
    output = replace(_in_bytes(epilogue.output), shape=(1, rows, *epilogue.output.shape[2:]))
    return replace(epilogue, inputs=tuple(inputs), output=output, attrs=_clamped(epilogue, epilogue.output.bits))


@lru_cache(maxsize=256)
def _epilogue_kernel(key: ByIdentity) -> Kernel:
    """The fastest kernel of the epilogue; none of them has configurations or scratch."""
    return registry.candidates(_epilogue_layer(key.layer, key.layer.stored.shape[1]))[0][0]


@lru_cache(maxsize=256)
def _epilogue_cycles(key: ByIdentity) -> float:
    return _epilogue_kernel(key).estimate_cycles(_epilogue_layer(key.layer, key.layer.stored.shape[1]), {})


@dataclass(frozen=True)
class _Choice:
    """A configuration and what it takes."""

    cycles: float
    scratch: int
    constants: int
    in_place: frozenset[int]
    config: Config

    def beats(self, other: _Choice) -> bool:
        """Needs no more memory, and is faster if it comes first."""
        return self.scratch <= other.scratch and self.constants <= other.constants and self.in_place >= other.in_place


def _front(found: Iterable[_Choice]) -> list[Config]:
    """The configurations that none beats in everything, fastest first, the one with the least scratch last."""
    kept: list[_Choice] = []
    for choice in sorted(found, key=lambda choice: (choice.cycles, choice.scratch, choice.constants)):
        if not any(faster.beats(choice) for faster in kept):
            kept.append(choice)
    smallest = min(kept, key=lambda choice: choice.scratch, default=None)
    kept = [choice for choice in kept if choice is not smallest]
    return [choice.config for choice in kept] + ([] if smallest is None else [smallest.config])


def _inner(config: Config) -> Config:
    return {key: value for key, value in config.items() if key != BAND}


# ---- memory


@dataclass(frozen=True)
class _Buffers:
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
    def of(layer: Layer, part: _Part, scratch: int) -> _Buffers:
        problem = part.kernel_layer
        end, result = 0, None
        if layer.stored.bits != 8 or _pools(layer) or (_adds(layer) and part.bands > 1):
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
        return _Buffers(result, tuple(inputs), residual, own, end)


def _survives(layer: Layer, part: _Part, buffers: _Buffers, operand: int, kernel_allows: bool) -> bool:
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
    window = _Window.of(layer)
    read, written = (math.prod(t.packed_shape[2:]) for t in (tensor, stored))
    return all(
        at * written <= max(0, at * part.pooled * window.stride - window.top) * read
        for at in range(part.band, part.total, part.band)
    )


# ---- text


def _function(layer: Layer, part: _Part, buffers: _Buffers, steps: str) -> str:
    text = "".join(f"  const int8_t *const from{i} = (const int8_t *)in{i};\n" for i in range(len(layer.inputs)))
    text += "  int8_t *const to = (int8_t *)out;\n"
    text += "  int8_t *const memory = (int8_t *)scratch;\n" if buffers.bytes else ""
    text += "  int32_t status;\n"
    if part.lvalues is None:
        return text + steps + "  return 0;\n"
    unit = "rows" if isinstance(part.lvalues, Rows) else "elements"
    loop = f"  const int32_t {unit} = {part.total} - at < {part.band} ? {part.total} - at : {part.band};\n"
    if isinstance(part.lvalues, Rows):
        window, pooled = _Window.of(layer), part.pooled
        arguments = f"{_times('at', pooled)}, {_times('rows', pooled)}, {window.stride}, {window.reach}, {window.top}"
        loop += f"  const rqdkm_band band = rqdkm_band_rows({arguments}, {window.input_h});\n"
    head = f"  for (int32_t at = 0; at < {part.total}; at += {part.band}) {{\n"
    return f"{text}{head}{indent(loop + steps, '  ')}  }}\n  return 0;\n"


def _times(name: str, factor: int) -> str:
    return name if factor == 1 else f"{name} * {factor}"


def _at(base: str, values: str, tensor: Tensor) -> str:
    """Address of element ``values`` (a C expression, "0" for the first) of a tensor in memory."""
    if values == "0":
        return base
    item = np.dtype(tensor.dtype).itemsize
    return f"{base} + {_times(values, item)}" if tensor.bits == 8 else f"{base} + {values} / {8 // tensor.bits}"


def _input(layer: Layer, part: _Part, index: int) -> tuple[str, str]:
    """(first element, number of elements) of an input that a band reads, as C."""
    tensor = layer.inputs[index]
    if part.lvalues is None:
        return "0", str(tensor.size)
    if isinstance(part.lvalues, Elements):
        return "at", "elements"
    row = tensor.size // tensor.shape[1]
    return f"band.first * {row}", f"band.rows * {row}"


def _stored(part: _Part, tensor: Tensor) -> tuple[str, str]:
    """(first element, number of elements) of a tensor that lies as the stored one does."""
    if part.lvalues is None:
        return "0", str(tensor.size)
    if isinstance(part.lvalues, Elements):
        return "at", "elements"
    return f"at * {part.row}", f"rows * {part.row}"


def _unpack(tensor: Tensor, base: str, where: tuple[str, str], to: int) -> str:
    return f"  rqdkm_unpack_s{tensor.bits}({_at(base, where[0], tensor)}, {where[1]}, memory + {to});\n"


def _unpack_inputs(layer: Layer, part: _Part, buffers: _Buffers) -> list[str]:
    return [
        _unpack(layer.inputs[i], f"from{i}", _input(layer, part, i), to)
        for i, to in enumerate(buffers.inputs)
        if to is not None
    ]


def _result(layer: Layer, part: _Part, buffers: _Buffers) -> str:
    """Where the kernel writes a band."""
    if buffers.result is not None:
        return f"memory + {buffers.result}"
    return _at("to", _stored(part, layer.stored)[0], layer.stored)


def _run(layer: Layer, part: _Part, call: KernelCall, buffers: _Buffers) -> str:
    """The kernel on one band."""
    operands = {}
    for i, unpacked in enumerate(buffers.inputs):
        place = _at(f"from{i}", _input(layer, part, i)[0], layer.inputs[i])
        operands[f"in{i}"] = place if unpacked is None else f"memory + {unpacked}"
    values: dict[str, str] = {}
    if isinstance(part.lvalues, Elements):
        values[part.lvalues.count] = "elements"
    elif part.lvalues is not None:
        values = {
            part.lvalues.input_h: "band.rows",
            part.lvalues.output_h: _times("rows", part.pooled),
            part.lvalues.pad_top: "band.pad_top",
            part.lvalues.pad_bottom: "band.pad_bottom",
        }
    scratch = None if buffers.scratch is None else f"memory + {buffers.scratch}"
    return _block(call.body, operands, _result(layer, part, buffers), scratch, values)


def _run_epilogue(layer: Layer, part: _Part, call: KernelCall, buffers: _Buffers) -> list[str]:
    """Addition or pooling of one band; both may write over what they read."""
    epilogue = layer.epilogue
    assert epilogue is not None
    steps, source = [], _result(layer, part, buffers)
    operands = {"in0": source}
    first = _stored(part, layer.stored)[0]
    values: dict[str, str] = {}
    if epilogue.op == "add":
        residual, index = layer.inputs[-1], len(layer.inputs) - 1
        place = _at(f"from{index}", first, residual)
        if buffers.residual is not None:
            place = f"memory + {buffers.residual}"
            steps.append(_unpack(residual, f"from{index}", _stored(part, residual), buffers.residual))
        operands["in1"] = place
        values = {"count": _stored(part, layer.stored)[1]}
    elif part.lvalues is not None:
        values = {"input_dims.h": _times("rows", part.pooled), "output_dims.h": "rows"}
    target = _at("to", first, layer.stored) if layer.stored.bits == 8 else source
    return [*steps, _block(call.body, operands, target, None, {} if part.lvalues is None else values)]


def _clip(layer: Layer, part: _Part, buffers: _Buffers) -> str:
    """What the kernel has written, to the range of its bits and the layer's clamp."""
    low, high = integer_range(layer.output.bits)
    if _clamps(layer):
        low, high = _clamped(layer, layer.output.bits)["clamp"]
    computed = part.kernel_layer.output
    row = computed.size // computed.shape[1] if isinstance(part.lvalues, Rows) else 1
    count = {Rows: f"rows * {part.pooled * row}", Elements: "elements"}.get(type(part.lvalues), str(computed.size))
    place = _result(layer, part, buffers)
    call = f"rqdkm_clip_s8((rqdkm_clamp){{{low}, {high}}}, {count}, {place}, {place})"
    return f"  status = {call};\n  if (status != 0) return status;\n"


def _pack_output(layer: Layer, part: _Part) -> str:
    first, count = _stored(part, layer.stored)
    return f"  rqdkm_pack_s{layer.stored.bits}(memory, {count}, {_at('to', first, layer.stored)});\n"


_DECLARATION = re.compile(r"^  (?:static )?const (\w+) (\w+) = ", re.MULTILINE)


def _block(body: str, operands: Mapping[str, str], out: str, scratch: str | None, values: Mapping[str, str]) -> str:
    """The body of a kernel call as a block that computes a part.

    Args:
        operands: what ``in0``, ... are in it.
        values: lvalue of a parameter -> what is assigned to it.
    """
    values = {lvalue: value for lvalue, value in values.items() if lvalue}
    changed = {lvalue.partition(".")[0] for lvalue in values}
    head, _, call = body.rpartition("  return ")
    names = {match[2] for match in _DECLARATION.finditer(head)}
    if not changed <= names:
        raise AssertionError(f"the body declares no {sorted(changed - names)}:\n{body}")
    head = _DECLARATION.sub(lambda m: f"  {m[1]} {m[2]} = " if m[2] in changed else m[0], head)
    text = "".join(f"  const void *const {name} = {place};\n" for name, place in operands.items())
    text += f"  void *const out = {out};\n"
    text += f"  void *const scratch = {scratch};\n" if scratch is not None else ""
    text += head + "".join(f"  {lvalue} = {value};\n" for lvalue, value in values.items())
    return f"  {{\n{indent(text + '  status = ' + call, '  ')}  }}\n  if (status != 0) return status;\n"
