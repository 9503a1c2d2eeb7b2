/* SPDX-License-Identifier: Apache-2.0 */
/* F(4, 3) along x: the output side. One function per requantize form, so that only the forms in use are linked. */
#include "conv_winograd_f4.h"
#include "conv_winograd_gemm.h"
#include "conv_winograd_output.h"

enum { P = 6, TILE = 4, POSITION = 8 };

RQDKM_INLINE void finish_lanes(rqdkm_winograd_form form, const rqdkm_winograd_params *params, uint32_t *m,
                               const rqdkm_winograd_place *place, int32_t tiles, const rqdkm_winograd_channel *channel,
                               int8_t *out) {
  const rqdkm_winograd_finisher f = {form, channel->multiplier, channel->offset, channel->away, &params->clamp};
  const int32_t step = params->output.c;
  const uint32_t *const end = m + tiles;
  RQDKM_NO_UNROLL
  do {
    uint32_t in[P], y[TILE];
    uint32_t scale = channel->scale;
    int8_t *const to = out + place->offset;
    int8_t result[TILE];
    RQDKM_WINOGRAD_UNROLL
    for (int32_t j = 0; j < P; j++) {
      in[j] = rqdkm_load32(m + j * POSITION);
    }
    in[1] += (uint32_t)channel->bias;
    rqdkm_winograd_f4_output(in, y); /* 3 * 2^(3, 2, 1, 1) times the accumulators */
    result[0] = rqdkm_winograd_finish(&f, y[0], scale, 3);
    scale = rqdkm_winograd_next_scale(&f, scale);
    result[1] = rqdkm_winograd_finish(&f, y[1], scale, 2);
    scale = rqdkm_winograd_next_scale(&f, scale);
    result[2] = rqdkm_winograd_finish(&f, y[2], scale, 1);
    result[3] = rqdkm_winograd_finish(&f, y[3], scale, 1);
    if (place->rows != 0) {
      if (place->cols == TILE) {
        to[0] = result[0];
        to[step] = result[1];
        to[2 * step] = result[2];
        to[3 * step] = result[3];
      } else {
        for (int32_t x = 0; x < place->cols; x++) {
          to[x * step] = result[x];
        }
      }
    }
    place++;
  } while (++m != end);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x1_output_floor) {
  finish_lanes(RQDKM_WINOGRAD_FLOOR, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x1_output_away) {
  finish_lanes(RQDKM_WINOGRAD_AWAY, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x1_output_clamp) {
  finish_lanes(RQDKM_WINOGRAD_CLAMP, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x1_output_wide) {
  finish_lanes(RQDKM_WINOGRAD_WIDE, params, m, place, tiles, channel, out);
}
