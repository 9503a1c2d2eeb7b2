/* SPDX-License-Identifier: Apache-2.0 */
/* Depthwise 3x3, stride 1, on a planar strip: the template that per-layer wrappers specialise.

   Four channels at a time, pairs of input rows are laid out as words: word (pair p, channel c, column x) holds x << 8
   of padded rows 2p (low half) and 2p + 1 (high half). With P0 and P1 two pairs below each other, the output rows 2p
   and 2p + 1 of one column of weights w0 w1 w2 are SMLAD(P0, w0 w1) + P1.low * w2   and   P0.high * w0 + SMLAD(P1, w1
   w2): six multiplies for two outputs, nine MACs each over three columns in twelve instead of eighteen. A block is 4
   columns by 2 rows; its 8 accumulators, 3 weight words, 2 data words and a pointer are all 14 core registers,
   everything else (other weights, bias, multiplier, pointers) stays in the FPU's registers. Hence the asm; beside it
   stands the same in C, which also serves widths whose offsets do not fit the instructions.

   Requantization: rqdkm_floor_form; weights and bias arrive scaled by 2^(k - 8) and 2^k. */
#ifndef RQDKM_DEPTHWISE_STRIP_H
#define RQDKM_DEPTHWISE_STRIP_H

#include "rqdkm/arch.h"
#include "rqdkm/depthwise.h"
#include "rqdkm/elementwise.h"
#include "rqdkm/types.h"

typedef struct {
  rqdkm_dims input, output; /* input.c == output.c, a multiple of 4 */
  int32_t pad_top, pad_left;
  int32_t input_zero_point;
  int32_t pairs;       /* pairs of output rows per strip, >= 1 */
  int32_t form;        /* rqdkm_floor_form */
  int32_t right_shift; /* the layer's; not read in form SHIFT */
  rqdkm_clamp clamp;
} rqdkm_depthwise_strip_params;

/* Words per channel in the table: 3 x (w0 low, w1 high), 3 x (w1 low, w2 high), bias, multiplier, offset,
   addend of negative accumulators, right shift. */
#define RQDKM_DEPTHWISE_STRIP_WORDS 11

/* Bytes of scratch; 4-byte alignment. */
RQDKM_INLINE int32_t rqdkm_depthwise_strip_scratch_bytes(int32_t output_w, int32_t pairs) {
  return (pairs + 1) * 16 * (output_w + 2);
}

/* ---- asm pieces: N columns, both rows (2) or the upper row only (1) -------------------------------------------------
 */
/* clang-format off */
#if RQDKM_DSP && defined(__OPTIMIZE__) && defined(__ARM_FP)
#define RQDKM_DW_ASM 1
#define DW_NL "\n\t"
#define DW_LD1(o) "ldr r4, [r0, #" o "]" DW_NL
#define DW_LD2(o) DW_LD1(o) "ldr r5, [r0, #" o " + 4]" DW_NL
/* P: multiply-accumulate of data d and weight w into the column with upper accumulator a, lower b; i: initial value. */
#define DW_P02(d, w, a, b) "smlad " a ", " d ", " w ", " a DW_NL "smlatb " b ", " d ", " w ", " b DW_NL
#define DW_I02(d, w, a, b, i) "smlad " a ", " d ", " w ", " i DW_NL "smlatb " b ", " d ", " w ", " i DW_NL
#define DW_P12(d, w, a, b) "smlabt " a ", " d ", " w ", " a DW_NL "smlad " b ", " d ", " w ", " b DW_NL
#define DW_I12(d, w, a, b, i) DW_P12(d, w, a, b)
#define DW_P01(d, w, a, b) "smlad " a ", " d ", " w ", " a DW_NL
#define DW_I01(d, w, a, b, i) "smlad " a ", " d ", " w ", " i DW_NL
#define DW_P11(d, w, a, b) "smlabt " a ", " d ", " w ", " a DW_NL
#define DW_I11(d, w, a, b, i) DW_P11(d, w, a, b)
#define DW_C0 "r6", "r10"
#define DW_C1 "r7", "r11"
#define DW_C2 "r8", "r12"
#define DW_C3 "r9", "lr"
#define DW_CALL(macro, ...) macro(__VA_ARGS__)
#define DW_COLUMNS4(P, I, o, i) \
  DW_LD2(o) DW_CALL(I, "r4", "r1", DW_C0, i) DW_CALL(I, "r5", "r1", DW_C1, i) DW_CALL(P, "r5", "r2", DW_C0) \
  DW_LD2(o " + 8") DW_CALL(I, "r4", "r1", DW_C2, i) DW_CALL(P, "r4", "r2", DW_C1) DW_CALL(P, "r4", "r3", DW_C0) \
  DW_CALL(I, "r5", "r1", DW_C3, i) DW_CALL(P, "r5", "r2", DW_C2) DW_CALL(P, "r5", "r3", DW_C1) \
  DW_LD2(o " + 16") DW_CALL(P, "r4", "r2", DW_C3) DW_CALL(P, "r4", "r3", DW_C2) DW_CALL(P, "r5", "r3", DW_C3)
#define DW_COLUMNS3(P, I, o, i) \
  DW_LD2(o) DW_CALL(I, "r4", "r1", DW_C0, i) DW_CALL(I, "r5", "r1", DW_C1, i) DW_CALL(P, "r5", "r2", DW_C0) \
  DW_LD2(o " + 8") DW_CALL(I, "r4", "r1", DW_C2, i) DW_CALL(P, "r4", "r2", DW_C1) DW_CALL(P, "r4", "r3", DW_C0) \
  DW_CALL(P, "r5", "r2", DW_C2) DW_CALL(P, "r5", "r3", DW_C1) DW_LD1(o " + 16") DW_CALL(P, "r4", "r3", DW_C2)
#define DW_COLUMNS2(P, I, o, i) \
  DW_LD2(o) DW_CALL(I, "r4", "r1", DW_C0, i) DW_CALL(I, "r5", "r1", DW_C1, i) DW_CALL(P, "r5", "r2", DW_C0) \
  DW_LD2(o " + 8") DW_CALL(P, "r4", "r2", DW_C1) DW_CALL(P, "r4", "r3", DW_C0) DW_CALL(P, "r5", "r3", DW_C1)
#define DW_COLUMNS1(P, I, o, i) \
  DW_LD2(o) DW_CALL(I, "r4", "r1", DW_C0, i) DW_CALL(P, "r5", "r2", DW_C0) DW_LD1(o " + 8") \
  DW_CALL(P, "r4", "r3", DW_C0)
#define DW_RQ_FLOOR(r) "smmla " r ", " r ", r1, r2" DW_NL "ssat " r ", #8, " r ", asr #%c[shift]" DW_NL
#define DW_RQ_AWAY(r) "and r4, r5, " r ", asr #31" DW_NL "add r4, r2" DW_NL \
  "smmla " r ", " r ", r1, r4" DW_NL "ssat " r ", #8, " r ", asr #%c[shift]" DW_NL
#define DW_RQ_SHIFT(r) "and r4, r5, " r ", asr #31" DW_NL "add r4, r2" DW_NL \
  "smmla " r ", " r ", r1, r4" DW_NL "asr " r ", " r ", r3" DW_NL "ssat " r ", #8, " r DW_NL
#define DW_UP4(m) m("r6", "0") m("r7", "%c[c]") m("r8", "%c[c] * 2") m("r9", "%c[c] * 3")
#define DW_UP3(m) m("r6", "0") m("r7", "%c[c]") m("r8", "%c[c] * 2")
#define DW_UP2(m) m("r6", "0") m("r7", "%c[c]")
#define DW_UP1(m) m("r6", "0")
#define DW_LOW4(m) m("r10", "%c[row]") m("r11", "%c[row] + %c[c]") m("r12", "%c[row] + %c[c] * 2") \
  m("lr", "%c[row] + %c[c] * 3")
#define DW_LOW3(m) m("r10", "%c[row]") m("r11", "%c[row] + %c[c]") m("r12", "%c[row] + %c[c] * 2")
#define DW_LOW2(m) m("r10", "%c[row]") m("r11", "%c[row] + %c[c]")
#define DW_LOW1(m) m("r10", "%c[row]")
#define DW_STORE(r, o) "strb " r ", [r3, #" o "]" DW_NL
#define DW_FLOOR(r, o) DW_RQ_FLOOR(r)
#define DW_AWAY(r, o) DW_RQ_AWAY(r)
#define DW_SHIFT(r, o) DW_RQ_SHIFT(r)
#define DW_BOTH(up, low, m) up(m) low(m)
#define DW_ONLY(up, low, m) up(m)
/* init: the register whose column starts last, loaded with the bias. */
#define DW_BLOCK(n, rows, init, which, form) \
  "vmov r1, s0" DW_NL "vmov r2, s1" DW_NL "vmov r3, s2" DW_NL "vmov " init ", s6" DW_NL \
  DW_COLUMNS##n(DW_P0##rows, DW_I0##rows, "0", init) \
  "vmov r1, s3" DW_NL "vmov r2, s4" DW_NL "vmov r3, s5" DW_NL \
  DW_COLUMNS##n(DW_P1##rows, DW_I1##rows, "%c[pitch]", init) \
  "vmov r1, s7" DW_NL "vmov r2, s8" DW_NL ".if %c[addends]" DW_NL "vmov r5, s12" DW_NL "vmov r3, s13" DW_NL ".endif" DW_NL \
  which(DW_UP##n, DW_LOW##n, form) "vmov r3, s9" DW_NL which(DW_UP##n, DW_LOW##n, DW_STORE) \
  "add r3, r3, #%c[c] * " #n DW_NL "vmov s9, r3" DW_NL "adds r0, #4 * " #n DW_NL
/* One row of blocks: [quads] blocks of 4 in a loop, then a rest of n columns. Entered with r0 at the row pair and s9 at
   the output; leaves both behind the last column. */
#define DW_QUADS(rows, init, which, form) \
  ".if %c[quads] > 1" DW_NL "add r3, r0, #%c[quads] * 16" DW_NL "vmov s10, r3" DW_NL ".endif" DW_NL \
  ".if %c[quads] > 0" DW_NL "2:" DW_NL DW_BLOCK(4, rows, init, which, form) ".endif" DW_NL \
  ".if %c[quads] > 1" DW_NL "vmov r4, s10" DW_NL "cmp r0, r4" DW_NL "bne 2b" DW_NL ".endif" DW_NL
#define DW_ROW2(form) DW_QUADS(2, "lr", DW_BOTH, form) \
  ".if %c[rest] == 3" DW_NL DW_BLOCK(3, 2, "r12", DW_BOTH, form) ".endif" DW_NL \
  ".if %c[rest] == 2" DW_NL DW_BLOCK(2, 2, "r11", DW_BOTH, form) ".endif" DW_NL \
  ".if %c[rest] == 1" DW_NL DW_BLOCK(1, 2, "r10", DW_BOTH, form) ".endif" DW_NL
#define DW_ROW1(form) DW_QUADS(1, "r9", DW_ONLY, form) \
  ".if %c[rest] == 3" DW_NL DW_BLOCK(3, 1, "r8", DW_ONLY, form) ".endif" DW_NL \
  ".if %c[rest] == 2" DW_NL DW_BLOCK(2, 1, "r7", DW_ONLY, form) ".endif" DW_NL \
  ".if %c[rest] == 1" DW_NL DW_BLOCK(1, 1, "r6", DW_ONLY, form) ".endif" DW_NL
/* r0: strip, r1: table, r2: output, r3: number of output rows. s11: rows left, less two. */
#define DW_TEXT(form) \
  "vldmia r1, {s0-s8}" DW_NL ".if %c[addends]" DW_NL "vldr s12, [r1, #36]" DW_NL "vldr s13, [r1, #40]" DW_NL ".endif" DW_NL \
  "vmov s9, r2" DW_NL "subs r3, #2" DW_NL "vmov s11, r3" DW_NL "bmi 3f" DW_NL "1:" DW_NL DW_ROW2(form) \
  "vmov r3, s9" DW_NL "vmov r4, s11" DW_NL "add r3, r3, #%c[row]" DW_NL "vmov s9, r3" DW_NL \
  "add r0, r0, #%c[skip]" DW_NL "subs r4, #2" DW_NL "vmov s11, r4" DW_NL "bpl 1b" DW_NL \
  "3:" DW_NL "vmov r3, s11" DW_NL "adds r3, #1" DW_NL "bne 4f" DW_NL DW_ROW1(form) "4:" DW_NL
#define DW_ASM(text) \
  __asm volatile(text : "+r"(r0), "+r"(r1), "+r"(r2), "+r"(r3) \
                 : [c] "i"(c), [row] "i"(w * c), [pitch] "i"(16 * (w + 2)), [quads] "i"(w / 4), [rest] "i"(w % 4), \
                   [skip] "i"(16 * (w + 2) - 4 * w), [shift] "i"(shift), [addends] "i"(form != RQDKM_FLOOR) \
                 : "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "s0", "s1", "s2", "s3", "s4", "s5", \
                   "s6", "s7", "s8", "s9", "s10", "s11", "s12", "s13", "cc", "memory")
#else
#define RQDKM_DW_ASM 0
#endif
/* clang-format on */

RQDKM_INLINE int8_t rqdkm_dw_output(int32_t acc, const uint32_t *table, int32_t form, int32_t shift) {
  const int32_t offset = (int32_t)table[8] + (form != RQDKM_FLOOR && acc < 0 ? (int32_t)table[9] : 0);
  const int32_t right = form == RQDKM_SHIFT ? (int32_t)table[10] : shift;
  return (int8_t)rqdkm_ssat8(rqdkm_smmla(acc, (int32_t)table[7], offset) >> right);
}

/* `rows` output rows of one channel, from the row pairs at x on; w columns, c channels. */
RQDKM_INLINE void rqdkm_dw_channel(const uint32_t *x, const uint32_t *table, int8_t *out, int32_t rows, int32_t w,
                                   int32_t c, int32_t form, int32_t shift) {
#if RQDKM_DW_ASM
  if (__builtin_constant_p(w) && __builtin_constant_p(c) && __builtin_constant_p(shift) && 16 * (w + 2) + 20 <= 4095 &&
      (w + 3) * c <= 4095) {
    register const uint32_t *r0 __asm("r0") = x;
    register const uint32_t *r1 __asm("r1") = table;
    register int8_t *r2 __asm("r2") = out;
    register int32_t r3 __asm("r3") = rows;
    if (form == RQDKM_FLOOR) {
      DW_ASM(DW_TEXT(DW_FLOOR));
    } else if (form == RQDKM_AWAY) {
      DW_ASM(DW_TEXT(DW_AWAY));
    } else {
      DW_ASM(DW_TEXT(DW_SHIFT));
    }
    return;
  }
#endif
  for (int32_t y = 0; y < rows; y += 2, x += 4 * (w + 2), out += 2 * w * c) {
    const uint32_t *below = x + 4 * (w + 2);
    for (int32_t i = 0; i < w; i++) {
      int32_t upper = (int32_t)table[6], lower = upper;
      for (int32_t k = 0; k < 3; k++) {
        upper = rqdkm_smlabt(below[i + k], table[3 + k], rqdkm_smlad(x[i + k], table[k], upper));
        lower = rqdkm_smlad(below[i + k], table[3 + k], rqdkm_smlatb(x[i + k], table[k], lower));
      }
      out[i * c] = rqdkm_dw_output(upper, table, form, shift);
      if (y + 1 < rows) out[(w + i) * c] = rqdkm_dw_output(lower, table, form, shift);
    }
  }
}

/* One word of four channels, rows a and b, to four channels `words` apart; lanes: 0xff00ff00. */
RQDKM_INLINE void rqdkm_dw_spread(uint32_t *p, uint32_t a, uint32_t b, uint32_t lanes, int32_t words) {
  const uint32_t low = rqdkm_pack_lo_lo(a, b), high = rqdkm_pack_hi_hi(a, b);
  p[0] = lanes & (low << 8);
  p[words] = lanes & low;
  p[2 * words] = lanes & (high << 8);
  p[3 * words] = lanes & high;
}

/* Lay out one pair of rows, four channels: `columns` words each, channels `words` words apart. A row outside the input
   is read from the padding pixel with step 0. */
RQDKM_INLINE void rqdkm_dw_layout(uint32_t *p, const int8_t *upper, int32_t upper_step, const int8_t *lower,
                                  int32_t lower_step, int32_t columns, int32_t words) {
  uint32_t lanes = 0xff00ff00U;
#if RQDKM_DSP
  __asm("" : "+r"(lanes)); /* in a register it takes a shifted operand, as an immediate it does not */
#endif
  RQDKM_NO_UNROLL for (const uint32_t *end = p + (columns & ~1); p != end; p += 2) {
    rqdkm_dw_spread(p, rqdkm_load32(upper), rqdkm_load32(lower), lanes, words);
    upper += upper_step;
    lower += lower_step;
#if RQDKM_DSP
    __asm("" : "+r"(upper), "+r"(lower)); /* or GCC keeps twice the steps as well, and spills */
#endif
    rqdkm_dw_spread(p + 1, rqdkm_load32(upper), rqdkm_load32(lower), lanes, words);
    upper += upper_step;
    lower += lower_step;
  }
  if (columns % 2 != 0) rqdkm_dw_spread(p, rqdkm_load32(upper), rqdkm_load32(lower), lanes, words);
}

/* The padding columns of `rows` rows of the strip; nothing overwrites them later. */
RQDKM_INLINE void rqdkm_dw_pad_columns(uint32_t *strip, int32_t rows, int32_t words, int32_t left, int32_t columns,
                                       uint32_t pad) {
  RQDKM_NO_UNROLL for (int32_t r = 0; r < rows; r++, strip += words) {
    for (int32_t i = 0; i < left; i++) strip[i] = pad;
    for (int32_t i = left + columns; i < words; i++) strip[i] = pad;
  }
}

/* The whole layer. table: RQDKM_DEPTHWISE_STRIP_WORDS words per channel. scratch: see above. With one strip for the
   whole map and an output of the input's size, output may be input: each four channels are read before they are
   written. */
RQDKM_INLINE int32_t rqdkm_depthwise_strip_template(const rqdkm_depthwise_strip_params *params, const int8_t *input,
                                                    const uint32_t *table, int8_t *output, void *scratch) {
  const rqdkm_dims in = params->input;
  const int32_t h = params->output.h, w = params->output.w, c = in.c;
  const int32_t words = w + 2;
  const uint32_t zero_point = (uint32_t)params->input_zero_point & 0xffU;
  const uint32_t pad = zero_point * 0x01000100U;
  const uint32_t pad_pixel = zero_point * 0x01010101U;
  uint32_t *strip = (uint32_t *)scratch;
  const int32_t fits = words - params->pad_left, columns = in.w < fits ? in.w : fits;
  rqdkm_dw_pad_columns(strip, 4 * (params->pairs + 1), words, params->pad_left, columns, pad);
  for (int32_t group = 0; group < c; group += 4) {
    RQDKM_NO_UNROLL for (int32_t y = 0; y < h; y += 2 * params->pairs) {
      const int32_t left = h - y;
      const int32_t rows = left < 2 * params->pairs ? left : 2 * params->pairs;
      const int32_t last = (rows + 1) / 2;
      int32_t pair = 0;
      if (y > 0) { /* the previous strip's last pair is this one's first */
        const uint32_t *from = strip + params->pairs * 4 * words;
        RQDKM_NO_UNROLL for (int32_t i = 0; i < 4 * words; i++) strip[i] = from[i];
        pair = 1;
      }
      RQDKM_NO_UNROLL for (; pair <= last; pair++) {
        const int32_t row = y + 2 * pair - params->pad_top;
        const int upper_inside = row >= 0 && row < in.h, lower_inside = row + 1 >= 0 && row + 1 < in.h;
        rqdkm_dw_layout(strip + pair * 4 * words + params->pad_left,
                        upper_inside ? input + row * in.w * c + group : (const int8_t *)&pad_pixel,
                        upper_inside ? c : 0,
                        lower_inside ? input + (row + 1) * in.w * c + group : (const int8_t *)&pad_pixel,
                        lower_inside ? c : 0, columns, words);
      }
      RQDKM_NO_UNROLL for (int32_t ch = 0; ch < 4; ch++) {
        rqdkm_dw_channel(strip + ch * words, table + (group + ch) * RQDKM_DEPTHWISE_STRIP_WORDS,
                         output + y * w * c + group + ch, rows, w, c, params->form, params->right_shift);
      }
    }
  }
  if (params->clamp.min > INT8_MIN || params->clamp.max < INT8_MAX) {
    return rqdkm_clip_s8(params->clamp, h * w * c, output, output);
  }
  return RQDKM_OK;
}

/* The same as a library function, for run-time parameters. */
int32_t rqdkm_depthwise_strip(const rqdkm_depthwise_strip_params *params, const int8_t *input, const uint32_t *table,
                              int8_t *output, void *scratch);

/* What a per-layer wrapper calls: the template where compile-time constants pay (they make the asm), else the library
   function. */
RQDKM_INLINE int32_t rqdkm_depthwise_strip_layer(const rqdkm_depthwise_strip_params *params, const int8_t *input,
                                                 const uint32_t *table, int8_t *output, void *scratch) {
#if RQDKM_DW_ASM
  return rqdkm_depthwise_strip_template(params, input, table, output, scratch);
#else
  return rqdkm_depthwise_strip(params, input, table, output, scratch);
#endif
}

#endif
