"""A real board through OpenOCD: write the flash, reset, run; then the same protocol as everywhere.

Two ways for the bytes: a serial port on USART1, or semihosting over the debug probe itself, which needs no further wire
but is slower.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from rqdkm.board.stream import ByteStream, ProcessStream, SerialStream
from rqdkm_tvm.errors import ToolError

log = logging.getLogger(__name__)

BOARD_CONFIG = "board/stm32f4discovery.cfg"
SEMIHOSTING_IO = "arm semihosting_cmdline rqdkm-io-semihosting"  # see io.c of the firmware


@dataclass(frozen=True)
class OpenOcd:
    """How to reach the board. Defaults come from the environment: ``RQDKM_OPENOCD_CONFIG``, ``RQDKM_SERIAL``,
    ``RQDKM_BAUD``.

    Args:
        config: OpenOCD configuration file, relative to OpenOCD's script folders or a path of your own.
        serial: serial port on USART1; None for semihosting.
        baud: of the serial port; as the firmware was built (``RQDKM_BAUD``).
        executable: the OpenOCD program.
        timeout_s: how long writing the flash may take.
    """

    config: str = field(default_factory=lambda: os.environ.get("RQDKM_OPENOCD_CONFIG") or BOARD_CONFIG)
    serial: str | None = field(default_factory=lambda: os.environ.get("RQDKM_SERIAL") or None)
    baud: int = field(default_factory=lambda: _baud(os.environ.get("RQDKM_BAUD")))
    executable: str = "openocd"
    timeout_s: float = 120.0

    def flash(self, elf: Path) -> None:
        """Write ``elf`` to the flash, verify it, and leave the board halted at reset.

        Raises:
            ToolError: OpenOCD is missing, finds no board, or verification fails.
        """
        self._call(["init", "reset init", f"program {_tcl(elf)} verify", "reset halt", "shutdown"], elf)

    def start(self, elf: Path) -> ByteStream:
        """Write ``elf``, start it and connect. The serial port is opened first, so that no byte is lost."""
        if self.serial is None:
            self.flash(elf)
            commands = ["init", "reset halt", "arm semihosting enable", SEMIHOSTING_IO, "resume"]
            return ProcessStream(self._command(commands), name="OpenOCD semihosting", grace_s=1.0)
        stream = SerialStream(self.serial, baud=self.baud)
        try:
            self.flash(elf)
            self._call(["init", "reset run", "shutdown"], elf)
        except BaseException:
            stream.close()
            raise
        return stream

    def _command(self, commands: list[str]) -> list[str]:
        program = shutil.which(self.executable)
        if program is None:
            raise ToolError(f"{self.executable} is not installed", hint="Debian: apt install openocd")
        # no servers: two boards on one machine must not fight over ports
        quiet = ["gdb_port disabled", "telnet_port disabled", "tcl_port disabled"]
        words = [program, "-f", self.config]
        for command in [*quiet, *commands]:
            words += ["-c", command]
        return words

    def _call(self, commands: list[str], elf: Path) -> None:
        if not elf.is_file():
            raise ToolError("no such firmware", where=str(elf))
        words = self._command(commands)
        log.debug("run %s", " ".join(words))
        try:
            done = subprocess.run(
                words,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=self.timeout_s,
            )
        except subprocess.TimeoutExpired as error:
            raise ToolError(f"OpenOCD has not finished within {self.timeout_s:g} s", where=self.config) from error
        if done.returncode != 0:
            raise ToolError(
                f"OpenOCD failed with exit code {done.returncode}: {_reason(done.stderr)}",
                where=self.config,
                hint="is the board connected and powered, and may you use the probe (udev rules)?",
            )


def _baud(text: str | None) -> int:
    """115200 unless given."""
    if not text:
        return 115200
    if not text.isdigit() or int(text) == 0:
        raise ToolError(f"'{text}' is no baud rate", where="RQDKM_BAUD")
    return int(text)


def _reason(messages: str) -> str:
    """OpenOCD's first error line; its last line where it has none."""
    lines = [line.strip() for line in messages.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("Error")]
    return (errors or lines[-1:] or ["no message"])[0]


def _tcl(path: Path) -> str:
    """``path`` as one Tcl word."""
    text = str(path.resolve())
    if any(character in text for character in "{}\\"):
        raise ToolError("OpenOCD cannot take a path with braces or backslashes", where=text)
    return "{" + text + "}"
