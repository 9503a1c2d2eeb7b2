# SPDX-License-Identifier: Apache-2.0
# The one list of compiler flags for the STM32F407. Flags alone can halve or double a kernel's speed, so they are part
# of every result: the firmware carries this list and reports it.

# Processor: Cortex-M4 with single-precision FPU, floats passed in FPU registers.
set(RQDKM_CPU_FLAGS -mcpu=cortex-m4 -mthumb -mfpu=fpv4-sp-d16 -mfloat-abi=hard)

set(RQDKM_OPTIMIZE_FLAGS
    -O2
    # GCC's instruction schedulers lengthen live ranges; with 14 usable registers the spills cost kernels 8 to 20 %.
    -fno-schedule-insns -fno-schedule-insns2
    # Functions start on a 16-byte flash line, so that a cycle count does not depend on what was linked before.
    -falign-functions=16
    # Hosted on newlib: -ffreestanding would stop GCC from inlining memcpy (kernels 3 to 5 times slower).
    -fno-freestanding
    # Left out at link time when nobody calls them.
    -ffunction-sections -fdata-sections
    -g)

# For rqdkm's own sources; generated code is not held to them.
set(RQDKM_WARNING_FLAGS -Wall -Wextra -Wconversion -Wno-sign-conversion)

set(RQDKM_LINK_FLAGS --specs=nano.specs -nostartfiles -Wl,--gc-sections -Wl,--no-warn-rwx-segments)
