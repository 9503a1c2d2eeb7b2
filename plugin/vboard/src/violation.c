/* SPDX-License-Identifier: GPL-2.0-or-later
 * Rules that silicon does not check but suffers from. A broken one is recorded with time, PC and reason; with
 * --strict-clock it ends the run. */
#include <stdarg.h>
#include <string.h>

#include "vboard.h"

enum { MAX_VIOLATIONS = 64 };

violation violations[MAX_VIOLATIONS];
size_t violation_count;

void violation_record(const char *kind, const char *format, ...) {
  char reason[sizeof violations[0].reason];
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(reason, sizeof reason, format, arguments);
  va_end(arguments);
  for (size_t k = 0; k < violation_count; k++) {
    violation *v = &violations[k];
    if (v->pc == trace_pc() && strcmp(v->kind, kind) == 0 && strcmp(v->reason, reason) == 0) {
      v->count++;
      return;
    }
  }
  if (violation_count < MAX_VIOLATIONS) {
    violation *v = &violations[violation_count++];
    *v = (violation){.cycle = machine.cycles, .nanoseconds = rcc_nanoseconds(), .pc = trace_pc(), .count = 1};
    snprintf(v->kind, sizeof v->kind, "%s", kind);
    snprintf(v->reason, sizeof v->reason, "%s", reason);
    message("violation at %.3f ms, pc 0x%08x: %s", (double)v->nanoseconds / 1e6, trace_pc(), reason);
  }
  if (machine.options.strict_clock) end_run(EXIT_CODE_CLOCK, "clock violation (pc 0x%08x): %s", trace_pc(), reason);
}
