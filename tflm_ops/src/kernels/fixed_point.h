/* SPDX-License-Identifier: Apache-2.0 */
/* Fixed point arithmetic of TFLite's softmax, after gemmlowp's definitions: a raw value r with n integer bits is
   r * 2^(n - 31). Only the formats that softmax needs. */
#ifndef RQDKM_SRC_FIXED_POINT_H
#define RQDKM_SRC_FIXED_POINT_H

#include "rqdkm/requantize.h"

/* x * 2^exponent, saturated. */
RQDKM_INLINE int32_t fixed_shift_left(int32_t x, int32_t exponent) {
  const int64_t shifted = (int64_t)x * (1LL << exponent);
  return shifted > INT32_MAX ? INT32_MAX : shifted < INT32_MIN ? INT32_MIN : (int32_t)shifted;
}

/* 1 / (1 + x) for x in [0, 1), both without integer bits: three Newton-Raphson steps on (1 + x) / 2, two integer
   bits, from 48/17 - 32/17 d. */
RQDKM_INLINE int32_t fixed_reciprocal_of_one_plus(int32_t x) {
  const int32_t half_denominator = (int32_t)(((int64_t)x + INT32_MAX + 1) / 2);
  int32_t estimate = 1515870810 + rqdkm_doubling_high_mul(half_denominator, -1010580540);
  for (int32_t step = 0; step < 3; step++) {
    const int32_t rest = (1 << 29) - rqdkm_doubling_high_mul(half_denominator, estimate);
    estimate += fixed_shift_left(rqdkm_doubling_high_mul(estimate, rest), 2);
  }
  return fixed_shift_left(estimate, 1);
}

/* 1 / sum of Q12.19 `sum` > 0 as a value in (1/2, 1] without integer bits; *exponent is the right shift that, applied
   to (that value * exp), gives units of 1/256. */
RQDKM_INLINE int32_t fixed_softmax_scale(int32_t sum, int32_t *exponent) {
  const int32_t headroom = __builtin_clz((uint32_t)sum);
  *exponent = 12 - headroom + 31 - 8;
  return fixed_reciprocal_of_one_plus((int32_t)(((uint32_t)sum << headroom) - 0x80000000U));
}

#endif
