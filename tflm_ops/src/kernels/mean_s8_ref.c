/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/pooling.h"
#include "rqdkm/requantize.h"

int32_t rqdkm_mean_s8_ref(const rqdkm_mean_params *params, int32_t outer, int32_t reduced, int32_t inner,
                          const int8_t *input, int8_t *output) {
  if (params == NULL || input == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  for (int32_t o = 0; o < outer; o++) {
    for (int32_t i = 0; i < inner; i++) {
      int32_t sum = -reduced * params->input_zero_point;
      for (int32_t r = 0; r < reduced; r++) sum += input[(o * reduced + r) * inner + i];
      int32_t mean =
          rqdkm_multiply_by_quantized_multiplier(sum, params->multiplier, params->shift) + params->output_zero_point;
      if (mean < INT8_MIN) mean = INT8_MIN;
      if (mean > INT8_MAX) mean = INT8_MAX;
      output[o * inner + i] = (int8_t)mean;
    }
  }
  return RQDKM_OK;
}
