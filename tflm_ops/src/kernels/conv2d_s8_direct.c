/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/conv2d_s8_direct_template.h"

int32_t rqdkm_conv2d_s8_direct_scratch_bytes(const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                                             const rqdkm_dims *filter_dims, const rqdkm_dims *output_dims,
                                             const rqdkm_conv_tile *tile) {
  const int32_t columns = rqdkm_strip_columns(params, input_dims, filter_dims, output_dims);
  const int32_t weight_words = filter_dims->h * filter_dims->w * filter_dims->c;
  const int32_t strip_bytes = rqdkm_strip_rows(params, filter_dims, tile->rows) * columns * input_dims->c * 2;
  return rqdkm_round_up(4 * weight_words * (tile->resident ? (output_dims->c + 1) / 2 : 1) + strip_bytes, 8);
}

#define INSTANCE(bytes, form)                                                                                       \
  rqdkm_conv2d_s8_direct_template(params, quant, input_dims, input, filter_dims, filter, output_dims, output, tile, \
                                  scratch, bytes, 12, 0, form)
#define INSTANCES(bytes)                                                                   \
  case bytes:                                                                              \
    return quant->form == RQDKM_REQUANTIZE_FLOOR ? INSTANCE(bytes, RQDKM_REQUANTIZE_FLOOR) \
                                                 : INSTANCE(bytes, RQDKM_REQUANTIZE_AWAY)

int32_t rqdkm_conv2d_s8_direct(const rqdkm_conv_params *params, const rqdkm_packed_quant *quant,
                               const rqdkm_dims *input_dims, const int8_t *input, const rqdkm_dims *filter_dims,
                               const int8_t *filter, const rqdkm_dims *output_dims, int8_t *output,
                               const rqdkm_conv_tile *tile, void *scratch) {
  if (!rqdkm_conv_dims_valid(params, input_dims, filter_dims, output_dims) || tile->rows < 1) {
    return RQDKM_ERROR_ARGUMENT;
  }
  if (input_dims->c != filter_dims->c || filter_dims->w * input_dims->c % 24 != 0 || input_dims->c % 4 != 0 ||
      params->dilation.w != 1 || output_dims->c < 2 ||
      (quant->form != RQDKM_REQUANTIZE_FLOOR && quant->form != RQDKM_REQUANTIZE_AWAY)) {
    return RQDKM_ERROR_UNSUPPORTED;
  }
  switch (2 * params->stride.w * input_dims->c) {
    INSTANCES(32);
    INSTANCES(64);
    INSTANCES(128);
    default:
      return RQDKM_ERROR_UNSUPPORTED;
  }
}
