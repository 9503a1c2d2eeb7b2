/* SPDX-License-Identifier: Apache-2.0 */
/* Body of rqdkm_panel_s8_<form>; `form` is a compile-time constant. */
#ifndef RQDKM_KERNELS_PANEL_TEMPLATE_H
#define RQDKM_KERNELS_PANEL_TEMPLATE_H

#include "rqdkm/kernels/panel.h"

#define RQDKM_PANEL_STEP(k) RQDKM_BLOCK_STEP(16 * (k), 16 * (k) + 4, 16 * (k) + 8, 16 * (k) + 12, 8 * (k))

RQDKM_INLINE const uint32_t *rqdkm_panel_fours(const uint32_t *panel, const uint32_t *weights, int32_t steps,
                                               int32_t blocks, const rqdkm_pair_quant *quant, int8_t *out,
                                               int32_t stride, const rqdkm_requantize_form form) {
  const uint32_t *const eights_end = weights + 2 * (steps & ~7);
  const int8_t *const out_end = out + 4 * blocks * stride;
  RQDKM_NO_UNROLL
  while (out != out_end) {
    RQDKM_BLOCK_POINTERS(panel, weights);
    RQDKM_BLOCK_ACCUMULATORS(quant->bias[0], quant->bias[1]);
    RQDKM_NO_UNROLL
    while (w != eights_end) {
      RQDKM_PANEL_STEP(0);
      RQDKM_PANEL_STEP(1);
      RQDKM_PANEL_STEP(2);
      RQDKM_PANEL_STEP(3);
      RQDKM_PANEL_STEP(4);
      RQDKM_PANEL_STEP(5);
      RQDKM_PANEL_STEP(6);
      RQDKM_PANEL_STEP(7);
      a += 32;
      w += 16;
    }
    if ((steps & 7) != 0) {
      if ((steps & 4) != 0) {
        RQDKM_PANEL_STEP(0);
        RQDKM_PANEL_STEP(1);
        RQDKM_PANEL_STEP(2);
        RQDKM_PANEL_STEP(3);
        a += 16;
        w += 8;
      }
      if ((steps & 2) != 0) {
        RQDKM_PANEL_STEP(0);
        RQDKM_PANEL_STEP(1);
        a += 8;
        w += 4;
      }
      if ((steps & 1) != 0) {
        RQDKM_PANEL_STEP(0);
        a += 4;
      }
    }
    panel = a;
    {
      const int32_t m = quant->multiplier[0], c = quant->offset[0], s = quant->shift[0];
      int8_t *o = out;
      *o = rqdkm_block_output(c00, form, m, c, s);
      o += stride;
      *o = rqdkm_block_output(c10, form, m, c, s);
      o += stride;
      *o = rqdkm_block_output(c20, form, m, c, s);
      o += stride;
      *o = rqdkm_block_output(c30, form, m, c, s);
    }
    {
      const int32_t m = quant->multiplier[1], c = quant->offset[1], s = quant->shift[1];
      out[1] = rqdkm_block_output(c01, form, m, c, s);
      out += stride;
      out[1] = rqdkm_block_output(c11, form, m, c, s);
      out += stride;
      out[1] = rqdkm_block_output(c21, form, m, c, s);
      out += stride;
      out[1] = rqdkm_block_output(c31, form, m, c, s);
      out += stride;
    }
  }
  return panel;
}

/* Blocks of np = 1, 2 or 3 pixels (a compile-time constant): few enough accumulators for GCC to keep in registers. */
RQDKM_INLINE const uint32_t *rqdkm_panel_few(const uint32_t *panel, const uint32_t *weights, int32_t steps,
                                             int32_t blocks, const rqdkm_pair_quant *quant, int8_t *out, int32_t stride,
                                             const int32_t np, const rqdkm_requantize_form form) {
  RQDKM_NO_UNROLL
  for (int32_t block = 0; block < blocks; block++) {
    const uint32_t *w = weights, *const end = weights + 2 * steps;
    int32_t c00 = quant->bias[0], c01 = quant->bias[1], c10 = c00, c11 = c01, c20 = c00, c21 = c01;
    RQDKM_NO_UNROLL
    while (w != end) {
      const uint32_t w0 = w[0], w1 = w[1];
      w += 2;
      c00 = rqdkm_smlad(panel[0], w0, c00);
      c01 = rqdkm_smlad(panel[0], w1, c01);
      if (np > 1) {
        c10 = rqdkm_smlad(panel[1], w0, c10);
        c11 = rqdkm_smlad(panel[1], w1, c11);
      }
      if (np > 2) {
        c20 = rqdkm_smlad(panel[2], w0, c20);
        c21 = rqdkm_smlad(panel[2], w1, c21);
      }
      panel += np;
    }
    {
      const int32_t m = quant->multiplier[0], c = quant->offset[0], s = quant->shift[0];
      out[0] = rqdkm_block_output(c00, form, m, c, s);
      if (np > 1) {
        out[stride] = rqdkm_block_output(c10, form, m, c, s);
      }
      if (np > 2) {
        out[2 * stride] = rqdkm_block_output(c20, form, m, c, s);
      }
    }
    {
      const int32_t m = quant->multiplier[1], c = quant->offset[1], s = quant->shift[1];
      out[1] = rqdkm_block_output(c01, form, m, c, s);
      if (np > 1) {
        out[stride + 1] = rqdkm_block_output(c11, form, m, c, s);
      }
      if (np > 2) {
        out[2 * stride + 1] = rqdkm_block_output(c21, form, m, c, s);
      }
    }
    out += np * stride;
  }
  return panel;
}

RQDKM_INLINE void rqdkm_panel_template(const uint32_t *panel, const uint32_t *weights, int32_t steps, int32_t pixels,
                                       const rqdkm_pair_quant *quant, int8_t *out, int32_t stride,
                                       const rqdkm_requantize_form form) {
  const rqdkm_panel_cut cut = rqdkm_cut_panel(pixels);
  panel = rqdkm_panel_fours(panel, weights, steps, cut.fours, quant, out, stride, form);
  out += 4 * cut.fours * stride;
  if (cut.threes != 0) {
    panel = rqdkm_panel_few(panel, weights, steps, cut.threes, quant, out, stride, 3, form);
    out += 3 * cut.threes * stride;
  }
  if (cut.rest == 2) {
    rqdkm_panel_few(panel, weights, steps, 1, quant, out, stride, 2, form);
  } else if (cut.rest == 1) {
    rqdkm_panel_few(panel, weights, steps, 1, quant, out, stride, 1, form);
  }
}

#endif
