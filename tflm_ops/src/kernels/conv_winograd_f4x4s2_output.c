/* SPDX-License-Identifier: Apache-2.0 */
/* The output side of conv_winograd_f4x4s2.c. One function per requantize form, so that only the forms in use are
 * linked.
 */
#include "conv_winograd_gemm.h"
#include "conv_winograd_output.h"

enum { EDGE = 9, TILE = 4, POSITION = 8, GROUP = EDGE * EDGE * POSITION };

/* 6 y = A^T m, modulo 2^32, of EDGE words `step` apart. */
RQDKM_INLINE void transform_output(const uint32_t *m, int32_t step, uint32_t y[TILE]) {
  const uint32_t m1 = rqdkm_load32(m + step), m2 = rqdkm_load32(m + 2 * step), m3 = rqdkm_load32(m + 3 * step);
  const uint32_t r = m1 - m2, s = m1 + m2;
  y[0] = rqdkm_load32(m) + m3 - r + rqdkm_load32(m + 5 * step);
  y[1] = (m3 << 1) - s + rqdkm_load32(m + 6 * step);
  y[2] = (m3 << 2) - r + rqdkm_load32(m + 7 * step);
  y[3] = (m3 << 3) - s + rqdkm_load32(m + 4 * step) + rqdkm_load32(m + 8 * step);
}

/* A loop over tiles; in asm s0 to s6, in this order. */
typedef struct {
  const rqdkm_winograd_place *place;
  int8_t *out;
  int32_t down;        /* from the last output of a row to the first of the next */
  const uint32_t *end; /* of the tiles */
  int32_t away;
  int32_t step;   /* from one output to the next along x */
  uint32_t scale; /* for 36 times the accumulator */
} tile_loop;

#if RQDKM_WINOGRAD_ASM
/* clang-format off */
/* transform_output of x0..x7: m0 m1 m2 m3 m5 m6, then m7 m8 m4, which LATE loads -> y0 = x0, y1 = x5, y2 = x4, y3 = x3.
   12 cycles without the loads. */
#define TRANSFORM(LATE)                                                                        \
  "add %[x1], %[x1], %[x2]\n\tsub %[x2], %[x1], %[x2], lsl #1\n\t" /* s, r */                  \
  "add %[x0], %[x0], %[x3]\n\tsub %[x0], %[x0], %[x2]\n\tadd %[x0], %[x0], %[x4]\n\t"          \
  "add %[x5], %[x5], %[x3], lsl #1\n\tsub %[x5], %[x5], %[x1]\n\t" LATE                        \
  "add %[x4], %[x4], %[x3], lsl #2\n\tsub %[x4], %[x4], %[x2]\n\t"                             \
  "add %[x3], %[x6], %[x3], lsl #3\n\tsub %[x3], %[x3], %[x1]\n\tadd %[x3], %[x3], %[x7]\n\t"
#define LOAD(X, OFFSET) "ldr %[" X "], [%[m], #" #OFFSET "]\n\t"
#define TEMPORARIES                                                                            \
  [x0] "=&r"(x0), [x1] "=&r"(x1), [x2] "=&r"(x2), [x3] "=&r"(x3), [x4] "=&r"(x4), [x5] "=&r"(x5), [x6] "=&r"(x6), \
    [x7] "=&r"(x7)
#define FINISH_FLOOR(X)                                                                        \
  "smmla %[" X "], %[" X "], %[multiplier], %[offset]\n\tssat %[" X "], #8, %[" X "], asr #16\n\t" \
  "strb %[" X "], [%[out]]\n\t"
#define FINISH_AWAY(X)                                                                         \
  "vmov %[x1], s4\n\tand %[x1], %[x1], %[" X "], asr #31\n\tsub %[x1], %[offset], %[x1]\n\t"   \
  "smmla %[" X "], %[" X "], %[multiplier], %[x1]\n\tssat %[" X "], #8, %[" X "], asr #16\n\t"   \
  "strb %[" X "], [%[out]]\n\t"
#define NEXT "add %[out], %[out], %[step]\n\t"
/* Four rows of a tile, then the next tile: m and its copy in s7. */
#define ROWS(FINISH)                                                                           \
  "vldmia %[out], {s0-s6}\n\tvmov s7, %[m]\n\tvmov %[step], s5\n\tvmov %[scale], s6\n\t.balign 4\n1:\n\t" \
  "vmov %[x0], s0\n\tvmov %[m], s7\n\tldr %[x1], [%[x0]], #8\n\tvmov %[out], s1\n\t"             \
  "vmov s0, %[x0]\n\tadd %[out], %[out], %[x1]\n\tadd %[x2], %[m], #1152\n\tvmov s8, %[x2]\n\t"  \
  "2:\n\t" LOAD("x1", 32) LOAD("x2", 64) LOAD("x3", 96) LOAD("x4", 160) LOAD("x5", 192) LOAD("x0", 0) \
  TRANSFORM(LOAD("x4", 224) LOAD("x6", 256) LOAD("x7", 128))                                   \
  "mul %[x0], %[x0], %[scale]\n\tmul %[x5], %[x5], %[scale]\n\tmul %[x4], %[x4], %[scale]\n\t"   \
  "mul %[x3], %[x3], %[scale]\n\tadd %[m], %[m], #288\n\t"                                     \
  FINISH("x0") NEXT FINISH("x5") NEXT FINISH("x4") NEXT FINISH("x3")                           \
  "vmov %[x0], s8\n\tvmov %[x1], s2\n\tcmp %[m], %[x0]\n\tadd %[out], %[out], %[x1]\n\tbne 2b\n\t" \
  "vmov %[x0], s7\n\tvmov %[x1], s3\n\tadd %[x0], %[x0], #4\n\tvmov s7, %[x0]\n\t"               \
  "cmp %[x0], %[x1]\n\tbne 1b\n\t"
#define ROWS_OPERANDS                                                                          \
  : TEMPORARIES, [out] "+r"(out), [m] "+r"(m), [step] "=&r"(step), [scale] "=&r"(scale)        \
  : [multiplier] "r"(f->multiplier), [offset] "r"(f->offset)                                   \
  : "s0", "s1", "s2", "s3", "s4", "s5", "s6", "s7", "s8", "cc", "memory"
/* clang-format on */

/* A^T M in place: 30 cycles per column. */
RQDKM_INLINE void transform_columns(uint32_t *m, int32_t tiles) {
  uint32_t x0, x1, x2, x3, x4, x5, x6, x7;
  uint32_t *const tiles_end = m + tiles;
  RQDKM_NO_UNROLL
  do {
    const uint32_t *const end = m + EDGE * POSITION;
    uint32_t *column = m;
    __asm volatile(".balign 4\n1:\n\t" LOAD("x1", 288) LOAD("x2", 576) LOAD("x3", 864) LOAD("x4", 1440)
                       LOAD("x5", 1728) LOAD("x0", 0) TRANSFORM(LOAD("x4", 2016) LOAD("x6", 2304) LOAD("x7", 1152))
                   "str %[x5], [%[m], #288]\n\tstr %[x4], [%[m], #576]\n\tstr %[x3], [%[m], #864]\n\t"
                   "str %[x0], [%[m]], #32\n\tcmp %[m], %[end]\n\tbne 1b\n\t"
                   : TEMPORARIES, [m] "+r"(column)
                   : [end] "r"(end)
                   : "cc", "memory");
  } while (++m != tiles_end);
}

RQDKM_INLINE void finish_rows_floor(const rqdkm_winograd_finisher *f, const uint32_t *m, const tile_loop *loop) {
  uint32_t x0, x1, x2, x3, x4, x5, x6, x7, scale;
  int32_t step;
  const void *out = loop;
  __asm volatile(ROWS(FINISH_FLOOR) ROWS_OPERANDS);
}

RQDKM_INLINE void finish_rows_away(const rqdkm_winograd_finisher *f, const uint32_t *m, const tile_loop *loop) {
  uint32_t x0, x1, x2, x3, x4, x5, x6, x7, scale;
  int32_t step;
  const void *out = loop;
  __asm volatile(ROWS(FINISH_AWAY) ROWS_OPERANDS);
}
#else
static void transform_columns(uint32_t *m, int32_t tiles) {
  for (int32_t tile = 0; tile < tiles; tile++, m++) {
    for (int32_t j = 0; j < EDGE; j++) {
      uint32_t y[TILE];
      transform_output(m + j * POSITION, EDGE * POSITION, y);
      for (int32_t i = 0; i < TILE; i++) m[(i * EDGE + j) * POSITION] = y[i];
    }
  }
}
#define finish_rows_floor finish_rows
#define finish_rows_away finish_rows
#endif

/* Tiles of a group: A^T M -> 4x4 outputs each. */
RQDKM_INLINE void finish_rows(const rqdkm_winograd_finisher *f, const uint32_t *m, const tile_loop *loop) {
  const rqdkm_winograd_place *place = loop->place;
  RQDKM_NO_UNROLL
  do {
    int8_t *out = loop->out + place->offset;
    RQDKM_NO_UNROLL
    for (int32_t i = 0; i < TILE; i++) { /* 36 times the accumulator */
      uint32_t y[TILE];
      transform_output(m + i * EDGE * POSITION, POSITION, y);
      RQDKM_WINOGRAD_UNROLL
      for (int32_t j = 0; j < TILE; j++) {
        *out = rqdkm_winograd_finish(f, y[j], loop->scale, 2);
        out += j < TILE - 1 ? loop->step : loop->down;
      }
    }
    place++;
  } while (++m != loop->end);
}

static const rqdkm_winograd_place packed[4] = RQDKM_WINOGRAD_PACKED(TILE);

RQDKM_INLINE void finish_tiles(rqdkm_winograd_form form, const rqdkm_winograd_params *params, uint32_t *m,
                               const rqdkm_winograd_place *place, int32_t tiles, const rqdkm_winograd_channel *channel,
                               int8_t *out) {
  const rqdkm_winograd_finisher f = {form, channel->multiplier, channel->offset, channel->away, &params->clamp};
  const int32_t step = params->output.c, pitch = params->output.w * step;
  int8_t buffer[4 * TILE * TILE];
  const int32_t whole = place->whole;
  tile_loop loop = {packed, buffer, 1, m, channel->away, 1, channel->scale};
  if (whole) {
    loop.out = out;
    loop.down = pitch - 3 * step;
    loop.step = step;
  }
  RQDKM_NO_UNROLL
  for (; tiles > 0; tiles -= 4, m += GROUP, place += 4) {
    const int32_t count = tiles < 4 ? tiles : 4;
    RQDKM_NO_UNROLL
    for (int32_t i = 0; i < count; i++) {
      m[(EDGE + 1) * POSITION + i] += (uint32_t)channel->bias; /* appears in every output: A^T holds -1 there */
    }
    transform_columns(m, count);
    if (whole) loop.place = place;
    loop.end = m + count;
    if (form == RQDKM_WINOGRAD_FLOOR) {
      finish_rows_floor(&f, m, &loop);
    } else if (form == RQDKM_WINOGRAD_AWAY) {
      finish_rows_away(&f, m, &loop);
    } else {
      finish_rows(&f, m, &loop);
    }
    if (!whole) rqdkm_winograd_store_tiles(buffer, TILE, place, count, out, step, pitch);
  }
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x4s2_output_floor) {
  finish_tiles(RQDKM_WINOGRAD_FLOOR, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x4s2_output_away) {
  finish_tiles(RQDKM_WINOGRAD_AWAY, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x4s2_output_clamp) {
  finish_tiles(RQDKM_WINOGRAD_CLAMP, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x4s2_output_wide) {
  finish_tiles(RQDKM_WINOGRAD_WIDE, params, m, place, tiles, channel, out);
}
