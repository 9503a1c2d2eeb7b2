/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "fixed_point.h"
#include "rqdkm/elementwise.h"

int32_t rqdkm_softmax_s8(int32_t rows, int32_t depth, const int32_t *exp_table, int32_t exp_count, const int8_t *input,
                         int8_t *output) {
  if (exp_table == NULL || input == NULL || output == NULL || depth <= 0 || exp_count <= 0) return RQDKM_ERROR_ARGUMENT;
  for (int32_t row = 0; row < rows; row++, input += depth, output += depth) {
    int32_t max = INT8_MIN, sum = 0, exponent;
    for (int32_t i = 0; i < depth; i++) max = input[i] > max ? input[i] : max;
    for (int32_t i = 0; i < depth; i++) {
      const int32_t below = max - input[i];
      if (below < exp_count) sum += rqdkm_rounding_divide_by_pot(exp_table[below], 12);
    }
    const int32_t scale = fixed_softmax_scale(sum, &exponent);
    for (int32_t i = 0; i < depth; i++) {
      const int32_t below = max - input[i];
      int32_t out = INT8_MIN;
      if (below < exp_count)
        out += rqdkm_rounding_divide_by_pot(rqdkm_doubling_high_mul(scale, exp_table[below]), exponent);
      output[i] = (int8_t)(out > INT8_MAX ? INT8_MAX : out);
    }
  }
  return RQDKM_OK;
}
