/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/pooling.h"

int32_t rqdkm_max_pool2d_s8_ref(const rqdkm_pool_params *params, const rqdkm_dims *input_dims, const int8_t *input,
                                const rqdkm_dims *output_dims, int8_t *output) {
  if (params == NULL || input == NULL || output == NULL) return RQDKM_ERROR_ARGUMENT;
  const int32_t channels = input_dims->c;
  for (int32_t y = 0; y < output_dims->h; y++) {
    for (int32_t x = 0; x < output_dims->w; x++) {
      for (int32_t c = 0; c < channels; c++) {
        int32_t max = INT8_MIN;
        for (int32_t ky = 0; ky < params->window.h; ky++) {
          const int32_t in_y = y * params->stride.h - params->padding.top + ky;
          if (in_y < 0 || in_y >= input_dims->h) continue;
          for (int32_t kx = 0; kx < params->window.w; kx++) {
            const int32_t in_x = x * params->stride.w - params->padding.left + kx;
            if (in_x < 0 || in_x >= input_dims->w) continue;
            const int32_t value = input[(in_y * input_dims->w + in_x) * channels + c];
            if (value > max) max = value;
          }
        }
        if (max < params->clamp.min) max = params->clamp.min;
        if (max > params->clamp.max) max = params->clamp.max;
        output[(y * output_dims->w + x) * channels + c] = (int8_t)max;
      }
    }
  }
  return RQDKM_OK;
}
