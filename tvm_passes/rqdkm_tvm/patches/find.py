"""Where to divide a network and how to cut its first part, so that it fits a RAM budget at least cost.

Every legal split, grid and halo is estimated; the best ones are worked out in full, kernels and memory included, and
the fastest network that fits is taken.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rqdkm_tvm import in_place, memory
from rqdkm_tvm.assign import DEFAULT_PRICES, AssignKernels, Known, Prices, options
from rqdkm_tvm.errors import BudgetError, FlashBudgetError, PlanError
from rqdkm_tvm.fuse import FuseEpilogues
from rqdkm_tvm.kernels import registry
from rqdkm_tvm.kernels.keys import ByValue
from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.layer import Layer
from rqdkm_tvm.patches.estimate import Candidate, Estimator
from rqdkm_tvm.patches.kernel import slow_layers
from rqdkm_tvm.patches.outline import outline
from rqdkm_tvm.patches.schedule import SchedulePatches, Split, splits
from rqdkm_tvm.patches.stage import branch_nodes, fused_nodes
from rqdkm_tvm.patches.widths import quantizable
from rqdkm_tvm.plan import OutputPlan, Plan
from rqdkm_tvm.plan_patches import Halo, Input, PatchPlan
from rqdkm_tvm.sites import read_sites

Progress = Callable[[str], None]

MOST_ROWS, MOST_COLUMNS = 24, 8  # of the grids that are tried
OUTLINED = 60  # candidates of which one patch is looked at
TRIED = 5  # candidates that are worked out in full
OUTLINED_AGAIN, TRIED_AGAIN = 30, 3  # for bits that are known: something that fits has been found then
MOST_TRIED = 16  # if none of those fits
# parts of the budget that a stage may take without scratch: what it leaves, faster kernels use
FILLED = (1.0, 0.9, 0.8, 0.72, 0.65, 0.58, 0.5)


@dataclass(frozen=True)
class Formats:
    """What is known of the branches already, while split and grid are sought.

    Args:
        outputs: by layer name, of the searched patches.
        both: patches in the layers' own formats may run as well.
        branched: a plan without branches, with those for its split and grid.
    """

    outputs: Mapping[str, OutputPlan]
    both: bool
    branched: Callable[[PatchPlan], PatchPlan]


@dataclass(frozen=True)
class Request:
    """What is asked for; None: whatever serves best.

    Args:
        grid: rows and columns of patches.
        columns: of patches, where the rows are to be chosen.
        last: the layer after which the network is divided.
        halo: see :class:`rqdkm_tvm.plan_patches.PatchPlan`, as ``input``.
        formats: of the searched patches, where they are known.
    """

    grid: tuple[int, int] | None = None
    last: str | None = None
    halo: Halo | None = None
    input: Input = "frame"
    formats: Formats | None = None
    columns: int | None = None


@dataclass(frozen=True)
class Worked:
    """A patch plan with what the whole network takes with it, as the kernels estimate it.

    Args:
        slow: layers of the stage of which a part runs on a reference kernel, because no fast one fits.
    """

    plan: PatchPlan | None
    arena_bytes: int
    cycles: float
    slow: tuple[str, ...] = ()

    @property
    def rank(self) -> tuple[bool, float]:
        """Less is better: reference kernels only where nothing else fits."""
        return bool(self.slow), self.cycles


class Finder:
    """Patch plans for one module.

    Args:
        mod: partitioned, with the plan's bit-widths.
        plan: of the layers; copied where it is completed.
        ram_budget: bytes of the arena.
        flash_budget: bytes of constants.
    """

    def __init__(
        self,
        mod: Any,
        plan: Plan,
        *,
        ram_budget: int,
        flash_budget: int | None = None,
        kernel_set: KernelSet = "auto",
        prices: Prices = DEFAULT_PRICES,
        progress: Progress = lambda _text: None,
    ) -> None:
        self.mod, self.plan = mod, plan
        self.ram, self.flash = ram_budget, flash_budget
        self.kernel_set, self.prices, self.progress = kernel_set, prices, progress
        self._cycles: dict[ByValue, float] = {}
        self._known: Known = {}
        self._by_identity: dict[int, tuple[Layer, float]] = {}

    def _per_layer(self, layer: Layer) -> float:
        """Cycles of a whole layer with its fastest kernel."""
        if id(layer) not in self._by_identity:
            key = ByValue(layer)
            if key not in self._cycles:
                found = options(layer, self.kernel_set)
                self._cycles[key] = found[0].cycles if found else math.inf
            self._by_identity[id(layer)] = (layer, self._cycles[key])
        return self._by_identity[id(layer)][1]

    @cached_property
    def rest(self) -> dict[str, int]:
        """By layer: bytes that what comes after it needs at least."""
        found = self._rest(self.mod["main"])
        fused = FuseEpilogues(copy.deepcopy(self.plan), kernel_set=self.kernel_set)(self.mod)["main"]
        behind = self._rest(fused)
        for site in read_sites(fused):  # a split between a layer and its epilogue leaves the epilogue alone
            last = site.layer if site.layer.epilogue is None else site.layer.epilogue
            found[last.name] = min(found.get(last.name, behind[site.name]), behind[site.name])
        return found

    def _rest(self, function: Any) -> dict[str, int]:
        line = memory.timeline(function)
        layers = {site.name: site.layer for site in read_sites(function)}
        found: dict[str, int] = {}
        worst = 0
        for name, live in reversed(list(zip(line.steps, line.live(), strict=True))):
            found[name] = worst
            ram = 0
            if name in layers:
                ram = min((o.ram_bytes for o in options(layers[name], self.kernel_set, (0,))), default=0)
            worst = max(worst, live + ram)
        return found

    def candidates(self, request: Request) -> list[Candidate]:
        """All that the request allows, estimated: those that may fit the budget first, fastest first.

        Raises:
            PlanError: the request names a place where the network cannot be divided, or there is none.
        """
        legal = self._legal(request)
        if not legal:
            raise PlanError(
                "there is no layer after which the network can be divided",
                where="--patch",
                hint="a patch stage begins at the model's one input and consists of convolutions, poolings, "
                "additions and elementwise operators; pass --patch off",
            )
        formats = request.formats
        estimators = [Estimator(_formatted(split, formats), self._per_layer) for split in legal]
        own = [Estimator(split, self._per_layer) for split in legal] if formats is not None and formats.both else None
        longest = max(estimator.unpatched for estimator in estimators)
        found: list[tuple[tuple[float, ...], Candidate]] = []
        for index, estimator in enumerate(estimators):
            for grid in _grids(estimator.split, request):
                for halo in (request.halo,) if request.halo else ("recompute", "lines"):
                    made = estimator.estimate(grid, halo, request.input)
                    # what a shorter stage leaves is run whole
                    made = dataclasses.replace(made, total=made.cycles + longest - estimator.unpatched)
                    if own is not None:
                        size = own[index].estimate(grid, halo, request.input).bytes
                        made = dataclasses.replace(made, bytes=max(made.bytes, size))
                    over = max(0, max(made.bytes, self.rest[estimator.split.last]) - self.ram)
                    found.append(((over, made.total, made.bytes, *grid), made))
        if not found:
            rows, columns = request.grid or ("any number of", request.columns)
            raise PlanError(
                f"no feature map has {rows} x {columns} patches",
                where="--patch",
                hint="pass fewer patches, or auto",
            )
        return [made for _, made in sorted(found, key=lambda item: item[0])]

    def check(self, request: Request) -> None:
        """Refuse a request for a split that is none, whether or not patches turn out to be needed.

        Raises:
            PlanError: says where the network can be divided.
        """
        self._legal(request)

    def _legal(self, request: Request) -> list[Split]:
        legal = splits(self.mod["main"])
        if request.formats is not None:
            wanted = set(request.formats.outputs)
            legal = [
                split for split in legal if wanted <= {split.nodes[i].layer.name for i in quantizable(split.nodes)}
            ]
        if request.last is None:
            return legal
        found = [split for split in legal if split.last == request.last]
        if not found:
            names = ", ".join(f'"{split.last}"' for split in legal) or "nowhere"
            raise PlanError(
                f'the network cannot be divided after "{request.last}"', where="--split", hint=f"possible: {names}"
            )
        return found

    def work_out(self, patches: PatchPlan | None) -> Worked:
        """Kernels and memory of the whole network with these patches; None: without any.

        Raises:
            BudgetError: they do not fit.
        """
        plan = copy.deepcopy(self.plan)
        plan.patches = patches
        mod = SchedulePatches(plan, kernel_set=self.kernel_set)(self.mod)
        mod = FuseEpilogues(plan, kernel_set=self.kernel_set)(mod)
        AssignKernels(
            plan,
            ram_budget=self.ram,
            flash_budget=self.flash,
            kernel_set=self.kernel_set,
            prices=self.prices,
            known=self._known,
        )(mod)
        cycles = 0.0
        slow: tuple[str, ...] = ()
        scratch: dict[str, int] = {}
        operands: dict[str, int] = {}
        for site in read_sites(mod["main"]):
            entry = plan.get(site.name)
            if entry is None or entry.kernel is None:
                continue
            kernel = registry.get(entry.kernel, entry.config)
            cycles += kernel.estimate_cycles(site.layer, entry.config)
            if site.layer.stage is not None:
                slow = slow_layers(site.layer, entry.config)
            scratch[site.name] = kernel.scratch_bytes(site.layer, entry.config)
            operand = in_place.operand_of(entry.config)
            if operand is not None:
                operands[site.name] = operand
        return Worked(patches, memory.timeline(mod["main"]).pack(scratch, operands), cycles, slow)

    def find(self, request: Request) -> Worked:
        """The fastest of the candidates within the budget.

        Raises:
            BudgetError: none of those that were worked out fits.
            PlanError: see :meth:`candidates`.
        """
        best: Worked | None = None
        failure: BudgetError | None = None
        tried = 0
        for candidate in self._outlined(request):
            enough = TRIED if request.formats is None else TRIED_AGAIN
            if tried >= MOST_TRIED or (tried >= enough and best is not None and not best.slow):
                break
            tried += 1
            plan = candidate.plan if request.formats is None else request.formats.branched(candidate.plan)
            self.progress(f"trying {plan.grid[0]}x{plan.grid[1]} patches, halo {plan.halo}, up to {plan.last}")
            try:
                worked = self.work_out(plan)
            except FlashBudgetError:
                raise
            except BudgetError as error:
                if failure is None or error.needed_bytes < failure.needed_bytes:
                    failure = error
                continue
            if best is None or worked.rank < best.rank:
                best = worked
        if best is None:
            assert failure is not None
            raise failure
        return best

    def _outlined(self, request: Request) -> list[Candidate]:
        """Candidates, the fastest by what one patch takes first."""
        formats = request.formats
        nodes = {split.last: split.nodes for split in splits(self.mod["main"])}
        whole = {last: sum(self._per_layer(n.layer) for n in fused_nodes(own)) for last, own in nodes.items()}
        found: list[tuple[tuple[bool, float], Candidate]] = []
        for number, made in enumerate(self._spread(self.candidates(request))):
            if number == (OUTLINED if formats is None else OUTLINED_AGAIN):
                break
            last, plan = made.plan.last, made.plan
            numbers: tuple[int, ...] = (0,)
            if formats is not None:  # not which patches are outlier patches, but whether there may be some
                rows, columns = plan.grid
                plan = dataclasses.replace(plan, branches=({}, formats.outputs), assignment=((1,) * columns,) * rows)
                numbers = (0, 1) if formats.both else (1,)
            looked_at = dataclasses.replace(made, plan=plan)
            each = [outline(nodes[last], looked_at, branch, self.ram, self.kernel_set) for branch in numbers]
            behind = max(whole.values()) - whole[last]
            cycles = sum(cycles for _, cycles in each) / len(each) + behind
            found.append(((self.rest[last] > self.ram or any(slow for slow, _ in each), cycles), made))
        return [made for _, made in sorted(found, key=lambda item: item[0])]

    def _spread(self, found: Sequence[Candidate]) -> Iterator[Candidate]:
        """The best of every split, halo and part of the budget, fastest first; then the others."""
        first: dict[tuple[str, str, float], Candidate] = {}
        for candidate in found:
            for part in FILLED:
                if candidate.bytes <= part * self.ram:
                    first.setdefault((candidate.plan.last, candidate.plan.halo, part), candidate)
        leading = {id(c): c for c in sorted(first.values(), key=lambda c: (c.total, c.bytes))}
        yield from leading.values()
        yield from (candidate for candidate in found if id(candidate) not in leading)


def _formatted(split: Split, formats: Formats | None) -> Split:
    """The split in the formats of its searched patches."""
    if formats is None:
        return split
    return dataclasses.replace(split, nodes=branch_nodes(split.nodes, formats.outputs))


def _grids(split: Split, request: Request) -> Iterator[tuple[int, int]]:
    height, width = split.result.shape[1:3]
    if request.grid is not None:
        if request.grid[0] <= height and request.grid[1] <= width:
            yield request.grid
        return
    for rows in range(1, min(height, MOST_ROWS) + 1):
        for columns in range(1, min(width, MOST_COLUMNS) + 1) if request.columns is None else (request.columns,):
            if rows * columns > 1 and columns <= width:
                yield rows, columns
