/* SPDX-License-Identifier: Apache-2.0 */
#include "conv_winograd_gemm.h"

#if RQDKM_WINOGRAD_ASM

/* One step: 4 tiles x 2 output channels x 2 input channels; 6 loads and 8 dual products, 16 cycles for 16 products. A
   load costs one cycle more when it does not follow another load; a fifth operand register, which would save one of the
   two, is not there: r6..lr hold the sums, r0 (V) and r1 (U) the pointers, r2..r5 the operands. Low registers for
   addresses and loaded words make the loads 16-bit. FIRST is smuad with no third operand, or smlad. */
/* clang-format off */
#define SUM(r) ", " r
#define NO_SUM(r)
#define TILES_0_1(OP, ADD)                                                                    \
  OP " r6, r4, r2" ADD("r6") "\n\t" OP " r10, r4, r3" ADD("r10") "\n\t"                       \
  OP " r7, r5, r2" ADD("r7") "\n\t" OP " r11, r5, r3" ADD("r11") "\n\t"
#define TILES_2_3(OP, ADD)                                                                    \
  OP " r8, r4, r2" ADD("r8") "\n\t" OP " r12, r4, r3" ADD("r12") "\n\t"                       \
  OP " r9, r5, r2" ADD("r9") "\n\t" OP " lr, r5, r3" ADD("lr") "\n\t"
#define STEP(K, OP, ADD)                                                                      \
  "ldr r2, [r1, #" #K "*8]\n\tldr r3, [r1, #" #K "*8+4]\n\t"                                  \
  "ldr r4, [r0, #" #K "*16]\n\tldr r5, [r0, #" #K "*16+4]\n\t" TILES_0_1(OP, ADD)             \
  "ldr r4, [r0, #" #K "*16+8]\n\tldr r5, [r0, #" #K "*16+12]\n\t" TILES_2_3(OP, ADD)
/* Eight steps, the one at the pointers last, so that its loads can move them: U, V say how; THEN: more of that. */
#define BLOCK(OP, ADD, U, V, THEN)                                                            \
  STEP(4, OP, ADD) STEP(5, "smlad", SUM) STEP(6, "smlad", SUM) STEP(7, "smlad", SUM)          \
  HALF_BLOCK("smlad", SUM, U, V, THEN)
#define HALF_BLOCK(OP, ADD, U, V, THEN)                                                       \
  STEP(1, OP, ADD) STEP(2, "smlad", SUM) STEP(3, "smlad", SUM)                                \
  "ldr r3, [r1, #4]\n\tldr r2, " U "\n\tldr r4, [r0, #8]\n\tldr r5, [r0, #12]\n\t"            \
  TILES_2_3("smlad", SUM) "ldr r5, [r0, #4]\n\tldr r4, " V "\n\t" THEN TILES_0_1("smlad", SUM)
#define NEXT_BLOCK "add r0, r0, %[v_next]\n\tadd r1, r1, %[u_next]\n\t"
/* s0: m, s1: its end, s2: end of the position's U; one cycle away. */
#define BEGIN "ldr r2, %[m]\n\tldr r3, %[end]\n\tvmov s0, r2\n\tvmov s1, r3\n\t"
#define STORE_AND_LOOP                                                                     \
  "vmov r2, s0\n\tvmov r3, s1\n\t"                                                         \
  "str r7, [r2, #4]\n\tstr r8, [r2, #8]\n\tstr r9, [r2, #12]\n\tstr r10, [r2, #16]\n\t"    \
  "str r11, [r2, #20]\n\tstr r12, [r2, #24]\n\tstr lr, [r2, #28]\n\tstr r6, [r2], #32\n\t" \
  "cmp r2, r3\n\tvmov s0, r2\n\tbne 1b\n\t"
#define CLOBBERS \
  "r2", "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "s0", "s1", "s2", "cc", "memory"
/* clang-format on */

/* Up to 8 input channels: 78 cycles per position. */
static void half_block(const uint32_t *v_, const uint32_t *u_, uint32_t *m, int32_t positions) {
  register const uint32_t *v __asm("r0") = v_;
  register const uint32_t *u __asm("r1") = u_;
  const uint32_t *const end = m + 8 * positions;
  __asm volatile(BEGIN ".balign 4\n1:\n\t" HALF_BLOCK("smuad", NO_SUM, "[r1], #64", "[r0], #128", "") STORE_AND_LOOP
                 : "+r"(v), "+r"(u)
                 : [m] "m"(m), [end] "m"(end)
                 : CLOBBERS);
}

/* Up to 16: 142 cycles per position. */
static void one_block(const uint32_t *v_, const uint32_t *u_, uint32_t *m, int32_t positions) {
  register const uint32_t *v __asm("r0") = v_;
  register const uint32_t *u __asm("r1") = u_;
  const uint32_t *const end = m + 8 * positions;
  __asm volatile(BEGIN ".balign 4\n1:\n\t" BLOCK("smuad", NO_SUM, "[r1], #64", "[r0], #128", "") STORE_AND_LOOP
                 : "+r"(v), "+r"(u)
                 : [m] "m"(m), [end] "m"(end)
                 : CLOBBERS);
}

/* More: 135 cycles per position and block, 13 per position. positions is a compile-time constant. */
RQDKM_INLINE void many_blocks(const uint32_t *v_, const uint32_t *u_, uint32_t *m, int32_t blocks, int32_t positions) {
  register const uint32_t *v __asm("r0") = v_;
  register const uint32_t *u __asm("r1") = u_;
  const int32_t v_next = 4 * RQDKM_WINOGRAD_BLOCK_V * positions, u_next = 4 * RQDKM_WINOGRAD_BLOCK_U * positions;
  const uint32_t *const end = m + 8 * positions;
  const int32_t v_back = blocks * v_next - 4 * RQDKM_WINOGRAD_BLOCK_V;
  const int32_t u_back = blocks * u_next - 4 * RQDKM_WINOGRAD_BLOCK_U;
  const uint32_t *const u_end = u + blocks * RQDKM_WINOGRAD_BLOCK_U * positions; /* of the position */
  __asm volatile(BEGIN "ldr r2, %[u_end]\n\tvmov s2, r2\n\t"
                 ".balign 4\n1:\n\t" BLOCK("smuad", NO_SUM, "[r1]", "[r0]", NEXT_BLOCK)
                 ".balign 4\n2:\n\t" BLOCK("smlad", SUM, "[r1]", "[r0]", NEXT_BLOCK)
                 "vmov r2, s2\n\tcmp r1, r2\n\tbne 2b\n\t"
                 "ldr r3, %[v_back]\n\tldr r4, %[u_back]\n\tadd r2, r2, #64\n\tvmov s2, r2\n\t"
                 "sub r0, r0, r3\n\tsub r1, r1, r4\n\t" STORE_AND_LOOP
                 : "+r"(v), "+r"(u)
                 : [m] "m"(m), [end] "m"(end), [u_end] "m"(u_end), [v_back] "m"(v_back), [u_back] "m"(u_back), [v_next] "i"(v_next),
                   [u_next] "i"(u_next)
                 : CLOBBERS);
}

#else /* the same in C */

static void many_blocks(const uint32_t *v, const uint32_t *u, uint32_t *m, int32_t blocks, int32_t positions) {
  for (int32_t p = 0; p < positions; p++) {
    int32_t sum[2][4] = {{0, 0, 0, 0}, {0, 0, 0, 0}}; /* [output channel][tile] */
    for (int32_t block = 0; block < blocks; block++) {
      const uint32_t *x = v + (block * positions + p) * RQDKM_WINOGRAD_BLOCK_V;
      const uint32_t *w = u + (block * positions + p) * RQDKM_WINOGRAD_BLOCK_U;
      for (int32_t k = 0; k < 8; k++) {
        for (int32_t tile = 0; tile < 4; tile++) {
          sum[0][tile] = rqdkm_smlad(x[4 * k + tile], w[2 * k], sum[0][tile]);
          sum[1][tile] = rqdkm_smlad(x[4 * k + tile], w[2 * k + 1], sum[1][tile]);
        }
      }
    }
    memcpy(m + 8 * p, sum, sizeof sum);
  }
}

static void one_block(const uint32_t *v, const uint32_t *u, uint32_t *m, int32_t positions) {
  many_blocks(v, u, m, 1, positions);
}

static void half_block(const uint32_t *v, const uint32_t *u, uint32_t *m, int32_t positions) {
  for (int32_t p = 0; p < positions; p++) {
    for (int32_t co = 0; co < 2; co++) {
      for (int32_t tile = 0; tile < 4; tile++) {
        int32_t sum = 0;
        for (int32_t k = 0; k < 4; k++) {
          sum = rqdkm_smlad(v[p * RQDKM_WINOGRAD_BLOCK_V + 4 * k + tile], u[p * RQDKM_WINOGRAD_BLOCK_U + 2 * k + co],
                            sum);
        }
        m[8 * p + 4 * co + tile] = (uint32_t)sum;
      }
    }
  }
}

#endif

/* positions is a compile-time constant. */
RQDKM_INLINE void multiply(const uint32_t *v, const uint32_t *u, uint32_t *m, int32_t channels, int32_t positions) {
  if (channels <= 8) {
    half_block(v, u, m, positions);
  } else if (channels <= 16) {
    one_block(v, u, m, positions);
  } else {
    many_blocks(v, u, m, (channels + 15) >> 4, positions);
  }
}

void rqdkm_winograd_gemm_81(const uint32_t *v, const uint32_t *u, uint32_t *m, int32_t channels) {
  multiply(v, u, m, channels, 81);
}

void rqdkm_winograd_gemm_36(const uint32_t *v, const uint32_t *u, uint32_t *m, int32_t channels) {
  multiply(v, u, m, channels, 36);
}

void rqdkm_winograd_gemm_16(const uint32_t *v, const uint32_t *u, uint32_t *m, int32_t channels) {
  multiply(v, u, m, channels, 16);
}

void rqdkm_winograd_gemm_6(const uint32_t *v, const uint32_t *u, uint32_t *m, int32_t channels) {
  many_blocks(v, u, m, 3 * ((channels + 15) >> 4), 6); /* three kernel rows */
}
