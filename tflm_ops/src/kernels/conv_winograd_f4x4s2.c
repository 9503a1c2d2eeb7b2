/* SPDX-License-Identifier: Apache-2.0 */
/* 3x3 with stride 2 by phases: along an axis, even inputs meet two taps (0 and 2) and odd ones one (1),
 *     y[i] = (w0 e[i] + w2 e[i + 1]) + w1 o[i],
 * F(4, 2) of the even phase takes 5 products for 4 outputs and the odd one 4: 9 of 12, and in two dimensions 81 of 144.
 * The matrices act on nine inputs d, e[i] = d[2 i] and o[i] = d[2 i + 1], points 0, 1, -1, 2 and infinity, rows of G
 * scaled to integers by (3, 3, -1, 1, 6), and 6 for the odd phase:
 *     G   = [ 3 0 | 3 3 | -1 1 | 1 2 | 0 6 ] of (w0, w2), then 6 w1 four times
 *     B^T = [ 2 -1 -2 1 0 | 0 -2 -1 1 0 | 0 2 -3 1 0 | 0 -1 0 1 0 | 0 2 -1 -2 1 ] of e, then o
 *     A^T = [ 1 -1 1 1 0 | 0 -1 -1 2 0 | 0 -1 1 4 0 | 0 -1 -1 8 1 ] of the first five, plus the last four
 * which gives 6 y. */
#include "conv_winograd_2d.h"
#include "conv_winograd_f4.h"
#include "conv_winograd_gemm.h"

enum { EDGE = 9, ADVANCE = 8, EVEN = 5, POSITION = RQDKM_WINOGRAD_BLOCK_V };

/* B^T of the even phase; two channels as one integer, see conv_winograd_f4.h. */
RQDKM_INLINE void transform_even(const uint32_t d[EVEN], uint32_t v[EVEN]) {
  const uint32_t s = d[3] - d[1], f = d[1] - d[2];
  v[0] = s + ((d[0] - d[2]) << 1);
  v[1] = s - d[1] - d[2];
  v[2] = s + f + (f << 1);
  v[3] = s;
  v[4] = d[4] - d[2] - (s << 1);
}

static uint32_t *columns(const rqdkm_winograd_columns *run, int32_t channel, uint32_t *t) {
  const uint32_t middle = 0x00800080u;
  uint32_t *const end = t + 2 * EDGE * run->count;
  RQDKM_NO_UNROLL
  for (int32_t at = channel; t != end; at += run->step, t += 2 * EDGE) {
    uint32_t even[EVEN], odd[EVEN], v[EVEN]; /* x + 128 >= 0, channels (0, 2) and (1, 3) */
    RQDKM_WINOGRAD_UNROLL
    for (int32_t i = 0; i < EVEN; i++) {
      const uint32_t x = rqdkm_load32(run->row[2 * i] + at);
      even[i] = rqdkm_sxtab16(middle, x);
      odd[i] = rqdkm_sxtab16_ror8(middle, x);
    }
    transform_even(even, v);
    RQDKM_WINOGRAD_UNROLL
    for (int32_t i = 0; i < EVEN; i++) rqdkm_store32(t + i, v[i]);
    transform_even(odd, v);
    RQDKM_WINOGRAD_UNROLL
    for (int32_t i = 0; i < EVEN; i++) rqdkm_store32(t + EDGE + i, v[i]);
    RQDKM_WINOGRAD_UNROLL
    for (int32_t i = 0; i < EDGE - EVEN; i++) {
      const uint32_t x = rqdkm_load32(run->row[2 * i + 1] + at);
      rqdkm_store32(t + EVEN + i, rqdkm_sxtab16(middle, x));
      rqdkm_store32(t + EDGE + EVEN + i, rqdkm_sxtab16_ror8(middle, x));
    }
  }
  return t;
}

/* B^T of (0, 0, 0, 1, 3) is all ones: this biases every output of the even phase. */
static void rows(const uint32_t *t, uint32_t *v, int32_t tiles) {
  uint32_t *const v_end = v + tiles;
  RQDKM_NO_UNROLL
  do {
    const uint32_t *const end = t + EDGE;
    uint32_t *out = v;
    RQDKM_NO_UNROLL
    do {
      uint32_t d[EVEN], e[EVEN];
      RQDKM_WINOGRAD_UNROLL
      for (int32_t j = 0; j < EVEN; j++) {
        d[j] = rqdkm_load32(t + 4 * EDGE * j);
      }
      d[3] += RQDKM_WINOGRAD_BIAS;
      d[4] += 3u * RQDKM_WINOGRAD_BIAS;
      transform_even(d, e);
      RQDKM_WINOGRAD_UNROLL
      for (int32_t j = 0; j < EVEN; j++) {
        rqdkm_store32(out + j * POSITION, rqdkm_winograd_lanes(e[j]));
      }
      RQDKM_WINOGRAD_UNROLL
      for (int32_t j = 0; j < EDGE - EVEN; j++) {
        const uint32_t x = rqdkm_load32(t + 4 * EDGE * j + 2 * EDGE) + RQDKM_WINOGRAD_BIAS;
        rqdkm_store32(out + (EVEN + j) * POSITION, rqdkm_winograd_lanes(x));
      }
      out += EDGE * POSITION;
    } while (++t != end);
    t += (2 * ADVANCE - 1) * EDGE;
  } while (++v != v_end);
}

static const rqdkm_winograd_2d algorithm = {
    4, EDGE, ADVANCE, 4, columns, rows, rqdkm_winograd_gemm_81, rqdkm_winograd_2d_compute_4};

int32_t rqdkm_conv2d_s8_winograd_f4x4s2(const rqdkm_winograd_params *params, const int8_t *input,
                                        const int8_t *residual, const void *weights,
                                        const rqdkm_winograd_channel *channels, int8_t *output, void *scratch) {
  return rqdkm_winograd_2d_run(&algorithm, params, input, residual, weights, channels, output, scratch);
}

int32_t rqdkm_conv2d_s8_winograd_f4x4s2_scratch_bytes(const rqdkm_winograd_params *params) {
  return rqdkm_winograd_2d_scratch_bytes(&algorithm, params);
}
