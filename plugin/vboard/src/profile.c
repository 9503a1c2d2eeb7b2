/* SPDX-License-Identifier: GPL-2.0-or-later
 * Cycles per function, and per call path for flame graphs ("folded" format: caller;callee cycles).
 * Self figures come from the instruction records and are exact. Call paths follow BL/BLX and returns: a jump to the
 * start of another function is a tail call, a return unwinds to the frame whose return function it reaches. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "vboard.h"

enum { MAX_DEPTH = 512, UNKNOWN = -1 };

typedef struct node {
  int function;
  struct node *caller, *callees, *sibling;
  uint64_t cycles, calls;
} node;

static node root = {.function = UNKNOWN};
static node *current = &root;
static node *interrupted[64];
static unsigned interrupt_depth;
static bool enabled;

static node *callee_of(node *caller, int function) {
  for (node *n = caller->callees; n; n = n->sibling) {
    if (n->function == function) return n;
  }
  node *n = calloc(1, sizeof *n);
  if (!n) return caller;
  *n = (node){.function = function, .caller = caller, .sibling = caller->callees};
  return caller->callees = n;
}

static uint64_t settled_at; /* cycles up to here are charged to their nodes */

static void go_to(node *target) {
  current->cycles += machine.cycles - settled_at;
  settled_at = machine.cycles;
  current = target;
}

static unsigned depth_of(const node *n) {
  unsigned depth = 0;
  for (; n->caller; n = n->caller) depth++;
  return depth;
}

static void enter(node *caller, uint32_t target) {
  if (depth_of(caller) >= MAX_DEPTH) caller = &root;
  node *n = callee_of(caller, elf_function_at(target));
  n->calls++;
  go_to(n);
}

void profile_init(void) {
  enabled = machine.options.profile_path || machine.options.folded_path;
  if (!enabled) return;
  uint32_t reset_vector = 0;
  memory_read32(FLASH_BASE + 4, &reset_vector);
  enter(&root, reset_vector & ~1u);
}

void profile_call(uint32_t target) {
  if (enabled) enter(current, target);
}

void profile_jump(uint32_t target) {
  if (!enabled) return;
  int function = elf_function_at(target);
  if (function == current->function || function == UNKNOWN) return;
  if (elf_functions[function].start == target && current->caller) enter(current->caller, target);
}

void profile_return(uint32_t target) {
  if (!enabled) return;
  int function = elf_function_at(target);
  for (node *n = current->caller; n && n->caller; n = n->caller) {
    if (n->function == function) {
      go_to(n);
      return;
    }
  }
  profile_jump(target); /* BX to a function that nobody on the path is: a tail call through a register */
}

void profile_exception_enter(int exception, uint32_t handler) {
  (void)exception;
  if (!enabled || interrupt_depth == sizeof interrupted / sizeof interrupted[0]) return;
  interrupted[interrupt_depth++] = current;
  enter(&root, handler);
}

void profile_exception_leave(void) {
  if (enabled && interrupt_depth) go_to(interrupted[--interrupt_depth]);
}

/* ---- output ---- */

typedef struct {
  int function;
  uint64_t cycles, instructions, calls;
} line;

static line *lines; /* one per function, then one for code without a symbol */

static void add_instruction(uint32_t address, uint64_t count, uint64_t cycles) {
  int function = elf_function_at(address);
  line *l = &lines[function < 0 ? (int)elf_function_count : function];
  l->cycles += cycles;
  l->instructions += count;
}

static void add_calls(const node *n) {
  if (n->caller) lines[n->function < 0 ? (int)elf_function_count : n->function].calls += n->calls;
  for (const node *c = n->callees; c; c = c->sibling) add_calls(c);
}

static int by_cycles(const void *a, const void *b) {
  const line *x = a, *y = b;
  if (x->cycles != y->cycles) return x->cycles < y->cycles ? 1 : -1;
  return x->function - y->function;
}

static const char *name_of(int function) { return function < 0 ? "(unknown)" : elf_functions[function].name; }

static void write_table(FILE *file) {
  size_t count = elf_function_count + 1;
  lines = calloc(count, sizeof *lines);
  if (!lines) return;
  for (size_t k = 0; k < count; k++) lines[k].function = k < elf_function_count ? (int)k : UNKNOWN;
  trace_for_each(add_instruction);
  add_calls(&root);
  qsort(lines, count, sizeof *lines, by_cycles);
  fprintf(file,
          "{\n  \"schema\": \"rqdkm-vboard-profile/1\",\n  \"cycles\": %llu,\n  \"sleep_cycles\": %llu,\n  "
          "\"functions\": [",
          (unsigned long long)machine.cycles, (unsigned long long)machine.sleep_cycles);
  const char *separator = "\n    ";
  for (size_t k = 0; k < count; k++) {
    if (!lines[k].instructions) continue;
    fprintf(file, "%s{\"name\": ", separator);
    json_string(file, name_of(lines[k].function));
    uint32_t address = lines[k].function < 0 ? 0 : elf_functions[lines[k].function].start;
    fprintf(file, ", \"address\": \"0x%08x\", \"self_cycles\": %llu, \"calls\": %llu, \"instructions\": %llu}", address,
            (unsigned long long)lines[k].cycles, (unsigned long long)lines[k].calls,
            (unsigned long long)lines[k].instructions);
    separator = ",\n    ";
  }
  fprintf(file, "\n  ]\n}\n");
  free(lines);
}

static void write_path(FILE *file, const node *n) {
  if (n->caller && n->caller->caller) {
    write_path(file, n->caller);
    fputc(';', file);
  }
  fputs(name_of(n->function), file);
}

static void write_folded(FILE *file, const node *n) {
  if (n->caller && n->cycles) {
    write_path(file, n);
    fprintf(file, " %llu\n", (unsigned long long)n->cycles);
  }
  for (const node *c = n->callees; c; c = c->sibling) write_folded(file, c);
}

void profile_write(void) {
  go_to(current);
  if (machine.options.profile_path) {
    FILE *file = fopen(machine.options.profile_path, "w");
    if (file) {
      write_table(file);
      fclose(file);
    } else {
      message("cannot write %s: %s", machine.options.profile_path, strerror(errno));
    }
  }
  if (machine.options.folded_path) {
    FILE *file = fopen(machine.options.folded_path, "w");
    if (file) {
      write_folded(file, &root);
      fclose(file);
    } else {
      message("cannot write %s: %s", machine.options.folded_path, strerror(errno));
    }
  }
}
