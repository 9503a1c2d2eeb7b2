/* SPDX-License-Identifier: Apache-2.0 */
/* F(4x4, 3x3): the input side and the entry points. */
#include "conv_winograd_2d.h"
#include "conv_winograd_f4.h"
#include "conv_winograd_gemm.h"

enum { EDGE = 6, TILE = 4 };

#if RQDKM_WINOGRAD_ASM
/* clang-format off */
/* One half of four channels, (0, 2) or (1, 3), of one column: t[0..5] = B^T d. a to e: at most five values live at once,
   so that the six row pointers stay in registers. 34 cycles. */
#define HALF(ROTATE, T)                                                                             \
  LOAD("a", "r2") LOAD("b", "r4") EXTEND("a", ROTATE) EXTEND("b", ROTATE)                           \
  "sub %[c], %[b], %[a]\n\tsub %[b], %[b], %[a], lsl #2\n\t"                  /* r, p */            \
  LOAD("d", "r0") EXTEND("d", ROTATE)                                                               \
  "sub %[d], %[d], %[a]\n\tadd %[d], %[c], %[d], lsl #2\n\tstr %[d], [%[t], #" #T "]\n\t"           \
  LOAD("a", "r1") LOAD("d", "r3") EXTEND("a", ROTATE) EXTEND("d", ROTATE)                           \
  "sub %[e], %[d], %[a]\n\tsub %[a], %[d], %[a], lsl #2\n\t"                  /* s, q */            \
  "add %[c], %[c], %[e], lsl #1\n\tstr %[c], [%[t], #" #T "+12]\n\t"                                \
  "sub %[c], %[c], %[e], lsl #2\n\tstr %[c], [%[t], #" #T "+16]\n\t"                                \
  "add %[c], %[b], %[a]\n\tstr %[c], [%[t], #" #T "+4]\n\t"                                         \
  "sub %[c], %[b], %[a]\n\tstr %[c], [%[t], #" #T "+8]\n\t"                                         \
  LOAD("a", "r5") EXTEND("a", ROTATE)                                                               \
  "sub %[a], %[a], %[d]\n\tsub %[a], %[a], %[e], lsl #2\n\tstr %[a], [%[t], #" #T "+20]\n\t"
#define LOAD(X, ROW) "ldr %[" X "], [%[" ROW "], %[at]]\n\t"
#define EXTEND(X, ROTATE) "sxtab16 %[" X "], %[middle], %[" X "]" ROTATE "\n\t"
/* clang-format on */

/* 74 cycles per column. */
static uint32_t *columns(const rqdkm_winograd_columns *run, int32_t channel, uint32_t *t) {
  const uint32_t middle = 0x00800080u;
  uint32_t a, b, c, d, e;
  if (run->count == 0) return t;
  a = (uint32_t)run->step;
  const uint32_t *const end = t + 2 * EDGE * run->count;
  __asm volatile("vmov s0, %[a]\n\tvmov s1, %[b]\n\t.balign 4\n1:\n\t" HALF("", 0) HALF(", ror #8", 24)
                 "vmov %[a], s0\n\tadd %[t], %[t], #48\n\tvmov %[b], s1\n\tadd %[at], %[at], %[a]\n\t"
                 "cmp %[t], %[b]\n\tbne 1b\n\t"
                 : [a] "+r"(a), [b] "=r"(b), [c] "=&r"(c), [d] "=&r"(d), [e] "=&r"(e), [t] "+r"(t), [at] "+r"(channel)
                 : "1"(end), [middle] "r"(middle), [r0] "r"(run->row[0]), [r1] "r"(run->row[1]), [r2] "r"(run->row[2]),
                   [r3] "r"(run->row[3]), [r4] "r"(run->row[4]), [r5] "r"(run->row[5])
                 : "s0", "s1", "cc", "memory");
  return t;
}

/* 37 cycles per row of a tile and word. position: words of V per position. */
RQDKM_INLINE void transform_rows(const uint32_t *t, uint32_t *v, int32_t tiles, const int32_t position) {
  uint32_t d0, d1, d2, d3, d4, d5, x;
  uint32_t *out;
  const uint32_t *end;
  uint32_t *const v_end = v + tiles;
  RQDKM_NO_UNROLL
  do {
    out = v;
    end = t + EDGE;
    __asm volatile(
        ".balign 4\n1:\n\t"
        "ldr %[d1], [%[t], #48]\n\tldr %[d2], [%[t], #96]\n\tldr %[d3], [%[t], #144]\n\t"
        "ldr %[d4], [%[t], #192]\n\tldr %[d5], [%[t], #240]\n\tldr %[d0], [%[t]], #4\n\t"
        "add %[d4], %[d4], #0x8000\n\tadd %[d5], %[d5], #0x8000\n\tsub %[d0], %[d0], %[d2]\n\t"
        "sub %[x], %[d4], %[d2]\n\tsub %[d4], %[d4], %[d2], lsl #2\n\t"  /* r, p */
        "sub %[d2], %[d3], %[d1]\n\tsub %[d1], %[d3], %[d1], lsl #2\n\t" /* s, q */
        "sub %[d5], %[d5], %[d3]\n\tsub %[d5], %[d5], %[d2], lsl #2\n\teor %[d5], %[d5], #0x8000\n\t"
        "str %[d5], [%[out], %[position]*5]\n\tadd %[d0], %[x], %[d0], lsl #2\n\teor %[d0], %[d0], #0x8000\n\t"
        "str %[d0], [%[out]]\n\tadd %[d3], %[d4], %[d1]\n\tsub %[d4], %[d4], %[d1]\n\t"
        "eor %[d3], %[d3], #0x8000\n\tstr %[d3], [%[out], %[position]]\n\teor %[d4], %[d4], #0x8000\n\t"
        "str %[d4], [%[out], %[position]*2]\n\tadd %[d1], %[x], %[d2], lsl #1\n\tsub %[x], %[x], %[d2], lsl #1\n\t"
        "eor %[d1], %[d1], #0x8000\n\tstr %[d1], [%[out], %[position]*3]\n\teor %[x], %[x], #0x8000\n\t"
        "str %[x], [%[out], %[position]*4]\n\tcmp %[t], %[end]\n\tadd %[out], %[out], %[position]*6\n\tbne 1b\n\t"
        : [d0] "=&r"(d0), [d1] "=&r"(d1), [d2] "=&r"(d2), [d3] "=&r"(d3), [d4] "=&r"(d4), [d5] "=&r"(d5), [x] "=&r"(x),
          [t] "+r"(t), [out] "+r"(out)
        : [end] "r"(end), [position] "i"(4 * position)
        : "cc", "memory");
    t += (2 * TILE - 1) * EDGE;
  } while (++v != v_end);
}
#else /* the same in C */

static uint32_t *columns(const rqdkm_winograd_columns *run, int32_t channel, uint32_t *t) {
  const uint32_t middle = 0x00800080u;
  uint32_t *const end = t + 2 * EDGE * run->count;
  RQDKM_NO_UNROLL
  for (int32_t at = channel; t != end; at += run->step) {
    uint32_t even[EDGE], odd[EDGE]; /* x + 128 >= 0, channels (0, 2) and (1, 3) */
    RQDKM_WINOGRAD_UNROLL
    for (int32_t i = 0; i < EDGE; i++) {
      const uint32_t x = rqdkm_load32(run->row[i] + at);
      even[i] = rqdkm_sxtab16(middle, x);
      odd[i] = rqdkm_sxtab16_ror8(middle, x);
    }
    rqdkm_winograd_f4_input(even, t);
    rqdkm_winograd_f4_input(odd, t + EDGE);
    t += 2 * EDGE;
  }
  return t;
}

RQDKM_INLINE void transform_rows(const uint32_t *t, uint32_t *v, int32_t tiles, const int32_t position) {
  uint32_t *const v_end = v + tiles;
  RQDKM_NO_UNROLL
  do {
    const uint32_t *const end = t + EDGE;
    uint32_t *out = v;
    RQDKM_NO_UNROLL
    do {
      uint32_t d[EDGE], e[EDGE];
      RQDKM_WINOGRAD_UNROLL
      for (int32_t j = 0; j < EDGE; j++) {
        d[j] = rqdkm_load32(t + 2 * EDGE * j);
      }
      d[4] += RQDKM_WINOGRAD_BIAS;
      d[5] += RQDKM_WINOGRAD_BIAS;
      rqdkm_winograd_f4_input(d, e);
      RQDKM_WINOGRAD_UNROLL
      for (int32_t j = 0; j < EDGE; j++) {
        rqdkm_store32(out + j * position, rqdkm_winograd_lanes(e[j]));
      }
      out += EDGE * position;
    } while (++t != end);
    t += (2 * TILE - 1) * EDGE;
  } while (++v != v_end);
}

#endif

static void rows(const uint32_t *t, uint32_t *v, int32_t tiles) { transform_rows(t, v, tiles, 8 * 4); }
static void rows_few(const uint32_t *t, uint32_t *v, int32_t tiles) { transform_rows(t, v, tiles, 8 * 2); }

static const rqdkm_winograd_2d algorithm = {
    TILE, EDGE, TILE, 4, columns, rows, rqdkm_winograd_gemm_36, rqdkm_winograd_2d_compute_4};
static const rqdkm_winograd_2d algorithm_few = {
    TILE, EDGE, TILE, 2, columns, rows_few, rqdkm_winograd_gemm_36, rqdkm_winograd_2d_compute_2};

int32_t rqdkm_conv2d_s8_winograd_f4x4(const rqdkm_winograd_params *params, const int8_t *input, const int8_t *residual,
                                      const void *weights, const rqdkm_winograd_channel *channels, int8_t *output,
                                      void *scratch) {
  return rqdkm_winograd_2d_run(&algorithm, params, input, residual, weights, channels, output, scratch);
}

int32_t rqdkm_conv2d_s8_winograd_f4x4_scratch_bytes(const rqdkm_winograd_params *params) {
  return rqdkm_winograd_2d_scratch_bytes(&algorithm, params);
}

int32_t rqdkm_conv2d_s8_winograd_f4x4_few(const rqdkm_winograd_params *params, const int8_t *input,
                                          const int8_t *residual, const void *weights,
                                          const rqdkm_winograd_channel *channels, int8_t *output, void *scratch) {
  return rqdkm_winograd_2d_run(&algorithm_few, params, input, residual, weights, channels, output, scratch);
}

int32_t rqdkm_conv2d_s8_winograd_f4x4_few_scratch_bytes(const rqdkm_winograd_params *params) {
  return rqdkm_winograd_2d_scratch_bytes(&algorithm_few, params);
}
