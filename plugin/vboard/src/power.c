/* SPDX-License-Identifier: GPL-2.0-or-later
 * Power control (RM0090 5.4): regulator scale, the kind of stop mode that deep sleep enters, and how long the chip
 * takes to come back from it (DS8626 "Low-power mode wakeup timings", typical; measured to the first instruction, so
 * the start of the internal oscillator is part of it). */
#include "vboard.h"

enum { LPDS = 1, PDDS = 2, CWUF = 4, CSBF = 8, DBP = 1u << 8, FPDS = 1u << 9, VOS = 1u << 14, WRITABLE = 0x43f3 };
enum { CSR_BRE = 1u << 9, CSR_EWUP = 1u << 8, CSR_BRR = 1u << 3, CSR_VOSRDY = 1u << 14 };
/* The datasheet times deep power-down with the low-power regulator only; it is charged with the main one too. */
enum { WAKE_MAIN_NS = 13000, WAKE_LOW_POWER_NS = 17000, WAKE_DEEP_NS = 110000 };

static uint32_t cr = VOS, csr;

void power_reset(void) {
  cr = VOS;
  csr = 0;
}

uint32_t pwr_read(uint32_t address) {
  if ((address & 0x3ff) == 0) return cr;
  return (address & 0x3ff) == 4 ? csr | CSR_VOSRDY | (csr & CSR_BRE ? CSR_BRR : 0) : 0;
}

void pwr_write(uint32_t address, uint32_t value) {
  if ((address & 0x3ff) == 4) csr = value & (CSR_EWUP | CSR_BRE);
  if ((address & 0x3ff) != 0) return;
  if ((value ^ cr) & VOS && rcc_pll_on())
    violation_record("voltage-scale", "PWR_CR.VOS changed while the PLL is on (it may be changed while it is off)");
  cr = value & WRITABLE; /* CWUF and CSBF clear flags of standby, which is not modelled */
  residency_update();
  rcc_check();
}

bool power_scale1(void) { return cr & VOS; }
bool power_backup_writable(void) { return cr & DBP; }
bool power_standby(void) { return cr & PDDS; }
bool power_stop_low_power(void) { return cr & LPDS; }
bool power_stop_flash_off(void) { return cr & FPDS; }
uint64_t power_wakeup_ns(void) { return cr & FPDS ? WAKE_DEEP_NS : cr & LPDS ? WAKE_LOW_POWER_NS : WAKE_MAIN_NS; }
