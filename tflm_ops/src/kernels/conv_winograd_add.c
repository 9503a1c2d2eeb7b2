/* SPDX-License-Identifier: Apache-2.0 */
#include "conv_winograd_add.h"

#include "conv_winograd_gemm.h"
#include "rqdkm/requantize.h"

enum { TILE = 4 };

/* Sums as in add_s8_linear.c. */
RQDKM_INLINE int8_t sum_of(const rqdkm_add_linear_params *add, int8_t a, int8_t b) {
  const uint32_t x = (uint32_t)a << 8, y = (uint32_t)b << 8;
  return (int8_t)rqdkm_ssat8_asr20(
      rqdkm_smlawb(add->input2_slope, y, rqdkm_smlawb(add->input1_slope, x, add->constant)));
}

static void add_some(const rqdkm_add_linear_params *add, const int8_t *from, int32_t tile,
                     const rqdkm_winograd_place *place, int32_t channels, const int8_t *residual, int8_t *out,
                     int32_t step, int32_t pitch) {
  for (int32_t y = 0; y < place->rows; y++) {
    for (int32_t x = 0; x < place->cols; x++) {
      for (int32_t c = 0; c < channels; c++) {
        const int32_t at = y * pitch + x * step + c;
        out[at] = sum_of(add, from[2 * (y * tile + x) + c], residual[at]);
      }
    }
  }
}

#if RQDKM_WINOGRAD_ASM
/* clang-format off */
/* Two neighbouring pixels of two channels each, 28 cycles; x: their word, r: the residual's, as bytes (0a 0b 1a 1b). */
#define PIXELS                                                                        \
  "ldr %[x], [%[from]], #4\n\tldrh %[r], [%[residual]]\n\tldrh %[t], [%[residual], %[step]]\n\t" \
  "and %[xe], %[lanes], %[x], lsl #8\n\tand %[x], %[lanes], %[x]\n\t"                 \
  "orr %[r], %[r], %[t], lsl #16\n\tand %[t], %[lanes], %[r], lsl #8\n\t"             \
  "and %[r], %[lanes], %[r]\n\tadd %[residual], %[residual], %[step], lsl #1\n\t"     \
  SUM("b", "xe", "t", "y") "strb %[y], [%[out]]\n\t"                                  \
  SUM("b", "x", "r", "y") "strb %[y], [%[out], #1]\n\tadd %[out], %[out], %[step]\n\t" \
  SUM("t", "xe", "t", "xe") SUM("t", "x", "r", "x")                                   \
  "strb %[xe], [%[out]]\n\tstrb %[x], [%[out], #1]\n\tadd %[out], %[out], %[step]\n\t"
#define SUM(HALF, A, B, TO)                                                           \
  "smlaw" HALF " %[" TO "], %[m1], %[" A "], %[c]\n\tsmlaw" HALF " %[" TO "], %[m2], %[" B "], %[" TO "]\n\t" \
  "ssat %[" TO "], #8, %[" TO "], asr #20\n\t"
/* clang-format on */

/* A whole tile of two channels, the residual at even addresses: 248 cycles. */
RQDKM_INLINE void add_whole(const rqdkm_add_linear_params *add, const int8_t *from, const int8_t *residual, int8_t *out,
                            int32_t step, int32_t pitch) {
  uint32_t x, xe, r, t, y;
  const uint32_t lanes = 0xff00ff00u;
  const int32_t next = pitch - TILE * step;
  __asm volatile(".balign 4\n1:\n\t" PIXELS PIXELS
                 "add %[residual], %[residual], %[next]\n\tadd %[out], %[out], %[next]\n\t"
                 "tst %[from], #31\n\tbne 1b\n\t"
                 : [x] "=&r"(x), [xe] "=&r"(xe), [r] "=&r"(r), [t] "=&r"(t), [y] "=&r"(y), [from] "+r"(from),
                   [residual] "+r"(residual), [out] "+r"(out)
                 : [m1] "r"(add->input1_slope), [m2] "r"(add->input2_slope), [c] "r"(add->constant), [lanes] "r"(lanes),
                   [step] "r"(step), [next] "r"(next)
                 : "cc", "memory");
}
#else
RQDKM_INLINE void add_whole(const rqdkm_add_linear_params *add, const int8_t *from, const int8_t *residual, int8_t *out,
                            int32_t step, int32_t pitch) {
  static const rqdkm_winograd_place whole = {0, TILE, TILE, 1};
  add_some(add, from, TILE, &whole, 2, residual, out, step, pitch);
}
#endif

static void clamp_some(rqdkm_clamp clamp, const rqdkm_winograd_place *place, int32_t channels, int8_t *out,
                       int32_t step, int32_t pitch) {
  for (int32_t y = 0; y < place->rows; y++) {
    for (int32_t x = 0; x < place->cols; x++) {
      for (int32_t c = 0; c < channels; c++) {
        int8_t *const value = out + y * pitch + x * step + c;
        *value = (int8_t)rqdkm_clamp_value(*value, clamp.min, clamp.max);
      }
    }
  }
}

void rqdkm_winograd_add_tiles(const rqdkm_add_linear_params *add, const int8_t *from, int32_t tile,
                              const rqdkm_winograd_place *place, int32_t tiles, int32_t channels,
                              const int8_t *residual, int8_t *out, int32_t step, int32_t pitch) {
  const int32_t narrow = add->clamp.min > INT8_MIN || add->clamp.max < INT8_MAX;
  const int32_t fast = tile == TILE && channels == 2;
  RQDKM_NO_UNROLL
  for (int32_t i = 0; i < tiles; i++, place++, from += 2 * tile * tile) {
    const int8_t *const other = residual + place->offset;
    if (fast && place->rows == TILE && place->cols == TILE) {
      add_whole(add, from, other, out + place->offset, step, pitch);
    } else {
      add_some(add, from, tile, place, channels, other, out + place->offset, step, pitch);
    }
    if (narrow) clamp_some(add->clamp, place, channels, out + place->offset, step, pitch);
  }
}
