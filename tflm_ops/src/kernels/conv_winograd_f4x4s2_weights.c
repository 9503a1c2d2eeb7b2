/* SPDX-License-Identifier: Apache-2.0 */
/* Weight transform of conv_winograd_f4x4s2.c: int8 [2][channels / 4][3][3][4] -> U. */
#include "conv_winograd_gemm.h"
#include "rqdkm/winograd.h"

enum { EDGE = 9, DISTINCT = 6, POSITION = RQDKM_WINOGRAD_BLOCK_U };

#if RQDKM_WINOGRAD_ASM
/* clang-format off */
/* G (a, b, c), lane-wise; OUT_n stores e as row n; ruins b and c. */
#define G(OUT0, OUT1, OUT2, OUT3, OUT4, OUT5)                                                          \
  "sadd16 %[e], %[a], %[a]\n\tsadd16 %[e], %[e], %[a]\n\t" OUT0                                      \
  "sadd16 %[s], %[a], %[c]\n\tsadd16 %[e], %[s], %[s]\n\tsadd16 %[e], %[e], %[s]\n\t" OUT1           \
  "ssub16 %[e], %[c], %[a]\n\t" OUT2                                                                  \
  "sadd16 %[c], %[c], %[c]\n\tsadd16 %[e], %[a], %[c]\n\t" OUT3                                      \
  "sadd16 %[e], %[c], %[c]\n\tsadd16 %[e], %[e], %[c]\n\t" OUT4                                      \
  "sadd16 %[b], %[b], %[b]\n\tsadd16 %[e], %[b], %[b]\n\tsadd16 %[e], %[e], %[b]\n\t" OUT5
#define STORE(BASE, OFFSET) "str %[e], [%[" BASE "], #" #OFFSET "]\n\t"
/* Columns of the kernel, three words of four channels each: t[row][column] = G g. 31 cycles each. */
#define COLUMNS(ROTATE)                                                                                \
  ".balign 4\n1:\n\tldr %[b], [%[w], #12]\n\tldr %[c], [%[w], #24]\n\tldr %[a], [%[w]], #4\n\t"         \
  "sxtb16 %[a], %[a]" ROTATE "\n\tsxtb16 %[b], %[b]" ROTATE "\n\tsxtb16 %[c], %[c]" ROTATE "\n\t"       \
  G(STORE("t", 0), STORE("t", 12), STORE("t", 24), STORE("t", 36), STORE("t", 48), STORE("t", 60))     \
  "add %[t], %[t], #4\n\tcmp %[w], %[end]\n\tbne 1b\n\t"
#define LOAD_ROW "ldr %[b], [%[t], #4]\n\tldr %[c], [%[t], #8]\n\tldr %[a], [%[t]], #12\n\t"
/* Columns 5 to 8 of a row are the same. */
#define STORE_LAST STORE("u", 320) STORE("u", 384) STORE("u", 448) STORE("u", 512)
/* And so are rows 5 to 8: u is row 5, v row 7. */
#define FOUR(A, B) STORE("u", A) STORE("u", B) STORE("v", A) STORE("v", B)
/* clang-format on */

/* half 0: channels (0, 2) of four, 1: (1, 3). 300 cycles. */
RQDKM_INLINE void transform_pair(uint32_t half, const int8_t *w, uint32_t *u) {
  uint32_t t[DISTINCT * 3], a, b, c, s, e;
  uint32_t *at = t;
  const int8_t *const end = w + 12;
  if (half == 0u) {
    __asm volatile(COLUMNS("")
                   : [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [s] "=&r"(s), [e] "=&r"(e), [w] "+r"(w), [t] "+r"(at)
                   : [end] "r"(end)
                   : "cc", "memory");
  } else {
    __asm volatile(COLUMNS(", ror #8")
                   : [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [s] "=&r"(s), [e] "=&r"(e), [w] "+r"(w), [t] "+r"(at)
                   : [end] "r"(end)
                   : "cc", "memory");
  }
  const uint32_t *from = t, *const last = t + 3 * (DISTINCT - 1);
  uint32_t *const v = u + 7 * EDGE * POSITION;
  __asm volatile(
      ".balign 4\n1:\n\t" LOAD_ROW G(STORE("u", 0), STORE("u", 64), STORE("u", 128), STORE("u", 192), STORE("u", 256),
                                     STORE_LAST) "add %[u], %[u], #576\n\tcmp %[t], %[last]\n\tbne 1b\n\t" LOAD_ROW
          G(FOUR(0, 576), FOUR(64, 640), FOUR(128, 704), FOUR(192, 768), FOUR(256, 832),
            FOUR(320, 896) FOUR(384, 960) FOUR(448, 1024) FOUR(512, 1088))
      : [a] "=&r"(a), [b] "=&r"(b), [c] "=&r"(c), [s] "=&r"(s), [e] "=&r"(e), [u] "+r"(u), [t] "+r"(from)
      : [v] "r"(v), [last] "r"(last)
      : "cc", "memory");
}

#else /* the same in C */

/* G (a, b, c), lane-wise; the last one stands for four positions. */
RQDKM_INLINE void transform(uint32_t a, uint32_t b, uint32_t c, uint32_t u[DISTINCT]) {
  const uint32_t s = rqdkm_sadd16(a, c), b2 = rqdkm_sadd16(b, b), c2 = rqdkm_sadd16(c, c);
  u[0] = rqdkm_sadd16(rqdkm_sadd16(a, a), a);
  u[1] = rqdkm_sadd16(rqdkm_sadd16(s, s), s);
  u[2] = rqdkm_ssub16(c, a);
  u[3] = rqdkm_sadd16(a, c2);
  u[4] = rqdkm_sadd16(rqdkm_sadd16(c2, c2), c2);
  u[5] = rqdkm_sadd16(rqdkm_sadd16(b2, b2), b2);
}

/* half 0: channels (0, 2) of four, 1: (1, 3). */
RQDKM_INLINE void transform_pair(uint32_t half, const int8_t *w, uint32_t *u) {
  uint32_t t[DISTINCT][3]; /* G g */
  RQDKM_NO_UNROLL
  for (int32_t x = 0; x < 3; x++, w += 4) {
    uint32_t g[3], e[DISTINCT];
    RQDKM_WINOGRAD_UNROLL
    for (int32_t y = 0; y < 3; y++) {
      const uint32_t word = rqdkm_load32(w + 12 * y);
      g[y] = half == 0u ? rqdkm_sxtb16(word) : rqdkm_sxtb16_ror8(word);
    }
    transform(g[0], g[1], g[2], e);
    RQDKM_WINOGRAD_UNROLL
    for (int32_t i = 0; i < DISTINCT; i++) {
      t[i][x] = e[i];
    }
  }
  RQDKM_NO_UNROLL
  for (int32_t i = 0; i < EDGE; i++, u += EDGE * POSITION) {
    uint32_t e[DISTINCT];
    const uint32_t *const row = t[i < DISTINCT ? i : DISTINCT - 1];
    transform(row[0], row[1], row[2], e);
    RQDKM_WINOGRAD_UNROLL
    for (int32_t j = 0; j < DISTINCT; j++) {
      rqdkm_store32(u + j * POSITION, e[j]);
    }
    RQDKM_WINOGRAD_UNROLL
    for (int32_t j = DISTINCT; j < EDGE; j++) {
      rqdkm_store32(u + j * POSITION, e[DISTINCT - 1]);
    }
  }
}

#endif

void rqdkm_winograd_f4x4s2_weights(const int8_t *weights, int32_t channels, uint32_t *u) {
  RQDKM_NO_UNROLL
  for (int32_t co = 0; co < 2; co++) {
    RQDKM_NO_UNROLL
    for (int32_t c = 0; c < channels; c += 4) {
      uint32_t *words = u + (c >> 4) * EDGE * EDGE * POSITION + (c & 15) + co;
      uint32_t half = 0u;
      RQDKM_WINOGRAD_OPAQUE(half); /* else GCC makes a copy per half: too much code */
      RQDKM_NO_UNROLL
      do {
        transform_pair(half, weights, words);
        words += 2;
      } while (++half != 2u);
      weights += 9 * 4;
    }
  }
}
