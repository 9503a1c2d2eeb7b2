"""The table and the page say what report.json says, and the page needs nothing from anywhere else."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest

from rqdkm.board.describe import STM32F407
from rqdkm.report import charts, html, picture, table, view
from rqdkm.report.schema import Function, Report
from tests.report.factory import report


def _hostile() -> Report:
    """A report whose names would break out of HTML, rich markup or XML if anything forgot to escape them."""
    base = report()
    name = '<script>alert("x")</script> [bold]&'
    layers = (replace(base.layers[0], name=name), *base.layers[1:])
    timeline = (replace(base.memory.timeline[0], layer=name), *base.memory.timeline[1:])
    return replace(
        base, model=replace(base.model, name=name), layers=layers, memory=replace(base.memory, timeline=timeline)
    )


def test_the_table_shows_totals_layers_and_memory() -> None:
    text = table.to_text(report(), details=True)
    for wanted in (
        "synthetic  STM32F407VG at 168 MHz, virtual board, config baseline",
        "cycles modelled: flash model f407, 5 wait states",
        "every output byte equal: 20 samples, 200 output bytes, against tflite-micro reference kernels",
        "top1 87.50 % (95 % interval 82.20 % to 91.39 %, n = 200)",
        "peak in block1_b: 49,152 live + 4,608 scratch",
        "rqdkm_conv2d_s8_direct",
        "no kernel of ours <yet> & co",
        "note: synthetic figures, for tests",
    ):
        assert wanted in text
    row = next(line.split() for line in text.splitlines() if line.startswith(" block1_a "))
    wanted_row = "block1_a conv2d_s8_direct 32x32x16 → 32x32x16 2,359,296 2,790,000 1.18 40.5 ████████████ 4,608"
    assert " ".join(row) == wanted_row
    network = next(line.split() for line in text.splitlines() if line.startswith(" network"))
    assert network == ["network", "5,329,216", "6,893,000", "1.29", "100.0"]


def test_a_narrow_terminal_gets_a_narrow_table() -> None:
    lines = table.to_text(report(), width=80).splitlines()
    assert max(map(len, lines)) <= 80
    assert any("2,790,000" in line and "block1_a" in line for line in lines)


def test_long_names_are_folded_and_nothing_is_cut_off() -> None:
    base = report()
    name = "model/block_13/separable_conv2d_12/depthwise;model/block_13/batch_normalization_40/FusedBatchNormV3"
    long = replace(base.layers[1], name=name, kernel="depthwise_conv2d_s8_strip")
    text = table.to_text(replace(base, layers=(base.layers[0], long, *base.layers[2:])), width=140)
    assert "…" not in text
    row = next(line for line in text.splitlines() if "depthwise_conv2d_s8_strip" in line)
    assert row.split()[-1] == "4,608"


def test_what_runs_in_tvms_code_names_its_operator() -> None:
    base = report()
    fallback = replace(base.layers[0], kernel="tvm", op="transpose")
    assert "tvm: transpose" in table.to_text(replace(base, layers=(fallback, *base.layers[1:])))


def test_estimates_are_called_estimates_and_modelled_cycles_modelled() -> None:
    how = {fact.label: fact.how for fact in view.facts(report())}
    assert how["Latency"] == "modelled"
    assert how["Energy"] == "estimated"
    detail = next(fact.detail for fact in view.facts(report()) if fact.label == "Energy")
    assert STM32F407.source.startswith(detail.rpartition("by ")[2] + ",") and STM32F407.source in html.render(report())
    assert how["Peak RAM"] == "measured"
    unpainted = report(memory=replace(report().memory, stack_bytes=None))
    assert {fact.label: fact.how for fact in view.facts(unpainted)}["Peak RAM"] == "planned"


def test_mismatches_are_shown_as_such() -> None:
    exact = report().exactness
    assert exact is not None
    wrong = report(exactness=replace(exact, mismatches=3, max_difference=2))
    for text in (table.to_text(wrong), html.render(wrong), picture.render(wrong)):
        assert "3 output bytes differ (by up to 2)" in text
        assert "every output byte equal" not in text


def test_without_cycles_no_cycle_figure_is_shown() -> None:
    base = report()
    uncounted = replace(
        base,
        cycle_model=replace(base.cycle_model, kind="none"),
        totals=replace(base.totals, cycles=None, cycles_per_mac=None, latency_ms=None, fps=None, energy_mj=None),
        layers=tuple(replace(layer, cycles=None) for layer in base.layers),
    )
    for text in (table.to_text(uncounted), html.render(uncounted), picture.render(uncounted)):
        assert "cyc/MAC" not in text and "cycles/MAC" not in text
        assert "cycles not counted on this board" in text


class _Links(HTMLParser):
    """Collects everything a browser would fetch, and checks that tags nest."""

    void = frozenset({"meta", "br", "link", "img", "rect", "line", "input", "hr"})

    def __init__(self) -> None:
        super().__init__()
        self.fetched: list[str] = []
        self.tags: list[str] = []
        self.open: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.fetched += [f"{tag} {name}" for name, _ in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in self.void:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.void:
            assert self.open.pop() == tag


@pytest.mark.parametrize("made", [report(), _hostile()])
def test_the_page_is_self_contained_small_and_well_formed(made: Report) -> None:
    page = html.render(made)
    links = _Links()
    links.feed(page)
    assert links.open == []
    assert links.fetched == []
    assert "link" not in links.tags and "iframe" not in links.tags
    assert links.tags.count("script") == 1
    assert not re.search(r"url\(|@import|https?://|fetch\(|XMLHttpRequest", page)
    assert len(page.encode()) < 500_000


def test_the_page_shows_every_layer_function_operator_and_flash_part() -> None:
    page, made = html.render(report()), report()
    for layer in made.layers:
        assert layer.name in page and f"{layer.cycles:,}" in page
    for function in made.functions:
        assert function.name in page and f"{function.cycles:,}" in page
    for wanted in ("27,392", "7,984", "2,300", "no kernel of ours &lt;yet&gt; &amp; co", "modelled", "estimated"):
        assert wanted in page


def test_small_functions_are_summed_up() -> None:
    base = report()
    small = tuple(Function(name=f"tiny_{i}", cycles=100) for i in range(9))
    long = replace(base, functions=(*base.functions, *small))
    for text in (html.render(long), table.to_text(long, details=True)):
        assert "tiny_" not in text and "9 more below 0.1 %" in text and "900" in text


def test_names_cannot_break_out() -> None:
    page = html.render(_hostile())
    assert 'alert("x")' not in page
    assert "[bold]&" in table.to_text(_hostile()).replace("\n", "")
    ElementTree.fromstring(picture.render(_hostile()))
    ElementTree.fromstring(charts.memory_timeline(_hostile()))


def test_the_timeline_draws_bytes_to_scale() -> None:
    root = ElementTree.fromstring(charts.memory_timeline(report()))
    heights = [float(rect.attrib["height"]) for rect in root.iter("rect") if rect.attrib["class"] == "live"]
    live = [step.live_bytes for step in report().memory.timeline]
    scale = heights[2] / live[2]
    assert heights == pytest.approx([count * scale for count in live], abs=0.02)


def test_a_report_without_timeline_has_no_chart() -> None:
    assert charts.memory_timeline(report(memory=replace(report().memory, timeline=()))) == ""


def test_the_picture_is_one_svg_without_fetches(tmp_path: Path) -> None:
    picture.write(report(), tmp_path / "net.svg")
    text = (tmp_path / "net.svg").read_text()
    root = ElementTree.fromstring(text)
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "href" not in text and "url(" not in text
    assert "block1_a" in text and "40.5 %" in text


def test_the_picture_keeps_the_most_expensive_layers() -> None:
    base = report()
    many = tuple(replace(base.layers[0], name=f"layer{i}", cycles=1000 + i) for i in range(40))
    text = picture.render(replace(base, layers=many))
    assert "layer39" in text and "layer24" in text and "layer23<" not in text
    assert "the 16 largest of 40 layers" in text


@pytest.mark.parametrize(("count", "text"), [(0, "0"), (999, "999"), (1500, "1.50 k"), (12_500_000, "12.5 M")])
def test_counts_get_decimal_prefixes(count: int, text: str) -> None:
    assert view.si(count) == text
