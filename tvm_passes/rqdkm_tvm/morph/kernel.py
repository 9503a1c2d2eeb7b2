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
OVER = "over"  # key of a configuration: every path may write its result over the input
_MOST_SIZES = 40  # configurations that are offered


@dataclass(frozen=True)
class _Option:
    """One way to run one layer of a path."""

    kernel: Kernel
    config: Config
    cycles: float
    scratch: int


@dataclass(frozen=True)
class _Step:
    """A layer of a path; ``source`` and ``target`` are offsets in scratch, or ``in0`` and ``out``."""

    layer: Layer
    source: int | str
    target: int | str
    free: int  # first byte behind the buffers in use
    over: bool  # ``out`` may be ``in0``

    def options(self) -> list[_Option]:
        found = _options(ByIdentity(self.layer))
        same = self.source == self.target or (self.over and (self.source, self.target) == ("in0", "out"))
        if not same:
            return list(found)
        return [option for option in found if 0 in option.kernel.in_place(self.layer, option.config)]

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


def rooms_of(path: Path, last_in_result: bool = False) -> tuple[int, int]:
    """Bytes of the two rooms at the start of the scratch in which results in between lie by turns.

    Args:
        last_in_result: the last of them lies in the morphing layer's own result, where it is written over.
    """
    between = [_bytes(layer.stored) for layer in path.layers[: -2 if last_in_result else -1]]
    return max(between[0::2], default=0), max(between[1::2], default=0)


def _steps(path: Path, last_in_result: bool, over: bool) -> list[_Step]:
    rooms = rooms_of(path, last_in_result)
    places: list[int | str] = ["in0", *((0, rooms[0])[i % 2] for i in range(len(path.layers) - 1)), "out"]
    if last_in_result:
        places[-2] = "out"
    return [_Step(x, places[i], places[i + 1], sum(rooms), over) for i, x in enumerate(path.layers)]


def _layouts(path: Path, over: bool) -> list[list[_Step]]:
    """Where the path's results may lie; ``over``: the last one over the input. Only a first layer reads that."""
    found = [_steps(path, False, over)]
    if len(path.layers) > 1 and _bytes(path.layers[-2].stored) <= _bytes(path.layers[-1].stored):
        found.append(_steps(path, True, over))
    return [steps for steps in found if all(step.options() for step in steps)]


def _best(path: Path, config: Config) -> list[tuple[_Step, _Option]] | None:
    """The fastest layout and kernels within the configuration."""
    found, scratch = [], int(config[SCRATCH])
    for steps in _layouts(path, bool(config.get(OVER))):
        chosen = [(step, option) for step in steps if (option := step.best(scratch)) is not None]
        if len(chosen) == len(steps):
            found.append(chosen)
    worst = [(any(o.kernel.reference for _, o in x), sum(o.cycles for _, o in x)) for x in found]
    return found[worst.index(min(worst))] if found else None


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
            for layer_ in path.layers:
                if not _options(ByIdentity(layer_)):
                    return f'no kernel runs "{layer_.name}"'
        return None

    def configs(self, layer: Layer) -> list[Config]:
        """Every size, apart from the input and over it; the one that needs the least scratch last."""
        key = ByIdentity(layer)
        found: list[Config] = [{SCRATCH: size} for size in _sizes(key, False)]
        over: list[Config] = [{SCRATCH: size, OVER: True} for size in _sizes(key, True)]
        return [*over, *found]

    def in_place(self, layer: Layer, config: Config) -> tuple[int, ...]:
        return (0,) if config.get(OVER) else ()

    def scratch_bytes(self, layer: Layer, config: Config) -> int:
        return int(config[SCRATCH])

    def estimate_cycles(self, layer: Layer, config: Config) -> float:
        """The mean over the paths."""
        return _cycles(ByIdentity(layer), int(config[SCRATCH]), bool(config.get(OVER)))

    def lower(self, layer: Layer, config: Config) -> KernelCall:
        assert layer.library is not None
        paths, constants = layer.library.paths, Constants()
        prelude, cases = "", ""
        includes: dict[str, None] = {"rqdkm/morph.h": None}
        for number, path in enumerate(paths):
            lines = ""
            chosen = _best(path, config)
            assert chosen is not None
            for index, (step, option) in enumerate(chosen):
                call = option.kernel.lower(step.layer, option.config)
                includes |= dict.fromkeys(call.includes)
                name = f"rqdkm_{identifier(layer.name)}_{number}_{index}"
                names = ["in0", *(f"c{i}" for i in range(len(call.constants)))]
                arguments = [f"const void *{x}" for x in names] + ["void *out"]
                arguments += ["void *scratch"] if call.scratch_bytes else []
                text = f"{{\n{call.body.rstrip()}\n}}\n"
                prelude += f"{call.prelude}static int32_t {name}({', '.join(arguments)}) {text}"
                given = [_memory(step.source)]
                given += [f"c{constants.number(constant)}" for constant in call.constants]
                given.append(_memory(step.target))
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


def _memory(place: int | str) -> str:
    if isinstance(place, str):
        return place
    return f"(int8_t *)scratch + {place}"


@lru_cache(maxsize=64)
def _sizes(key: ByIdentity, over: bool) -> tuple[int, ...]:
    """Sizes of which none is both larger and slower than another, fastest first, the least last; none where a path
    cannot write its result over the input."""
    library = key.layer.library
    assert library is not None
    layouts = [_layouts(path, over) for path in library.paths]
    if not all(layouts) or (over and key.layer.stored.size > key.layer.inputs[0].size):
        return ()
    least = max(
        min(max(step.free + min(o.scratch for o in step.options()) for step in steps) for steps in found)
        for found in layouts
    )
    every = [step for found in layouts for steps in found for step in steps]
    wanted = sorted({aligned(max(least, step.free + o.scratch)) for step in every for o in step.options()})
    kept: list[int] = []
    for size in wanted:
        if not kept or _cycles(key, size, over) < _cycles(key, kept[-1], over) * 0.999:
            kept.append(size)
    if len(kept) > _MOST_SIZES:
        kept = [kept[round(i * (len(kept) - 1) / (_MOST_SIZES - 1))] for i in range(_MOST_SIZES)]
    return tuple(reversed(kept))


@lru_cache(maxsize=4096)
def _cycles(key: ByIdentity, scratch: int, over: bool) -> float:
    library = key.layer.library
    assert library is not None
    total = 0.0
    for path in library.paths:
        chosen = _best(path, {SCRATCH: scratch, OVER: over})
        assert chosen is not None
        total += sum(option.cycles for _, option in chosen)
    return total / len(library.paths)
