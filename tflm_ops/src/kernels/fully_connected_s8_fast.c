/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/conv_common.h"
#include "rqdkm/kernels/expand.h"
#include "rqdkm/kernels/output.h"

/* Input lanes are crossed; inputs past the last multiple of four are zero lanes, as their weights are. */
static void expand_input(uint32_t *lanes, const int8_t *input, int32_t inputs) {
  const int32_t rest = inputs % 4;
  int8_t tail[4] = {-128, -128, -128, -128}; /* expands to zero */
  rqdkm_expand_crossed(lanes, input, inputs / 4, 1);
  if (rest != 0) {
    memcpy(tail, input + inputs - rest, (size_t)rest);
    rqdkm_expand_crossed(lanes + inputs / 4 * 2, tail, 1, 1);
  }
}

int32_t rqdkm_fully_connected_s8_fast_scratch_bytes(const rqdkm_fully_connected_params *params) {
  return rqdkm_round_up(params->inputs, 4) * 2;
}

int32_t rqdkm_fully_connected_s8_fast(const rqdkm_fully_connected_params *params, const rqdkm_packed_quant *quant,
                                      int32_t batches, const int8_t *input, const int8_t *weights, int8_t *output,
                                      void *scratch) {
  uint32_t *const lanes = (uint32_t *)scratch;
  const uint32_t *const end = lanes + rqdkm_round_up(params->inputs, 4) / 2;
  if (params->inputs < 1 || params->weight_offset != 0) {
    return RQDKM_ERROR_ARGUMENT;
  }
  if (quant->form == RQDKM_REQUANTIZE_FLOOR) {
    return RQDKM_ERROR_UNSUPPORTED;
  }
  for (int32_t batch = 0; batch < batches; batch++) {
    const int8_t *w = weights;
    expand_input(lanes, input, params->inputs);
    for (int32_t o = 0; o < params->outputs; o += 4) {
      const rqdkm_pair_quant *const pairs = quant->pairs + o / 2;
      int32_t c0 = pairs[0].bias[0], c1 = pairs[0].bias[1], c2 = pairs[1].bias[0], c3 = pairs[1].bias[1];
      const uint32_t *x = lanes;
      RQDKM_NO_UNROLL
      do {
        const uint32_t w0 = rqdkm_load32(w), w1 = rqdkm_load32(w + 4);
        const uint32_t w2 = rqdkm_load32(w + 8), w3 = rqdkm_load32(w + 12);
        const uint32_t x0 = rqdkm_load32(x), x1 = rqdkm_load32(x + 1);
        w += 16;
        x += 2;
        c0 = rqdkm_smlad(x0, rqdkm_sxtb16(w0), c0);
        c1 = rqdkm_smlad(x0, rqdkm_sxtb16(w1), c1);
        c2 = rqdkm_smlad(x0, rqdkm_sxtb16(w2), c2);
        c3 = rqdkm_smlad(x0, rqdkm_sxtb16(w3), c3);
        c0 = rqdkm_smlad(x1, rqdkm_sxtb16_ror8(w0), c0);
        c1 = rqdkm_smlad(x1, rqdkm_sxtb16_ror8(w1), c1);
        c2 = rqdkm_smlad(x1, rqdkm_sxtb16_ror8(w2), c2);
        c3 = rqdkm_smlad(x1, rqdkm_sxtb16_ror8(w3), c3);
      } while (x != end);
      {
        const int32_t acc2[4] = {c0, c1, c2, c3};
        for (int32_t i = 0; i < rqdkm_min(4, params->outputs - o); i++) {
          *output++ = rqdkm_quantize_output(acc2[i], quant->form, pairs[i / 2].output + i % 2);
        }
      }
    }
    input += params->inputs;
  }
  rqdkm_clamp_s8(output - batches * params->outputs, batches * params->outputs, &params->clamp);
  return RQDKM_OK;
}
