/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/arch.h"
#include "rqdkm/elementwise.h"

int32_t rqdkm_clip_s8(rqdkm_clamp clamp, int32_t count, const int8_t *input, int8_t *output) {
  if (input == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  const uint32_t low = ((uint32_t)clamp.min & 0xffU) * 0x01010101U;
  const uint32_t high = ((uint32_t)clamp.max & 0xffU) * 0x01010101U;
  int32_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const uint32_t a = rqdkm_min_s8x4(rqdkm_load32(input + i), high);
    const uint32_t b = rqdkm_min_s8x4(rqdkm_load32(input + i + 4), high);
    rqdkm_store32(output + i, rqdkm_max_s8x4(a, low));
    rqdkm_store32(output + i + 4, rqdkm_max_s8x4(b, low));
  }
  for (; i < count; i++) {
    const int32_t value = input[i];
    output[i] = (int8_t)(value < clamp.min ? clamp.min : value > clamp.max ? clamp.max : value);
  }
  return RQDKM_OK;
}
