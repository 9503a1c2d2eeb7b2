/* SPDX-License-Identifier: Apache-2.0 */
#include <stddef.h>

#include "rqdkm/depthwise.h"
#include "rqdkm/requantize.h"

int32_t rqdkm_depthwise_conv2d_s8_ref(const rqdkm_conv_params *params, const rqdkm_channel_quant *quant,
                                      const rqdkm_dims *input_dims, const int8_t *input, const rqdkm_hw *kernel,
                                      const int8_t *weights, const int32_t *bias, const rqdkm_dims *output_dims,
                                      int8_t *output) {
  if (params == NULL || quant == NULL || input == NULL || weights == NULL || output == NULL || input_dims->c <= 0 ||
      output_dims->c % input_dims->c != 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  const int32_t channels = output_dims->c, multiplier = channels / input_dims->c;
  for (int32_t y = 0; y < output_dims->h; y++) {
    for (int32_t x = 0; x < output_dims->w; x++) {
      for (int32_t o = 0; o < channels; o++) {
        int32_t acc = bias != NULL ? bias[o] : 0;
        for (int32_t ky = 0; ky < kernel->h; ky++) {
          const int32_t in_y = y * params->stride.h - params->padding.top + ky * params->dilation.h;
          if (in_y < 0 || in_y >= input_dims->h) continue;
          for (int32_t kx = 0; kx < kernel->w; kx++) {
            const int32_t in_x = x * params->stride.w - params->padding.left + kx * params->dilation.w;
            if (in_x < 0 || in_x >= input_dims->w) continue;
            const int32_t value = input[(in_y * input_dims->w + in_x) * input_dims->c + o / multiplier];
            acc += (value + params->input_offset) * weights[(ky * kernel->w + kx) * channels + o];
          }
        }
        int32_t out =
            rqdkm_multiply_by_quantized_multiplier(acc, quant->multiplier[o], quant->shift[o]) + params->output_offset;
        if (out < params->clamp.min) out = params->clamp.min;
        if (out > params->clamp.max) out = params->clamp.max;
        output[(y * output_dims->w + x) * channels + o] = (int8_t)out;
      }
    }
  }
  return RQDKM_OK;
}
