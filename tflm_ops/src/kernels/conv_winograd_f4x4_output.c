/* SPDX-License-Identifier: Apache-2.0 */
/* F(4x4, 3x3): the output side. One function per requantize form, so that only the forms in use are linked. */
#include "conv_winograd_f4x4_columns.h"
#include "conv_winograd_output.h"

#if RQDKM_WINOGRAD_ASM
/* clang-format off */
#define ROWS(FINISH, DOWN)                                                \
  ROW(0) RQDKM_F4_FINISH(FINISH, DOWN) "lsl %[scale], %[scale], #1\n\t"   \
  ROW(1) RQDKM_F4_FINISH(FINISH, DOWN) "lsl %[scale], %[scale], #1\n\t"   \
  ROW(2) RQDKM_F4_FINISH(FINISH, DOWN)                                    \
  ROW(3) RQDKM_F4_FINISH(FINISH, "")
/* clang-format on */

/* finish_rows for FLOOR: 170 cycles per tile. */
RQDKM_INLINE void finish_rows_floor(const rqdkm_winograd_finisher *f, const uint32_t *t, const f4x4_tile_loop *loop) {
  uint32_t x0, x1, x2, x3, x4, x5, scale;
  const uint32_t six = 6u;
  const void *out = loop;
  __asm volatile(TILE_LOOP_BEGIN ROWS(RQDKM_F4_FLOOR, "add %[out], %[out], %[down]\n\t") TILE_LOOP_END
                 : RQDKM_F4_TEMPORARIES, [out] "+r"(out), [scale] "=&r"(scale), [t] "+r"(t)
                 : [six] "r"(six), [multiplier] "r"(f->multiplier), [offset] "r"(f->offset), [step] "r"(loop->step),
                   [down] "r"(loop->down)
                 : TILE_LOOP_CLOBBERS);
}

/* finish_rows for AWAY: 208 cycles. No register is left for `down`. */
RQDKM_INLINE void finish_rows_away(const rqdkm_winograd_finisher *f, const uint32_t *t, const f4x4_tile_loop *loop) {
  uint32_t x0, x1, x2, x3, x4, x5, scale;
  const uint32_t six = 6u;
  const void *out = loop;
  __asm volatile(TILE_LOOP_BEGIN ROWS(RQDKM_F4_AWAY, "vmov %[x2], s4\n\tadd %[out], %[out], %[x2]\n\t") TILE_LOOP_END
                 : RQDKM_F4_TEMPORARIES, [out] "+r"(out), [scale] "=&r"(scale), [t] "+r"(t)
                 : [six] "r"(six), [multiplier] "r"(f->multiplier), [offset] "r"(f->offset), [step] "r"(loop->step),
                   [away] "r"(f->away)
                 : TILE_LOOP_CLOBBERS);
}
#else
#define finish_rows_floor finish_rows
#define finish_rows_away finish_rows
#endif

/* Row y of a tile; comes out as 9 * 2^(s, s - 1, s - 2, s - 2) acc; scale is for 2^s. */
RQDKM_INLINE void finish_row(const rqdkm_winograd_finisher *f, const uint32_t *t, int32_t y, uint32_t scale, int32_t s,
                             int8_t *out, int32_t step) {
  uint32_t x[TILE];
  transform_row(t, y, x);
  out[0] = rqdkm_winograd_finish(f, x[0], scale, s);
  scale = rqdkm_winograd_next_scale(f, scale);
  out[step] = rqdkm_winograd_finish(f, x[1], scale, s - 1);
  scale = rqdkm_winograd_next_scale(f, scale);
  out[2 * step] = rqdkm_winograd_finish(f, x[2], scale, s - 2);
  out[3 * step] = rqdkm_winograd_finish(f, x[3], scale, s - 2);
}

/* Tiles of a group: A^T M -> 4x4 outputs each. */
RQDKM_INLINE void finish_rows(const rqdkm_winograd_finisher *f, const uint32_t *t, const f4x4_tile_loop *loop) {
  const int32_t step = loop->step, pitch = 3 * step + loop->down;
  const rqdkm_winograd_place *place = loop->place;
  RQDKM_NO_UNROLL
  do {
    uint32_t scale = loop->scale;
    int8_t *out = loop->out + place->offset;
    finish_row(f, t, 0, scale, 6, out, step);
    RQDKM_BARRIER(); /* between rows: GCC would interleave them and spill */
    scale = rqdkm_winograd_next_scale(f, scale);
    out += pitch;
    finish_row(f, t, 1, scale, 5, out, step);
    RQDKM_BARRIER();
    scale = rqdkm_winograd_next_scale(f, scale);
    out += pitch;
    finish_row(f, t, 2, scale, 4, out, step);
    RQDKM_BARRIER();
    out += pitch;
    finish_row(f, t, 3, scale, 4, out, step);
    place++;
  } while (++t != loop->end);
}

RQDKM_INLINE void finish_group(rqdkm_winograd_form form, const rqdkm_winograd_finisher *f, const uint32_t *t,
                               const f4x4_tile_loop *loop) {
  if (form == RQDKM_WINOGRAD_FLOOR) {
    finish_rows_floor(f, t, loop);
  } else if (form == RQDKM_WINOGRAD_AWAY) {
    finish_rows_away(f, t, loop);
  } else {
    finish_rows(f, t, loop);
  }
}

enum { STORED = TILE };
#include "conv_winograd_f4x4_tiles.h"

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
