"""Every kernel, run band by band: on tensors of 4 or 2 bits, and with an epilogue on its result.

The kernel itself stays what it is, int8 in and out. For some output rows at a time (elements, where it is elementwise)
its body is run as a smaller problem: the input rows it needs are unpacked into scratch if they are packed, the result
is added to the residual or pooled while it is there, and packed on its way to the output. What nothing has to be done
to is read and written in place. Configurations are the kernel's own for a band, and ``band``, its height.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

from rqdkm_tvm import cost
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.band_memory import Buffers, survives
from rqdkm_tvm.kernels.band_parts import (
    Part,
    Window,
    band_layers,
    clamps,
    epilogue_cycles,
    epilogue_kernel,
    epilogue_layer,
    own_inputs,
    plain_layer,
    pooled_rows,
    reject_epilogue,
    units,
)
from rqdkm_tvm.kernels.band_text import clip, pack_output, run_epilogue, run_kernel, unpack_inputs, whole_body
from rqdkm_tvm.kernels.keys import ByIdentity
from rqdkm_tvm.kernels.registry import BAND, Config, Elements, Kernel, Rows
from rqdkm_tvm.layer import KernelCall, Layer

# Cortex-M4 cycles, measured on the virtual board (docs/bands.md)
UNPACK_CYCLES: Mapping[int, float] = {4: 2.5, 2: 2.3}  # per element
PACK_CYCLES: Mapping[int, float] = {4: 2.1, 2: 1.9}
CLIP_CYCLES = 2.3  # per element
BAND_CYCLES = 150.0  # per band: its rows, calls, and what the kernel does once a call
_ROWS = (16, 8, 4, 2, 1)  # heights that are offered besides the whole map, as far as they are smaller
_ELEMENTS = (1024, 256)


class Banded(Kernel):
    """The banded form of the kernel ``inner``, under its name."""

    inner: ClassVar[Kernel]
    packed_tensors = True
    epilogues = frozenset({"add", "max_pool2d"})

    # ---- what it can do

    def reject(self, layer: Layer) -> str | None:
        reason = registry.rejection(self.inner, plain_layer(layer, own_clamp=True))
        if reason is None and layer.epilogue is not None:
            reason = reject_epilogue(layer.epilogue)
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
        total = units(layer, parts)
        if parts is None:
            return [total]
        if isinstance(parts, Rows) and not Window.of(layer).meets(layer.output.shape[1]):
            return [total]
        return [total, *(n for n in (_ROWS if isinstance(parts, Rows) else _ELEMENTS) if n < total)]

    def _part(self, layer: Layer, band: int, lvalues: Rows | Elements | None) -> Part:
        """``layer`` in bands of ``band``; ``lvalues`` only matter to the text."""
        parts = self._parts(layer)
        total, pooled = units(layer, parts), pooled_rows(layer)
        row = layer.stored.size // total
        whole = band >= total
        return Part(
            band_layers(ByIdentity(self._plain(layer)), ByIdentity(layer), parts, band)[0],
            None if whole else lvalues,
            band,
            total,
            row,
            pooled,
        )

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        part = self._part(layer, int(config[BAND]), self.inner.parts(self._plain(layer), _inner(config)))
        buffers = Buffers.of(layer, part, 0)
        # asked for the band with all of the padding; inner bands of a depthwise layer may be read where they lie, but
        # those have a packed input, which is buffered, or an epilogue
        kernels_own = self.inner.in_place(part.kernel_layer, _inner(config)) if layer.epilogue is None else ()
        return tuple(
            i
            for i in range(len(layer.inputs))
            if layer.inputs[i].dtype == "int8" and survives(layer, part, buffers, i, i in kernels_own)
        )

    # ---- what it costs

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        part = self._part(layer, int(config[BAND]), None)
        return Buffers.of(layer, part, self._inner_scratch(layer, part, config)).bytes

    def _inner_scratch(self, layer: Layer, part: Part, config: Config) -> int:
        """Of the kernel, for whichever band needs most."""
        problems = band_layers(ByIdentity(self._plain(layer)), ByIdentity(layer), self._parts(layer), part.band)
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
            cycles += epilogue_cycles(ByIdentity(layer))
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
        buffers = Buffers.of(layer, part, self._inner_scratch(layer, part, config))
        includes = [*call.includes, "rqdkm/bands.h", "rqdkm/bits.h"]
        steps = [*unpack_inputs(layer, part, buffers), run_kernel(layer, part, call, buffers)]
        if not _own_clamp(self.inner, ByIdentity(layer)):
            steps.append(clip(layer, part, buffers))
            includes.append("rqdkm/elementwise.h")
        if layer.epilogue is not None:
            after = epilogue_kernel(ByIdentity(layer)).lower(epilogue_layer(layer, part.band), {})
            includes += after.includes
            steps += run_epilogue(layer, part, after, buffers)
        if layer.stored.bits != 8:
            steps.append(pack_output(layer, part))
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=call.constants,
            scratch_bytes=buffers.bytes,
            body=whole_body(layer, part, buffers, "".join(steps)),
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
    if layer.output.bits == 8 or not clamps(layer):
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
