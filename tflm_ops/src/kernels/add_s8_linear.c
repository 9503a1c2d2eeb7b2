/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/arch.h"
#include "rqdkm/elementwise.h"

/* output[i] = a[i] + b[i], i < count. */
RQDKM_INLINE void add_row(const rqdkm_add_linear_params *p, int32_t count, const int8_t *a, const int8_t *b,
                          int8_t *output) {
  const int32_t m1 = p->input1_slope, m2 = p->input2_slope, c = p->constant;
  const int8_t *const end = output + (count & ~3);
  uint32_t lanes = 0xff00ff00U; /* bytes 1 and 3 as q << 8 in 16-bit lanes */
#if RQDKM_DSP
  __asm("" : "+r"(lanes)); /* in a register it takes a shifted operand, as an immediate it does not */
#endif
  RQDKM_NO_UNROLL while (output != end) {
    const uint32_t x = rqdkm_load32(a), y = rqdkm_load32(b);
    a += 4;
    b += 4;
    const uint32_t x_even = lanes & (x << 8), x_odd = lanes & x, y_even = lanes & (y << 8), y_odd = lanes & y;
    const int32_t s0 = rqdkm_smlawb(m2, y_even, rqdkm_smlawb(m1, x_even, c));
    const int32_t s2 = rqdkm_smlawt(m2, y_even, rqdkm_smlawt(m1, x_even, c));
    const int32_t s1 = rqdkm_smlawb(m2, y_odd, rqdkm_smlawb(m1, x_odd, c));
    const int32_t s3 = rqdkm_smlawt(m2, y_odd, rqdkm_smlawt(m1, x_odd, c));
    output[0] = (int8_t)rqdkm_ssat8_asr20(s0);
    RQDKM_BARRIER(); /* four STRB cost less than building a word */
    output[1] = (int8_t)rqdkm_ssat8_asr20(s1);
    RQDKM_BARRIER();
    output[2] = (int8_t)rqdkm_ssat8_asr20(s2);
    RQDKM_BARRIER();
    output[3] = (int8_t)rqdkm_ssat8_asr20(s3);
    output += 4;
  }
  RQDKM_NO_UNROLL for (int32_t i = 0; i < (count & 3); i++) {
    const uint32_t x = (uint32_t)a[i] << 8, y = (uint32_t)b[i] << 8;
    output[i] = (int8_t)rqdkm_ssat8_asr20(rqdkm_smlawb(m2, y, rqdkm_smlawb(m1, x, c)));
  }
}

int32_t rqdkm_add_s8_linear(const rqdkm_add_linear_params *params, int32_t count, int32_t period, const int8_t *input1,
                            const int8_t *input2, int8_t *output) {
  if (params == NULL || input1 == NULL || input2 == NULL || output == NULL || period <= 0 || count % period != 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  RQDKM_NO_UNROLL for (int32_t i = 0; i < count; i += period) add_row(params, period, input1 + i, input2, output + i);
  if (params->clamp.min > INT8_MIN || params->clamp.max < INT8_MAX) {
    return rqdkm_clip_s8(params->clamp, count, output, output);
  }
  return RQDKM_OK;
}
