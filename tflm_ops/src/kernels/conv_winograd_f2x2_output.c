/* SPDX-License-Identifier: Apache-2.0 */
/* F(2x2, 3x3): the output side. One function per requantize form, so that only the forms in use are linked. */
#include "conv_winograd_gemm.h"
#include "conv_winograd_output.h"

enum { EDGE = 4, TILE = 2, POSITION = 8 };

/* A^T m = (2 y0, 2 y1), modulo 2^32. */
RQDKM_INLINE void transform_output(const uint32_t m[EDGE], uint32_t y[TILE]) {
  y[0] = m[1] + m[2] + (m[0] << 1);
  y[1] = m[1] - m[2] - (m[3] << 1);
}

/* x: 4 times the accumulators. Requantization grows with the accumulator, so that the largest is enough; for WIDE,
   where a left shift may wrap, it need not. */
RQDKM_INLINE int8_t finish_largest(const rqdkm_winograd_finisher *f, uint32_t x[TILE][TILE], uint32_t scale) {
  int32_t max = INT32_MIN;
  RQDKM_WINOGRAD_UNROLL
  for (int32_t i = 0; i < TILE * TILE; i++) {
    const uint32_t sum = x[i / TILE][i % TILE];
    const int32_t value = f->form == RQDKM_WINOGRAD_WIDE ? rqdkm_winograd_finish(f, sum, scale, 2) : (int32_t)sum;
    max = max < value ? value : max;
  }
  return f->form == RQDKM_WINOGRAD_WIDE ? (int8_t)max : rqdkm_winograd_finish(f, (uint32_t)max, scale, 2);
}

RQDKM_INLINE void finish_tiles(rqdkm_winograd_form form, int32_t pool, const rqdkm_winograd_params *params, uint32_t *m,
                               const rqdkm_winograd_place *place, int32_t tiles, const rqdkm_winograd_channel *channel,
                               int8_t *out) {
  const rqdkm_winograd_finisher f = {form, channel->multiplier, channel->offset, channel->away, &params->clamp};
  const int32_t step = params->output.c, pitch = params->output.w * step;
  const uint32_t scale = channel->scale, bias = (uint32_t)channel->bias;
  const rqdkm_winograd_place *const end = place + tiles;
  int32_t lane = 0;
  RQDKM_NO_UNROLL
  do {
    int8_t *const to = out + place->offset;
    uint32_t t[TILE][EDGE]; /* A^T M */
    RQDKM_WINOGRAD_UNROLL
    for (int32_t j = 0; j < EDGE; j++) {
      uint32_t in[EDGE], y[TILE];
      RQDKM_WINOGRAD_UNROLL
      for (int32_t i = 0; i < EDGE; i++) {
        in[i] = rqdkm_load32(m + (i * EDGE + j) * POSITION);
      }
      in[1] += j == 1 ? bias : 0u;
      transform_output(in, y);
      t[0][j] = y[0];
      t[1][j] = y[1];
    }
    if (pool) {
      uint32_t x[TILE][TILE];
      transform_output(t[0], x[0]);
      transform_output(t[1], x[1]);
      *to = finish_largest(&f, x, scale);
    } else {
      const int32_t direct = place->rows == TILE && place->cols == TILE;
      int8_t buffer[TILE * TILE];
      int8_t *row = direct ? to : buffer;
      const int32_t right = direct ? step : 1, down = direct ? pitch : TILE;
      RQDKM_WINOGRAD_UNROLL
      for (int32_t i = 0; i < TILE; i++) { /* 4 times the accumulator */
        uint32_t y[TILE];
        transform_output(t[i], y);
        row[0] = rqdkm_winograd_finish(&f, y[0], scale, 2);
        row[right] = rqdkm_winograd_finish(&f, y[1], scale, 2);
        row += down;
      }
      if (!direct) {
        rqdkm_winograd_store_tiles(buffer, TILE, place, 1, out, step, pitch);
      }
    }
    m++;
    if (++lane == 4) { /* the next group */
      lane = 0;
      m += EDGE * EDGE * POSITION - 4;
    }
  } while (++place != end);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f2x2_output_floor) {
  finish_tiles(RQDKM_WINOGRAD_FLOOR, 0, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f2x2_output_away) {
  finish_tiles(RQDKM_WINOGRAD_AWAY, 0, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f2x2_output_clamp) {
  finish_tiles(RQDKM_WINOGRAD_CLAMP, 0, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f2x2_output_wide) {
  finish_tiles(RQDKM_WINOGRAD_WIDE, 0, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f2x2_pool_floor) {
  finish_tiles(RQDKM_WINOGRAD_FLOOR, 1, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f2x2_pool_away) {
  finish_tiles(RQDKM_WINOGRAD_AWAY, 1, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f2x2_pool_clamp) {
  finish_tiles(RQDKM_WINOGRAD_CLAMP, 1, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f2x2_pool_wide) {
  finish_tiles(RQDKM_WINOGRAD_WIDE, 1, params, m, place, tiles, channel, out);
}
