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

RQDKM_INLINE void finish_tiles(rqdkm_winograd_form form, const rqdkm_winograd_params *params, uint32_t *m,
                               const rqdkm_winograd_place *place, int32_t tiles, const rqdkm_winograd_channel *channel,
                               int8_t *out) {
  const rqdkm_winograd_finisher f = {form, channel->multiplier, channel->offset, channel->away, &params->clamp};
  const int32_t step = params->output.c, pitch = params->output.w * step;
  const uint32_t scale = channel->scale, bias = (uint32_t)channel->bias;
  const uint32_t *const end = m + tiles;
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
    const int32_t whole = place->rows == TILE && place->cols == TILE;
    int8_t corner[TILE * TILE];
    int8_t *row = whole ? to : corner;
    const int32_t right = whole ? step : 1, down = whole ? pitch : TILE;
    RQDKM_WINOGRAD_UNROLL
    for (int32_t i = 0; i < TILE; i++) { /* 4 times the accumulator */
      uint32_t y[TILE];
      transform_output(t[i], y);
      row[0] = rqdkm_winograd_finish(&f, y[0], scale, 2);
      row[right] = rqdkm_winograd_finish(&f, y[1], scale, 2);
      row += down;
    }
    if (!whole) {
      for (int32_t y = 0; y < place->rows; y++) {
        for (int32_t x = 0; x < place->cols; x++) {
          to[y * pitch + x * step] = corner[y * TILE + x];
        }
      }
    }
    place++;
  } while (++m != end);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f2x2_output_floor) {
  finish_tiles(RQDKM_WINOGRAD_FLOOR, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f2x2_output_away) {
  finish_tiles(RQDKM_WINOGRAD_AWAY, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f2x2_output_clamp) {
  finish_tiles(RQDKM_WINOGRAD_CLAMP, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f2x2_output_wide) {
  finish_tiles(RQDKM_WINOGRAD_WIDE, params, m, place, tiles, channel, out);
}
