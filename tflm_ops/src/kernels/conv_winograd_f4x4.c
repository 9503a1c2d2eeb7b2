/* SPDX-License-Identifier: Apache-2.0 */
/* F(4x4, 3x3): the input side and the entry points. */
#include "conv_winograd_2d.h"
#include "conv_winograd_f4.h"
#include "conv_winograd_gemm.h"

enum { EDGE = 6, TILE = 4, POSITION = RQDKM_WINOGRAD_BLOCK_V };

static uint32_t *columns(const rqdkm_winograd_columns *run, int32_t channel, uint32_t *t) {
  const uint32_t middle = 0x00800080u;
  uint32_t *const end = t + 2 * EDGE * run->count;
  RQDKM_NO_UNROLL
  for (int32_t at = channel; t != end; at += run->step) {
    uint32_t even[EDGE], odd[EDGE]; /* x + 128 >= 0, channels (0, 2) and (1, 3) */
    RQDKM_WINOGRAD_UNROLL
    for (int32_t i = 0; i < EDGE; i++) {
      const uint32_t x = rqdkm_load32(run->row[i] + at);
      even[i] = rqdkm_sxtab16(middle, x);
      odd[i] = rqdkm_sxtab16_ror8(middle, x);
    }
    rqdkm_winograd_f4_input(even, t);
    rqdkm_winograd_f4_input(odd, t + EDGE);
    t += 2 * EDGE;
  }
  return t;
}

static void rows(const uint32_t *t, uint32_t *v, int32_t tiles) {
  uint32_t *const v_end = v + tiles;
  RQDKM_NO_UNROLL
  do {
    const uint32_t *const end = t + EDGE;
    uint32_t *out = v;
    RQDKM_NO_UNROLL
    do {
      uint32_t d[EDGE], e[EDGE];
      RQDKM_WINOGRAD_UNROLL
      for (int32_t j = 0; j < EDGE; j++) {
        d[j] = rqdkm_load32(t + 2 * EDGE * j);
      }
      d[4] += RQDKM_WINOGRAD_BIAS;
      d[5] += RQDKM_WINOGRAD_BIAS;
      rqdkm_winograd_f4_input(d, e);
      RQDKM_WINOGRAD_UNROLL
      for (int32_t j = 0; j < EDGE; j++) {
        rqdkm_store32(out + j * POSITION, rqdkm_winograd_lanes(e[j]));
      }
      out += EDGE * POSITION;
    } while (++t != end);
    t += (2 * TILE - 1) * EDGE;
  } while (++v != v_end);
}

static const rqdkm_winograd_2d algorithm = {4, columns, rows, rqdkm_winograd_gemm_36};

int32_t rqdkm_conv2d_s8_winograd_f4x4(const rqdkm_winograd_params *params, const int8_t *input, const int8_t *residual,
                                      const void *weights, const rqdkm_winograd_channel *channels, int8_t *output,
                                      void *scratch) {
  return rqdkm_winograd_2d_run(&algorithm, params, input, residual, weights, channels, output, scratch);
}

int32_t rqdkm_conv2d_s8_winograd_f4x4_scratch_bytes(const rqdkm_winograd_params *params) {
  return rqdkm_winograd_2d_scratch_bytes(algorithm.tile, params);
}
