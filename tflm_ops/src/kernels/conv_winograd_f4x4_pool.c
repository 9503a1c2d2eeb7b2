/* SPDX-License-Identifier: Apache-2.0 */
/* F(4x4, 3x3): the output side where only the 2x2 maxima are wanted. Requantization grows with the accumulator, so the
 * largest of four is taken before it, and 4 of 16 outputs are requantized. The transformed sums are 9 * 2^s acc with s
 *     6 5 4 4 | 5 4 3 3 | 4 3 2 2 | 4 3 2 2
 * and are compared as they are, brought to the larger s of two: the compiler has proven that 9 * 2^6 acc fits 32 bits;
 * channels for which it does not are WIDE. */
#include "conv_winograd_f4x4_columns.h"
#include "conv_winograd_output.h"

enum { POOLED = TILE / 2, STORED = POOLED };

#if RQDKM_WINOGRAD_ASM
/* clang-format off */
/* A = max(A, B); A = max(A, 2 B). The first comparison is a 16-bit instruction, after which IT is free. */
#define MAX(A, B) "cmp %[" A "], %[" B "]\n\tit lt\n\tmovlt %[" A "], %[" B "]\n\t"
#define MAX_TWICE(A, B) "cmp %[" A "], %[" B "], lsl #1\n\tit lt\n\tlsllt %[" A "], %[" B "], #1\n\t"
/* Rows I and I + 1, the second with half the power of two (MAX_TWICE) or the same (MAX): left maximum in p, right in q. */
#define ROWS(I, J, MAX_ROWS)                                                                       \
  ROW(I) MAX_TWICE("x0", "x4") MAX("x3", "x5") "mov %[p], %[x0]\n\tmov %[q], %[x3]\n\t"            \
  ROW(J) MAX_TWICE("x0", "x4") MAX("x3", "x5") MAX_ROWS("p", "x0") MAX_ROWS("q", "x3")
/* x0 = the requantized X; AWAY keeps 2^(k - 1) in s6. */
#define FLOOR(X) "smmla %[x0], %[" X "], %[multiplier], %[offset]\n\t"
#define AWAY(X)                                                                                    \
  "vmov %[x0], s6\n\tand %[x0], %[x0], %[" X "], asr #31\n\tsub %[x0], %[offset], %[x0]\n\t"       \
  "smmla %[x0], %[" X "], %[multiplier], %[x0]\n\t"
#define STORE_PAIR(FINISH)                                                                         \
  "mul %[p], %[p], %[scale]\n\tlsl %[scale], %[scale], #2\n\tmul %[q], %[q], %[scale]\n\t"         \
  FINISH("p") "ssat %[x0], #8, %[x0], asr #16\n\tvmov %[x1], s5\n\tstrb %[x0], [%[out]]\n\t"       \
  "add %[out], %[out], %[x1]\n\t" FINISH("q") "ssat %[x0], #8, %[x0], asr #16\n\t"                 \
  "strb %[x0], [%[out]]\n\t"
#define POOLED_ROWS(FINISH)                                                                        \
  TILE_LOOP_BEGIN ROWS(0, 1, MAX_TWICE) STORE_PAIR(FINISH)                                         \
  "vmov %[x0], s4\n\tadd %[out], %[out], %[x0]\n\t" ROWS(2, 3, MAX) STORE_PAIR(FINISH) TILE_LOOP_END
/* clang-format on */

/* pool_rows for FLOOR: 150 cycles per tile. */
RQDKM_INLINE void pool_rows_floor(const rqdkm_winograd_finisher *f, const uint32_t *t, const f4x4_tile_loop *loop) {
  uint32_t x0, x1, x2, x3, x4, x5, p, q, scale;
  const uint32_t six = 6u;
  const void *out = loop;
  __asm volatile(POOLED_ROWS(FLOOR)
                 : RQDKM_F4_TEMPORARIES, [out] "+r"(out), [scale] "=&r"(scale), [t] "+r"(t), [p] "=&r"(p), [q] "=&r"(q)
                 : [six] "r"(six), [multiplier] "r"(f->multiplier), [offset] "r"(f->offset)
                 : TILE_LOOP_CLOBBERS);
}

/* pool_rows for AWAY: 162 cycles. */
RQDKM_INLINE void pool_rows_away(const rqdkm_winograd_finisher *f, const uint32_t *t, const f4x4_tile_loop *loop) {
  uint32_t x0, x1, x2, x3, x4, x5, p, q, scale;
  const uint32_t six = 6u;
  const void *out = loop;
  scale = (uint32_t)f->away;
  __asm volatile("vmov s6, %[scale]\n\t" POOLED_ROWS(AWAY)
                 : RQDKM_F4_TEMPORARIES, [out] "+r"(out), [scale] "+r"(scale), [t] "+r"(t), [p] "=&r"(p), [q] "=&r"(q)
                 : [six] "r"(six), [multiplier] "r"(f->multiplier), [offset] "r"(f->offset)
                 : TILE_LOOP_CLOBBERS, "s6");
}
#else
#define pool_rows_floor pool_rows
#define pool_rows_away pool_rows
#endif

RQDKM_INLINE int32_t max32(int32_t a, int32_t b) { return a < b ? b : a; }

/* Maxima of the left and the right half of two rows: 9 * 2^(s, s - 2) acc; the second row has 2^(s - drop). */
RQDKM_INLINE void pool_row_pair(const uint32_t *t, int32_t first, uint32_t drop, int32_t maxima[POOLED]) {
  for (uint32_t i = 0; i < 2; i++) {
    uint32_t y[TILE];
    transform_row(t, first + (int32_t)i, y);
    const uint32_t up = i * drop;
    const int32_t left = max32((int32_t)(y[0] << up), (int32_t)(y[1] << (up + 1)));
    const int32_t right = max32((int32_t)(y[2] << up), (int32_t)(y[3] << up));
    maxima[0] = i == 0 ? left : max32(maxima[0], left);
    maxima[1] = i == 0 ? right : max32(maxima[1], right);
  }
}

/* Tiles of a group: A^T M -> 2x2 outputs each, one requantization per output. */
RQDKM_INLINE void pool_rows(const rqdkm_winograd_finisher *f, const uint32_t *t, const f4x4_tile_loop *loop) {
  const rqdkm_winograd_place *place = loop->place;
  RQDKM_NO_UNROLL
  do {
    int8_t *out = loop->out + place->offset;
    for (uint32_t y = 0; y < POOLED; y++) { /* 2^6 and 2^4, then 2^4 and 2^2 */
      int32_t maxima[POOLED];
      pool_row_pair(t, (int32_t)(2 * y), 1 - y, maxima);
      out[0] = rqdkm_winograd_finish(f, (uint32_t)maxima[0], loop->scale << (2 * y), 0);
      out += loop->step;
      out[0] = rqdkm_winograd_finish(f, (uint32_t)maxima[1], loop->scale << (2 * y + 2), 0);
      out += loop->down;
    }
    place++;
  } while (++t != loop->end);
}

/* The same for WIDE, where a sum may wrap: all 16 outputs, then their maxima. */
RQDKM_INLINE void pool_rows_wide(const rqdkm_winograd_finisher *f, const uint32_t *t, const f4x4_tile_loop *loop) {
  static const uint8_t power[TILE] = {3, 2, 1, 1};
  const rqdkm_winograd_place *place = loop->place;
  RQDKM_NO_UNROLL
  do {
    int8_t maxima[POOLED * POOLED] = {INT8_MIN, INT8_MIN, INT8_MIN, INT8_MIN};
    RQDKM_NO_UNROLL
    for (int32_t y = 0; y < TILE; y++) {
      uint32_t sums[TILE];
      transform_row(t, y, sums);
      RQDKM_NO_UNROLL
      for (int32_t x = 0; x < TILE; x++) {
        int8_t *const max = maxima + (y >> 1) * POOLED + (x >> 1);
        *max = (int8_t)max32(*max, rqdkm_winograd_finish(f, sums[x], loop->scale, power[y] + power[x]));
      }
    }
    int8_t *const out = loop->out + place->offset;
    const int32_t pitch = loop->step + loop->down;
    out[0] = maxima[0];
    out[loop->step] = maxima[1];
    out[pitch] = maxima[2];
    out[pitch + loop->step] = maxima[3];
    place++;
  } while (++t != loop->end);
}

RQDKM_INLINE void finish_group(rqdkm_winograd_form form, const rqdkm_winograd_finisher *f, const uint32_t *t,
                               const f4x4_tile_loop *loop) {
  if (form == RQDKM_WINOGRAD_FLOOR) {
    pool_rows_floor(f, t, loop);
  } else if (form == RQDKM_WINOGRAD_AWAY) {
    pool_rows_away(f, t, loop);
  } else if (form == RQDKM_WINOGRAD_CLAMP) {
    pool_rows(f, t, loop);
  } else {
    pool_rows_wide(f, t, loop);
  }
}

#include "conv_winograd_f4x4_tiles.h"

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x4_pool_floor) {
  finish_tiles(RQDKM_WINOGRAD_FLOOR, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x4_pool_away) {
  finish_tiles(RQDKM_WINOGRAD_AWAY, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x4_pool_clamp) {
  finish_tiles(RQDKM_WINOGRAD_CLAMP, params, m, place, tiles, channel, out);
}

RQDKM_WINOGRAD_OUTPUT(rqdkm_winograd_f4x4_pool_wide) {
  finish_tiles(RQDKM_WINOGRAD_WIDE, params, m, place, tiles, channel, out);
}
