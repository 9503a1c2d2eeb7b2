/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/arch.h"
#include "rqdkm/pooling.h"
#include "rqdkm/requantize.h"
#include "sum_lanes.h"

RQDKM_INLINE int8_t finish(const rqdkm_mean_params *p, int32_t sum, int32_t reduced) {
  return (int8_t)rqdkm_requantize_wide(sum - reduced * p->input_zero_point, p->multiplier, p->shift,
                                       p->output_zero_point, INT8_MIN, INT8_MAX);
}

int32_t rqdkm_mean_s8(const rqdkm_mean_params *params, int32_t outer, int32_t reduced, int32_t inner,
                      const int8_t *input, int8_t *output) {
  if (params == NULL || input == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  for (int32_t o = 0; o < outer; o++, input += reduced * inner, output += inner) {
    int32_t i = 0;
    for (; i + 4 <= inner; i += 4) {
      int32_t sum[4] = {0, 0, 0, 0};
      uint32_t even = 0, odd = 0;
      for (int32_t r = 0; r < reduced; r += SUM_LANES_MAX) {
        const int32_t left = reduced - r;
        sum_lanes(input + r * inner + i, left < SUM_LANES_MAX ? left : SUM_LANES_MAX, inner, &even, &odd);
        sum_lanes_flush(&even, &odd, sum);
      }
      for (int32_t k = 0; k < 4; k++) output[i + k] = finish(params, sum[k], reduced);
    }
    for (; i < inner; i++) {
      int32_t sum = 0;
      for (int32_t r = 0; r < reduced; r++) sum += input[r * inner + i];
      output[i] = finish(params, sum, reduced);
    }
  }
  return RQDKM_OK;
}
