"""``rqdkm bench``: the test models on the virtual board, layer by layer, beside other stacks and our targets."""

from __future__ import annotations

import dataclasses
import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rqdkm import anchors, pipeline, plan_files
from rqdkm.models import data, load, zoo
from rqdkm.options import DeployOptions
from rqdkm.report import view
from rqdkm.report.schema import Report
from rqdkm_tvm.files import write_atomic

SCHEMA = "rqdkm.bench/1"
DEFAULT_CONFIGS = ("baseline", "int8")  # of models without targets
# rq: the test models come without data, so bits are planned on seeded inputs that vary in contrast and smoothness; the
# share of them whose first class may change, and budgets that leave the kernels room
RQ_SAMPLES, RQ_MAX_DROP, RQ_RAM, RQ_FLASH = 256, 5.0, 112 * 1024, 1024 * 1024
PLANNING_SECONDS = 180  # that the search for bit-widths may take, on two cores


@dataclass(frozen=True)
class Target:
    """One limit: ``value`` of ``key`` (of the report's totals, or of its memory) must not exceed ``limit``."""

    key: str
    value: float | None  # None: nothing counted it
    limit: float

    @property
    def met(self) -> bool:
        return self.value is not None and self.value <= self.limit


@dataclass(frozen=True)
class Row:
    """One model in one configuration: its report, and what it is compared with (None without anchors).

    Args:
        repeated: whether a second search gave the same plan and parameters, byte for byte; None: there was none.
    """

    model: str
    report: Report
    anchor: anchors.Anchor | None
    repeated: bool | None = None

    @property
    def targets(self) -> list[Target]:
        limits = self.anchor.targets.get(self.report.config, {}) if self.anchor else {}
        return [Target(key, self._value(key), limit) for key, limit in limits.items()]

    def _value(self, key: str) -> float | None:
        """RAM is compared arena with arena: what TensorFlow Lite Micro's figure counts, without stack and statics."""
        holder = self.report.memory if hasattr(self.report.memory, key) else self.report.totals
        value: float | None = getattr(holder, key)
        return value

    @property
    def exact(self) -> bool:
        return self.report.exactness is not None and self.report.exactness.mismatches == 0

    @property
    def planning(self) -> Target | None:
        """The time of the search, if there was one: of this machine and day, so no page or file holds it."""
        seconds = self.report.run.get("search_seconds")
        return None if seconds is None else Target("search_seconds", seconds, PLANNING_SECONDS)

    @property
    def title(self) -> str:
        return self.anchor.title if self.anchor else self.model


@dataclass(frozen=True)
class BenchResult:
    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Every output exact, every target met, and every plan that was made twice the same."""
        return all(
            row.exact and row.repeated is not False and all(target.met for target in row.targets) for row in self.rows
        )

    @property
    def in_time(self) -> bool:
        """Whether every search was as fast as it should be."""
        return all(row.planning is None or row.planning.met for row in self.rows)

    @property
    def models(self) -> dict[str, list[Row]]:
        """The rows of every model, one per configuration."""
        grouped: dict[str, list[Row]] = {}
        for row in self.rows:
            grouped.setdefault(row.model, []).append(row)
        return grouped


def run(
    models: Sequence[str],
    out: Path,
    *,
    configs: Sequence[str] = (),
    flash_model: str = "f407",
    samples: int = 1,
    repeat_plan: bool = False,
    progress: Callable[[str], None] = lambda _: None,
) -> BenchResult:
    """Deploy ``models`` in every one of ``configs`` below ``out`` and write ``bench.json``.

    Args:
        models: names of test models; those with targets if empty.
        configs: those with targets if empty, or :data:`DEFAULT_CONFIGS`.
        repeat_plan: search the bit-widths of ``rq`` a second time and compare the plans.

    Raises:
        RqdkmError: an unknown model, or whatever stops a deployment.
    """
    rows = []
    for name in models or anchors.default_models():
        anchor = anchors.anchor(name)
        for config in configs or (tuple(anchor.targets) if anchor else ()) or DEFAULT_CONFIGS:
            options = DeployOptions(
                model=zoo.path(name, progress=progress),
                out=out / name / config,
                config=config,
                flash_model=flash_model,
                samples=samples,
            )
            if config == "rq":
                options = _planned(options)
            step = _prefixed(f"{name} {config}", progress)
            report = pipeline.deploy(options, step)
            again = repeat_plan and report.search is not None
            rows.append(Row(name, report, anchor, _same_again(options, step) if again else None))
    result = BenchResult(tuple(rows))
    write_atomic(out / "bench.json", to_json(result))
    return result


def _planned(options: DeployOptions) -> DeployOptions:
    """``rq`` of a model without data, see :data:`RQ_SAMPLES`."""
    inputs = data.structured_inputs(load.load(options.model), RQ_SAMPLES)
    calib = options.out.parent / "structured_inputs.npz"
    buffer = io.BytesIO()
    np.savez_compressed(buffer, inputs[0])
    calib.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(calib, buffer.getvalue())
    return dataclasses.replace(options, calib=calib, max_drop=RQ_MAX_DROP, ram_bytes=RQ_RAM, flash_bytes=RQ_FLASH)


def _same_again(options: DeployOptions, progress: Callable[[str], None]) -> bool:
    """Whether the deployment's plan and parameters come out of a second search as they did of the first."""
    second = dataclasses.replace(options, out=options.out.with_name(f"{options.out.name}-again"))
    pipeline.build(second, progress)
    names = (plan_files.PLAN, plan_files.PARAMETERS)
    return all((options.out / name).read_bytes() == (second.out / name).read_bytes() for name in names)


def to_json(result: BenchResult) -> str:
    """Totals, layers and comparisons; reproducible, like the reports it is made of."""
    models = {
        model: {
            "title": rows[0].title,
            "configs": {row.report.config: _as_json(row) for row in rows},
            "others": [dataclasses.asdict(stack) for stack in rows[0].anchor.stacks] if rows[0].anchor else [],
        }
        for model, rows in result.models.items()
    }
    body = {"schema": SCHEMA, "sources": anchors.sources(), "passed": result.passed, "models": models}
    return json.dumps(body, indent=1, ensure_ascii=False) + "\n"


def _as_json(row: Row) -> dict[str, Any]:
    report = row.report
    return {
        "board": dataclasses.asdict(report.board),
        "cycle_model": dataclasses.asdict(report.cycle_model),
        "totals": dataclasses.asdict(report.totals),
        "arena_bytes": report.memory.arena_planned_bytes,
        "exactness": dataclasses.asdict(report.exactness) if report.exactness else None,
        "layers": [
            {**dataclasses.asdict(layer), "tflm_cmsis_nn_cycles_per_mac": anchors.layer_anchor(layer)}
            for layer in report.layers
        ],
        "targets": [{**dataclasses.asdict(target), "met": target.met} for target in row.targets],
        **({} if row.repeated is None else {"plan_repeated": row.repeated}),
    }


def render(result: BenchResult, *, width: int = 140) -> RenderableType:
    """Per model: layers, then totals beside the other stacks and the targets."""
    parts: list[RenderableType] = []
    for rows in result.models.values():
        for row in rows:
            title = Text.assemble((f"{row.title}, {row.report.config}", "bold"), f"  {view.cycle_source(row.report)}")
            parts += [title, _table(_layer_cells(row), *_LAYER_COLUMNS, compact=width < 110)]
        parts.append(_table(_stack_cells(rows), *_STACK_COLUMNS))
        for text, good in (verdict for row in rows for verdict in (*_verdicts(row), *_timing(row))):
            parts.append(Text(("✓ " if good else "✗ ") + text, style="green" if good else "bold red"))
        parts.append(Text())
    return Group(*parts)


def write_markdown(result: BenchResult, path: Path) -> None:
    """The same as a Markdown page, written atomically."""
    write_atomic(path, to_markdown(result))


def to_markdown(result: BenchResult) -> str:
    lines = [
        "# Benchmarks",
        "",
        "Generated by `rqdkm bench --markdown docs/benchmarks.md`; do not edit. Trained third-party int8 models, whole",
        "networks, on the virtual board. Every cycle count of ours is *modelled*, not measured on silicon;",
        "[virtual-board.md](virtual-board.md) says how far the model is from hardware.",
        "",
        "`baseline` keeps to direct convolution; `int8` takes the fastest exact kernel, Winograd included; `rq` plans",
        "bit-widths on seeded inputs (the models come without data; its page is [machinery.md](machinery.md)), with",
        "budgets of 112 KiB RAM and 1 MiB flash; its outputs are compared with the NumPy interpreter. How long the",
        "search takes is printed on the terminal only, being of one machine and not reproducible byte for byte.",
        "",
        "| model | config | cycles/MAC | ms | TFLM + CMSIS-NN | ratio | peak RAM, KiB | flash, KiB | outputs exact |",
        "|---|---|--:|--:|--:|--:|--:|--:|---|",
    ]
    for row in result.rows:
        totals, other = row.report.totals, _tflm(row)
        ratio = f"{other / totals.cycles_per_mac:.2f}x" if other and totals.cycles_per_mac else ""
        lines.append(
            f"| {row.title} | {row.report.config} | **{_number(totals.cycles_per_mac)}** |"
            f" {_number(totals.latency_ms, 1)} | {_number(other)} | {ratio} | {totals.ram_peak_bytes / 1024:.1f} |"
            f" {totals.flash_bytes / 1024:.1f} | {'yes' if row.exact else 'no'} |"
        )
    for model, rows in result.models.items():
        lines += ["", f"## {rows[0].title}", "", f"`{model}`, {view.cycle_source(rows[0].report)}.", ""]
        lines += [*_markdown_table(_STACK_COLUMNS, _stack_cells(rows)), ""]
        for text, good in (verdict for row in rows for verdict in _verdicts(row)):
            lines.append(f"- {'met' if good else '**missed**'}: {text}")
        for row in rows:
            lines += ["", f"Config `{row.report.config}`, layer by layer:", ""]
            lines += _markdown_table(_LAYER_COLUMNS, _layer_cells(row))
    lines += ["", "## Sources", "", *(f"- {text}" for text in anchors.sources().values()), ""]
    return "\n".join(lines)


# (name, right-aligned); the layer column's text may be long, everything else is short
_LAYER_COLUMNS = (
    ("layer", False),
    ("kernel", False),
    ("shape", False),
    ("MACs", True),
    ("cycles", True),
    ("cyc/MAC", True),
    ("TFLM + CMSIS-NN", True),
    ("%", True),
    ("scratch", True),
)
_STACK_COLUMNS = (
    ("stack", False),
    ("cycles/MAC", True),
    ("", False),
    ("arena, bytes", True),
    ("peak RAM, bytes", True),
    ("flash, bytes", True),
    ("our fastest is faster by", True),
)


def _layer_cells(row: Row) -> list[list[str]]:
    cells = []
    for item in view.layer_rows(row.report):
        layer, other = item.layer, anchors.layer_anchor(item.layer)
        known = "" if other is None else _number(other[0]) if other[0] == other[1] else f"{other[0]} to {other[1]}"
        cells.append(
            [
                layer.name,
                layer.kernel,
                item.shapes,
                f"{layer.macs:,}" if layer.macs else "-",
                "-" if layer.cycles is None else f"{layer.cycles:,}",
                _number(item.cycles_per_mac),
                known,
                f"{100 * item.share:.1f}",
                f"{layer.scratch_bytes:,}" if layer.scratch_bytes else "-",
            ]
        )
    totals = row.report.totals
    work = [f"{totals.macs:,}", _count(totals.cycles), _number(totals.cycles_per_mac), _number(_tflm(row))]
    cells.append(["**network**", "", "", *work, "100.0", ""])
    return cells


def _stack_cells(rows: Sequence[Row]) -> list[list[str]]:
    """Ours, one line per configuration, then the others; the ratio is to the fastest of ours."""
    cells = []
    for row in rows:
        totals, report = row.report.totals, row.report
        sizes = [_count(report.memory.arena_planned_bytes), _count(totals.ram_peak_bytes), _count(totals.flash_bytes)]
        name = f"**rqdkm {report.config}**"
        cells.append([name, _number(totals.cycles_per_mac), report.cycle_model.kind, *sizes, ""])
    fastest = min((row.report.totals.cycles_per_mac or 0.0 for row in rows), default=0.0)
    for stack in rows[0].anchor.stacks if rows[0].anchor else ():
        ratio = f"{stack.cycles_per_mac / fastest:.2f}x" if fastest else ""
        sizes = [_count(stack.arena_bytes), "", _count(stack.flash_bytes)]
        cells.append([stack.name, _number(stack.cycles_per_mac), stack.kind, *sizes, ratio])
    return cells


def _verdicts(row: Row) -> list[tuple[str, bool]]:
    """(sentence, good) per target and for exactness."""
    config = row.report.config
    found = [
        (f"{config}: {target.key} {_plain(target.value)}, target at most {_plain(target.limit)}", target.met)
        for target in row.targets
    ]
    good, text = view.exactness_line(row.report) or (False, "nothing was compared with the reference")
    if row.repeated is not None:
        same = "the same plan and parameters" if row.repeated else "another plan or other parameters"
        found.append((f"{config}: a second search gave {same}", row.repeated))
    return [*found, (f"{config}: {text}", good)]


def _timing(row: Row) -> list[tuple[str, bool]]:
    """What differs from run to run: for the screen only."""
    if row.planning is None:
        return []
    text = f"{row.report.config}: bit-widths searched in {_plain(row.planning.value)} s on this machine"
    return [(f"{text}, target at most {PLANNING_SECONDS}", row.planning.met)]


def _table(cells: list[list[str]], *columns: tuple[str, bool], compact: bool = False) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    shown = [i for i, (name, _) in enumerate(columns) if not (compact and name in ("shape", "scratch"))]
    for index in shown:
        name, right = columns[index]
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name != "layer")
    for line in cells:
        strong = line[0].startswith("**")
        table.add_row(*(Text(line[i].strip("*")) for i in shown), style="bold" if strong else None)
    return table


def _markdown_table(columns: Sequence[tuple[str, bool]], cells: list[list[str]]) -> list[str]:
    lines = ["| " + " | ".join(name for name, _ in columns) + " |"]
    lines.append("|" + "|".join("--:" if right else "---" for _, right in columns) + "|")
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in cells]
    return lines


def _tflm(row: Row) -> float | None:
    stacks = row.anchor.stacks if row.anchor else ()
    return next((s.cycles_per_mac for s in stacks if s.name == "TFLM + CMSIS-NN"), None)


def _prefixed(name: str, progress: Callable[[str], None]) -> Callable[[str], None]:
    return lambda text: progress(f"{name}, {text}")


def _plain(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.0f}" if value >= 1000 else f"{value:.3f}"


def _number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def _count(value: int | None) -> str:
    return "" if value is None else f"{value:,}"
