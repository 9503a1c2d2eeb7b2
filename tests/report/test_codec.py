"""report.json survives a round trip, and refuses whatever is damaged, misspelt or inconsistent."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from rqdkm.report import codec, document
from rqdkm.report.derive import totals
from rqdkm.report.errors import ReportError
from rqdkm.report.schema import CycleModel, Layer
from tests.report.factory import CLOCK_HZ, report


def test_a_report_survives_writing_and_reading(tmp_path: Path) -> None:
    codec.write(report(), tmp_path / "report.json")
    assert codec.read(tmp_path / "report.json") == report()
    assert codec.read(tmp_path) == report()


def test_the_same_report_gives_the_same_bytes() -> None:
    assert codec.to_json(report()) == codec.to_json(report())


def test_a_report_without_optional_parts_survives_too() -> None:
    bare = _without_cycles()
    assert codec.from_json(codec.to_json(bare)) == bare


def test_keys_that_other_tools_rely_on_are_there() -> None:
    data = json.loads(codec.to_json(report()))
    assert data["schema"] == "rqdkm.report/1"
    assert {"name", "clock_hz"} <= set(data["board"])
    assert set(data["totals"]) == {
        "macs", "bitops", "cycles", "cycles_per_mac", "latency_ms", "fps", "ram_peak_bytes", "ram_planned_bytes",
        "flash_bytes", "weights_bytes", "energy_mj", "power_mw",
    }  # fmt: skip
    assert {"metric", "value", "n", "ci95", "reference"} <= set(data["accuracy"])
    assert {"reference", "samples", "mismatches"} <= set(data["exactness"])
    wanted = {"name", "op", "kernel", "bits_weight", "bits_activation", "macs", "cycles", "scratch_bytes"}
    assert wanted <= set(data["layers"][0])


def _set(*path: Any) -> Callable[[dict[str, Any]], None]:
    """A change that sets the value at ``path[:-1]`` to ``path[-1]``."""

    def change(data: Any) -> None:
        for step in path[:-2]:
            data = data[step]
        data[path[-2]] = path[-1]

    return change


def _drop(*path: Any) -> Callable[[dict[str, Any]], None]:
    def change(data: Any) -> None:
        for step in path[:-1]:
            data = data[step]
        del data[path[-1]]

    return change


_TAMPERED = {
    "another schema": (_set("schema", "rqdkm.report/2"), "rqdkm.report/2"),
    "no schema": (_drop("schema"), "schema"),
    "missing key": (_drop("totals", "macs"), "totals.macs"),
    "missing object": (_drop("memory"), "memory"),
    "unknown key": (_set("totals", "speed", 1), "totals.speed"),
    "unknown key of a layer": (_set("layers", 0, "cylces", 1), "layers[0].cylces"),
    "text for a number": (_set("layers", 2, "macs", "many"), "layers[2].macs"),
    "fraction for an integer": (_set("totals", "macs", 5329216.5), "totals.macs"),
    "boolean for an integer": (_set("exactness", "mismatches", False), "exactness.mismatches"),
    "null for a number": (_set("totals", "macs", None), "totals.macs"),
    "list for an object": (_set("board", []), "board"),
    "object for a list": (_set("layers", {}), "layers"),
    "negative bytes": (_set("flash", "code_bytes", -1), "flash.code_bytes"),
    "zero samples": (_set("exactness", "samples", 0), "exactness.samples"),
    "interval of three": (_set("accuracy", "ci95", [0.1, 0.2, 0.3]), "accuracy.ci95"),
    "unknown kind of cycles": (_set("cycle_model", "kind", "guessed"), "cycle_model.kind"),
    "faster than its cycles": (_set("totals", "latency_ms", 1.0), "totals.latency_ms"),
    "fps that do not follow": (_set("totals", "fps", 100.0), "totals.fps"),
    "better cycles per MAC": (_set("totals", "cycles_per_mac", 0.5), "totals.cycles_per_mac"),
    "fewer cycles": (_set("totals", "cycles", 1000), "totals"),
    "less RAM": (_set("totals", "ram_peak_bytes", 1000), "totals.ram_peak_bytes"),
    "less planned RAM": (_set("totals", "ram_planned_bytes", 1000), "totals.ram_planned_bytes"),
    "less flash": (_set("totals", "flash_bytes", 1000), "totals.flash_bytes"),
    "lighter weights": (_set("totals", "weights_bytes", 10), "totals.weights_bytes"),
    "less energy": (_set("totals", "energy_mj", 0.1), "totals.energy_mj"),
    "MACs of one layer": (_set("layers", 1, "macs", 1), "totals.macs"),
    "bits of one layer": (_set("layers", 1, "bits_weight", 4), "totals.bitops"),
    "cycles of one layer": (_set("layers", 1, "cycles", 10**9), "layers"),
    "two layers of one name": (_set("layers", 1, "name", "conv_in"), "layers"),
    "timeline of another layer": (_set("memory", "timeline", 0, "layer", "other"), "memory.timeline"),
    "value outside its interval": (_set("accuracy", "value", 0.95), "accuracy.ci95"),
    "accuracy above one": (_set("accuracy", "ci95", [0.8, 1.2]), "accuracy.ci95"),
    "more mismatches than bytes": (_set("exactness", "mismatches", 201), "exactness.mismatches"),
    "fuller than full": (_set("memory", "pools", 0, "used_bytes", 200000), "memory.pools"),
    "cycles nobody counted": (_set("cycle_model", "kind", "none"), "totals.cycles"),
}


@pytest.mark.parametrize("name", _TAMPERED)
def test_a_tampered_report_is_refused_naming_the_key(name: str) -> None:
    change, where = _TAMPERED[name]
    data = json.loads(codec.to_json(report()))
    change(data)
    with pytest.raises(ReportError) as caught:
        codec.from_json(json.dumps(data), "some.json")
    assert "some.json" in str(caught.value)
    assert where in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '"report"', "{}", "[" * 100000, '{"schema": NaN}'])
def test_what_is_no_report_is_refused(text: str) -> None:
    with pytest.raises(ReportError):
        codec.from_json(text)


def test_infinite_and_undefined_figures_are_refused() -> None:
    for bad in ("NaN", "Infinity", "1e999"):
        text = codec.to_json(report()).replace('"latency_ms": ', f'"latency_ms": {bad}, "was": ', 1)
        with pytest.raises(ReportError):
            codec.from_json(text)


def test_a_file_that_is_not_there_or_not_text_is_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(ReportError, match="cannot read"):
        codec.read(tmp_path / "none.json")
    (tmp_path / "report.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReportError, match="not a text file"):
        codec.read(tmp_path)


def test_an_inconsistent_report_is_not_written(tmp_path: Path) -> None:
    wrong = replace(report(), totals=replace(report().totals, fps=1.0))
    with pytest.raises(ReportError, match="totals"):
        codec.write(wrong, tmp_path / "report.json")
    assert not list(tmp_path.iterdir())


def test_volatile_facts_may_hold_anything() -> None:
    volatile = report(run={"host": {"cores": 2, "name": None}, "files": ["a", "b"]})
    assert codec.from_json(codec.to_json(volatile)) == volatile


def test_the_published_json_schema_accepts_reports_and_refuses_bad_types() -> None:
    schema = document.json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    for good in (report(), _without_cycles()):
        validator.validate(json.loads(codec.to_json(good)))
    for name in ("another schema", "no schema", "missing key", "unknown key", "text for a number", "negative bytes"):
        data = json.loads(codec.to_json(report()))
        _TAMPERED[name][0](data)
        assert not validator.is_valid(data), name


def _without_cycles() -> Any:
    base = report()
    layers = tuple(replace(layer, cycles=None) for layer in base.layers)
    memory = replace(base.memory, arena_measured_bytes=None, stack_bytes=None)
    return report(
        cycle_model=CycleModel(kind="none", name="none"),
        layers=layers,
        memory=memory,
        totals=totals(layers=layers, cycles=None, clock_hz=CLOCK_HZ, memory=memory, flash=base.flash),
        accuracy=None,
        exactness=None,
        functions=(),
    )


def test_layers_without_work_are_fine() -> None:
    layer = Layer(
        name="reshape", op="reshape", kernel="copy", bits_weight=0, bits_activation=8, macs=0, cycles=0,
        scratch_bytes=0,
    )  # fmt: skip
    base = report()
    memory = replace(base.memory, timeline=())
    derived = totals(layers=[layer], cycles=0, clock_hz=CLOCK_HZ, memory=memory, flash=base.flash)
    idle = report(layers=(layer,), memory=memory, totals=derived)
    assert derived.cycles_per_mac is None and derived.fps is None
    assert codec.from_json(codec.to_json(idle)) == idle
