/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/elementwise.h"
#include "rqdkm/requantize.h"

int32_t rqdkm_mul_s8_ref(const rqdkm_mul_params *params, int32_t count, int32_t period, const int8_t *input1,
                         const int8_t *input2, int8_t *output) {
  if (params == NULL || input1 == NULL || input2 == NULL || output == NULL || period <= 0 || count % period != 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  const rqdkm_mul_params p = *params;
  int32_t j = 0;
  for (int32_t i = 0; i < count; i++) {
    const int32_t product = (input1[i] + p.input1_offset) * (input2[j] + p.input2_offset);
    int32_t out = rqdkm_multiply_by_quantized_multiplier(product, p.multiplier, p.shift) + p.output_offset;
    if (out < p.clamp.min) out = p.clamp.min;
    if (out > p.clamp.max) out = p.clamp.max;
    output[i] = (int8_t)out;
    if (++j == period) j = 0;
  }
  return RQDKM_OK;
}
