"""The page of cuts, from reports that are made up."""

from __future__ import annotations

from dataclasses import replace

from rqdkm.experiment.cuts import WAYS, WHOLE, Row, markdown, table
from tests.report.factory import patched_report, report


def test_each_row_says_what_was_asked_and_what_it_cost() -> None:
    made = patched_report()
    section = made.patches
    assert section is not None
    made = replace(
        made, patches=replace(section, macs=1000, computed_macs=1500), totals=replace(made.totals, macs=4000)
    )
    rows = [
        Row(WHOLE, None, report()),
        Row(WAYS[1], 24 * 1024, made),
        Row(WAYS[2], 24 * 1024, None, "the model needs at least 30,000 bytes"),
    ]
    head, rule, whole, cut, failed = table(rows).splitlines()
    assert all(line.count("|") == head.count("|") for line in (rule, whole, cut, failed))
    assert whole.startswith("| layer by layer |  | | | | |")
    assert "| 24 | 3x2, down | computed again | 50.0% | 12.5% |" in cut
    assert "| 24 | the model needs at least 30,000 bytes |" in failed
    page = markdown("person", rows, "rqdkm experiment cuts")
    assert "its 3,072 bytes" in page and "400 output bytes compared" in page and "0 different" in page
