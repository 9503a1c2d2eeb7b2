/* SPDX-License-Identifier: Apache-2.0 */
/* Sums of int8 over many pixels, four channels at a time in 16-bit lanes. */
#ifndef RQDKM_SRC_SUM_LANES_H
#define RQDKM_SRC_SUM_LANES_H

#include "rqdkm/arch.h"

#define SUM_LANES_MAX 256 /* addends that a signed 16-bit lane holds: 256 * -128 = -32768 */

/* Adds `count` words, `step` bytes apart, to the lanes (channels 0 and 2 in even, 1 and 3 in odd). */
RQDKM_INLINE void sum_lanes(const int8_t *p, int32_t count, int32_t step, uint32_t *even, uint32_t *odd) {
  uint32_t e = *even, o = *odd;
  RQDKM_NO_UNROLL for (; count >= 4; count -= 4, p += 4 * step) {
    const uint32_t a = rqdkm_load32(p), b = rqdkm_load32(p + step);
    const uint32_t c = rqdkm_load32(p + 2 * step), d = rqdkm_load32(p + 3 * step);
    e = rqdkm_sxtab16(rqdkm_sxtab16(rqdkm_sxtab16(rqdkm_sxtab16(e, a), b), c), d);
    o = rqdkm_sxtab16_ror8(rqdkm_sxtab16_ror8(rqdkm_sxtab16_ror8(rqdkm_sxtab16_ror8(o, a), b), c), d);
  }
  RQDKM_NO_UNROLL for (; count > 0; count--, p += step) {
    const uint32_t a = rqdkm_load32(p);
    e = rqdkm_sxtab16(e, a);
    o = rqdkm_sxtab16_ror8(o, a);
  }
  *even = e;
  *odd = o;
}

/* Moves the lanes to the 32-bit sums of channels 0 to 3 and clears them. */
RQDKM_INLINE void sum_lanes_flush(uint32_t *even, uint32_t *odd, int32_t sum[4]) {
  sum[0] += rqdkm_lo16(*even);
  sum[1] += rqdkm_lo16(*odd);
  sum[2] += rqdkm_hi16(*even);
  sum[3] += rqdkm_hi16(*odd);
  *even = *odd = 0;
}

#endif
