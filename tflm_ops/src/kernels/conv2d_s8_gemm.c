/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/conv_common.h"
#include "rqdkm/kernels/expand.h"
#include "rqdkm/kernels/gather.h"
#include "rqdkm/kernels/panel.h"

/* Build one block of np pixels from output position (y, x) on, all taps; returns the end of the block. */
static uint32_t *gather(uint32_t *block, const rqdkm_gather *s, int32_t np, int32_t y, int32_t x, int32_t output_w) {
  const int32_t quads = s->filter_dims->c / 4;
  int32_t ys[4], xs[4];
  for (int32_t i = 0; i < np; i++) {
    ys[i] = y;
    xs[i] = x;
    if (++x == output_w) {
      x = 0;
      y++;
    }
  }
  for (int32_t ky = 0; ky < s->filter_dims->h; ky++) {
    for (int32_t kx = 0; kx < s->filter_dims->w; kx++) {
      const int8_t *taps[4];
      for (int32_t i = 0; i < np; i++) {
        taps[i] = rqdkm_gather_tap(s, ys[i], xs[i], ky, kx);
      }
      if (np == 4) {
        rqdkm_expand_crossed_4(block, taps[0], taps[1], taps[2], taps[3], quads);
      } else {
        for (int32_t i = 0; i < np; i++) {
          rqdkm_expand_crossed(block + i, taps[i], quads, np);
        }
      }
      block += np * 2 * quads;
    }
  }
  return block;
}

/* The blocks of four pixels of a 1x1 convolution that does not pad, from output position (y, x) on; returns their end.
 */
static uint32_t *gather_pointwise(uint32_t *block, const rqdkm_gather *s, int32_t blocks, int32_t y, int32_t x,
                                  int32_t output_w) {
  const int32_t quads = s->filter_dims->c / 4, pitch = s->params->stride.w * s->input_dims->c;
  const int32_t turn = s->params->stride.h * s->input_dims->w * s->input_dims->c - output_w * pitch;
  const int8_t *pixel = rqdkm_gather_tap(s, y, x, 0, 0);
  RQDKM_NO_UNROLL
  for (int32_t i = 0; i < blocks; i++) {
    const int8_t *p0 = pixel, *p1 = p0 + pitch, *p2 = p1 + pitch, *p3 = p2 + pitch;
    pixel = p3 + pitch;
    if (turn != 0) { /* not contiguous: an output row may end within the block */
      p1 = p0 + pitch + (++x == output_w ? x = 0, turn : 0);
      p2 = p1 + pitch + (++x == output_w ? x = 0, turn : 0);
      p3 = p2 + pitch + (++x == output_w ? x = 0, turn : 0);
      pixel = p3 + pitch + (++x == output_w ? x = 0, turn : 0);
    }
    rqdkm_expand_crossed_4(block, p0, p1, p2, p3, quads);
    block += 8 * quads;
  }
  return block;
}

/* The panel of `pixels` output positions from number `first` on (row-major). */
static void fill_panel(uint32_t *panel, const rqdkm_gather *s, int32_t first, int32_t pixels, int32_t output_w,
                       int32_t pointwise) {
  const rqdkm_panel_cut cut = rqdkm_cut_panel(pixels);
  int32_t position = first, block = 0;
  if (pointwise) {
    panel = gather_pointwise(panel, s, cut.fours, position / output_w, position % output_w, output_w);
    position += 4 * cut.fours;
    block = cut.fours;
  }
  for (; block < cut.fours + cut.threes + (cut.rest != 0); block++) {
    const int32_t np = block < cut.fours ? 4 : block < cut.fours + cut.threes ? 3 : cut.rest;
    panel = gather(panel, s, np, position / output_w, position % output_w, output_w);
    position += np;
  }
}

static int32_t weight_words(const rqdkm_dims *filter_dims) {
  return filter_dims->h * filter_dims->w * filter_dims->c; /* two channels, two taps per word */
}

int32_t rqdkm_conv2d_s8_gemm_scratch_bytes(const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                                           const rqdkm_dims *filter_dims, const rqdkm_dims *output_dims,
                                           const rqdkm_conv_tile *tile) {
  const int32_t pairs = rqdkm_conv_group_pairs(input_dims, filter_dims, output_dims);
  const int32_t words = weight_words(filter_dims);
  const int32_t padding = rqdkm_conv_pads(params, input_dims, filter_dims, output_dims) ? filter_dims->c : 0;
  const int32_t bounce = output_dims->c == rqdkm_conv_groups(input_dims, filter_dims) ? 2 * tile->pixels : 0;
  return rqdkm_round_up(4 * (words * (tile->resident ? pairs : 1) + tile->pixels * words / 2) + padding + bounce, 8);
}

int32_t rqdkm_conv2d_s8_gemm(const rqdkm_conv_params *params, const rqdkm_packed_quant *quant,
                             const rqdkm_dims *input_dims, const int8_t *input, const rqdkm_dims *filter_dims,
                             const int8_t *filter, const rqdkm_dims *output_dims, int8_t *output,
                             const rqdkm_conv_tile *tile, void *scratch) {
  const rqdkm_panel_function multiply = quant->panel;
  if (!rqdkm_conv_dims_valid(params, input_dims, filter_dims, output_dims) || tile->pixels < 1 || multiply == 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  if (filter_dims->c % 4 != 0) {
    return RQDKM_ERROR_UNSUPPORTED;
  }
  const int32_t groups = rqdkm_conv_groups(input_dims, filter_dims), channels = output_dims->c / groups;
  const int32_t pairs = rqdkm_conv_group_pairs(input_dims, filter_dims, output_dims);
  const int32_t words = weight_words(filter_dims), steps = words / 2, positions = output_dims->h * output_dims->w;
  uint32_t *const weights = (uint32_t *)scratch;
  uint32_t *const panel = weights + words * (tile->resident ? pairs : 1);
  int8_t *const bounce = (int8_t *)(panel + tile->pixels * steps);
  int8_t *const padding = bounce + (channels == 1 ? 2 * tile->pixels : 0);
  const int32_t pads = rqdkm_conv_pads(params, input_dims, filter_dims, output_dims);
  const int32_t pointwise = filter_dims->h == 1 && filter_dims->w == 1 && !pads;
  if (pads) {
    memset(padding, -params->input_offset, (size_t)filter_dims->c);
  }
  rqdkm_gather s = {params, input_dims, filter_dims, input, padding};
  rqdkm_panel_group g = {multiply,       filter, filter, quant->pairs, quant->bits, weights,       bounce,
                         tile->resident, words,  steps,  pairs,        channels,    output_dims->c};
  for (int32_t group = 0; group < groups; group++) {
    s.input = input + filter_dims->c * group;
    rqdkm_panel_group_begin(&g);
    for (int32_t first = 0; first < positions; first += tile->pixels) {
      const int32_t pixels = rqdkm_min(tile->pixels, positions - first);
      fill_panel(panel, &s, first, pixels, output_dims->w, pointwise);
      rqdkm_panel_group_multiply(&g, panel, pixels, output + first * output_dims->c + channels * group);
    }
    rqdkm_panel_group_next(&g);
  }
  rqdkm_clamp_s8(output, positions * output_dims->c, &params->clamp);
  return RQDKM_OK;
}
