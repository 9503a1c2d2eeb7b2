"""Kernels and memory of a patch stage: for every part of every layer a configuration, within an arena of some bytes.

All parts of a layer share their constants: a part may choose its own strip height and the like, not weights packed in
another way. So the part that costs most chooses first, and what other constants than its own cost is counted at the
price of flash.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from rqdkm_tvm.assign import FLASH_PRICE, Option, options
from rqdkm_tvm.in_place import operand_of
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.layer import KernelCall, Layer
from rqdkm_tvm.memory import aligned, pack
from rqdkm_tvm.patches.program import Copy, Patches, Program, Run

COPY_CYCLES, COPY_ROW_CYCLES = 0.6, 25.0  # per byte and per row, measured
RUN_CYCLES = 40.0  # a call and its parameters
_GROWTH = (1.0, 1.08, 1.2, 1.4, 1.8, 2.5)  # arenas that are offered, times the least


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
        self.counts: dict[Program, int] = dict.fromkeys(self.programs, 0)
        for patch in patches.planned:
            self.counts[patches.program(patch)] += 1
        self.kept_bytes = sum(patches.kept_bytes.values())
        self.problems: dict[int, Layer] = {}
        self.uses: dict[int, list[_Use]] = {}
        for program in self.programs:
            live = program.live()
            for step, run in program.runs:
                self.problems[id(run.problem)] = run.problem
                use = _Use(program, step, live[step], _overwritable(program, step, run))
                self.uses.setdefault(id(run.problem), []).append(use)
        self._calls: dict[tuple[int, str, tuple[tuple[str, object], ...]], KernelCall] = {}

    @cached_property
    def options(self) -> dict[int, list[Option]]:
        found = {}
        for key, problem in self.problems.items():
            allowed = set.intersection(*(set(use.overwritable) for use in self.uses[key]))
            found[key] = options(problem, self.kernel_set, tuple(sorted(allowed)))
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
            runs = sum(max(self.counts[use.program], 1) for use in self.uses[key])
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
        """Sizes worth offering."""
        least = self.least()
        return [aligned(int(least * growth)) for growth in _GROWTH]

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
        return Chosen(taken, {p: found for p, (found, _) in placed.items()}, kept, arena, cycles, constant_bytes)


def program_cycles(program: Program, taken: Mapping[int, Option]) -> float:
    total = 0.0
    for step in program.steps:
        if isinstance(step, Run):
            total += taken[id(step.problem)].cycles + RUN_CYCLES
        elif isinstance(step, Copy):
            total += step.rows * COPY_ROW_CYCLES + step.total * COPY_CYCLES
    return total


def _overwritable(program: Program, step: int, run: Run) -> tuple[int, ...]:
    """Operands that lie whole in a buffer of their own which nothing reads after this step."""
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
    conflicts = [
        [j for j, b in enumerate(spans) if j != i and a[0] <= b[1] and b[0] <= a[1]] for i, a in enumerate(spans)
    ]
    bound = 0
    for step in range(len(program.steps)):
        alive = [i for i, s in enumerate(spans) if s[0] <= step <= s[1]]
        doubles = {i for i in alive if shared.get(i) in alive and spans[i][2] <= spans[shared[i]][2]}
        bound = max(bound, sum(spans[i][2] for i in alive if i not in doubles))
    offsets, height = pack([size for _, _, size in spans], conflicts, bound, shared)
    count = len(program.buffers)
    return Placed(program, tuple(offsets[:count]), {s: offsets[i] for s, i in scratch.items()}), height
