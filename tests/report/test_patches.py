"""The report's section on a patch stage: what the page, its pictures and the table say of it, and what is refused."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from rqdkm.report import codec, compare, document, html, patch_charts, patch_view, table
from rqdkm.report.errors import ReportError
from rqdkm.report.schema import Patches, Report
from tests.report.factory import patched_report, report


def _section(made: Report) -> Patches:
    assert made.patches is not None
    return made.patches


# ---- reading and writing


def test_the_section_survives_writing_and_reading_and_fits_the_schema() -> None:
    made = patched_report()
    text = codec.to_json(made)
    assert codec.from_json(text) == made
    jsonschema.validate(json.loads(text), document.json_schema())


def _change(key: str, value: Any) -> Callable[[dict[str, Any]], None]:
    return lambda section: section.__setitem__(key, value)


REFUSED = {
    "an assignment of another grid": (_change("assignment", [[0, 1], [2, 1]]), "patches.assignment"),
    "no assignment": (_change("assignment", []), "patches.assignment"),
    "a ragged assignment": (_change("assignment", [[0, 1], [2], [1, 0]]), "patches.assignment"),
    "a branch that is not there": (_change("assignment", [[0, 1], [3, 1], [1, 0]]), "branch that is not there: 3"),
    "other counts of patches": (_change("assignment", [[0, 1], [1, 1], [1, 0]]), "patches.branches[1].patches"),
    "shares of another grid": (_change("outlier_share", [[0.5]]), "patches.outlier_share"),
    "a share above one": (_change("outlier_share", [[0.5, 0.1], [0.0, 1.5], [0.0, 0.0]]), "patches.outlier_share"),
    "bits of a layer outside": (lambda s: s["branches"][1]["bits"].__setitem__("softmax", 4), "branches[1].bits"),
    "bits of too few layers": (lambda s: s["branches"][2]["layer_bits"].pop(), "branches[2].layer_bits"),
    "an unknown key": (_change("colour", "red"), "patches.colour"),
    "negative bytes": (_change("kept_bytes", -1), "patches.kept_bytes"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_section_that_contradicts_itself_is_refused(name: str) -> None:
    change, where = REFUSED[name]
    data = json.loads(codec.to_json(patched_report()))
    change(data["patches"])
    with pytest.raises(ReportError, match=re.escape(where)):
        codec.from_json(json.dumps(data))


# ---- in words

LINES = {
    "static": (
        {},
        "3x2 up to down, halo recompute, 25.0 % of MACs computed again, input by callback; "
        "VDPC static: 2 of 6 patches keep 8 bits, others 2 to 8",
    ),
    "rows kept, frame in memory": (
        {"halo": "lines", "input": "frame", "vdpc": "off"},
        "3x2 up to down, halo lines, 25.0 % of MACs computed again, input in memory",
    ),
    "dynamic": (
        {"vdpc": "dynamic", "input": "frame", "thresholds": (-90, 113, 40)},
        "VDPC dynamic: outlier patches (16.0 % of the calibration's) keep 8 bits, others 2 to 8",
    ),
    "no lambda allowed": (
        {"weight": None, "one": True},
        "VDPC static: no lambda keeps the loss allowed, all 6 patches keep 8 bits",
    ),
    "every position an outlier": (
        {"weight": None, "trials": (), "one": True},
        "VDPC static: every position is of the outlier class, all 6 patches keep 8 bits",
    ),
    "every patch searched": (
        {"vdpc": "all", "outlier_limit": None},
        "input by callback; every patch is searched: 2 of 6 patches keep 8 bits, others 2 to 8",
    ),
    "nothing found": ({"one": True}, "VDPC static: the search changes nothing, all 6 patches keep 8 bits"),
}


def _made(changes: dict[str, Any]) -> Report:
    """``one``: all patches take branch 0, and there is no other."""
    given = dict(changes)
    if given.pop("one", False):
        first = replace(_section(patched_report()).branches[0], patches=6)
        given |= {"branches": (first,), "assignment": ((0, 0), (0, 0), (0, 0))}
    return patched_report(**given)


@pytest.mark.parametrize("name", LINES)
def test_the_stage_is_one_line_of_the_summary(name: str) -> None:
    changes, wanted = LINES[name]
    made = _made(changes)
    codec.from_json(codec.to_json(made))
    line = patch_view.line(made)
    assert line is not None and wanted in line
    words = " ".join(table.to_text(made, width=240).split())
    assert f"Patches {line}" in words


def test_without_a_stage_there_is_no_such_line_and_no_section() -> None:
    assert patch_view.line(report()) is None
    assert "Patches" not in table.to_text(report())
    assert 'id="patches"' not in html.render(report())
    assert patch_charts.memory_before_after(report()) == patch_charts.patch_map(report()) == ""


def test_reports_side_by_side_show_how_each_is_cut() -> None:
    def text(*reports: Report) -> str:
        console = Console(width=200)
        with console.capture() as capture:
            console.print(compare.render(reports))
        return capture.get()

    row = next(line for line in text(report(), patched_report()).splitlines() if line.lstrip().startswith("patches"))
    assert row.split() == ["patches", "-", "3x2,", "recompute,", "VDPC", "static"]
    assert "patches" not in text(report(), report())


def test_peaks_leave_the_input_out_where_the_application_hands_it_over() -> None:
    """conv_in: 19,456 bytes live, 3,072 of them the input; the peak is block1_b's, unless the input is large."""
    before, after = patch_view.peaks(patched_report())
    assert (before, after) == (patch_view.Peak(53_760, "block1_b"), patch_view.Peak(13_096, "patch_stage"))
    large = {"timeline_before": (replace(report().memory.timeline[0], live_bytes=60_000),), "frame_bytes": 50_000}
    assert patch_view.peaks(patched_report(**large))[0] == patch_view.Peak(12_304, "conv_in")
    assert patch_view.peaks(patched_report(**large, input="frame"))[0] == patch_view.Peak(62_304, "conv_in")


# ---- the picture of the arena

Rect = tuple[str, float, float, float, float]


def _panels(made: Report) -> tuple[list[list[list[Rect]]], ElementTree.Element]:
    """By panel and column: (class, x, y, width, height) of what is drawn."""
    root = ElementTree.fromstring(patch_charts.memory_before_after(made))
    panels = []
    for panel in root.findall("g"):
        columns = []
        for group in panel.findall("g"):
            found = [r.attrib for r in group.findall("rect") if r.attrib["class"] != "hit"]
            columns.append(
                [(a["class"], *(float(a[k]) for k in ("x", "y", "width", "height"))) for a in found]  # type: ignore[misc]
            )
        panels.append(columns)
    return panels, root


def test_both_timelines_are_drawn_to_one_scale_and_the_input_apart() -> None:
    made = patched_report()
    section = _section(made)
    panels, _ = _panels(made)
    scale = panels[0][2][0][4] / section.timeline_before[2].live_bytes
    for panel, steps, frames in zip(panels, (section.timeline_before, made.memory.timeline), ([3072], []), strict=True):
        assert len(panel) == len(steps)
        for index, (drawn, step) in enumerate(zip(panel, steps, strict=True)):
            frame = frames[index] if index < len(frames) else 0
            wanted = {"live": step.live_bytes - frame, "scratch": step.scratch_bytes, "frame": frame}
            heights = {name: height for name, _, _, _, height in drawn}
            assert heights == pytest.approx({k: v * scale for k, v in wanted.items() if v}, abs=0.02)
            bottoms = [y + height for _, _, y, _, height in drawn]
            assert bottoms[1:] == pytest.approx([y for _, _, y, _, _ in drawn[:-1]], abs=0.02)  # one on the other


def test_with_the_frame_in_memory_nothing_stands_apart() -> None:
    panels, _ = _panels(patched_report(input="frame"))
    assert not [rect for panel in panels for column in panel for rect in column if rect[0] == "frame"]


def test_the_stage_is_as_wide_as_the_layers_it_replaces() -> None:
    (before, after), _ = _panels(patched_report())
    left, right = before[0][0], before[4][0]
    assert after[0][0][1] == pytest.approx(left[1], abs=2)
    assert after[0][0][1] + after[0][0][3] == pytest.approx(right[1] + right[3], abs=2)
    assert [column[0][1] for column in after[1:]] == pytest.approx([column[0][1] for column in before[5:]], abs=2)


def test_peak_lines_lie_at_the_numbers_beside_them() -> None:
    panels, root = _panels(patched_report())
    scale = panels[0][2][0][4] / 49_152
    texts = [t.text or "" for t in root.iter("text") if t.attrib["class"] == "peak"]
    assert texts == [
        "peak without the input 53,760 B (52.5 KiB) in block1_b",
        "peak without the input 13,096 B (12.8 KiB) in patch_stage",
    ]
    lines = [float(x.attrib["y1"]) for x in root.iter("line") if x.attrib["class"] == "planned"]
    bases = [max(y + height for column in panel for _, _, y, _, height in column) for panel in panels]
    assert [b - y for b, y in zip(bases, lines, strict=True)] == pytest.approx(
        [53_760 * scale, 13_096 * scale], abs=0.1
    )


# ---- the map


def _patches(made: Report) -> dict[tuple[int, int], ElementTree.Element]:
    root = ElementTree.fromstring(patch_charts.patch_map(made))
    return {(int(g.attrib["data-row"]), int(g.attrib["data-column"])): g for g in root.findall("g")}


def _box(group: ElementTree.Element) -> tuple[float, float, float, float]:
    a = next(r.attrib for r in group.iter("rect") if r.attrib["class"] != "share")
    x, y, w, h = (float(a[k]) for k in ("x", "y", "width", "height"))
    return x, y, w, h


def _words(group: ElementTree.Element) -> str:
    return " ".join(t.text or "" for t in group.iter("text"))


def test_the_map_shows_class_branch_bits_and_share_of_every_patch() -> None:
    found = _patches(patched_report())
    assert set(found) == {(r, c) for r in range(3) for c in range(2)}
    expected = {
        (0, 0): ("outlier", "▲ 0", "8 bits", "50 %"),
        (0, 1): ("searched", "▼ 1", "2 to 8 bits", "10 %"),
        (1, 0): ("searched", "▼ 2", "4 to 8 bits", "0 %"),
        (2, 1): ("plain", "■ 0", "8 bits", "11 %"),  # below the limit: searched, and left as it was
    }
    for position, (name, *words) in expected.items():
        group = found[position]
        assert group.attrib["class"] == f"patch {name}"
        assert all(word in _words(group) for word in words), _words(group)
        assert next(r.attrib["class"] for r in group.iter("rect")) == name
    tip = found[0, 1].findtext("title") or ""
    assert "conv_in: 4 bits" in tip and "block1_a: 2 bits" in tip and "rows 0 to 4, columns 8 to 15" in tip


def test_patches_are_as_large_as_their_part_of_the_result() -> None:
    """16 rows in three: 5, 5, 6; 16 columns in two."""
    found = _patches(patched_report())
    heights = [_box(found[row, 0])[3] + 2 for row in range(3)]
    assert [h / heights[0] for h in heights] == pytest.approx([1, 1, 6 / 5], abs=0.01)
    assert _box(found[0, 0])[2] == pytest.approx(_box(found[0, 1])[2])
    assert _box(found[0, 1])[0] > _box(found[0, 0])[0] and _box(found[1, 0])[1] > _box(found[0, 0])[1]


def test_bars_are_as_long_as_the_share_of_outliers() -> None:
    found = _patches(patched_report())

    def bar(position: tuple[int, int]) -> float | None:
        return next(
            (float(r.attrib["width"]) for r in found[position].iter("rect") if r.attrib["class"] == "share"), None
        )

    longest = bar((0, 0))
    assert longest is not None
    assert bar((0, 1)) == pytest.approx(longest / 5, abs=0.1)
    assert bar((1, 0)) is None
    unknown = _patches(patched_report(outlier_share=()))
    assert not [r for g in unknown.values() for r in g.iter("rect") if r.attrib["class"] == "share"]
    assert all("%" not in _words(group) for group in unknown.values())


def test_what_the_chip_decides_is_a_class_of_its_own() -> None:
    made = patched_report(vdpc="dynamic", input="frame", thresholds=(-90, 113, 40), outlier_limit=None)
    assert patch_view.kinds(_section(made)) == ["either", "plain"]
    assert _patches(made)[0, 1].attrib["class"] == "patch either"


def test_many_patches_still_have_their_words_inside() -> None:
    grid = tuple((0,) * 6 for _ in range(16))
    made = patched_report(
        grid=(16, 6),
        assignment=grid,
        outlier_share=(),
        branches=(replace(_section(patched_report()).branches[0], patches=96),),
    )
    for group in _patches(made).values():
        x, y, width, height = _box(group)
        assert width >= 60 and height >= 24
        for text in group.iter("text"):
            assert x < float(text.attrib["x"]) < x + width and y < float(text.attrib["y"]) < y + height


# ---- the page


class _Tables(HTMLParser):
    """Cells of tables that have an id, by row; and terms of lists."""

    def __init__(self) -> None:
        super().__init__()
        self.tables: dict[str, list[list[str]]] = {}
        self._table, self._cell = "", False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "table":
            self._table = dict(attrs).get("id") or ""
            self.tables[self._table] = []
        elif tag == "tr" and self._table:
            self.tables[self._table].append([])
        elif tag in ("td", "th") and self._table:
            self.tables[self._table][-1].append("")
            self._cell = True

    def handle_data(self, data: str) -> None:
        if self._cell:
            self.tables[self._table][-1][-1] += data

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th"):
            self._cell = False
        elif tag == "table":
            self._table = ""


def test_the_page_has_bits_of_every_layer_and_branch_and_every_lambda() -> None:
    page = html.render(patched_report())
    parser = _Tables()
    parser.feed(page)
    assert parser.tables["branches"] == [
        ["layer", "branch 0", "branch 1", "branch 2"],
        ["conv_in", "8", "4", "4"],
        ["block1_a", "8", "2", "8"],
        ["block1_b", "8", "8", "8"],
        ["block1_add", "8", "8", "8"],
        ["down", "8", "8", "8"],
        ["patches", "2", "3", "1"],
    ]
    assert parser.tables["lambdas"][1:] == [
        ["0.2", "3.50x", "+2.00", "+3.00", "no"],
        ["0.4", "2.25x", "+0.00", "+0.40", "taken"],
    ]
    assert 'id="patches"' in page and page.count("<svg") == 3


def test_the_figures_say_what_is_computed_again_of_stage_and_network() -> None:
    made = patched_report(vdpc="dynamic", thresholds=(-90, 113, 40), kept_bytes=1234, halo="lines", input="frame")
    found = dict(patch_view.figures(made))
    stage = 442368 + 2 * 2359296 + 36864
    assert found["MACs computed again"] == (
        f"{stage // 4:,}: 25.0 % of the stage's {stage:,}, "
        f"{100 * (stage // 4) / 5_329_216:.1f} % of the network's 5,329,216"
    )
    assert "1,234 bytes" in found["halo"]
    assert "below -90 or above 113; 40 of them" in found["outliers"]
    assert found["arena at its peak"] == "53,760 bytes before (block1_b), 13,096 after (patch_stage)"
    for name, text in found.items():
        page = html.render(made).replace("&#39;", "'")
        assert f"<dt>{name}</dt><dd>{text}</dd>" in page


def test_names_cannot_break_out_of_the_pictures() -> None:
    hostile = '<script>"x"</script>&'
    base = _section(patched_report())
    made = patched_report(
        last=hostile,
        layers=(*base.layers[:4], hostile),
        timeline_before=(replace(base.timeline_before[0], layer=hostile, live_bytes=90_000), *base.timeline_before[1:]),
    )
    for picture in (patch_charts.patch_map(made), patch_charts.memory_before_after(made)):
        ElementTree.fromstring(picture)
        assert "<script" not in picture
    assert '<script>"x"' not in html.render(made)
