/* SPDX-License-Identifier: Apache-2.0 */
#include "packed_element.h"
#include "rqdkm/depthwise.h"

int32_t rqdkm_depthwise_conv2d_mixed_ref(const rqdkm_conv_params *params, const rqdkm_channel_quant *quant,
                                         const rqdkm_bits *bits, const rqdkm_dims *input_dims, const void *input,
                                         const rqdkm_hw *kernel, const void *weights, const int32_t *bias,
                                         const rqdkm_dims *output_dims, void *output) {
  if (input_dims->c <= 0 || output_dims->c % input_dims->c != 0 || !rqdkm_bits_valid(bits->input) ||
      !rqdkm_bits_valid(bits->output)) {
    return RQDKM_ERROR_ARGUMENT;
  }
  const int32_t channels = output_dims->c, multiplier = channels / input_dims->c;
  for (int32_t y = 0; y < output_dims->h; y++) {
    for (int32_t x = 0; x < output_dims->w; x++) {
      const uint8_t *taps = (const uint8_t *)weights;
      for (int32_t o = 0; o < channels; o++) {
        uint32_t acc = (uint32_t)(bias != 0 ? bias[o] : 0);
        for (int32_t ky = 0; ky < kernel->h; ky++) {
          const int32_t in_y = y * params->stride.h - params->padding.top + ky * params->dilation.h;
          for (int32_t kx = 0; kx < kernel->w; kx++) {
            const int32_t in_x = x * params->stride.w - params->padding.left + kx * params->dilation.w;
            if (in_y < 0 || in_y >= input_dims->h || in_x < 0 || in_x >= input_dims->w) {
              continue; /* padding is the zero point: it adds nothing */
            }
            const int32_t index = (in_y * input_dims->w + in_x) * input_dims->c + o / multiplier;
            const int32_t value = rqdkm_packed_get(input, index, bits->input) + params->input_offset;
            acc += (uint32_t)(value * rqdkm_packed_get(taps, ky * kernel->w + kx, bits->weights[o]));
          }
        }
        rqdkm_packed_put(
            output, (y * output_dims->w + x) * channels + o, bits->output,
            rqdkm_requantize_to((int32_t)acc, quant, o, params->output_offset, &params->clamp, bits->output));
        taps += rqdkm_packed_bytes(kernel->h * kernel->w, bits->weights[o]);
      }
    }
  }
  return RQDKM_OK;
}
