/* SPDX-License-Identifier: Apache-2.0 */
/* F(4x4, 3x3): the output side. One function per requantize form, so that only the forms in use are linked. */
#include "conv_winograd_f4.h"
#include "conv_winograd_gemm.h"
#include "conv_winograd_output.h"

enum { EDGE = 6, TILE = 4, POSITION = 8 };

/* Row y of a tile: from[j] = 3 * (A^T M)[y][j]; comes out as 9 * 2^(s, s - 1, s - 2, s - 2) acc; scale is for 2^s. */
RQDKM_INLINE void finish_row(const rqdkm_winograd_finisher *f, const uint32_t *from, uint32_t scale, int32_t s,
                             int8_t *out, int32_t step) {
  uint32_t y[TILE];
  rqdkm_winograd_f4_output(from, y);
  out[0] = rqdkm_winograd_finish(f, y[0], scale, s);
  scale = rqdkm_winograd_next_scale(f, scale);
  out[step] = rqdkm_winograd_finish(f, y[1], scale, s - 1);
  scale = rqdkm_winograd_next_scale(f, scale);
  out[2 * step] = rqdkm_winograd_finish(f, y[2], scale, s - 2);
  out[3 * step] = rqdkm_winograd_finish(f, y[3], scale, s - 2);
}

/* One tile: m[p * POSITION] -> 4x4 outputs, `step` bytes apart along x, `pitch` along y. */
RQDKM_INLINE void finish_tile(const rqdkm_winograd_finisher *f, const uint32_t *m, uint32_t bias, uint32_t scale,
                              int8_t *out, int32_t step, int32_t pitch) {
  uint32_t t[TILE * EDGE]; /* A^T M: [y][j] */
  uint32_t *to = t;
  uint32_t add = 0u;
  RQDKM_NO_UNROLL
  do {
    uint32_t in[EDGE], y[TILE];
    RQDKM_WINOGRAD_UNROLL
    for (int32_t i = 0; i < EDGE; i++) {
      in[i] = rqdkm_load32(m + i * EDGE * POSITION);
    }
    m += POSITION;
    in[1] += add; /* the bias enters at position (1, 1): in the second column only */
    add = to == t ? bias : 0u;
    rqdkm_winograd_f4_output(in, y);
    RQDKM_WINOGRAD_UNROLL
    for (int32_t i = 0; i < TILE; i++) {
      to[i * EDGE] = y[i];
    }
    to++;
  } while (to != t + EDGE);
  RQDKM_BARRIER(); /* between rows: GCC would interleave them and spill */
  finish_row(f, t, scale, 6, out, step);
  RQDKM_BARRIER();
  scale = rqdkm_winograd_next_scale(f, scale);
  out += pitch;
  finish_row(f, t + EDGE, scale, 5, out, step);
  RQDKM_BARRIER();
  scale = rqdkm_winograd_next_scale(f, scale);
  out += pitch;
  finish_row(f, t + 2 * EDGE, scale, 4, out, step);
  RQDKM_BARRIER();
  out += pitch;
  finish_row(f, t + 3 * EDGE, scale, 4, out, step);
}

RQDKM_INLINE void finish_tiles(rqdkm_winograd_form form, const rqdkm_winograd_params *params, const uint32_t *m,
                               const rqdkm_winograd_place *place, int32_t tiles, const rqdkm_winograd_channel *channel,
                               int8_t *out) {
  const rqdkm_winograd_finisher f = {form, channel->multiplier, channel->offset, channel->away, &params->clamp};
  const int32_t step = params->output.c, pitch = params->output.w * step;
  const uint32_t *const end = m + tiles;
  RQDKM_NO_UNROLL
  do {
    int8_t *const to = out + place->offset;
    const int32_t whole = place->rows == TILE && place->cols == TILE;
    int8_t corner[TILE * TILE];
    finish_tile(&f, m, (uint32_t)channel->bias, channel->scale, whole ? to : corner, whole ? step : 1,
                whole ? pitch : TILE);
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

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x4_output_floor) {
  finish_tiles(RQDKM_WINOGRAD_FLOOR, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x4_output_away) {
  finish_tiles(RQDKM_WINOGRAD_AWAY, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x4_output_clamp) {
  finish_tiles(RQDKM_WINOGRAD_CLAMP, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x4_output_wide) {
  finish_tiles(RQDKM_WINOGRAD_WIDE, params, m, place, tiles, channel, out);
}
