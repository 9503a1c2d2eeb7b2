"""Flash and RAM of a firmware image, from its ELF file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from elftools.common.exceptions import ELFError
from elftools.elf.constants import SH_FLAGS
from elftools.elf.elffile import ELFFile

from rqdkm_tvm.errors import ToolError

CCM = range(0x10000000, 0x10010000)


@dataclass(frozen=True)
class Size:
    """Bytes by purpose, as the linker placed them."""

    code_bytes: int  # machine code, vector table, unwind tables
    rodata_bytes: int  # constants other than weights
    weights_bytes: int  # weights, biases, requantization tables
    data_bytes: int  # initialised RAM, which also takes flash
    bss_bytes: int  # zeroed RAM
    workspace_bytes: int  # the arena
    stack_bytes: int  # reserved
    ccm_bytes: int  # part of the RAM figures that lies in the CCM
    frame_bytes: int = 0  # input of a model that is handed over from outside: the I/O server's, no part of the RAM

    @property
    def flash_bytes(self) -> int:
        return self.code_bytes + self.rodata_bytes + self.weights_bytes + self.data_bytes

    @property
    def static_bytes(self) -> int:
        """RAM without arena and stack."""
        return self.data_bytes + self.bss_bytes

    @property
    def ram_bytes(self) -> int:
        return self.static_bytes + self.workspace_bytes + self.stack_bytes


def measure(elf: Path | str) -> Size:
    """Read section sizes.

    Raises:
        ToolError: the file is missing or no ELF file.
    """
    totals = dict.fromkeys(("code", "rodata", "weights", "data", "bss", "workspace", "stack", "ccm", "frame"), 0)
    try:
        with Path(elf).open("rb") as stream:
            for section in ELFFile(stream).iter_sections():
                if not section["sh_flags"] & SH_FLAGS.SHF_ALLOC or section["sh_size"] == 0:
                    continue
                totals[_purpose(section)] += section["sh_size"]
                if section["sh_addr"] in CCM:
                    totals["ccm"] += section["sh_size"]
    except (OSError, ELFError) as error:
        raise ToolError(f"cannot read the firmware image: {error}", where=str(elf)) from error
    return Size(**{f"{key}_bytes": value for key, value in totals.items()})


def _purpose(section: object) -> str:
    """Which figure a section belongs to: by name where the linker script gives one, else by its flags."""
    name, header = section.name, section.header  # type: ignore[attr-defined]
    for key in ("weights", "workspace", "stack", "frame"):
        if name == f".{key}":
            return key
    if header["sh_flags"] & SH_FLAGS.SHF_WRITE:
        return "bss" if header["sh_type"] == "SHT_NOBITS" else "data"
    return "code" if header["sh_flags"] & SH_FLAGS.SHF_EXECINSTR or name in _CODE_TABLES else "rodata"


_CODE_TABLES = (".isr_vector", ".ARM.exidx", ".ARM.extab", ".init_array", ".fini_array")
