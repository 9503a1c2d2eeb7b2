/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/arch.h"
#include "rqdkm/elementwise.h"

RQDKM_INLINE int8_t finish(const rqdkm_mul_linear_params *p, int32_t product) {
  return (int8_t)rqdkm_ssat8((product * p->slope + p->constant) >> p->right_shift);
}

/* output[i] = a[i] * b[i], i < count. */
RQDKM_INLINE void mul_row(const rqdkm_mul_linear_params *params, int32_t count, const int8_t *a, const int8_t *b,
                          int8_t *output) {
  const rqdkm_mul_linear_params p = *params;
  const uint32_t x_offset = rqdkm_pack_lo_lo((uint32_t)p.input1_offset, (uint32_t)p.input1_offset);
  const uint32_t y_offset = rqdkm_pack_lo_lo((uint32_t)p.input2_offset, (uint32_t)p.input2_offset);
  const int8_t *const end = output + (count & ~3);
  RQDKM_NO_UNROLL while (output != end) {
    const uint32_t x = rqdkm_load32(a), y = rqdkm_load32(b);
    a += 4;
    b += 4;
    const uint32_t x_even = rqdkm_sxtab16(x_offset, x), x_odd = rqdkm_sxtab16_ror8(x_offset, x);
    const uint32_t y_even = rqdkm_sxtab16(y_offset, y), y_odd = rqdkm_sxtab16_ror8(y_offset, y);
    output[0] = finish(&p, rqdkm_smlabb(x_even, y_even, 0));
    RQDKM_BARRIER();
    output[1] = finish(&p, rqdkm_smlabb(x_odd, y_odd, 0));
    RQDKM_BARRIER();
    output[2] = finish(&p, rqdkm_smlatt(x_even, y_even, 0));
    RQDKM_BARRIER();
    output[3] = finish(&p, rqdkm_smlatt(x_odd, y_odd, 0));
    output += 4;
  }
  RQDKM_NO_UNROLL for (int32_t i = 0; i < (count & 3); i++) {
    output[i] = finish(&p, (a[i] + p.input1_offset) * (b[i] + p.input2_offset));
  }
}

int32_t rqdkm_mul_s8_linear(const rqdkm_mul_linear_params *params, int32_t count, int32_t period, const int8_t *input1,
                            const int8_t *input2, int8_t *output) {
  if (params == NULL || input1 == NULL || input2 == NULL || output == NULL || period <= 0 || count % period != 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  RQDKM_NO_UNROLL for (int32_t i = 0; i < count; i += period) mul_row(params, period, input1 + i, input2, output + i);
  if (params->clamp.min > INT8_MIN || params->clamp.max < INT8_MAX) {
    return rqdkm_clip_s8(params->clamp, count, output, output);
  }
  return RQDKM_OK;
}
