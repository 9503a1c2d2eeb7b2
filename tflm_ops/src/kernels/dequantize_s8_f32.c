/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/elementwise.h"

int32_t rqdkm_dequantize_s8_f32(float scale, int32_t zero_point, int32_t count, const int8_t *input, float *output) {
  if (input == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  for (int32_t i = 0; i < count; i++) output[i] = scale * (float)(input[i] - zero_point);
  return RQDKM_OK;
}
