/* SPDX-License-Identifier: Apache-2.0 */
/* Body of rqdkm_panel_s8_<form>; `form` is a compile-time constant. */
#ifndef RQDKM_KERNELS_PANEL_TEMPLATE_H
#define RQDKM_KERNELS_PANEL_TEMPLATE_H

#include "rqdkm/kernels/panel.h"

RQDKM_INLINE void rqdkm_panel_template(const uint32_t *panel, const uint32_t *weights, int32_t steps, int32_t pixels,
                                       const rqdkm_pair_quant *quant, int8_t *out, int32_t stride,
                                       const rqdkm_requantize_form form) {
  const rqdkm_panel_cut cut = rqdkm_cut_panel(pixels);
  const uint8_t *a = (const uint8_t *)panel;
  rqdkm_block_row row = {weights, 1, steps, 0, cut.fours, 0, quant, out, stride};
  if (cut.fours != 0) {
    a = rqdkm_block_row_panel(a, &row, 4, form);
    row.out += 4 * cut.fours * stride;
  }
  if (cut.threes != 0) {
    row.blocks = cut.threes;
    a = rqdkm_block_row_panel(a, &row, 3, form);
    row.out += 3 * cut.threes * stride;
  }
  row.blocks = 1;
  if (cut.rest == 2) {
    rqdkm_block_row_panel(a, &row, 2, form);
  } else if (cut.rest == 1) {
    rqdkm_block_row_panel(a, &row, 1, form);
  }
}

#endif
