/* SPDX-License-Identifier: Apache-2.0 */
#include "conv_winograd_gemm.h"

/* One step: 4 tiles x 2 output channels x 2 input channels; 6 loads and 8 dual products, 16 cycles for 16 products.
   The fifth operand register that would save the second load penalty is not there: 8 sums, 2 pointers, 4 operands. */
#if RQDKM_WINOGRAD_ASM
#define STEP_ASM(K, OP, ACC)                                             \
  "ldr %[w0], [%[u], #" #K "*8]\n\tldr %[w1], [%[u], #" #K "*8+4]\n\t"   \
  "ldr %[x0], [%[v], #" #K "*16]\n\tldr %[x1], [%[v], #" #K "*16+4]\n\t" \
  OP " %[a0], %[x0], %[w0]" ACC("a0") "\n\t" OP " %[b0], %[x0], %[w1]" ACC("b0") "\n\t"  \
  OP " %[a1], %[x1], %[w0]" ACC("a1") "\n\t" OP " %[b1], %[x1], %[w1]" ACC("b1") "\n\t"  \
  "ldr %[x0], [%[v], #" #K "*16+8]\n\tldr %[x1], [%[v], #" #K "*16+12]\n\t"              \
  OP " %[a2], %[x0], %[w0]" ACC("a2") "\n\t" OP " %[b2], %[x0], %[w1]" ACC("b2") "\n\t"  \
  OP " %[a3], %[x1], %[w0]" ACC("a3") "\n\t" OP " %[b3], %[x1], %[w1]" ACC("b3") "\n\t"
#define ACC_ADD(name) ", %[" name "]"
#define ACC_SET(name)
#define BLOCK(FIRST_OP, FIRST_ACC, MODE)                                                                         \
  do {                                                                                                           \
    RQDKM_PIN(uint32_t, w0, "r2");                                                                               \
    RQDKM_PIN(uint32_t, w1, "r3");                                                                               \
    RQDKM_PIN(uint32_t, x0, "r4");                                                                               \
    RQDKM_PIN(uint32_t, x1, "r5");                                                                               \
    __asm volatile(STEP_ASM(0, FIRST_OP, FIRST_ACC) STEP_ASM(1, "smlad", ACC_ADD) STEP_ASM(2, "smlad", ACC_ADD)  \
                       STEP_ASM(3, "smlad", ACC_ADD) STEP_ASM(4, "smlad", ACC_ADD) STEP_ASM(5, "smlad", ACC_ADD) \
                           STEP_ASM(6, "smlad", ACC_ADD) STEP_ASM(7, "smlad", ACC_ADD)                           \
                   : [a0] MODE(a0), [a1] MODE(a1), [a2] MODE(a2), [a3] MODE(a3), [b0] MODE(b0), [b1] MODE(b1),   \
                     [b2] MODE(b2), [b3] MODE(b3), [w0] "=&r"(w0), [w1] "=&r"(w1), [x0] "=&r"(x0),               \
                     [x1] "=&r"(x1)                                                                              \
                   : [v] "r"(v), [u] "r"(u)                                                                      \
                   : "memory");                                                                                  \
  } while (0)
#define FIRST_BLOCK() BLOCK("smuad", ACC_SET, "=&r")
#define NEXT_BLOCK() BLOCK("smlad", ACC_ADD, "+r")
#else
#define NEXT_BLOCK()                                                     \
  for (int32_t k = 0; k < 8; k++) {                                      \
    const uint32_t w0 = u[2 * k], w1 = u[2 * k + 1];                     \
    a0 = rqdkm_smlad(v[4 * k], w0, a0);                                  \
    b0 = rqdkm_smlad(v[4 * k], w1, b0);                                  \
    a1 = rqdkm_smlad(v[4 * k + 1], w0, a1);                              \
    b1 = rqdkm_smlad(v[4 * k + 1], w1, b1);                              \
    a2 = rqdkm_smlad(v[4 * k + 2], w0, a2);                              \
    b2 = rqdkm_smlad(v[4 * k + 2], w1, b2);                              \
    a3 = rqdkm_smlad(v[4 * k + 3], w0, a3);                              \
    b3 = rqdkm_smlad(v[4 * k + 3], w1, b3);                              \
  }
#define FIRST_BLOCK()                            \
  a0 = a1 = a2 = a3 = b0 = b1 = b2 = b3 = 0;     \
  NEXT_BLOCK()
#endif

void rqdkm_winograd_gemm(const rqdkm_winograd_product *product) {
  RQDKM_PIN(const uint32_t *, v, "r0") = product->v;
  RQDKM_PIN(const uint32_t *, u, "r1") = product->u;
  uint32_t *m = product->m;
  uint32_t *const m_end = m + 8 * product->positions;
  const int32_t v_stride = product->positions * RQDKM_WINOGRAD_BLOCK_V;
  const int32_t v_back = v_stride * (product->blocks - 1);
  const uint32_t *u_last = u + product->positions * RQDKM_WINOGRAD_BLOCK_U * (product->blocks - 1);
  const int32_t u_stride = product->positions * RQDKM_WINOGRAD_BLOCK_U;
  const int32_t u_back = u_stride * (product->blocks - 1);
  RQDKM_NO_UNROLL
  do {
    RQDKM_PIN(int32_t, a0, "r6");
    RQDKM_PIN(int32_t, a1, "r7");
    RQDKM_PIN(int32_t, a2, "r8");
    RQDKM_PIN(int32_t, a3, "r9");
    RQDKM_PIN(int32_t, b0, "r10");
    RQDKM_PIN(int32_t, b1, "r11");
    RQDKM_PIN(int32_t, b2, "r12");
    RQDKM_PIN(int32_t, b3, "lr");
    FIRST_BLOCK();
    if (u != u_last) {
      RQDKM_NO_UNROLL
      do {
        v += v_stride;
        u += u_stride;
        NEXT_BLOCK();
      } while (u != u_last);
      v -= v_back;
      u -= u_back;
    }
    v += RQDKM_WINOGRAD_BLOCK_V;
    u += RQDKM_WINOGRAD_BLOCK_U;
    u_last += RQDKM_WINOGRAD_BLOCK_U;
    rqdkm_store32(m, (uint32_t)a0);
    rqdkm_store32(m + 1, (uint32_t)a1);
    rqdkm_store32(m + 2, (uint32_t)a2);
    rqdkm_store32(m + 3, (uint32_t)a3);
    rqdkm_store32(m + 4, (uint32_t)b0);
    rqdkm_store32(m + 5, (uint32_t)b1);
    rqdkm_store32(m + 6, (uint32_t)b2);
    rqdkm_store32(m + 7, (uint32_t)b3);
    m += 8;
  } while (m != m_end);
}
