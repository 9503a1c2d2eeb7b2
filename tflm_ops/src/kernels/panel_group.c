/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/conv_common.h"
#include "rqdkm/kernels/panel.h"
#include "rqdkm/kernels/weights.h"

void rqdkm_panel_group_begin(rqdkm_panel_group *group) {
  if (group->resident) {
    group->end =
        rqdkm_weights_expand_pairs(group->weights, group->filter, group->weight_words / 4, group->pairs, group->bits);
  }
}

void rqdkm_panel_group_multiply(rqdkm_panel_group *group, const uint32_t *panel, int32_t pixels, int8_t *out) {
  const int32_t channels = group->channels;
  rqdkm_panel_product product = {.panel = panel,
                                 .weights = group->weights,
                                 .steps = group->steps,
                                 .pixels = pixels,
                                 .pairs = 1,
                                 .pair_words = group->weight_words,
                                 .quant = group->quant,
                                 .out = channels > 1 ? out : group->bounce,
                                 .stride = channels > 1 ? group->stride : 2};
  const int32_t apart = channels / 2; /* pairs that do not overlap the one before */
  if (group->resident) {
    if (apart > 0) {
      product.pairs = apart;
      group->multiply(&product);
    }
    if (apart < group->pairs) {
      product.pairs = 1;
      product.weights += apart * group->weight_words;
      product.quant += apart;
      product.out += rqdkm_pair_channel(apart, channels);
      group->multiply(&product);
    }
  } else {
    const int8_t *packed = group->filter;
    int8_t *const results = product.out;
    for (int32_t pair = 0; pair < group->pairs; pair++) {
      packed = rqdkm_weights_expand_pair(group->weights, packed, group->weight_words / 4,
                                         rqdkm_pair_bits(group->bits, pair));
      product.out = results + rqdkm_pair_channel(pair, channels);
      group->multiply(&product);
      product.quant++;
    }
    group->end = packed;
  }
  if (channels == 1) {
    for (int32_t i = 0; i < pixels; i++) {
      out[i * group->stride] = group->bounce[2 * i];
    }
  }
}

void rqdkm_panel_group_next(rqdkm_panel_group *group) {
  group->filter = group->end;
  group->quant += group->pairs;
  group->bits += group->bits != 0 ? group->pairs : 0;
}
