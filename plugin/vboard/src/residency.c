/* SPDX-License-Identifier: GPL-2.0-or-later
 * How long the chip was in which state: everything its supply current depends on. Energy is this table times a table of
 * currents, which is the user's business; so no current is written here. */
#include <string.h>

#include "vboard.h"

enum { MAX_STATES = 512 };

typedef struct {
  power_mode mode;
  bool scale1, stop_low_power, stop_flash_off;
  clock_state clock; /* zero in stop mode: nothing is clocked */
} chip_state;

static struct {
  chip_state state;
  uint64_t nanoseconds, cycles, entries;
} table[MAX_STATES];
static size_t count, current;
static power_mode mode;
static uint64_t settled_ns, settled_cycles;

static const char *const mode_names[] = {"run", "sleep", "stop", "wake-up", "wait"};

static chip_state snapshot(void) {
  chip_state state;
  memset(&state, 0, sizeof state); /* compared as bytes */
  state.mode = mode;
  state.scale1 = power_scale1();
  if (mode == MODE_STOP || mode == MODE_WAKE_UP) {
    state.stop_low_power = power_stop_low_power();
    state.stop_flash_off = power_stop_flash_off();
  } else {
    clock_state clock = rcc_state(mode == MODE_SLEEP);
    state.clock.hclk_hz = clock.hclk_hz;
    state.clock.vco_hz = clock.vco_hz;
    state.clock.source = clock.source;
    state.clock.wait_states = clock.wait_states;
    state.clock.ahb1 = clock.ahb1;
    state.clock.apb1 = clock.apb1;
    state.clock.apb2 = clock.apb2;
    state.clock.hse_on = clock.hse_on;
    state.clock.art = clock.art;
  }
  return state;
}

static void charge(void) {
  uint64_t now = rcc_nanoseconds();
  table[current].nanoseconds += now - settled_ns;
  table[current].cycles += machine.cycles - settled_cycles;
  settled_ns = now;
  settled_cycles = machine.cycles;
}

void residency_update(void) {
  charge();
  chip_state state = snapshot();
  if (count && memcmp(&table[current].state, &state, sizeof state) == 0) return;
  size_t k = 0;
  while (k < count && memcmp(&table[k].state, &state, sizeof state) != 0) k++;
  if (k == MAX_STATES) return; /* a firmware with that many states keeps the last one */
  if (k == count) table[count++].state = state;
  table[k].entries++;
  current = k;
}

void residency_mode(power_mode next) {
  if (next == mode) return;
  if (next != MODE_WAIT && mode != MODE_WAIT) timeline_record("mode", mode_names[next], 0);
  charge();
  mode = next;
  residency_update();
}

void residency_write(FILE *file) {
  charge();
  fputs("  \"residency\": [", file);
  const char *separator = "";
  for (size_t k = 0; k < count; k++) {
    const chip_state *s = &table[k].state;
    const clock_state *c = &s->clock;
    if (!table[k].nanoseconds && !table[k].cycles) continue;
    bool stopped = s->mode == MODE_STOP || s->mode == MODE_WAKE_UP;
    fprintf(file, "%s\n    {\"mode\": \"%s\", \"time_ms\": %.6f, \"cycles\": %llu, \"entries\": %llu, \"scale\": %d",
            separator, mode_names[s->mode], (double)table[k].nanoseconds / 1e6, (unsigned long long)table[k].cycles,
            (unsigned long long)table[k].entries, s->scale1 ? 1 : 2);
    if (stopped) {
      fprintf(file, ", \"regulator\": \"%s\", \"flash\": \"%s\"}", s->stop_low_power ? "low-power" : "main",
              s->stop_flash_off ? "deep power-down" : "stop");
    } else {
      fprintf(file,
              ", \"hclk_hz\": %u, \"source\": \"%s\", \"vco_hz\": %u, \"hse\": %s, \"art\": %s, \"wait_states\": %u, "
              "\"ahb1\": \"0x%08x\", \"apb1\": \"0x%08x\", \"apb2\": \"0x%08x\"}",
              c->hclk_hz, c->source, c->vco_hz, c->hse_on ? "true" : "false", c->art ? "true" : "false", c->wait_states,
              c->ahb1, c->apb1, c->apb2);
    }
    separator = ",";
  }
  fputs("\n  ],\n", file);
}
