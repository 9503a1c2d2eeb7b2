/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/weights.h"

/* Four bytes v + offset -> v, int8. */
RQDKM_INLINE void store(uint32_t *dst, uint32_t bytes, uint32_t offset) {
  rqdkm_store32(dst, rqdkm_ssub8(bytes, offset));
}

RQDKM_INLINE void unpack_4(uint32_t *dst, uint32_t packed) {
  store(dst, packed & 0x0f0f0f0fu, 0x08080808u);
  store(dst + 1, (packed >> 4) & 0x0f0f0f0fu, 0x08080808u);
}

RQDKM_INLINE void unpack_2(uint32_t *dst, uint32_t packed) {
  store(dst, packed & 0x03030303u, 0x02020202u);
  store(dst + 1, (packed >> 2) & 0x03030303u, 0x02020202u);
}

/* Four words a turn, so that the loop costs little beside them. */
void rqdkm_weights_unpack(uint32_t *dst, const int8_t *src, int32_t words, int32_t bits) {
  const uint32_t *const end = dst + words / 4 * 4;
  if (bits == 4) {
    RQDKM_NO_UNROLL
    for (; dst != end; dst += 4) {
      const uint32_t first = rqdkm_load32(src), second = rqdkm_load32(src + 4);
      unpack_4(dst, first);
      unpack_4(dst + 2, second);
      src += 8;
    }
  } else {
    RQDKM_NO_UNROLL
    for (; dst != end; dst += 4) {
      const uint32_t packed = rqdkm_load32(src);
      unpack_2(dst, packed);
      unpack_2(dst + 2, packed >> 4);
      src += 4;
    }
  }
  if (words % 4 != 0) {
    const uint32_t packed = rqdkm_load32(src);
    if (bits == 4) {
      unpack_4(dst, packed);
    } else {
      unpack_2(dst, packed);
    }
  }
}
