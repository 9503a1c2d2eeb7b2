"""What docs/ says about report.json is what the code does."""

from __future__ import annotations

import json
from pathlib import Path

from rqdkm.report import document

DOCS = Path(__file__).parents[2] / "docs"


def test_the_key_tables_are_up_to_date() -> None:
    page = (DOCS / "report.md").read_text()
    assert document.with_tables(page) == page, "run python -m rqdkm.report.document docs"


def test_the_json_schema_is_up_to_date() -> None:
    written = json.loads((DOCS / "report.schema.json").read_text())
    assert written == document.json_schema(), "run python -m rqdkm.report.document docs"


def test_every_key_is_documented() -> None:
    tables = document.key_tables()
    for name in ("`cycles_per_mac`", "`ram_peak_bytes`", "`mismatches`", "`ci95`", "`scratch_bytes`", "`clock_hz`"):
        assert name in tables
    assert "|  |\n" not in tables  # no empty meaning
