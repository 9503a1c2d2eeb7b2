/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/arch.h"
#include "rqdkm/elementwise.h"
#include "rqdkm/requantize.h"

int32_t rqdkm_mul_s8(const rqdkm_mul_params *params, int32_t count, int32_t period, const int8_t *input1,
                     const int8_t *input2, int8_t *output) {
  if (params == NULL || input1 == NULL || input2 == NULL || output == NULL || period <= 0 || count % period != 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  const rqdkm_mul_params p = *params;
  if (p.shift > 0) return RQDKM_ERROR_UNSUPPORTED;
  const int32_t shift = -p.shift, half = shift > 0 ? 1 << (shift - 1) : 0, away = shift > 0 ? -1 : 0;
  RQDKM_NO_UNROLL for (int32_t i = 0; i < count; i += period) {
    RQDKM_NO_UNROLL for (int32_t j = 0; j < period; j++) {
      const int32_t twice = (input1[i + j] + p.input1_offset) * (input2[j] + p.input2_offset) * 2;
      const int32_t high = rqdkm_smmulr(twice, p.multiplier);
      const int32_t scaled = (high + half + ((high >> 31) & away)) >> shift;
      output[i + j] = (int8_t)rqdkm_clamp_value(scaled + p.output_offset, p.clamp.min, p.clamp.max);
    }
  }
  return RQDKM_OK;
}
