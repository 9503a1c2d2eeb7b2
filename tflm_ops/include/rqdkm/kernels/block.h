/* SPDX-License-Identifier: Apache-2.0 */
/* The inner block of every convolution: 4 pixels x 2 output channels x 2 taps = 16 MACs in 6 LDR + 8 SMLAD, 16 cycles
 * on a Cortex-M4 (loads pipeline in groups of 4 and 2). 14 registers are all there are: two pointers, two weight words,
 * two input words and eight accumulators, so on the Cortex-M4 they are pinned and the step is one asm statement; GCC's
 * own allocation spills. The C beside it is the definition, runs everywhere else and is tested against it
 * (RQDKM_PLAIN_BLOCKS selects it on the chip too). */
#ifndef RQDKM_KERNELS_BLOCK_H
#define RQDKM_KERNELS_BLOCK_H

#include "rqdkm/arch.h"
#include "rqdkm/requantize.h"

#if RQDKM_DSP && !defined(RQDKM_PLAIN_BLOCKS)
#define RQDKM_PINNED(name) __asm(name)
#else
#define RQDKM_PINNED(name)
#endif

/* Declare the pointers of a block: a to the input lanes of pixel 0, w to the weight lanes of both channels. */
#define RQDKM_BLOCK_POINTERS(a_, w_)                    \
  register const uint32_t *a RQDKM_PINNED("r0") = (a_); \
  register const uint32_t *w RQDKM_PINNED("r1") = (w_)

/* Declare the accumulators c<pixel><channel>, starting from the channels' biases. */
#define RQDKM_BLOCK_ACCUMULATORS(bias0, bias1)       \
  const int32_t bias0_ = (bias0), bias1_ = (bias1);  \
  register int32_t c00 RQDKM_PINNED("r6") = bias0_;  \
  register int32_t c10 RQDKM_PINNED("r7") = bias0_;  \
  register int32_t c20 RQDKM_PINNED("r8") = bias0_;  \
  register int32_t c30 RQDKM_PINNED("r9") = bias0_;  \
  register int32_t c01 RQDKM_PINNED("r10") = bias1_; \
  register int32_t c11 RQDKM_PINNED("r11") = bias1_; \
  register int32_t c21 RQDKM_PINNED("r12") = bias1_; \
  register int32_t c31 RQDKM_PINNED("lr") = bias1_

/* Two taps. o0..o3: byte offsets of the four pixels' lanes from a; q: byte offset of the weights from w. Constants. */
#if RQDKM_DSP && !defined(RQDKM_PLAIN_BLOCKS)
#define RQDKM_BLOCK_STEP(o0, o1, o2, o3, q)                                                                            \
  do {                                                                                                                 \
    register uint32_t w0_ __asm("r2"), w1_ __asm("r3"), x0_ __asm("r4"), x1_ __asm("r5");                              \
    __asm volatile(                                                                                                    \
        "ldr %[w0], [%[w], %[q0]]\n\t"                                                                                 \
        "ldr %[w1], [%[w], %[q1]]\n\t"                                                                                 \
        "ldr %[x0], [%[a], %[p0]]\n\t"                                                                                 \
        "ldr %[x1], [%[a], %[p1]]\n\t"                                                                                 \
        "smlad %[c00], %[x0], %[w0], %[c00]\n\t"                                                                       \
        "smlad %[c01], %[x0], %[w1], %[c01]\n\t"                                                                       \
        "smlad %[c10], %[x1], %[w0], %[c10]\n\t"                                                                       \
        "smlad %[c11], %[x1], %[w1], %[c11]\n\t"                                                                       \
        "ldr %[x0], [%[a], %[p2]]\n\t"                                                                                 \
        "ldr %[x1], [%[a], %[p3]]\n\t"                                                                                 \
        "smlad %[c20], %[x0], %[w0], %[c20]\n\t"                                                                       \
        "smlad %[c21], %[x0], %[w1], %[c21]\n\t"                                                                       \
        "smlad %[c30], %[x1], %[w0], %[c30]\n\t"                                                                       \
        "smlad %[c31], %[x1], %[w1], %[c31]"                                                                           \
        : [c00] "+r"(c00), [c01] "+r"(c01), [c10] "+r"(c10), [c11] "+r"(c11), [c20] "+r"(c20), [c21] "+r"(c21),        \
          [c30] "+r"(c30), [c31] "+r"(c31), [w0] "=&r"(w0_), [w1] "=&r"(w1_), [x0] "=&r"(x0_), [x1] "=&r"(x1_)         \
        :                                                                                                              \
        [a] "r"(a), [w] "r"(w), [q0] "i"(q), [q1] "i"((q) + 4), [p0] "i"(o0), [p1] "i"(o1), [p2] "i"(o2), [p3] "i"(o3) \
        : "memory");                                                                                                   \
  } while (0)
#else
#define RQDKM_BLOCK_WORD(p, o) rqdkm_load32((const uint8_t *)(p) + (o))
#define RQDKM_BLOCK_STEP(o0, o1, o2, o3, q)                                          \
  do {                                                                               \
    const uint32_t w0_ = RQDKM_BLOCK_WORD(w, q), w1_ = RQDKM_BLOCK_WORD(w, (q) + 4); \
    const uint32_t x0_ = RQDKM_BLOCK_WORD(a, o0), x1_ = RQDKM_BLOCK_WORD(a, o1);     \
    const uint32_t x2_ = RQDKM_BLOCK_WORD(a, o2), x3_ = RQDKM_BLOCK_WORD(a, o3);     \
    c00 = rqdkm_smlad(x0_, w0_, c00);                                                \
    c01 = rqdkm_smlad(x0_, w1_, c01);                                                \
    c10 = rqdkm_smlad(x1_, w0_, c10);                                                \
    c11 = rqdkm_smlad(x1_, w1_, c11);                                                \
    c20 = rqdkm_smlad(x2_, w0_, c20);                                                \
    c21 = rqdkm_smlad(x2_, w1_, c21);                                                \
    c30 = rqdkm_smlad(x3_, w0_, c30);                                                \
    c31 = rqdkm_smlad(x3_, w1_, c31);                                                \
  } while (0)
#endif

/* Too long to be inlined eight times. */
static RQDKM_NOINLINE RQDKM_UNUSED int8_t rqdkm_block_output_wide(int32_t acc2, int32_t multiplier, int32_t zero_point,
                                                                  int32_t shift) {
  return (int8_t)rqdkm_requantize_wide(acc2 >> 1, multiplier, shift, zero_point, -128, 127);
}

/* Doubled accumulator -> int8, by the form of requantize.h that `form` names (a compile-time constant). */
RQDKM_INLINE int8_t rqdkm_block_output(int32_t acc2, const rqdkm_requantize_form form, int32_t multiplier,
                                       int32_t offset, int32_t shift) {
  switch (form) {
    case RQDKM_REQUANTIZE_UP:
      return (int8_t)rqdkm_requantize_up(acc2, multiplier, offset, shift);
    case RQDKM_REQUANTIZE_AWAY:
      return (int8_t)rqdkm_requantize_away(acc2, multiplier, offset, shift);
    default:
      return rqdkm_block_output_wide(acc2, multiplier, offset, shift);
  }
}

#endif
