"""Fault reports of the firmware, in words: what the Cortex-M4 says happened, and where in the program."""

from __future__ import annotations

import logging
import shutil
import struct
import subprocess
from dataclasses import dataclass
from pathlib import Path

log = logging.getLogger(__name__)

_WORDS = (
    *("exception", "r0", "r1", "r2", "r3", "r12", "lr", "pc", "xpsr"),
    *("r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11"),
    *("sp", "exc_return", "cfsr", "hfsr", "mmfar", "bfar"),
)

# Armv7-M Architecture Reference Manual (DDI 0403), B3.2.15: Configurable Fault Status Register
_CFSR_BITS = {
    0: "instruction fetch from a forbidden address (IACCVIOL)",
    1: "access to a forbidden address (DACCVIOL)",
    3: "memory protection fault on return from an exception (MUNSTKERR)",
    4: "memory protection fault while saving registers (MSTKERR)",
    5: "memory protection fault while saving FPU registers (MLSPERR)",
    8: "instruction fetch from unmapped memory (IBUSERR)",
    9: "access to unmapped or failing memory (PRECISERR)",
    10: "an earlier write went to unmapped or failing memory, the program counter is only near it (IMPRECISERR)",
    11: "bus error on return from an exception (UNSTKERR)",
    12: "bus error while saving registers: the stack has overflowed (STKERR)",
    13: "bus error while saving FPU registers: the stack has overflowed (LSPERR)",
    16: "undefined instruction (UNDEFINSTR)",
    17: "jump to an address without the Thumb bit (INVSTATE)",
    18: "invalid return from an exception (INVPC)",
    19: "floating point used while the FPU is off (NOCP)",
    24: "unaligned access (UNALIGNED)",
    25: "division by zero (DIVBYZERO)",
}
_MMARVALID, _BFARVALID = 1 << 7, 1 << 15
_STACKING = 1 << 4 | 1 << 5 | 1 << 12 | 1 << 13
_SRAM_START = 0x20000000
_EXCEPTIONS = {2: "NMI", 3: "HardFault", 4: "MemManage", 5: "BusFault", 6: "UsageFault", 11: "SVCall", 14: "PendSV"}


@dataclass(frozen=True)
class Fault:
    """What the processor knew when it took the exception; field names as in the Armv7-M manual.

    Args:
        registers: r0 to r12, lr, pc, xpsr, sp and exc_return. The stacked ones are 0 when stacking failed.
        trace: words on the stack that look like return addresses, innermost first; some may be stale.
    """

    exception: int
    registers: dict[str, int]
    cfsr: int
    hfsr: int
    mmfar: int
    bfar: int
    trace: tuple[int, ...]

    @classmethod
    def parse(cls, payload: bytes) -> Fault:
        """From the payload of a FAULT frame.

        Raises:
            ValueError: it is too short.
        """
        if len(payload) < 4 * len(_WORDS) or len(payload) % 4:
            raise ValueError(f"a fault report of {len(payload)} bytes")
        words = struct.unpack(f"<{len(payload) // 4}I", payload)
        fields = dict(zip(_WORDS, words, strict=False))
        status = {name: fields.pop(name) for name in ("exception", "cfsr", "hfsr", "mmfar", "bfar")}
        return cls(**status, registers=fields, trace=tuple(word for word in words[len(_WORDS) :] if word))

    @property
    def stack_overflow(self) -> bool:
        """The stack stands at the start of the SRAM: below it nothing is mapped."""
        below_sram = _SRAM_START - 0x10000 <= self.bfar < _SRAM_START and bool(self.cfsr & _BFARVALID)
        return bool(self.cfsr & _STACKING) or (below_sram and self.registers["sp"] < _SRAM_START + 64)

    def causes(self) -> list[str]:
        """In plain words, most telling first."""
        if self.stack_overflow:
            return ["stack overflow"]
        found = [text for bit, text in _CFSR_BITS.items() if self.cfsr >> bit & 1]
        if self.cfsr & _MMARVALID:
            found.append(f"address 0x{self.mmfar:08x}" + (" (a null pointer)" if self.mmfar < 0x1000 else ""))
        if self.cfsr & _BFARVALID:
            found.append(f"address 0x{self.bfar:08x}")
        if self.hfsr & 2:
            found.append("the vector table cannot be read (VECTTBL)")
        if not found and self.exception >= 16:
            found.append(f"interrupt {self.exception - 16}, which nobody handles")
        if not found:
            found.append(_EXCEPTIONS.get(self.exception, f"exception {self.exception}"))
        return found

    def describe(self, elf: Path | None = None) -> str:
        """One paragraph for the user; with symbol names when ``elf`` and the binutils are there."""
        places = [self.registers["pc"]] if self.registers["pc"] else []
        callers = [address - 1 for address in self.trace]
        if self.registers["lr"] & 1 and self.registers["lr"] < 0xF0000000:
            callers.insert(0, self.registers["lr"] - 1)
        names = locate(elf, places + callers)
        text = "; ".join(self.causes())
        if places:
            text += f"; at {names[0]}"
        chain: list[str] = []
        for name in names[len(places) :]:
            if not chain or chain[-1] != name:
                chain.append(name)
        if chain:
            text += "; likely called from " + ", ".join(chain[:4])
        status = f"cfsr={self.cfsr:08x} hfsr={self.hfsr:08x} mmfar={self.mmfar:08x} bfar={self.bfar:08x}"
        return f"{text} [{status} sp={self.registers['sp']:08x}]"


def locate(elf: Path | None, addresses: list[int]) -> list[str]:
    """``function (file:line)`` of every code address; plain hexadecimal where that cannot be found out."""
    plain = [f"0x{address:08x}" for address in addresses]
    tool = shutil.which("arm-none-eabi-addr2line")
    if elf is None or tool is None or not addresses:
        return plain
    try:
        output = subprocess.run(
            [tool, "-f", "-s", "-e", str(elf), *plain], capture_output=True, text=True, timeout=20, check=True
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        log.debug("addr2line: %s", error)
        return plain
    lines = output.splitlines()
    if len(lines) != 2 * len(addresses):
        return plain
    named = []
    for address, function, place in zip(plain, lines[::2], lines[1::2], strict=True):
        place = place.split(" ")[0]
        named.append(address if function == "??" else f"{function} ({place})" if "?" not in place else function)
    return named
