"""A morphing layer as a kernel: a switch over its paths, each with the kernels that are fastest within some scratch.

One table of candidates serves both choices: which C kernel runs a layer is decided ahead of time, as everywhere, which
path runs a frame is decided by ``rqdkm_morph_kernel`` (``tflm_ops/include/rqdkm/morph.h``). All paths are in the image
and share one piece of scratch, so that a switch allocates nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from rqdkm_tvm.constants import Constants
from rqdkm_tvm.graph import identifier
from rqdkm_tvm.kernels.keys import ByIdentity
from rqdkm_tvm.kernels.registry import Config, Kernel, able, register
from rqdkm_tvm.layer import KernelCall, Layer, Tensor
from rqdkm_tvm.memory import aligned
from rqdkm_tvm.morph.library import OP, Path

SCRATCH = "scratch"  # key of a configuration: bytes for buffers and scratch of every path
_MOST_SIZES = 12  # configurations that are offered


@dataclass(frozen=True)
class _Option:
    """One way to run one layer of a path."""

    kernel: Kernel
    config: Config
    cycles: float
    scratch: int


@dataclass(frozen=True)
class _Step:
    """A layer of a path; offsets in scratch, None where it reads the morphing layer's input or writes its output."""

    layer: Layer
    source: int | None
    target: int | None
    free: int  # first byte behind the buffers in use

    def options(self) -> list[_Option]:
        return list(_options(ByIdentity(self.layer)))

    def best(self, scratch: int) -> _Option | None:
        """The fastest within ``scratch`` bytes in all."""
        fitting = [o for o in self.options() if self.free + o.scratch <= scratch]
        return min(fitting, key=lambda o: (o.kernel.reference, o.cycles), default=None)


@lru_cache(maxsize=1024)
def _options(key: ByIdentity) -> tuple[_Option, ...]:
    layer = key.layer
    return tuple(
        _Option(kernel, config, kernel.estimate_cycles(layer, config), kernel.scratch_bytes(layer, config))
        for kernel in able(layer)
        for config in kernel.configs(layer)
    )


def _bytes(tensor: Tensor) -> int:
    size = 1
    for extent in tensor.packed_shape:
        size *= extent
    return aligned(size)


def rooms_of(path: Path) -> tuple[int, int]:
    """Bytes of the two rooms at the start of the scratch in which results in between lie by turns."""
    between = [_bytes(layer.stored) for layer in path.layers[:-1]]
    return max(between[0::2], default=0), max(between[1::2], default=0)


def _steps(path: Path) -> list[_Step]:
    rooms = rooms_of(path)
    offsets = (0, rooms[0])
    steps = []
    for i, layer in enumerate(path.layers):
        source = None if i == 0 else offsets[(i - 1) % 2]
        target = None if i == len(path.layers) - 1 else offsets[i % 2]
        steps.append(_Step(layer, source, target, sum(rooms)))
    return steps


@register
class MorphKernel(Kernel):
    """Generated C around the kernels of the paths."""

    name = OP
    ops = (OP,)
    packed_tensors = True
    packed_weights = True

    def reject(self, layer: Layer) -> str | None:
        assert layer.library is not None
        for path in layer.library.paths:
            for step in _steps(path):
                if not step.options():
                    return f'no kernel runs "{step.layer.name}"'
        return None

    def configs(self, layer: Layer) -> list[Config]:
        return [{SCRATCH: size} for size in _sizes(ByIdentity(layer))]

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return int(config[SCRATCH])

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        """The mean over the paths."""
        return _cycles(ByIdentity(layer), int(config[SCRATCH]))

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        assert layer.library is not None
        paths, constants = layer.library.paths, Constants()
        prelude, cases = "", ""
        includes: dict[str, None] = {"rqdkm/morph.h": None}
        for number, path in enumerate(paths):
            lines = ""
            for index, step in enumerate(_steps(path)):
                option = step.best(int(config[SCRATCH]))
                assert option is not None
                call = option.kernel.lower(step.layer, option.config)
                includes |= dict.fromkeys(call.includes)
                name = f"rqdkm_{identifier(layer.name)}_{number}_{index}"
                names = ["in0", *(f"c{i}" for i in range(len(call.constants)))]
                arguments = [f"const void *{x}" for x in names] + ["void *out"]
                arguments += ["void *scratch"] if call.scratch_bytes else []
                text = f"{{\n{call.body.rstrip()}\n}}\n"
                prelude += f"{call.prelude}static int32_t {name}({', '.join(arguments)}) {text}"
                given = ["in0" if step.source is None else _memory(step.source)]
                given += [f"c{constants.number(constant)}" for constant in call.constants]
                given.append("out" if step.target is None else _memory(step.target))
                given += [_memory(step.free)] if call.scratch_bytes else []
                lines += f"      status = {name}({', '.join(given)});\n"
                lines += "      if (status != 0) return status;\n" if index + 1 < len(path.layers) else ""
            cases += f"    case {number}: /* {path.name} */\n{lines}      return status;\n"
        body = f"  int32_t status = 0;\n  switch (rqdkm_morph_kernel({len(paths)}, {layer.library.safe})) {{\n{cases}"
        body += "    default:\n      return RQDKM_ERROR_ARGUMENT;\n  }\n"
        return KernelCall(
            kernel=self.name,
            config=config,
            constants=tuple(constants.arrays),
            scratch_bytes=int(config[SCRATCH]),
            body=body,
            includes=tuple(includes),
            macs=paths[layer.library.safe].macs,
            prelude=prelude,
        )


def _memory(offset: int) -> str:
    return f"(int8_t *)scratch + {offset}"


@lru_cache(maxsize=64)
def _sizes(key: ByIdentity) -> tuple[int, ...]:
    """Sizes of which none is both larger and slower than another, fastest first, the least last."""
    library = key.layer.library
    assert library is not None
    steps = [step for path in library.paths for step in _steps(path)]
    least = max(step.free + min(o.scratch for o in step.options()) for step in steps)
    wanted = sorted({aligned(max(least, step.free + o.scratch)) for step in steps for o in step.options()})
    kept: list[int] = []
    for size in wanted:
        if not kept or _cycles(key, size) < _cycles(key, kept[-1]) * 0.999:
            kept.append(size)
    if len(kept) > _MOST_SIZES:
        kept = [kept[round(i * (len(kept) - 1) / (_MOST_SIZES - 1))] for i in range(_MOST_SIZES)]
    return tuple(reversed(kept))


@lru_cache(maxsize=4096)
def _cycles(key: ByIdentity, scratch: int) -> float:
    library = key.layer.library
    assert library is not None
    chosen = [step.best(scratch) for path in library.paths for step in _steps(path)]
    assert all(option is not None for option in chosen)
    return sum(option.cycles for option in chosen if option is not None) / len(library.paths)
