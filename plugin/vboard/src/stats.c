/* SPDX-License-Identifier: GPL-2.0-or-later
 * --stats: what happened, as JSON (schema in docs/virtual-board.md). */
#include <errno.h>
#include <string.h>

#include "vboard.h"

typedef unsigned long long u64;

void json_string(FILE *file, const char *text) {
  fputc('"', file);
  for (; *text; text++) {
    unsigned char c = (unsigned char)*text;
    if (c == '"' || c == '\\') {
      fprintf(file, "\\%c", c);
    } else if (c < 0x20 || c >= 0x7f) {
      fprintf(file, "\\u%04x", c);
    } else {
      fputc(c, file);
    }
  }
  fputc('"', file);
}

static void write_violations(FILE *file) {
  fputs("  \"violations\": [", file);
  for (size_t k = 0; k < violation_count; k++) {
    const violation *v = &violations[k];
    fprintf(file, "%s\n    {\"kind\": \"%s\", \"reason\": ", k ? "," : "", v->kind);
    json_string(file, v->reason);
    fprintf(file, ", \"pc\": \"0x%08x\", \"cycle\": %llu, \"time_ms\": %.6f, \"count\": %u}", v->pc, (u64)v->cycle,
            (double)v->nanoseconds / 1e6, v->count);
  }
  fputs(violation_count ? "\n  ],\n" : "],\n", file);
}

static void write_clock(FILE *file) {
  fputs("  \"clock_history\": [", file);
  for (size_t k = 0; k < clock_change_count; k++) {
    const clock_change *c = &clock_history[k];
    fprintf(file,
            "%s\n    {\"cycle\": %llu, \"time_ms\": %.6f, \"hclk_hz\": %u, \"source\": \"%s\", \"wait_states\": %u}",
            k ? "," : "", (u64)c->cycle, (double)c->nanoseconds / 1e6, c->hclk_hz, c->source, c->wait_states);
  }
  fputs("\n  ]\n}\n", file);
}

void stats_write(void) {
  if (!machine.options.stats_path) return;
  FILE *file = fopen(machine.options.stats_path, "w");
  if (!file) {
    message("cannot write %s: %s", machine.options.stats_path, strerror(errno));
    return;
  }
  flash_counters flash = flash_model_counters();
  uint32_t initial_sp = 0, lowest = trace_lowest_stack();
  memory_read32(FLASH_BASE, &initial_sp);
  fputs("{\n  \"schema\": \"rqdkm-vboard-stats/1\",\n  \"version\": \"" VBOARD_VERSION "\",\n  \"exit_reason\": ",
        file);
  json_string(file, machine.exit_reason);
  fprintf(file, ",\n  \"exit_code\": %d,\n  \"model\": \"%s\",\n  \"timing\": %s,\n", machine.exit_code,
          flash_model_name(machine.options.flash_model), machine.options.functional ? "false" : "true");
  fprintf(file, "  \"cycles\": %llu,\n  \"sleep_cycles\": %llu,\n  \"wait_cycles\": %llu,\n  \"instructions\": %llu,\n",
          (u64)machine.cycles, (u64)machine.sleep_cycles, (u64)machine.wait_cycles, (u64)trace_instructions());
  fprintf(file, "  \"time_ms\": %.6f,\n  \"hclk_hz\": %u,\n", (double)rcc_nanoseconds() / 1e6, rcc_hclk());
  fprintf(file,
          "  \"icache\": {\"hits\": %llu, \"misses\": %llu},\n  \"dcache\": {\"hits\": %llu, \"misses\": %llu},\n",
          (u64)flash.instruction_hits, (u64)flash.instruction_misses, (u64)flash.data_hits, (u64)flash.data_misses);
  fprintf(file, "  \"unaligned_accesses\": %llu,\n", (u64)trace_unaligned());
  if (lowest && lowest < initial_sp && initial_sp - lowest <= SRAM_BYTES) {
    fprintf(file, "  \"stack_bytes\": %u,\n", initial_sp - lowest);
  } else {
    fputs("  \"stack_bytes\": null,\n", file);
  }
  fprintf(file, "  \"wall_seconds\": %.6f,\n", wall_seconds());
  residency_write(file);
  write_violations(file);
  write_clock(file);
  if (fclose(file) != 0) message("cannot write %s: %s", machine.options.stats_path, strerror(errno));
}
