/* SPDX-License-Identifier: Apache-2.0 */
#include "packed_element.h"
#include "rqdkm/convolution.h"

typedef struct {
  const rqdkm_conv_params *params;
  const rqdkm_dims *input_dims, *filter_dims;
  const void *input;
  int32_t input_bits;
} source;

/* Sum over the taps of one output value; first: the input channel at which the output channel's group starts. */
static uint32_t accumulate(const source *s, const void *filter, int32_t bits, int32_t y0, int32_t x0, int32_t first) {
  uint32_t acc = 0;
  for (int32_t ky = 0; ky < s->filter_dims->h; ky++) {
    const int32_t y = y0 + ky * s->params->dilation.h;
    for (int32_t kx = 0; kx < s->filter_dims->w; kx++) {
      const int32_t x = x0 + kx * s->params->dilation.w;
      if (y < 0 || y >= s->input_dims->h || x < 0 || x >= s->input_dims->w) {
        continue; /* padding is the zero point: it adds nothing */
      }
      const int32_t in = (y * s->input_dims->w + x) * s->input_dims->c + first;
      const int32_t tap = (ky * s->filter_dims->w + kx) * s->filter_dims->c;
      for (int32_t c = 0; c < s->filter_dims->c; c++) {
        const int32_t value = rqdkm_packed_get(s->input, in + c, s->input_bits) + s->params->input_offset;
        acc += (uint32_t)(value * rqdkm_packed_get(filter, tap + c, bits));
      }
    }
  }
  return acc;
}

int32_t rqdkm_conv2d_mixed_ref(const rqdkm_conv_params *params, const rqdkm_channel_quant *quant,
                               const rqdkm_bits *bits, const rqdkm_dims *input_dims, const void *input,
                               const rqdkm_dims *filter_dims, const void *filter, const int32_t *bias,
                               const rqdkm_dims *output_dims, void *output) {
  if (filter_dims->c < 1 || input_dims->c % filter_dims->c != 0 || !rqdkm_bits_valid(bits->input) ||
      !rqdkm_bits_valid(bits->output)) {
    return RQDKM_ERROR_ARGUMENT;
  }
  const int32_t groups = input_dims->c / filter_dims->c, channels = output_dims->c;
  if (channels % groups != 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  const int32_t taps = filter_dims->h * filter_dims->w * filter_dims->c;
  const source s = {params, input_dims, filter_dims, input, bits->input};
  for (int32_t y = 0; y < output_dims->h; y++) {
    for (int32_t x = 0; x < output_dims->w; x++) {
      const uint8_t *row = (const uint8_t *)filter;
      for (int32_t o = 0; o < channels; o++) {
        const int32_t first = o / (channels / groups) * filter_dims->c;
        const uint32_t sum = accumulate(&s, row, bits->weights[o], y * params->stride.h - params->padding.top,
                                        x * params->stride.w - params->padding.left, first);
        const int32_t acc = (int32_t)(sum + (uint32_t)(bias != 0 ? bias[o] : 0));
        rqdkm_packed_put(output, (y * output_dims->w + x) * channels + o, bits->output,
                         rqdkm_requantize_to(acc, quant, o, params->output_offset, &params->clamp, bits->output));
        row += rqdkm_packed_bytes(taps, bits->weights[o]);
      }
    }
  }
  return RQDKM_OK;
}
