/* SPDX-License-Identifier: Apache-2.0 */
/* F(4x4, 3x3): the output side. One function per requantize form, so that only the forms in use are linked. */
#include "conv_winograd_f4.h"
#include "conv_winograd_f4_asm.h"
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
RQDKM_INLINE void finish_tile(const rqdkm_winograd_finisher *f, const uint32_t *m, uint32_t scale, int8_t *out,
                              int32_t step, int32_t pitch) {
  uint32_t t[TILE * EDGE]; /* A^T M: [y][j] */
  uint32_t *to = t;
  RQDKM_NO_UNROLL
  do {
    uint32_t in[EDGE], y[TILE];
    RQDKM_WINOGRAD_UNROLL
    for (int32_t i = 0; i < EDGE; i++) {
      in[i] = rqdkm_load32(m + i * EDGE * POSITION);
    }
    m += POSITION;
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

#if RQDKM_WINOGRAD_ASM
/* One column of A^T M, at J * 32 bytes in M and J * 4 in t; FROM and TO are the last load's and store's addresses. */
#define COLUMN(J, FROM, TO)                                                                               \
  "ldr %[x1], [%[m], #" #J "*32+192]\n\tldr %[x2], [%[m], #" #J                                           \
  "*32+384]\n\t"                                                                                          \
  "ldr %[x3], [%[m], #" #J "*32+576]\n\tldr %[x4], [%[m], #" #J                                           \
  "*32+768]\n\t"                                                                                          \
  "ldr %[x5], [%[m], #" #J "*32+960]\n\tldr %[x0], " FROM "\n\t" RQDKM_F4_OUTPUT "str %[x4], [%[t], #" #J \
  "*4+24]\n\tstr %[x3], [%[t], #" #J                                                                      \
  "*4+48]\n\t"                                                                                            \
  "str %[x5], [%[t], #" #J "*4+72]\n\tstr %[x0], " TO "\n\t"
#define ROW(I)                                                 \
  "ldr %[x1], [%[t], #" #I "*24+4]\n\tldr %[x2], [%[t], #" #I  \
  "*24+8]\n\t"                                                 \
  "ldr %[x3], [%[t], #" #I "*24+12]\n\tldr %[x4], [%[t], #" #I \
  "*24+16]\n\t"                                                \
  "ldr %[x5], [%[t], #" #I "*24+20]\n\tldr %[x0], [%[t], #" #I "*24]\n\t" RQDKM_F4_OUTPUT
#define ROWS(FINISH, DOWN)                                                                                       \
  ROW(0)                                                                                                         \
  RQDKM_F4_FINISH(FINISH, DOWN) "lsl %[scale], %[scale], #1\n\t" ROW(1)                                          \
      RQDKM_F4_FINISH(FINISH, DOWN) "lsl %[scale], %[scale], #1\n\t" ROW(2) RQDKM_F4_FINISH(FINISH, DOWN) ROW(3) \
          RQDKM_F4_FINISH(FINISH, "")
#define TEMPORARIES [x0] "=&r"(x0), [x1] "=&r"(x1), [x2] "=&r"(x2), [x3] "=&r"(x3), [x4] "=&r"(x4), [x5] "=&r"(x5)

/* finish_tile for FLOOR and AWAY: 135 cycles for the columns, 160 or 198 for the rows. */
RQDKM_INLINE void finish_tile_asm(const rqdkm_winograd_finisher *f, const uint32_t *m, uint32_t scale, int8_t *out,
                                  int32_t step, int32_t pitch) {
  uint32_t t[TILE * EDGE], x0, x1, x2, x3, x4, x5;
  const uint32_t six = 6u;
  const int32_t down = pitch - 3 * step;
  uint32_t *to = t;
  /* a loop, because all of this together must stay in the 1 KB instruction cache; the second column first */
  __asm volatile(".balign 4\n1:\n\t" COLUMN(1, "[%[m], #32]", "[%[t], #4]")
                     COLUMN(0, "[%[m]], #64", "[%[t]], #8") "cmp %[t], %[end]\n\tbne 1b\n\t"
                 : TEMPORARIES, [m] "+r"(m), [t] "+r"(to)
                 : [six] "r"(six), [end] "r"(t + EDGE)
                 : "cc", "memory");
  if (f->form == RQDKM_WINOGRAD_FLOOR) {
    __asm volatile(ROWS(RQDKM_F4_FLOOR, "add %[out], %[out], %[down]\n\t")
                   : TEMPORARIES, [out] "+r"(out), [scale] "+r"(scale)
                   : [t] "r"(t), [six] "r"(six), [multiplier] "r"(f->multiplier), [offset] "r"(f->offset),
                     [step] "r"(step), [down] "r"(down)
                   : "memory");
  } else {
    __asm volatile(ROWS(RQDKM_F4_AWAY, "ldr %[x2], %[down]\n\tadd %[out], %[out], %[x2]\n\t")
                   : TEMPORARIES, [out] "+r"(out), [scale] "+r"(scale)
                   : [t] "r"(t), [six] "r"(six), [multiplier] "r"(f->multiplier), [offset] "r"(f->offset),
                     [step] "r"(step), [away] "r"(f->away), [down] "m"(down)
                   : "memory");
  }
}
#endif

RQDKM_INLINE void finish(const rqdkm_winograd_finisher *f, const uint32_t *m, uint32_t scale, int8_t *out, int32_t step,
                         int32_t pitch) {
#if RQDKM_WINOGRAD_ASM
  if (f->form == RQDKM_WINOGRAD_FLOOR || f->form == RQDKM_WINOGRAD_AWAY) {
    finish_tile_asm(f, m, scale, out, step, pitch);
    return;
  }
#endif
  finish_tile(f, m, scale, out, step, pitch);
}

RQDKM_INLINE void finish_tiles(rqdkm_winograd_form form, const rqdkm_winograd_params *params, uint32_t *m,
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
    m[(EDGE + 1) * POSITION] += (uint32_t)channel->bias;
    finish(&f, m, channel->scale, whole ? to : corner, whole ? step : 1, whole ? pitch : TILE);
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
