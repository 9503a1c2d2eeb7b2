/* SPDX-License-Identifier: Apache-2.0 */
/* F(4x4, 3x3): U = G g G^T on line. */
#include "conv_winograd_f4.h"
#include "conv_winograd_gemm.h"
#include "rqdkm/winograd.h"

enum { EDGE = 6 };

#if RQDKM_WINOGRAD_ASM
/* clang-format off */
#define LOAD(X, AT) "ldr %[" X "], [%[s], #" #AT "]\n\t"
#define LANES(X, ROTATE) "sxtb16 %[" X "], %[" X "]" ROTATE "\n\t"
/* g of two channels: rows a, b, c. */
#define READ(ROTATE)                                                                                   \
  LOAD("a0", 0) LOAD("a1", 4) LOAD("a2", 8) LOAD("b0", 12) LOAD("b1", 16) LOAD("b2", 20)               \
  LOAD("c0", 24) LOAD("c1", 28) LOAD("c2", 32)                                                         \
  LANES("a0", ROTATE) LANES("a1", ROTATE) LANES("a2", ROTATE) LANES("b0", ROTATE) LANES("b1", ROTATE)  \
  LANES("b2", ROTATE) LANES("c0", ROTATE) LANES("c1", ROTATE) LANES("c2", ROTATE)
#define ADD(TO, X, Y) "sadd16 %[" TO "], %[" X "], %[" Y "]\n\t"
#define SUB(TO, X, Y) "ssub16 %[" TO "], %[" X "], %[" Y "]\n\t"
#define ADDS(TO, X, Y) ADD(TO "0", X "0", Y "0") ADD(TO "1", X "1", Y "1") ADD(TO "2", X "2", Y "2")
#define SUBS(TO, X, Y) SUB(TO "0", X "0", Y "0") SUB(TO "1", X "1", Y "1") SUB(TO "2", X "2", Y "2")
#define PUT(X, ROW, J) "str %[" X "], [%[u], %[position]*(6*" #ROW "+" #J ")]\n\t"
/* (X0, X1, X2) G^T into a row of U. Ruins X and s. */
#define PUT_ROW(X, ROW)                                                                                \
  ADD("s", X "0", X "2") PUT(X "0", ROW, 0) PUT(X "2", ROW, 5) SUB("s", "s", X "1") PUT("s", ROW, 2)   \
  ADD(X "1", X "1", X "1") ADD("s", "s", X "1") PUT("s", ROW, 1) ADD(X "2", X "2", X "2")              \
  ADD(X "2", X "2", X "2") ADD(X "2", X "2", X "0") ADD(X "0", X "2", X "1") PUT(X "0", ROW, 3)        \
  SUB(X "2", X "2", X "1") PUT(X "2", ROW, 4)
/* The same, but X stays; ruins x0, leaves 2 X1 in x1 and 4 X2 in x2. */
#define PUT_ROW_KEEP(X, ROW)                                                                           \
  ADD("s", X "0", X "2") PUT(X "0", ROW, 0) PUT(X "2", ROW, 5) SUB("x0", "s", X "1") PUT("x0", ROW, 2) \
  ADD("s", "s", X "1") PUT("s", ROW, 1) ADD("x1", X "1", X "1") ADD("x2", X "2", X "2")                \
  ADD("x2", "x2", "x2") ADD("s", "x2", X "0") ADD("x0", "s", "x1") PUT("x0", ROW, 3)                   \
  SUB("s", "s", "x1") PUT("s", ROW, 4)
/* Rows 0 and 5 of G g are a and c; x becomes a + 4 c and c a + c; rows 1 and 2 are c +- b; 3 and 4: x +- 2 b. u moves
   on by one row, because the last positions may be out of reach from the first, and in the end to the next word. */
#define TRANSFORM                                                                                      \
  PUT_ROW_KEEP("a", 0) "add %[u], %[u], %[position]*6\n\t" PUT_ROW_KEEP("c", 4)                        \
  ADD("x0", "c0", "c0") ADD("x0", "x0", "x0") ADD("x1", "x1", "x1") ADDS("x", "x", "a")                \
  ADDS("c", "c", "a") ADDS("a", "c", "b") SUBS("c", "c", "b") PUT_ROW("a", 0) PUT_ROW("c", 1)          \
  ADDS("b", "b", "b") ADDS("a", "x", "b") SUBS("x", "x", "b") PUT_ROW("a", 2) PUT_ROW("x", 3)          \
  "sub %[u], %[u], %[back]\n\t"
/* clang-format on */

/* About 310 cycles per four channels. All 14 registers hold data: the pointers wait in s0 and s1, and the flags, which
   nothing in TRANSFORM touches, say what follows: HI channels (1, 3), LO the next four, EQ nothing. */
RQDKM_INLINE void transform_block(const int8_t *weights, int32_t channels, uint32_t *u, const int32_t lanes) {
  uint32_t a0 = (uint32_t)weights, a1 = (uint32_t)(weights + 9 * channels);
  uint32_t a2, b0, b1, b2, c0, c1, c2, x0, x1, x2, s;
  __asm volatile("vmov s0, %[a0]\n\tvmov s1, %[a1]\n\t"
                 ".balign 4\n1:\n\tvmov %[s], s0\n\tcmp %[s], #0\n\t" READ("") "b 3f\n\t"
                 ".balign 4\n2:\n\tvmov %[s], s0\n\t" READ(", ror #8")
                 "vmov %[x0], s1\n\tadd %[s], %[s], #36\n\tcmp %[s], %[x0]\n\tvmov s0, %[s]\n\t"
                 ".balign 4\n3:\n\t" TRANSFORM "bhi 2b\n\tblo 1b\n\t"
                 : [a0] "+r"(a0), [a1] "+r"(a1), [a2] "=&r"(a2), [b0] "=&r"(b0), [b1] "=&r"(b1), [b2] "=&r"(b2),
                   [c0] "=&r"(c0), [c1] "=&r"(c1), [c2] "=&r"(c2), [x0] "=&r"(x0), [x1] "=&r"(x1), [x2] "=&r"(x2),
                   [s] "=&r"(s), [u] "+r"(u)
                 : [position] "i"(4 * 8 * lanes), [back] "i"(4 * (EDGE * 8 - 1) * lanes)
                 : "s0", "s1", "cc", "memory");
}

#else /* the same in C */

static void transform_word(uint32_t (*lanes_of)(uint32_t), const int8_t *weights, uint32_t *u, int32_t position) {
  uint32_t t[EDGE][3]; /* G g */
  for (int32_t x = 0; x < 3; x++) {
    uint32_t e[EDGE];
    rqdkm_winograd_f4_weights(lanes_of(rqdkm_load32(weights + 4 * x)), lanes_of(rqdkm_load32(weights + 4 * (3 + x))),
                              lanes_of(rqdkm_load32(weights + 4 * (6 + x))), e);
    for (int32_t i = 0; i < EDGE; i++) {
      t[i][x] = e[i];
    }
  }
  for (int32_t i = 0; i < EDGE; i++) {
    uint32_t e[EDGE];
    rqdkm_winograd_f4_weights(t[i][0], t[i][1], t[i][2], e);
    for (int32_t j = 0; j < EDGE; j++) {
      u[(i * EDGE + j) * position] = e[j];
    }
  }
}

static void transform_block(const int8_t *weights, int32_t channels, uint32_t *u, int32_t lanes) {
  for (int32_t c = 0; c < channels; c += 4, weights += 9 * 4, u += 2 * lanes) {
    transform_word(rqdkm_sxtb16, weights, u, 8 * lanes);
    transform_word(rqdkm_sxtb16_ror8, weights, u + lanes, 8 * lanes);
  }
}

#endif

/* One pair of output channels out of `lanes` that lie together in U. */
RQDKM_INLINE void transform_pair(const int8_t *weights, int32_t channels, uint32_t *u, const int32_t lanes) {
  int32_t co = 0;
  RQDKM_WINOGRAD_OPAQUE(co); /* else GCC makes a copy per output channel */
  RQDKM_NO_UNROLL
  do {
    uint32_t *block = u + co;
    RQDKM_NO_UNROLL
    for (int32_t left = channels; left > 0; left -= 16) {
      const int32_t some = left < 16 ? left : 16;
      transform_block(weights, some, block, lanes);
      weights += 9 * some;
      block += EDGE * EDGE * 8 * lanes;
    }
  } while (++co != 2);
}

void rqdkm_winograd_f4x4_weights(const int8_t *weights, int32_t channels, uint32_t *u) {
  transform_pair(weights, channels, u, 2);
}

void rqdkm_winograd_f4x4_few_weights(const int8_t *weights, int32_t channels, uint32_t *u) {
  transform_pair(weights, channels, u, 4);
}
