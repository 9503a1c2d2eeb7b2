/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/conv_common.h"
#include "rqdkm/kernels/expand.h"
#include "rqdkm/kernels/panel.h"
#include "rqdkm/kernels/strip.h"

/* A patch is cut into runs of consecutive lanes of a strip row, each rounded up to whole words; the filter has zeros
   where a run was rounded up. One group without column dilation: a run is a whole kernel row. Otherwise it is one tap.
 */
typedef struct {
  int32_t rows, columns; /* runs per patch: kernel rows x runs per kernel row */
  int32_t words;         /* per run */
  int32_t row_lanes;     /* lanes per strip row, even */
} layout;

static layout make_layout(const rqdkm_conv_params *params, const rqdkm_dims *input_dims, const rqdkm_dims *filter_dims,
                          const rqdkm_dims *output_dims) {
  const int32_t whole_row = input_dims->c == filter_dims->c && params->dilation.w == 1;
  layout l;
  l.rows = filter_dims->h;
  l.columns = whole_row ? 1 : filter_dims->w;
  l.words = ((whole_row ? filter_dims->w : 1) * filter_dims->c + 1) / 2;
  l.row_lanes = rqdkm_strip_row_lanes(params, input_dims, filter_dims, output_dims);
  return l;
}

static void copy_run_4(uint32_t *block, const uint16_t *const *patch, int32_t offset, int32_t words) {
  const uint16_t *p0 = patch[0] + offset, *p1 = patch[1] + offset, *p2 = patch[2] + offset, *p3 = patch[3] + offset;
  const uint32_t *const end = block + 4 * words;
  RQDKM_NO_UNROLL
  do {
    const uint32_t a = rqdkm_load32(p0), b = rqdkm_load32(p1), c = rqdkm_load32(p2), d = rqdkm_load32(p3);
    p0 += 2;
    p1 += 2;
    p2 += 2;
    p3 += 2;
    rqdkm_store32(block, a);
    rqdkm_store32(block + 1, b);
    rqdkm_store32(block + 2, c);
    rqdkm_store32(block + 3, d);
    block += 4;
  } while (block != end);
}

/* Build one block of np pixels whose patches start at patch[0 ... np - 1]; returns its end. */
static uint32_t *gather(uint32_t *block, const layout *l, const uint16_t *const *patch, int32_t np, int32_t row_step,
                        int32_t column_step) {
  for (int32_t ky = 0; ky < l->rows; ky++) {
    for (int32_t kx = 0; kx < l->columns; kx++) {
      const int32_t offset = ky * row_step + kx * column_step;
      if (np == 4) {
        copy_run_4(block, patch, offset, l->words);
      } else {
        for (int32_t i = 0; i < np; i++) {
          for (int32_t j = 0; j < l->words; j++) {
            rqdkm_store32(block + np * j + i, rqdkm_load32(patch[i] + offset + 2 * j));
          }
        }
      }
      block += np * l->words;
    }
  }
  return block;
}

/* The panel of `pixels` positions from number `first` of the strip on (row-major). */
static void fill_panel(uint32_t *panel, const layout *l, const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                       const uint16_t *strip, int32_t first, int32_t pixels, int32_t output_w) {
  const rqdkm_panel_cut cut = rqdkm_cut_panel(pixels);
  const int32_t y_step = params->stride.h * l->row_lanes, x_step = params->stride.w * input_dims->c;
  int32_t y = first / output_w, x = first % output_w;
  for (int32_t block = 0; block < cut.fours + cut.threes + (cut.rest != 0); block++) {
    const int32_t np = block < cut.fours ? 4 : block < cut.fours + cut.threes ? 3 : cut.rest;
    const uint16_t *patch[4];
    for (int32_t i = 0; i < np; i++) {
      patch[i] = strip + y * y_step + x * x_step;
      if (++x == output_w) {
        x = 0;
        y++;
      }
    }
    panel = gather(panel, l, patch, np, params->dilation.h * l->row_lanes, params->dilation.w * input_dims->c);
  }
}

typedef struct {
  int32_t steps, weight_words, weights, panel, strip, bounce; /* words, but for bounce: bytes */
} sizes;

static sizes make_sizes(const layout *l, const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                        const rqdkm_dims *filter_dims, const rqdkm_dims *output_dims, const rqdkm_conv_tile *tile) {
  sizes z;
  z.steps = l->rows * l->columns * l->words;
  z.weight_words = 4 * ((z.steps + 1) / 2);
  z.weights = z.weight_words * (tile->resident ? rqdkm_conv_group_pairs(input_dims, filter_dims, output_dims) : 1);
  z.panel = tile->pixels * z.steps;
  z.strip =
      rqdkm_strip_rows(params, filter_dims, tile->rows) * l->row_lanes / 2 + 1; /* a last run may read one lane more */
  z.bounce = output_dims->c == rqdkm_conv_groups(input_dims, filter_dims) ? 2 * tile->pixels : 0;
  return z;
}

int32_t rqdkm_conv2d_s8_im2row_scratch_bytes(const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                                             const rqdkm_dims *filter_dims, const rqdkm_dims *output_dims,
                                             const rqdkm_conv_tile *tile) {
  const layout l = make_layout(params, input_dims, filter_dims, output_dims);
  const sizes z = make_sizes(&l, params, input_dims, filter_dims, output_dims, tile);
  return rqdkm_round_up(4 * (z.weights + z.panel + z.strip) + z.bounce, 8);
}

int32_t rqdkm_conv2d_s8_im2row(const rqdkm_conv_params *params, const rqdkm_packed_quant *quant,
                               const rqdkm_dims *input_dims, const int8_t *input, const rqdkm_dims *filter_dims,
                               const int8_t *filter, const rqdkm_dims *output_dims, int8_t *output,
                               const rqdkm_conv_tile *tile, void *scratch) {
  const rqdkm_panel_function multiply = quant->panel;
  if (!rqdkm_conv_dims_valid(params, input_dims, filter_dims, output_dims) || tile->pixels < 1 || tile->rows < 1 ||
      multiply == 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  const layout l = make_layout(params, input_dims, filter_dims, output_dims);
  const sizes z = make_sizes(&l, params, input_dims, filter_dims, output_dims, tile);
  const int32_t groups = rqdkm_conv_groups(input_dims, filter_dims), channels = output_dims->c / groups;
  const int32_t pairs = rqdkm_conv_group_pairs(input_dims, filter_dims, output_dims);
  uint32_t *const weights = (uint32_t *)scratch, *const panel = weights + z.weights;
  uint16_t *const strip = (uint16_t *)(panel + z.panel);
  int8_t *const bounce = (int8_t *)(panel + z.panel + z.strip);
  rqdkm_panel_group g = {multiply,       filter,         filter,  quant->pairs, quant->bits, weights,       bounce,
                         tile->resident, z.weight_words, z.steps, pairs,        channels,    output_dims->c};
  for (int32_t group = 0; group < groups; group++) {
    rqdkm_panel_group_begin(&g);
    for (int32_t y0 = 0; y0 < output_dims->h; y0 += tile->rows) {
      const int32_t rows = rqdkm_min(tile->rows, output_dims->h - y0), positions = rows * output_dims->w;
      rqdkm_strip_fill_linear(strip, l.row_lanes, 0, params, input_dims, input,
                              y0 * params->stride.h - params->padding.top, rqdkm_strip_rows(params, filter_dims, rows));
      for (int32_t first = 0; first < positions; first += tile->pixels) {
        const int32_t pixels = rqdkm_min(tile->pixels, positions - first);
        fill_panel(panel, &l, params, input_dims, strip + filter_dims->c * group, first, pixels, output_dims->w);
        rqdkm_panel_group_multiply(&g, panel, pixels,
                                   output + (y0 * output_dims->w + first) * output_dims->c + channels * group);
      }
    }
    rqdkm_panel_group_next(&g);
  }
  rqdkm_clamp_s8(output, output_dims->h * output_dims->w * output_dims->c, &params->clamp);
  return RQDKM_OK;
}
