"""What a way to cut a stage takes, with the kernels that fit: worked out for one patch in the middle, not for all.

Between the estimate, which knows no kernels, and the whole network with all of its parts.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rqdkm_tvm.kernels.registry import KernelSet
from rqdkm_tvm.patches.choose import overwritable, part_options, program_cycles
from rqdkm_tvm.patches.estimate import Candidate
from rqdkm_tvm.patches.program import Patch, Patches
from rqdkm_tvm.patches.stage import Node, Stage


def outline(
    nodes: Sequence[Node], candidate: Candidate, branch: int, ram: int, kernel_set: KernelSet = "auto"
) -> tuple[bool, float]:
    """Whether a part runs on a reference kernel for want of memory or does not fit, and cycles of the stage.

    Args:
        nodes: in the layers' own formats; the candidate's plan has the branches.
        branch: of the patch looked at.
        ram: bytes of the arena.
    """
    patches = Patches(Stage(tuple(nodes), candidate.plan, kernel_set))
    patch = _middle(patches, branch)
    program = patches.program(patch)
    live = program.live()
    room = ram - candidate.fixed
    taken = {}
    cycles, slow = 0.0, False
    for step, run in program.runs:
        found = part_options(run.problem, kernel_set, overwritable(program, step, run))
        if not found:
            return True, math.inf
        fitting = [o for o in found if live[step] + o.ram_bytes <= room]
        option = min(fitting or found, key=lambda o: o.cycles if fitting else o.ram_bytes)
        slow |= not fitting or (option.kernel.reference and any(not o.kernel.reference for o in found))
        taken[id(run.problem)] = option
        out = run.problem.stored.shape
        cycles += option.cycles * candidate.computed[run.node] / (out[1] * out[2])
    own = sum(taken[id(run.problem)].cycles for _, run in program.runs)
    moves = program_cycles(program, taken) - own
    return slow, cycles + moves * len(patches.rows) * len(patches.columns)


def _middle(patches: Patches, branch: int) -> Patch:
    """A patch away from the borders as far as there is one, going on with the one above where rows are kept."""
    column = len(patches.columns) // 2
    patch = patches.fresh(0, column, branch)
    for _ in range(min(len(patches.rows) // 2, 2)):
        patch = patches.below(patch, branch)
    return patch
