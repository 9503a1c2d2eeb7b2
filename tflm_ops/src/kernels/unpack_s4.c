/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/arch.h"
#include "rqdkm/bits.h"

/* Two bytes in 16-bit lanes, every element plus 8 -> four elements. */
RQDKM_INLINE uint32_t spread(uint32_t lanes) { return rqdkm_ssub8((lanes | lanes << 4) & 0x0f0f0f0fU, 0x08080808U); }

void rqdkm_unpack_s4(const void *packed, int32_t count, int8_t *values) {
  const uint8_t *p = (const uint8_t *)packed;
  RQDKM_NO_UNROLL for (; count >= 8; count -= 8, p += 4, values += 8) {
    const uint32_t word = rqdkm_load32(p) ^ 0x88888888U; /* x + 8 is never negative */
    const uint32_t even = rqdkm_uxtb16(word), odd = rqdkm_uxtb16_ror8(word);
    rqdkm_store32(values, spread(rqdkm_pack_lo_lo(even, odd)));
    rqdkm_store32(values + 4, spread(rqdkm_pack_hi_hi(even, odd)));
  }
  RQDKM_NO_UNROLL for (; count > 0; count -= 2, p++) {
    *values++ = (int8_t)(((*p & 0xf) ^ 8) - 8);
    if (count > 1) *values++ = (int8_t)((*p >> 4 ^ 8) - 8);
  }
}
