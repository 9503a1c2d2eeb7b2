/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/arch.h"
#include "rqdkm/depthwise.h"

/* The lowest `bits` of x as a signed number, shifted left. */
RQDKM_INLINE uint32_t lane(uint32_t x, int32_t bits, uint32_t shift) {
  const int32_t value = (int32_t)(x << (32 - bits)) >> (32 - bits);
  return (uint32_t)value << shift;
}

void rqdkm_depthwise_table_unpack(uint32_t *table, int32_t rows, int32_t weight_words, int32_t constant_words,
                                  const uint8_t *packed, const uint32_t *constants) {
  for (int32_t row = 0; row < rows; row++) {
    const int32_t bits = packed[0];
    const uint32_t low = packed[1], high = packed[2];
    const uint8_t *const weights = packed + 3;
    RQDKM_NO_UNROLL
    for (int32_t i = 0; i < weight_words; i++) {
      const uint8_t *const at = weights + i * bits / 4;
      uint32_t pair = at[0];
      if (bits == 8) {
        pair |= (uint32_t)at[1] << 8;
      } else if (bits == 2) {
        pair >>= i % 2 * 4;
      }
      *table++ = rqdkm_pack_lo_lo(lane(pair, bits, low), lane(pair >> bits, bits, high));
    }
    RQDKM_NO_UNROLL
    for (int32_t i = 0; i < constant_words; i++) {
      *table++ = *constants++;
    }
    packed = weights + (weight_words * bits + 3) / 4;
  }
}
