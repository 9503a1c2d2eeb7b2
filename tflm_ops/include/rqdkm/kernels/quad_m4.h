/* SPDX-License-Identifier: Apache-2.0 */
/* Cortex-M4 version of rqdkm_quad_row_c (quad.h): one asm statement for a row of blocks.
 *
 * Registers: r0 inputs, r1 weights, r2 r3 their words, r4 r5 the inputs'; sums of channels 0 and 1 in r6-r9, of 2 and 3
 * in r10-lr, low and high word of pixels 0 and 1, then of 2 and 3. s0-s19 hold a rqdkm_quad_quant, s20-s25 a
 * rqdkm_quad_state, s26 the inputs of the next block. A turn of the loop is 8 taps; tap 0 comes last and moves both
 * pointers on. */
#ifndef RQDKM_KERNELS_QUAD_M4_H
#define RQDKM_KERNELS_QUAD_M4_H

typedef struct {
  const uint32_t *weights, *loop_end; /* s20, s21: end of the unrolled loop */
  int8_t *out;                        /* s22 */
  int32_t stride;
  const int8_t *out_end;
  int32_t tail; /* s25: taps after the unrolled loop, 0 or 4 */
} rqdkm_quad_state;

/* clang-format off */
#define RQDKM_QUAD_PRODUCTS                                          \
  "smlal r6, r7, r4, r2\n smlal r8, r9, r5, r2\n"                    \
  "smlal r10, r11, r4, r3\n smlal r12, lr, r5, r3\n"

#define RQDKM_QUAD_TAP                                               \
  "ldr r2, [r1, #8*k]\n ldr r3, [r1, #8*k+4]\n"                      \
  "ldr r4, [r0, #8*k]\n ldr r5, [r0, #8*k+4]\n" RQDKM_QUAD_PRODUCTS

#define RQDKM_QUAD_LAST(taps)                                        \
  "ldr r3, [r1, #4]\n ldr r5, [r0, #4]\n"                            \
  "ldr r2, [r1], #8*" #taps "\n ldr r4, [r0], #8*" #taps "\n" RQDKM_QUAD_PRODUCTS

#define RQDKM_QUAD_TAPS(taps) ".set k, 1\n .rept " #taps "-1\n" RQDKM_QUAD_TAP ".set k, k+1\n .endr\n" RQDKM_QUAD_LAST(taps)

/* Sum x of two pixels, in its low word (part 0) or its high one (1) -> accumulators x and y; r2 the bias. */
#define RQDKM_QUAD_SPLIT(part, x, y)                                                  \
  ".if " #part "\n lsr " y ", " x ", #18-%c[first]\n ubfx " x ", " x ", #0, #18-%c[first]\n"   \
  ".else\n lsr " y ", " x ", #18\n ubfx " x ", " x ", #%c[first], #18-%c[first]\n .endif\n" \
  "add " x ", r2, " x ", lsl #%c[lane]\n add " y ", r2, " y ", lsl #%c[lane]\n"

/* Outputs of channel number o, four pixels in order; leaves r1 at the third, r2 the stride. */
#define RQDKM_QUAD_STORE(o, p0, p1, p2, p3)                                           \
  "vmov r1, s22\n add r1, r1, #" #o "\n vmov r2, s23\n strb " p0 ", [r1]\n strb " p1 ", [r1, r2]\n" \
  "add r1, r1, r2, lsl #1\n strb " p2 ", [r1]\n strb " p3 ", [r1, r2]\n"

/* Channel number o, whose sums are in x and z; t and u are free. */
#define RQDKM_QUAD_CHANNEL(o, part, x, z, t, u, bias, m, c, s)                        \
  "vmov r2, " bias "\n" RQDKM_QUAD_SPLIT(part, x, t) RQDKM_QUAD_SPLIT(part, z, u)     \
  RQDKM_M4_REQUANTIZE(m, c, s, x ", " t ", " z ", " u)                                \
  RQDKM_QUAD_STORE(o, x, t, z, u)
/* clang-format on */

RQDKM_INLINE void rqdkm_quad_row_asm(const rqdkm_quad_row *row, const int32_t first, const rqdkm_requantize_form form) {
  const rqdkm_quad_state state = {row->weights, row->weights + row->taps / 8 * 16,        row->out,
                                  row->stride,  row->out + 4 * row->blocks * row->stride, row->taps % 8};
  register const uint32_t *inputs_ __asm("r0") = row->inputs;
  register const rqdkm_quad_state *state_ __asm("r1") = &state;
  register const rqdkm_quad_quant *quant_ __asm("r2") = row->quant;
  /* clang-format off */
  __asm volatile(
      ".set form, %c[form]\n"
      "vldmia r2, {s0-s19}\n vldmia r1, {s20-s25}\n"
      ".balign 16\n 1:\n"
      "vmov r6, s0\n vmov r7, s1\n vmov r10, s2\n vmov r11, s3\n vmov r1, s20\n"
      "mov r8, r6\n mov r9, r7\n mov r12, r10\n mov lr, r11\n"
      "vmov r2, s21\n cmp r1, r2\n beq.w 3f\n"
      "2:\n" RQDKM_QUAD_TAPS(8)
      "vmov r2, s21\n cmp r1, r2\n bne.w 2b\n"
      "vmov r2, s25\n cbz r2, 4f\n"
      "3:\n" RQDKM_QUAD_TAPS(4)
      "4: vmov s26, r0\n"
      /* channel 0 has two registers to spare, not four: pixels 0 and 1 first */
      "vmov r2, s4\n" RQDKM_QUAD_SPLIT(0, "r6", "r0")
      RQDKM_M4_REQUANTIZE("s5", "s6", "s7", "r6, r0")
      "vmov r1, s22\n vmov r2, s23\n strb r6, [r1]\n strb r0, [r1, r2]\n"
      "vmov r2, s4\n" RQDKM_QUAD_SPLIT(0, "r8", "r0")
      RQDKM_M4_REQUANTIZE("s5", "s6", "s7", "r8, r0")
      "vmov r1, s22\n vmov r2, s23\n add r1, r1, r2, lsl #1\n strb r8, [r1]\n strb r0, [r1, r2]\n"
      RQDKM_QUAD_CHANNEL(1, 1, "r7", "r9", "r6", "r8", "s8", "s9", "s10", "s11")
      RQDKM_QUAD_CHANNEL(2, 0, "r10", "r12", "r6", "r8", "s12", "s13", "s14", "s15")
      RQDKM_QUAD_CHANNEL(3, 1, "r11", "lr", "r6", "r8", "s16", "s17", "s18", "s19")
      "add r1, r1, r2, lsl #1\n sub r1, r1, #3\n vmov s22, r1\n vmov r3, s24\n vmov r0, s26\n cmp r1, r3\n bne.w 1b\n"
      : "+r"(inputs_), "+r"(state_), "+r"(quant_)
      : [form] "i"(form), [first] "i"(first), [lane] "i"(RQDKM_LANE_SHIFT), [right] "i"(RQDKM_RIGHT_SHIFT),
        [half] "i"(-RQDKM_HALF_ADDEND(RQDKM_LANE_SHIFT))
      : "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "s0", "s1", "s2", "s3", "s4", "s5", "s6",
        "s7", "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15", "s16", "s17", "s18", "s19", "s20", "s21", "s22",
        "s23", "s24", "s25", "s26", "cc", "memory");
  /* clang-format on */
}

#endif
