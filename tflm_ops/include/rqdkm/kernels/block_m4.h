/* SPDX-License-Identifier: Apache-2.0 */
/* Cortex-M4 version of rqdkm_block_row_c (block.h): one asm statement for a whole row of blocks.
 *
 * Registers: r0 lanes, r1 weights, r2 r3 weight words, r4 r5 (r12) input words; accumulators of 4 pixels r6-r9 r10-lr,
 * of 3 r6-r8 r9-r11, of 2 r6-r7 r8-r9. s0-s18 hold what a block needs once, in the order of `rqdkm_block_state`. A turn
 * of the loop is `unroll` steps; step 0 comes last and moves both pointers on.
 *
 * The whole loop over blocks must stay below the 1 KB of the F407's instruction cache (64 lines, least recently used:
 * one line too many and every fetch misses); rqdkm_tvm/kernels chooses `unroll` accordingly. */
#ifndef RQDKM_KERNELS_BLOCK_M4_H
#define RQDKM_KERNELS_BLOCK_M4_H

typedef struct {
  const uint32_t *weights, *loop_end; /* s0, s1: end of the unrolled loop in the current kernel row */
  int32_t loop_bytes; /* s2: weight bytes of the unrolled loop in one kernel row; of a pair of channels with `pairs` */
  /* s3-s10: rqdkm_pair_quant */
  int8_t *out; /* s11 */
  int32_t stride;
  const int8_t *out_end;
  union { /* s14-s16 */
    struct {
      int32_t row_gap, block_gap;
      const uint32_t *weights_end;
    } rows;
    struct {
      int32_t back; /* from a pair's output after the last pixel to the next pair's first */
      const uint8_t *lanes;
      const rqdkm_pair_quant *next;
    } pairs;
  };
  int32_t tail;                     /* s17: steps left after the unrolled loop */
  const rqdkm_pair_quant *last_end; /* s18: of the last pair */
} rqdkm_block_state;

/* clang-format off */
/* Symbols of the assembler: k step, o its byte offset, p1-p3 byte offsets of the pixels. */
#define RQDKM_M4_OFFSET ".set o, k/spr*rb + k%%spr*so\n"

#define RQDKM_M4_STEP_4 RQDKM_M4_OFFSET              \
  "ldr r2, [r1, #8*k]\n ldr r3, [r1, #8*k+4]\n"      \
  "ldr r4, [r0, #o]\n ldr r5, [r0, #o+p1]\n"         \
  "smlad r6, r4, r2, r6\n smlad r10, r4, r3, r10\n"  \
  "smlad r7, r5, r2, r7\n smlad r11, r5, r3, r11\n"  \
  "ldr r4, [r0, #o+p2]\n ldr r5, [r0, #o+p3]\n"      \
  "smlad r8, r4, r2, r8\n smlad r12, r4, r3, r12\n"  \
  "smlad r9, r5, r2, r9\n smlad lr, r5, r3, lr\n"

/* Input word of pixel 0, step 0, into r4, and on to the next turn. */
#define RQDKM_M4_NEXT_TURN \
  ".if inc < 256\n ldr r4, [r0], #inc\n .else\n ldr r4, [r0]\n add r0, r0, #inc\n .endif\n"

#define RQDKM_M4_LAST_4                              \
  "ldr r3, [r1, #4]\n ldr r2, [r1], #8*unroll\n"     \
  "ldr r4, [r0, #p2]\n ldr r5, [r0, #p3]\n"          \
  "smlad r8, r4, r2, r8\n smlad r12, r4, r3, r12\n"  \
  "smlad r9, r5, r2, r9\n smlad lr, r5, r3, lr\n"    \
  "ldr r5, [r0, #p1]\n" RQDKM_M4_NEXT_TURN           \
  "smlad r6, r4, r2, r6\n smlad r10, r4, r3, r10\n"  \
  "smlad r7, r5, r2, r7\n smlad r11, r5, r3, r11\n"

#define RQDKM_M4_STEP_3 RQDKM_M4_OFFSET              \
  "ldr r2, [r1, #8*k]\n ldr r3, [r1, #8*k+4]\n"      \
  "ldr r4, [r0, #o]\n ldr r5, [r0, #o+p1]\n ldr r12, [r0, #o+p2]\n" \
  "smlad r6, r4, r2, r6\n smlad r9, r4, r3, r9\n"    \
  "smlad r7, r5, r2, r7\n smlad r10, r5, r3, r10\n"  \
  "smlad r8, r12, r2, r8\n smlad r11, r12, r3, r11\n"

#define RQDKM_M4_LAST_3                              \
  "ldr r3, [r1, #4]\n ldr r2, [r1], #8*unroll\n"     \
  "ldr r12, [r0, #p2]\n ldr r5, [r0, #p1]\n" RQDKM_M4_NEXT_TURN \
  "smlad r6, r4, r2, r6\n smlad r9, r4, r3, r9\n"    \
  "smlad r7, r5, r2, r7\n smlad r10, r5, r3, r10\n"  \
  "smlad r8, r12, r2, r8\n smlad r11, r12, r3, r11\n"

#define RQDKM_M4_STEP_2 RQDKM_M4_OFFSET              \
  "ldr r2, [r1, #8*k]\n ldr r3, [r1, #8*k+4]\n"      \
  "ldr r4, [r0, #o]\n ldr r5, [r0, #o+p1]\n"         \
  "smlad r6, r4, r2, r6\n smlad r8, r4, r3, r8\n"    \
  "smlad r7, r5, r2, r7\n smlad r9, r5, r3, r9\n"

#define RQDKM_M4_LAST_2                              \
  "ldr r3, [r1, #4]\n ldr r2, [r1], #8*unroll\n"     \
  "ldr r5, [r0, #p1]\n" RQDKM_M4_NEXT_TURN           \
  "smlad r6, r4, r2, r6\n smlad r8, r4, r3, r8\n"    \
  "smlad r7, r5, r2, r7\n smlad r9, r5, r3, r9\n"

/* `count` steps after the unrolled loop, where bit `count` of the tail is set. */
#define RQDKM_M4_TAIL(count, STEP)                                    \
  "vmov r2, s17\n tst r2, #" #count "\n beq.w 4f\n"                   \
  ".set k, 0\n .rept " #count "\n" STEP ".set k, k+1\n .endr\n"       \
  "add r0, r0, #so*" #count "\n add r1, r1, #8*" #count "\n 4:\n"

/* Unrolled loop over the steps of a kernel row, the rest of the row, and the loop over kernel rows. */
#define RQDKM_M4_PRODUCTS(STEP, LAST)                                                  \
  ".if rows\n 5: vmov r2, s2\n add r2, r2, r1\n vmov s1, r2\n .endif\n"                \
  ".if tail\n vmov r2, s1\n cmp r1, r2\n beq.w 3f\n .endif\n"                          \
  "2:\n .rept bodies\n .set k, 1\n .rept unroll-1\n" STEP ".set k, k+1\n .endr\n" LAST ".endr\n" \
  ".if turns != 1\n vmov r2, s1\n cmp r1, r2\n bne.w 2b\n .endif\n"                    \
  ".if tail\n 3:\n" RQDKM_M4_TAIL(4, STEP) RQDKM_M4_TAIL(2, STEP) RQDKM_M4_TAIL(1, STEP) ".endif\n" \
  ".if rows\n vmov r2, s16\n cmp r1, r2\n beq 6f\n vmov r2, s14\n add r0, r0, r2\n b.w 5b\n 6:\n .endif\n" \
  ".if gap\n vmov r2, s15\n add r0, r0, r2\n .endif\n"

/* One channel, as output.h: r2 multiplier, r3 offset, r4 `shift`; r1 and r5 are free. */
#define RQDKM_M4_REQUANTIZE(m, c, s, accs)                                                                \
  "vmov r2, " m "\n vmov r3, " c "\n .if form != 0\n vmov r4, " s "\n .endif\n"                            \
  ".if form == 3\n mvn r1, %[half]-1\n .endif\n"                                                          \
  ".irp acc, " accs "\n"                                                                                  \
  ".if form == 2\n and r5, r4, \\acc, asr #31\n add r5, r5, r3\n smmla \\acc, \\acc, r2, r5\n"              \
  ".elseif form == 3\n and r5, r1, \\acc, asr #31\n add r5, r5, r3\n smmla \\acc, \\acc, r2, r5\n"          \
  ".else\n smmla \\acc, \\acc, r2, r3\n .endif\n .endr\n"                                                \
  ".if form == 1 || form == 3\n .irp acc, " accs "\n asr \\acc, \\acc, r4\n .endr\n"                       \
  ".irp acc, " accs "\n ssat \\acc, #8, \\acc\n .endr\n"                                                \
  ".else\n .irp acc, " accs "\n ssat \\acc, #8, \\acc, asr %[right]\n .endr\n .endif\n"

#define RQDKM_M4_BEGIN                                                                                            \
  ".set p1, %c[p1]\n .set p2, %c[p2]\n .set p3, %c[p3]\n .set so, %c[so]\n .set spr, %c[spr]\n .set rb, %c[rb]\n" \
  ".set unroll, %c[unroll]\n .set inc, %c[inc]\n .set turns, %c[turns]\n .set rows, %c[rows]\n"                   \
  ".set gap, %c[gap]\n .set tail, %c[tail]\n .set form, %c[form]\n .set pairs, %c[pairs]\n .set bodies, %c[bodies]\n"                       \
  "vldmia r1!, {s0-s2}\n vldmia r1, {s11-s18}\n vldmia r2, {s3-s10}\n"                                            \
  ".balign 16\n 1:\n"

/* The next block, or the first one of the next pair of channels. */
#define RQDKM_M4_END "vmov r3, s13\n cmp r2, r3\n bne.w 1b\n"                                                    \
  ".if pairs\n vmov r3, s16\n vmov r4, s18\n cmp r3, r4\n beq 7f\n vldmia r3!, {s3-s10}\n vmov s16, r3\n"          \
  "vmov r3, s2\n vmov r4, s0\n add r4, r4, r3\n vmov s0, r4\n vmov r4, s1\n add r4, r4, r3\n vmov s1, r4\n"        \
  "vmov r3, s13\n add r3, r3, #2\n vmov s13, r3\n vmov r3, s14\n add r2, r2, r3\n vmov s11, r2\n"                 \
  "vmov r0, s15\n b.w 1b\n 7:\n .endif\n"

#define RQDKM_M4_OPERANDS                                                                                          \
  : "+r"(lanes), "+r"(state_), "+r"(quant_)                                                                        \
  : [p1] "i"(p1), [p2] "i"(p2), [p3] "i"(p3), [so] "i"(step_bytes), [spr] "i"(spr), [rb] "i"(rb),                   \
    [unroll] "i"(unroll), [inc] "i"(inc), [turns] "i"(turns), [rows] "i"(rows), [gap] "i"(gap), [tail] "i"(tail),  \
    [form] "i"(form), [pairs] "i"(pairs), [bodies] "i"(bodies), [right] "i"(RQDKM_RIGHT_SHIFT), [half] "i"(-RQDKM_HALF_ADDEND(RQDKM_LANE_SHIFT))            \
  : "r3", "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "s0", "s1", "s2", "s3", "s4", "s5", "s6", \
    "s7", "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15", "s16", "s17", "s18", "cc", "memory"

/* All but a and row are constants. np 2 to 4. Step k of a turn lies at k / spr * rb + k % spr * step_bytes.
 *   inc    bytes from one turn's lanes to the next
 *   turns  per block, if that is 1; any other value otherwise
 *   rows   1: an outer loop over kernel rows, of whole turns each; gap 1: block_gap applies
 *   tail   1: steps need not be a multiple of unroll, which is 8
 *   bodies  turns between two tests for the end; 2 instead of one long turn keeps offsets, and so instructions, short
 *   pairs  1: row->pairs pairs of channels one after the other; without rows and gap */
RQDKM_INLINE const uint8_t *rqdkm_block_row_asm(const uint8_t *a, const rqdkm_block_row *row, int32_t loop_steps,
                                                int32_t block_gap, const int32_t np, const int32_t p1, const int32_t p2,
                                                const int32_t p3, const int32_t step_bytes, const int32_t spr,
                                                const int32_t rb, const int32_t unroll, const int32_t inc,
                                                const int32_t turns, const int32_t rows, const int32_t gap,
                                                const int32_t tail, const int32_t bodies, const int32_t pairs,
                                                const rqdkm_requantize_form form) {
  rqdkm_block_state state;
  state.weights = row->weights;
  state.loop_bytes = loop_steps / unroll * unroll * 8;
  state.loop_end = row->weights + state.loop_bytes / 4;
  state.out = row->out;
  state.stride = row->stride;
  state.out_end = row->out + row->blocks * np * row->stride;
  state.tail = loop_steps % unroll;
  if (pairs) {
    state.loop_bytes = 4 * row->pair_words;
    state.pairs.back = 2 - row->blocks * np * row->stride;
    state.pairs.lanes = a;
    state.pairs.next = row->quant + 1;
    state.last_end = row->quant + row->pairs;
  } else {
    state.rows.row_gap = row->row_gap;
    state.rows.block_gap = block_gap;
    state.rows.weights_end = row->weights + row->rows * row->steps * 2;
  }
  register const uint8_t *lanes __asm("r0") = a;
  register const rqdkm_block_state *state_ __asm("r1") = &state;
  register const rqdkm_pair_quant *quant_ __asm("r2") = row->quant;
  if (np == 4) {
    __asm volatile(
        RQDKM_M4_BEGIN
        "vmov r6, s3\n vmov r10, s4\n vmov r1, s0\n"
        "mov r7, r6\n mov r8, r6\n mov r9, r6\n mov r11, r10\n mov r12, r10\n mov lr, r10\n"
        RQDKM_M4_PRODUCTS(RQDKM_M4_STEP_4, RQDKM_M4_LAST_4)
        RQDKM_M4_REQUANTIZE("s5", "s6", "s7", "r6, r7, r8, r9")
        RQDKM_M4_REQUANTIZE("s8", "s9", "s10", "r10, r11, r12, lr")
        "vmov r2, s11\n vmov r3, s12\n add r4, r2, r3\n"
        "strb r6, [r2]\n strb r10, [r2, #1]\n add r2, r2, r3, lsl #1\n"
        "strb r7, [r4]\n strb r11, [r4, #1]\n add r4, r4, r3, lsl #1\n"
        "strb r8, [r2]\n strb r12, [r2, #1]\n add r2, r2, r3, lsl #1\n vmov s11, r2\n"
        "strb r9, [r4]\n strb lr, [r4, #1]\n"
        RQDKM_M4_END RQDKM_M4_OPERANDS);
  } else if (np == 3) {
    __asm volatile(
        RQDKM_M4_BEGIN
        "vmov r6, s3\n vmov r9, s4\n vmov r1, s0\n"
        "mov r7, r6\n mov r8, r6\n mov r10, r9\n mov r11, r9\n"
        RQDKM_M4_PRODUCTS(RQDKM_M4_STEP_3, RQDKM_M4_LAST_3)
        RQDKM_M4_REQUANTIZE("s5", "s6", "s7", "r6, r7, r8")
        RQDKM_M4_REQUANTIZE("s8", "s9", "s10", "r9, r10, r11")
        "vmov r2, s11\n vmov r3, s12\n add r4, r2, r3\n"
        "strb r6, [r2]\n strb r9, [r2, #1]\n add r2, r4, r3\n"
        "strb r7, [r4]\n strb r10, [r4, #1]\n"
        "strb r8, [r2]\n strb r11, [r2, #1]\n add r2, r2, r3\n vmov s11, r2\n"
        RQDKM_M4_END RQDKM_M4_OPERANDS);
  } else {
    __asm volatile(
        RQDKM_M4_BEGIN
        "vmov r6, s3\n vmov r8, s4\n vmov r1, s0\n"
        "mov r7, r6\n mov r9, r8\n"
        RQDKM_M4_PRODUCTS(RQDKM_M4_STEP_2, RQDKM_M4_LAST_2)
        RQDKM_M4_REQUANTIZE("s5", "s6", "s7", "r6, r7")
        RQDKM_M4_REQUANTIZE("s8", "s9", "s10", "r8, r9")
        "vmov r2, s11\n vmov r3, s12\n add r4, r2, r3\n"
        "strb r6, [r2]\n strb r8, [r2, #1]\n add r2, r4, r3\n"
        "strb r7, [r4]\n strb r9, [r4, #1]\n vmov s11, r2\n"
        RQDKM_M4_END RQDKM_M4_OPERANDS);
  }
  return lanes;
}
/* clang-format on */

#endif
