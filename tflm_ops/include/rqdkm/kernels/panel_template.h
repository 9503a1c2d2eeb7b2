/* SPDX-License-Identifier: Apache-2.0 */
/* Body of rqdkm_panel_s8_<form>; `form` is a compile-time constant. */
#ifndef RQDKM_KERNELS_PANEL_TEMPLATE_H
#define RQDKM_KERNELS_PANEL_TEMPLATE_H

#include "rqdkm/kernels/panel.h"

RQDKM_INLINE void rqdkm_panel_template(const rqdkm_panel_product *product, const rqdkm_requantize_form form) {
  const rqdkm_panel_cut cut = rqdkm_cut_panel(product->pixels);
  const uint8_t *a = (const uint8_t *)product->panel;
  const int32_t stride = product->stride;
  rqdkm_block_row row = {.weights = product->weights,
                         .rows = 1,
                         .steps = product->steps,
                         .blocks = cut.fours,
                         .quant = product->quant,
                         .out = product->out,
                         .stride = stride,
                         .pairs = product->pairs,
                         .pair_words = product->pair_words};
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
