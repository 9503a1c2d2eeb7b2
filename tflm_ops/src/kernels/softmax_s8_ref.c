/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "fixed_point.h"
#include "rqdkm/elementwise.h"

#define INPUT_INTEGER_BITS 5

/* exp(a) for a in [-1/4, 0), no integer bits: fourth order Taylor series around -1/8. */
static int32_t exp_small(int32_t a) {
  const int32_t x = a + (1 << 28);
  const int32_t x2 = rqdkm_doubling_high_mul(x, x);
  const int32_t x3 = rqdkm_doubling_high_mul(x2, x);
  const int32_t x4 = rqdkm_doubling_high_mul(x2, x2);
  const int32_t cubic =
      rqdkm_doubling_high_mul(rqdkm_rounding_divide_by_pot(x4, 2) + x3, 715827883) + x2;               /* times 1/3 */
  return 1895147668 + rqdkm_doubling_high_mul(1895147668, x + rqdkm_rounding_divide_by_pot(cubic, 1)); /* exp(-1/8) */
}

/* exp(a) for a <= 0 with 5 integer bits: a quarter's remainder by series, the rest by one factor per bit. */
static int32_t exp_negative(int32_t a) {
  static const int32_t factor[7] = {1672461947, 1302514674, 790015084, 290630308, 39332535, 720401, 242};
  const int32_t quarter = 1 << (31 - INPUT_INTEGER_BITS - 2);
  if (a == 0) return INT32_MAX;
  const int32_t remainder = (a & (quarter - 1)) - quarter;
  int32_t result = exp_small(remainder * (1 << INPUT_INTEGER_BITS));
  for (int32_t bit = 0; bit < 7; bit++) { /* exp(-2^(bit - 2)) */
    if (((remainder - a) & (quarter << bit)) != 0) result = rqdkm_doubling_high_mul(result, factor[bit]);
  }
  return result;
}

int32_t rqdkm_softmax_s8_ref(const rqdkm_softmax_params *params, int32_t rows, int32_t depth, const int8_t *input,
                             int8_t *output) {
  if (params == NULL || input == NULL || output == NULL || depth <= 0) return RQDKM_ERROR_ARGUMENT;
  for (int32_t row = 0; row < rows; row++, input += depth, output += depth) {
    int32_t max = INT8_MIN, sum = 0, exponent;
    for (int32_t i = 0; i < depth; i++) max = input[i] > max ? input[i] : max;
    for (int32_t i = 0; i < depth; i++) {
      const int32_t diff = input[i] - max;
      if (diff < params->diff_min) continue;
      sum += rqdkm_rounding_divide_by_pot(
          exp_negative(rqdkm_doubling_high_mul(diff * (1 << params->left_shift), params->multiplier)), 12);
    }
    const int32_t scale = fixed_softmax_scale(sum, &exponent);
    for (int32_t i = 0; i < depth; i++) {
      const int32_t diff = input[i] - max;
      if (diff < params->diff_min) {
        output[i] = INT8_MIN;
        continue;
      }
      const int32_t exp = exp_negative(rqdkm_doubling_high_mul(diff * (1 << params->left_shift), params->multiplier));
      const int32_t out = rqdkm_rounding_divide_by_pot(rqdkm_doubling_high_mul(scale, exp), exponent) + INT8_MIN;
      output[i] = (int8_t)(out > INT8_MAX ? INT8_MAX : out);
    }
  }
  return RQDKM_OK;
}
