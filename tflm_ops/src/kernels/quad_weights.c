/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/quad.h"
#include "rqdkm/kernels/weights.h"

/* The signed value of `bits` bits from bit `at` on, and the one above it, moved to the top, down by `down`: W; bits and
   at are constants. top: the 4 highest bits. */
RQDKM_INLINE uint32_t operand(uint32_t v, const int32_t bits, const int32_t at, uint32_t top, int32_t down) {
  const int32_t low = (int32_t)(v << (32 - bits - at)) >> (32 - bits);
  const int32_t high = (int32_t)(v << (32 - 2 * bits - at)) >> (4 - bits); /* extended to 4 bits, rubbish below */
  return (uint32_t)low + (uint32_t)((int32_t)((uint32_t)high & top) >> down);
}

/* Four taps of two channels, in every byte from bit `at` on; the rest as above. */
RQDKM_INLINE void four_taps(uint32_t *dst, uint32_t v, const int32_t bits, const int32_t at, uint32_t top,
                            int32_t down) {
  rqdkm_store32(dst + 0, operand(v, bits, at, top, down));
  rqdkm_store32(dst + 2, operand(v, bits, at + 8, top, down));
  rqdkm_store32(dst + 4, operand(v, bits, at + 16, top, down));
  rqdkm_store32(dst + 6, operand(v, bits, at + 24, top, down));
}

const int8_t *rqdkm_quad_weights(uint32_t *dst, const int8_t *src, int32_t taps, int32_t bits, int32_t first) {
  const uint32_t *const end = dst + 2 * taps;
  const int32_t down = first - 4;
  uint32_t top = 0xf0000000u;
  RQDKM_IN_REGISTER(top);
  if (bits == 4) {
    RQDKM_NO_UNROLL
    for (; dst != end; dst += 8, src += 4) {
      four_taps(dst, rqdkm_load32(src) ^ 0x88888888u, 4, 0, top, down); /* what is stored is offset by 8 */
    }
    return src;
  }
  RQDKM_NO_UNROLL
  while (dst != end) {
    const uint32_t v = rqdkm_load32(src) ^ 0xaaaaaaaau; /* offset by 2 */
    src += 4;
    four_taps(dst, v, 2, 0, top, down);
    dst += 8;
    if (dst != end) {
      four_taps(dst, v, 2, 4, top, down);
      dst += 8;
    }
  }
  return src;
}
