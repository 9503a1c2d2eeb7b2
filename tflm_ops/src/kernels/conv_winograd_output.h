/* SPDX-License-Identifier: Apache-2.0 */
/* From the transformed sum x = odd * 2^s * acc (modulo 2^32) to int8. s depends on the output's place in the tile. */
#ifndef RQDKM_CONV_WINOGRAD_OUTPUT_H
#define RQDKM_CONV_WINOGRAD_OUTPUT_H

#include <stddef.h>

#include "rqdkm/requantize.h"
#include "rqdkm/winograd.h"

/* FLOOR, AWAY: scale = odd^-1 * 2^(k - s), so that one product undoes the transform and shifts for requantize.h's
   FLOOR; AWAY takes ties of negative values down as well; CLAMP is AWAY with a clamp narrower than int8. WIDE: scale =
   odd^-1, then the definition, with the clamp. */
typedef enum {
  RQDKM_WINOGRAD_FLOOR,
  RQDKM_WINOGRAD_AWAY,
  RQDKM_WINOGRAD_CLAMP,
  RQDKM_WINOGRAD_WIDE
} rqdkm_winograd_form;

/* Of one channel, in registers: see rqdkm_winograd_channel. */
typedef struct {
  rqdkm_winograd_form form; /* known at compile time */
  int32_t multiplier, offset, away;
  const rqdkm_clamp *clamp;
} rqdkm_winograd_finisher;

RQDKM_INLINE int8_t rqdkm_winograd_finish(const rqdkm_winograd_finisher *f, uint32_t x, uint32_t scale, int32_t s) {
  const int32_t product = (int32_t)(x * scale);
  if (f->form == RQDKM_WINOGRAD_FLOOR) {
    return (int8_t)rqdkm_requantize_floor(product, f->multiplier, f->offset);
  }
  if (f->form == RQDKM_WINOGRAD_AWAY || f->form == RQDKM_WINOGRAD_CLAMP) {
    const int32_t y = rqdkm_requantize_floor(product, f->multiplier, f->offset - ((product >> 31) & f->away));
    return (int8_t)(f->form == RQDKM_WINOGRAD_CLAMP ? rqdkm_clamp_value(y, f->clamp->min, f->clamp->max) : y);
  }
  return (int8_t)rqdkm_requantize_wide(product >> s, f->multiplier, f->away, f->offset, f->clamp->min, f->clamp->max);
}

/* What the scale is multiplied by from one power of two to the one below. */
RQDKM_INLINE uint32_t rqdkm_winograd_next_scale(const rqdkm_winograd_finisher *f, uint32_t scale) {
  return f->form == RQDKM_WINOGRAD_WIDE ? scale : scale << 1;
}

/* The places of four tiles of edge x edge outputs one after another in memory. */
#define RQDKM_WINOGRAD_PACKED(edge)      \
  {{0, edge, edge, 1},                   \
   {(edge) * (edge), edge, edge, 1},     \
   {2 * (edge) * (edge), edge, edge, 1}, \
   {3 * (edge) * (edge), edge, edge, 1}}

/* What is valid of tiles that lie one after another at `from`, row by row, to their places: `step` apart along x,
   `pitch` along y. out: of the first channel. */
void rqdkm_winograd_store_tiles(const int8_t *from, int32_t tile, const rqdkm_winograd_place *place, int32_t tiles,
                                int8_t *out, int32_t step, int32_t pitch);

#endif
