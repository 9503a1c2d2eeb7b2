/* SPDX-License-Identifier: Apache-2.0 */
/* Taps of a convolution, gathered one by one from the int8 input. */
#ifndef RQDKM_KERNELS_GATHER_H
#define RQDKM_KERNELS_GATHER_H

#include "rqdkm/kernels/conv_common.h"

typedef struct {
  const rqdkm_conv_params *params;
  const rqdkm_dims *input_dims, *filter_dims;
  const int8_t *input;   /* first channel of the group */
  const int8_t *padding; /* filter_dims->c times the input zero point */
} rqdkm_gather;

/* One tap of the output at (y, x): filter_dims->c int8 values. */
RQDKM_INLINE const int8_t *rqdkm_gather_tap(const rqdkm_gather *s, int32_t y, int32_t x, int32_t ky, int32_t kx) {
  const int32_t iy = y * s->params->stride.h - s->params->padding.top + ky * s->params->dilation.h;
  const int32_t ix = x * s->params->stride.w - s->params->padding.left + kx * s->params->dilation.w;
  const int32_t inside = iy >= 0 && iy < s->input_dims->h && ix >= 0 && ix < s->input_dims->w;
  return inside ? s->input + (iy * s->input_dims->w + ix) * s->input_dims->c : s->padding;
}

#endif
