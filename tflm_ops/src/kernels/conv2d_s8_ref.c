/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/convolution.h"
#include "rqdkm/requantize.h"

/* Sum over the taps of one output value; input and filter point at the output channel's group. */
static int32_t accumulate(const rqdkm_conv_params *params, const rqdkm_dims *input_dims, const int8_t *input,
                          const rqdkm_dims *filter_dims, const int8_t *filter, int32_t y0, int32_t x0) {
  uint32_t acc = 0;
  for (int32_t ky = 0; ky < filter_dims->h; ky++) {
    const int32_t y = y0 + ky * params->dilation.h;
    for (int32_t kx = 0; kx < filter_dims->w; kx++) {
      const int32_t x = x0 + kx * params->dilation.w;
      if (y < 0 || y >= input_dims->h || x < 0 || x >= input_dims->w) {
        continue; /* padding is the zero point: it adds nothing */
      }
      const int8_t *in = input + (y * input_dims->w + x) * input_dims->c;
      const int8_t *taps = filter + (ky * filter_dims->w + kx) * filter_dims->c;
      for (int32_t c = 0; c < filter_dims->c; c++) {
        acc += (uint32_t)((in[c] + params->input_offset) * taps[c]);
      }
    }
  }
  return (int32_t)acc;
}

int32_t rqdkm_conv2d_s8_ref(const rqdkm_conv_params *params, const rqdkm_channel_quant *quant,
                            const rqdkm_dims *input_dims, const int8_t *input, const rqdkm_dims *filter_dims,
                            const int8_t *filter, const int32_t *bias, const rqdkm_dims *output_dims, int8_t *output) {
  if (filter_dims->c < 1 || input_dims->c % filter_dims->c != 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  const int32_t groups = input_dims->c / filter_dims->c;
  if (output_dims->c % groups != 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  const int32_t group_outputs = output_dims->c / groups;
  const int32_t taps = filter_dims->h * filter_dims->w * filter_dims->c;
  for (int32_t y = 0; y < output_dims->h; y++) {
    for (int32_t x = 0; x < output_dims->w; x++) {
      for (int32_t o = 0; o < output_dims->c; o++) {
        const int32_t sum =
            accumulate(params, input_dims, input + o / group_outputs * filter_dims->c, filter_dims, filter + o * taps,
                       y * params->stride.h - params->padding.top, x * params->stride.w - params->padding.left);
        const int32_t acc = (int32_t)((uint32_t)sum + (uint32_t)(bias != 0 ? bias[o] : 0));
        *output++ = (int8_t)rqdkm_requantize_wide(acc, quant->multiplier[o], quant->shift[o], params->output_offset,
                                                  params->clamp.min, params->clamp.max);
      }
    }
  }
  return RQDKM_OK;
}
