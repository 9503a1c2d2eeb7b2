/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/expand.h"
#include "rqdkm/kernels/strip.h"

static uint16_t *fill(uint16_t *dst, int32_t lanes, uint32_t value) {
  const uint16_t *const end = dst + lanes;
  RQDKM_NO_UNROLL
  while (dst != end) {
    *dst++ = (uint16_t)value;
  }
  return dst;
}

/* `count` values; stores are aligned where dst is an odd lane, loads are not. */
static void expand(uint16_t *dst, const int8_t *src, int32_t count, int32_t odd_lane) {
  const int8_t *const end = src + count;
  if (odd_lane) {
    *dst++ = (uint16_t)rqdkm_expand_value(*src++);
  }
  const int8_t *const fours_end = end - (end - src) % 4;
  RQDKM_NO_UNROLL
  while (src != fours_end) {
    const uint32_t v = rqdkm_load32(src) ^ RQDKM_SIGN_BITS;
    const uint32_t even = (v << 7) & RQDKM_LANE_MASK, odd = (v >> 1) & RQDKM_LANE_MASK;
    src += 4;
    rqdkm_store32(dst, rqdkm_pack_lo_lo(even, odd));
    rqdkm_store32(dst + 2, rqdkm_pack_hi_hi(even, odd));
    dst += 4;
  }
  while (src != end) {
    *dst++ = (uint16_t)rqdkm_expand_value(*src++);
  }
}

/* The row after `row`, one lane later; its last lane is never used. */
static void copy_shifted(uint16_t *row, int32_t row_lanes) {
  const uint16_t *const end = row + row_lanes - 2;
  uint16_t *dst = row + row_lanes;
  uint32_t word = rqdkm_load32(row);
  RQDKM_NO_UNROLL
  while (row != end) {
    const uint32_t next = rqdkm_load32(row + 2);
    row += 2;
    rqdkm_store32(dst, (word >> 16) | (next << 16));
    dst += 2;
    word = next;
  }
  rqdkm_store32(dst, word >> 16);
}

void rqdkm_strip_fill_linear(uint16_t *strip, int32_t row_lanes, int32_t shifted, const rqdkm_conv_params *params,
                             const rqdkm_dims *input_dims, const int8_t *input, int32_t y0, int32_t rows) {
  const uint32_t zero = rqdkm_expand_value(-params->input_offset);
  const int32_t left = params->padding.left * input_dims->c, width = input_dims->w * input_dims->c;
  for (int32_t y = y0; y < y0 + rows; y++) {
    if (y < 0 || y >= input_dims->h) {
      fill(strip, row_lanes, zero);
    } else {
      fill(strip, left, zero);
      expand(strip + left, input + y * width, width, left % 2);
      fill(strip + left + width, row_lanes - left - width, zero);
    }
    if (shifted) {
      copy_shifted(strip, row_lanes);
      strip += row_lanes;
    }
    strip += row_lanes;
  }
}
