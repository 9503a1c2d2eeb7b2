/* SPDX-License-Identifier: Apache-2.0 */
/* Direct convolution from strips of expanded rows: no patch is copied, a block reads its pixels where they lie. The
 * distance between a block's pixels is an immediate of the inner loop, so the compiler of the model instantiates this
 * for every layer, with everything constant; rqdkm_conv2d_s8_direct instantiates it for the commonest distances.
 *
 * For each strip: expand its input rows; for each pair of output channels: expand the weights (unless resident), then
 * all pixels in blocks of four, the last few of a line in threes. A line of blocks is an output row, or, for narrow
 * maps, the part of an output column that lies in the strip (`vertical`). */
#ifndef RQDKM_KERNELS_CONV2D_S8_DIRECT_TEMPLATE_H
#define RQDKM_KERNELS_CONV2D_S8_DIRECT_TEMPLATE_H

#include "rqdkm/kernels/block.h"
#include "rqdkm/kernels/panel.h"
#include "rqdkm/kernels/strip.h"
#include "rqdkm/kernels/weights.h"

/* Arguments as rqdkm_conv2d_s8_direct. Compile-time constants:
 *   pitch     bytes from one pixel of a block to the next: 2 * stride.w * channels, or stride.h rows of the strip
 *   unroll    steps per turn of the inner loop; divides filter_dims->w * input_dims->c / 2
 *   vertical  0 or 1
 *   form      not WIDE */
RQDKM_INLINE int32_t rqdkm_conv2d_s8_direct_template(const rqdkm_conv_params *params, const rqdkm_packed_quant *quant,
                                                     const rqdkm_dims *input_dims, const int8_t *input,
                                                     const rqdkm_dims *filter_dims, const int8_t *filter,
                                                     const rqdkm_dims *output_dims, int8_t *output,
                                                     const rqdkm_conv_tile *tile, void *scratch, const int32_t pitch,
                                                     const int32_t unroll, const int32_t vertical,
                                                     const rqdkm_requantize_form form) {
  const int32_t columns = rqdkm_strip_columns(params, input_dims, filter_dims, output_dims);
  const int32_t row_bytes = 2 * columns * input_dims->c, steps = filter_dims->w * input_dims->c / 2;
  const int32_t pairs = (output_dims->c + 1) / 2, weight_words = 2 * filter_dims->h * steps;
  const int32_t reach =
      (filter_dims->h - 1) * params->dilation.h * row_bytes + 4 * steps; /* of a patch, in lanes' bytes */
  const int32_t down = params->stride.h * row_bytes, right = 2 * params->stride.w * input_dims->c;
  const int32_t out_right = output_dims->c, out_down = output_dims->w * output_dims->c;
  uint32_t *const weights = (uint32_t *)scratch;
  uint32_t *const strip = weights + weight_words * (tile->resident ? pairs : 1);
  rqdkm_block_row row;
  row.rows = filter_dims->h;
  row.steps = steps;
  row.row_gap = params->dilation.h * row_bytes - 4 * steps;
  row.stride = vertical ? out_down : out_right;
  if (tile->resident) {
    rqdkm_weights_expand_pairs(weights, filter, weight_words / 4, pairs, quant->bits);
  }
  for (int32_t y0 = 0; y0 < output_dims->h; y0 += tile->rows) {
    const int32_t rows = rqdkm_min(tile->rows, output_dims->h - y0);
    const int32_t lines = vertical ? output_dims->w : rows;
    const rqdkm_panel_cut cut = rqdkm_cut_panel(vertical ? rows : output_dims->w);
    rqdkm_strip_fill(strip, columns, params, input_dims, input, y0 * params->stride.h - params->padding.top,
                     rqdkm_strip_rows(params, filter_dims, rows));
    const int8_t *packed = filter;
    for (int32_t pair = 0; pair < pairs; pair++) {
      const uint8_t *line = (const uint8_t *)strip;
      int8_t *out = output + y0 * out_down + rqdkm_pair_channel(pair, output_dims->c);
      row.weights = weights;
      row.quant = quant->pairs + pair;
      if (tile->resident) {
        row.weights += weight_words * pair;
      } else {
        packed = rqdkm_weights_expand_pair(weights, packed, weight_words / 4, rqdkm_pair_bits(quant->bits, pair));
      }
      for (int32_t i = 0; i < lines; i++) {
        const uint8_t *a = line;
        row.out = out;
        if (cut.fours != 0) {
          row.blocks = cut.fours;
          row.block_gap = 4 * pitch - reach;
          a = rqdkm_block_row_run(a, &row, 4, pitch, 4, unroll, form);
          row.out += 4 * cut.fours * row.stride;
        }
        if (cut.threes != 0) {
          row.blocks = cut.threes;
          row.block_gap = 3 * pitch - reach;
          a = rqdkm_block_row_run(a, &row, 3, pitch, 4, unroll, form);
          row.out += 3 * cut.threes * row.stride;
        }
        row.blocks = 1;
        row.block_gap = 0;
        if (cut.rest == 2) {
          rqdkm_block_row_run(a, &row, 2, pitch, 4, unroll, form);
        } else if (cut.rest == 1) {
          rqdkm_block_row_run(a, &row, 1, pitch, 4, unroll, form);
        }
        line += vertical ? right : down;
        out += vertical ? out_right : out_down;
      }
    }
  }
  rqdkm_clamp_s8(output, output_dims->h * output_dims->w * output_dims->c, &params->clamp);
  return RQDKM_OK;
}

#endif
