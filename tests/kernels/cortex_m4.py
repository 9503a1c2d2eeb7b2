"""Run kernel calls as Cortex-M4 machine code on QEMU, so that what differs from the host build is tested too.

Same cases and same generated program as :mod:`tests.kernels.harness`; the files go through semihosting.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from rqdkm_tvm.sources import tflm_ops_dir
from tests.kernels import harness

Array = npt.NDArray[Any]

CORE = ("-mcpu=cortex-m4", "-mthumb", "-mfpu=fpv4-sp-d16", "-mfloat-abi=hard")
FLAGS = ("-std=gnu99", "-O2", "-ffunction-sections", "-fdata-sections")
LIMIT_S = 120

_STARTUP = """
#include <stdint.h>
extern uint32_t stack_top[];
void _start(void);
void reset(void);
__attribute__((used, noreturn)) void reset(void) {
  *(volatile uint32_t *)0xE000ED88 |= 0xFu << 20; /* CPACR: FPU */
  __asm volatile("dsb\\n\\tisb");
  _start();
  for (;;) {
  }
}
__attribute__((used)) static void fault(void) {
  static const uint32_t exit_block[2] = {0x20026u, 99u}; /* SYS_EXIT_EXTENDED, application exit, code */
  register uint32_t r0 __asm("r0") = 0x20;
  register const uint32_t *r1 __asm("r1") = exit_block;
  __asm volatile("bkpt 0xab" : : "r"(r0), "r"(r1) : "memory");
  for (;;) {
  }
}
__attribute__((section(".vectors"), used)) const void *const vectors[16] = {
    stack_top, (const void *)reset, (const void *)fault, (const void *)fault, (const void *)fault, (const void *)fault,
    (const void *)fault};
"""

_LINKER = """
ENTRY(reset)
MEMORY { FLASH (rx) : ORIGIN = 0x08000000, LENGTH = 1024K  RAM (rwx) : ORIGIN = 0x20000000, LENGTH = 128K }
stack_top = ORIGIN(RAM) + LENGTH(RAM);
SECTIONS {
  .vectors : { KEEP(*(.vectors)) } > FLASH
  .text : { *(.text*) *(.rodata*) KEEP(*(.init)) KEEP(*(.fini)) . = ALIGN(4); } > FLASH
  .init_array : { __preinit_array_start = .; KEEP(*(.preinit_array*)) __preinit_array_end = .;
    __init_array_start = .; KEEP(*(.init_array*)) __init_array_end = .;
    __fini_array_start = .; KEEP(*(.fini_array*)) __fini_array_end = .; } > FLASH
  .ARM.exidx : { *(.ARM.exidx*) } > FLASH
  .data : { *(.data*) . = ALIGN(4); } > RAM
  __bss_start__ = .;
  .bss : { *(.bss*) *(COMMON) . = ALIGN(8); } > RAM
  __bss_end__ = .;
  end = .;
  __end__ = .;
}
"""


def check(cases: Sequence[harness.Case], wanted: Sequence[Array], *, batch: int = 40) -> None:
    """Fail, naming the first differing case, unless every output byte is as expected."""
    for start in range(0, len(cases), batch):
        part = cases[start : start + batch]
        for case, got, want in zip(part, _run(part), wanted[start : start + batch], strict=True):
            different = np.flatnonzero(got.ravel() != want.ravel())
            assert different.size == 0, f"{case}: {different.size} of {got.size} outputs differ on the Cortex-M4"


def _run(cases: Sequence[harness.Case]) -> list[Array]:
    calls = [(case, case.kernel.lower(case.layer, case.config)) for case in cases]
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "calls.c").write_text(harness.program(calls))
        (root / "startup.c").write_text(_STARTUP)
        (root / "board.ld").write_text(_LINKER)
        (root / "cases.bin").write_bytes(harness.case_data(calls))
        elf = root / "calls.elf"
        include = ("-I", str(tflm_ops_dir() / "include"), "-I", str(tflm_ops_dir() / "src"))
        command = ["arm-none-eabi-gcc", *CORE, *FLAGS, *include, str(root / "calls.c"), str(root / "startup.c")]
        archive = harness.library("arm-none-eabi-gcc", "arm-none-eabi-ar", (*CORE, *FLAGS))
        command += [str(archive), "--specs=rdimon.specs", "-Wl,--gc-sections", "-lm"]
        command += ["-T", str(root / "board.ld"), "-o", str(elf)]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr[-4000:]
        arguments = f"arg=calls,arg={root / 'cases.bin'},arg={root / 'results.bin'}"
        emulator = ["timeout", "-k", "5", str(LIMIT_S), "qemu-system-arm", "-M", "netduinoplus2", "-nographic"]
        emulator += ["-monitor", "none", "-serial", "none", "-kernel", str(elf)]
        emulator += ["-semihosting-config", f"enable=on,target=native,{arguments}"]
        ran = subprocess.run(emulator, capture_output=True, text=True, check=False)
        assert ran.returncode == 0, f"QEMU ended with {ran.returncode}:\n{ran.stderr[-2000:]}"
        return harness.outputs_of(cases, (root / "results.bin").read_bytes())
