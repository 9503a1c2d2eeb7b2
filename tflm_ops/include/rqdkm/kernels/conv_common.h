/* SPDX-License-Identifier: Apache-2.0 */
/* What the convolution kernels share: argument checks, padding, the narrow clamp. */
#ifndef RQDKM_KERNELS_CONV_COMMON_H
#define RQDKM_KERNELS_CONV_COMMON_H

#include "rqdkm/arch.h"
#include "rqdkm/convolution.h"

RQDKM_INLINE int32_t rqdkm_min(int32_t a, int32_t b) { return a < b ? a : b; }
RQDKM_INLINE int32_t rqdkm_round_up(int32_t value, int32_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

RQDKM_INLINE int32_t rqdkm_conv_groups(const rqdkm_dims *input_dims, const rqdkm_dims *filter_dims) {
  return input_dims->c / filter_dims->c;
}

/* Pairs of output channels in one group; an odd last channel counts as a pair. */
RQDKM_INLINE int32_t rqdkm_conv_group_pairs(const rqdkm_dims *input_dims, const rqdkm_dims *filter_dims,
                                            const rqdkm_dims *output_dims) {
  return (output_dims->c / rqdkm_conv_groups(input_dims, filter_dims) + 1) / 2;
}

/* First output channel of a pair: the last pair of an odd number of channels overlaps the one before. */
RQDKM_INLINE int32_t rqdkm_pair_channel(int32_t pair, int32_t channels) {
  return channels < 2 ? 0 : rqdkm_min(2 * pair, channels - 2);
}

RQDKM_INLINE int32_t rqdkm_conv_dims_valid(const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                                           const rqdkm_dims *filter_dims, const rqdkm_dims *output_dims) {
  if (filter_dims->c < 1 || input_dims->c % filter_dims->c != 0 || filter_dims->h < 1 || filter_dims->w < 1) {
    return 0;
  }
  return output_dims->c % rqdkm_conv_groups(input_dims, filter_dims) == 0 && params->stride.h > 0 &&
         params->stride.w > 0 && params->dilation.h > 0 && params->dilation.w > 0 && params->padding.top >= 0 &&
         params->padding.left >= 0 && output_dims->h > 0 && output_dims->w > 0;
}

/* Whether any tap of any output lies outside the input. */
RQDKM_INLINE int32_t rqdkm_conv_pads(const rqdkm_conv_params *params, const rqdkm_dims *input_dims,
                                     const rqdkm_dims *filter_dims, const rqdkm_dims *output_dims) {
  const int32_t bottom = (output_dims->h - 1) * params->stride.h + (filter_dims->h - 1) * params->dilation.h;
  const int32_t right = (output_dims->w - 1) * params->stride.w + (filter_dims->w - 1) * params->dilation.w;
  return params->padding.top > 0 || params->padding.left > 0 || bottom >= input_dims->h || right >= input_dims->w;
}

/* Clamp `count` bytes in place; the kernels themselves saturate to int8 only, narrower clamps are rare. */
RQDKM_INLINE void rqdkm_clamp_s8(int8_t *data, int32_t count, const rqdkm_clamp *clamp) {
  if (clamp->min <= -128 && clamp->max >= 127) {
    return;
  }
  const uint32_t low = ((uint32_t)clamp->min & 0xffu) * 0x01010101u;
  const uint32_t high = ((uint32_t)clamp->max & 0xffu) * 0x01010101u;
  int32_t i = 0;
  RQDKM_NO_UNROLL
  for (; i + 4 <= count; i += 4) {
    rqdkm_store32(data + i, rqdkm_min_s8x4(rqdkm_max_s8x4(rqdkm_load32(data + i), low), high));
  }
  for (; i < count; i++) {
    const int32_t v = data[i] < clamp->min ? clamp->min : data[i];
    data[i] = (int8_t)(v > clamp->max ? clamp->max : v);
  }
}

#endif
