/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/arch.h"
#include "rqdkm/elementwise.h"
#include "rqdkm/requantize.h"

/* A multiplication by multiplier * 2^(-31 - shift) with both roundings, for shift >= 0. */
typedef struct {
  int32_t multiplier, shift, half, away; /* half: 2^(shift - 1) or 0; away: -1 if shift > 0 */
} scaling;

RQDKM_INLINE scaling scaling_of(int32_t multiplier, int32_t right_shift) {
  const scaling s = {multiplier, right_shift, right_shift > 0 ? 1 << (right_shift - 1) : 0, right_shift > 0 ? -1 : 0};
  return s;
}

/* twice: 2 * the value, within 32 bits. */
RQDKM_INLINE int32_t scale(scaling s, int32_t twice) {
  const int32_t product = rqdkm_smmulr(twice, s.multiplier);
  return (product + s.half + ((product >> 31) & s.away)) >> s.shift;
}

int32_t rqdkm_add_s8(const rqdkm_add_params *params, int32_t count, int32_t period, const int8_t *input1,
                     const int8_t *input2, int8_t *output) {
  if (params == NULL || input1 == NULL || input2 == NULL || output == NULL || period <= 0 || count % period != 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  const rqdkm_add_params p = *params;
  if (p.input1_shift > 0 || p.input2_shift > 0 || p.output_shift > 0) return RQDKM_ERROR_UNSUPPORTED;
  const scaling first = scaling_of(p.input1_multiplier, -p.input1_shift);
  const scaling second = scaling_of(p.input2_multiplier, -p.input2_shift);
  const scaling last = scaling_of(p.output_multiplier, -p.output_shift);
  RQDKM_NO_UNROLL for (int32_t i = 0; i < count; i += period) {
    RQDKM_NO_UNROLL for (int32_t j = 0; j < period; j++) {
      const int32_t a = (input1[i + j] + p.input1_offset) * (1 << 21), b = (input2[j] + p.input2_offset) * (1 << 21);
      const int32_t sum = scale(first, a) + scale(second, b); /* |sum| < 2^29: the operands are at most halved */
      output[i + j] = (int8_t)rqdkm_clamp_value(scale(last, 2 * sum) + p.output_offset, p.clamp.min, p.clamp.max);
    }
  }
  return RQDKM_OK;
}
