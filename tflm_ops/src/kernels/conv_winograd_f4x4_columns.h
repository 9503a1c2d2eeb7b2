/* SPDX-License-Identifier: Apache-2.0 */
/* F(4x4, 3x3): the vertical half of the inverse transform, which all output stages start with. */
#ifndef RQDKM_CONV_WINOGRAD_F4X4_COLUMNS_H
#define RQDKM_CONV_WINOGRAD_F4X4_COLUMNS_H

#include "conv_winograd_f4.h"
#include "conv_winograd_f4_asm.h"
#include "conv_winograd_gemm.h"
#include "rqdkm/winograd.h"

enum { EDGE = 6, TILE = 4, POSITION = 8, GROUP = EDGE * EDGE * POSITION /* words of M */ };

/* A^T M in place for neighbouring tiles of a group: m[p * POSITION + tile], rows y < 4 of the result in place of rows
   of M. The bias enters at position (1, 1). */
#if RQDKM_WINOGRAD_ASM
/* clang-format off */
/* Column J of a pair, but for the store of x0. 21 cycles with it. */
#define COLUMN(J)                                                                               \
  "ldr %[x1], [%[m], #" #J "*32+192]\n\t"                                                       \
  "ldr %[x2], [%[m], #" #J "*32+384]\n\t"                                                       \
  "ldr %[x3], [%[m], #" #J "*32+576]\n\t"                                                       \
  "ldr %[x4], [%[m], #" #J "*32+768]\n\t"                                                       \
  "ldr %[x5], [%[m], #" #J "*32+960]\n\t"                                                       \
  "ldr %[x0], [%[m], #" #J "*32]\n\t" RQDKM_F4_OUTPUT                                           \
  "str %[x4], [%[m], #" #J "*32+192]\n\t"                                                       \
  "str %[x3], [%[m], #" #J "*32+384]\n\t"                                                       \
  "str %[x5], [%[m], #" #J "*32+576]\n\t"
/* clang-format on */

/* 137 cycles per tile. A loop over pairs of columns, because this and the rows together must stay within the 1 KB
   instruction cache. */
RQDKM_INLINE void transform_columns(uint32_t *m, int32_t tiles, uint32_t bias) {
  uint32_t x0, x1, x2, x3, x4, x5;
  const uint32_t six = 6u;
  uint32_t *tile_end = m + EDGE * POSITION;
  const uint32_t *const end = m + tiles;
  RQDKM_NO_UNROLL
  for (int32_t i = 0; i < tiles; i++) {
    m[(EDGE + 1) * POSITION + i] += bias;
  }
  __asm volatile(
      ".balign 4\n1:\n\t" COLUMN(1) "str %[x0], [%[m], #32]\n\t" COLUMN(0) "str %[x0], [%[m]], #64\n\t"
      "cmp %[m], %[tile_end]\n\tbne 1b\n\t"
      "sub %[m], %[m], #188\n\tadd %[tile_end], %[tile_end], #4\n\t"
      "cmp %[m], %[end]\n\tbne 1b\n\t"
      : RQDKM_F4_TEMPORARIES, [m] "+r"(m), [tile_end] "+r"(tile_end)
      : [six] "r"(six), [end] "r"(end)
      : "cc", "memory");
}

/* Row I of a tile: (A^T M)[I] A. 17 cycles. */
/* clang-format off */
#define ROW(I)                                        \
  "ldr %[x1], [%[t], #" #I "*192+32]\n\t"           \
  "ldr %[x2], [%[t], #" #I "*192+64]\n\t"           \
  "ldr %[x3], [%[t], #" #I "*192+96]\n\t"           \
  "ldr %[x4], [%[t], #" #I "*192+128]\n\t"          \
  "ldr %[x5], [%[t], #" #I "*192+160]\n\t"          \
  "ldr %[x0], [%[t], #" #I "*192]\n\t" RQDKM_F4_OUTPUT
/* clang-format on */
#else
static void transform_columns(uint32_t *m, int32_t tiles, uint32_t bias) {
  for (int32_t tile = 0; tile < tiles; tile++, m++) {
    for (int32_t j = 0; j < EDGE; j++) {
      uint32_t in[EDGE], y[TILE];
      for (int32_t i = 0; i < EDGE; i++) {
        in[i] = m[(i * EDGE + j) * POSITION];
      }
      in[1] += j == 1 ? bias : 0u;
      rqdkm_winograd_f4_output(in, y);
      for (int32_t i = 0; i < TILE; i++) {
        m[(i * EDGE + j) * POSITION] = y[i];
      }
    }
  }
}
#endif

/* Row y of a tile: (A^T M)[y] A. */
RQDKM_INLINE void transform_row(const uint32_t *t, int32_t y, uint32_t out[TILE]) {
  uint32_t in[EDGE];
  RQDKM_WINOGRAD_UNROLL
  for (int32_t j = 0; j < EDGE; j++) {
    in[j] = t[(y * EDGE + j) * POSITION];
  }
  rqdkm_winograd_f4_output(in, out);
}

/* A loop over the tiles of a group; in asm s0 to s5, in this order. */
typedef struct {
  const rqdkm_winograd_place *place;
  int8_t *out;
  uint32_t scale;      /* for the largest power of two */
  const uint32_t *end; /* of the tiles */
  int32_t down;        /* from the last output of a row to the first of the next */
  int32_t step;        /* from one output to the next along x */
} f4x4_tile_loop;

/* Neighbouring tiles from `place` on, at most `tiles`, that are all whole or all not, as the first one is. */
static RQDKM_NOINLINE int32_t run_of_tiles(const rqdkm_winograd_place *place, int32_t tiles, int32_t stored,
                                           int32_t *whole) {
  int32_t count = 0;
  *whole = place->rows == stored && place->cols == stored;
  do {
    count++;
    place++;
  } while (count < tiles && (place->rows == stored && place->cols == stored) == *whole);
  return count;
}

/* Begin and end of a tile: `out` from its place, `scale` anew. */
#define TILE_LOOP_BEGIN                                               \
  "vldmia %[out], {s0-s5}\n\t.balign 4\n1:\n\t"                       \
  "vmov %[x0], s0\n\tvmov %[scale], s2\n\tldr %[x1], [%[x0]], #8\n\t" \
  "vmov %[out], s1\n\tvmov s0, %[x0]\n\tadd %[out], %[out], %[x1]\n\t"
#define TILE_LOOP_END "add %[t], %[t], #4\n\tvmov %[x0], s3\n\tcmp %[t], %[x0]\n\tbne 1b\n\t"
#define TILE_LOOP_CLOBBERS "s0", "s1", "s2", "s3", "s4", "s5", "cc", "memory"

#endif
