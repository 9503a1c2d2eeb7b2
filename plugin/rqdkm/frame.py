"""How every command ends: one message and an exit code, never a traceback the user did not ask for.

0 done; 1 a check failed, or a bug of ours; 2 something the user can put right (:class:`RqdkmError`, wrong usage);
130 interrupted; 143 terminated.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from types import FrameType
from typing import Any

import typer
import typer.core

from rqdkm import log
from rqdkm_tvm.errors import RqdkmError

_DISK_HINTS = {
    errno.ENOSPC: "free some disk space and run again",
    errno.EDQUOT: "free some of your disk quota and run again",
    errno.EACCES: "check the permissions of that path",
    errno.EPERM: "check the permissions of that path",
    errno.EROFS: "choose a place that can be written to",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}


class Commands(typer.core.TyperGroup):
    """The command group that turns every way a command can fail into a message and an exit code."""

    def main(self, *args: Any, **extra: Any) -> Any:
        standalone = extra.pop("standalone_mode", True)
        extra["standalone_mode"] = False
        if not standalone:
            return super().main(*args, **extra)
        try:
            with _terminable():
                result = super().main(*args, **extra)
                sys.stdout.flush()
        except BaseException as error:
            sys.exit(_explain(error))
        sys.exit(result if isinstance(result, int) else 0)

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:  # here, because typer versions differ in what they make of it
            raise typer.Abort from None
        except BrokenPipeError:
            raise _ReaderGoneError from None


class _ReaderGoneError(Exception):
    """Nobody reads our stdout any more (``rqdkm ... | head``)."""


class _Terminated(BaseException):
    """SIGTERM; a BaseException so that every clean-up runs and nothing swallows it."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """Let SIGTERM unwind the stack like Ctrl-C does, so that staged files go away and children end."""

    def stop(_signal: int, _frame: FrameType | None) -> None:
        raise _Terminated

    try:
        before = signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not the main thread: somebody else's program, somebody else's signals
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _explain(error: BaseException) -> int:
    """Print what happened, if anything; the exit code."""
    if isinstance(error, typer.Exit):
        return int(error.exit_code)
    if isinstance(error, SystemExit):
        return error.code if isinstance(error.code, int) else int(error.code is not None)
    if isinstance(error, (KeyboardInterrupt, typer.Abort)):
        return _say("interrupted", 130)
    if isinstance(error, _Terminated):
        return _say("terminated", 143)
    if isinstance(error, RqdkmError):
        return _say(str(error), error.exit_code)
    if hasattr(error, "format_message"):  # click's usage errors; some typer versions carry a click of their own
        context = getattr(error, "ctx", None)
        command = context.command_path if context else "rqdkm"
        return _say(f"{error.format_message()}\n  -> {command} --help lists what is possible", 2)
    if isinstance(error, (_ReaderGoneError, BrokenPipeError)):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or the interpreter complains at exit
        return 1
    if isinstance(error, OSError) and error.errno in _DISK_HINTS:
        place = f"{error.filename}: " if error.filename else ""
        return _say(f"{place}{error.strerror}\n  -> {_DISK_HINTS[error.errno]}", 2)
    return _explain_bug(error)


def _explain_bug(error: BaseException) -> int:
    if log.verbosity > 0:
        traceback.print_exception(error)
        return 1
    summary = str(error).strip().splitlines()
    detail = f": {summary[-1][:300]}" if summary else ""
    return _say(f"internal error, {type(error).__name__}{detail}\n  -> run again with -v for the traceback", 1)


def _say(text: str, code: int) -> int:
    with contextlib.suppress(OSError, ValueError):
        print(f"error: {text}" if code not in (130, 143) else text, file=sys.stderr, flush=True)
    return code
