/* SPDX-License-Identifier: Apache-2.0 */
/* int8 in memory -> pairs of 16-bit lanes in scratch, for the SMLAD kernels.
 *
 * An input x is kept as (x + 128) << 7: never negative, so two lanes of one word never borrow from each other, and the
 * accumulator arrives shifted, as requantization wants it (output.h). Lane orders of four consecutive elements e0..e3:
 *   crossed   (e0, e2), (e1, e3)   what masking a word gives; weights use SXTB16, which gives the same
 *   linear    (e0, e1), (e2, e3)   needed where a run may start at any element; two more instructions per word */
#ifndef RQDKM_KERNELS_EXPAND_H
#define RQDKM_KERNELS_EXPAND_H

#include "rqdkm/arch.h"

#define RQDKM_SIGN_BITS 0x80808080u
#define RQDKM_LANE_SHIFT 7
#define RQDKM_LANE_MASK 0x7f807f80u /* two 8-bit values, shifted */

/* One input value as it stands in a lane. */
RQDKM_INLINE uint32_t rqdkm_expand_value(int32_t x) { return (uint32_t)(x + 128) << RQDKM_LANE_SHIFT; }

/* `count` words of four elements -> crossed lanes, written `step` words apart: dst[0], dst[step], dst[2 step], ... */
RQDKM_INLINE void rqdkm_expand_crossed(uint32_t *dst, const int8_t *src, int32_t count, const int32_t step) {
  RQDKM_NO_UNROLL
  for (int32_t i = 0; i < count; i++) {
    const uint32_t v = rqdkm_load32(src) ^ RQDKM_SIGN_BITS;
    rqdkm_store32(dst, (v << 7) & RQDKM_LANE_MASK);
    rqdkm_store32(dst + step, (v >> 1) & RQDKM_LANE_MASK);
    src += 4;
    dst += 2 * step;
  }
}

/* The same for four pixels at once, word-interleaved: dst[step][pixel]. count >= 1. 34 cycles for 16 values. */
RQDKM_INLINE void rqdkm_expand_crossed_4(uint32_t *dst, const int8_t *p0, const int8_t *p1, const int8_t *p2,
                                         const int8_t *p3, int32_t count) {
  const uint32_t *const end = dst + 8 * count;
  RQDKM_NO_UNROLL
  do {
    uint32_t a = rqdkm_load32(p0), b = rqdkm_load32(p1), c = rqdkm_load32(p2), d = rqdkm_load32(p3);
    p0 += 4;
    p1 += 4;
    p2 += 4;
    p3 += 4;
    a ^= RQDKM_SIGN_BITS;
    b ^= RQDKM_SIGN_BITS;
    c ^= RQDKM_SIGN_BITS;
    d ^= RQDKM_SIGN_BITS;
    rqdkm_store32(dst + 0, (a << 7) & RQDKM_LANE_MASK);
    rqdkm_store32(dst + 1, (b << 7) & RQDKM_LANE_MASK);
    rqdkm_store32(dst + 2, (c << 7) & RQDKM_LANE_MASK);
    rqdkm_store32(dst + 3, (d << 7) & RQDKM_LANE_MASK);
    rqdkm_store32(dst + 4, (a >> 1) & RQDKM_LANE_MASK);
    rqdkm_store32(dst + 5, (b >> 1) & RQDKM_LANE_MASK);
    rqdkm_store32(dst + 6, (c >> 1) & RQDKM_LANE_MASK);
    rqdkm_store32(dst + 7, (d >> 1) & RQDKM_LANE_MASK);
    dst += 8;
  } while (dst != end);
}

#endif
