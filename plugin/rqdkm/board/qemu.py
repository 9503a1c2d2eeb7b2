"""QEMU as a second opinion: machine ``netduinoplus2`` (STM32F405), Debian package ``qemu-system-arm``.

It agrees on outputs but knows no cycles (the DWT counter reads 0), no clock tree (RCC never reports ready) and, up to
version 7.2, no CCM.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from rqdkm.board.stream import ByteStream, ProcessStream
from rqdkm_tvm.errors import ToolError

MACHINE = "netduinoplus2"


def start(elf: Path, *, timeout_s: float = 600.0, semihosting: bool = True) -> ByteStream:
    """Start ``elf``.

    Args:
        semihosting: semihosting's console is the stream, otherwise USART1 (a hundred times slower in QEMU).
        timeout_s: QEMU is ended after this long whatever happens, even when this process dies first.

    Raises:
        ToolError: QEMU, coreutils' ``timeout`` or the ELF is missing.
    """
    qemu = shutil.which("qemu-system-arm")
    if qemu is None:
        raise ToolError("qemu-system-arm is not installed", hint="Debian: apt install qemu-system-arm")
    guard = shutil.which("timeout")
    if guard is None:
        raise ToolError("the program 'timeout' is missing", hint="Debian: apt install coreutils")
    if not elf.is_file():
        raise ToolError("no such firmware", where=str(elf))
    command = [guard, "-k", "1", f"{timeout_s:g}", qemu, "-M", MACHINE, "-display", "none", "-monitor", "none"]
    config = "enable=on,target=native" + (",arg=rqdkm-io-semihosting" if semihosting else "")
    command += ["-serial", "null" if semihosting else "stdio", "-semihosting-config", config]
    return ProcessStream([*command, "-kernel", str(elf)], name="QEMU")
