/* SPDX-License-Identifier: GPL-2.0-or-later
 * Flash accelerators.
 * f407: RM0090 3.5.2 "Adaptive real-time memory accelerator": 128-bit flash lines, 64 instruction lines, 8 data lines,
 *       both taken as fully associative with least-recently-used replacement; prefetch of the next instruction line.
 * l4r5: lines of 32 bytes with four 8-byte sectors filled one by one, 32 instruction and 8 data lines, no prefetch (the
 *       shape that reproduced published NUCLEO-L4R5ZI results).
 * A flash read that misses costs LATENCY extra cycles. A sequential instruction line found by the prefetcher has had
 * the four or more cycles of the line before it to arrive, so it costs LATENCY - 4, at least 0. */
#include <string.h>

#include "vboard.h"

enum { MAX_LINES = 64, LINE_COUNT = 1 << 16, PREFETCH_HEAD_START = 4 };

typedef struct {
  uint8_t slot_of[LINE_COUNT]; /* line -> slot, 0xff = not cached */
  uint16_t line[MAX_LINES];
  uint8_t sectors[MAX_LINES];                           /* filled sectors (all of them where lines are filled whole) */
  uint8_t next[MAX_LINES + 1], previous[MAX_LINES + 1]; /* recency list; index MAX_LINES is its head */
  bool used[MAX_LINES];
  uint64_t hits, misses;
} line_cache;

unsigned flash_fetch_shift = 4;
static flash_model_kind model;
static line_cache instructions, data;
static unsigned wait_states;
static bool prefetch, instruction_cache, data_cache;
static uint32_t last_line = UINT32_MAX;

static void cache_clear(line_cache *cache, unsigned lines) {
  memset(cache->slot_of, 0xff, sizeof cache->slot_of);
  memset(cache->used, 0, sizeof cache->used);
  memset(cache->sectors, 0, sizeof cache->sectors);
  unsigned head = MAX_LINES;
  for (unsigned k = 0; k < lines; k++) {
    cache->next[k] = (uint8_t)(k + 1 < lines ? k + 1 : head);
    cache->previous[k] = (uint8_t)(k ? k - 1 : head);
  }
  cache->next[head] = 0;
  cache->previous[head] = (uint8_t)(lines - 1);
}

static void make_newest(line_cache *cache, unsigned slot) {
  unsigned head = MAX_LINES;
  if (cache->next[head] == slot) return;
  cache->next[cache->previous[slot]] = cache->next[slot];
  cache->previous[cache->next[slot]] = cache->previous[slot];
  cache->next[slot] = cache->next[head];
  cache->previous[slot] = (uint8_t)head;
  cache->previous[cache->next[head]] = (uint8_t)slot;
  cache->next[head] = (uint8_t)slot;
}

static inline bool cache_access(line_cache *cache, uint32_t line, unsigned sector_bit) {
  unsigned slot = cache->slot_of[line];
  if (slot == 0xff) { /* take the oldest slot */
    slot = cache->previous[MAX_LINES];
    if (cache->used[slot]) cache->slot_of[cache->line[slot]] = 0xff;
    cache->used[slot] = true;
    cache->line[slot] = (uint16_t)line;
    cache->slot_of[line] = (uint8_t)slot;
    cache->sectors[slot] = 0;
  }
  make_newest(cache, slot);
  bool hit = cache->sectors[slot] & sector_bit;
  cache->sectors[slot] |= (uint8_t)sector_bit;
  if (hit) {
    cache->hits++;
  } else {
    cache->misses++;
  }
  return hit;
}

static unsigned instruction_lines(void) { return model == FLASH_MODEL_L4R5 ? 32 : 64; }

void flash_model_init(flash_model_kind kind) {
  model = kind;
  flash_fetch_shift = kind == FLASH_MODEL_L4R5 ? 3 : 4;
  cache_clear(&instructions, instruction_lines());
  cache_clear(&data, 8);
}

void flash_model_configure(uint32_t acr) {
  wait_states = model == FLASH_MODEL_NONE ? 0 : (acr & 7);
  prefetch = acr >> 8 & 1;
  instruction_cache = acr >> 9 & 1;
  data_cache = acr >> 10 & 1;
  /* ICRST and DCRST act only while the cache is off (RM0090 3.9.1). */
  if ((acr >> 11 & 1) && !instruction_cache) cache_clear(&instructions, instruction_lines());
  if ((acr >> 12 & 1) && !data_cache) cache_clear(&data, 8);
}

unsigned flash_fetch(uint32_t unit) {
  if (wait_states == 0) return 0;
  if (model == FLASH_MODEL_L4R5) {
    if (!instruction_cache) {
      instructions.misses++;
      return wait_states;
    }
    return cache_access(&instructions, unit >> 2, 1u << (unit & 3)) ? 0 : wait_states;
  }
  bool sequential = unit == last_line + 1;
  last_line = unit;
  bool hit = false;
  if (instruction_cache) {
    hit = cache_access(&instructions, unit, 1);
  } else {
    instructions.misses++;
  }
  if (hit) return 0;
  if (sequential && prefetch) return wait_states > PREFETCH_HEAD_START ? wait_states - PREFETCH_HEAD_START : 0;
  return wait_states;
}

unsigned flash_load(uint32_t offset) {
  if (wait_states == 0) return 0;
  if (!data_cache) {
    data.misses++;
    return wait_states;
  }
  bool hit = model == FLASH_MODEL_L4R5 ? cache_access(&data, offset >> 5, 1u << (offset >> 3 & 3))
                                       : cache_access(&data, offset >> 4, 1);
  return hit ? 0 : wait_states;
}

flash_counters flash_model_counters(void) {
  return (flash_counters){instructions.hits, instructions.misses, data.hits, data.misses};
}

const char *flash_model_name(flash_model_kind kind) {
  static const char *const names[] = {"f407", "l4r5", "none"};
  return names[kind];
}
