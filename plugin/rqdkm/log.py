"""What the user sees on stderr: log lines and the progress of long steps. stdout belongs to results."""

from __future__ import annotations

import logging
import sys
import time
from types import TracebackType

from rich.console import Console
from rich.status import Status
from rich.text import Text

_LEVELS = {-1: logging.ERROR, 0: logging.WARNING, 1: logging.INFO, 2: logging.DEBUG}
_SHOWN_AFTER_S = 0.3  # steps quicker than this leave no line behind on a terminal
_REPEAT_AFTER_S = 10.0  # and a plain log repeats the detail of a long step no more often than this

verbosity = 0  # of this process: -1 quiet, 0 normal, 1 verbose, 2 debug


def configure(level: int) -> None:
    """Set the verbosity of this process, -1 (quiet) to 2 (debug), and send log lines to stderr."""
    global verbosity
    verbosity = max(-1, min(2, level))
    root = logging.getLogger()
    for handler in list(root.handlers):
        if getattr(handler, "rqdkm", False):
            root.removeHandler(handler)
    handler = logging.StreamHandler(sys.stderr)
    handler.rqdkm = True  # type: ignore[attr-defined]
    handler.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.WARNING if verbosity >= 0 else logging.ERROR)
    for name in ("rqdkm", "rqdkm_tvm"):
        logging.getLogger(name).setLevel(_LEVELS[verbosity])


class Progress:
    """``progress("build: kernels 3 of 20")``: one line per step, the text before the colon being the step.

    On a terminal a spinner shows the current text, and a finished step stays as one line with its time. Elsewhere
    each step is a plain line, and its detail is repeated only every ten seconds. Silent when quiet.
    """

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        self._silent = verbosity < 0
        self._status: Status | None = None
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
            if self._status is None:
                self._status = self._console.status(Text(text))
                self._status.start()
            else:
                self._status.update(Text(text))
        elif fresh or time.monotonic() - self._spoke > _REPEAT_AFTER_S:
            self._console.print(Text(f"rqdkm: {text}"), soft_wrap=True)
            self._spoke = time.monotonic()

    def _finish(self, *, failed: bool) -> None:
        """End the current step; its line stays if it took long enough to notice."""
        if self._status is not None:
            self._status.stop()
            self._status = None
            seconds = time.monotonic() - self._began
            if not failed and seconds >= _SHOWN_AFTER_S:
                line = Text.assemble(("✓ ", "green"), self._step, (f"  {seconds:.1f} s", "dim"))
                self._console.print(line)
        self._step = ""
