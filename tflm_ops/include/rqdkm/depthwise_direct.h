/* SPDX-License-Identifier: Apache-2.0 */
/* Depthwise convolution of any kernel, stride, padding and dilation (channel multiplier 1), straight from HWC: the
   template that per-layer wrappers specialise.

   A word of the input is one pixel of four channels; SXTB16 makes two 16-bit lanes of channels c and c + 2 (with a
   rotation c + 1 and c + 3), which SMLABB and SMLATT multiply with a word of two weights. A block is 4 pixels by 2
   channels: per tap 4 loads, 4 extensions and 8 multiplies. With padding, strips of the input are first copied into a
   padded buffer, so that the inner loops know no edges. Kernels of up to 9 taps keep all weights in the FPU's registers
   (asm, as the 14 core registers hold the block); larger ones read them in a loop.

   Requantization: rqdkm_floor_form; weights and bias arrive scaled by 2^k. */
#ifndef RQDKM_DEPTHWISE_DIRECT_H
#define RQDKM_DEPTHWISE_DIRECT_H

#include "rqdkm/arch.h"
#include "rqdkm/depthwise.h"
#include "rqdkm/elementwise.h"
#include "rqdkm/memory.h"
#include "rqdkm/types.h"

typedef struct {
  rqdkm_dims input, output; /* input.c == output.c */
  rqdkm_hw kernel, stride, dilation;
  rqdkm_padding padding; /* top and left are read; all zero, bottom and right included: no copy, no scratch */
  int32_t input_zero_point;
  int32_t rows;        /* output rows per strip, >= 1 */
  int32_t form;        /* rqdkm_floor_form */
  int32_t right_shift; /* the layer's; not read in form SHIFT */
  rqdkm_clamp clamp;
} rqdkm_depthwise_direct_params;

/* Table: for each four channels two pairs (c, c + 2) and (c + 1, c + 3), each `taps` words (weight of the first channel
   low, of the second high), at least 9 of them (zeros behind), then two biases, multiplier and offset of the first, of
   the second, two addends, two right shifts. Behind them, for each channel of the last C % 4, the same with zero for
   the second. */
#define RQDKM_DEPTHWISE_DIRECT_TAPS(taps) ((taps) < 9 ? 9 : (taps))
#define RQDKM_DEPTHWISE_DIRECT_WORDS(taps) (RQDKM_DEPTHWISE_DIRECT_TAPS(taps) + 10)

RQDKM_INLINE int32_t rqdkm_dwd_extent(int32_t outputs, int32_t kernel, int32_t stride, int32_t dilation) {
  return (outputs - 1) * stride + (kernel - 1) * dilation + 1;
}

RQDKM_INLINE int32_t rqdkm_dwd_padded(const rqdkm_depthwise_direct_params *p) {
  return (p->padding.top | p->padding.left | p->padding.bottom | p->padding.right) != 0;
}

/* Bytes of scratch; 4-byte alignment. */
RQDKM_INLINE int32_t rqdkm_depthwise_direct_scratch_bytes(const rqdkm_depthwise_direct_params *p) {
  if (!rqdkm_dwd_padded(p)) return 0;
  return rqdkm_dwd_extent(p->rows, p->kernel.h, p->stride.h, p->dilation.h) *
         rqdkm_dwd_extent(p->output.w, p->kernel.w, p->stride.w, p->dilation.w) * p->input.c;
}

/* ---- asm: up to 9 taps ----------------------------------------------------------------------------------------------
 */
/* clang-format off */
#if RQDKM_DSP && defined(__OPTIMIZE__) && defined(__ARM_FP)
#define RQDKM_DWD_ASM 1
#define DWD_NL "\n\t"
#define DWD_LD1(o) "ldr r2, [r0, #%c[" o "]]" DWD_NL
#define DWD_LD2(o) DWD_LD1(o) "ldr r3, [r0, #%c[" o "] + %c[px]]" DWD_NL
#define DWD_LD3(o) DWD_LD2(o) "ldr r4, [r0, #%c[" o "] + %c[px] * 2]" DWD_NL
#define DWD_LD4(o) DWD_LD3(o) "ldr r5, [r0, #%c[" o "] + %c[px] * 3]" DWD_NL
#define DWD_EX(r, ror) "sxtb16 " r ", " r ror DWD_NL
/* data d, accumulators a (first channel) and b (second), their initial values i and j */
#define DWD_MUL(d, a, b, i, j) "smlabb " a ", " d ", r1, " i DWD_NL "smlatt " b ", " d ", r1, " j DWD_NL
/* x: the accumulator itself (OWN), or at the first tap the bias, which waits in the last one (BIAS). */
#define DWD_OWN(own, bias) own
#define DWD_BIAS(own, bias) bias
#define DWD_TAP1(s, o, ror, x) "vmov r1, " s DWD_NL DWD_LD1(o) DWD_EX("r2", ror) \
  DWD_MUL("r2", "r6", "r10", "r6", "r10")
#define DWD_TAP2(s, o, ror, x) "vmov r1, " s DWD_NL DWD_LD2(o) DWD_EX("r2", ror) DWD_EX("r3", ror) \
  DWD_MUL("r2", "r6", "r10", x("r6", "r7"), x("r10", "r11")) DWD_MUL("r3", "r7", "r11", "r7", "r11")
#define DWD_TAP3(s, o, ror, x) "vmov r1, " s DWD_NL DWD_LD3(o) DWD_EX("r2", ror) DWD_EX("r3", ror) DWD_EX("r4", ror) \
  DWD_MUL("r2", "r6", "r10", x("r6", "r8"), x("r10", "r12")) \
  DWD_MUL("r3", "r7", "r11", x("r7", "r8"), x("r11", "r12")) DWD_MUL("r4", "r8", "r12", "r8", "r12")
#define DWD_TAP4(s, o, ror, x) "vmov r1, " s DWD_NL DWD_LD4(o) DWD_EX("r2", ror) DWD_EX("r3", ror) DWD_EX("r4", ror) \
  DWD_EX("r5", ror) DWD_MUL("r2", "r6", "r10", x("r6", "r9"), x("r10", "lr")) \
  DWD_MUL("r3", "r7", "r11", x("r7", "r9"), x("r11", "lr")) \
  DWD_MUL("r4", "r8", "r12", x("r8", "r9"), x("r12", "lr")) DWD_MUL("r5", "r9", "lr", "r9", "lr")
#define DWD_INIT1 "vmov r6, s9" DWD_NL "vmov r10, s10" DWD_NL
#define DWD_INIT2 "vmov r7, s9" DWD_NL "vmov r11, s10" DWD_NL
#define DWD_INIT3 "vmov r8, s9" DWD_NL "vmov r12, s10" DWD_NL
#define DWD_INIT4 "vmov r9, s9" DWD_NL "vmov lr, s10" DWD_NL
#define DWD_FIRST1(m) m("r6", "0")
#define DWD_FIRST2(m) DWD_FIRST1(m) m("r7", "%c[c]")
#define DWD_FIRST3(m) DWD_FIRST2(m) m("r8", "%c[c] * 2")
#define DWD_FIRST4(m) DWD_FIRST3(m) m("r9", "%c[c] * 3")
#define DWD_SECOND1(m) m("r10", "2")
#define DWD_SECOND2(m) DWD_SECOND1(m) m("r11", "%c[c] + 2")
#define DWD_SECOND3(m) DWD_SECOND2(m) m("r12", "%c[c] * 2 + 2")
#define DWD_SECOND4(m) DWD_SECOND3(m) m("lr", "%c[c] * 3 + 2")
#define DWD_FLOOR(r, o) "smmla " r ", " r ", r1, r2" DWD_NL "ssat " r ", #8, " r ", asr #%c[shift]" DWD_NL
#define DWD_AWAY(r, o) "and r4, r5, " r ", asr #31" DWD_NL "add r4, r2" DWD_NL \
  "smmla " r ", " r ", r1, r4" DWD_NL "ssat " r ", #8, " r ", asr #%c[shift]" DWD_NL
#define DWD_SHIFT(r, o) "and r4, r5, " r ", asr #31" DWD_NL "add r4, r2" DWD_NL \
  "smmla " r ", " r ", r1, r4" DWD_NL "asr " r ", " r ", r3" DWD_NL "ssat " r ", #8, " r DWD_NL
#define DWD_STORE(r, o) "strb " r ", [r3, #" o "]" DWD_NL
/* taps beyond [taps] have zero weights: left out */
#define DWD_IF(t, text) ".if %c[taps] > " t DWD_NL text ".endif" DWD_NL
#define DWD_BLOCK(n, ror, form) DWD_INIT##n \
  DWD_TAP##n("s0", "o0", ror, DWD_BIAS) DWD_IF("1", DWD_TAP##n("s1", "o1", ror, DWD_OWN)) \
  DWD_IF("2", DWD_TAP##n("s2", "o2", ror, DWD_OWN)) DWD_IF("3", DWD_TAP##n("s3", "o3", ror, DWD_OWN)) \
  DWD_IF("4", DWD_TAP##n("s4", "o4", ror, DWD_OWN)) DWD_IF("5", DWD_TAP##n("s5", "o5", ror, DWD_OWN)) \
  DWD_IF("6", DWD_TAP##n("s6", "o6", ror, DWD_OWN)) DWD_IF("7", DWD_TAP##n("s7", "o7", ror, DWD_OWN)) \
  DWD_IF("8", DWD_TAP##n("s8", "o8", ror, DWD_OWN)) \
  "vmov r1, s11" DWD_NL "vmov r2, s12" DWD_NL "vmov r5, s15" DWD_NL "vmov r3, s20" DWD_NL DWD_FIRST##n(form) \
  "vmov r1, s13" DWD_NL "vmov r2, s14" DWD_NL "vmov r5, s16" DWD_NL "vmov r3, s21" DWD_NL DWD_SECOND##n(form) \
  "vmov r3, s17" DWD_NL DWD_FIRST##n(DWD_STORE) DWD_SECOND##n(DWD_STORE)
/* Rows of at least n pixels, n = 3 or 4. With a rest, the last block of a row overlaps the one before. */
#define DWD_WIDE_TEXT(n, ror, form) \
  "vldmia r1!, {s0-s16}" DWD_NL "vldmia r1, {s20-s21}" DWD_NL "vmov s17, r2" DWD_NL "vmov s18, r3" DWD_NL \
  "1:" DWD_NL "movw r1, #%c[px] * %c[w]" DWD_NL "add r1, r0" DWD_NL "vmov s19, r1" DWD_NL \
  "2:" DWD_NL DWD_BLOCK(n, ror, form) \
  "add r3, r3, #%c[c] * " #n DWD_NL "movw r2, #%c[px] * " #n DWD_NL "vmov r1, s19" DWD_NL "add r0, r2" DWD_NL \
  "vmov s17, r3" DWD_NL "subs r1, r1, r0" DWD_NL "cmp r1, r2" DWD_NL "bge 2b" DWD_NL \
  ".if %c[rest]" DWD_NL "cbz r1, 3f" DWD_NL "movw r1, #%c[px] * (" #n " - %c[rest])" DWD_NL "subs r0, r0, r1" DWD_NL \
  "sub r3, r3, #%c[c] * (" #n " - %c[rest])" DWD_NL "vmov s17, r3" DWD_NL "b 2b" DWD_NL "3:" DWD_NL ".endif" DWD_NL \
  "movw r1, #%c[skip]" DWD_NL "vmov r2, s18" DWD_NL "add r0, r1" DWD_NL "subs r2, #1" DWD_NL "vmov s18, r2" DWD_NL \
  "bne 1b" DWD_NL
/* Rows of n < 3 pixels. */
#define DWD_NARROW_TEXT(n, ror, form) \
  "vldmia r1!, {s0-s16}" DWD_NL "vldmia r1, {s20-s21}" DWD_NL "vmov s17, r2" DWD_NL "vmov s18, r3" DWD_NL \
  "1:" DWD_NL DWD_BLOCK(n, ror, form) "add r3, r3, #%c[c] * " #n DWD_NL "vmov s17, r3" DWD_NL \
  "movw r1, #%c[skip] + %c[px] * " #n DWD_NL "vmov r2, s18" DWD_NL "add r0, r1" DWD_NL "subs r2, #1" DWD_NL \
  "vmov s18, r2" DWD_NL "bne 1b" DWD_NL
#define DWD_OFFSET(t) [o##t] "i"((t) < taps ? (t) / kw * row_step + (t) % kw * column_step : 0)
#define DWD_ASM(text) \
  __asm volatile(text : "+r"(r0), "+r"(r1), "+r"(r2), "+r"(r3) \
                 : [c] "i"(c), [w] "i"(w), [px] "i"(px), [taps] "i"(taps), [shift] "i"(shift), [skip] "i"(skip), [rest] "i"(rest), \
                   DWD_OFFSET(0), DWD_OFFSET(1), DWD_OFFSET(2), DWD_OFFSET(3), DWD_OFFSET(4), DWD_OFFSET(5), \
                   DWD_OFFSET(6), DWD_OFFSET(7), DWD_OFFSET(8) \
                 : "r4", "r5", "r6", "r7", "r8", "r9", "r10", "r11", "r12", "lr", "s0", "s1", "s2", "s3", "s4", "s5", \
                   "s6", "s7", "s8", "s9", "s10", "s11", "s12", "s13", "s14", "s15", "s16", "s17", "s18", "s19", \
                   "s20", "s21", \
                   "cc", "memory")
#define DWD_FORMS(macro, ...) \
  if (form == RQDKM_FLOOR) { DWD_ASM(macro(__VA_ARGS__, DWD_FLOOR)); } \
  else if (form == RQDKM_AWAY) { DWD_ASM(macro(__VA_ARGS__, DWD_AWAY)); } \
  else { DWD_ASM(macro(__VA_ARGS__, DWD_SHIFT)); }
#else
#define RQDKM_DWD_ASM 0
#endif
/* clang-format on */

/* Geometry of a pair's rows, in bytes; all compile-time constants in a specialised wrapper. */
typedef struct {
  int32_t w, c;                          /* output columns, channels */
  int32_t kh, kw, row_step, column_step; /* between taps */
  int32_t px, skip;                      /* between output pixels; from the end of a row to the next one's start */
  int32_t form, shift;                   /* of the requantization */
} rqdkm_dwd_geometry;

/* which: 0 or 1, the first or second channel of the pair whose constants follow its weights at `rest`. */
RQDKM_INLINE int8_t rqdkm_dwd_output(int32_t acc, const uint32_t *rest, int32_t which, rqdkm_dwd_geometry g) {
  const int32_t addend = g.form != RQDKM_FLOOR && acc < 0 ? (int32_t)rest[6 + which] : 0;
  const int32_t right = g.form == RQDKM_SHIFT ? (int32_t)rest[8 + which] : g.shift;
  const int32_t offset = (int32_t)rest[3 + 2 * which] + addend;
  return (int8_t)rqdkm_ssat8(rqdkm_smmla(acc, (int32_t)rest[2 + 2 * which], offset) >> right);
}

/* One pixel of two channels, any number of taps. odd: channels 1 and 3 of the word, else 0 and 2. */
RQDKM_INLINE void rqdkm_dwd_pixel(const int8_t *x, const uint32_t *table, int8_t *out, rqdkm_dwd_geometry g,
                                  int32_t odd) {
  const uint32_t *rest = table + RQDKM_DEPTHWISE_DIRECT_TAPS(g.kh * g.kw);
  int32_t first = (int32_t)rest[0], second = (int32_t)rest[1];
  for (int32_t ky = 0; ky < g.kh; ky++) {
    for (int32_t kx = 0; kx < g.kw; kx++) {
      const uint32_t word = rqdkm_load32(x + ky * g.row_step + kx * g.column_step);
      const uint32_t lanes = odd ? rqdkm_sxtb16_ror8(word) : rqdkm_sxtb16(word);
      first = rqdkm_smlabb(lanes, table[ky * g.kw + kx], first);
      second = rqdkm_smlatt(lanes, table[ky * g.kw + kx], second);
    }
  }
  out[0] = rqdkm_dwd_output(first, rest, 0, g);
  out[2] = rqdkm_dwd_output(second, rest, 1, g);
}

/* Four pixels of two channels, any number of taps: weights and accumulators stay in registers within a tap. */
RQDKM_INLINE void rqdkm_dwd_block(const int8_t *x, const uint32_t *table, int8_t *out, rqdkm_dwd_geometry g,
                                  int32_t odd) {
  const uint32_t *rest = table + RQDKM_DEPTHWISE_DIRECT_TAPS(g.kh * g.kw);
  int32_t a0 = (int32_t)rest[0], b0 = (int32_t)rest[1], a1 = a0, b1 = b0, a2 = a0, b2 = b0, a3 = a0, b3 = b0;
  const int8_t *row = x;
  const uint32_t *weight = table;
  RQDKM_NO_UNROLL for (int32_t ky = 0; ky < g.kh; ky++, row += g.row_step) {
    const int8_t *p = row;
    RQDKM_NO_UNROLL for (int32_t kx = 0; kx < g.kw; kx++, p += g.column_step) {
      const uint32_t w = *weight++;
      uint32_t d0 = rqdkm_load32(p), d1 = rqdkm_load32(p + g.px);
      uint32_t d2 = rqdkm_load32(p + 2 * g.px), d3 = rqdkm_load32(p + 3 * g.px);
      d0 = odd ? rqdkm_sxtb16_ror8(d0) : rqdkm_sxtb16(d0);
      d1 = odd ? rqdkm_sxtb16_ror8(d1) : rqdkm_sxtb16(d1);
      d2 = odd ? rqdkm_sxtb16_ror8(d2) : rqdkm_sxtb16(d2);
      d3 = odd ? rqdkm_sxtb16_ror8(d3) : rqdkm_sxtb16(d3);
      a0 = rqdkm_smlabb(d0, w, a0);
      b0 = rqdkm_smlatt(d0, w, b0);
      a1 = rqdkm_smlabb(d1, w, a1);
      b1 = rqdkm_smlatt(d1, w, b1);
      a2 = rqdkm_smlabb(d2, w, a2);
      b2 = rqdkm_smlatt(d2, w, b2);
      a3 = rqdkm_smlabb(d3, w, a3);
      b3 = rqdkm_smlatt(d3, w, b3);
    }
  }
  out[0] = rqdkm_dwd_output(a0, rest, 0, g);
  out[2] = rqdkm_dwd_output(b0, rest, 1, g);
  out[g.c] = rqdkm_dwd_output(a1, rest, 0, g);
  out[g.c + 2] = rqdkm_dwd_output(b1, rest, 1, g);
  out[2 * g.c] = rqdkm_dwd_output(a2, rest, 0, g);
  out[2 * g.c + 2] = rqdkm_dwd_output(b2, rest, 1, g);
  out[3 * g.c] = rqdkm_dwd_output(a3, rest, 0, g);
  out[3 * g.c + 2] = rqdkm_dwd_output(b3, rest, 1, g);
}

/* `rows` output rows of two channels. */
RQDKM_INLINE void rqdkm_dwd_pair(const int8_t *x, const uint32_t *table, int8_t *out, int32_t rows,
                                 rqdkm_dwd_geometry g, int32_t odd) {
#if RQDKM_DWD_ASM
  const int32_t w = g.w, c = g.c, kw = g.kw, taps = g.kh * g.kw, px = g.px, skip = g.skip, shift = g.shift;
  const int32_t row_step = g.row_step, column_step = g.column_step, form = g.form;
  /* a block of 4 takes about 5/4 of the time of a block of 3 */
  const int32_t block = w >= 4 && (w + 3) / 4 * 5 <= (w + 2) / 3 * 4 ? 4 : 3, rest = w % block;
  if (__builtin_constant_p(taps) && taps <= 9 && __builtin_constant_p(px) && __builtin_constant_p(w) &&
      __builtin_constant_p(skip) && __builtin_constant_p(shift) && __builtin_constant_p(row_step) &&
      __builtin_constant_p(column_step) && px * w <= 65535 && skip + 3 * px <= 65535 && 4 * c <= 4095 &&
      (g.kh - 1) * row_step + (g.kw - 1) * column_step + 3 * px <= 4095) {
    register const int8_t *r0 __asm("r0") = x;
    register const uint32_t *r1 __asm("r1") = table;
    register int8_t *r2 __asm("r2") = out;
    register int32_t r3 __asm("r3") = rows;
    if (odd) {
      if (block == 4) {
        DWD_FORMS(DWD_WIDE_TEXT, 4, ", ror #8")
      } else if (w >= 3) {
        DWD_FORMS(DWD_WIDE_TEXT, 3, ", ror #8")
      } else if (w == 2) {
        DWD_FORMS(DWD_NARROW_TEXT, 2, ", ror #8")
      } else {
        DWD_FORMS(DWD_NARROW_TEXT, 1, ", ror #8")
      }
    } else {
      if (block == 4) {
        DWD_FORMS(DWD_WIDE_TEXT, 4, "")
      } else if (w >= 3) {
        DWD_FORMS(DWD_WIDE_TEXT, 3, "")
      } else if (w == 2) {
        DWD_FORMS(DWD_NARROW_TEXT, 2, "")
      } else {
        DWD_FORMS(DWD_NARROW_TEXT, 1, "")
      }
    }
    return;
  }
#endif
  RQDKM_NO_UNROLL for (int32_t y = 0; y < rows; y++) {
    int32_t done = 0;
    RQDKM_NO_UNROLL for (; done + 4 <= g.w; done += 4) {
      rqdkm_dwd_block(x + done * g.px, table, out + done * g.c, g, odd);
    }
    RQDKM_NO_UNROLL for (; done < g.w; done++) rqdkm_dwd_pixel(x + done * g.px, table, out + done * g.c, g, odd);
    x += g.w * g.px + g.skip;
    out += g.w * g.c;
  }
}

/* `rows` output rows of one channel, byte by byte: the last C % 4 channels. */
RQDKM_INLINE void rqdkm_dwd_single(const int8_t *x, const uint32_t *table, int8_t *out, int32_t rows,
                                   rqdkm_dwd_geometry g) {
  const uint32_t *rest = table + RQDKM_DEPTHWISE_DIRECT_TAPS(g.kh * g.kw);
  RQDKM_NO_UNROLL for (int32_t y = 0; y < rows; y++) {
    RQDKM_NO_UNROLL for (int32_t col = 0; col < g.w; col++) {
      int32_t acc = (int32_t)rest[0];
      const uint32_t *weight = table;
      for (int32_t ky = 0; ky < g.kh; ky++) {
        const int8_t *p = x + col * g.px + ky * g.row_step;
        for (int32_t kx = 0; kx < g.kw; kx++, p += g.column_step) {
          acc = rqdkm_smlabb((uint32_t)(int32_t)*p, *weight++, acc);
        }
      }
      *out = rqdkm_dwd_output(acc, rest, 0, g);
      out += g.c;
    }
    x += g.w * g.px + g.skip;
  }
}

/* Copy `rows` rows of the padded input, starting at padded row `top`, with padding in place. */
RQDKM_INLINE void rqdkm_dwd_pad(const rqdkm_depthwise_direct_params *p, const int8_t *input, int32_t top, int32_t rows,
                                int32_t padded_w, int8_t *strip) {
  const int32_t c = p->input.c, left = p->padding.left * c;
  const int32_t fits = padded_w - p->padding.left, columns = p->input.w < fits ? p->input.w : fits;
  const int32_t right = (padded_w - p->padding.left - columns) * c;
  for (int32_t r = 0; r < rows; r++) {
    const int32_t y = top + r - p->padding.top;
    if (y < 0 || y >= p->input.h) {
      rqdkm_fill(strip, p->input_zero_point, padded_w * c);
      strip += padded_w * c;
      continue;
    }
    rqdkm_fill(strip, p->input_zero_point, left);
    strip += left;
    rqdkm_copy(strip, input + y * p->input.w * c, columns * c);
    strip += columns * c;
    rqdkm_fill(strip, p->input_zero_point, right);
    strip += right;
  }
}

/* The whole layer. scratch: see above. */
RQDKM_INLINE int32_t rqdkm_depthwise_direct_template(const rqdkm_depthwise_direct_params *params, const int8_t *input,
                                                     const uint32_t *table, int8_t *output, void *scratch) {
  const rqdkm_depthwise_direct_params p = *params;
  const int32_t padded = rqdkm_dwd_padded(&p), c = p.input.c,
                words = RQDKM_DEPTHWISE_DIRECT_WORDS(p.kernel.h * p.kernel.w);
  const int32_t row_pixels = padded ? rqdkm_dwd_extent(p.output.w, p.kernel.w, p.stride.w, p.dilation.w) : p.input.w;
  const rqdkm_dwd_geometry g = {.w = p.output.w,
                                .c = c,
                                .kh = p.kernel.h,
                                .kw = p.kernel.w,
                                .row_step = p.dilation.h * row_pixels * c,
                                .column_step = p.dilation.w * c,
                                .px = p.stride.w * c,
                                .skip = p.stride.h * row_pixels * c - p.output.w * p.stride.w * c,
                                .form = p.form,
                                .shift = p.right_shift};
  const int32_t strip_rows = padded ? p.rows : p.output.h;
  RQDKM_NO_UNROLL for (int32_t y = 0; y < p.output.h; y += strip_rows) {
    const int32_t rows = p.output.h - y < strip_rows ? p.output.h - y : strip_rows;
    const int8_t *x = input;
    if (padded) {
      rqdkm_dwd_pad(&p, input, y * p.stride.h, rqdkm_dwd_extent(rows, p.kernel.h, p.stride.h, p.dilation.h), row_pixels,
                    (int8_t *)scratch);
      x = (const int8_t *)scratch;
    }
    const uint32_t *constants = table;
    int8_t *out = output + y * p.output.w * c;
    int32_t channel = 0;
    RQDKM_NO_UNROLL for (; channel + 4 <= c; channel += 4) {
      rqdkm_dwd_pair(x + channel, constants, out + channel, rows, g, 0);
      rqdkm_dwd_pair(x + channel, constants + words, out + channel + 1, rows, g, 1);
      constants += 2 * words;
    }
    if (c % 4 != 0) {
      RQDKM_NO_UNROLL for (; channel < c; channel++) {
        rqdkm_dwd_single(x + channel, constants, out + channel, rows, g);
        constants += words;
      }
    }
  }
  if (p.clamp.min > INT8_MIN || p.clamp.max < INT8_MAX) {
    return rqdkm_clip_s8(p.clamp, p.output.h * p.output.w * c, output, output);
  }
  return RQDKM_OK;
}

/* The same as a library function, for run-time parameters. */
int32_t rqdkm_depthwise_direct(const rqdkm_depthwise_direct_params *params, const int8_t *input, const uint32_t *table,
                               int8_t *output, void *scratch);

/* What a per-layer wrapper calls: the template where compile-time constants pay (they make the asm), else the library
   function. */
RQDKM_INLINE int32_t rqdkm_depthwise_direct_layer(const rqdkm_depthwise_direct_params *params, const int8_t *input,
                                                  const uint32_t *table, int8_t *output, void *scratch) {
#if RQDKM_DWD_ASM
  return rqdkm_depthwise_direct_template(params, input, table, output, scratch);
#else
  return rqdkm_depthwise_direct(params, input, table, output, scratch);
#endif
}

#endif
