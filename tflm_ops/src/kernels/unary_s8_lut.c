/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/arch.h"
#include "rqdkm/elementwise.h"

int32_t rqdkm_unary_s8_lut(int32_t count, const int8_t *table, const int8_t *input, int8_t *output) {
  if (table == NULL || input == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  const uint8_t *t = (const uint8_t *)table;
  const int8_t *const end = output + (count & ~3);
  RQDKM_NO_UNROLL while (output != end) {
    const uint32_t x = rqdkm_load32(input);
    input += 4;
    const uint32_t y0 = t[x & 0xffU], y1 = t[(x >> 8) & 0xffU], y2 = t[(x >> 16) & 0xffU], y3 = t[x >> 24];
    rqdkm_store32(output, y0 | y1 << 8 | y2 << 16 | y3 << 24);
    output += 4;
  }
  RQDKM_NO_UNROLL for (int32_t i = 0; i < (count & 3); i++) output[i] = table[(uint8_t)input[i]];
  return RQDKM_OK;
}
