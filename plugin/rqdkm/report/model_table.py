"""``rqdkm inspect`` on the terminal: a model before anything is built."""

from __future__ import annotations

import dataclasses
import json

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rqdkm.models.summary import ModelSummary, TensorSummary
from rqdkm.report import view

SCHEMA = "rqdkm.model/1"

_RUNS_ON = {
    "kernel": Text("kernel", style="green"),
    "tvm": Text("TVM's C", style="yellow"),
    "unsupported": Text("unsupported", style="bold red"),
}


def to_json(summary: ModelSummary) -> str:
    """The summary as JSON, its fields as :class:`rqdkm.models.summary.ModelSummary` documents them."""
    return json.dumps({"schema": SCHEMA, **dataclasses.asdict(summary)}, indent=1, ensure_ascii=False) + "\n"


def render(summary: ModelSummary, *, width: int = 140) -> RenderableType:
    """Headline, inputs and outputs, layers with weights and RAM in bytes; below ``width`` 120 in fewer columns."""
    kind = "int8" if summary.is_quantized else "float: pass --calib to deploy it, counted here as the int8 it becomes"
    title = Text.assemble((summary.name, "bold"), f"  {summary.format}, {summary.file_bytes:,} bytes, {kind}")
    return Group(title, _facts(summary), Text(), _layer_table(summary, compact=width < 120), *_warnings(summary))


def _facts(summary: ModelSummary) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    for label, tensors in (("input", summary.inputs), ("output", summary.outputs)):
        for tensor in tensors:
            table.add_row(label, Text(_tensor_text(tensor)))
    table.add_row("MACs", f"{summary.macs:,}")
    weights = f"{summary.weights_bytes:,} bytes of flash for {summary.parameters:,} weights and biases"
    weighted = [layer for layer in summary.layers if layer.bits_weight is not None]
    if summary.is_quantized:
        channels = sum(layer.per_channel for layer in weighted)
        weights += f", scales per channel in {channels} of {len(weighted)} layers with weights"
    table.add_row("weights", weights)
    ram = f"{summary.ram_peak_bytes:,} bytes of feature maps operator by operator, in {summary.peak_layer}"
    table.add_row("RAM", Text(f"{ram} (fused, in-place and patched layers take less; scratch and stack come on top)"))
    return table


def _layer_table(summary: ModelSummary, *, compact: bool) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, collapse_padding=compact)
    table.add_column("layer", min_width=14, overflow="fold")
    table.add_column("operator", no_wrap=True)
    if not compact:
        table.add_column("", no_wrap=True)
    table.add_column("output" if compact else "shape", no_wrap=True)
    for name in ("MACs", "weights", "RAM") if compact else ("MACs", "weights", "bits", "RAM"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("runs in", no_wrap=True)
    for layer in summary.layers:
        cells = [Text(layer.name), Text(layer.op.lower().removesuffix("_2d"))]
        if not compact:
            cells.append(Text(layer.detail, style="dim"))
        shape = view.arrow([], layer.output) if compact else view.arrow([*dict.fromkeys(layer.inputs)], layer.output)
        cells += [Text(shape.lstrip(" →")), _number(layer.macs), _number(layer.weights_bytes)]
        if not compact:
            cells.append(Text(f"{layer.bits_weight or '-'}/{layer.bits_activation}"))
        cells += [Text(f"{layer.ram_bytes:,}"), _RUNS_ON[layer.runs_on]]
        table.add_row(*cells, style="bold" if layer.name == summary.peak_layer else None)
    return table


def _warnings(summary: ModelSummary) -> list[Text]:
    unsupported = sorted({layer.op for layer in summary.layers if layer.runs_on == "unsupported"})
    if not unsupported:
        return []
    return [Text(f"cannot be deployed: {', '.join(unsupported)} not supported", style="bold red")]


def _tensor_text(tensor: TensorSummary) -> str:
    text = f"{tensor.name}: {tensor.dtype} {'x'.join(map(str, tensor.shape))}"
    if tensor.scale is None:
        return text
    return f"{text}, real = {tensor.scale:.6g} * (q - {tensor.zero_point})".replace("- -", "+ ")


def _number(value: int) -> Text:
    return Text(f"{value:,}" if value else "-")
