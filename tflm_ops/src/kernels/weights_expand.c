/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/weights.h"

/* Lanes of four taps of two channels: a word of each. */
RQDKM_INLINE void expand_quad(uint32_t *dst, uint32_t a, uint32_t b) {
  rqdkm_store32(dst + 0, rqdkm_sxtb16(a));
  rqdkm_store32(dst + 1, rqdkm_sxtb16(b));
  rqdkm_store32(dst + 2, rqdkm_sxtb16_ror8(a));
  rqdkm_store32(dst + 3, rqdkm_sxtb16_ror8(b));
}

/* The same where every value has an offset; `minus`: minus the offset, in both lanes. */
RQDKM_INLINE void expand_offset_quad(uint32_t *dst, uint32_t a, uint32_t b, uint32_t minus) {
  rqdkm_store32(dst + 0, rqdkm_sxtab16(minus, a));
  rqdkm_store32(dst + 1, rqdkm_sxtab16(minus, b));
  rqdkm_store32(dst + 2, rqdkm_sxtab16_ror8(minus, a));
  rqdkm_store32(dst + 3, rqdkm_sxtab16_ror8(minus, b));
}

void rqdkm_weights_expand(uint32_t *dst, const int8_t *src, int32_t quads) {
  const int8_t *const pairs_end = src + quads / 2 * 16;
  RQDKM_NO_UNROLL
  while (src != pairs_end) { /* one flash line: 16 weights */
    const uint32_t a = rqdkm_load32(src), b = rqdkm_load32(src + 4);
    const uint32_t c = rqdkm_load32(src + 8), d = rqdkm_load32(src + 12);
    expand_quad(dst, a, b);
    expand_quad(dst + 4, c, d);
    src += 16;
    dst += 8;
  }
  if (quads % 2 != 0) {
    expand_quad(dst, rqdkm_load32(src), rqdkm_load32(src + 4));
  }
}

static const int8_t *expand_4(uint32_t *dst, const int8_t *src, int32_t quads) {
  const uint32_t minus = 0xfff8fff8u;
  uint32_t mask = 0x0f0f0f0fu;
  const int8_t *const end = src + quads / 2 * 8;
  RQDKM_IN_REGISTER(mask);
  RQDKM_NO_UNROLL
  while (src != end) {
    const uint32_t v = rqdkm_load32(src), w = rqdkm_load32(src + 4);
    expand_offset_quad(dst, mask & v, mask & (v >> 4), minus);
    expand_offset_quad(dst + 4, mask & w, mask & (w >> 4), minus);
    src += 8;
    dst += 8;
  }
  if (quads % 2 != 0) {
    const uint32_t v = rqdkm_load32(src);
    expand_offset_quad(dst, mask & v, mask & (v >> 4), minus);
    src += 4;
  }
  return src;
}

static const int8_t *expand_2(uint32_t *dst, const int8_t *src, int32_t quads) {
  const uint32_t minus = 0xfffefffeu;
  uint32_t mask = 0x03030303u;
  const int8_t *const end = src + quads / 2 * 4;
  RQDKM_IN_REGISTER(mask);
  RQDKM_NO_UNROLL
  while (src != end) {
    const uint32_t v = rqdkm_load32(src);
    expand_offset_quad(dst, mask & v, mask & (v >> 2), minus);
    expand_offset_quad(dst + 4, mask & (v >> 4), mask & (v >> 6), minus);
    src += 4;
    dst += 8;
  }
  if (quads % 2 != 0) {
    const uint32_t v = rqdkm_load32(src);
    expand_offset_quad(dst, mask & v, mask & (v >> 2), minus);
    src += 4;
  }
  return src;
}

const int8_t *rqdkm_weights_expand_packed(uint32_t *dst, const int8_t *src, int32_t quads, int32_t bits) {
  return bits == 4 ? expand_4(dst, src, quads) : expand_2(dst, src, quads);
}

const int8_t *rqdkm_weights_expand_pairs(uint32_t *dst, const int8_t *src, int32_t quads, int32_t pairs,
                                         const uint8_t *bits) {
  if (bits == 0) {
    return rqdkm_weights_expand_pair(dst, src, quads * pairs, 8);
  }
  for (int32_t pair = 0; pair < pairs; pair++) {
    src = rqdkm_weights_expand_pair(dst, src, quads, bits[pair]);
    dst += 4 * quads;
  }
  return src;
}
