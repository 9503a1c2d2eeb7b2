/* SPDX-License-Identifier: Apache-2.0 */
#include "packed_element.h"
#include "rqdkm/convolution.h"

int32_t rqdkm_fully_connected_mixed_ref(const rqdkm_fully_connected_params *params, const rqdkm_channel_quant *quant,
                                        const rqdkm_bits *bits, int32_t batches, const void *input, const void *weights,
                                        const int32_t *bias, void *output) {
  if (!rqdkm_bits_valid(bits->input) || !rqdkm_bits_valid(bits->output)) {
    return RQDKM_ERROR_ARGUMENT;
  }
  for (int32_t batch = 0; batch < batches; batch++) {
    const uint8_t *row = (const uint8_t *)weights;
    for (int32_t o = 0; o < params->outputs; o++) {
      uint32_t acc = (uint32_t)(bias != 0 ? bias[o] : 0);
      for (int32_t i = 0; i < params->inputs; i++) {
        const int32_t x = rqdkm_packed_get(input, batch * params->inputs + i, bits->input) + params->input_offset;
        acc += (uint32_t)(x * (rqdkm_packed_get(row, i, bits->weights[o]) + params->weight_offset));
      }
      rqdkm_packed_put(
          output, batch * params->outputs + o, bits->output,
          rqdkm_requantize_to((int32_t)acc, quant, o, params->output_offset, &params->clamp, bits->output));
      row += rqdkm_packed_bytes(params->inputs, bits->weights[o]);
    }
  }
  return RQDKM_OK;
}
