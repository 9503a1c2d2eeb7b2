/* SPDX-License-Identifier: Apache-2.0 */
/* A^T of F(4, 3) and the requantization after it, in asm: GCC 12 spends 1.6 times the cycles on the C beside it, on
 * spills. The C is conv_winograd_f4.h and conv_winograd_output.h; this computes the same, in the same order. */
#ifndef RQDKM_CONV_WINOGRAD_F4_ASM_H
#define RQDKM_CONV_WINOGRAD_F4_ASM_H

/* y = A^T m, in place: m in x0..x5 -> y0 = x0, y1 = x4, y2 = x3, y3 = x5; x1, x2 free. 10 cycles. six = 6. */
#define RQDKM_F4_OUTPUT                                                                  \
  "add %[x1], %[x1], %[x2]\n\tsub %[x2], %[x1], %[x2], lsl #1\n\t" /* a, b */            \
  "add %[x3], %[x3], %[x4]\n\tsub %[x4], %[x3], %[x4], lsl #1\n\t" /* c, d */            \
  "mla %[x0], %[x0], %[six], %[x3]\n\tsub %[x3], %[x3], %[x1]\n\t" /* 6 m0 + c, c - a */ \
  "sub %[x0], %[x0], %[x1], lsl #2\n\trsb %[x1], %[x2], %[x4], lsl #1\n\t"               \
  "mla %[x5], %[x5], %[six], %[x1]\n\tsub %[x4], %[x4], %[x2], lsl #1\n\t"

/* One output to int8 and on to the next: product in X, FLOOR and AWAY of conv_winograd_output.h. */
#define RQDKM_F4_FLOOR(X, MOVE)                                                   \
  "smmla %[" X "], %[" X "], %[multiplier], %[offset]\n\tssat %[" X "], #8, %[" X \
  "], asr #16\n\t"                                                                \
  "strb %[" X "], [%[out]]\n\t" MOVE
#define RQDKM_F4_AWAY(X, MOVE)                                                \
  "and %[x2], %[away], %[" X                                                  \
  "], asr #31\n\tsub %[x2], %[offset], %[x2]\n\t"                             \
  "smmla %[" X "], %[" X "], %[multiplier], %[x2]\n\tssat %[" X "], #8, %[" X \
  "], asr #16\n\t"                                                            \
  "strb %[" X "], [%[out]]\n\t" MOVE

#define RQDKM_F4_STEP "add %[out], %[out], %[step]\n\t"
/* Four outputs of a row; MOVE takes out from the last one to the next row. */
#define RQDKM_F4_FINISH(FINISH, MOVE)                                                                             \
  "mul %[x0], %[x0], %[scale]\n\tlsl %[x1], %[scale], #1\n\tmul %[x4], %[x4], %[x1]\n\t"                          \
  "lsl %[x1], %[scale], #2\n\tmul %[x3], %[x3], %[x1]\n\tmul %[x5], %[x5], %[x1]\n\t" FINISH("x0", RQDKM_F4_STEP) \
      FINISH("x4", RQDKM_F4_STEP) FINISH("x3", RQDKM_F4_STEP) FINISH("x5", MOVE)

#endif
