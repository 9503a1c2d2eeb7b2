/* SPDX-License-Identifier: Apache-2.0 */
/* From an int32 accumulator to an int8 output, bit-exact with TFLite's double rounding.
 *
 * TFLite computes, for right shifts s = -shift >= 0 (gemmlowp's fixed-point arithmetic):
 *     X = floor((acc * m + 2^30) / 2^31)                              SaturatingRoundingDoublingHighMul, m >= 0
 *     y = floor((X + 2^(s-1) - (X < 0)) / 2^s) for s >= 1, X for s = 0    RoundingDivideByPOT, half away from zero
 *     out = min(max(y + zp, clamp_min), clamp_max)
 *
 * Where the compiler can prove it, one floor replaces both roundings (rqdkm_tvm/kernels/exact_floor.py):
 * (SMMLA(acc << k, m, C) >> 16) with k = 17 - s, C = 2^(k-2) + 2^15 + (zp << 16) equals them for k >= 2, except that
 * ties of negative y go up instead of down, which does not matter where those outputs are clamped anyway (clamp_min >=
 * zp). */
#ifndef RQDKM_REQUANTIZE_H
#define RQDKM_REQUANTIZE_H

#include "rqdkm/arch.h"
#include "rqdkm/types.h"

/* Rounding, doubling, high half of a product: gemmlowp's SaturatingRoundingDoublingHighMul. */
RQDKM_INLINE int32_t rqdkm_doubling_high_mul(int32_t a, int32_t b) {
  if (a == INT32_MIN && b == INT32_MIN) {
    return INT32_MAX;
  }
  return (int32_t)(((int64_t)a * b + ((int64_t)1 << 30)) >> 31);
}

/* x / 2^exponent, ties away from zero; 0 <= exponent <= 31: gemmlowp's RoundingDivideByPOT. */
RQDKM_INLINE int32_t rqdkm_rounding_divide_by_pot(int32_t x, int32_t exponent) {
  const int32_t mask = (int32_t)(((int64_t)1 << exponent) - 1);
  const int32_t remainder = x & mask;
  const int32_t threshold = (mask >> 1) + (x < 0 ? 1 : 0);
  return (x >> exponent) + (remainder > threshold ? 1 : 0);
}

/* x * multiplier * 2^(shift - 31): TFLite's MultiplyByQuantizedMultiplier with double rounding.
   -31 <= shift <= 30; a left shift wraps modulo 2^32, as TFLite's does in practice. */
RQDKM_INLINE int32_t rqdkm_multiply_by_quantized_multiplier(int32_t x, int32_t multiplier, int32_t shift) {
  const int32_t left = shift > 0 ? shift : 0;
  const int32_t right = shift > 0 ? 0 : -shift;
  const int32_t shifted = (int32_t)((uint32_t)x << left);
  return rqdkm_rounding_divide_by_pot(rqdkm_doubling_high_mul(shifted, multiplier), right);
}

RQDKM_INLINE int32_t rqdkm_clamp_value(int32_t x, int32_t min, int32_t max) {
  const int32_t low = x < min ? min : x;
  return low > max ? max : low;
}

/* WIDE: any accumulator, multiplier, shift, zero point and clamp. */
RQDKM_INLINE int32_t rqdkm_requantize_wide(int32_t acc, int32_t multiplier, int32_t shift, int32_t zero_point,
                                           int32_t min, int32_t max) {
  /* |scaled| can reach 2^31 for left shifts: add in 64 bits */
  const int64_t y = (int64_t)rqdkm_multiply_by_quantized_multiplier(acc, multiplier, shift) + zero_point;
  return (int32_t)(y < min ? min : y > max ? max : y);
}

/* FLOOR: acck = accumulator << k, k = 17 - s >= 2, offset = 2^(k-2) + 2^15 + (zp << 16). */
RQDKM_INLINE int32_t rqdkm_requantize_floor(int32_t acck, int32_t multiplier, int32_t offset) {
  return rqdkm_ssat8_asr16(rqdkm_smmla(acck, multiplier, offset));
}

#endif
