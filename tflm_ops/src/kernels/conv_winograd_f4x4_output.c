/* SPDX-License-Identifier: Apache-2.0 */
/* F(4x4, 3x3): the output side. One function per requantize form, so that only the forms in use are linked. */
#include "conv_winograd_f4.h"
#include "conv_winograd_f4_asm.h"
#include "conv_winograd_gemm.h"
#include "conv_winograd_output.h"

enum { EDGE = 6, TILE = 4, POSITION = 8, HALF = TILE * EDGE };

/* t = A^T M, [tile][y][j], for neighbouring tiles: m[p * POSITION + tile]. The bias enters at position (1, 1). */
#if RQDKM_WINOGRAD_ASM
/* clang-format off */
/* Column J of a pair; FROM and TO: addresses of the load and the store that come last. 21 cycles. */
#define COLUMN(J, FROM, TO)                                                                     \
  "ldr %[x1], [%[m], #" #J "*32+192]\n\t"                                                       \
  "ldr %[x2], [%[m], #" #J "*32+384]\n\t"                                                       \
  "ldr %[x3], [%[m], #" #J "*32+576]\n\t"                                                       \
  "ldr %[x4], [%[m], #" #J "*32+768]\n\t"                                                       \
  "ldr %[x5], [%[m], #" #J "*32+960]\n\t"                                                       \
  "ldr %[x0], " FROM "\n\t" RQDKM_F4_OUTPUT                                                     \
  "str %[x4], [%[t], #" #J "*4+24]\n\t"                                                         \
  "str %[x3], [%[t], #" #J "*4+48]\n\t"                                                         \
  "str %[x5], [%[t], #" #J "*4+72]\n\t"                                                         \
  "str %[x0], " TO "\n\t"
/* clang-format on */

/* 139 cycles per tile. A loop over pairs of columns, because this and the rows together must stay within the 1 KB
   instruction cache; the second column first, because the first moves the pointers. */
RQDKM_INLINE void transform_columns(uint32_t *m, int32_t tiles, uint32_t bias, uint32_t *t) {
  uint32_t x0, x1, x2, x3, x4, x5;
  const uint32_t six = 6u;
  uint32_t *tile_end = t + EDGE;
  const uint32_t *const end = t + HALF * tiles;
  for (int32_t i = 0; i < tiles; i++) {
    m[(EDGE + 1) * POSITION + i] += bias;
  }
  __asm volatile(
      ".balign 4\n1:\n\t" COLUMN(1, "[%[m], #32]", "[%[t], #4]") COLUMN(0, "[%[m]], #64", "[%[t]], #8")
      "cmp %[t], %[tile_end]\n\tbne 1b\n\t"
      "sub %[m], %[m], #188\n\tadd %[t], %[t], #72\n\tadd %[tile_end], %[tile_end], #96\n\t"
      "cmp %[t], %[end]\n\tbne 1b\n\t"
      : RQDKM_F4_TEMPORARIES, [m] "+r"(m), [t] "+r"(t), [tile_end] "+r"(tile_end)
      : [six] "r"(six), [end] "r"(end)
      : "cc", "memory");
}
#else
static void transform_columns(uint32_t *m, int32_t tiles, uint32_t bias, uint32_t *t) {
  for (int32_t tile = 0; tile < tiles; tile++, m++, t += HALF) {
    for (int32_t j = 0; j < EDGE; j++) {
      uint32_t in[EDGE], y[TILE];
      for (int32_t i = 0; i < EDGE; i++) {
        in[i] = m[(i * EDGE + j) * POSITION];
      }
      in[1] += j == 1 ? bias : 0u;
      rqdkm_winograd_f4_output(in, y);
      for (int32_t i = 0; i < TILE; i++) {
        t[i * EDGE + j] = y[i];
      }
    }
  }
}
#endif

/* Row y of a tile: from = (A^T M)[y]; comes out as 9 * 2^(s, s - 1, s - 2, s - 2) acc; scale is for 2^s. */
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

/* One tile: t -> 4x4 outputs, `step` bytes apart along x, `down` from the last of a row to the first of the next. */
RQDKM_INLINE void finish_rows(const rqdkm_winograd_finisher *f, const uint32_t *t, uint32_t scale, int8_t *out,
                              int32_t step, int32_t down) {
  const int32_t pitch = 3 * step + down;
  finish_row(f, t, scale, 6, out, step);
  RQDKM_BARRIER(); /* between rows: GCC would interleave them and spill */
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

#if RQDKM_WINOGRAD_ASM
/* clang-format off */
#define ROW(I)                                    \
  "ldr %[x1], [%[t], #" #I "*24+4]\n\t"           \
  "ldr %[x2], [%[t], #" #I "*24+8]\n\t"           \
  "ldr %[x3], [%[t], #" #I "*24+12]\n\t"          \
  "ldr %[x4], [%[t], #" #I "*24+16]\n\t"          \
  "ldr %[x5], [%[t], #" #I "*24+20]\n\t"          \
  "ldr %[x0], [%[t], #" #I "*24]\n\t" RQDKM_F4_OUTPUT
#define ROWS(FINISH, DOWN)                                                \
  ROW(0) RQDKM_F4_FINISH(FINISH, DOWN) "lsl %[scale], %[scale], #1\n\t"   \
  ROW(1) RQDKM_F4_FINISH(FINISH, DOWN) "lsl %[scale], %[scale], #1\n\t"   \
  ROW(2) RQDKM_F4_FINISH(FINISH, DOWN)                                    \
  ROW(3) RQDKM_F4_FINISH(FINISH, "")
/* clang-format on */

/* finish_rows for FLOOR: 157 cycles. */
RQDKM_INLINE void finish_rows_floor(const rqdkm_winograd_finisher *f, const uint32_t *t, uint32_t scale, int8_t *out,
                                    int32_t step, int32_t down) {
  uint32_t x0, x1, x2, x3, x4, x5;
  const uint32_t six = 6u;
  __asm volatile(ROWS(RQDKM_F4_FLOOR, "add %[out], %[out], %[down]\n\t")
                 : RQDKM_F4_TEMPORARIES, [out] "+r"(out), [scale] "+r"(scale)
                 : [t] "r"(t), [six] "r"(six), [multiplier] "r"(f->multiplier), [offset] "r"(f->offset),
                   [step] "r"(step), [down] "r"(down)
                 : "memory");
}

/* finish_rows for AWAY: 195 cycles. No register is left for `down`. */
RQDKM_INLINE void finish_rows_away(const rqdkm_winograd_finisher *f, const uint32_t *t, uint32_t scale, int8_t *out,
                                   int32_t step, int32_t down) {
  uint32_t x0, x1, x2, x3, x4, x5;
  const uint32_t six = 6u;
  __asm volatile(ROWS(RQDKM_F4_AWAY, "ldr %[x2], %[down]\n\tadd %[out], %[out], %[x2]\n\t")
                 : RQDKM_F4_TEMPORARIES, [out] "+r"(out), [scale] "+r"(scale)
                 : [t] "r"(t), [six] "r"(six), [multiplier] "r"(f->multiplier), [offset] "r"(f->offset),
                   [step] "r"(step), [away] "r"(f->away), [down] "m"(down)
                 : "memory");
}
#else
#define finish_rows_floor finish_rows
#define finish_rows_away finish_rows
#endif

RQDKM_INLINE void finish_tiles(rqdkm_winograd_form form, const rqdkm_winograd_params *params, uint32_t *m,
                               const rqdkm_winograd_place *place, int32_t tiles, const rqdkm_winograd_channel *channel,
                               int8_t *out) {
  const rqdkm_winograd_finisher f = {form, channel->multiplier, channel->offset, channel->away, &params->clamp};
  const int32_t step = params->output.c, pitch = params->output.w * step;
  const uint32_t scale = channel->scale;
  uint32_t transformed[4 * HALF];
  transform_columns(m, tiles, (uint32_t)channel->bias, transformed);
  const uint32_t *t = transformed, *const end = t + HALF * tiles;
  RQDKM_NO_UNROLL
  do {
    int8_t *const to = out + place->offset;
    const int32_t whole = place->rows == TILE && place->cols == TILE;
    int8_t corner[TILE * TILE];
    int8_t *const first = whole ? to : corner;
    const int32_t right = whole ? step : 1, down = whole ? pitch - 3 * step : 1;
    if (form == RQDKM_WINOGRAD_FLOOR) {
      finish_rows_floor(&f, t, scale, first, right, down);
    } else if (form == RQDKM_WINOGRAD_AWAY) {
      finish_rows_away(&f, t, scale, first, right, down);
    } else {
      finish_rows(&f, t, scale, first, right, down);
    }
    if (!whole) {
      for (int32_t y = 0; y < place->rows; y++) {
        for (int32_t x = 0; x < place->cols; x++) {
          to[y * pitch + x * step] = corner[y * TILE + x];
        }
      }
    }
    place++;
    t += HALF;
  } while (t != end);
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
