/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/arch.h"
#include "rqdkm/bits.h"

/* A byte, every element plus 2 -> four elements. */
RQDKM_INLINE uint32_t spread(uint32_t byte) {
  const uint32_t halves = (byte | byte << 12) & 0x000f000fU;
  return rqdkm_ssub8((halves | halves << 6) & 0x03030303U, 0x02020202U);
}

void rqdkm_unpack_s2(const void *packed, int32_t count, int8_t *values) {
  const uint8_t *p = (const uint8_t *)packed;
  RQDKM_NO_UNROLL for (; count >= 16; count -= 16, p += 4, values += 16) {
    const uint32_t word = rqdkm_load32(p) ^ 0xaaaaaaaaU; /* x + 2 is never negative */
    rqdkm_store32(values, spread(word & 0xffU));
    rqdkm_store32(values + 4, spread(word >> 8 & 0xffU));
    rqdkm_store32(values + 8, spread(word >> 16 & 0xffU));
    rqdkm_store32(values + 12, spread(word >> 24));
  }
  RQDKM_NO_UNROLL for (int32_t i = 0; i < count; i++) { *values++ = (int8_t)(((p[i / 4] >> 2 * (i % 4) & 3) ^ 2) - 2); }
}
