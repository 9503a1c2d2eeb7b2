/* SPDX-License-Identifier: Apache-2.0 */
/* Strips: some input rows of a convolution, expanded to crossed lanes (expand.h) with their padding around them. */
#ifndef RQDKM_KERNELS_STRIP_H
#define RQDKM_KERNELS_STRIP_H

#include "rqdkm/kernels/conv_common.h"

/* Input columns that a strip row holds, padding included: all that some tap reads, and the whole input row. */
RQDKM_INLINE int32_t rqdkm_strip_columns(const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                                         const rqdkm_dims *filter_dims, const rqdkm_dims *output_dims) {
  const int32_t reach = (output_dims->w - 1) * params->stride.w + (filter_dims->w - 1) * params->dilation.w + 1;
  const int32_t right = reach - params->padding.left - input_dims->w;
  return params->padding.left + input_dims->w + (right > 0 ? right : 0);
}

/* Input rows that `rows` output rows read. */
RQDKM_INLINE int32_t rqdkm_strip_rows(const rqdkm_conv_params *params, const rqdkm_dims *filter_dims, int32_t rows) {
  return (rows - 1) * params->stride.h + (filter_dims->h - 1) * params->dilation.h + 1;
}

/* Expand input rows y0 ... y0 + rows - 1; those outside the input, and columns outside, are padding. Channels: a
   multiple of 4. strip: rows * columns * channels lanes. */
void rqdkm_strip_fill(uint32_t *strip, int32_t columns, const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                      const int8_t *input, int32_t y0, int32_t rows);

/* The same for any number of channels, in linear lanes. A strip row has row_lanes lanes: columns * channels, rounded up
   to even. With shifted != 0 each row is followed by a second one of the same size that starts one lane later, so that
   odd lanes can be read as aligned words too. */
void rqdkm_strip_fill_linear(uint16_t *strip, int32_t row_lanes, int32_t shifted, const rqdkm_conv_params *params,
                             const rqdkm_dims *input_dims, const int8_t *input, int32_t y0, int32_t rows);

RQDKM_INLINE int32_t rqdkm_strip_row_lanes(const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                                           const rqdkm_dims *filter_dims, const rqdkm_dims *output_dims) {
  return rqdkm_round_up(rqdkm_strip_columns(params, input_dims, filter_dims, output_dims) * input_dims->c, 2);
}

#endif
