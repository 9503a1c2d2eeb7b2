/* SPDX-License-Identifier: Apache-2.0 */
/* A^T of F(4, 3) and the requantization after it, in asm: GCC 12 spends 1.6 times the cycles on the C beside it, on
 * spills. The C is conv_winograd_f4.h and conv_winograd_output.h; this computes the same, in the same order. */
#ifndef RQDKM_CONV_WINOGRAD_F4_ASM_H
#define RQDKM_CONV_WINOGRAD_F4_ASM_H

/* clang-format off */

#define RQDKM_F4_TEMPORARIES \
  [x0] "=&r"(x0), [x1] "=&r"(x1), [x2] "=&r"(x2), [x3] "=&r"(x3), [x4] "=&r"(x4), [x5] "=&r"(x5)

/* y = A^T m, in place: m in x0..x5 -> y0 = x0, y1 = x4, y2 = x3, y3 = x5; x1, x2 free. 10 cycles. six = 6. */
#define RQDKM_F4_OUTPUT                                                            \
  "add %[x1], %[x1], %[x2]\n\t"         /* a = m1 + m2 */                          \
  "sub %[x2], %[x1], %[x2], lsl #1\n\t" /* b = m1 - m2 */                          \
  "add %[x3], %[x3], %[x4]\n\t"         /* c = m3 + m4 */                          \
  "sub %[x4], %[x3], %[x4], lsl #1\n\t" /* d = m3 - m4 */                          \
  "mla %[x0], %[x0], %[six], %[x3]\n\t"                                            \
  "sub %[x3], %[x3], %[x1]\n\t"         /* c - a */                                \
  "sub %[x0], %[x0], %[x1], lsl #2\n\t" /* 6 m0 + c - 4 a */                       \
  "rsb %[x1], %[x2], %[x4], lsl #1\n\t"                                            \
  "mla %[x5], %[x5], %[six], %[x1]\n\t" /* 6 m5 + 2 d - b */                       \
  "sub %[x4], %[x4], %[x2], lsl #1\n\t" /* d - 2 b */

/* One output to int8, FLOOR or AWAY of conv_winograd_output.h, and on to the next; X holds the product. */
#define RQDKM_F4_FLOOR(X, MOVE)                                 \
  "smmla %[" X "], %[" X "], %[multiplier], %[offset]\n\t"      \
  "ssat %[" X "], #8, %[" X "], asr #16\n\t"                    \
  "strb %[" X "], [%[out]]\n\t" MOVE
#define RQDKM_F4_AWAY(X, MOVE)                                  \
  "and %[x2], %[away], %[" X "], asr #31\n\t"                   \
  "sub %[x2], %[offset], %[x2]\n\t"                             \
  "smmla %[" X "], %[" X "], %[multiplier], %[x2]\n\t"          \
  "ssat %[" X "], #8, %[" X "], asr #16\n\t"                    \
  "strb %[" X "], [%[out]]\n\t" MOVE

/* The four outputs of a row; MOVE takes `out` from the last one on. */
#define RQDKM_F4_FINISH(FINISH, MOVE)                                                       \
  "mul %[x0], %[x0], %[scale]\n\t"                                                          \
  "lsl %[x1], %[scale], #1\n\t"                                                             \
  "mul %[x4], %[x4], %[x1]\n\t"                                                             \
  "lsl %[x1], %[scale], #2\n\t"                                                             \
  "mul %[x3], %[x3], %[x1]\n\t"                                                             \
  "mul %[x5], %[x5], %[x1]\n\t"                                                             \
  FINISH("x0", "add %[out], %[out], %[step]\n\t") FINISH("x4", "add %[out], %[out], %[step]\n\t") \
  FINISH("x3", "add %[out], %[out], %[step]\n\t") FINISH("x5", MOVE)

/* clang-format on */
#endif
