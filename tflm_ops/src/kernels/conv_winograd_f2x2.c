/* SPDX-License-Identifier: Apache-2.0 */
/* F(2x2, 3x3): the input side, the weights and the entry points. With the rows of G scaled by (1, 2, 2, 1) to integers:
 *     G   = [ 1 0 0 | 1 1 1 | 1 -1 1 | 0 0 1 ]
 *     B^T = [ 1 0 -1 0 | 0 1 1 0 | 0 -1 1 0 | 0 1 0 -1 ]
 *     A^T = [ 2 1 1 0 | 0 1 -1 -2 ]                        which gives (2 y0, 2 y1). */
#include "conv_winograd_2d.h"

enum { EDGE = 4, TILE = 2 };

RQDKM_INLINE void transform_input(const uint32_t d[EDGE], uint32_t e[EDGE]) {
  e[0] = rqdkm_ssub16(d[0], d[2]);
  e[1] = rqdkm_sadd16(d[1], d[2]);
  e[2] = rqdkm_ssub16(d[2], d[1]);
  e[3] = rqdkm_ssub16(d[1], d[3]);
}

RQDKM_INLINE void transform_weights(uint32_t a, uint32_t b, uint32_t c, uint32_t u[EDGE]) {
  const uint32_t s = rqdkm_sadd16(a, c);
  u[0] = a;
  u[1] = rqdkm_sadd16(s, b);
  u[2] = rqdkm_ssub16(s, b);
  u[3] = c;
}

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
    transform_input(even, t);
    transform_input(odd, t + EDGE);
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
      transform_input(d, e);
      RQDKM_WINOGRAD_UNROLL
      for (int32_t j = 0; j < EDGE; j++) {
        rqdkm_store32(out + j * RQDKM_WINOGRAD_BLOCK_V, e[j]);
      }
      out += EDGE * RQDKM_WINOGRAD_BLOCK_V;
    } while (++t != end);
    t += (2 * TILE - 1) * EDGE;
  } while (++v != v_end);
}

/* Channels (0, 2) of four from `word`s 0 to 8 of w, or (1, 3). */
RQDKM_INLINE void transform_pair(uint32_t (*lanes)(uint32_t), const int8_t *w, uint32_t *u) {
  uint32_t t[EDGE][3]; /* G g */
  RQDKM_WINOGRAD_UNROLL
  for (int32_t x = 0; x < 3; x++) {
    uint32_t e[EDGE];
    transform_weights(lanes(rqdkm_load32(w + 4 * x)), lanes(rqdkm_load32(w + 4 * x + 12)),
                      lanes(rqdkm_load32(w + 4 * x + 24)), e);
    RQDKM_WINOGRAD_UNROLL
    for (int32_t i = 0; i < EDGE; i++) {
      t[i][x] = e[i];
    }
  }
  RQDKM_WINOGRAD_UNROLL
  for (int32_t i = 0; i < EDGE; i++) {
    uint32_t e[EDGE];
    transform_weights(t[i][0], t[i][1], t[i][2], e);
    RQDKM_WINOGRAD_UNROLL
    for (int32_t j = 0; j < EDGE; j++) {
      rqdkm_store32(u + (i * EDGE + j) * RQDKM_WINOGRAD_BLOCK_U, e[j]);
    }
  }
}

/* weights: int8 [2][channels / 4][3][3][4]. */
void rqdkm_winograd_f2x2_weights(const int8_t *weights, int32_t channels, uint32_t *u) {
  RQDKM_NO_UNROLL
  for (int32_t co = 0; co < 2; co++) {
    RQDKM_NO_UNROLL
    for (int32_t c = 0; c < channels; c += 4) {
      uint32_t *const words = u + (c >> 4) * EDGE * EDGE * RQDKM_WINOGRAD_BLOCK_U + (c & 15) + co;
      transform_pair(rqdkm_sxtb16, weights, words);
      RQDKM_BARRIER();
      transform_pair(rqdkm_sxtb16_ror8, weights, words + 2);
      weights += 9 * 4;
    }
  }
}

static const rqdkm_winograd_2d algorithm = {
    TILE, EDGE, TILE, 4, columns, rows, rqdkm_winograd_gemm_16, rqdkm_winograd_2d_compute_4};

int32_t rqdkm_conv2d_s8_winograd_f2x2(const rqdkm_winograd_params *params, const int8_t *input, const int8_t *residual,
                                      const void *weights, const rqdkm_winograd_channel *channels, int8_t *output,
                                      void *scratch) {
  return rqdkm_winograd_2d_run(&algorithm, params, input, residual, weights, channels, output, scratch);
}

int32_t rqdkm_conv2d_s8_winograd_f2x2_scratch_bytes(const rqdkm_winograd_params *params) {
  return rqdkm_winograd_2d_scratch_bytes(&algorithm, params);
}
