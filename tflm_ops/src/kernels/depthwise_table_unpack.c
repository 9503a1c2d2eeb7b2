/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/arch.h"
#include "rqdkm/depthwise.h"

/* The lowest `bits` of x as a signed number, shifted left. */
RQDKM_INLINE uint32_t lane(uint32_t x, const int32_t bits, uint32_t shift) {
  return (uint32_t)((int32_t)(x << (32 - bits)) >> (32 - bits)) << shift;
}

RQDKM_INLINE uint32_t lanes(uint32_t pair, const int32_t bits, uint32_t low, uint32_t high) {
  return rqdkm_pack_lo_lo(lane(pair, bits, low), lane(pair >> bits, bits, high));
}

/* `count` words of weights; returns the end of the packed ones. */
RQDKM_INLINE const uint8_t *unpack(uint32_t *row, int32_t count, const uint8_t *packed, const int32_t bits,
                                   uint32_t low, uint32_t high) {
  const uint32_t *const end = row + count;
  RQDKM_NO_UNROLL
  for (; row < end; row++) {
    uint32_t pair = *packed++;
    if (bits == 8) {
      pair |= (uint32_t)*packed++ << 8;
    }
    *row = lanes(pair, bits, low, high);
    if (bits == 2 && ++row < end) { /* a byte holds two pairs */
      *row = lanes(pair >> 4, bits, low, high);
    }
  }
  return packed;
}

void rqdkm_depthwise_table_unpack(uint32_t *table, int32_t rows, int32_t weight_words, int32_t constant_words,
                                  const uint8_t *packed, const uint32_t *constants) {
  for (int32_t i = 0; i < rows; i++) {
    const int32_t bits = packed[0];
    const uint32_t low = packed[1], high = packed[2];
    packed = bits == 4   ? unpack(table, weight_words, packed + 3, 4, low, high)
             : bits == 2 ? unpack(table, weight_words, packed + 3, 2, low, high)
                         : unpack(table, weight_words, packed + 3, 8, low, high);
    table += weight_words;
    const uint32_t *const end = table + constant_words;
    RQDKM_NO_UNROLL
    while (table != end) {
      *table++ = *constants++;
    }
  }
}
