"""Options mean what they say, and nothing that matters can be overwritten by accident."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from rqdkm.cli import app
from rqdkm.options import DeployOptions, OptionError, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("54996", 54996), ("48K", 49152), ("48k", 49152), ("48KB", 49152), ("48KiB", 49152), ("1M", 1 << 20), ("7B", 7)],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "K", "0", "0K", "-1", "1.5M", "1G", "48 K", "1e3", "0x10", "48KK", "٤٨"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match="is not a size") as caught:
        parse_size(text, "--ram")
    assert caught.value.where == "--ram"


@given(st.text(max_size=8))
def test_no_text_breaks_the_size_parser(text: str) -> None:
    with contextlib.suppress(OptionError):
        assert parse_size(text) > 0


@pytest.mark.parametrize(
    ("option", "value", "named"),
    [
        ("calib_method", "kl", "--calib-method"),
        ("board", "nucleo", "--board"),
        ("flash_model", "h7", "--flash-model"),
        ("kernels", "fast", "--kernels"),
        ("config", "rq-morph", "--config"),
        ("samples", 0, "--samples"),
        ("seed", -1, "--seed"),
    ],
)
def test_values_that_do_not_exist_name_the_option_and_what_exists(
    option: str, value: object, named: str, tmp_path: Path
) -> None:
    with pytest.raises(OptionError) as caught:
        DeployOptions(model=tmp_path / "m.tflite", out=tmp_path / "out", **{option: value})  # type: ignore[arg-type]
    assert caught.value.where == named
    assert str(value) in str(caught.value)


def test_classes_of_patches_need_calibration_inputs(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match="calibration inputs") as caught:
        DeployOptions(model=tmp_path / "m.tflite", out=tmp_path / "out", patch="2x2", vdpc="static")
    assert caught.value.where == "--vdpc" and "--calib" in caught.value.hint


@pytest.mark.parametrize("limit", [{"max_drop": 0.5}, {"cycles": 1_000_000}, {"max_drop": 1.0, "cycles": 9}])
def test_limits_of_a_search_are_refused_where_none_is_made(limit: dict[str, float], tmp_path: Path) -> None:
    def options(**more: object) -> DeployOptions:
        return DeployOptions(model=tmp_path / "m.tflite", out=tmp_path / "out", **limit, **more)  # type: ignore[arg-type]

    named = ", ".join(f"--{name.replace('_', '-')}" for name in limit)
    for config in ("int8", "baseline"):
        with pytest.raises(OptionError, match=f"--config {config} makes none") as caught:
            options(config=config)
        assert caught.value.where == named
        assert "add --config rq" in str(caught.value.hint)
    for config in ("int8", "rq"):
        with pytest.raises(OptionError, match="with --plan none is made") as caught:
            options(config=config, plan=tmp_path / "plan.json")
        assert caught.value.where == named
    assert options(config="rq").allowed_drop == limit.get("max_drop", 0.5)


@pytest.mark.parametrize("verb", ["deploy", "build"])
def test_a_limit_without_a_search_is_one_error(verb: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, [verb, "m.tflite", "-o", str(tmp_path / "out"), "--max-drop", "0.5"])
    assert result.exit_code == 2
    assert result.stderr.startswith("error: --max-drop: ")
    assert "add --config rq, or leave it out" in result.stderr


def test_an_output_directory_cannot_swallow_its_inputs_or_the_users_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work = tmp_path / "work"
    (work / "models").mkdir(parents=True)
    monkeypatch.chdir(work)
    model = work / "models" / "m.tflite"
    for out in (Path(), Path(".."), Path("models"), Path("models/../models"), tmp_path, Path.home(), Path("/")):
        with pytest.raises(OptionError, match="would replace"):
            DeployOptions(model=model, out=out)
    with pytest.raises(OptionError, match=r"would replace .*c\.npz"):
        DeployOptions(model=model, out=Path("data"), calib=Path("data/c.npz"))
    DeployOptions(model=model, out=Path("out"))
    DeployOptions(model=model, out=Path("models/out"))
