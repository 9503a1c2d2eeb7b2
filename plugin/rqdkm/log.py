"""What the user sees on stderr: log lines and the progress of long steps. stdout belongs to results."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType
from typing import TextIO

from rich import progress as bars
from rich.console import Console
from rich.markup import escape
from rich.text import Text

_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}
_SHOWN_AFTER_S = 0.3  # steps quicker than this leave no line behind on a terminal
_REPEAT_AFTER_S = 10.0  # and a plain log repeats the detail of a long step no more often than this

verbosity = 0  # of this process: -1 quiet, 0 normal, 1 verbose, 2 debug


class _StderrHandler(logging.StreamHandler[TextIO]):
    """Writes to what ``sys.stderr`` is now: a running spinner replaces it to print lines above itself."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, _: TextIO) -> None:
        pass


def configure(level: int) -> None:
    """Set the verbosity of this process, -1 (quiet) to 2 (debug), and send log lines to stderr."""
    global verbosity
    verbosity = max(-1, min(2, level))
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, _StderrHandler):
            root.removeHandler(handler)
    handler = _StderrHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.WARNING if verbosity >= 0 else logging.ERROR)
    for name in ("rqdkm", "rqdkm_tvm"):
        logging.getLogger(name).setLevel(_LEVELS[verbosity])


class Progress:
    """``progress("build: kernels 3 of 20")``: one line per step, the text before the colon being the step.

    On a terminal a spinner shows the current text and its time, and a finished step stays as one line. Elsewhere each
    step is a plain line, and its detail is repeated only every ten seconds. Silent when quiet.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._silent = verbosity < 0
        self._spinner: bars.Progress | None = None
        self._step = ""
        self._began = self._spoke = time.monotonic()

    def __enter__(self) -> Progress:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._finish(failed=error is not None)

    def __call__(self, text: str) -> None:
        if self._silent:
            return
        step = text.partition(":")[0]
        fresh = step != self._step
        if fresh:
            self._finish(failed=False)
            self._step, self._began = step, time.monotonic()
        if self._console.is_terminal:
            self._spin(text)
        elif fresh or time.monotonic() - self._spoke > _REPEAT_AFTER_S:
            self._console.print(Text(f"rqdkm: {text}"), soft_wrap=True)
            self._spoke = time.monotonic()

    def _spin(self, text: str) -> None:
        if self._spinner is None:
            columns = (bars.SpinnerColumn(), bars.TextColumn("{task.description}"), bars.TimeElapsedColumn())
            self._spinner = bars.Progress(*columns, console=self._console, transient=True)
            self._spinner.add_task(escape(text), total=None)
            self._spinner.start()
        else:
            self._spinner.update(self._spinner.task_ids[0], description=escape(text))

    def _finish(self, *, failed: bool) -> None:
        """End the current step; its line stays if it took long enough to notice."""
        if self._spinner is not None:
            self._spinner.stop()
            self._spinner = None
            seconds = time.monotonic() - self._began
            if not failed and seconds >= _SHOWN_AFTER_S:
                self._console.print(Text.assemble(("✓ ", "green"), self._step, (f"  {seconds:.1f} s", "dim")))
        self._step = ""
