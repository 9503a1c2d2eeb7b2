/* SPDX-License-Identifier: Apache-2.0 */
/* Direct convolution for few input channels: first layers (1 or 3 channels), any number that makes a short kernel row.
 *
 * As the direct template, but strips hold linear lanes, a kernel row is one run of filter_dims->w * channels lanes
 * rounded up to words (the filter has a zero there), and the inner loop takes several kernel rows in one turn, all
 * offsets immediate. Where neighbouring pixels lie an odd number of lanes apart, every strip row has a copy that is
 * shifted by one lane, and odd pixels read from that. */
#ifndef RQDKM_KERNELS_CONV2D_S8_NARROW_TEMPLATE_H
#define RQDKM_KERNELS_CONV2D_S8_NARROW_TEMPLATE_H

#include "rqdkm/kernels/block.h"
#include "rqdkm/kernels/panel.h"
#include "rqdkm/kernels/strip.h"
#include "rqdkm/kernels/weights.h"

/* Arguments as rqdkm_conv2d_s8_direct; weights packed "linear by runs". Compile-time constants:
 *   pixel_lanes  stride.w * channels
 *   steps        words of a kernel row
 *   row_lanes    rqdkm_strip_row_lanes
 *   row_stride   stride.h
 *   kernel_rows  filter_dims->h
 *   turn_rows    kernel rows per turn, divides kernel_rows
 *   vertical     0 or 1, as in the direct template
 *   form         not WIDE */
RQDKM_INLINE int32_t rqdkm_conv2d_s8_narrow_template(
    const rqdkm_conv_params *params, const rqdkm_packed_quant *quant, const rqdkm_dims *input_dims, const int8_t *input,
    const rqdkm_dims *filter_dims, const int8_t *filter, const rqdkm_dims *output_dims, int8_t *output,
    const rqdkm_conv_tile *tile, void *scratch, const int32_t pixel_lanes, const int32_t steps, const int32_t row_lanes,
    const int32_t row_stride, const int32_t kernel_rows, const int32_t turn_rows, const int32_t vertical,
    const rqdkm_requantize_form form) {
  const int32_t shifted = pixel_lanes % 2, row_bytes = 2 * row_lanes * (1 + shifted), turns = kernel_rows / turn_rows;
  const int32_t down = row_stride * row_bytes;
  /* lane n, n odd, is lane n - 1 of the shifted row */
  const int32_t odd = shifted ? 2 * (row_lanes - 1) : 0;
  const int32_t p1 = vertical ? down : 2 * pixel_lanes + odd;
  const int32_t p2 = vertical ? 2 * down : 4 * pixel_lanes;
  const int32_t p3 = vertical ? 3 * down : 6 * pixel_lanes + odd;
  const int32_t pairs = (output_dims->c + 1) / 2, weight_words = (2 * kernel_rows * steps + 3) / 4 * 4;
  const int32_t reach = (kernel_rows - 1) * row_bytes + 4 * steps; /* of a patch, in lanes' bytes */
  const int32_t pitch = vertical ? down : 2 * pixel_lanes;
  const int32_t out_right = output_dims->c, out_down = output_dims->w * output_dims->c;
  uint32_t *const weights = (uint32_t *)scratch;
  uint16_t *const strip = (uint16_t *)(weights + weight_words * (tile->resident ? pairs : 1));
  rqdkm_block_row row;
  row.rows = kernel_rows;
  row.steps = steps;
  row.row_gap = row_bytes - 4 * steps;
  row.stride = vertical ? out_down : out_right;
  if (tile->resident) {
    rqdkm_weights_expand_pairs(weights, filter, weight_words / 4, pairs, quant->bits);
  }
  for (int32_t y0 = 0; y0 < output_dims->h; y0 += tile->rows) {
    const int32_t rows = rqdkm_min(tile->rows, output_dims->h - y0);
    const int32_t lines = vertical ? output_dims->w : rows, length = vertical ? rows : output_dims->w;
    rqdkm_panel_cut cut = rqdkm_cut_panel(length);
    if (shifted && !vertical) { /* blocks must start at even lanes */
      cut.fours = length / 4;
      cut.threes = length % 4 == 3;
      cut.rest = cut.threes ? 0 : length % 4;
    }
    rqdkm_strip_fill_linear(strip, row_lanes, shifted, params, input_dims, input, y0 * row_stride - params->padding.top,
                            rqdkm_strip_rows(params, filter_dims, rows));
    const int8_t *packed = filter;
    for (int32_t pair = 0; pair < pairs; pair++) {
      int8_t *out = output + y0 * out_down + rqdkm_pair_channel(pair, output_dims->c);
      row.weights = weights;
      row.quant = quant->pairs + pair;
      if (tile->resident) {
        row.weights += weight_words * pair;
      } else {
        packed = rqdkm_weights_expand_pair(weights, packed, weight_words / 4, rqdkm_pair_bits(quant->bits, pair));
      }
      for (int32_t i = 0; i < lines; i++) {
        const int32_t offset = vertical ? 2 * i * pixel_lanes + (i * pixel_lanes % 2 != 0 ? odd : 0) : i * down;
        const uint8_t *a = (const uint8_t *)strip + offset;
        row.out = out;
        if (cut.fours != 0) {
          row.blocks = cut.fours;
          row.block_gap = 4 * pitch - reach;
          a = rqdkm_block_row_short(a, &row, 4, p1, p2, p3, steps, row_bytes, turn_rows, turns, form);
          row.out += 4 * cut.fours * row.stride;
        }
        if (cut.threes != 0) {
          row.blocks = cut.threes;
          row.block_gap = 3 * pitch - reach;
          a = rqdkm_block_row_short(a, &row, 3, p1, p2, p3, steps, row_bytes, turn_rows, turns, form);
          row.out += 3 * cut.threes * row.stride;
        }
        row.blocks = 1;
        row.block_gap = 0;
        if (cut.rest == 2) {
          rqdkm_block_row_short(a, &row, 2, p1, p2, p3, steps, row_bytes, turn_rows, turns, form);
        } else if (cut.rest == 1) {
          rqdkm_block_row_short(a, &row, 1, p1, p2, p3, steps, row_bytes, turn_rows, turns, form);
        }
        out += vertical ? out_right : out_down;
      }
    }
  }
  rqdkm_clamp_s8(output, output_dims->h * output_dims->w * output_dims->c, &params->clamp);
  return RQDKM_OK;
}

#endif
