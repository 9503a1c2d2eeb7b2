/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/pooling.h"

int32_t rqdkm_avg_pool2d_s8_ref(const rqdkm_pool_params *params, const rqdkm_dims *input_dims, const int8_t *input,
                                const rqdkm_dims *output_dims, int8_t *output) {
  if (params == NULL || input == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  const int32_t channels = input_dims->c;
  for (int32_t y = 0; y < output_dims->h; y++) {
    for (int32_t x = 0; x < output_dims->w; x++) {
      for (int32_t c = 0; c < channels; c++) {
        int32_t sum = 0, count = 0;
        for (int32_t ky = 0; ky < params->window.h; ky++) {
          const int32_t in_y = y * params->stride.h - params->padding.top + ky;
          if (in_y < 0 || in_y >= input_dims->h) continue;
          for (int32_t kx = 0; kx < params->window.w; kx++) {
            const int32_t in_x = x * params->stride.w - params->padding.left + kx;
            if (in_x < 0 || in_x >= input_dims->w) continue;
            sum += input[(in_y * input_dims->w + in_x) * channels + c];
            count++;
          }
        }
        if (count == 0) return RQDKM_ERROR_ARGUMENT;
        int32_t mean = sum > 0 ? (sum + count / 2) / count : (sum - count / 2) / count;
        if (mean < params->clamp.min) mean = params->clamp.min;
        if (mean > params->clamp.max) mean = params->clamp.max;
        output[(y * output_dims->w + x) * channels + c] = (int8_t)mean;
      }
    }
  }
  return RQDKM_OK;
}
