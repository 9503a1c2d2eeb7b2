/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/gather.h"
#include "rqdkm/kernels/quad.h"

#define SECOND_MASK 0x03fc03fcu /* two values in lanes: where pixel 1 has them in X, 16 bits lower */

/* Four values of each of two pixels, none negative -> X of four taps. first is a constant; its mask: two values there.
 */
RQDKM_INLINE void four_operands(uint32_t *dst, uint32_t a, uint32_t b, const int32_t first, uint32_t first_mask,
                                uint32_t second_mask) {
  const uint32_t a02 = a << first & first_mask, a13 = a >> (8 - first) & first_mask;
  const uint32_t b02 = b << 2 & second_mask, b13 = b >> 6 & second_mask;
  rqdkm_store32(dst + 0, rqdkm_pack_lo_lo(a02, b02));
  rqdkm_store32(dst + 2, rqdkm_pack_lo_lo(a13, b13));
  rqdkm_store32(dst + 4, rqdkm_pack_hi_hi(a02, b02));
  rqdkm_store32(dst + 6, rqdkm_pack_hi_hi(a13, b13));
}

RQDKM_INLINE uint32_t *expand_first(uint32_t *dst, const int8_t *const *pixels, int32_t quads, uint32_t low,
                                    const int32_t first) {
  const int8_t *p0 = pixels[0], *p1 = pixels[1], *p2 = pixels[2], *p3 = pixels[3];
  const uint32_t *const end = dst + 8 * quads;
  uint32_t first_mask = 0x00ff00ffu << first, second_mask = SECOND_MASK;
  RQDKM_IN_REGISTER(first_mask);
  RQDKM_IN_REGISTER(second_mask);
  RQDKM_NO_UNROLL
  for (; dst != end; dst += 8) {
    const uint32_t a = rqdkm_load32(p0), b = rqdkm_load32(p1), c = rqdkm_load32(p2), d = rqdkm_load32(p3);
    p0 += 4;
    p1 += 4;
    p2 += 4;
    p3 += 4;
    four_operands(dst, rqdkm_ssub8(a, low), rqdkm_ssub8(b, low), first, first_mask, second_mask);
    four_operands(dst + 1, rqdkm_ssub8(c, low), rqdkm_ssub8(d, low), first, first_mask, second_mask);
  }
  return dst;
}

/* What is taken off every input value: low in every byte; and where pixel 0 stands in X. */
typedef struct {
  uint32_t low;
  int32_t first;
} operand_form;

/* `quads` times four values of each of four pixels -> [tap][2]. */
static uint32_t *expand(uint32_t *dst, const int8_t *const *pixels, int32_t quads, operand_form form) {
  return form.first == 4 ? expand_first(dst, pixels, quads, form.low, 4)
                         : expand_first(dst, pixels, quads, form.low, 5);
}

/* The blocks of `pixels` output positions from number `first` on (row-major). What the last block has too many repeats
   its last pixel. */
static void fill(uint32_t *dst, const rqdkm_gather *s, int32_t first, int32_t pixels, int32_t output_w,
                 operand_form form) {
  const int32_t quads = s->filter_dims->c / 4;
  for (int32_t at = 0; at < pixels; at += 4) {
    int32_t ys[4], xs[4];
    for (int32_t i = 0; i < 4; i++) {
      const int32_t position = first + rqdkm_min(at + i, pixels - 1);
      ys[i] = position / output_w;
      xs[i] = position - ys[i] * output_w;
    }
    for (int32_t ky = 0; ky < s->filter_dims->h; ky++) {
      for (int32_t kx = 0; kx < s->filter_dims->w; kx++) {
        const int8_t *taps[4];
        for (int32_t i = 0; i < 4; i++) {
          taps[i] = rqdkm_gather_tap(s, ys[i], xs[i], ky, kx);
        }
        dst = expand(dst, taps, quads, form);
      }
    }
  }
}

/* The same for a 1x1 convolution whose positions are those of the input. */
static void fill_pointwise(uint32_t *dst, const int8_t *input, int32_t channels, int32_t pixels, operand_form form) {
  for (int32_t at = 0; at < pixels; at += 4) {
    const int8_t *taps[4];
    for (int32_t i = 0; i < 4; i++) {
      taps[i] = input + rqdkm_min(at + i, pixels - 1) * channels;
    }
    dst = expand(dst, taps, channels / 4, form);
  }
}

static int32_t fours_of(const rqdkm_dims *output_dims) { return (output_dims->c + 3) / 4; }

static int32_t taps_of(const rqdkm_dims *filter_dims) { return filter_dims->h * filter_dims->w * filter_dims->c; }

/* Weights of four output channels; returns those of the next. */
static const int8_t *expand_weights(uint32_t *dst, const int8_t *src, int32_t taps, const uint8_t *bits,
                                    int32_t first) {
  src = rqdkm_quad_weights(dst, src, taps, bits[0], first);
  return rqdkm_quad_weights(dst + 1, src, taps, bits[1], first);
}

/* A panel with four output channels; out: its first pixel's output of the first of them. */
static void multiply(void (*function)(const rqdkm_quad_row *), rqdkm_quad_row *row, int32_t pixels, int8_t *out) {
  const int32_t stride = row->stride, rest = pixels % 4;
  row->blocks = pixels / 4;
  row->out = out;
  if (row->blocks != 0) {
    function(row);
  }
  if (rest != 0) {
    int8_t results[16];
    rqdkm_quad_row last = *row;
    last.inputs += row->blocks * row->taps * 2;
    last.blocks = 1;
    last.out = results;
    last.stride = 4;
    function(&last);
    out += 4 * row->blocks * stride;
    for (int32_t i = 0; i < rest; i++) {
      memcpy(out + i * stride, results + 4 * i, 4);
    }
  }
}

int32_t rqdkm_conv2d_s4_gemm_scratch_bytes(const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                                           const rqdkm_dims *filter_dims, const rqdkm_dims *output_dims,
                                           const rqdkm_conv_tile *tile) {
  const int32_t taps = taps_of(filter_dims);
  const int32_t padding = rqdkm_conv_pads(params, input_dims, filter_dims, output_dims) ? filter_dims->c : 0;
  return rqdkm_round_up(8 * taps * (tile->resident ? fours_of(output_dims) : 1) + 2 * tile->pixels * taps + padding, 8);
}

int32_t rqdkm_conv2d_s4_gemm(const rqdkm_conv_params *params, const rqdkm_quad_params *quant,
                             const rqdkm_dims *input_dims, const int8_t *input, const rqdkm_dims *filter_dims,
                             const int8_t *filter, const rqdkm_dims *output_dims, int8_t *output,
                             const rqdkm_conv_tile *tile, void *scratch) {
  if (!rqdkm_conv_dims_valid(params, input_dims, filter_dims, output_dims) || tile->pixels < 4 ||
      tile->pixels % 4 != 0 || quant->multiply == 0 || quant->first < 4 || quant->first > 5) {
    return RQDKM_ERROR_ARGUMENT;
  }
  if (filter_dims->c % 4 != 0 || filter_dims->c != input_dims->c || output_dims->c < 4) {
    return RQDKM_ERROR_UNSUPPORTED;
  }
  const int32_t fours = fours_of(output_dims), taps = taps_of(filter_dims);
  const int32_t positions = output_dims->h * output_dims->w;
  const operand_form form = {((uint32_t)quant->low & 0xffu) * 0x01010101u, quant->first};
  const int32_t pads = rqdkm_conv_pads(params, input_dims, filter_dims, output_dims);
  const int32_t pointwise = taps == filter_dims->c && params->stride.h == 1 && params->stride.w == 1 && !pads &&
                            output_dims->w == input_dims->w;
  uint32_t *const weights = (uint32_t *)scratch;
  uint32_t *const panel = weights + 2 * taps * (tile->resident ? fours : 1);
  int8_t *const padding = (int8_t *)(panel + tile->pixels / 2 * taps);
  if (pads) {
    memset(padding, -params->input_offset, (size_t)filter_dims->c);
  }
  const rqdkm_gather s = {params, input_dims, filter_dims, input, padding};
  if (tile->resident) {
    const int8_t *src = filter;
    for (int32_t four = 0; four < fours; four++) {
      src = expand_weights(weights + 2 * taps * four, src, taps, quant->bits + 2 * four, quant->first);
    }
  }
  for (int32_t first = 0; first < positions; first += tile->pixels) {
    const int32_t pixels = rqdkm_min(tile->pixels, positions - first);
    if (pointwise) {
      fill_pointwise(panel, input + first * filter_dims->c, filter_dims->c, pixels, form);
    } else {
      fill(panel, &s, first, pixels, output_dims->w, form);
    }
    const int8_t *src = filter;
    rqdkm_quad_row row = {
        .inputs = panel, .weights = weights, .taps = taps, .first = quant->first, .stride = output_dims->c};
    for (int32_t four = 0; four < fours; four++) {
      if (tile->resident) {
        row.weights = weights + 2 * taps * four;
      } else {
        src = expand_weights(weights, src, taps, quant->bits + 2 * four, quant->first);
      }
      row.quant = quant->fours + four;
      multiply(quant->multiply, &row, pixels,
               output + first * output_dims->c + rqdkm_min(4 * four, output_dims->c - 4));
    }
  }
  rqdkm_clamp_s8(output, positions * output_dims->c, &params->clamp);
  return RQDKM_OK;
}
