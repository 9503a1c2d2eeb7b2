/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/elementwise.h"
#include "rqdkm/requantize.h"

#define LEFT_SHIFT 20 /* head room of the scaled operands, fixed by TFLite for int8 */

int32_t rqdkm_add_s8_ref(const rqdkm_add_params *params, int32_t count, int32_t period, const int8_t *input1,
                         const int8_t *input2, int8_t *output) {
  if (params == NULL || input1 == NULL || input2 == NULL || output == NULL || period <= 0 || count % period != 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  const rqdkm_add_params p = *params;
  int32_t j = 0;
  for (int32_t i = 0; i < count; i++) {
    const int32_t a = (input1[i] + p.input1_offset) * (1 << LEFT_SHIFT);
    const int32_t b = (input2[j] + p.input2_offset) * (1 << LEFT_SHIFT);
    const int32_t sum = rqdkm_multiply_by_quantized_multiplier(a, p.input1_multiplier, p.input1_shift) +
                        rqdkm_multiply_by_quantized_multiplier(b, p.input2_multiplier, p.input2_shift);
    int32_t out = rqdkm_multiply_by_quantized_multiplier(sum, p.output_multiplier, p.output_shift) + p.output_offset;
    if (out < p.clamp.min) out = p.clamp.min;
    if (out > p.clamp.max) out = p.clamp.max;
    output[i] = (int8_t)out;
    if (++j == period) j = 0;
  }
  return RQDKM_OK;
}
