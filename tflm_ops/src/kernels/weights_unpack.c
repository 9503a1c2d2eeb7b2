/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/weights.h"

/* Four bytes v + offset -> v, int8. `back` = 0x80 - offset per byte: nothing carries into the next one. */
RQDKM_INLINE uint32_t remove_offset(uint32_t bytes, uint32_t back) { return (bytes + back) ^ 0x80808080u; }

RQDKM_INLINE void unpack_two(uint32_t *dst, uint32_t packed, int32_t bits, uint32_t mask, uint32_t back) {
  rqdkm_store32(dst, remove_offset(mask & packed, back));
  rqdkm_store32(dst + 1, remove_offset(mask & (packed >> bits), back));
}

void rqdkm_weights_unpack(uint32_t *dst, const int8_t *src, int32_t words, int32_t bits) {
  const uint32_t *const end = dst + words;
  RQDKM_NO_UNROLL
  for (; dst != end; dst += 2) {
    const uint32_t packed = rqdkm_load32(src);
    src += 4;
    if (bits == 4) {
      unpack_two(dst, packed, 4, 0x0f0f0f0fu, 0x78787878u);
      continue;
    }
    unpack_two(dst, packed, 2, 0x03030303u, 0x7e7e7e7eu);
    dst += 2;
    if (dst == end) { /* half a word is left */
      return;
    }
    unpack_two(dst, packed >> 4, 2, 0x03030303u, 0x7e7e7e7eu);
  }
}
