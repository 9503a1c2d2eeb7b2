/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/elementwise.h"

int32_t rqdkm_quantize_f32_s8(float scale, int32_t zero_point, int32_t count, const float *input, int8_t *output) {
  if (input == NULL || output == NULL || !(scale > 0.0F)) return RQDKM_ERROR_ARGUMENT;
  for (int32_t i = 0; i < count; i++) {
    float ratio = input[i] / scale;
    /* int8 ends at most 255 steps from the zero point; the comparisons are false for NaN. */
    if (!(ratio > -256.0F)) ratio = -256.0F;
    if (!(ratio < 256.0F)) ratio = 256.0F;
    int32_t out = (int32_t)ratio;
    const float rest = ratio - (float)out; /* exact: half away from zero, without the error of adding 0.5 */
    if (rest >= 0.5F) out++;
    if (rest <= -0.5F) out--;
    out += zero_point;
    output[i] = (int8_t)(out < INT8_MIN ? INT8_MIN : out > INT8_MAX ? INT8_MAX : out);
  }
  return RQDKM_OK;
}
