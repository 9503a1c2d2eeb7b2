/* SPDX-License-Identifier: GPL-2.0-or-later
 * Memory protection unit: eight regions with sub-regions, PMSAv7 (ARMv7-M ARM B3.5). Checked per data access and per
 * jump in the instruction hook; stacking and --functional runs are not checked. */
#include "vboard.h"

enum { REGIONS = 8, CTRL_ENABLE = 1, CTRL_HFNMIENA = 2, CTRL_PRIVDEFENA = 4, RASR_XN = 1u << 28 };

static struct {
  uint32_t base, attributes;
} regions[REGIONS];
static uint32_t control, selected;
static bool restricts_all;               /* no default map, or nothing allows a short cut */
static uint32_t lowest = 1, highest = 0; /* addresses outside [lowest, highest] are in no region */
bool mpu_enabled;

static uint64_t region_bytes(unsigned k) { return 2ull << (regions[k].attributes >> 1 & 31); }

static void update(void) {
  mpu_enabled = control & CTRL_ENABLE;
  restricts_all = !(control & CTRL_PRIVDEFENA);
  lowest = 1;
  highest = 0;
  for (unsigned k = 0; k < REGIONS; k++) {
    if (!(regions[k].attributes & 1)) continue;
    uint32_t first = regions[k].base & ~(uint32_t)(region_bytes(k) - 1), last = first + (uint32_t)(region_bytes(k) - 1);
    if (lowest > highest) {
      lowest = first;
      highest = last;
      continue;
    }
    if (first < lowest) lowest = first;
    if (last > highest) highest = last;
  }
}

static bool region_covers(unsigned k, uint32_t address) {
  uint64_t bytes = region_bytes(k);
  uint32_t offset = address - (regions[k].base & ~(uint32_t)(bytes - 1));
  if (!(regions[k].attributes & 1) || offset >= bytes) return false;
  if (bytes < 256) return true; /* sub-regions exist from 256 bytes on */
  return !(regions[k].attributes >> (8 + offset / (bytes / 8)) & 1);
}

static bool rights_allow(uint32_t attributes, bool write, bool privileged) {
  switch (attributes >> 24 & 7) {
    case 1:
      return privileged;
    case 2:
      return privileged || !write;
    case 3:
      return true;
    case 5:
      return privileged && !write;
    case 6:
    case 7:
      return !write;
    default:
      return false;
  }
}

bool mpu_allows(uint32_t address, bool write, bool fetch) {
  if (!restricts_all && (address < lowest || address > highest)) {
    return true; /* default map; a small loss of exactness: unprivileged code may use it too */
  }
  if (address >= 0xe0000000u && address < 0xe0100000u) return true; /* the PPB is never checked */
  if (!(control & CTRL_HFNMIENA) && nvic_execution_priority() < 0) return true;
  bool privileged = (cpu_reg(UC_ARM_REG_XPSR) & 0x1ff) || !(cpu_reg(UC_ARM_REG_CONTROL) & 1);
  for (int k = REGIONS - 1; k >= 0; k--) { /* the highest number wins */
    if (!region_covers((unsigned)k, address)) continue;
    uint32_t attributes = regions[k].attributes;
    return rights_allow(attributes, write, privileged) && !(fetch && (attributes & RASR_XN));
  }
  return privileged && (control & CTRL_PRIVDEFENA);
}

uint32_t mpu_read(uint32_t offset) {
  switch (offset) {
    case 0xd90:
      return REGIONS << 8;
    case 0xd94:
      return control;
    case 0xd98:
      return selected;
    default:
      return ((offset - 0xd9c) & 4) ? regions[selected].attributes : regions[selected].base | selected;
  }
}

void mpu_write(uint32_t offset, uint32_t value) {
  if (offset == 0xd94) {
    control = value & 7;
  } else if (offset == 0xd98) {
    selected = value & (REGIONS - 1);
  } else if (offset >= 0xd9c && ((offset - 0xd9c) & 4)) { /* RASR and its aliases */
    regions[selected].attributes = value & 0x173fff3fu;
  } else if (offset >= 0xd9c) { /* RBAR and its aliases */
    if (value & 0x10) selected = value & (REGIONS - 1);
    regions[selected].base = value & ~0x1fu;
  }
  update();
}
