/* SPDX-License-Identifier: Apache-2.0 */
/* F(4x4, 3x3): U = G g G^T on line. About 180 cycles per output channel and pair of input channels. */
#include "conv_winograd_f4.h"
#include "conv_winograd_gemm.h"
#include "rqdkm/winograd.h"

enum { EDGE = 6, POSITION = RQDKM_WINOGRAD_BLOCK_U };

#if RQDKM_WINOGRAD_ASM
/* Column x of g, at X * 4 bytes: a and c stay in registers, the four sums go to t. */
#define COLUMN(A, C, ROTATE, X)                                                                                \
  "ldr %[" A "], [%[w], #" #X "*4]\n\tldr %[b], [%[w], #" #X "*4+12]\n\tldr %[" C "], [%[w], #" #X             \
  "*4+24]"                                                                                                     \
  "\n\tsxtb16 %[" A "], %[" A "]" ROTATE "\n\tsxtb16 %[b], %[b]" ROTATE "\n\tsxtb16 %[" C "], %[" C "]" ROTATE \
  "\n\tsadd16 %[s], %[" A "], %[" C "]\n\tsadd16 %[e], %[s], %[b]\n\tstr %[e], [%[t], #" #X                    \
  "*4]\n\t"                                                                                                    \
  "ssub16 %[s], %[s], %[b]\n\tstr %[s], [%[t], #" #X                                                           \
  "*4+12]\n\tsadd16 %[b], %[b], %[b]\n\t"                                                                      \
  "sadd16 %[e], %[" C "], %[" C "]\n\tsadd16 %[e], %[e], %[e]\n\tsadd16 %[e], %[e], %[" A                      \
  "]\n\t"                                                                                                      \
  "sadd16 %[s], %[e], %[b]\n\tstr %[s], [%[t], #" #X                                                           \
  "*4+24]\n\t"                                                                                                 \
  "ssub16 %[e], %[e], %[b]\n\tstr %[e], [%[t], #" #X "*4+36]\n\t"
#define COLUMNS(ROTATE)                                                                                            \
  __asm volatile(COLUMN("a0", "c0", ROTATE, 0) COLUMN("a1", "c1", ROTATE, 1) COLUMN("a2", "c2", ROTATE, 2)         \
                 : [a0] "=&r"(a0), [a1] "=&r"(a1), [a2] "=&r"(a2), [c0] "=&r"(c0), [c1] "=&r"(c1), [c2] "=&r"(c2), \
                   [b] "=&r"(b), [s] "=&r"(s), [e] "=&r"(e)                                                        \
                 : [w] "r"(w), [t] "r"(t)                                                                          \
                 : "memory")
/* G applied to (A, B, C), stored as row ROW of U; ruins B and C. */
#define ROW(A, B, C, ROW)                                                                                              \
  "str %[" A "], [%[u], #" #ROW "*384]\n\tstr %[" C "], [%[u], #" #ROW                                                 \
  "*384+320]\n\t"                                                                                                      \
  "sadd16 %[s], %[" A "], %[" C "]\n\tsadd16 %[e], %[s], %[" B "]\n\tstr %[e], [%[u], #" #ROW                          \
  "*384+64]\n\t"                                                                                                       \
  "ssub16 %[s], %[s], %[" B "]\n\tstr %[s], [%[u], #" #ROW "*384+128]\n\tsadd16 %[" B "], %[" B "], %[" B              \
  "]\n\tsadd16 %[" C "], %[" C "], %[" C "]\n\tsadd16 %[" C "], %[" C "], %[" C "]\n\tsadd16 %[" C "], %[" C "], %[" A \
  "]\n\tsadd16 %[s], %[" C "], %[" B "]\n\tstr %[s], [%[u], #" #ROW "*384+192]\n\tssub16 %[" C "], %[" C "], %[" B     \
  "]\n\tstr %[" C "], [%[u], #" #ROW "*384+256]\n\t"
#define INNER(ROW_, T)                                                                   \
  "ldr %[a0], [%[t], #" #T "]\n\tldr %[a1], [%[t], #" #T "+4]\n\tldr %[a2], [%[t], #" #T \
  "+8]\n\t" ROW("a0", "a1", "a2", ROW_)

/* half 0: channels (0, 2) of four, 1: (1, 3). */
RQDKM_INLINE void transform_pair(uint32_t half, const int8_t *w, uint32_t *u) {
  uint32_t t[12], a0, a1, a2, c0, c1, c2, b, s, e;
  if (half == 0u) {
    COLUMNS("");
  } else {
    COLUMNS(", ror #8");
  }
  __asm volatile(ROW("a0", "a1", "a2", 0) ROW("c0", "c1", "c2", 5) INNER(1, 0) INNER(2, 12) INNER(3, 24) INNER(4, 36)
                 : [a0] "+r"(a0), [a1] "+r"(a1), [a2] "+r"(a2), [c0] "+r"(c0), [c1] "+r"(c1), [c2] "+r"(c2),
                   [s] "=&r"(s), [e] "=&r"(e)
                 : [u] "r"(u), [t] "r"(t)
                 : "memory");
}

#else /* the same in C */

static void store_row(const uint32_t g[3], uint32_t *u) {
  uint32_t e[EDGE];
  rqdkm_winograd_f4_weights(g[0], g[1], g[2], e);
  for (int32_t j = 0; j < EDGE; j++) {
    u[j * POSITION] = e[j];
  }
}

static void transform_pair(uint32_t half, const int8_t *w, uint32_t *u) {
  uint32_t t[EDGE][3]; /* G g */
  for (int32_t x = 0; x < 3; x++) {
    uint32_t g[3], e[EDGE];
    for (int32_t y = 0; y < 3; y++) {
      const uint32_t word = rqdkm_load32(w + 4 * (3 * y + x));
      g[y] = half == 0u ? rqdkm_sxtb16(word) : rqdkm_sxtb16_ror8(word);
    }
    rqdkm_winograd_f4_weights(g[0], g[1], g[2], e);
    for (int32_t i = 0; i < EDGE; i++) {
      t[i][x] = e[i];
    }
  }
  for (int32_t i = 0; i < EDGE; i++) {
    store_row(t[i], u + i * EDGE * POSITION);
  }
}

#endif

/* weights: int8 [2][channels / 4][3][3][4]. */
void rqdkm_winograd_f4x4_weights(const int8_t *weights, int32_t channels, uint32_t *u) {
  int32_t co = 0;
  RQDKM_WINOGRAD_OPAQUE(co); /* else GCC makes a copy per output channel, and below one per half: too much code */
  RQDKM_NO_UNROLL
  do {
    RQDKM_NO_UNROLL
    for (int32_t c = 0; c < channels; c += 4) {
      uint32_t *words = u + (c >> 4) * EDGE * EDGE * POSITION + (c & 15) + co;
      uint32_t half = 0u;
      RQDKM_WINOGRAD_OPAQUE(half);
      RQDKM_NO_UNROLL
      do {
        transform_pair(half, weights, words);
        words += 2;
      } while (++half != 2u);
      weights += 9 * 4;
    }
  } while (++co != 2);
}
