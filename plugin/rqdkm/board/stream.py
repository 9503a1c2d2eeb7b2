"""Byte streams to a board: a child process's pipes, or a serial port.

A stream knows nothing of frames; :mod:`rqdkm.board.protocol` speaks over any of them.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol

from rqdkm_tvm.errors import BoardError, ToolError

log = logging.getLogger(__name__)

_MESSAGES_KEPT = 65536


@dataclass(frozen=True)
class ExitInfo:
    """How the other end ended.

    Args:
        code: exit code; negative signal number when killed by a signal; None for a board that just stays there.
        messages: what the program wrote to its standard error (the last 64 KB), empty for a serial port.
    """

    code: int | None
    messages: str = ""


class StreamClosedError(BoardError):
    """The other end has closed the stream: the program has ended, or the cable was pulled."""


class ByteStream(Protocol):
    """What the protocol needs of a connection."""

    def read(self, size: int, timeout_s: float) -> bytes:
        """1 to ``size`` bytes as soon as there are any; ``b""`` when none came within ``timeout_s``.

        Raises:
            StreamClosedError: nothing more can come.
        """

    def write(self, data: bytes) -> None:
        """All of ``data``.

        Raises:
            StreamClosedError: the other end is gone.
            BoardError: it has not taken the data in time.
        """

    def close(self) -> ExitInfo:
        """Ends the connection, and the program behind it if it is ours. May be called twice."""


class ProcessStream:
    """Standard input and output of a child process; its standard error is kept for messages.

    The child gets a process group of its own, so that whatever it starts ends with it.

    Args:
        command: program and arguments.
        name: what to call it in messages, e.g. "virtual board".
        grace_s: how long :meth:`close` waits for the program to end by itself once its input is closed.
        write_timeout_s: how long the program may take no input.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        name: str = "",
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        grace_s: float = 5.0,
        write_timeout_s: float = 30.0,
    ) -> None:
        words = [str(word) for word in command]
        self.name = name or Path(words[0]).name
        self._grace_s = grace_s
        self._write_timeout_s = write_timeout_s
        self._exit: ExitInfo | None = None
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the stream
        log.debug("start %s", " ".join(words))
        try:
            self._process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                env=None if env is None else dict(env),
                cwd=cwd,
                start_new_session=True,
            )
        except OSError as error:
            self._stderr.close()
            raise ToolError(f"cannot start {words[0]}: {error.strerror}", where=self.name) from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        os.set_blocking(self._stdin.fileno(), False)

    def read(self, size: int, timeout_s: float) -> bytes:
        if self._exit is not None:
            raise StreamClosedError("the stream is closed", where=self.name)
        ready, _, _ = select.select([self._stdout], [], [], max(0.0, timeout_s))
        if not ready:
            return b""
        data = os.read(self._stdout.fileno(), size)
        if not data:
            raise StreamClosedError("the program has ended", where=self.name, hint=self._last_message())
        return data

    def write(self, data: bytes) -> None:
        if self._exit is not None:
            raise StreamClosedError("the stream is closed", where=self.name)
        deadline = time.monotonic() + self._write_timeout_s
        view = memoryview(data)
        while view:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([], [self._stdin], [], left)[1]:
                raise BoardError(f"takes no input for {self._write_timeout_s:g} s", where=self.name)
            try:
                view = view[os.write(self._stdin.fileno(), view) :]
            except BlockingIOError:
                continue
            except BrokenPipeError as error:
                raise StreamClosedError("the program has ended", where=self.name, hint=self._last_message()) from error

    def close(self) -> ExitInfo:
        if self._exit is None:
            with contextlib.suppress(OSError):
                self._stdin.close()
            code = self._wait(self._grace_s)
            if code is None:
                log.debug("%s did not end by itself; stopping it", self.name)
                for stop in (signal.SIGTERM, signal.SIGKILL):
                    with contextlib.suppress(ProcessLookupError):
                        os.killpg(self._process.pid, stop)
                    code = self._wait(2.0)
                    if code is not None:
                        break
            self._stdout.close()
            self._exit = ExitInfo(code, self._messages())
            self._stderr.close()
        return self._exit

    def _wait(self, timeout_s: float) -> int | None:
        """Exit code, or None after ``timeout_s``. Drains the output: a program blocked on a full pipe never ends."""
        deadline = time.monotonic() + timeout_s
        while True:
            code = self._process.poll()
            left = deadline - time.monotonic()
            if code is not None or left <= 0:
                return code
            if not select.select([self._stdout], [], [], min(left, 0.02))[0]:
                continue
            if not os.read(self._stdout.fileno(), 65536):
                with contextlib.suppress(subprocess.TimeoutExpired):
                    self._process.wait(left)

    def _messages(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - _MESSAGES_KEPT))
        return self._stderr.read().decode(errors="replace")

    def _last_message(self) -> str:
        self._wait(0.5)
        lines = self._messages().strip().splitlines()
        return lines[-1] if lines else ""


class SerialStream:
    """A serial port (pyserial), 8N1.

    Args:
        port: device, e.g. ``/dev/ttyUSB0``.
        baud: as the firmware was built (``RQDKM_BAUD``).
    """

    def __init__(self, port: str, *, baud: int = 115200, write_timeout_s: float = 30.0) -> None:
        try:
            import serial
        except ImportError as error:
            raise ToolError("pyserial is not installed", hint="pip install 'rqdkm[board]'") from error
        self.name = port
        self._errors: tuple[type[Exception], ...] = (serial.SerialException, OSError)
        self._timeout_error: type[Exception] = serial.SerialTimeoutException
        try:
            self._port = serial.Serial(port, baud, timeout=0, write_timeout=write_timeout_s)
        except self._errors as error:
            raise ToolError(
                f"cannot open the serial port: {error}",
                where=port,
                hint="check the cable, and that you may use the port (Debian: group dialout)",
            ) from error

    def read(self, size: int, timeout_s: float) -> bytes:
        try:
            self._port.timeout = max(0.0, timeout_s)
            first = self._port.read(1)
            rest = min(size - 1, self._port.in_waiting) if first else 0
            return bytes(first + (self._port.read(rest) if rest else b""))
        except self._errors as error:
            raise StreamClosedError(f"the serial port is gone: {error}", where=self.name) from error

    def write(self, data: bytes) -> None:
        try:
            self._port.write(data)
            self._port.flush()
        except self._timeout_error as error:
            raise BoardError("the serial port takes no data", where=self.name) from error
        except self._errors as error:
            raise StreamClosedError(f"the serial port is gone: {error}", where=self.name) from error

    def close(self) -> ExitInfo:
        self._port.close()
        return ExitInfo(None)
