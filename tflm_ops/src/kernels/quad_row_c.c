/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/output.h"
#include "rqdkm/kernels/quad.h"

/* Two pixels of one channel: the fields of a word from bits `first` and `second` on. */
RQDKM_INLINE void finish(int8_t *out, int32_t stride, uint32_t word, int32_t first, int32_t second,
                         const rqdkm_quad_quant *quant, int32_t channel, rqdkm_requantize_form form) {
  const uint32_t fields[2] = {word >> first & ((1u << (second - first)) - 1), word >> second};
  for (int32_t i = 0; i < 2; i++) {
    const uint32_t acc = (uint32_t)quant->channel[channel].bias + (fields[i] << RQDKM_LANE_SHIFT);
    out[i * stride + channel] =
        rqdkm_quantize_output((int32_t)acc, form, &quant->channel[channel].output, RQDKM_LANE_SHIFT);
  }
}

void rqdkm_quad_row_c(const rqdkm_quad_row *row, rqdkm_requantize_form form) {
  const rqdkm_quad_quant *q = row->quant;
  const uint32_t *x = row->inputs;
  int8_t *out = row->out;
  for (int32_t block = 0; block < row->blocks; block++) {
    uint64_t sums[2][2]; /* [pair of channels][pair of pixels], modulo 2^64 */
    for (int32_t pair = 0; pair < 2; pair++) {
      sums[pair][0] = sums[pair][1] = (uint64_t)q->start[pair][1] << 32 | q->start[pair][0];
    }
    const uint32_t *w = row->weights;
    for (int32_t k = 0; k < row->taps; k++, x += 2, w += 2) {
      for (int32_t pair = 0; pair < 2; pair++) {
        sums[pair][0] += (uint64_t)((int64_t)(int32_t)x[0] * (int32_t)w[pair]);
        sums[pair][1] += (uint64_t)((int64_t)(int32_t)x[1] * (int32_t)w[pair]);
      }
    }
    for (int32_t half = 0; half < 2; half++, out += 2 * row->stride) {
      for (int32_t pair = 0; pair < 2; pair++) {
        finish(out, row->stride, (uint32_t)sums[pair][half], row->first, RQDKM_QUAD_SECOND, q, 2 * pair, form);
        finish(out, row->stride, (uint32_t)(sums[pair][half] >> 32), 0, RQDKM_QUAD_SECOND - row->first, q, 2 * pair + 1,
               form);
      }
    }
  }
}
