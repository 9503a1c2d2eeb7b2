/* SPDX-License-Identifier: GPL-2.0-or-later
 * What happens when: the earliest deadline of all parts becomes machine.next_event, which the instruction hook compares
 * with the clock. Sleeping jumps from deadline to deadline. A new source of events is one line in `next_deadline` and
 * `service`. In stop mode no cycle passes, only time: there the deadlines in nanoseconds count. */
#include <math.h>

#include "vboard.h"

enum { HOUSEKEEPING_CYCLES = 2000000, WAKE_UP_CYCLES = 5 }; /* DS8626 table 34: 5 CPU cycles to wake from sleep */

static uint64_t housekeeping_at;

static uint64_t earlier(uint64_t a, uint64_t b) { return a < b ? a : b; }

static uint64_t running_cycles(void) { return machine.cycles - machine.sleep_cycles - machine.wait_cycles; }

/* What goes on when every fast clock stands still. */
static uint64_t next_deadline_ns(void) { return earlier(rtc_deadline_ns(), pins_deadline_ns()); }

static uint64_t next_deadline(void) {
  uint64_t at = earlier(systick_deadline(), tim_deadline());
  at = earlier(at, usart_deadline());
  at = earlier(at, rcc_cycle_at(next_deadline_ns()));
  return earlier(at, rcc_deadline());
}

void events_schedule(void) {
  uint64_t at = earlier(next_deadline(), housekeeping_at);
  if (machine.options.max_cycles != NEVER) {
    uint64_t limit = machine.options.max_cycles + machine.sleep_cycles + machine.wait_cycles;
    at = earlier(at, limit);
  }
  machine.next_event = at;
}

void events_recheck(void) { machine.next_event = 0; }

void events_check_limits(void) {
  if (running_cycles() >= machine.options.max_cycles) {
    end_run(EXIT_CODE_LIMIT, "cycle limit reached: %llu cycles (pc 0x%08x)",
            (unsigned long long)machine.options.max_cycles, trace_pc());
  }
  if (machine.options.timeout_s > 0 && wall_seconds() > machine.options.timeout_s) {
    end_run(EXIT_CODE_LIMIT, "time limit reached: %g s (pc 0x%08x)", machine.options.timeout_s, trace_pc());
  }
}

static void service_sources(void) {
  rcc_service();
  rtc_service();
  pins_service();
  systick_service();
  tim_service();
  usart_service();
  if (machine.cycles >= housekeeping_at) {
    housekeeping_at = machine.cycles + HOUSEKEEPING_CYCLES;
    host_flush();
    events_check_limits();
  }
}

void events_service(void) {
  service_sources();
  if (running_cycles() >= machine.options.max_cycles) events_check_limits();
  events_schedule();
  if (machine.stop == STOP_NONE && nvic_take()) cpu_request_stop(STOP_INTERRUPT);
}

void events_wait(uint64_t cycles) {
  residency_mode(MODE_WAIT);
  machine.cycles += cycles;
  machine.wait_cycles += cycles;
  residency_mode(MODE_RUN);
  events_recheck();
}

/* Sleep until `until`, but wake early when the host sends something that raises an interrupt. */
static void sleep_until(uint64_t until) {
  uint64_t start = machine.cycles;
  if (usart_waits_for_input() && !host_input_closed()) {
    double hclk = rcc_hclk(), seconds = until == NEVER ? 0.05 : (double)(until - start) / hclk, began = wall_seconds();
    host_flush();
    host_input_wait(fmin(seconds, 0.05));
    uint64_t passed = (uint64_t)((wall_seconds() - began) * hclk);
    if (until == NEVER || (host_input_ready() && passed < until - start) || seconds > 0.05)
      until = earlier(start + passed, until);
  }
  machine.cycles = until;
  machine.sleep_cycles += until - start;
}

static bool awake(bool for_event) {
  return nvic_wakeup() || (for_event && exti_event_take()) || machine.stop == STOP_END;
}

static void sleep_lightly(bool for_event) {
  if (awake(for_event)) return;
  residency_mode(MODE_SLEEP);
  do {
    uint64_t at = next_deadline();
    bool input_possible = usart_waits_for_input() && !host_input_closed();
    if (at == NEVER && !input_possible) {
      end_run(EXIT_CODE_LIMIT, "asleep for ever: WFI at 0x%08x with no interrupt to come", trace_pc());
      break;
    }
    sleep_until(at);
    service_sources();
    if (machine.options.timeout_s > 0) events_check_limits();
  } while (!awake(for_event));
  machine.cycles += WAKE_UP_CYCLES;
  residency_mode(MODE_RUN);
}

/* Stop mode (RM0090 5.3.5). Entry is ignored while a wake-up source is pending. */
static void sleep_deeply(bool for_event) {
  if (awake(for_event) || exti_pending() || rtc_pending()) return;
  residency_mode(MODE_STOP);
  do {
    uint64_t at = next_deadline_ns();
    if (at == NEVER) {
      end_run(EXIT_CODE_LIMIT, "asleep for ever: stop mode at 0x%08x with no event to come", trace_pc());
      break;
    }
    uint64_t now = rcc_nanoseconds();
    rcc_pass_stopped(at > now ? at - now : 0);
    rtc_service();
    pins_service();
    if (machine.options.timeout_s > 0) events_check_limits();
  } while (!awake(for_event));
  residency_mode(MODE_WAKE_UP);
  rcc_pass_stopped(power_wakeup_ns());
  rcc_stop();
  residency_mode(MODE_RUN);
}

void events_sleep(bool for_event) {
  bool deep = scb.scr & SCR_SLEEPDEEP;
  host_flush();
  service_sources();
  if (deep && power_standby()) {
    end_run(EXIT_CODE_LIMIT, "standby is not modelled: deep sleep at 0x%08x with PWR_CR.PDDS set", trace_pc());
  } else if (deep) {
    sleep_deeply(for_event);
  } else {
    sleep_lightly(for_event);
  }
  trace_break_pipeline();
  events_recheck();
}
