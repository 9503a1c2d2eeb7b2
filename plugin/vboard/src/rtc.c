/* SPDX-License-Identifier: GPL-2.0-or-later
 * Real-time clock (RM0090 26) and its clock (7.3.20, 7.3.21): what keeps time in stop mode and wakes up from it.
 * Modelled are the calendar's time of day with its sub-seconds, the wake-up timer (EXTI line 22), and both locks:
 * PWR_CR.DBP and the keys of RTC_WPR. Registers are read directly, as with BYPSHAD. Not modelled: alarms, time stamps,
 * calibration, the date's advance.
 *
 * Everything runs on `ticks` of RTCCLK, counted from when that clock started. */
#include <string.h>

#include "vboard.h"

enum { TR = 0x00, DR = 0x04, CR = 0x08, ISR = 0x0c, PRER = 0x10, WUTR = 0x14, WPR = 0x24, SSR = 0x28, BKP0 = 0x50 };
enum { BACKUP_WORDS = 20 };
enum { CR_WUCKSEL = 7, CR_WUTE = 1 << 10, CR_WUTIE = 1 << 14 };
enum { ISR_WUTWF = 4, ISR_INITS = 16, ISR_RSF = 32, ISR_INITF = 64, ISR_INIT = 128, ISR_WUTF = 1 << 10 };
enum { SYNC_TICKS = 2 }; /* "around two RTCCLK cycles": entering initialisation, freeing the wake-up timer */
enum {
  BDCR_LSEON = 1,
  BDCR_READY = 2,
  BDCR_LSEBYP = 4,
  BDCR_RTCSEL = 3 << 8,
  BDCR_RTCEN = 1 << 15,
  BDCR_BDRST = 1 << 16
};
enum { CSR_LSION = 1, CSR_READY = 2, CSR_RMVF = 1 << 24 };
enum { LSI_NS = 15000 }; /* DS8626, typical */
#define LSE_NS 2000000000u

static uint32_t cr, prer, wutr, tr, dr, backup[BACKUP_WORDS];
static bool wutf, initialised, initialising;
static unsigned keys;      /* 2 = unlocked */
static uint32_t bdcr, csr; /* as last written */
static uint64_t lse_ready_ns, lsi_ready_ns;
static uint64_t clock_ns; /* when RTCCLK started; NEVER = it stands still */
static uint32_t clock_hz;
static uint64_t calendar_tick;        /* tick at which the calendar showed `tr` */
static uint64_t init_tick, free_tick; /* from when INITF and WUTWF are set */
static uint64_t wake_up_tick;         /* next end of the wake-up timer's count */

static uint64_t source_ready_ns(void) {
  switch (bdcr >> 8 & 3) {
    case 1:
      return (bdcr & BDCR_LSEON) && machine.options.lse_hz ? lse_ready_ns : NEVER;
    case 2:
      return (csr & CSR_LSION) && machine.options.lsi_hz ? lsi_ready_ns : NEVER;
    default:
      return NEVER; /* the crystal as RTC clock is not modelled */
  }
}

static uint64_t ticks(void) {
  uint64_t now = rcc_nanoseconds();
  return now <= clock_ns ? 0 : (uint64_t)((double)(now - clock_ns) * clock_hz / 1e9);
}

static uint64_t tick_ns(uint64_t tick) { return clock_ns + (uint64_t)((double)tick * 1e9 / clock_hz) + 1; }

static void choose_clock(void) {
  uint64_t ready = (bdcr & BDCR_RTCEN) ? source_ready_ns() : NEVER;
  if ((ready == NEVER) == (clock_ns == NEVER)) return;
  uint64_t now = rcc_nanoseconds();
  clock_hz = (bdcr >> 8 & 3) == 1 ? machine.options.lse_hz : machine.options.lsi_hz;
  clock_ns = ready == NEVER ? NEVER : ready > now ? ready : now;
}

void rtc_reset(void) {
  cr = wutf = initialised = initialising = 0;
  prer = 0x007f00ff;
  wutr = 0xffff;
  tr = 0;
  dr = 0x2101;
  keys = 0;
  bdcr = 0;
  clock_ns = NEVER;
  init_tick = free_tick = calendar_tick = 0;
  memset(backup, 0, sizeof backup);
}

uint32_t rtc_clock_read(bool backup_domain, uint32_t value) {
  uint64_t now = rcc_nanoseconds();
  if (!backup_domain)
    return value | ((csr & CSR_LSION) && machine.options.lsi_hz && now >= lsi_ready_ns ? CSR_READY : 0);
  return value | ((bdcr & BDCR_LSEON) && machine.options.lse_hz && now >= lse_ready_ns ? BDCR_READY : 0);
}

uint32_t rtc_clock_write(bool backup_domain, uint32_t before, uint32_t value) {
  uint64_t now = rcc_nanoseconds();
  if (!backup_domain) {
    if ((value & CSR_LSION) && !(csr & CSR_LSION)) lsi_ready_ns = now + LSI_NS;
    csr = value & CSR_LSION;
    choose_clock();
    return (before & 0xfe000000u & ((value & CSR_RMVF) ? 0 : UINT32_MAX)) | csr;
  }
  if (!power_backup_writable()) return before; /* ignored, as on silicon */
  if (value & BDCR_BDRST) {
    rtc_reset();
    return BDCR_BDRST;
  }
  if ((bdcr & BDCR_RTCSEL) && !(before & BDCR_BDRST)) /* the source is chosen once (RM0090 7.3.20) */
    value = (value & ~(uint32_t)BDCR_RTCSEL) | (bdcr & BDCR_RTCSEL);
  if ((value & BDCR_LSEON) && !(bdcr & BDCR_LSEON)) lse_ready_ns = now + LSE_NS;
  bdcr = value & (BDCR_LSEON | BDCR_LSEBYP | BDCR_RTCSEL | BDCR_RTCEN);
  choose_clock();
  return bdcr;
}

/* ---- calendar ---- */

static uint64_t sub_tick(void) { /* of the asynchronous prescaler, since the calendar showed `tr` */
  if (initialising || clock_ns == NEVER) return 0;
  return (ticks() - calendar_tick) / ((prer >> 16 & 0x7f) + 1);
}

static uint32_t second_ticks(void) { return (prer & 0x7fff) + 1; }

static uint32_t from_bcd(uint32_t value, unsigned low, unsigned tens_bits) {
  return (value >> low & 15) + 10 * (value >> (low + 4) & ((1u << tens_bits) - 1));
}

static uint32_t to_bcd(uint32_t value, unsigned low) { return (value / 10 << 4 | value % 10) << low; }

static uint32_t time_register(void) { /* 24-hour format */
  uint64_t seconds = from_bcd(tr, 0, 3) + 60 * from_bcd(tr, 8, 3) + 3600 * from_bcd(tr, 16, 2);
  uint32_t day = (uint32_t)((seconds + sub_tick() / second_ticks()) % 86400);
  return to_bcd(day % 60, 0) | to_bcd(day / 60 % 60, 8) | to_bcd(day / 3600, 16);
}

static uint32_t sub_second_register(void) { return second_ticks() - 1 - (uint32_t)(sub_tick() % second_ticks()); }

/* ---- wake-up timer ---- */

static uint64_t wake_up_period(void) {
  uint32_t select = cr & CR_WUCKSEL;
  uint64_t count = wutr + 1ull;
  if (select < 4) return count * (16u >> select);
  if (select & 2) count += 0x10000;
  return count * ((prer >> 16 & 0x7f) + 1) * second_ticks();
}

void rtc_service(void) {
  if (!(cr & CR_WUTE) || clock_ns == NEVER || ticks() < wake_up_tick) return;
  wake_up_tick += ((ticks() - wake_up_tick) / wake_up_period() + 1) * wake_up_period();
  bool rises = !wutf && (cr & CR_WUTIE);
  wutf = true;
  if (rises) exti_edge(22, true);
}

uint64_t rtc_deadline_ns(void) {
  if (!(cr & CR_WUTE) || !(cr & CR_WUTIE) || wutf || clock_ns == NEVER) return NEVER;
  return tick_ns(wake_up_tick);
}

bool rtc_pending(void) { return wutf && (cr & CR_WUTIE); }

static bool wake_up_timer_free(void) { return !(cr & CR_WUTE) && clock_ns != NEVER && ticks() >= free_tick; }
static bool init_reached(void) { return initialising && clock_ns != NEVER && ticks() >= init_tick; }

/* ---- registers ---- */

uint32_t rtc_read(uint32_t address) {
  uint32_t offset = address & 0x3ff;
  rtc_service();
  if (offset - BKP0 < 4 * BACKUP_WORDS) return backup[(offset - BKP0) / 4];
  switch (offset) {
    case TR:
      return time_register();
    case DR:
      return dr;
    case CR:
      return cr;
    case ISR:
      return 3u | (wake_up_timer_free() ? ISR_WUTWF : 0) | (initialised ? ISR_INITS : 0) |
             (clock_ns != NEVER ? ISR_RSF : 0) | (init_reached() ? ISR_INITF : 0) | (initialising ? ISR_INIT : 0) |
             (wutf ? ISR_WUTF : 0);
    case PRER:
      return prer;
    case WUTR:
      return wutr;
    case SSR:
      return sub_second_register();
    default:
      return 0;
  }
}

static void write_cr(uint32_t value) {
  if (!wake_up_timer_free()) value = (value & ~(uint32_t)CR_WUCKSEL) | (cr & CR_WUCKSEL);
  bool was = cr & CR_WUTE, now = value & CR_WUTE;
  bool raised = wutf && (value & CR_WUTIE) && !(cr & CR_WUTIE);
  cr = value & 0x00fcff7fu;
  if (now && !was) wake_up_tick = ticks() + 1 + wake_up_period();
  if (was && !now) free_tick = ticks() + SYNC_TICKS;
  if (raised) exti_edge(22, true);
}

static void write_isr(uint32_t value) {
  if (!(value & ISR_WUTF)) wutf = false;
  if ((value & ISR_INIT) && !initialising) {
    tr = time_register();
    initialising = true;
    init_tick = ticks() + SYNC_TICKS;
  } else if (!(value & ISR_INIT) && initialising) {
    initialising = false;
    calendar_tick = ticks();
  }
}

void rtc_write(uint32_t address, uint32_t value) {
  uint32_t offset = address & 0x3ff;
  rtc_service();
  if (!power_backup_writable()) return;
  if (offset - BKP0 < 4 * BACKUP_WORDS) {
    backup[(offset - BKP0) / 4] = value;
    return;
  }
  if (offset == WPR) {
    bool first = keys == 0 && (value & 0xff) == 0xca, second = keys == 1 && (value & 0xff) == 0x53;
    keys = first ? 1 : second ? 2 : 0;
    return;
  }
  if (keys != 2 && offset != ISR) return; /* ignored, as on silicon */
  switch (offset) {
    case TR:
      if (init_reached()) tr = value & 0x007f7f7f;
      break;
    case DR:
      if (init_reached()) {
        dr = value & 0x00ffff3f;
        initialised = true;
      }
      break;
    case CR:
      write_cr(value);
      break;
    case ISR:
      if (keys != 2) value = (value & ~(uint32_t)ISR_INIT) | (initialising ? ISR_INIT : 0); /* INIT is locked */
      write_isr(value);
      break;
    case PRER:
      if (init_reached()) prer = value & 0x007f7fff;
      break;
    case WUTR:
      if (wake_up_timer_free()) wutr = value & 0xffff;
      break;
    default:
      break;
  }
}
