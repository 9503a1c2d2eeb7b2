/* SPDX-License-Identifier: Apache-2.0 */
#include "paint.h"

static uint8_t pattern(uint32_t i) { return (uint8_t)((i * 0x9E3779B1u) >> 24 | 1u); /* never 0, the commonest data */ }

void rqdkm_paint(volatile uint8_t *memory, uint32_t size) {
  for (uint32_t i = 0; i < size; i++) memory[i] = pattern(i);
}

uint32_t rqdkm_paint_clean_head(const volatile uint8_t *memory, uint32_t size) {
  uint32_t i = 0;
  while (i < size && memory[i] == pattern(i)) i++;
  return i;
}

uint32_t rqdkm_paint_used(const volatile uint8_t *memory, uint32_t size) {
  while (size > 0 && memory[size - 1] == pattern(size - 1)) size--;
  return size;
}
