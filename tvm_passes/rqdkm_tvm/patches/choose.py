"""Kernels and memory of a patch stage: for every part of every layer a configuration, within an arena of some bytes.

All parts of a layer share their constants: a part may choose its own strip height and the like, not weights packed in
another way. So the part that costs most chooses first, and what other constants than its own cost is counted at the
price of flash.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from rqdkm_tvm.assign import FLASH_PRICE, Option, options
from rqdkm_tvm.in_place import operand_of
from rqdkm_tvm.kernels.keys import ByValue
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.layer import KernelCall, Layer
from rqdkm_tvm.memory import aligned, pack
from rqdkm_tvm.patches.program import Patch, Patches
from rqdkm_tvm.patches.steps import Copy, Program, Run

COPY_CYCLES, COPY_ROW_CYCLES = 0.6, 25.0  # per byte and per row, measured
RUN_CYCLES = 40.0  # a call and its parameters
_GAIN = 0.98  # an arena is offered if with it the stage takes at most this part of the cycles of the one before
_MOST_ARENAS = 16
_OUTLIERS = 0.25  # part of the patches that are outlier patches, where the chip decides: what their kernels weigh


@dataclass(frozen=True)
class Placed:
    """A program with offsets: of every buffer, and of each run's scratch."""

    program: Program
    offsets: tuple[int, ...]
    scratch: Mapping[int, int]  # by step


@dataclass(frozen=True)
class Chosen:
    """A configuration of the whole stage.

    Args:
        options: by problem (identity).
        arena_bytes: kept rows, buffers and scratch.
    """

    options: Mapping[int, Option]
    placed: Mapping[Program, Placed]
    kept: Mapping[int, int]  # offset of each node's kept rows
    arena_bytes: int
    cycles: float
    constant_bytes: int
    slow: tuple[str, ...] = ()  # layers with parts on a reference kernel, for want of memory


def expected(patches: Patches) -> Iterator[tuple[Patch, float]]:
    """Patches and how often each is run per inference: once as planned, or in shares where the chip decides."""
    if patches.plan.outliers is None:
        yield from ((patch, 1.0) for patch in patches.planned)
        return
    for patch in patches.every:
        taken = _share(patches, patch.row, patch.column, patch.branch)
        yield patch, taken * (1.0 if patch.above is None else _share(patches, patch.row - 1, patch.column, patch.above))


def _share(patches: Patches, row: int, column: int, branch: int) -> float:
    """How often the chip takes a branch at a position."""
    if len(patches.chosen(row, column)) == 1:
        return 1.0
    return _OUTLIERS if branch == 0 else 1 - _OUTLIERS


@dataclass(frozen=True)
class _Use:
    """A problem at one step of one program; ``room`` is what other buffers leave free there."""

    program: Program
    step: int
    live: int
    overwritable: tuple[int, ...]


class Chooser:
    """All problems of a stage with their options, worked out once."""

    def __init__(self, patches: Patches, kernel_set: KernelSet = "auto") -> None:
        self.patches, self.kernel_set = patches, kernel_set
        self.programs = list(dict.fromkeys(patches.program(p) for p in patches.every))
        self.counts: dict[Program, float] = dict.fromkeys(self.programs, 0.0)
        for patch, count in expected(patches):
            self.counts[patches.program(patch)] += count
        self.kept_bytes = sum(patches.kept_bytes.values())
        self.problems: dict[int, Layer] = {}
        self.uses: dict[int, list[_Use]] = {}
        for program in self.programs:
            live = program.live()
            for step, run in program.runs:
                self.problems[id(run.problem)] = run.problem
                use = _Use(program, step, live[step], overwritable(program, step, run))
                self.uses.setdefault(id(run.problem), []).append(use)
        self._calls: dict[tuple[int, str, tuple[tuple[str, object], ...]], KernelCall] = {}

    @cached_property
    def options(self) -> dict[int, tuple[Option, ...]]:
        found = {}
        for key, problem in self.problems.items():
            allowed = set.intersection(*(set(use.overwritable) for use in self.uses[key]))
            found[key] = part_options(problem, self.kernel_set, tuple(allowed))
        return found

    @cached_property
    def families(self) -> list[list[int]]:
        """Problems that are parts of the same layer (in the same formats), the most expensive first."""
        groups: dict[tuple[int, ...], list[int]] = {}
        for key, problem in self.problems.items():
            tensors = (*problem.inputs, problem.output, problem.stored)
            formats = tuple(hash((t.scale, t.zero_point, t.bits)) for t in tensors)
            groups.setdefault((id(problem.weights), hash(problem.name), *formats), []).append(key)

        def weight(key: int) -> float:
            runs = sum(max(self.counts[use.program], _OUTLIERS) for use in self.uses[key])
            return runs * (self.options[key][0].cycles if self.options[key] else 0.0)

        return [sorted(group, key=lambda key: -weight(key)) for group in groups.values()]

    def least(self) -> int:
        """Bytes of the smallest arena, as far as the sum of what lives at once tells."""
        most = 0
        for key, uses in self.uses.items():
            ram = min(option.ram_bytes for option in self.options[key])
            most = max(most, *(use.live + ram for use in uses))
        for program in self.programs:
            most = max(most, max(program.live(), default=0))
        return self.kept_bytes + most

    def arenas(self) -> list[int]:
        """Sizes worth offering: the least, and those above it at which faster kernels begin to fit."""
        least = aligned(self.least())
        steps: dict[int, list[tuple[int, float]]] = {}
        for key, uses in self.uses.items():
            live = self.kept_bytes + max(use.live for use in uses)
            for option in self.options[key]:
                size = max(least, aligned(live + option.ram_bytes))
                steps.setdefault(size, []).append((key, option.cycles))
        runs = {key: sum(self.counts[use.program] for use in uses) for key, uses in self.uses.items()}
        fastest: dict[int, float] = {}
        found: list[tuple[int, float]] = []
        for size in sorted(steps):
            for key, cycles in steps[size]:
                fastest[key] = min(cycles, fastest.get(key, cycles))
            total = sum(runs[key] * cycles for key, cycles in fastest.items())
            if not found or total <= _GAIN * found[-1][1]:
                found.append((size, total))
        # the greatest steps, if there are many
        gains = [(math.inf, 0)] + [(a[1] / b[1], i + 1) for i, (a, b) in enumerate(pairwise(found))]
        kept = sorted(index for _, index in sorted(gains, reverse=True)[:_MOST_ARENAS])
        return [found[index][0] for index in kept]

    def call(self, key: int, option: Option) -> KernelCall:
        token = (key, option.kernel.name, tuple(sorted(option.config.items())))
        if token not in self._calls:
            self._calls[token] = option.kernel.lower(self.problems[key], option.config)
        return self._calls[token]

    def choose(self, arena: int) -> Chosen:
        """The fastest options within ``arena`` bytes; where nothing fits, those of least memory."""
        taken: dict[int, Option] = {}
        for family in self.families:
            known: set[bytes] = set()
            for key in family:
                room = min(arena - self.kept_bytes - use.live for use in self.uses[key])
                option = self._best(key, room, known)
                taken[key] = option
                known |= {c.tobytes() for c in self.call(key, option).constants}
        # layers may share constants, too
        constants = {
            (str(c.dtype), c.tobytes()): c.nbytes for key, o in taken.items() for c in self.call(key, o).constants
        }
        return self._place(taken, sum(constants.values()))

    def _best(self, key: int, room: int, known: set[bytes]) -> Option:
        found = self.options[key]
        fitting = [o for o in found if o.ram_bytes <= room] or [min(found, key=lambda o: (o.ram_bytes, o.cycles))]
        if not known:
            return min(fitting, key=lambda o: o.cycles + FLASH_PRICE * o.constant_bytes)
        best, least = fitting[0], float("inf")
        for option in sorted(fitting, key=lambda o: o.cycles):
            if option.cycles >= least:
                break
            price = option.cycles + FLASH_PRICE * self._new_constants(key, option, known)
            if price < least:
                best, least = option, price
        return best

    def _new_constants(self, key: int, option: Option, known: set[bytes]) -> int:
        return sum(c.nbytes for c in self.call(key, option).constants if c.tobytes() not in known)

    def _place(self, taken: Mapping[int, Option], constant_bytes: int) -> Chosen:
        kept, end = {}, 0
        for index, size in self.patches.kept_bytes.items():
            kept[index], end = end, end + size
        placed = {program: _arrange(program, taken) for program in self.programs}
        arena = end + max((height for _, height in placed.values()), default=0)
        cycles = 0.0
        for program, count in self.counts.items():
            cycles += count * program_cycles(program, taken)
        slow = {
            self.problems[key].name
            for key, option in taken.items()
            if option.kernel.reference and any(not o.kernel.reference for o in self.options[key])
        }
        offsets = {p: found for p, (found, _) in placed.items()}
        return Chosen(taken, offsets, kept, arena, cycles, constant_bytes, tuple(sorted(slow)))


def part_options(problem: Layer, kernel_set: KernelSet, allowed: tuple[int, ...]) -> tuple[Option, ...]:
    """Every way to run a part of a layer; ``allowed``: operands that its result may be written over."""
    return _options(ByValue(problem), kernel_set, tuple(sorted(allowed)))


@lru_cache(maxsize=8192)
def _options(key: ByValue, kernel_set: KernelSet, overwritable: tuple[int, ...]) -> tuple[Option, ...]:
    """Of a part of a layer; grids have many parts in common."""
    return tuple(options(key.layer, kernel_set, overwritable))


def program_cycles(program: Program, taken: Mapping[int, Option]) -> float:
    total = 0.0
    for step in program.steps:
        if isinstance(step, Run):
            total += taken[id(step.problem)].cycles + RUN_CYCLES
        elif isinstance(step, Copy):
            total += step.rows * COPY_ROW_CYCLES + step.total * COPY_CYCLES
    return total


def overwritable(program: Program, step: int, run: Run) -> tuple[int, ...]:
    """Operands of a run that lie whole in a buffer of their own which nothing reads after this step."""
    if run.result.buffer < 0 or run.result.offset:
        return ()
    if program.buffers[run.result.buffer].first != step:
        return ()
    places = run.operands
    return tuple(
        i
        for i, place in enumerate(places)
        if place.buffer >= 0
        and place.offset == 0
        and program.buffers[place.buffer].last == step
        and sum(other.buffer == place.buffer for other in places) == 1
    )


def _arrange(program: Program, taken: Mapping[int, Option]) -> tuple[Placed, int]:
    """Offsets of the buffers and of the scratch of every run."""
    spans = [(b.first, b.last, aligned(b.size)) for b in program.buffers]
    shared: dict[int, int] = {}
    scratch: dict[int, int] = {}
    for step, run in program.runs:
        option = taken[id(run.problem)]
        operand = operand_of(option.config)
        if operand is not None:
            shared[run.result.buffer] = run.operands[operand].buffer
        if option.scratch_bytes:
            scratch[step] = len(spans)
            spans.append((step, step, aligned(option.scratch_bytes)))
    offsets, height = _packed(tuple(spans), tuple(shared.items()))
    count = len(program.buffers)
    return Placed(program, offsets[:count], {s: offsets[i] for s, i in scratch.items()}), height


@lru_cache(maxsize=4096)
def _packed(
    spans: tuple[tuple[int, int, int], ...], overlays: tuple[tuple[int, int], ...]
) -> tuple[tuple[int, ...], int]:
    """Offsets of (first step, last step, bytes) and the height; programs of a grid have much in common.

    Args:
        overlays: result and operand that begin at one place.
    """
    shared = dict(overlays)
    conflicts = [
        [j for j, b in enumerate(spans) if j != i and a[0] <= b[1] and b[0] <= a[1]] for i, a in enumerate(spans)
    ]
    bound = 0
    for step in range(1 + max((last for _, last, _ in spans), default=-1)):
        alive = [i for i, s in enumerate(spans) if s[0] <= step <= s[1]]
        doubles = {i for i in alive if shared.get(i) in alive and spans[i][2] <= spans[shared[i]][2]}
        bound = max(bound, sum(spans[i][2] for i in alive if i not in doubles))
    offsets, height = pack([size for _, _, size in spans], conflicts, bound, shared)
    return tuple(offsets), height
