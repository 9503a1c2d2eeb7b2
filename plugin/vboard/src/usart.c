/* SPDX-License-Identifier: GPL-2.0-or-later
 * USART1 and USART2 (RM0090 30) on the process's stdin and stdout. The line is infinitely fast: a byte is sent when it
 * is written and received when the host has sent it; parity and overrun are not modelled, and the baud rate only as a
 * check: with --baud, bytes at another rate than the host's arrive broken and are a violation. A firmware that
 * polls an empty receiver lets the process sleep in poll(2), and the time that passes for the host passes for the
 * firmware too (counted as wait_cycles). When stdin is closed and the firmware keeps asking, the run ends. */
#include "vboard.h"

enum {
  SR_RXNE = 1u << 5,
  SR_TC = 1u << 6,
  SR_TXE = 1u << 7,
  CR1_RE = 4,
  CR1_TE = 8,
  CR1_RXNEIE = 32,
  CR1_TCIE = 64,
  CR1_TXEIE = 128,
  CR1_OVER8 = 1u << 15,
  CR1_UE = 1u << 13
};
enum {
  SPIN_GAP = 5000,      /* polls closer than this many cycles are a waiting loop */
  SPIN_POLLS = 64,      /* that many of them, and the process sleeps */
  CLOSED_POLLS = 20000, /* polls of a closed input before the run ends, */
  CLOSED_SECONDS = 2,   /* or this much modelled time */
  INTERRUPT_POLL_CYCLES = 20000
};

typedef struct {
  int irq;
  uint32_t sr, brr, cr1, cr2, cr3, gtpr;
} usart;

static usart usart1 = {.irq = IRQ_USART1, .sr = SR_TXE | SR_TC}, usart2 = {.irq = IRQ_USART2, .sr = SR_TXE | SR_TC};
static uint64_t last_poll, closed_since, next_input_check;
static unsigned empty_polls, closed_polls;

/* The byte as the other end of the line sees it. Silicon's receiver tolerates 3.75 % (RM0090 30.3.5), shared by both
 * ends. */
static uint8_t over_the_line(const usart *u, uint8_t byte) {
  uint32_t line = machine.options.baud;
  if (!line) return byte;
  uint32_t divider = (u->cr1 & CR1_OVER8) ? (u->brr >> 4) * 8 + (u->brr & 7) : u->brr;
  double rate = divider ? (double)rcc_apb_hz(u == &usart1 ? 2 : 1) / divider : 0;
  if (rate > 0.97 * line && rate < 1.03 * line) return byte;
  violation_record("baud-rate", "USART%d at %.0f baud on a line of %u", u == &usart1 ? 1 : 2, rate, line);
  return (uint8_t)~byte;
}

static bool receives(const usart *u) { return (u->cr1 & (CR1_UE | CR1_RE)) == (CR1_UE | CR1_RE); }

static void update_line(usart *u) {
  bool received = receives(u) && (u->cr1 & CR1_RXNEIE) && host_input_ready();
  bool sent = (u->cr1 & CR1_UE) && (u->cr1 & (CR1_TCIE | CR1_TXEIE) & ((u->sr & SR_TC) | (u->sr & SR_TXE)));
  nvic_set_line(u->irq, received || sent);
}

static void count_closed_poll(void) {
  if (closed_polls++ == 0) closed_since = machine.cycles;
  if (closed_polls > CLOSED_POLLS || machine.cycles - closed_since > (uint64_t)CLOSED_SECONDS * rcc_hclk()) {
    end_run(EXIT_CODE_LIMIT, "input closed: the firmware waits for bytes that cannot come (pc 0x%08x)", trace_pc());
  }
}

static void on_empty_poll(void) {
  if (host_input_closed()) {
    count_closed_poll();
    return;
  }
  empty_polls = machine.cycles - last_poll < SPIN_GAP ? empty_polls + 1 : 0;
  last_poll = machine.cycles;
  if (empty_polls < SPIN_POLLS) return;
  host_flush();
  double began = wall_seconds();
  host_input_wait(0.01);
  events_wait((uint64_t)((wall_seconds() - began) * rcc_hclk()));
  last_poll = machine.cycles;
}

static uint32_t read_register(usart *u, uint32_t offset) {
  switch (offset) {
    case 0x00:
      if (!receives(u)) return u->sr;
      if (host_input_ready()) return u->sr | SR_RXNE;
      on_empty_poll();
      return u->sr;
    case 0x04: {
      int byte = receives(u) ? host_input_take() : -1;
      empty_polls = 0;
      update_line(u);
      return byte < 0 ? 0 : over_the_line(u, (uint8_t)byte);
    }
    case 0x08:
      return u->brr;
    case 0x0c:
      return u->cr1;
    case 0x10:
      return u->cr2;
    case 0x14:
      return u->cr3;
    case 0x18:
      return u->gtpr;
    default:
      return 0;
  }
}

static void write_register(usart *u, uint32_t offset, uint32_t value) {
  switch (offset) {
    case 0x00:
      u->sr = (u->sr & ~(uint32_t)SR_TC) | (u->sr & value & SR_TC); /* TC is cleared by writing zero */
      break;
    case 0x04:
      if ((u->cr1 & (CR1_UE | CR1_TE)) == (CR1_UE | CR1_TE)) host_output(over_the_line(u, (uint8_t)value));
      u->sr |= SR_TC | SR_TXE;
      empty_polls = closed_polls = 0;
      break;
    case 0x08:
      u->brr = value & 0xffff;
      break;
    case 0x0c:
      u->cr1 = value & 0xffff;
      next_input_check = 0;
      break;
    case 0x10:
      u->cr2 = value & 0x7fff;
      break;
    case 0x14:
      u->cr3 = value & 0xfff;
      break;
    case 0x18:
      u->gtpr = value & 0xffff;
      break;
    default:
      break;
  }
  update_line(u);
}

uint32_t usart1_read(uint32_t address) { return read_register(&usart1, address & 0x3ff); }
void usart1_write(uint32_t address, uint32_t value) { write_register(&usart1, address & 0x3ff, value); }
uint32_t usart2_read(uint32_t address) { return read_register(&usart2, address & 0x3ff); }
void usart2_write(uint32_t address, uint32_t value) { write_register(&usart2, address & 0x3ff, value); }

static bool interrupt_wanted(const usart *u) { return receives(u) && (u->cr1 & CR1_RXNEIE); }
bool usart_waits_for_input(void) { return interrupt_wanted(&usart1) || interrupt_wanted(&usart2); }

uint64_t usart_deadline(void) { return usart_waits_for_input() && !host_input_closed() ? next_input_check : NEVER; }

void usart_service(void) {
  if (!usart_waits_for_input()) return;
  update_line(&usart1);
  update_line(&usart2);
  if (machine.cycles >= next_input_check) next_input_check = machine.cycles + INTERRUPT_POLL_CYCLES;
}

static void reset(usart *u) {
  *u = (usart){.irq = u->irq, .sr = SR_TXE | SR_TC};
  update_line(u);
}

void usart_reset(void) {
  reset(&usart1);
  reset(&usart2);
}
