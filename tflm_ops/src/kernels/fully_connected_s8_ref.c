/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/convolution.h"
#include "rqdkm/requantize.h"

int32_t rqdkm_fully_connected_s8_ref(const rqdkm_fully_connected_params *params, const rqdkm_channel_quant *quant,
                                     int32_t batches, const int8_t *input, const int8_t *weights, const int32_t *bias,
                                     int8_t *output) {
  for (int32_t batch = 0; batch < batches; batch++) {
    for (int32_t o = 0; o < params->outputs; o++) {
      const int8_t *row = weights + o * params->inputs;
      uint32_t acc = (uint32_t)(bias != 0 ? bias[o] : 0);
      for (int32_t i = 0; i < params->inputs; i++) {
        acc += (uint32_t)((input[i] + params->input_offset) * (row[i] + params->weight_offset));
      }
      *output++ = (int8_t)rqdkm_requantize_wide((int32_t)acc, quant->multiplier[o], quant->shift[o],
                                                params->output_offset, params->clamp.min, params->clamp.max);
    }
    input += params->inputs;
  }
  return RQDKM_OK;
}
