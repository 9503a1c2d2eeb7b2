/* SPDX-License-Identifier: Apache-2.0 */
#include "rqdkm/kernels/block.h"
#include "rqdkm/kernels/output.h"

/* np is a compile-time constant. */
RQDKM_INLINE const uint8_t *run(const uint8_t *a, const rqdkm_block_row *row, const int32_t np, int32_t p1, int32_t p2,
                                int32_t p3, int32_t step_bytes, rqdkm_requantize_form form) {
  const int32_t p[4] = {0, p1, p2, p3};
  int8_t *out = row->out;
  for (int32_t block = 0; block < row->blocks; block++) {
    const uint32_t *w = row->weights;
    int32_t acc[4][2];
    for (int32_t i = 0; i < np; i++) {
      acc[i][0] = row->quant->bias[0];
      acc[i][1] = row->quant->bias[1];
    }
    for (int32_t ky = 0; ky < row->rows; ky++) {
      RQDKM_NO_UNROLL
      for (int32_t k = 0; k < row->steps; k++) {
        const uint32_t w0 = w[0], w1 = w[1];
        for (int32_t i = 0; i < np; i++) {
          const uint32_t x = rqdkm_load32(a + p[i]);
          acc[i][0] = rqdkm_smlad(x, w0, acc[i][0]);
          acc[i][1] = rqdkm_smlad(x, w1, acc[i][1]);
        }
        a += step_bytes;
        w += 2;
      }
      a += ky + 1 < row->rows ? row->row_gap : row->block_gap;
    }
    for (int32_t i = 0; i < np; i++) {
      out[0] = rqdkm_quantize_output(acc[i][0], form, row->quant->output, RQDKM_LANE_SHIFT);
      out[1] = rqdkm_quantize_output(acc[i][1], form, row->quant->output + 1, RQDKM_LANE_SHIFT);
      out += row->stride;
    }
  }
  return a;
}

const uint8_t *rqdkm_block_row_c(const uint8_t *a, const rqdkm_block_row *row, int32_t np, int32_t p1, int32_t p2,
                                 int32_t p3, int32_t step_bytes, rqdkm_requantize_form form) {
  switch (np) {
    case 1:
      return run(a, row, 1, p1, p2, p3, step_bytes, form);
    case 2:
      return run(a, row, 2, p1, p2, p3, step_bytes, form);
    case 3:
      return run(a, row, 3, p1, p2, p3, step_bytes, form);
    default:
      return run(a, row, 4, p1, p2, p3, step_bytes, form);
  }
}
