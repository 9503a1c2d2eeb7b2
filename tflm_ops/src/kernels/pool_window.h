/* SPDX-License-Identifier: Apache-2.0 */
/* The part of a pooling window that lies inside the input. */
#ifndef RQDKM_SRC_POOL_WINDOW_H
#define RQDKM_SRC_POOL_WINDOW_H

#include "rqdkm/arch.h"
#include "rqdkm/pooling.h"

typedef struct {
  int32_t y, x, h, w; /* first row and column, extent; h or w <= 0: empty */
} pool_window;

RQDKM_INLINE pool_window pool_window_at(const rqdkm_pool_params *p, const rqdkm_dims *in, int32_t out_y,
                                        int32_t out_x) {
  const int32_t y = out_y * p->stride.h - p->padding.top, x = out_x * p->stride.w - p->padding.left;
  const int32_t y0 = y < 0 ? 0 : y, x0 = x < 0 ? 0 : x;
  const int32_t y1 = y + p->window.h < in->h ? y + p->window.h : in->h;
  const int32_t x1 = x + p->window.w < in->w ? x + p->window.w : in->w;
  const pool_window window = {y0, x0, y1 - y0, x1 - x0};
  return window;
}

/* Four bytes limited to [low, high], each given in all four bytes. */
RQDKM_INLINE uint32_t pool_clamp(uint32_t x, uint32_t low, uint32_t high) {
  return rqdkm_max_s8x4(rqdkm_min_s8x4(x, high), low);
}

RQDKM_INLINE uint32_t pool_bytes(int32_t value) { return ((uint32_t)value & 0xffU) * 0x01010101U; }

#endif
