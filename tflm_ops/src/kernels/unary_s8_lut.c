/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/arch.h"
#include "rqdkm/elementwise.h"

int32_t rqdkm_unary_s8_lut(int32_t count, const int8_t *table, const int8_t *input, int8_t *output) {
  if (table == NULL || input == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  const int8_t *const end = output + (count & ~3);
  RQDKM_NO_UNROLL while (output != end) {
    const uint32_t x = rqdkm_load32(input);
    input += 4;
    const uint32_t i0 = x & 0xffU, i1 = (x >> 8) & 0xffU, i2 = (x >> 16) & 0xffU, i3 = x >> 24;
    const int8_t y0 = table[i0], y1 = table[i1], y2 = table[i2], y3 = table[i3];
    RQDKM_BARRIER(); /* loads behind each other overlap */
    output[0] = y0;
    RQDKM_BARRIER(); /* four STRB cost less than building a word */
    output[1] = y1;
    RQDKM_BARRIER();
    output[2] = y2;
    RQDKM_BARRIER();
    output[3] = y3;
    output += 4;
  }
  RQDKM_NO_UNROLL for (int32_t i = 0; i < (count & 3); i++) output[i] = table[(uint8_t)input[i]];
  return RQDKM_OK;
}
