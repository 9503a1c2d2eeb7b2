"""Progress is for people: on stderr, plain where there is no terminal, silent when asked."""

from __future__ import annotations

import logging

import pytest

from rqdkm import log


def test_plain_progress_is_one_line_per_step_and_nothing_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(0)
    with log.Progress() as progress:
        for text in ("import", "run: sample 1 of 3", "run: sample 2 of 3", "run: sample 3 of 3", "report"):
            progress(text)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.splitlines() == ["rqdkm: import", "rqdkm: run: sample 1 of 3", "rqdkm: report"]


def test_a_long_step_repeats_its_detail(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    log.configure(0)
    with log.Progress() as progress:
        for second in range(0, 31, 3):
            now[0] = float(second)
            progress(f"run: second {second}")
    assert capsys.readouterr().err.splitlines() == [f"rqdkm: run: second {s}" for s in (0, 12, 24)]


def test_markup_in_names_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(0)
    with log.Progress() as progress:
        progress("import [bold]model[/bold][0]")
    assert capsys.readouterr().err == "rqdkm: import [bold]model[/bold][0]\n"


def test_quiet_is_quiet(capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(-1)
    with log.Progress() as progress:
        progress("import")
    logging.getLogger("rqdkm.x").warning("careful")
    log.configure(0)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("level", "shown"), [(-1, ["ERROR"]), (0, ["WARNING", "ERROR"]), (1, ["INFO", "WARNING", "ERROR"])]
)
def test_verbosity_chooses_the_messages(level: int, shown: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    log.configure(level)
    logger = logging.getLogger("rqdkm_tvm.passes")
    for name in ("debug", "info", "warning", "error"):
        getattr(logger, name)("text")
    log.configure(0)
    assert [line.split()[0] for line in capsys.readouterr().err.splitlines()] == shown


def test_a_terminal_shows_finished_steps_with_their_time(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [0.0]
    monkeypatch.setattr(log.time, "monotonic", lambda: now[0])
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    log.configure(0)
    with log.Progress() as progress:
        progress("build: kernels")
        now[0] = 2.5
        progress("run")
        now[0] = 2.6
    text = capsys.readouterr().err
    assert "build" in text and "2.5 s" in text
    assert text.count("✓") == 1  # the second step was too quick to keep
