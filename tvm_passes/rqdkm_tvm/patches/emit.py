"""The C text of a patch stage: one function per part of a layer, one per program, and a table of patches.

All of it shares one set of constants, which the functions get as an array of pointers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from textwrap import indent
from typing import Any

from rqdkm_tvm.constants import Constants
from rqdkm_tvm.layer import KernelCall
from rqdkm_tvm.patches.choose import Chooser, Chosen, Placed
from rqdkm_tvm.patches.program import Patch
from rqdkm_tvm.patches.steps import IN, Copy, Fetch, Place, Program, Run

NAME = "patch_stage"
_ARGUMENTS = "const int8_t *from, int8_t *to, const void *const *constants, int8_t *memory, int32_t row, int32_t column"


class Emitter:
    """Text of one configuration of a stage."""

    def __init__(self, chooser: Chooser, chosen: Chosen) -> None:
        self.chooser, self.chosen = chooser, chosen
        self.patches = chooser.patches
        self.constants = Constants()
        self.parts: dict[str, str] = {}  # text -> name
        self.part_of: dict[int, tuple[str, list[int], bool]] = {}  # problem -> function, constants, scratch
        self.programs: dict[str, int] = {}  # body -> number
        self.includes: dict[str, None] = {"rqdkm/memory.h": None, "rqdkm/patches.h": None}

    def call(self, config: Mapping[str, Any]) -> KernelCall:
        table = self._table()
        prelude = "".join(self._function(text, name) for text, name in self.parts.items())
        for body, number in self.programs.items():
            prelude += f"static int32_t rqdkm_patch_program_{number}({_ARGUMENTS}) {{\n{body}}}\n"
        return KernelCall(
            kernel=NAME,
            config=config,
            constants=tuple(self.constants.arrays),
            scratch_bytes=self.chosen.arena_bytes,
            body=table,
            includes=tuple(self.includes),
            macs=self.patches.stage.macs,
            prelude=prelude,
        )

    # ---- parts of layers

    def _part(self, run: Run) -> tuple[str, list[int], bool]:
        key = run.part
        if key not in self.part_of:
            option = self.chosen.options[key]
            call = self.chooser.call(key, option)
            self.includes |= dict.fromkeys(call.includes)
            names = [f"in{i}" for i in range(len(run.operands))]
            names += [f"c{i}" for i in range(len(call.constants))]
            arguments = [f"const void *{name}" for name in names] + ["void *out"]
            arguments += ["void *scratch"] if call.scratch_bytes else []
            text = f"({', '.join(arguments)}) {{\n{call.body.rstrip()}\n}}\n"
            name = self.parts.setdefault(text, f"rqdkm_patch_part_{len(self.parts)}")
            self.part_of[key] = (name, [self.constants.number(c) for c in call.constants], bool(call.scratch_bytes))
        return self.part_of[key]

    @staticmethod
    def _function(text: str, name: str) -> str:
        return f"static int32_t {name}{text}"

    # ---- programs

    def _program(self, program: Program) -> int:
        placed = self.chosen.placed[program]
        lines = []
        for index, step in enumerate(program.steps):
            if isinstance(step, Copy):
                lines.append(self._copy(step, placed))
            elif isinstance(step, Fetch):
                lines.append(self._fetch(step, placed))
            else:
                lines.append(self._run(index, step, placed))
        body = "".join(lines)
        head = "  int32_t status = 0;\n"
        unused = [n for n in ("from", "to", "constants", "memory", "row", "column") if not _mentions(body, n)]
        head += "".join(f"  (void){name};\n" for name in unused)
        return self.programs.setdefault(f"{head}{body}  return status;\n", len(self.programs))

    def _copy(self, step: Copy, placed: Placed) -> str:
        target, source = self._at(step.target, placed), self._at(step.source, placed)
        if step.saves is not None:
            target = f"memory + {self.chosen.kept[step.saves]}"
        if step.restores is not None:
            source = f"memory + {self.chosen.kept[step.restores]}"
        if step.rows == 1 or step.source_stride == step.target_stride == step.bytes:
            return f"  rqdkm_copy({target}, {source}, {step.total});\n"
        return (
            f"  rqdkm_copy_rows({target}, {step.target_stride}, {source}, {step.source_stride}, {step.rows}, "
            f"{step.bytes});\n"
        )

    def _fetch(self, step: Fetch, placed: Placed) -> str:
        frame, region = self.patches.frame, step.region
        pixel = frame.shape[3] * frame.bits // 8
        call = (
            f"rqdkm_fetch_input(row + {region.rows.start}, column * {pixel}, {region.rows.size}, "
            f"{region.columns.size * pixel}, {self._at(step.target, placed)})"
        )
        return f"  status = {call};\n  if (status != 0) return status;\n"

    def _run(self, index: int, step: Run, placed: Placed) -> str:
        name, constants, scratch = self._part(step)
        arguments = [self._at(place, placed) for place in step.operands]
        if step.restores is not None:
            arguments = [f"memory + {self.chosen.kept[step.restores]}"]
        arguments += [f"constants[{number}]" for number in constants]
        arguments.append(self._at(step.result, placed))
        if scratch:
            arguments.append(self._memory(placed.scratch[index]))
        return f"  status = {name}({', '.join(arguments)});\n  if (status != 0) return status;\n"

    def _at(self, place: Place, placed: Placed) -> str:
        if place.buffer >= 0:
            return self._memory(placed.offsets[place.buffer] + place.offset)
        base = "from" if place.buffer == IN else "to"
        return base if place.offset == 0 else f"{base} + {place.offset}"

    def _memory(self, offset: int) -> str:
        """Programs' buffers lie behind the kept rows."""
        return f"memory + {sum(self.patches.kept_bytes.values()) + offset}"

    # ---- the table of patches

    def _table(self) -> str:
        patches = self.patches
        entries = []
        for column in range(len(patches.columns)):
            for row in range(len(patches.rows)):
                entries.append(self._entry(row, column))
        programs = ", ".join(f"rqdkm_patch_program_{i}" for i in range(len(self.programs)))
        text = f"  static int32_t (*const programs[])({_ARGUMENTS}) = {{{programs}}};\n"
        # per branch (0, planned) and that of the patch above (likewise): the program, its corner of the frame
        text += "  static const struct {\n    int32_t to, planned;\n    struct {\n      int32_t program, row, column;\n"
        text += "    } ways[2][2];\n  } patches[] = {\n" + "".join(entries) + "  };\n"
        numbers = ", ".join(f"c{i}" for i in range(len(self.constants.arrays)))
        text += f"  const void *const constants[] = {{{numbers or '0'}}};\n"
        frame = patches.frame
        across = frame.packed_shape[2] * frame.packed_shape[3]
        text += "  int32_t above = 0;\n"
        text += f"  for (int32_t i = 0; i < {len(entries)}; i++) {{\n"
        text += "    int32_t branch = patches[i].planned;\n"
        if patches.plan.outliers is not None:
            text += indent(self._classify(across), "    ")
        text += "    const int32_t own = branch != 0, on = above != 0;\n"
        text += "    const int32_t row = patches[i].ways[own][on].row, column = patches[i].ways[own][on].column;\n"
        corner = "" if patches.fetches else f" + row * {across} + column * {frame.packed_shape[3]}"
        text += f"    const int8_t *const from = (const int8_t *)in0{corner};\n"
        text += "    const int32_t status = programs[patches[i].ways[own][on].program](\n"
        text += "        from, (int8_t *)out + patches[i].to, constants, (int8_t *)scratch, row, column);\n"
        text += "    if (status != 0) return status;\n    above = branch;\n  }\n  return 0;\n"
        return text

    def _classify(self, across: int) -> str:
        outliers = self.patches.plan.outliers
        assert outliers is not None
        frame = self.patches.frame
        regions = []
        for column in range(len(self.patches.columns)):
            for row in range(len(self.patches.rows)):
                region = self.patches.fresh(row, column, 0).trace.frame
                start = region.rows.start * across + region.columns.start * frame.packed_shape[3]
                regions.append(f"{{{start}, {region.rows.size}, {region.columns.size * frame.packed_shape[3]}}}")
        return (
            f"static const int32_t seen[][3] = {{{', '.join(regions)}}};\n"
            f"static const rqdkm_outliers outliers = {{{outliers.low}, {outliers.high}, {outliers.count}}};\n"
            "if (branch != 0 &&\n"
            "    rqdkm_is_outlier_patch(outliers, (const int8_t *)in0 + seen[i][0], "
            f"{across}, seen[i][1], seen[i][2]))\n"
            "  branch = 0;\n"
        )

    def _entry(self, row: int, column: int) -> str:
        patches = self.patches
        found: dict[tuple[bool, bool], Patch] = {}
        for patch in patches.every:
            if (patch.row, patch.column) == (row, column):
                found[bool(patch.branch), bool(patch.above)] = patch
        planned = patches.plan.branch(row, column)
        result = patches.result
        pixel = result.packed_shape[3]
        to = patches.rows[row].start * result.packed_shape[2] * pixel + patches.columns[column].start * pixel
        ways = []
        for branch in (False, True):
            both = []
            for above in (False, True):
                # ways that cannot happen, and the other one of a patch that goes on with nothing, are filled
                patch = found.get((branch, above)) or found.get((branch, not above)) or next(iter(found.values()))
                rows, columns = patches.origin(patch)
                both.append(f"{{{self._program(patches.program(patch))}, {rows.start}, {columns.start}}}")
            ways.append(f"{{{', '.join(both)}}}")
        return f"      {{{to}, {planned}, {{{', '.join(ways)}}}}},\n"


def _mentions(text: str, name: str) -> bool:
    return re.search(rf"\b{name}\b", text) is not None
