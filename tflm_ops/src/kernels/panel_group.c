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
  const int8_t *packed = group->filter;
  const uint32_t *weights = group->weights;
  const rqdkm_pair_quant *quant = group->quant;
  const int32_t channels = group->channels, stride = channels > 1 ? group->stride : 2;
  int8_t *const results = channels > 1 ? out : group->bounce;
  for (int32_t pair = 0; pair < group->pairs; pair++) {
    if (!group->resident) {
      packed = rqdkm_weights_expand_pair(group->weights, packed, group->weight_words / 4,
                                         rqdkm_pair_bits(group->bits, pair));
    }
    group->multiply(panel, weights, group->steps, pixels, quant, results + rqdkm_pair_channel(pair, channels), stride);
    weights += group->resident ? group->weight_words : 0;
    quant++;
  }
  if (!group->resident) {
    group->end = packed;
  }
  if (channels == 1) {
    for (int32_t i = 0; i < pixels; i++) {
      out[i * group->stride] = results[2 * i];
    }
  }
}

void rqdkm_panel_group_next(rqdkm_panel_group *group) {
  group->filter = group->end;
  group->quant += group->pairs;
  group->bits += group->bits != 0 ? group->pairs : 0;
}
